"""Unlinking: what is dropped, at which end, by which way, and what is left alone."""

from dataclasses import replace

import pytest

from pd_autoscaler.core import mesh
from pd_autoscaler.core.fleet import Fleet, link_thing, unlink_thing
from pd_autoscaler.core.ranks import RankMapping
from pd_autoscaler.core.rules import LinkRules
from pd_autoscaler.model.facts import EntryState, LinkEntry
from pd_autoscaler.model.link import LinkState
from pd_autoscaler.model.node import Endpoint, Node, NodeState
from pd_autoscaler.model.plan import UnlinkNodes
from tests.support.fleets import NOW_S, fleet, node, row

S, L = NodeState, LinkState
RULES = LinkRules()


def unlinks(
    of: Fleet, *busy: str, rules: LinkRules = RULES
) -> set[tuple[str, str, tuple[str, ...]]]:
    """Tell the planned unlinks as (way, at which node, from which peers)."""
    return {
        ("force" if a.force else "unlink", a.node_id, tuple(p.node_id for p in a.peers))
        for a in mesh.planned(of, frozenset(busy), rules, now_s=NOW_S)
        if isinstance(a, UnlinkNodes)
    }


def with_link(of: Fleet, pair: tuple[str, str], **changes: object) -> Fleet:
    changed = replace(of.links[pair], **changes)  # type: ignore[arg-type]  # Any field, by name.
    return replace(of, links={**of.links, pair: changed})


def with_rows(of: Fleet, decoder: str, *rows: LinkEntry) -> Fleet:
    return replace(of, agents={**of.agents, decoder: replace(of.agents[decoder], links=rows)})


def limited(node_id: str, links_max: int) -> Node:
    of = node(node_id)
    return replace(of, endpoints=(replace(of.endpoints[0], links_max=links_max),))


def full() -> Fleet:
    """Make a mesh in which p1's card is full with d1, so that d2 cannot be linked to it."""
    of = fleet(limited("p1", 1), node("d1"), node("d2"))
    of = with_link(with_rows(of, "d2"), ("d2", "p1"), state=L.ABSENT)
    return replace(of, linked={"p1/1": frozenset({101})})


def leaving(*decoders: str) -> Fleet:
    """Make a mesh that p2 is leaving."""
    return fleet(node("p1"), node("p2", S.UNLINKING), *(node(d) for d in decoders))


def test_what_a_pair_that_cannot_be_linked_again_left_at_the_prompt_node_is_dropped() -> None:
    assert unlinks(full()) == set()
    left = replace(full(), linked={"p1/1": frozenset({101, 102})})
    assert unlinks(left) == {("force", "p1", ("d2",))}


def test_a_pair_that_is_up_in_part_and_cannot_be_completed_is_given_up() -> None:
    two = (Endpoint(0, 10, "127.0.0.1", 1, links_max=2), Endpoint(1, 11, "127.0.0.1", 2))
    of = fleet(replace(node("p1"), endpoints=two), node("d1"), node("d2"))
    rules = replace(RULES, ranks=RankMapping.ALL_TO_ALL)
    rows = [LinkEntry(cluster_id=i, state=EntryState.LINKED) for i in (10, 11)]
    of = with_rows(with_rows(of, "d1", *rows), "d2", rows[0])
    part = with_link(of, ("d2", "p1"), state=L.ABSENT, endpoints_up=1)
    assert unlinks(part, rules=rules) == set()
    tight = replace(two[0], links_max=1), two[1]
    over = part.with_node(replace(part.nodes["p1"], endpoints=tight))
    assert unlinks(over, rules=rules) == {("unlink", "d2", ("p1",))}


def twins(second: NodeState = S.SERVING) -> Fleet:
    """Make p2 report p1's cluster id; d1 is linked to p1."""
    twin = replace(node("p2", second), endpoints=node("p1").endpoints)
    of = fleet(node("p1"), twin, node("d1"))
    return with_rows(of, "d1", row(node("p1")))


@pytest.mark.parametrize("state", [L.LINKED, L.LINKING])
def test_an_entry_that_is_of_a_link_to_another_node_is_not_dropped_for_its_twin(
    state: LinkState,
) -> None:
    of = with_link(with_link(twins(), ("d1", "p1"), state=state), ("d1", "p2"), state=L.SUSPECT)
    assert not {call for call in unlinks(of) if call[1] == "d1"}


