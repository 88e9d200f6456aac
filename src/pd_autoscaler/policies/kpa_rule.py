"""The rule of Knative's pod autoscaler, as it computes it.

From knative/serving pkg/autoscaler/scaling/autoscaler.go (`New`, `Scale`): two averages of the
concurrency, a stable and a panic one, and a mode in which nothing goes.
"""

import math
from dataclasses import dataclass, field

COUNT_MAX = 1e9
"""Counts beyond are cut to it; limits of a fleet come far below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The settings of one role; units as in `KpaParams`, the thresholds are ratios."""

    stable_s: float
    panic_s: float
    panic_threshold: float
    up_rate_max: float
    down_rate_max: float
    down_delay_s: float


@dataclass(frozen=True, slots=True)
class Answer:
    """How many nodes are wanted, and the averages and the mode that it was read from."""

    count: int
    stable: float
    panic: float
    is_panicking: bool


@dataclass(slots=True)
class Autoscaler:
    """One role's memory: samples of its concurrency, its panic, and what was wanted of late.

    `panicked_at_s` is when the load was last seen to be over the panic threshold, None outside of
    panic; a fleet of several nodes begins in it, as nothing is known of the load before.
    """

    rule: Rule
    panicked_at_s: float | None = None
    panic_count: int = 0
    _samples: list[tuple[float, float]] = field(default_factory=list)
    _wanted: list[tuple[float, int]] = field(default_factory=list)
    _has_begun: bool = False

    def began(self, *, ready: int, now_s: float) -> None:
        """Begin in panic with the nodes that are there, if they are more than one; once."""
        if self._has_begun:
            return
        self._has_begun = True
        if ready > 1:
            self.panicked_at_s, self.panic_count = now_s, ready

    def scaled(
        self, concurrency: float | None, *, ready: int, target: float, now_s: float
    ) -> Answer | None:
        """Return the answer to one more sample, None while there is none in the stable window.

        `concurrency` is that of all `ready` nodes, None where nobody tells it; `target` is that of
        one node.
        """
        rule = self.rule
        if concurrency is not None:
            self._samples.append((now_s, concurrency))
        self._samples = [row for row in self._samples if row[0] > now_s - rule.stable_s]
        if not self._samples:
            return None
        stable = _mean([value for _, value in self._samples])
        # Between two cycles further apart than the panic window its newest sample is all it has.
        late = [value for at_s, value in self._samples if at_s > now_s - rule.panic_s]
        panic = _mean(late or [self._samples[-1][1]])
        return Answer(
            self._delayed(self._count(stable, panic, max(1, ready), target, now_s), now_s),
            stable,
            panic,
            is_panicking=self.panicked_at_s is not None,
        )

    def _count(self, stable: float, panic: float, ready: int, target: float, now_s: float) -> int:
        rule = self.rule
        most = math.ceil(rule.up_rate_max * ready)
        least = math.floor(ready / rule.down_rate_max)
        for_stable, for_panic = _nodes(stable, target), _nodes(panic, target)
        is_over = for_panic / ready >= rule.panic_threshold
        if is_over:
            self.panicked_at_s = now_s
        elif self.panicked_at_s is not None and self.panicked_at_s + rule.stable_s < now_s:
            self.panicked_at_s, self.panic_count = None, 0
        count = min(max(for_stable, least), most)
        if self.panicked_at_s is None:
            return count
        self.panic_count = max(self.panic_count, count, min(max(for_panic, least), most))
        return self.panic_count

    def _delayed(self, count: int, now_s: float) -> int:
        delay_s = self.rule.down_delay_s
        self._wanted = [row for row in self._wanted if row[0] > now_s - delay_s]
        self._wanted.append((now_s, count))
        return max(wanted for _, wanted in self._wanted) if delay_s else count


def _nodes(concurrency: float, target: float) -> int:
    return math.ceil(min(max(concurrency, 0.0) / target, COUNT_MAX))


def _mean(values: list[float]) -> float:
    return sum(value / len(values) for value in values)
