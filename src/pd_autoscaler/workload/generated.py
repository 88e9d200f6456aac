"""Generated workload: a demonstration whose mix shifts, so that both roles have to move."""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.workload.request import Request

_LENGTH_SIGMA = 0.5
"""Spread of token counts: log-normal, mean as the phase says, capped at four times that."""

_LENGTH_CAP = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of constant load: its seconds, requests per second, and mean token counts."""

    name: str
    for_s: float
    request_per_s: float
    input_tokens: float
    output_tokens: float

    @property
    def prompt_token_per_s(self) -> float:
        """Prompt tokens offered per second."""
        return self.request_per_s * self.input_tokens

    @property
    def output_token_per_s(self) -> float:
        """Output tokens offered per second."""
        return self.request_per_s * self.output_tokens


DEMO = (
    Phase(name="calm", for_s=15, request_per_s=3, input_tokens=600, output_tokens=80),
    Phase(name="input-heavy burst", for_s=40, request_per_s=6, input_tokens=2000, output_tokens=40),
    Phase(name="output-heavy", for_s=45, request_per_s=6, input_tokens=250, output_tokens=260),
    Phase(name="calm again", for_s=20, request_per_s=3, input_tokens=600, output_tokens=80),
)
"""Two minutes for prompt nodes of about 5,000 prompt tokens a second and decoders of about 670
output tokens a second: the burst asks for about three prompt nodes, the shift after it for about
three decoders."""


def generated(for_s: float, seed: int, *, phases: Sequence[Phase] = DEMO) -> Iterator[Request]:
    """Yield Poisson arrivals through the phases, over and over, until `for_s` seconds are over.

    `for_s` may be infinite. The same seed gives the same requests. Raises ConfigError for phases
    without load or length.
    """
    if not phases:
        raise ConfigError("the workload has no phase: give at least one")
    for phase in phases:
        sizes = (phase.for_s, phase.request_per_s, phase.input_tokens, phase.output_tokens)
        if not all(math.isfinite(size) and size > 0 for size in sizes):
            raise ConfigError(f"phase {phase.name!r}: every number must be finite and above 0")
    return _arrivals(for_s, random.Random(seed), phases)  # noqa: S311  # A workload, not a secret.


def _arrivals(for_s: float, draw: random.Random, phases: Sequence[Phase]) -> Iterator[Request]:
    begin_s = 0.0
    for phase in cycle(phases):
        end_s = min(begin_s + phase.for_s, for_s)
        at_s = begin_s + draw.expovariate(phase.request_per_s)
        while at_s < end_s:
            yield Request(
                at_s, _length(phase.input_tokens, draw), _length(phase.output_tokens, draw)
            )
            at_s += draw.expovariate(phase.request_per_s)
        begin_s += phase.for_s
        if begin_s >= for_s:
            return


def _length(mean: float, draw: random.Random) -> int:
    # exp(mu + sigma²/2) is the mean of a log-normal variable.
    mu = math.log(mean) - _LENGTH_SIGMA**2 / 2
    return max(1, round(min(draw.lognormvariate(mu, _LENGTH_SIGMA), _LENGTH_CAP * mean)))