def test_where_nobody_else_is_linked_under_a_shared_id_doubt_is_cured_as_ever() -> None:
    of = with_link(with_link(twins(), ("d1", "p1"), state=L.ABSENT), ("d1", "p2"), state=L.SUSPECT)
    assert ("force", "d1", ("p2",)) in unlinks(of)


def test_an_id_that_two_decoders_report_is_dropped_only_when_neither_needs_it() -> None:
    twin = replace(node("d2"), endpoints=node("d1").endpoints)
    of = with_link(fleet(node("p1"), node("d1"), twin), ("d2", "p1"), state=L.ABSENT)
    of = with_rows(of, "d2")
    assert unlinks(of) == set()
    dead = of.with_node(replace(twin, state=S.FAILED)).with_node(
        replace(node("d1"), state=S.FAILED)
    )
    assert unlinks(dead) == {("force", "p1", ("d1",))}


def test_an_unlink_that_is_under_way_is_not_made_a_second_time() -> None:
    of = with_link(leaving("d1"), ("d1", "p2"), state=L.UNLINKING)
    assert unlinks(of) == set()


def test_a_link_call_under_way_to_a_node_that_failed_is_waited_for() -> None:
    of = fleet(node("p1"), node("p2", S.FAILED), node("d1"))
    pair = {("d1", "p2"): replace(of.links["d1", "p1"], prompt="p2", state=L.LINKING)}
    of = replace(of, links={**of.links, **pair})
    calling = LinkEntry(cluster_id=2, state=EntryState.LINKING, peer_incarnation="p2/1")
    assert unlinks(with_rows(of, "d1", row(node("p1")), calling)) == set()


def test_a_leaving_node_whose_agent_is_silent_is_dropped_by_force() -> None:
    of = leaving("d1")
    silent = of.with_node(replace(of.nodes["p2"], is_suspect=True))
    assert unlinks(silent) == {("force", "d1", ("p2",))}


def test_a_decoder_whose_agent_is_silent_is_asked_for_nothing() -> None:
    of = leaving("d1")
    stranger = LinkEntry(cluster_id=999, state=EntryState.LINKED)
    of = with_rows(of, "d1", row(node("p1")), row(node("p2")), stranger)
    assert unlinks(of) == {("unlink", "d1", ("p2",)), ("force", "d1", ("cluster 999",))}
    assert unlinks(of.with_node(replace(node("d1"), is_suspect=True))) == set()


def test_a_prompt_node_drops_unknown_ids_once_every_node_has_been_met() -> None:
    of = replace(fleet(node("p1"), node("d1")), linked={"p1/1": frozenset({101, 777})})
    assert unlinks(of) == {("force", "p1", ("cluster 777",))}
    assert unlinks(replace(of, has_unmet=True)) == set()


@pytest.mark.parametrize("thing", [link_thing("d1", "p2"), unlink_thing("d1", "p2")])
def test_a_leaving_prompt_node_drops_what_its_decoder_left_unless_a_call_is_under_way(
    thing: str,
) -> None:
    of = with_link(leaving("d1"), ("d1", "p2"), state=L.ABSENT)
    of = with_rows(of, "d1", row(node("p1")))
    assert unlinks(of) == {("force", "p2", ("d1",))}
    assert unlinks(of, thing) == set()


def test_a_prompt_node_does_not_drop_what_its_decoder_still_holds_in_part() -> None:
    of = with_link(leaving("d1"), ("d1", "p2"), state=L.ABSENT, endpoints_up=1)
    assert unlinks(of) == {("unlink", "d1", ("p2",))}


def test_unlinks_that_an_earlier_controller_began_count_against_the_limit() -> None:
    of = with_link(leaving("d1", "d2", "d3"), ("d1", "p2"), state=L.UNLINKING)
    rules = replace(RULES, in_flight_max=2)
    assert unlinks(of, rules=rules) == {("unlink", "d2", ("p2",))}


def test_a_pair_of_more_unlink_calls_than_slots_goes_alone() -> None:
    ends = tuple(Endpoint(i, 200 + i, "127.0.0.1") for i in range(4))
    of = fleet(
        node("p1"),
        node("p2", S.UNLINKING),
        *(
            replace(
                node(d), endpoints=tuple(replace(e, cluster_id=e.cluster_id + 10 * n) for e in ends)
            )
            for n, d in enumerate(("d1", "d2"))
        ),
    )
    of = with_rows(with_rows(of, "d1"), "d2")
    rules = replace(RULES, in_flight_max=3)
    assert unlinks(of, rules=rules) == {("unlink", "d1", ("p2",))}
