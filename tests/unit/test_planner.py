"""The planner: adds before it removes, publishes only what is linked."""

from dataclasses import replace

from pd_autoscaler.core import planner
from pd_autoscaler.core.fleet import Fleet, node_thing
from pd_autoscaler.core.rules import GuardRules, Rules
from pd_autoscaler.core.sight import Leave
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.facts import AgentPhase
from pd_autoscaler.model.link import LinkState
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.plan import (
    Action,
    DrainNode,
    FinalizeNode,
    InitNode,
    LinkNodes,
    PublishNode,
    StartNode,
    StopNode,
    WithdrawNode,
)
from pd_autoscaler.model.snapshot import Limits
from tests.support.fleets import NOW_S, fleet, node

S = NodeState
RULES = Rules(guard=GuardRules(limits=Limits(nodes_max=8)))


def actions(
    of: Fleet,
    prompt: int,
    decoder: int,
    *,
    busy: frozenset[str] = frozenset(),
    rules: Rules = RULES,
    leave: Leave | None = None,
) -> list[Action]:
    plan = planner.planned(
        of, Target(prompt, decoder), rules, busy=busy, leave=leave or Leave(), now_s=NOW_S
    )
    return list(plan.actions)


def serving(*names: str) -> list[Node]:
    return [node(name) for name in names]


def test_a_fleet_at_its_target_needs_nothing() -> None:
    assert actions(fleet(*serving("p1", "p2", "d1")), 2, 1) == []


def test_what_is_missing_is_started_with_request_ids_that_go_on_counting() -> None:
    of = replace(fleet(*serving("p1", "d1")), request_count=7)
    assert actions(of, 2, 2) == [
        StartNode(Role.PROMPT, "start-8"),
        StartNode(Role.DECODER, "start-9"),
    ]


def test_a_coming_node_is_not_asked_for_again() -> None:
    of = fleet(*serving("p1", "d1"), node("p2", S.STARTING))
    assert actions(of, 2, 1) == []


def test_nothing_drains_while_a_node_of_either_role_is_coming() -> None:
    of = fleet(*serving("p1", "p2", "d1"), node("d2", S.STARTING))
    assert actions(of, 1, 2) == []


def test_a_surplus_node_drains_and_never_the_last() -> None:
    assert actions(fleet(*serving("p1", "p2", "d1")), 1, 1) == [
        DrainNode("p1", "more nodes than the target")
    ]
    assert actions(fleet(*serving("p1", "d1")), 0, 1) == []


def test_nothing_is_removed_before_it_may_be() -> None:
    of = fleet(*serving("p1", "p2", "d1"))
    assert actions(of, 1, 1, leave=Leave(may_remove=False)) == []


def test_a_full_budget_gives_up_one_node_then_starts_the_other_role() -> None:
    rules = Rules(guard=GuardRules(limits=Limits(nodes_max=6)))
    full = fleet(*serving("p1", "p2", "p3", "d1", "d2", "d3"))
    assert [type(a) for a in actions(full, 5, 1, rules=rules)] == [DrainNode]
    draining = fleet(*serving("p1", "p2", "p3", "d1", "d2"), node("d3", S.DRAINING, since_s=999))
    draining = replace(draining, published=draining.published or frozenset())
    assert actions(draining, 5, 1, rules=rules) == []
    after = fleet(*serving("p1", "p2", "p3", "d1", "d2"))
    assert actions(after, 5, 1, rules=rules) == [StartNode(Role.PROMPT, "start-1")]


def test_a_full_budget_gives_up_nothing_that_the_rest_could_not_carry() -> None:
    rules = Rules(guard=GuardRules(limits=Limits(nodes_max=4)))
    full = fleet(*serving("p1", "p2", "d1", "d2"))
    assert actions(full, 3, 1, rules=rules, leave=Leave(spare=frozenset())) == []


def test_missing_nodes_that_cannot_be_had_do_not_block_a_removal() -> None:
    of = replace(fleet(*serving("p1", "p2", "d1")), start_failures={Role.DECODER: 3})
    of = replace(of, start_retry_at_s={Role.DECODER: NOW_S + 9})
    assert [type(a) for a in actions(of, 1, 2)] == [DrainNode]


def test_a_draining_node_is_taken_back_before_another_is_started() -> None:
    of = fleet(*serving("p1", "d1"), node("p2", S.DRAINING))
    assert actions(of, 2, 1) == [PublishNode("p2")]


