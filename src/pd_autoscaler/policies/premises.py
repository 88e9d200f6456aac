"""Premises: what must hold before a policy may conclude anything about a role."""

import math
from collections.abc import Iterable, Sequence

from pd_autoscaler.model.decision import Hold, HoldReason
from pd_autoscaler.model.node import LEAVING, Node, NodeState, Role
from pd_autoscaler.model.signals import NodeSignals, Signal
from pd_autoscaler.model.snapshot import Snapshot

DOUBTS_SHOWN = 2
"""Nodes of which a refusal says why they are not fresh; the others mostly have the same trouble."""


def serving_nodes(snapshot: Snapshot, role: Role) -> Sequence[Node]:
    """Return the serving nodes of a role, in the snapshot's order."""
    return snapshot.nodes_in(role, NodeState.SERVING)


def fresh_signals(snapshot: Snapshot, role: Role) -> list[NodeSignals]:
    """Return the signals of the serving nodes of a role that are fresh."""
    known = snapshot.node_signals
    signals = [known.get(node.id) for node in serving_nodes(snapshot, role)]
    return [s for s in signals if s is not None and s.is_fresh]


def known(signals: Iterable[Signal | None]) -> tuple[float, ...]:
    """Return the values that are there and are numbers: no engine's NaN or infinity is a load."""
    return tuple(s.value for s in signals if s is not None and math.isfinite(s.value))


def untold(signals: Sequence[Signal | None], role: Role, name: str) -> str:
    """Say how many fresh nodes do not tell a load, empty if all do.

    A load that is not told is no load of zero: without it nobody knows what fewer nodes must carry.
    """
    silent = len(signals) - len(known(signals))
    return f"{silent} of {_nodes(len(signals), role)} not telling {name}" if silent else ""


def blindness(snapshot: Snapshot, role: Role) -> Hold | None:
    """Return the refusal that a role seen too badly calls for, None if it is seen well enough."""
    serving = serving_nodes(snapshot, role)
    if not serving:
        return Hold(HoldReason.NO_METRICS, f"no {role} node serves")
    fresh = len(fresh_signals(snapshot, role))
    if fresh and fresh >= snapshot.limits.fresh_quorum * len(serving):
        return None
    told = f"{fresh} of {_nodes(len(serving), role)} fresh{_doubts(snapshot, serving)}"
    if fresh:
        return Hold(HoldReason.PARTIAL_METRICS, told)
    signals = (snapshot.node_signals.get(node.id) for node in serving)
    if all(s is None or s.age_s is None for s in signals):
        return Hold(HoldReason.NO_METRICS, f"no {role} node ever answered")
    return Hold(HoldReason.STALE_METRICS, told)


def _doubts(snapshot: Snapshot, serving: Sequence[Node]) -> str:
    """Say why the first nodes are not believed: their pages may be new and yet stand still."""
    signals = (snapshot.node_signals.get(node.id) for node in serving)
    doubts = [f"{s.node_id}: {s.doubt}" for s in signals if s is not None and s.doubt]
    more = "; …" if len(doubts) > DOUBTS_SHOWN else ""
    return f" ({'; '.join(doubts[:DOUBTS_SHOWN])}{more})" if doubts else ""


class Settling:
    """Remembers when each role's standing target moved, to tell a fleet that has arrived.

    Signals look back over a window; what they say right after a change is about the fleet before.
    """

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._targets: dict[Role, int] = {}
        self._moved_at_s: dict[Role, float] = {}

    def saw(self, snapshot: Snapshot) -> None:
        """Take in this cycle's standing target; the first one counts as long settled."""
        for role in Role:
            count = snapshot.target.of(role)
            if self._targets.get(role, count) != count:
                self._moved_at_s[role] = snapshot.now_s
            self._targets[role] = count

    def obstacle_up(self, snapshot: Snapshot, role: Role) -> str:
        """Say why a role that is short must still not grow; empty if it may.

        What is coming is supply; a target that does not serve yet is not raised again.
        """
        if coming := snapshot.coming(role):
            return f"{_nodes(coming, role)} coming"
        serving, wanted = snapshot.serving(role), snapshot.target.of(role)
        if serving < wanted:
            return f"{serving} of {_nodes(wanted, role)} serving"
        served = [n.served_at_s for n in serving_nodes(snapshot, role) if n.served_at_s is not None]
        age_s = snapshot.now_s - max(served, default=-math.inf)
        if age_s < self._settle_s:
            return f"newest {role} node serves for {age_s:.0f} of {self._settle_s:.0f} s"
        return ""

    def obstacle_down(self, snapshot: Snapshot, role: Role) -> str:
        """Say why a role must not shrink now; empty if it may."""
        if obstacle := self.obstacle_up(snapshot, role):
            return obstacle
        if leaving := snapshot.count(role, *LEAVING):
            return f"{_nodes(leaving, role)} leaving"
        serving, wanted = snapshot.serving(role), snapshot.target.of(role)
        if serving > wanted:
            return f"{_nodes(serving, role)} serving, {wanted} wanted"
        age_s = snapshot.now_s - self._moved_at_s.get(role, -math.inf)
        if age_s < self._settle_s:
            return f"{role} target moved {age_s:.0f} s ago"
        fresh = len(fresh_signals(snapshot, role))
        if fresh < serving:
            return f"{fresh} of {_nodes(serving, role)} fresh"
        return ""


def _nodes(count: int, role: Role) -> str:
    return f"{count} {role} node{'' if count == 1 else 's'}"
