"""Tuning: the parameters of a policy that cost least on one part of a trace, judged on the other.

What is minimised is node-hours x max(1, misses / misses allowed) ** 2, where misses are the share
of requests outside the latency targets. At or above the wanted attainment that is the cost alone.
Below it the price rises at once and without a jump: with twice the misses allowed a node-hour
counts four times, so that no saving on the front of a policy pays for a miss.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.workload.arrivals import Arrivals
from pd_autoscaler.workload.reshaping import between

if TYPE_CHECKING:
    import optuna

Params = Mapping[str, object]

OVER_FITTED_BY = 0.02
"""A loss on the held-out part that is higher by this share than the default's is over-fitting."""
DIGITS = 4
"""Significant digits of the values that are tried."""


class Part(StrEnum):
    """A part of a trace: the first is tuned on, the second shows what that is worth."""

    TUNED = "tuned"
    HELD_OUT = "held_out"


class Outcome(Protocol):
    """What a run of a policy cost, and the share of requests that met both latency targets."""

    @property
    def node_hours(self) -> float:
        """Node-hours of both roles."""
        ...

    @property
    def attainment(self) -> float:
        """From 0 to 1."""
        ...


Evaluate = Callable[[Params, Part], Outcome]
"""Runs a policy with these parameters over a part; raises ConfigError where it refuses them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """A parameter to be tuned, and its range, both ends included.

    Raises ConfigError for a range that is empty, or logarithmic and not above 0.
    """

    name: str
    low: float
    high: float
    is_integer: bool = False
    is_log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ConfigError(
                f"the range of {self.name} is {self.low:g}..{self.high:g}: "
                f"the first number must be below the second"
            )
        if self.is_log and self.low <= 0:
            raise ConfigError(f"the range of {self.name} is logarithmic: it must be above 0")

    def holds(self, value: object) -> bool:
        """Whether a value lies in the range."""
        return isinstance(value, int | float) and self.low <= value <= self.high


def dimension_of(text: str) -> Dimension:
    """Read `name=low..high`; two whole numbers make a parameter of whole numbers.

    Raises ConfigError for anything else.
    """
    name, is_named, span = text.partition("=")
    low, is_span, high = span.partition("..")
    try:
        if not (name.strip() and is_named and is_span):
            raise ValueError(text)
        return Dimension(
            name=name.strip(),
            low=float(low),
            high=float(high),
            is_integer=all(end.strip().lstrip("+-").isdigit() for end in (low, high)),
        )
    except ValueError as error:
        raise ConfigError(
            f"{text!r} is no range: write name=low..high, such as headroom=0.6..0.95"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Parameters that were tried on the tuned part: what came of it, and the loss."""

    params: Params
    outcome: Outcome
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One set of parameters on both parts."""

    params: Params
    outcomes: Mapping[Part, Outcome]
    losses: Mapping[Part, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The default parameters beside the tuned ones, and what that says in words."""

    default: Judged
    tuned: Judged
    words: str
    is_over_fitted: bool


def loss_of(outcome: Outcome, attainment_min: float) -> float:
    """Return what tuning minimises: see the module's formula."""
    over = (1.0 - outcome.attainment) / (1.0 - attainment_min)
    return outcome.node_hours * max(1.0, over) ** 2


