"""What linking may not exceed: calls at an endpoint, links on a card, one owner an id."""

from dataclasses import replace

from pd_autoscaler.core import link_limits, mesh, planner
from pd_autoscaler.core.fleet import Fleet, link_thing
from pd_autoscaler.core.ranks import RankMapping
from pd_autoscaler.core.rules import GuardRules, LinkRules, Rules
from pd_autoscaler.core.sight import Leave
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.facts import EntryState, LinkEntry
from pd_autoscaler.model.link import LinkState, Wait
from pd_autoscaler.model.node import Endpoint, Node, NodeState, Role
from pd_autoscaler.model.plan import LinkNodes, StartNode
from pd_autoscaler.model.snapshot import Limits
from tests.support.fleets import NOW_S, agent, fleet, node

S = NodeState
RULES = LinkRules(in_flight_max=4)


def of_ranks(node_id: str, ranks: int, state: NodeState = S.SERVING, **limits: int | None) -> Node:
    """Make a node of so many ranks, with ids of its own; `links_max` limits each card."""
    first = node(node_id, state)
    base = first.cluster_ids[0] * 10
    ends = tuple(
        Endpoint(r, base + r, "127.0.0.1", 26000 + r, links_max=limits.get("links_max"))
        for r in range(ranks)
    )
    return replace(first, endpoints=ends)


def unlinked(*nodes: Node) -> Fleet:
    """Make a fleet that knows its pairs and has no link."""
    of = fleet(*nodes)
    links = {pair: mesh.unlinked(link, now_s=0.0) for pair, link in of.links.items()}
    agents = {n.id: agent(n, rows=tuple[LinkEntry, ...]()) for n in nodes}
    return replace(of, links=links, agents=agents, linked={})


def begun(of: Fleet, *busy: str, rules: LinkRules = RULES) -> dict[str, list[str]]:
    planned = mesh.planned(of, frozenset(busy), rules, now_s=NOW_S)
    return {a.decoder_id: [p.node_id for p in a.prompts] for a in planned if type(a) is LinkNodes}


def whys(of: Fleet, *busy: str, rules: LinkRules = RULES) -> set[str]:
    return {wait.why for wait in mesh.waits(of, frozenset(busy), rules, now_s=NOW_S)}


def test_so_many_calls_at_a_time_and_no_more_at_either_end() -> None:
    of = unlinked(node("d1"), *(node(f"p{i}") for i in range(1, 7)))
    assert len(begun(of)["d1"]) == 4
    assert len(begun(of, link_thing("d1", "p1"))["d1"]) == 3
    many = unlinked(node("p1"), *(node(f"d{i}") for i in range(1, 7)))
    assert len(begun(many)) == 4
    assert whys(many) == {"4 calls at a time at p1"}


def test_calls_are_counted_at_the_busiest_rank() -> None:
    # Each rank of d1 calls two ranks of a prompt node: two pairs fill its four slots.
    of = unlinked(of_ranks("d1", 2), *(of_ranks(f"p{i}", 4) for i in (1, 2, 3)))
    assert len(begun(of)["d1"]) == 2
    all_to_all = replace(RULES, ranks=RankMapping.ALL_TO_ALL)
    assert len(begun(of, rules=all_to_all)["d1"]) == 1


def test_a_pair_of_more_calls_than_slots_goes_alone() -> None:
    rules = replace(RULES, ranks=RankMapping.ALL_TO_ALL)
    of = unlinked(of_ranks("d1", 1), of_ranks("p1", 8), of_ranks("p2", 8))
    assert begun(of, rules=rules) == {"d1": ["p1"]}


def test_decoders_begin_with_different_prompt_nodes() -> None:
    of = unlinked(*(node(i) for i in ("d1", "d2", "d3", "p1", "p2", "p3")))
    firsts = {peers[0] for peers in begun(of).values()}
    assert firsts == {"p1", "p2", "p3"}


def test_a_card_holds_no_more_links_than_it_may_and_the_wait_names_both() -> None:
    of = unlinked(of_ranks("d1", 1, links_max=2), *(node(f"p{i}") for i in (1, 2, 3)))
    assert len(begun(of)["d1"]) == 2
    assert whys(of) == {"d1's card has 2 of 2 links"}
    without = unlinked(of_ranks("d1", 1, links_max=None), *(node(f"p{i}") for i in (1, 2, 3)))
    assert len(begun(without)["d1"]) == 3


def test_nodes_that_share_a_cluster_id_are_not_linked_and_others_are() -> None:
    twin = replace(node("p2"), endpoints=node("p1").endpoints)
    of = unlinked(node("d1"), node("p1"), twin, node("p3"))
    assert begun(of) == {"d1": ["p3"]}
    assert whys(of) == {"cluster id 1 is reported by p1, p2"}


