"""What is said of a node: where it is in its life, what keeps it there, and what was done to it."""

from dataclasses import replace
from typing import Any

import pytest

from pd_autoscaler.core.node_explanation import NEEDS, node_lines
from pd_autoscaler.core.scene import UNMESHED, Scene
from pd_autoscaler.model.facts import EngineLoad
from pd_autoscaler.model.link import LinkState
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.plan import LinkNodes, Peer, in_waves
from pd_autoscaler.model.report import Move
from tests.support.reports import a_link, a_node, a_report, a_snapshot

NOW_S = 100.0


def lines(node: Node, *others: Node, **changes: Any) -> list[str]:
    """Explain a node that the router lists only if it serves."""
    serving = frozenset(n.id for n in (node, *others) if n.state is NodeState.SERVING)
    snapshot = replace(a_snapshot(nodes=(node, *others)), published=serving)
    report = a_report(**{"snapshot": snapshot, "links": (), "epoch": 7, **changes})
    return list(node_lines(Scene(report=report, now_s=NOW_S, meanings={}), node))


def a_prompt(state: NodeState, **changes: Any) -> Node:
    return replace(a_node("p1", Role.PROMPT, state), **{"since_s": NOW_S - 40.0, **changes})


def test_a_linking_node_says_what_it_lacks_and_when_it_is_expected() -> None:
    decoders = [a_node(f"d{n}", Role.DECODER) for n in range(3)]
    node = a_prompt(
        NodeState.LINKING, why="ready", ready_at_s=NOW_S + 20, attempts=1, retry_at_s=NOW_S + 2
    )

    said = lines(
        node,
        *decoders,
        links=(
            a_link("d0", "p1"),
            a_link("d1", "p1", LinkState.FAILED),
            a_link("d2", "p1", LinkState.ABSENT),
        ),
        moves=(Move("p1", Role.PROMPT, NodeState.INITIALISING, NodeState.LINKING, "ready"),),
        plan=in_waves([LinkNodes("d1", (Peer("p1", "", ()),))], ("p1 waits: no link to d1",)),
        alarms=("prompt node p1 cannot join for 60 s: d1-p1 failed", "d2 is full"),
        hung_calls={"p1": 1},
    )

    assert said == [
        "prompt node, linking for 40 s: ready",
        f"does not serve: {NEEDS[NodeState.LINKING]}",
        "is expected to serve in about 20 s, by measured lead times",
        "1 failed try in this state: the next is due in 2.0 s",
        "native calls past their deadline: 1",
        "links: 1 of 3 wanted are up, 1 absent, 1 failed",
        "moved from initialising to linking in the newest cycle: ready",
        "alarm: prompt node p1 cannot join for 60 s: d1-p1 failed",
        "not done: p1 waits: no link to d1",
    ]


def test_a_node_that_serves_has_little_to_explain() -> None:
    decoder = a_node("d1", Role.DECODER)

    said = lines(a_prompt(NodeState.SERVING), decoder, links=(a_link("d1", "p1"),))

    assert said == ["prompt node, serving for 40 s", "links: 1 of 1 wanted are up"]


def test_a_draining_node_says_what_is_inside_and_which_role_it_takes_then() -> None:
    node = a_prompt(NodeState.DRAINING, next_role=Role.DECODER)

    said = lines(
        node, links=(a_link("d1", "p1"),), engine_load={"p1": EngineLoad(waiting=0, running=3)}
    )

    assert said == [
        "prompt node, draining for 40 s",
        f"draining: {NEEDS[NodeState.DRAINING]}",
        "then it takes the decoder role",
        "requests inside: 0 waiting, 3 running, ? KV not pulled",
        "links left: 1 linked",
    ]


def test_a_node_that_is_late_silent_and_still_listed_says_all_of_it() -> None:
    node = a_prompt(NodeState.STARTING, ready_at_s=NOW_S - 5, is_suspect=True)
    snapshot = replace(a_snapshot(nodes=(node,)), published=frozenset({"p1"}))

    said = lines(node, snapshot=snapshot)

    assert said[2:] == [
        "is 5.0 s later than usual, by measured lead times",
        "suspect: its agent is silent, so nothing is done to it",
        "the router may still send it new requests",
    ]


def test_a_node_whose_engine_connects_by_itself_waits_for_the_router_alone() -> None:
    said = lines(a_prompt(NodeState.LINKING), is_meshed=False)

    assert said[1] == f"does not serve: it needs the router's word; {UNMESHED}"


def test_a_call_of_the_node_itself_is_told_where_the_loop_acts() -> None:
    node = replace(a_node("d1", Role.DECODER), since_s=60.0)
    plan = in_waves([LinkNodes("d1", (Peer("p1", "", ()),))])

    assert lines(node, plan=plan)[-1] == "begun in the newest cycle: link d1 to p1"
    assert "begun" not in " ".join(lines(node, plan=plan, epoch=0, is_acting=False))


@pytest.mark.parametrize("state", [s for s in NodeState if s is not NodeState.SERVING])
def test_every_state_but_serving_says_what_keeps_the_node_in_it(state: NodeState) -> None:
    assert lines(a_prompt(state))[1].endswith(f": {NEEDS[state]}")
