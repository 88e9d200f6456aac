"""Seen: what the published policies read from a snapshot, and how their answers are made.

They are shown what a real deployment of theirs would read: rates and mean lengths over a window,
queues and cache use of nodes. Numbers that no engine can mean are unknown.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import LEAVING, NodeState, Role
from pd_autoscaler.model.signals import Signal
from pd_autoscaler.model.snapshot import Snapshot

_VALUE_MAX = 1e9
"""More requests, tokens or seconds than any of these signals can have."""
_TICK_S = 1e-6
"""A cycle that comes this much early, by rounding, is in time."""


@dataclass(frozen=True, slots=True)
class Load:
    """Requests a second with their mean lengths in tokens; `computed` is the uncached input."""

    requests_per_s: float
    input_len: float
    computed: float
    output_len: float

    @property
    def context(self) -> float:
        """Tokens of a request in a batch at half of its mean output."""
        return self.input_len + self.output_len / 2


def value(*signals: Signal | None) -> float | None:
    """Return the first of these that is there and is a number an engine can mean."""
    for signal in signals:
        if signal is not None and 0 <= signal.value <= _VALUE_MAX:
            return signal.value
    return None


def load(snapshot: Snapshot) -> Load | Hold:
    """Return the load of the last window, or the refusal that it is unknown.

    Without requests there are no lengths, and they do not matter.
    """
    demand = snapshot.demand
    rate = value(snapshot.prompt.arrival_rate, demand.requests_per_s)
    asked = value(snapshot.prompt.input_len, demand.input_len)
    output = value(snapshot.decoder.output_len, demand.output_len)
    uncached = value(snapshot.prompt.uncached_share, demand.uncached_share)
    if rate is None:
        return Hold(HoldReason.NO_METRICS, "no prompt node says how many requests arrive")
    if rate and (asked is None or output is None):
        return Hold(HoldReason.NO_METRICS, "nothing says how long inputs and outputs are")
    asked, output = max(asked or 1.0, 1.0), max(output or 1.0, 1.0)
    computed = asked * (1.0 if uncached is None else min(uncached, 1.0))
    return Load(rate, asked, max(computed, 1.0), output)


def count(snapshot: Snapshot, role: Role, need: float) -> int:
    """Round a need up to whole nodes within the limits of a role, one at least."""
    least = max(1, snapshot.limits.min_of(role))
    most = max(least, snapshot.limits.max_of(role))
    if math.isnan(need):
        return least
    # What is whole but for rounding is not one more.
    return max(least, math.ceil(min(need, most) - 1e-9))


def fitted(snapshot: Snapshot, prompt: int, decoder: int, why: str) -> Target:
    """Return the counts, in proportion fewer where the fleet may not have so many nodes."""
    most = snapshot.limits.nodes_max
    if prompt + decoder > most >= 2:
        prompt = min(max(1, prompt * most // (prompt + decoder)), most - 1)
        decoder = most - prompt
    return Target(prompt, decoder, why)


def is_moving(snapshot: Snapshot) -> bool:
    """Whether nodes of any role are on their way in or out."""
    return any(
        snapshot.coming(role)
        or snapshot.count(role, *LEAVING, NodeState.SWITCHING)
        or snapshot.serving(role) != snapshot.target.of(role)
        for role in Role
    )


class Paced:
    """Decides every so many seconds, and stands by it in between.

    The first decision comes after a whole period: before it nothing was seen. Targets are repeated,
    as a guard may want to see them for some time; a refusal is not.
    """

    def __init__(self, period_s: float, rule: Callable[[Snapshot], Decision]) -> None:
        self._period_s = period_s
        self._rule = rule
        self._ran_at_s: float | None = None
        self._wanted: Target | None = None

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return the last decision, or a new one if it is time; a clock that goes back restarts."""
        now_s, last_s = snapshot.now_s, self._ran_at_s
        if last_s is None or now_s < last_s:
            self._ran_at_s = last_s = now_s
        if now_s >= last_s + self._period_s - _TICK_S:
            self._ran_at_s = now_s
            decided = self._rule(snapshot)
            self._wanted = None if isinstance(decided, Hold) else decided
            return decided
        if self._wanted is not None:
            return self._wanted
        return Hold(HoldReason.POLICY_HELD, f"decides every {self._period_s:g} s")