def test_an_id_of_a_lost_node_that_may_still_live_is_not_used_again() -> None:
    dead = replace(node("p1", S.FAILED))
    heir = replace(node("p2"), endpoints=dead.endpoints)
    assert begun(unlinked(node("d1"), dead, heir)) == {}


def test_unequal_ranks_under_one_to_one_are_told_and_not_linked() -> None:
    rules = replace(RULES, ranks=RankMapping.ONE_TO_ONE)
    of = unlinked(of_ranks("d1", 2), of_ranks("p1", 4))
    assert begun(of, rules=rules) == {}
    assert mesh.waits(of, frozenset(), rules, now_s=NOW_S) == (
        Wait("d1", "p1", "one_to_one needs equal ranks: d1 has 2, p1 has 4", is_barred=True),
    )


def test_a_node_that_could_not_be_linked_is_not_started_and_the_note_names_limit_and_node() -> None:
    rules = Rules(guard=GuardRules(limits=Limits(nodes_max=9)))
    of = fleet(of_ranks("d1", 1, links_max=2), node("p1"), node("p2"))
    plan = planner.planned(of, Target(3, 1), rules, busy=frozenset(), leave=Leave(), now_s=NOW_S)
    assert plan.actions == ()
    assert plan.notes == ("no prompt node is started: d1's card may hold 2 links and would need 3",)


def test_only_as_many_are_started_as_can_be_linked_those_on_their_way_counted() -> None:
    rules = Rules(guard=GuardRules(limits=Limits(nodes_max=9)))
    coming = replace(node("p2", S.STARTING), endpoints=())
    of = fleet(of_ranks("d1", 1, links_max=3), node("p1"), coming)
    plan = planner.planned(of, Target(5, 1), rules, busy=frozenset(), leave=Leave(), now_s=NOW_S)
    assert plan.actions == (StartNode(Role.PROMPT, "start-1"),)
    assert len(plan.notes) == 1


def test_the_newcomers_own_card_counts_too() -> None:
    of = fleet(of_ranks("p1", 1, links_max=2), node("d1"), node("d2"), node("d3"))
    refusal = link_limits.no_room(of, Role.PROMPT, {}, RankMapping.MODULO)
    assert refusal == "its card may hold 2 links, as p1's, and would need 3"


def test_links_on_the_busiest_card_are_counted_by_rank() -> None:
    of = fleet(of_ranks("d1", 2), of_ranks("p1", 4), of_ranks("p2", 4))
    assert link_limits.card_links(of, RankMapping.MODULO) == {"d1": 4, "p1": 1, "p2": 1}
    assert link_limits.card_links(of, RankMapping.ALL_TO_ALL) == {"d1": 8, "p1": 2, "p2": 2}


def test_calls_and_links_to_nodes_that_are_no_more_still_take_their_places() -> None:
    of = unlinked(of_ranks("d1", 1, links_max=5), *(node(f"p{i}") for i in range(1, 5)))
    rows = tuple(
        LinkEntry(cluster_id=900 + i, state=state)
        for i, state in enumerate([EntryState.LINKING, EntryState.LINKED, EntryState.FAILED])
    )
    of = replace(of, agents={**of.agents, "d1": agent(of.nodes["d1"], rows=rows)})
    assert len(begun(of)["d1"]) == 3
    assert whys(of) == {"d1's card has 5 of 5 links"}


def test_what_a_prompt_node_may_hold_of_decoders_that_are_gone_takes_its_place() -> None:
    of = unlinked(of_ranks("p1", 1, links_max=2), node("d1"), node("d2"))
    assert len(begun(of)) == 2
    held = replace(of, linked={of.nodes["p1"].incarnation: frozenset({900})})
    assert len(begun(held)) == 1
    assert whys(held) == {"p1's card has 2 of 2 links"}


def test_a_pair_that_is_up_in_part_takes_its_whole_place_on_the_card() -> None:
    of = unlinked(of_ranks("d1", 1), of_ranks("p1", 2))
    assert link_limits.card_links(of, RankMapping.MODULO) == {}
    part = replace(of.links["d1", "p1"], endpoints_up=1)
    of = replace(of, links={part.pair: part})
    assert link_limits.card_links(of, RankMapping.MODULO) == {"d1": 2, "p1": 1}


def test_calls_that_an_earlier_controller_began_count_against_the_limit() -> None:
    of = unlinked(node("d1"), *(node(f"p{i}") for i in range(1, 7)))
    under_way = replace(of.links["d1", "p1"], state=LinkState.LINKING)
    of = replace(of, links={**of.links, under_way.pair: under_way})
    assert len(begun(of)["d1"]) == 3


def test_a_newcomer_whose_own_card_has_room_is_not_refused() -> None:
    of = fleet(of_ranks("p1", 1, links_max=3), node("d1"), node("d2"), node("d3"))
    assert link_limits.no_room(of, Role.PROMPT, {}, RankMapping.MODULO) == ""