def test_a_removal_begun_before_a_restart_is_not_taken_back() -> None:
    of = replace(fleet(*serving("p1", "d1"), node("p2", S.DRAINING)), inherited=frozenset({"p2"}))
    assert actions(of, 2, 1) == [StartNode(Role.PROMPT, "start-1")]


def test_what_is_taken_back_is_not_withdrawn_by_the_same_plan() -> None:
    of = fleet(
        *serving("p1", "d1"), node("p2", S.DRAINING), published=frozenset({"p1", "p2", "d1"})
    )
    assert actions(of, 1, 1) == [WithdrawNode("p2")]
    assert actions(of, 2, 1) == [PublishNode("p2")]


def test_a_role_of_which_none_can_leave_does_not_keep_the_other_from_leaving() -> None:
    rules = Rules(guard=GuardRules(limits=Limits(nodes_max=3)))
    of = replace(fleet(*serving("p1", "d1", "d2")), drains=frozenset({"p1"}))
    assert actions(of, 1, 1, rules=rules) == [DrainNode("d1", "more nodes than the target")]


def test_a_leaving_node_that_the_router_lists_again_is_withdrawn_before_it_is_stopped() -> None:
    for state in (S.UNLINKING, S.STOPPING):
        listed = frozenset({"p1", "p2", "d1"})
        of = fleet(*serving("p1", "d1"), node("p2", state), published=listed)
        assert WithdrawNode("p2") in actions(of, 1, 1)
        assert StopNode("p2") not in actions(of, 1, 1)
        assert planner.premise_holds(of, WithdrawNode("p2"), listed, RULES)


def test_a_node_that_does_not_stop_blocks_removals_only_until_its_time_is_up() -> None:
    young = fleet(*serving("p1", "p2", "d1"), node("p3", S.STOPPING, since_s=NOW_S - 10))
    assert not [a for a in actions(young, 1, 1) if isinstance(a, DrainNode)]
    old = fleet(*serving("p1", "p2", "d1"), node("p3", S.STOPPING, since_s=NOW_S - 61))
    assert [a for a in actions(old, 1, 1) if isinstance(a, DrainNode)]


def test_a_node_asked_to_drain_is_replaced_first() -> None:
    of = replace(fleet(*serving("p1", "d1")), drains=frozenset({"p1"}))
    assert actions(of, 1, 1) == [StartNode(Role.PROMPT, "start-1")]
    replaced = replace(fleet(*serving("p1", "p2", "d1")), drains=frozenset({"p1"}))
    assert actions(replaced, 1, 1) == [DrainNode("p1", "asked to drain")]


def test_a_node_is_published_only_when_linked_to_every_published_one() -> None:
    of = fleet(*serving("p1", "d1", "d2"), node("p2", S.LINKING, since_s=NOW_S))
    assert actions(of, 2, 2) == [PublishNode("p2")]
    links = dict(of.links)
    links["d2", "p2"] = replace(links["d2", "p2"], state=LinkState.LINKING)
    assert actions(replace(of, links=links), 2, 2) == []


def test_two_nodes_joining_together_are_not_published_unlinked_to_each_other() -> None:
    of = fleet(node("p1", S.LINKING, since_s=NOW_S), node("d1", S.LINKING, since_s=NOW_S))
    assert actions(of, 1, 1) == [PublishNode("p1"), PublishNode("d1")]
    unlinked = replace(of.links["d1", "p1"], state=LinkState.FAILED, retry_at_s=NOW_S + 9)
    of = replace(of, links={("d1", "p1"): unlinked})
    assert actions(of, 1, 1) == [PublishNode("p1")]


def test_a_node_being_published_counts_as_published() -> None:
    of = fleet(node("p1", S.LINKING, since_s=NOW_S), node("d1", S.LINKING, since_s=NOW_S))
    unlinked = replace(of.links["d1", "p1"], state=LinkState.FAILED, retry_at_s=NOW_S + 9)
    of = replace(of, links={("d1", "p1"): unlinked})
    assert actions(of, 1, 1, busy=frozenset({node_thing("p1")})) == []


def test_a_published_node_that_cannot_link_a_newcomer_gives_way_if_it_can_be_spared() -> None:
    of = fleet(*serving("p1", "d1", "d2", "d3"), node("p2", S.LINKING, since_s=NOW_S - 121))
    bad = replace(of.links["d2", "p2"], state=LinkState.FAILED, retry_at_s=NOW_S + 9)
    of = replace(of, links={**of.links, ("d2", "p2"): bad})
    assert actions(of, 2, 3) == [WithdrawNode("d2")]
    assert actions(of, 2, 3, leave=Leave(spare=frozenset())) == []


