"""Joining: who may be published beside whom, and who gives way where a link cannot be had."""

from dataclasses import replace

import pytest

from pd_autoscaler.core import joining
from pd_autoscaler.core.fleet import Fleet, node_thing
from pd_autoscaler.core.rules import Rules
from pd_autoscaler.core.sight import Leave, Sight
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.link import LinkState
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.plan import Action, PublishNode, WithdrawNode
from tests.support.fleets import NOW_S, fleet, node

S = NodeState


def seen(of: Fleet, *busy: str, spare: frozenset[Role] = frozenset(Role)) -> Sight:
    return Sight(
        fleet=of,
        target=Target(9, 9),
        rules=Rules(),
        busy=frozenset(busy),
        leave=Leave(spare=spare),
        now_s=NOW_S,
    )


def published(of: Fleet, *busy: str, spare: frozenset[Role] = frozenset(Role)) -> list[Action]:
    return list(joining.publications(seen(of, *busy, spare=spare)))


def parted(of: Fleet, *busy: str) -> list[Action]:
    return list(joining.partings(seen(of, *busy)))


def of_nodes(*names: str, others: tuple[Node, ...] = ()) -> Fleet:
    return fleet(*(node(name) for name in names), *others)


def down(of: Fleet, *pairs: tuple[str, str], state: LinkState = LinkState.FAILED) -> Fleet:
    broken = {p: replace(of.links[p], state=state, attempts=5, retry_at_s=0.0) for p in pairs}
    return replace(of, links={**of.links, **broken})


def joining_fleet(*names: str) -> Fleet:
    """Make a fleet beside which p9 joins, all linked."""
    return of_nodes(*names, others=(node("p9", S.LINKING, since_s=NOW_S - 1),))


def stuck_fleet(*names: str) -> Fleet:
    """Make a fleet in which d1 has failed to link the newcomer p9 for long."""
    late = node("p9", S.LINKING, since_s=NOW_S - 500)
    return down(of_nodes(*names, others=(late,)), ("d1", "p9"))


def test_a_newcomer_that_is_linked_to_all_is_published() -> None:
    assert published(joining_fleet("p1", "d1")) == [PublishNode("p9")]


def test_nothing_is_published_where_the_router_is_silent_or_nodes_have_not_been_met() -> None:
    of = joining_fleet("p1", "d1")
    assert published(replace(of, published=None)) == []
    assert published(replace(of, is_synced=False)) == []


def test_a_newcomer_whose_agent_is_silent_is_not_published() -> None:
    of = joining_fleet("p1", "d1")
    assert published(of.with_node(replace(of.nodes["p9"], is_suspect=True))) == []


def test_a_publication_that_had_no_effect_is_asked_for_again_once_its_action_has_ended() -> None:
    of = replace(joining_fleet("p1", "d1"), publishing=frozenset({"p9"}))
    assert published(of, node_thing("p9")) == []
    assert published(of) == [PublishNode("p9")]


@pytest.mark.parametrize("state", [S.FAILED, S.UNLINKING, S.SWITCHING, S.STOPPING])
def test_a_newcomer_waits_for_no_link_to_a_node_that_the_router_lists_in_vain(
    state: NodeState,
) -> None:
    gone = node("d2", state)
    newcomer = node("p9", S.LINKING, since_s=NOW_S - 1)
    of = of_nodes("p1", "d1", others=(gone, newcomer))
    of = replace(of, published=frozenset({"p1", "d1", "d2"}))
    of = replace(of, links={pair: link for pair, link in of.links.items() if "d2" not in pair})
    assert published(of) == [PublishNode("p9")]


def test_a_newcomer_waits_for_no_link_to_a_node_that_is_to_be_withdrawn() -> None:
    of = down(joining_fleet("p1", "d1", "d2"), ("d2", "p9"))
    assert published(of) == []
    assert published(replace(of, withdrawing=frozenset({"d2"}))) == [PublishNode("p9")]


def test_a_newcomer_is_not_published_unlinked_to_one_that_is_just_being_published() -> None:
    other = node("d2", S.LINKING, since_s=NOW_S - 1)
    newcomer = node("p9", S.LINKING, since_s=NOW_S - 1)
    of = down(of_nodes("p1", "d1", others=(other, newcomer)), ("d2", "p9"))
    assert published(of, node_thing("d2")) == []


def test_the_one_node_that_cannot_link_a_newcomer_gives_way() -> None:
    assert published(stuck_fleet("p1", "d1", "d2", "d3")) == [WithdrawNode("d1")]


@pytest.mark.parametrize("state", [LinkState.LINKING, LinkState.ABSENT])
def test_a_link_that_has_not_failed_pushes_nobody_out(state: LinkState) -> None:
    of = down(stuck_fleet("p1", "d1", "d2", "d3"), ("d1", "p9"), state=state)
    assert published(of) == []


def test_nobody_gives_way_who_leaves_too_few_is_not_spared_or_is_busy() -> None:
    assert published(stuck_fleet("p1", "d1", "d2")) == []
    enough = stuck_fleet("p1", "d1", "d2", "d3")
    assert published(enough, spare=frozenset({Role.PROMPT})) == []
    assert published(enough, node_thing("d1")) == []


def test_nobody_gives_way_to_a_newcomer_that_two_cannot_link() -> None:
    of = down(stuck_fleet("p1", "d1", "d2", "d3", "d4"), ("d2", "p9"))
    assert published(of) == []


def test_a_pair_that_came_up_after_many_tries_parts_nobody() -> None:
    of = of_nodes("p1", "p2", "d1", "d2")
    assert parted(down(of, ("d1", "p1"))) == [WithdrawNode("d1")]
    assert parted(down(of, ("d1", "p1"), state=LinkState.LINKED)) == []


def test_the_last_of_a_role_and_one_that_is_busy_are_not_withdrawn_for_a_link() -> None:
    last = down(of_nodes("p1", "p2", "p3", "d1"), ("d1", "p1"))
    assert parted(last) == [WithdrawNode("p1")]
    busy = down(of_nodes("p1", "p2", "d1", "d2"), ("d1", "p1"))
    assert parted(busy, node_thing("d1")) == [WithdrawNode("p1")]


def test_exactly_a_third_of_all_pairs_down_is_still_a_nodes_fault() -> None:
    of = of_nodes("p1", "p2", "p3", "d1")
    assert parted(down(of, ("d1", "p1"))) == [WithdrawNode("p1")]
    assert parted(down(of, ("d1", "p1"), ("d1", "p2"))) == []
