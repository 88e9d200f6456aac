"""Switching roles: at a full budget a node is not stopped but takes the role that is missing."""

from dataclasses import replace

from pd_autoscaler.core import lifecycle, outcomes, planner
from pd_autoscaler.core.fleet import Fleet
from pd_autoscaler.core.gates import GuardMemory
from pd_autoscaler.core.guard import guarded
from pd_autoscaler.core.rules import GuardRules, NodeRules, Rules
from pd_autoscaler.core.sight import Leave
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.facts import AgentState
from pd_autoscaler.model.link import Verdict
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.plan import (
    Action,
    DrainNode,
    LinkNodes,
    PublishNode,
    StartNode,
    StopNode,
    SwitchRole,
    WithdrawNode,
)
from pd_autoscaler.model.report import Failed
from pd_autoscaler.model.signals import RoleSignals
from pd_autoscaler.model.snapshot import Attribution, Bottleneck, LeadTime, Limits, Snapshot
from tests.support.fleets import NOW_S, facts, fleet, node

S = NodeState
LIMITS = Limits(nodes_max=5)
RULES = Rules(
    node=NodeRules(switch_timeout_s=60),
    guard=GuardRules(limits=LIMITS, up_window_s=0, down_window_s=0, cooldown_s=0),
)
SWITCHED_OFF = frozenset({"p1", "p2", "d1", "d2"})


def able(of: Fleet, *names: str) -> Fleet:
    """Let these nodes' engines say that they can take the other role."""
    told = {n: replace(of.agents[n], can_switch_role=True) for n in names}
    return replace(of, agents={**of.agents, **told})


def full(state: NodeState = S.SERVING, *, next_role: Role | None = None) -> Fleet:
    d3 = replace(node("d3", state, since_s=NOW_S - 1), next_role=next_role)
    of = fleet(*(node(n) for n in ("p1", "p2", "d1", "d2")), d3)
    return able(of, "d3")


def actions(of: Fleet, prompt: int, decoder: int, *, rules: Rules = RULES) -> list[Action]:
    plan = planner.planned(
        of, Target(prompt, decoder), rules, busy=frozenset(), leave=Leave(), now_s=NOW_S
    )
    return list(plan.actions)


def after(of: Fleet, *, now_s: float = NOW_S, **agents: AgentState) -> Fleet:
    """Return the fleet after an observation in which some agents say something else."""
    told = facts(of, now_s=now_s)
    told = replace(told, agents={**told.agents, **agents})
    return lifecycle.observed(of, told, RULES)[0]


def d3_of(of: Fleet) -> Node:
    return of.nodes["d3"]


def cut(of: Fleet, state: NodeState) -> Fleet:
    """Cut every link of d3 at both ends, and put it in this state on its way to prompt."""
    d3 = replace(d3_of(of), state=state, next_role=Role.PROMPT)
    of = replace(of, links={k: v for k, v in of.links.items() if "d3" not in k})
    linked = {k: v - {103} for k, v in of.linked.items()}
    agents = {**of.agents, "d3": replace(of.agents["d3"], links=())}
    return replace(of.with_node(d3), linked=linked, agents=agents, published=SWITCHED_OFF)


def test_at_a_full_budget_a_node_that_can_takes_the_missing_role() -> None:
    assert actions(full(), 3, 2) == [
        DrainNode("d3", "becomes prompt: no room for another node", Role.PROMPT)
    ]


def test_with_room_in_the_budget_another_node_is_started_instead() -> None:
    roomy = replace(RULES, guard=replace(RULES.guard, limits=Limits(nodes_max=6)))
    assert actions(full(), 3, 2, rules=roomy) == [StartNode(Role.PROMPT, "start-1")]


def test_a_node_that_can_switch_goes_before_one_that_cannot() -> None:
    of = able(fleet(*(node(n) for n in ("p1", "p2", "d1", "d2", "d3"))), "d1")
    [drain] = actions(of, 3, 2)
    assert drain == DrainNode("d1", "becomes prompt: no room for another node", Role.PROMPT)


def test_a_node_that_cannot_switch_is_stopped_as_ever() -> None:
    of = fleet(*(node(n) for n in ("p1", "p2", "d1", "d2", "d3")))
    assert actions(of, 3, 2) == [DrainNode("d1", "more nodes than the target")]


def test_where_none_can_be_started_a_node_is_switched_though_the_budget_has_room() -> None:
    roomy = replace(RULES, guard=replace(RULES.guard, limits=Limits(nodes_max=9)))
    of = replace(
        full(),
        start_failures={Role.PROMPT: 3},
        start_retry_at_s={Role.PROMPT: NOW_S + 9},
    )
    [drain] = actions(of, 3, 2, rules=roomy)
    assert isinstance(drain, DrainNode)
    assert drain.next_role is Role.PROMPT