def test_a_node_that_cannot_be_linked_to_most_of_its_peers_is_given_up_for_another() -> None:
    def with_failing(*pairs: tuple[str, str], waited_s: float = 241) -> Fleet:
        joining = node("p4", S.LINKING, since_s=NOW_S - waited_s)
        of = fleet(*serving("p1", "p2", "p3", "d1", "d2", "d3"), joining)
        bad = {
            pair: replace(link, state=LinkState.FAILED, attempts=5, retry_at_s=NOW_S + 9)
            for pair, link in of.links.items()
            if pair in pairs
        }
        return replace(of, links={**of.links, **bad})

    most = (("d1", "p4"), ("d2", "p4"))
    given_up = [DrainNode("p4", "cannot be linked to most of its peers")]
    assert actions(with_failing(*most), 4, 3) == given_up
    assert actions(with_failing(*most, waited_s=239), 4, 3) == []
    assert actions(with_failing(*most), 4, 3, leave=Leave(may_remove=False)) == []
    assert actions(with_failing(most[0]), 4, 3, leave=Leave(spare=frozenset())) == []
    elsewhere = (("d1", "p1"), ("d2", "p1"), ("d3", "p1"))
    assert actions(with_failing(*most, *elsewhere), 4, 3) == []


def test_a_dead_node_is_withdrawn_and_then_stopped() -> None:
    dead = node("p2", S.FAILED)
    listed = fleet(*serving("p1", "d1"), dead, published=frozenset({"p1", "p2", "d1"}))
    assert WithdrawNode("p2") in actions(listed, 1, 1)
    withdrawn = fleet(*serving("p1", "d1"), dead)
    assert StopNode("p2") in actions(withdrawn, 1, 1)


def test_a_new_agent_is_initialised_and_a_linkable_node_linked() -> None:
    of = fleet(*serving("d1"), node("p1", S.INITIALISING))
    agents = dict(of.agents)
    agents["p1"] = replace(agents["p1"], phase=AgentPhase.NEW)
    assert actions(replace(of, agents=agents), 1, 1) == [InitNode("p1", Role.PROMPT)]
    of = fleet(*serving("d1"), node("p1", S.LINKING, since_s=NOW_S))
    unlinked = replace(of.links["d1", "p1"], state=LinkState.ABSENT)
    [action] = actions(replace(of, links={("d1", "p1"): unlinked}), 1, 1)
    assert isinstance(action, LinkNodes)
    assert [peer.node_id for peer in action.prompts] == ["p1"]


def test_a_stopping_node_is_finalised_unless_a_call_hangs_in_it() -> None:
    of = fleet(*serving("p1", "d1"), node("p2", S.STOPPING))
    assert actions(of, 1, 1) == [FinalizeNode("p2")]
    agents = dict(of.agents)
    agents["p2"] = replace(agents["p2"], calls_hung=1)
    assert actions(replace(of, agents=agents), 1, 1) == [StopNode("p2")]


def test_a_blind_controller_does_nothing() -> None:
    assert actions(replace(fleet(*serving("p1", "d1")), is_blind=True), 4, 4) == []


def test_the_premise_of_a_removal_is_that_others_are_still_published() -> None:
    of = fleet(*serving("p1", "p2", "d1"))
    drain = DrainNode("p1", "")
    assert planner.premise_holds(of, drain, frozenset({"p1", "p2", "d1"}), RULES)
    assert not planner.premise_holds(of, drain, frozenset({"p1", "d1"}), RULES)


def test_a_restarted_node_is_withdrawn_even_if_it_is_the_last_of_its_role() -> None:
    of = fleet(*serving("p1"), node("d1", S.LINKING), published=frozenset({"p1", "d1"}))
    of = replace(of, withdrawing=frozenset({"d1"}))
    [withdraw] = actions(of, 1, 1)
    assert withdraw == WithdrawNode("d1")
    assert planner.premise_holds(of, withdraw, frozenset({"p1", "d1"}), RULES)


def test_nothing_is_started_before_the_fleet_that_is_there_has_been_seen() -> None:
    assert actions(Fleet(published=frozenset()), 4, 4) == []


