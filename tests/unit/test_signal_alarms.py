"""Alarms about the signals themselves."""

from dataclasses import replace

from pd_autoscaler.core.rules import GuardRules
from pd_autoscaler.core.signal_alarms import signal_alarms
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.signals import NodeSignals, RoleSignals, Signal
from pd_autoscaler.model.snapshot import Snapshot

RULES = GuardRules()
SEEN = RoleSignals(serving=4, fresh=4)
NODES = tuple(
    Node(id=f"d{n}", role=Role.DECODER, state=NodeState.SERVING, since_s=0.0) for n in range(4)
)
CALM = Snapshot(
    now_s=0.0, now_unix_s=0.0, target=Target(4, 4), nodes=NODES, prompt=SEEN, decoder=SEEN
)


def test_a_calm_fleet_raises_none_and_one_silent_node_none_either() -> None:
    assert signal_alarms(CALM, RULES) == []
    assert signal_alarms(replace(CALM, decoder=replace(SEEN, fresh=2)), RULES) == []


def test_too_few_fresh_nodes_are_told_with_each_doubt_once() -> None:
    doubts = {"d0": "HTTP 500", "d1": "HTTP 500", "d2": "HTTP 500", "d3": "frozen"}
    signals = {name: NodeSignals(node_id=name, doubt=doubt) for name, doubt in doubts.items()}
    blind = replace(CALM, decoder=replace(SEEN, fresh=0), node_signals=signals)
    assert signal_alarms(blind, RULES) == [
        (
            "the target is held: 0 of 4 decoder nodes have fresh metrics "
            "(d0, d1, d2: HTTP 500; d3: frozen)"
        )
    ]


def test_transfers_that_fail_are_told_beyond_the_few_that_may() -> None:
    failing = replace(SEEN, transfer_failure_rate=Signal(0.2, 0.0), arrival_rate=Signal(2.0, 0.0))
    assert signal_alarms(replace(CALM, decoder=failing), RULES) == [
        "0.2 KV transfers a second fail at decoder nodes"
    ]
    busy = replace(failing, arrival_rate=Signal(4.0, 0.0))
    assert signal_alarms(replace(CALM, decoder=busy), RULES) == []