class Search:
    """A search of a policy's parameters, trial by trial: stop it when you like, the best stays.

    The same seed, ranges and outcomes give the same trials. `default` are the parameters that the
    search starts from and is compared with. Raises ConfigError for an attainment that leaves no
    misses to allow, or without a dimension.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        dimensions: Sequence[Dimension],
        *,
        default: Params,
        attainment_min: float,
        seed: int,
    ) -> None:
        import optuna  # noqa: PLC0415  # Slow to import, and an extra.

        if not dimensions:
            raise ConfigError("there is no parameter to tune: name one with its range")
        if not 0 <= attainment_min < 1:
            raise ConfigError(
                f"an attainment of {attainment_min:g} allows no miss: give one below 1"
            )
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._evaluate, self._dimensions = evaluate, tuple(dimensions)
        self._default, self._attainment_min = dict(default), attainment_min
        self._refused = optuna.trial.TrialState.FAIL
        self._study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        self._known: dict[tuple[object, ...], Trial | ConfigError] = {}
        self.best: Trial | None = None
        start = {d.name: default[d.name] for d in dimensions if d.holds(default.get(d.name))}
        if len(start) == len(self._dimensions):
            self._study.enqueue_trial(start)

    def trials(self, count: int) -> Iterator[Trial]:
        """Try so many more sets of parameters and yield each; those that are refused are passed.

        Raises the ConfigError of the policy if it refused all of them.
        """
        refusal: ConfigError | None = None
        for _ in range(count):
            asked = self._study.ask()
            params = {**self._default, **{d.name: _drawn(asked, d) for d in self._dimensions}}
            tried = self._tried(params)
            if isinstance(tried, ConfigError):
                refusal = tried
                self._study.tell(asked, state=self._refused)
                continue
            self._study.tell(asked, tried.loss)
            if self.best is None or tried.loss < self.best.loss:
                self.best = tried
            yield tried
        if self.best is None and refusal is not None:
            raise refusal

    def verdict(self) -> Verdict:
        """Judge the best so far beside the default on both parts.

        Raises ConfigError if nothing has been tried.
        """
        if self.best is None:
            raise ConfigError("nothing was tried yet: there is no best to judge")
        default, tuned = self._judged(self._default), self._judged(self.best.params)
        words, is_over_fitted = _words(default, tuned, self._attainment_min)
        return Verdict(default=default, tuned=tuned, words=words, is_over_fitted=is_over_fitted)

    def _tried(self, params: Params) -> Trial | ConfigError:
        """Evaluate parameters, or recall what came of them: whole numbers are soon drawn again."""
        key = tuple(params.get(dimension.name) for dimension in self._dimensions)
        if key not in self._known:
            try:
                outcome = self._evaluate(params, Part.TUNED)
            except ConfigError as error:
                self._known[key] = error
            else:
                loss = loss_of(outcome, self._attainment_min)
                self._known[key] = Trial(params=params, outcome=outcome, loss=loss)
        return self._known[key]

    def _judged(self, params: Params) -> Judged:
        tried = self._tried(params)
        if isinstance(tried, ConfigError):
            raise tried
        outcomes = {Part.TUNED: tried.outcome, Part.HELD_OUT: self._evaluate(params, Part.HELD_OUT)}
        losses = {part: loss_of(found, self._attainment_min) for part, found in outcomes.items()}
        return Judged(params=params, outcomes=outcomes, losses=losses)


def split(arrivals: Arrivals, held_out: float) -> dict[Part, Arrivals]:
    """Cut a trace in time: the last `held_out` of its span is held out and begins at 0 again.

    Raises ConfigError if the share is not between 0 and 1, or a part is left with one request.
    """
    if not 0 < held_out < 1:
        raise ConfigError(f"held-out is {held_out:g}: give a share between 0 and 1")
    cut_s = arrivals.span_s * (1 - held_out)
    if not cut_s:
        raise ConfigError("the trace is of one moment: it cannot be cut in time")
    parts = {Part.TUNED: between(arrivals, 0.0, cut_s), Part.HELD_OUT: between(arrivals, cut_s)}
    for part, cut in parts.items():
        if len(cut) < 2:
            name = part.replace("_", " ")
            raise ConfigError(
                f"cut at {cut_s:g} s, the part that is {name} has {len(cut)} request: "
                f"give a longer trace, or hold out another share"
            )
    return parts


def _drawn(trial: "optuna.Trial", dimension: Dimension) -> float | int:
    d = dimension
    if d.is_integer:
        return trial.suggest_int(d.name, int(d.low), int(d.high), log=d.is_log)
    exact = trial.suggest_float(d.name, d.low, d.high, log=d.is_log)
    # What is tried is what a person would write into the settings.
    return min(max(float(f"{exact:.{DIGITS}g}"), d.low), d.high)


def _words(default: Judged, tuned: Judged, attainment_min: float) -> tuple[str, bool]:
    """Say what tuning was worth on the part it has not seen, and whether it was over-fitting."""
    if tuned.params == default.params:
        return "No parameters were better than the default ones: keep those.", False
    seen = (
        f"held out, the tuned parameters take {_told(tuned)} and the default ones {_told(default)}"
    )
    before, after = default.losses[Part.HELD_OUT], tuned.losses[Part.HELD_OUT]
    if after > before * (1 + OVER_FITTED_BY):
        return f"Over-fitted: {seen}. Keep the default, or tune on more of the trace.", True
    gain = "better" if after < before * (1 - OVER_FITTED_BY) else "no better"
    short = tuned.outcomes[Part.HELD_OUT].attainment < attainment_min
    warning = f" The {attainment_min:.1%} wanted is not reached there." if short else ""
    return f"The tuned parameters are {gain} on what they have not seen: {seen}.{warning}", False


def _told(judged: Judged) -> str:
    outcome = judged.outcomes[Part.HELD_OUT]
    return f"{outcome.node_hours:.2f} node-hours at {outcome.attainment:.2%}"
