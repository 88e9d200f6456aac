"""The life of nodes: facts move them, silence loses them, nothing lasts for ever."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.core import lifecycle, outcomes, planner
from pd_autoscaler.core.fleet import Contact, Fleet, node_thing
from pd_autoscaler.core.rules import NodeRules, Rules
from pd_autoscaler.core.sight import Leave
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.facts import AgentPhase, EngineLoad, Facts
from pd_autoscaler.model.link import LinkState
from pd_autoscaler.model.node import NODE_MOVES, NodeState, Role
from pd_autoscaler.model.plan import (
    DrainNode,
    FinalizeNode,
    InitNode,
    LinkNodes,
    StartNode,
    StopNode,
)
from pd_autoscaler.model.report import Done, Failed, Move, Outcome, Unknown
from pd_autoscaler.model.signals import Reading
from tests.support.fleets import NOW_S, facts, fleet, node, peer_of, provided

S = NodeState
RULES = Rules(node=NodeRules(lost_after_s=30, drain_deadline_s=300))


def after(of: Fleet, told: Facts) -> Fleet:
    return lifecycle.observed(of, told, RULES)[0]


def states(of: Fleet) -> dict[str, str]:
    return {n.id: n.state.value for n in of.nodes.values()}


def long_silent(of: Fleet, *names: str, for_s: float) -> Fleet:
    contact = Contact(NOW_S - for_s, NOW_S - for_s)
    return replace(of, contacts={**of.contacts, **dict.fromkeys(names, contact)})


def test_a_restart_adopts_the_fleet_it_finds() -> None:
    found = fleet(node("p1"), node("d1"))
    told = facts(found)
    of = after(Fleet(), told)
    assert states(of) == {"p1": "serving", "d1": "serving"}
    assert of.links["d1", "p1"].state == "linked"
    assert of.is_synced


def test_a_fleet_is_not_synced_before_every_node_with_an_agent_has_answered() -> None:
    found = fleet(node("p1"), node("d1"))
    of = after(Fleet(), facts(found, silent=("d1",)))
    assert not of.is_synced
    later = after(of, facts(found, now_s=NOW_S + 31, silent=("d1",)))
    assert later.is_synced


def test_a_removal_under_way_before_the_restart_goes_on() -> None:
    found = fleet(node("p1"), node("p2"), node("d1"), published=frozenset({"p1", "d1"}))
    of = after(Fleet(leaving=frozenset({"p2"})), facts(found))
    assert states(of)["p2"] == "draining"


def test_a_node_asked_for_takes_its_name_and_keeps_its_beginning() -> None:
    asked, _ = outcomes.begun(Fleet(), StartNode(Role.PROMPT, "start-1"), now_s=5.0)
    listed = replace(provided(node("p1")), request_id="start-1", agent_urls=())
    of = after(asked, Facts(now_s=6.0, now_unix_s=6.0, provided=(listed,)))
    assert states(of) == {"p1": "starting"}
    assert of.nodes["p1"].began_s == 5.0


def test_an_agents_phase_moves_its_node_on() -> None:
    of = fleet(node("p1", S.STARTING))
    new = replace(of.agents["p1"], phase=AgentPhase.NEW)
    of = after(of, facts(replace(of, agents={"p1": new})))
    assert states(of) == {"p1": "initialising"}
    ready = replace(of.agents["p1"], phase=AgentPhase.READY)
    of = after(of, facts(replace(of, agents={"p1": ready}, published=frozenset())))
    assert states(of) == {"p1": "linking"}


def test_a_silent_agent_makes_a_node_suspect_and_only_silence_of_both_loses_it() -> None:
    of = fleet(node("p1"), node("p2"), node("p3"), node("d1"))
    suspect = after(long_silent(of, "p1", for_s=10), facts(of, silent=("p1",)))
    assert suspect.nodes["p1"].is_suspect
    assert states(suspect)["p1"] == "serving"
    lost = after(long_silent(of, "p1", for_s=31), facts(of, silent=("p1",)))
    assert states(lost)["p1"] == "failed"


def test_a_page_older_than_the_last_one_does_not_make_a_node_look_silent() -> None:
    of = fleet(node("p1"), node("p2"), node("p3"), node("d1"))
    of = replace(of, contacts={**of.contacts, "p1": Contact(NOW_S - 90, NOW_S - 10)})
    old = Reading(node_id="p1", at_s=NOW_S - 40)
    of = after(of, replace(facts(of, silent=("p1",)), readings={"p1": old}))
    assert of.contacts["p1"].metrics_at_s == NOW_S - 10
    assert states(of)["p1"] == "serving"


def test_much_silence_at_once_is_taken_for_our_own_fault() -> None:
    of = fleet(node("p1"), node("p2"), node("d1"), node("d2"))
    silent = long_silent(long_silent(of, "p1", for_s=31), "d1", for_s=12)
    blind, _, alarms = lifecycle.observed(silent, facts(of, silent=("p1", "d1")), RULES)
    assert blind.is_blind
    assert "silent" in alarms[0]
    assert states(blind)["p1"] == "serving"
    assert not after(blind, facts(of)).is_blind


def test_a_node_the_provider_lists_no_more_is_lost_and_forgotten_once_withdrawn() -> None:
    of = fleet(node("p1"), node("p2"), node("d1"))
    left = tuple(provided(node(n)) for n in ("p2", "d1"))
    of = after(of, replace(facts(of, silent=("p1",)), provided=left))
    assert states(of)["p1"] == "failed"
    withdrawn = frozenset({"p2", "d1"})
    of = after(of, replace(facts(of, silent=("p1",)), provided=left, published=withdrawn))
    assert "p1" not in of.nodes
    assert "p1/1" not in of.linked


def test_a_node_that_answers_is_lost_only_once_it_was_not_listed_for_long() -> None:
    of = fleet(node("p1"), node("p2"), node("d1"), node("d2"))
    left = tuple(provided(node(n)) for n in ("p2", "d1", "d2"))
    for now_s, state in ((NOW_S, "serving"), (NOW_S + 30, "serving"), (NOW_S + 31, "failed")):
        of = after(of, replace(facts(of, now_s=now_s), provided=left))
        assert states(of)["p1"] == state


def test_a_list_that_lacks_much_of_what_answers_is_not_believed() -> None:
    of = fleet(node("p1"), node("p2"), node("d1"), node("d2"))
    for now_s in (NOW_S, NOW_S + 60, NOW_S + 600):
        of, _, alarms = lifecycle.observed(of, replace(facts(of, now_s=now_s), provided=()), RULES)
        assert set(states(of).values()) == {"serving"}
        assert len(alarms) == 4


def test_a_spare_that_restarts_stays_a_spare() -> None:
    of = fleet(node("p1"), node("p2", S.STANDBY), node("d1"))
    spare = replace(provided(node("p2")), is_standby=True)
    born_again = replace(of.agents["p2"], incarnation="p2/2")
    told = facts(replace(of, agents={**of.agents, "p2": born_again}))
    listed = (provided(node("p1")), spare, provided(node("d1")))
    of = after(of, replace(told, provided=listed))
    assert states(of)["p2"] == "standby"
    assert of.nodes["p2"].incarnation == "p2/2"


def test_a_spare_found_published_or_on_its_way_out_is_in_use_whatever_the_pool_says() -> None:
    found = fleet(node("p1"), node("p2"), node("p3"), node("d1"))
    listed = tuple(
        replace(provided(n), is_standby=n.id in {"p2", "p3"}) for n in found.nodes.values()
    )
    told = replace(facts(found), provided=listed, published=frozenset({"p1", "p2", "d1"}))
    of = after(Fleet(leaving=frozenset({"p3"})), told)
    assert states(of) == {"p1": "serving", "p2": "serving", "p3": "draining", "d1": "serving"}


def test_a_request_that_was_answered_with_a_known_node_is_no_longer_waited_for() -> None:
    of = fleet(node("p1"), node("d1"))
    of, _ = outcomes.begun(of, StartNode(Role.PROMPT, "start-1"), now_s=NOW_S)
    listed = (replace(provided(node("p1")), request_id="start-1"), provided(node("d1")))
    assert states(after(of, replace(facts(of), provided=listed))) == {
        "p1": "serving",
        "d1": "serving",
    }


def test_a_node_named_after_its_request_can_be_lost() -> None:
    of, _ = outcomes.begun(Fleet(), StartNode(Role.PROMPT, "start-1"), now_s=NOW_S)
    line = replace(provided(node("p1")), id="start-1", request_id="start-1")
    told = Facts(now_s=NOW_S, now_unix_s=NOW_S, provided=(line,), published=frozenset())
    of = after(of, told)
    assert states(of) == {"start-1": "starting"}
    assert states(after(of, replace(told, provided=()))) == {}


def test_a_provider_that_cannot_be_read_loses_nobody() -> None:
    of = fleet(node("p1"), node("d1"))
    assert states(after(of, replace(facts(of), provided=None))) == states(of)


def test_a_restarted_node_begins_again_and_must_be_withdrawn_first() -> None:
    of = fleet(node("p1"), node("d1"))
    born_again = replace(of.agents["p1"], incarnation="p1/2")
    told = facts(replace(of, agents={**of.agents, "p1": born_again}))
    of, moves, alarms = lifecycle.observed(of, told, RULES)
    assert [m.after for m in moves][:2] == [S.FAILED, S.STARTING]
    assert of.nodes["p1"].state is not S.SERVING
    assert "p1" in of.withdrawing
    assert alarms


def drained(engine: EngineLoad, *, published: frozenset[str], in_flight: int) -> str:
    """Observe a draining node three times and tell its state."""
    of = fleet(node("p1"), node("p2", S.DRAINING, since_s=NOW_S), node("d1"))
    of = replace(of, published=published)
    of = replace(of, agents={**of.agents, "p2": replace(of.agents["p2"], engine=engine)})
    told = replace(facts(of), in_flight={"p1": 0, "p2": in_flight, "d1": 0})
    for _ in range(2):
        of = after(of, told)
    return of.nodes["p2"].state.value


def test_a_drained_node_is_idle_on_both_sides_before_it_is_unlinked() -> None:
    idle = EngineLoad(waiting=0, running=0, kv_unpulled=0)
    away = frozenset({"p1", "d1"})
    assert drained(idle, published=away, in_flight=0) == "unlinking"
    assert drained(idle, published=away, in_flight=1) == "draining"
    assert drained(idle, published=away | {"p2"}, in_flight=0) == "draining"
    holding = EngineLoad(waiting=0, running=0, kv_unpulled=2)
    assert drained(holding, published=away, in_flight=0) == "draining"
    assert drained(EngineLoad(), published=away, in_flight=0) == "draining"


def test_a_cycle_without_metrics_neither_adds_to_idleness_nor_takes_from_it() -> None:
    of = fleet(node("p1"), node("p2", S.DRAINING, since_s=NOW_S), node("d1"))
    silent_engine = replace(of.agents["p2"], engine=EngineLoad(waiting=0, running=0))
    of = replace(of, agents={**of.agents, "p2": silent_engine})
    empty = {"p2": Reading(node_id="p2", at_s=NOW_S, gauges={"kv_used": 0.0})}
    seen = []
    for readings in (empty, {}, {}, empty):
        of = after(of, replace(facts(of), readings=readings))
        seen.append(states(of)["p2"])
    assert seen == ["draining", "draining", "draining", "unlinking"]


def test_a_second_drain_of_a_node_does_not_inherit_the_idleness_of_the_first() -> None:
    of = fleet(node("p1"), node("p2"), node("d1"))
    of = replace(of, idle_counts={"p2": 1})
    of, _ = outcomes.begun(of, DrainNode("p2", ""), now_s=NOW_S)
    of = replace(of, published=frozenset({"p1", "d1"}))
    assert states(after(of, facts(of)))["p2"] == "draining"


def test_a_drain_ends_at_its_deadline_but_only_once_withdrawn() -> None:
    of = fleet(node("p1"), node("p2", S.DRAINING, since_s=NOW_S - 301), node("d1"))
    busy = replace(of.agents["p2"], engine=EngineLoad(waiting=0, running=3, kv_unpulled=0))
    of = replace(of, agents={**of.agents, "p2": busy})
    # Seen withdrawn just now, though told long ago: requests came until just now.
    assert states(after(of, facts(of)))["p2"] == "draining"
    of = replace(of, withdrawn_at_s={"p2": NOW_S - 301})
    assert states(after(of, facts(of)))["p2"] == "unlinking"
    listed = replace(of, published=frozenset({"p1", "p2", "d1"}))
    assert states(after(listed, facts(listed)))["p2"] == "draining"


def test_a_start_that_never_comes_gives_its_place_back() -> None:
    asked, _ = outcomes.begun(Fleet(), StartNode(Role.PROMPT, "start-1"), now_s=0.0)
    told = Facts(now_s=601.0, now_unix_s=601.0, provided=())
    of, _, alarms = lifecycle.observed(asked, told, RULES)
    assert of.nodes == {}
    assert of.start_failures == {Role.PROMPT: 1}
    assert "600 s" in alarms[0]


def test_an_unknown_outcome_blocks_a_node_until_it_was_observed() -> None:
    of = fleet(node("p1"), node("d1"))
    init = InitNode("p1", Role.PROMPT)
    of = outcomes.ended(of, Unknown(init, "late"), RULES, now_s=NOW_S)
    assert node_thing("p1") in of.blocked
    unread = replace(facts(of, now_s=NOW_S + 1), provided=None)
    assert node_thing("p1") in after(of, unread).blocked
    assert node_thing("p1") not in after(of, facts(of, now_s=NOW_S + 1)).blocked


def test_a_node_that_cannot_be_initialised_fails_after_so_many_attempts() -> None:
    of = fleet(node("p1", S.INITIALISING, since_s=NOW_S), node("d1"))
    failed = Failed(InitNode("p1", Role.PROMPT), "no device")
    seen = []
    new = replace(of.agents["p1"], phase=AgentPhase.NEW)
    for _ in range(3):
        of = outcomes.ended(of, failed, RULES, now_s=NOW_S)
        told = facts(of)
        told = replace(told, agents={**told.agents, "p1": new})
        of, moves, _ = lifecycle.observed(of, told, RULES)
        seen.append([move.after for move in moves])
    assert seen == [[], [], [S.FAILED]]
    assert of.nodes["p1"].why == "cannot be initialised: no device"
    assert of.start_failures == {Role.PROMPT: 1}


def test_a_link_remembers_the_decoder_at_the_prompt_node_before_it_is_made() -> None:
    of = replace(fleet(node("p1"), node("d1")), linked={}, links={})
    call = LinkNodes("d1", (peer_of(of.nodes["p1"]),))
    of, _ = outcomes.begun(of, call, now_s=NOW_S)
    assert of.linked == {"p1/1": frozenset({101})}


def test_a_finalise_of_unknown_outcome_is_not_tried_again() -> None:
    of = fleet(node("p1", S.STOPPING), node("d1"))
    of = outcomes.ended(of, Unknown(FinalizeNode("p1"), "late"), RULES, now_s=NOW_S)
    of = after(of, facts(of, now_s=NOW_S + 5))
    plan = planner.planned(
        of, Target(0, 1), RULES, busy=frozenset(), leave=Leave(), now_s=NOW_S + 60
    )
    assert plan.actions == (StopNode("p1"),)


def test_many_begin_and_end_as_they_would_one_by_one() -> None:
    of = fleet(node("p1"), node("p2"), node("d1"))
    absent = {pair: replace(link, state=LinkState.ABSENT) for pair, link in of.links.items()}
    of = replace(of, links=absent)
    call = LinkNodes("d1", (peer_of(of.nodes["p1"]), peer_of(of.nodes["p2"])))
    begun, _ = outcomes.all_begun(of, [call], now_s=NOW_S)
    assert begun == outcomes.begun(of, call, now_s=NOW_S)[0]
    assert {link.state for link in begun.links.values()} == {LinkState.LINKING}
    assert {link.state for link in of.links.values()} == {LinkState.ABSENT}
    ends: list[Outcome] = [Failed(call, "refused", code="X"), Unknown(call, "late")]
    ended = outcomes.all_ended(begun, ends, RULES, now_s=NOW_S)
    one = outcomes.ended(begun, ends[0], RULES, now_s=NOW_S)
    assert ended == outcomes.ended(one, ends[1], RULES, now_s=NOW_S)
    assert {link.state for link in begun.links.values()} == {LinkState.LINKING}


def test_an_accepted_start_or_stop_is_not_asked_for_again_at_once() -> None:
    of = fleet(node("p1", S.STOPPING), node("d1"))
    of = outcomes.ended(of, Done(StopNode("p1")), RULES, now_s=NOW_S)
    assert of.nodes["p1"].retry_at_s > NOW_S


@given(st.lists(st.sampled_from(["drain", "stop", "agent", "gone", "silent"]), max_size=12))
def test_every_move_is_in_the_table(events: list[str]) -> None:
    of, now_s = fleet(node("p1"), node("p2"), node("d1")), NOW_S
    for event in events:
        now_s += 40
        told, moves = facts(of, now_s=now_s), list[Move]()
        p1 = of.nodes.get("p1")
        if p1 is None:
            return
        if event == "drain" and p1.state in {S.SERVING, S.LINKING}:
            of, moves = outcomes.begun(of, DrainNode("p1", ""), now_s=now_s)
        elif event == "stop":
            of, moves = outcomes.begun(of, StopNode("p1"), now_s=now_s)
        elif event == "agent":
            agent = replace(of.agents["p1"], incarnation=f"p1/{now_s}", at_s=now_s)
            told = replace(told, agents={**told.agents, "p1": agent})
        elif event == "gone":
            rest = tuple(provided(n) for n in of.nodes.values() if n.id != "p1")
            told = replace(told, provided=rest)
        else:
            told = facts(of, now_s=now_s, silent=("p1",))
        of, more, _ = lifecycle.observed(of, told, RULES)
        for move in [*moves, *more]:
            assert move.after in NODE_MOVES[move.before]


def test_a_node_found_finalised_is_stopped_at_once() -> None:
    found = fleet(node("p1"), node("p2"), node("d1"), published=frozenset({"p1", "d1"}))
    told = facts(found)
    dead = replace(told.agents["p2"], phase=AgentPhase.FINALISED)
    of = after(Fleet(), replace(told, agents={**told.agents, "p2": dead}))
    assert states(of)["p2"] == "failed"


def test_what_prompt_nodes_held_that_are_no_more_is_forgotten_after_a_restart() -> None:
    found = fleet(node("p1"), node("d1"))
    fresh = Fleet(linked={"p9/1": frozenset({101}), "p1/1": frozenset({101})})
    of = after(after(fresh, facts(found)), facts(found))
    assert set(of.linked) == {"p1/1"}


def test_a_serving_node_whose_library_was_finalised_fails() -> None:
    of = fleet(node("p1"), node("p2"), node("d1"))
    told = facts(of)
    dead = replace(told.agents["p2"], phase=AgentPhase.FINALISED)
    assert states(after(of, replace(told, agents={**told.agents, "p2": dead})))["p2"] == "failed"


def test_an_agent_that_stays_silent_beside_metrics_that_answer_is_told() -> None:
    of = long_silent(fleet(node("p1"), node("p2"), node("d1")), "p2", for_s=40)
    told = facts(of, silent=("p2",))
    told = replace(told, readings={"p2": Reading(node_id="p2", at_s=NOW_S)})
    of, _, alarms = lifecycle.observed(of, told, RULES)
    assert states(of)["p2"] == "serving"
    assert any("p2: an agent is silent for 40 s" in alarm for alarm in alarms)
