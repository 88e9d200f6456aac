"""One node's state from those of its ranks."""

from dataclasses import replace

import pytest

from pd_autoscaler.adapters.agent_states import state_of_node
from pd_autoscaler.errors import PermanentError
from pd_autoscaler.model.facts import AgentPhase, AgentState, EngineLoad
from pd_autoscaler.model.node import Endpoint, Role

READY = AgentState(
    node_id="d1",
    at_s=10.0,
    incarnation="a",
    role=Role.DECODER,
    phase=AgentPhase.READY,
    endpoints=(Endpoint(0, 1, "127.0.0.1"),),
    version="1",
)


def test_one_rank_is_its_node() -> None:
    assert state_of_node([READY]) is READY


@pytest.mark.parametrize(
    ("phases", "phase"),
    [
        (("ready", "ready", "ready"), "ready"),
        (("ready", "initialising", "ready"), "initialising"),
        (("initialising", "ready", "new"), "new"),
        (("new", "finalised", "ready"), "finalised"),
    ],
)
def test_the_phase_is_the_least_advanced_one(phases: tuple[str, ...], phase: str) -> None:
    states = [replace(READY, phase=AgentPhase(each)) for each in phases]
    assert state_of_node(states).phase == AgentPhase(phase)


def test_counts_are_summed_and_the_oldest_answer_dates_the_node() -> None:
    late = replace(READY, at_s=12.0, calls_in_flight=2, calls_hung=1, version="2")
    whole = state_of_node([late, replace(READY, calls_in_flight=3), late])
    assert (whole.calls_in_flight, whole.calls_hung, whole.at_s) == (7, 2, 10.0)
    assert whole.version == "2, 1"


def test_the_load_is_the_largest_that_any_rank_tells_and_unknown_only_where_none_does() -> None:
    loads = [EngineLoad(waiting=3), EngineLoad(waiting=1, running=0, kv_used=0.5), EngineLoad()]
    whole = state_of_node([replace(READY, engine=load) for load in loads])
    assert whole.engine == EngineLoad(waiting=3, running=0, kv_unpulled=None, kv_used=0.5)


def test_the_highest_epoch_counts_with_its_holder() -> None:
    states = [replace(READY, epoch=3, holder="old"), replace(READY, epoch=4, holder="new")]
    for order in (states, states[::-1]):
        whole = state_of_node(order)
        assert (whole.epoch, whole.holder) == (4, "new")


def test_a_node_can_switch_roles_if_all_of_its_ranks_can() -> None:
    can = replace(READY, can_switch_role=True)
    assert state_of_node([can, can]).can_switch_role
    assert not state_of_node([can, READY]).can_switch_role


def test_an_incarnation_that_would_pass_for_two_ranks_is_refused() -> None:
    with pytest.raises(PermanentError, match=r"rank 1: its agent calls itself 'a\+b'"):
        state_of_node([READY, replace(READY, incarnation="a+b")])


def test_an_agent_of_several_endpoints_is_refused() -> None:
    two = (Endpoint(0, 1, "127.0.0.1"), Endpoint(1, 2, "127.0.0.1"))
    with pytest.raises(PermanentError, match="rank 0: its agent reports 2 endpoints"):
        state_of_node([replace(READY, endpoints=two)])
