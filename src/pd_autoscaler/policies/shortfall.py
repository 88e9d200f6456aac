"""Shortfall: what a role was seen to be too small for, so that it is not made so again.

A queue is no measure of room: it is empty until a node is full, then grows without end. Checks on
queues alone remove a node, see the queue grow, add it back, and begin again. Tokens per second and
node are the same before and after, so the rate at which a role fell short says how few are too few.
"""

from pd_autoscaler.model.node import Role
from pd_autoscaler.model.snapshot import Bottleneck, Snapshot


class Shortfall:
    """The tokens per second and node at which each role last fell short; unknown at the start."""

    def __init__(self, headroom: float) -> None:
        self._headroom = headroom
        self._rates: dict[Role, float] = {}
        self._is_short: dict[Role, bool] = {}

    def saw(self, snapshot: Snapshot, role: Role, *, is_short: bool) -> None:
        """Learn from one cycle; a role held up by the other side or by links teaches nothing."""
        rate = _token_rate_per_node(snapshot, role)
        was_short = self._is_short.get(role, False)
        self._is_short[role] = is_short
        if rate is None or (is_short and _is_held_up(snapshot, role)):
            return
        known = self._rates.get(role)
        if is_short:
            # A rate over a window lags behind a step of load: within one shortfall the highest
            # counts, between two the later one, as the shape of requests changes.
            self._rates[role] = max(rate, known or 0.0) if was_short else rate
        elif known is not None:
            self._rates[role] = max(rate, known)

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
    if signals.token_rate is None or signals.fresh == 0:
        return None
    return signals.token_rate.value / signals.fresh


def _is_held_up(snapshot: Snapshot, role: Role) -> bool:
    at_fault = snapshot.attribution.bottleneck
    return at_fault is Bottleneck.LINK or (role is Role.PROMPT and at_fault is Bottleneck.DECODER)
