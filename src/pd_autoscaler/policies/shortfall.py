"""Shortfall: what a role was seen to be too small for, so that it is not made so again.

A queue is no measure of room: it is empty until a node is full, then grows without end. Checks on
queues alone remove a node, see the queue grow, add it back, and begin again. Tokens per second and
node are the same before and after, so the rate at which a role fell short says how few are too few.
"""

import math

from pd_autoscaler.model.node import Role
from pd_autoscaler.model.snapshot import Bottleneck, Snapshot

FORGET_S = 120.0
"""Seconds of one shortfall after which a higher rate is no longer believed: several windows."""


class Shortfall:
    """The tokens per second and node at which each role last fell short; unknown at the start."""

    def __init__(self, headroom: float) -> None:
        self._headroom = headroom
        self._rates: dict[Role, float] = {}
        self._seen: dict[Role, tuple[tuple[float, float], ...]] = {}

    def saw(self, snapshot: Snapshot, role: Role, *, is_short: bool) -> None:
        """Learn from one cycle; a role held up by the other side or by links teaches nothing."""
        if not is_short:
            # Of two shortfalls the later one counts, as the shape of requests changes.
            self._seen.pop(role, None)
        rate = _token_rate_per_node(snapshot, role)
        if rate is None or (is_short and _is_held_up(snapshot, role)):
            return
        if is_short:
            self._rates[role] = self._highest_of_late(role, rate, now_s=snapshot.now_s)
        elif role in self._rates:
            self._rates[role] = max(rate, self._rates[role])

    def _highest_of_late(self, role: Role, rate: float, *, now_s: float) -> float:
        """Return the highest rate of a shortfall: one over a window lags behind a step of load.

        What a role does while it is short is all that it can do. A higher rate is forgotten: an odd
        page that showed one would keep the role from growing for as long as it is short.
        """
        late = [row for row in self._seen.get(role, ()) if now_s - row[0] <= FORGET_S]
        self._seen[role] = (*late, (now_s, rate))
        return max(rate for _, rate in self._seen[role])

    def obstacle(self, snapshot: Snapshot, role: Role, *, nodes: int) -> str:
        """Say why `nodes` of a role would not carry today's tokens; empty if they may."""
        signals = snapshot.of(role)
        known, rate = self._rates.get(role), _token_rate_per_node(snapshot, role)
        if known is None or rate is None:
            return ""
        wanted = rate * signals.fresh / nodes
        if wanted <= self._headroom * known:
            return ""
        return f"{nodes} {role} would do {wanted:.0f} tokens/s each, short at {known:.0f}"

    def drains(self, snapshot: Snapshot, *, within_s: float) -> str:
        """Say in how many seconds the prompt queue will be gone as it is; empty if not so soon.

        Capacity is what was seen at the last shortfall, demand is read where requests enter. Adding
        nodes for a queue that present ones are working off would end in far too many.
        """
        prompt, known = snapshot.prompt, self._rates.get(Role.PROMPT)
        if known is None or not (prompt.queue and prompt.arrival_rate and prompt.input_len):
            return ""
        spare = known * prompt.fresh - prompt.arrival_rate.value * prompt.input_len.value
        backlog = prompt.queue.value * prompt.input_len.value
        # Written so that a NaN does not pass for a queue that drains.
        if not (spare > 0 and backlog <= spare * within_s):
            return ""
        return f"the queue will be gone in {backlog / spare:.0f} s"


def _token_rate_per_node(snapshot: Snapshot, role: Role) -> float | None:
    signals = snapshot.of(role)
    rate = signals.token_rate
    if rate is None or signals.fresh == 0 or not math.isfinite(rate.value):
        return None
    # A sum over some of the nodes, shared by all of them, would be too low for each.
    return rate.value / (rate.nodes or signals.fresh)


def _is_held_up(snapshot: Snapshot, role: Role) -> bool:
    at_fault = snapshot.attribution.bottleneck
    return at_fault is Bottleneck.LINK or (role is Role.PROMPT and at_fault is Bottleneck.DECODER)