def test_a_published_node_whose_link_is_only_under_way_does_not_give_way() -> None:
    of = fleet(*serving("p1", "d1", "d2", "d3"), node("p2", S.LINKING, since_s=NOW_S - 121))
    going_on = replace(of.links["d2", "p2"], state=LinkState.LINKING)
    of = replace(of, links={**of.links, ("d2", "p2"): going_on})
    assert actions(of, 2, 3) == []


def test_a_node_being_published_is_not_cancelled_in_the_same_breath() -> None:
    of = fleet(*serving("p1", "d1"), node("p2", S.LINKING, since_s=NOW_S))
    assert actions(of, 1, 1) == [PublishNode("p2")]


def broken(of: Fleet, *pairs: tuple[str, str], attempts: int = 5) -> Fleet:
    """Let these pairs have failed so often."""
    links = {
        k: replace(v, state=LinkState.FAILED, attempts=attempts, retry_at_s=NOW_S + 60)
        if k in pairs
        else v
        for k, v in of.links.items()
    }
    return replace(of, links=links)


def test_a_restarted_node_is_not_initialised_while_its_listing_is_unknown() -> None:
    of = fleet(*serving("p1"), node("d1", S.INITIALISING))
    agents = {**of.agents, "d1": replace(of.agents["d1"], phase=AgentPhase.NEW)}
    of = replace(of, agents=agents, withdrawing=frozenset({"d1"}))

    assert actions(replace(of, published=None), 1, 1) == []
    assert actions(replace(of, published=frozenset({"p1"})), 1, 1) == [InitNode("d1", Role.DECODER)]


def test_one_end_of_a_pair_that_stays_down_is_withdrawn_if_the_rest_carry_its_load() -> None:
    of = fleet(*serving("p1", "p2", "d1", "d2", "d3"))
    down = broken(of, ("d1", "p1"))
    assert actions(down, 2, 3) == [WithdrawNode("d1")]
    assert actions(down, 2, 3, leave=Leave(spare=frozenset({Role.PROMPT}))) == [WithdrawNode("p1")]
    assert actions(down, 2, 3, leave=Leave(spare=frozenset())) == []
    assert actions(broken(of, ("d1", "p1"), attempts=4), 2, 3) == []


def test_whoever_fails_with_most_is_withdrawn() -> None:
    of = fleet(*serving("p1", "p2", "d1", "d2", "d3", "d4"))
    assert actions(broken(of, ("d1", "p1"), ("d2", "p1")), 2, 4) == [WithdrawNode("p1")]


def test_where_many_pairs_fail_nobody_is_withdrawn_for_it() -> None:
    of = fleet(*serving("p1", "p2", "d1", "d2"))
    assert actions(broken(of, ("d1", "p1"), ("d2", "p2")), 2, 2) == []


def test_a_node_that_gave_way_does_not_push_out_whom_it_gave_way_to() -> None:
    late = replace(node("d1", S.LINKING, since_s=NOW_S - 200), served_at_s=NOW_S - 500)
    of = fleet(*serving("p1", "p2", "p3", "d2", "d3"), late)
    assert actions(broken(of, ("d1", "p1")), 3, 3) == []


def test_a_node_that_gave_way_and_cannot_come_back_is_replaced() -> None:
    late = replace(node("d1", S.LINKING, since_s=NOW_S - 300), served_at_s=NOW_S - 500)
    of = fleet(*serving("p1", "p2", "p3", "d2", "d3"), late)
    assert actions(broken(of, ("d1", "p1")), 3, 3) == [
        DrainNode("d1", "cannot be linked to all that serve")
    ]


def test_whoever_gave_way_is_not_back_before_the_newcomer_it_gave_way_to() -> None:
    gave_way = replace(node("p1", S.LINKING, since_s=NOW_S - 2), served_at_s=NOW_S - 500)
    newcomer = node("d3", S.LINKING, since_s=NOW_S - 200)
    of = fleet(*serving("p2", "p3", "d1", "d2"), gave_way, newcomer)
    assert actions(broken(of, ("d3", "p1")), 3, 3) == [PublishNode("d3")]


def test_nobody_gives_way_for_a_link_that_a_limit_forbids() -> None:
    full = replace(node("p1"), endpoints=(replace(node("p1").endpoints[0], links_max=2),))
    newcomer = node("d3", S.LINKING, since_s=NOW_S - 200)
    of = fleet(full, *serving("p2", "p3", "d1", "d2"), newcomer)
    assert actions(broken(of, ("d3", "p1")), 3, 3) == []