def test_an_operators_drain_is_not_turned_into_a_switch() -> None:
    of = replace(full(), drains=frozenset({"d3"}))
    drains = [a for a in actions(of, 3, 3) if isinstance(a, DrainNode)]
    assert drains == [DrainNode("d3", "asked to drain")]


def test_a_node_on_its_way_to_a_role_counts_for_it_and_blocks_other_removals() -> None:
    for state in (S.DRAINING, S.UNLINKING, S.SWITCHING):
        of = full(state, next_role=Role.PROMPT)
        planned = actions(of, 3, 2)
        assert not [a for a in planned if isinstance(a, StartNode | DrainNode)], state


def test_a_switch_is_taken_back_while_it_drains() -> None:
    of, _ = outcomes.begun(full(), DrainNode("d3", "…", Role.PROMPT), now_s=NOW_S)
    assert (d3_of(of).state, d3_of(of).next_role) == (S.DRAINING, Role.PROMPT)
    assert PublishNode("d3") in actions(of, 2, 3)
    of, _ = outcomes.begun(of, PublishNode("d3"), now_s=NOW_S)
    assert (d3_of(of).state, d3_of(of).next_role) == (S.SERVING, None)


def test_once_unlinked_the_node_is_told_to_switch_and_joins_in_its_new_role() -> None:
    of = after(cut(full(), S.UNLINKING))
    assert d3_of(of).state is S.SWITCHING
    assert SwitchRole("d3", Role.PROMPT) in actions(of, 3, 2)

    of = after(of, d3=replace(of.agents["d3"], role=Role.PROMPT))
    d3 = d3_of(of)
    assert (d3.state, d3.role, d3.next_role) == (S.LINKING, Role.PROMPT, None)
    assert "d3" not in of.leaving
    assert {pair for pair in of.links if "d3" in pair} == {("d1", "d3"), ("d2", "d3")}


def test_a_switch_that_the_engine_refuses_for_good_makes_room_for_another_node() -> None:
    of = cut(full(), S.SWITCHING)
    no = Failed(SwitchRole("d3", Role.PROMPT), "cannot", retryable=False, verdict=Verdict.CONFIG)
    of = after(outcomes.ended(of, no, RULES, now_s=NOW_S))
    assert (d3_of(of).state, d3_of(of).why) == (S.FAILED, "cannot become prompt: cannot")
    assert StopNode("d3") in actions(of, 3, 2)


def test_a_switch_that_finds_links_left_is_tried_again_later() -> None:
    of = cut(full(), S.SWITCHING)
    no = Failed(SwitchRole("d3", Role.PROMPT), "LLM_EXIST_LINK")
    of = outcomes.ended(of, no, RULES, now_s=NOW_S)
    assert d3_of(of).state is S.SWITCHING
    assert d3_of(of).retry_at_s > NOW_S


def test_a_switch_that_never_ends_fails_at_its_time_out() -> None:
    of = cut(full(), S.SWITCHING)
    assert d3_of(after(of, now_s=NOW_S + 59)).state is S.SWITCHING
    of = after(of, now_s=NOW_S + 61)
    assert (d3_of(of).state, d3_of(of).next_role) == (S.FAILED, None)


def test_a_restarted_controller_goes_on_with_a_switch() -> None:
    found = cut(full(), S.SERVING)
    fresh = Fleet(leaving=frozenset({"d3"}), next_roles={"d3": Role.PROMPT})
    of = lifecycle.observed(fresh, facts(found), RULES)[0]
    assert (d3_of(of).state, d3_of(of).next_role) == (S.DRAINING, Role.PROMPT)


def test_a_restarted_controller_finds_a_switch_done_and_lets_the_node_join() -> None:
    found = cut(full(), S.SERVING)
    agents = {**found.agents, "d3": replace(found.agents["d3"], role=Role.PROMPT)}
    fresh = Fleet(leaving=frozenset({"d3"}), next_roles={"d3": Role.PROMPT})
    of = lifecycle.observed(fresh, replace(facts(found), agents=agents), RULES)[0]
    assert (d3_of(of).state, d3_of(of).role) == (S.LINKING, Role.PROMPT)
    assert not of.leaving


def test_a_switch_that_could_not_be_linked_is_not_begun_and_the_note_names_the_card() -> None:
    of = full()
    d1 = of.nodes["d1"]
    tight = replace(d1, endpoints=(replace(d1.endpoints[0], links_max=2),))
    plan = planner.planned(
        of.with_node(tight), Target(3, 2), RULES, busy=frozenset(), leave=Leave(), now_s=NOW_S
    )
    assert plan.actions == ()
    assert plan.notes[0] == (
        "d3 does not make room for a prompt node: d1's card may hold 2 links and would need 3"
    )


