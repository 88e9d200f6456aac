"""throughput-match: the ratio at which both roles end as many requests, under a fixed budget.

The rule of MindIE-Motor and of DOPD for clusters that only switch roles: with n prompt nodes that
take p requests a second each and m decoders that take d, the most that goes through both is
min(n p, m d), and giving each node of the budget to the side that takes less so far is the best
split of whole nodes (MindIE-Motor, ProportionCalculator.cpp; DOPD, planner_dopd.py). Rates are
those of learnt capacities, or of the `capacity` settings, at the mean lengths since the last
choice.

The total is never this rule's to change. It is the `nodes` given, or what stood at the first cycle:
the standing target is in between two totals while a node changes its role.
"""

import math
from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator

from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.snapshot import Limits, Snapshot
from pd_autoscaler.policies.contract import Params, PolicySpec
from pd_autoscaler.policies.node_rates import (
    Lengths,
    RequestRates,
    lengths,
    positive,
    request_rates,
)


class ThroughputMatchParams(Params):
    """The budget, how often it is split anew, and what full means."""

    nodes: int | None = Field(default=None, ge=2)
    """Nodes of both roles together; null is what stood when the policy began."""
    period_s: float = Field(default=3600.0, ge=60)
    """Seconds between two choices: 3600 is hourly, 86400 daily (MindIE-Motor's default)."""
    watch_s: float = Field(default=600.0, ge=0)
    """Seconds of requests that the first choice is made from."""
    tpot_s: float = Field(default=0.050, gt=0, le=10)
    """Seconds per output token at which a decoder is full."""

    @model_validator(mode="after")
    def _first_is_no_later(self) -> Self:
        if self.watch_s > self.period_s:
            raise ValueError(
                f"watch_s ({self.watch_s:g}) must not be above period_s ({self.period_s:g}); else "
                f"the first choice would come later than the second"
            )
        return self


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What was chosen, when, and the reason."""

    at_s: float
    rates: RequestRates
    shown: str


class ThroughputMatch:
    """Splits a fixed number of nodes between the roles, once in a period."""

    def __init__(self, params: ThroughputMatchParams) -> None:
        self._params = params
        self._mean = MeanLengths()
        self._total: int | None = params.nodes
        self._chosen: _Chosen | None = None
        self._due_s: float | None = None

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return the split that was chosen last, or say what is awaited for the first."""
        now_s = snapshot.now_s
        self._total = self._total or snapshot.target.total
        if self._due_s is None:
            self._due_s = now_s + self._params.watch_s
        self._mean.saw(snapshot)
        obstacle = ""
        if now_s >= self._due_s:
            obstacle = self._choose(snapshot)
        if self._chosen is None:
            if obstacle:
                return Hold(HoldReason.NO_METRICS, obstacle)
            left_s = self._due_s - now_s
            return Hold(HoldReason.POLICY_HELD, f"{left_s:.0f} s of requests left to watch")
        total = min(self._total, snapshot.limits.nodes_max)
        split = matched(total, self._chosen.rates, snapshot.limits)
        next_s = max(0.0, self._due_s - now_s)
        when = f"chosen {now_s - self._chosen.at_s:.0f} s ago, next in {next_s:.0f} s"
        late = f"; overdue: {obstacle}" if obstacle else ""
        why = f"{split} of {total} nodes: {self._chosen.shown}; {when}{late}"
        return Target(split.prompt, split.decoder, why)

    def _choose(self, snapshot: Snapshot) -> str:
        """Choose from what was seen since the last choice; say why not, empty if it was done."""
        mean = self._mean.mean
        rates = request_rates(snapshot, mean, tpot_s=self._params.tpot_s)
        if rates is None:
            return _missing(mean)
        shown = (
            f"a prompt node takes {rates.prompt:.3g} requests/s, a decoder {rates.decoder:.3g}, at "
            f"{mean.computed:.0f} tokens computed and {mean.output:.0f} generated"
        )
        self._chosen = _Chosen(snapshot.now_s, rates, shown)
        self._due_s = snapshot.now_s + self._params.period_s
        self._mean = MeanLengths()
        return ""


def _missing(mean: Lengths) -> str:
    if mean.computed is None or mean.output is None:
        return "no lengths of requests were seen"
    return (
        "what a node can do is not learnt; nodes teach it when they are busy, or the capacity "
        "settings say it"
    )


class MeanLengths:
    """Mean lengths over the cycles seen, each weighted by the requests that came in it."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def saw(self, snapshot: Snapshot) -> None:
        """Take in the lengths of one cycle, as far as they are known."""
        told = lengths(snapshot.demand)
        # Idle cycles repeat the lengths of the last requests: they weigh nothing.
        rate = snapshot.demand.requests_per_s
        weight = 1.0 if rate is None else positive(rate)
        if weight is None:
            return
        values = {"computed": told.computed, "context": told.context, "output": told.output}
        for name, value in values.items():
            if value is not None and math.isfinite(value):
                total, weights = self._sums.get(name, (0.0, 0.0))
                self._sums[name] = (total + weight * value, weights + weight)

    @property
    def mean(self) -> Lengths:
        """The means; None is what no cycle told."""
        return Lengths(**{name: total / weights for name, (total, weights) in self._sums.items()})


def matched(total: int, rates: RequestRates, limits: Limits) -> Target:
    """Split a number of nodes so that the slower side takes the most requests it can.

    One by one they go to the side that takes less so far, within the limits of each role.
    """
    counts = {role: max(1, limits.min_of(role)) for role in Role}
    each = {Role.PROMPT: rates.prompt, Role.DECODER: rates.decoder}
    for _ in range(total - sum(counts.values())):
        free = [role for role in Role if counts[role] < limits.max_of(role)]
        if not free:
            break
        counts[min(free, key=lambda role: counts[role] * each[role])] += 1
    return Target(counts[Role.PROMPT], counts[Role.DECODER])


SPEC = PolicySpec(params=ThroughputMatchParams, build=ThroughputMatch)
