"""Measurements of an engine, and how well a profile repeats them; without numpy."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple, TypeVar

from pd_autoscaler.engine_model.profile import EngineProfile


class Batch(NamedTuple):
    """One prefill: tokens in all, the sum of the squares of the prompts' lengths, seconds."""

    tokens: float
    squares: float
    seconds: float


class Step(NamedTuple):
    """One decode step: requests, tokens of context they hold together, seconds."""

    requests: float
    context_tokens: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one engine: medians, each of `rows` rows in all of its kind."""

    batches: tuple[Batch, ...]
    steps: tuple[Step, ...]
    batch_rows: int
    step_rows: int


@dataclass(frozen=True, slots=True)
class Compared:
    """One measurement beside the profile's own answer, in seconds, and what was measured."""

    part: str
    what: str
    measured_s: float
    profile_s: float

    @property
    def error(self) -> float:
        """The relative error of the profile, signed: above 0 it is slower than the engine."""
        return self.profile_s / self.measured_s - 1


@dataclass(frozen=True, slots=True)
class Quality:
    """How well one part (prefill, decode) was met: rows, and relative errors without sign."""

    part: str
    rows: int
    median_error: float
    p90_error: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """A profile from measurements: what it was compared with, and fields that were not fitted.

    `taken` says by field why it is the base profile's.
    """

    profile: EngineProfile
    compared: tuple[Compared, ...]
    qualities: tuple[Quality, ...]
    taken: dict[str, str]


Point = TypeVar("Point", Batch, Step)


def medians(points: Iterable[Point], make: Callable[[float, float, float], Point]) -> list[Point]:
    """Return one point for all that were measured alike, in order, with their median time."""
    alike: defaultdict[tuple[float, float], list[float]] = defaultdict(list)
    for point in points:
        alike[point[0], point[1]].append(point.seconds)
    return [make(*key, median(seconds)) for key, seconds in sorted(alike.items())]


def compared(profile: EngineProfile, measured: Measured) -> tuple[Compared, ...]:
    """Put every measurement beside the profile's own answer."""
    batches = [
        Compared(
            "prefill",
            f"{batch.tokens:.0f} tokens, prompts of {batch.squares / batch.tokens:.0f}",
            batch.seconds,
            profile.prefill_s(round(batch.tokens), batch.squares),
        )
        for batch in measured.batches
    ]
    steps = [
        Compared(
            "decode",
            f"batch of {step.requests:.3g}, {step.context_tokens:.0f} tokens held",
            step.seconds,
            profile.decode_base_s
            + profile.decode_per_request_s * step.requests
            + profile.decode_per_token_s * step.context_tokens,
        )
        for step in measured.steps
    ]
    return (*batches, *steps)


def qualities(rows: Sequence[Compared], measured: Measured) -> tuple[Quality, ...]:
    """Sum the errors up, by part; a part without measurement has none."""
    counts = {"prefill": measured.batch_rows, "decode": measured.step_rows}
    found = []
    for part, count in counts.items():
        errors = sorted(abs(row.error) for row in rows if row.part == part)
        if errors:
            # The nearest rank: of few measurements the worst is the 90th percentile.
            p90 = errors[-(-9 * len(errors) // 10) - 1]
            found.append(Quality(part, count, median(errors), p90))
    return tuple(found)