def test_a_node_found_between_two_roles_goes_on_to_switch_and_is_linked_to_nobody() -> None:
    found = cut(full(), S.SERVING)
    mixed = replace(found.agents["d3"], role=None, has_mixed_roles=True)
    told = replace(facts(found), agents={**found.agents, "d3": mixed})
    fresh = Fleet(leaving=frozenset({"d3"}), next_roles={"d3": Role.PROMPT})
    of = lifecycle.observed(fresh, told, RULES)[0]
    assert (d3_of(of).state, d3_of(of).next_role) == (S.SWITCHING, Role.PROMPT)
    assert SwitchRole("d3", Role.PROMPT) in actions(of, 3, 2)
    assert not [a for a in actions(of, 3, 2) if isinstance(a, LinkNodes)]


def test_a_node_whose_ranks_have_different_roles_neither_joins_nor_serves() -> None:
    for state, then in (
        (S.INITIALISING, S.SWITCHING),
        (S.LINKING, S.FAILED),
        (S.SERVING, S.FAILED),
    ):
        of = full(state)
        mixed = replace(of.agents["d3"], role=None, has_mixed_roles=True)
        assert d3_of(after(of, d3=mixed)).state is then


def test_a_node_whose_provider_lists_the_role_that_it_takes_has_not_taken_it() -> None:
    of = cut(full(), S.SWITCHING)
    listed = replace(d3_of(of), role=Role.PROMPT)
    mixed = replace(of.agents["d3"], role=None, has_mixed_roles=True)
    of = after(of.with_node(listed), d3=mixed)
    assert d3_of(of).state is S.SWITCHING


def test_a_router_that_lists_a_switched_node_again_is_told_to_let_go_of_it() -> None:
    of = cut(full(), S.SWITCHING)
    of = replace(of, published=SWITCHED_OFF | {"d3"})
    of = after(of, d3=replace(of.agents["d3"], role=Role.PROMPT))
    assert d3_of(of).state is S.LINKING
    assert WithdrawNode("d3") in actions(of, 3, 2)


def test_a_node_that_restarts_while_it_switches_begins_in_the_role_it_was_started_in() -> None:
    begun, _ = outcomes.begun(full(), DrainNode("d3", "…", Role.PROMPT), now_s=NOW_S)
    of = replace(cut(begun, S.SWITCHING), leaving=begun.leaving)
    of = after(of, d3=replace(of.agents["d3"], incarnation="d3/2"))
    d3 = d3_of(of)
    assert (d3.role, d3.next_role, d3.incarnation) == (Role.DECODER, None, "d3/2")
    assert "d3" not in of.leaving


def asked_for(
    target: Target, moments: tuple[float, ...], leads: dict[str, LeadTime]
) -> list[Decision]:
    memory, decisions = GuardMemory(began_s=-1000.0), list[Decision]()
    standing, fresh = Target(2, 3), RoleSignals(serving=3, fresh=3)
    for now_s in moments:
        snapshot = Snapshot(
            now_s=now_s,
            now_unix_s=now_s,
            target=standing,
            prompt=fresh,
            decoder=fresh,
            limits=LIMITS,
            lead_times=leads,
            attribution=Attribution(Bottleneck.NONE),
        )
        answer = guarded(target, snapshot, RULES.guard, memory)
        memory = answer.memory
        decisions.append(answer.decision)
        if isinstance(answer.decision, Target):
            standing = answer.decision
    return decisions


def lead(**seconds: float) -> dict[str, LeadTime]:
    return {phase: LeadTime(s, s, 1) for phase, s in seconds.items()}


def why(decisions: list[Decision]) -> list[object]:
    return [d.reason if isinstance(d, Hold) else d for d in decisions]


def test_a_shift_is_made_once_it_was_wanted_for_as_long_as_it_costs() -> None:
    leads = lead(drain=20, unlink=1, switch=4, link=5, start=300, init=60)
    decisions = asked_for(Target(3, 2), (0, 10, 29, 30), leads)
    assert why(decisions) == [HoldReason.PAY_BACK] * 3 + [Target(3, 2)]


def test_until_a_node_has_switched_a_shift_costs_a_start() -> None:
    leads = lead(drain=20, start=40, init=10, link=5)
    decisions = asked_for(Target(3, 2), (0, 74, 75), leads)
    assert why(decisions) == [HoldReason.PAY_BACK] * 2 + [Target(3, 2)]


def test_a_shift_whose_cost_nobody_knows_yet_is_made_at_once() -> None:
    assert asked_for(Target(3, 2), (0,), {}) == [Target(3, 2)]


def test_growth_and_shrinking_alone_need_not_pay_back() -> None:
    leads = lead(drain=100, link=100)
    assert asked_for(Target(2, 2), (0,), leads) == [Target(2, 2)]
