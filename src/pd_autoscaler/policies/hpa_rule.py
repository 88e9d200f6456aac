"""The rule of Kubernetes' horizontal pod autoscaler, as its controller computes it.

From kubernetes/kubernetes pkg/controller/podautoscaler: replica_calculator.go
(`calcPlainMetricReplicas`, `groupPods`) and horizontal.go
(`stabilizeRecommendationWithBehaviors`, `calculateScaleUpLimitWithScalingRules`). Like there,
values are whole thousandths.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

VALUE_MAX = 1e12
"""Values beyond are cut to it: thousandths are 64-bit numbers there."""


@dataclass(frozen=True, slots=True)
class Readings:
    """One metric of a role's nodes: the values of those that serve and tell, and who else there is.

    `missing` nodes serve and do not tell; `unready` ones are still coming.
    """

    values: tuple[float, ...]
    missing: int = 0
    unready: int = 0


@dataclass(frozen=True, slots=True)
class Proposal:
    """How many nodes a metric calls for, and the usage over its target that it was read from."""

    count: int
    ratio: float


def proposed(seen: Readings, *, target: float, current: int, tolerance: float) -> Proposal | None:
    """Return what a metric proposes: ceil(nodes x value / target), None if no node tells it.

    Nodes that do not tell it count as on target where it calls for fewer and as idle where it calls
    for more; so do unready ones where it calls for more, else they are left out. What then is near
    the target, or would turn the other way, keeps the count.
    """
    if not seen.values:
        return None
    values = [_milli(value) for value in seen.values]
    wanted = max(1, _milli(target))
    first = _ratio(values, wanted)
    if first > 1:
        values += [0] * (seen.missing + seen.unready)
    elif first < 1:
        values += [wanted] * seen.missing
    ratio = _ratio(values, wanted)
    count = max(0, math.ceil(ratio * len(values)))
    kept = Proposal(current, first)
    if 1 - tolerance <= ratio <= 1 + tolerance or (first - 1) * (ratio - 1) < 0:
        return kept
    # With every node counted the number of nodes that are there is what is multiplied.
    is_plain = len(values) == len(seen.values)
    if not is_plain and ((ratio < 1 and count > current) or (ratio > 1 and count < current)):
        return kept
    return Proposal(count, first)


def _milli(value: float) -> int:
    return round(min(max(value, -VALUE_MAX), VALUE_MAX) * 1000)


def _ratio(values: Sequence[int], target: int) -> float:
    return math.trunc(sum(values) / len(values)) / target


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How one direction is slowed: the window that must agree, and the most that may change.

    Of `percent` and `nodes` in `period_s` the one that allows more counts; 0 nodes is no rule.
    """

    window_s: float
    percent: float
    nodes: int
    period_s: float


@dataclass(slots=True)
class Scale:
    """One role's memory: what was recommended when, and how its count changed."""

    up: Pace
    down: Pace
    recommended: list[tuple[float, int]] = field(default_factory=list)
    changes: list[tuple[float, int]] = field(default_factory=list)

    def paced(self, wanted: int, *, current: int, now_s: float) -> int:
        """Return how far the count may go towards what is wanted, and remember what was."""
        if not self.recommended:
            # A controller that has just begun takes the count that it found for the first one.
            self.recommended.append((now_s, current))
        stable = self._stabilised(wanted, current=current, now_s=now_s)
        self.recommended.append((now_s, wanted))
        horizon_s = now_s - max(self.up.window_s, self.down.window_s)
        # The newest stays for the sake of a window of 0.
        self.recommended = [r for r in self.recommended[:-1] if r[0] > horizon_s] + [
            self.recommended[-1]
        ]
        if stable > current:
            return min(stable, max(current, self._highest(current, now_s)))
        return max(stable, min(current, self._lowest(current, now_s)))

    def changed(self, by: int, *, at_s: float) -> None:
        """Remember that the count changed."""
        horizon_s = at_s - max(self.up.period_s, self.down.period_s)
        self.changes = [*(row for row in self.changes if row[0] > horizon_s), (at_s, by)]

    def _stabilised(self, wanted: int, *, current: int, now_s: float) -> int:
        up = [n for at_s, n in self.recommended if at_s > now_s - self.up.window_s]
        down = [n for at_s, n in self.recommended if at_s > now_s - self.down.window_s]
        return min(max(current, min((*up, wanted))), max((*down, wanted)))

    def _highest(self, current: int, now_s: float) -> int:
        began = current - self._change(now_s, self.up.period_s)
        by_percent = math.ceil(began * (1 + self.up.percent / 100))
        return max(by_percent, began + self.up.nodes) if self.up.nodes else by_percent

    def _lowest(self, current: int, now_s: float) -> int:
        began = current - self._change(now_s, self.down.period_s)
        by_percent = math.trunc(began * (1 - self.down.percent / 100))
        return min(by_percent, began - self.down.nodes) if self.down.nodes else by_percent

    def _change(self, now_s: float, period_s: float) -> int:
        """Return the net change within a period: undone, it tells what the period began with."""
        return sum(by for at_s, by in self.changes if at_s > now_s - period_s)
