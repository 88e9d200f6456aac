"""How long the parts of a simulated link take."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkTiming:
    """What the collective-communication layer would cost, in seconds of real time.

    A link takes `init_s`, one at a time in a process, then `prepare_s`, all at once. The library
    rounds a time-out up to whole seconds for the second part: `rounding_s` is that second, and
    tests shrink it. `bandwidth_byte_per_s` is how fast this end serves one pull; None is at once.
    """

    init_s: float = 0.0
    prepare_s: float = 0.0
    rounding_s: float = 1.0
    bandwidth_byte_per_s: float | None = None

    def prepare_budget_s(self, timeout_ms: int) -> float:
        """Return how long preparing may take under a call's time-out, rounded up."""
        # Without the inner rounding 300 ms of 0.1 s units would be four of them.
        return math.ceil(round(timeout_ms / 1000 / self.rounding_s, 6)) * self.rounding_s

    def transfer_s(self, byte_count: int) -> float:
        """Return how long this end takes to serve that many bytes."""
        return 0.0 if self.bandwidth_byte_per_s is None else byte_count / self.bandwidth_byte_per_s
