"""What an operator must hear of the signals themselves: too little seen, or transfers that fail."""

from pd_autoscaler.core import gates
from pd_autoscaler.core.rules import GuardRules
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.snapshot import Snapshot

NAMED_MAX = 3
"""Nodes, and doubts, that an alarm names."""


def signal_alarms(snapshot: Snapshot, rules: GuardRules) -> list[str]:
    """Return a sentence for each; none in a calm fleet."""
    alarms = []
    blind = gates.blind(snapshot, rules)
    if blind is not None and blind.role is not None:
        named = "; ".join(_doubts(snapshot, blind.role))
        alarms.append(f"the target is held: {blind.detail}{f' ({named})' if named else ''}")
    failing = gates.transfers_fail(snapshot, rules)
    return [*alarms, failing] if failing else alarms


def _doubts(snapshot: Snapshot, role: Role) -> list[str]:
    """Say each doubt about a role's nodes once, with some of those that it is about."""
    nodes_of: dict[str, list[str]] = {}
    for node in snapshot.nodes:
        signals = snapshot.node_signals.get(node.id)
        if node.role is role and signals is not None and signals.doubt:
            nodes_of.setdefault(signals.doubt, []).append(node.id)
    return [
        f"{', '.join(ids[:NAMED_MAX])}{', …' if len(ids) > NAMED_MAX else ''}: {doubt}"
        for doubt, ids in list(nodes_of.items())[:NAMED_MAX]
    ]
