"""The mesh: what is wanted against what is known, repaired from either end."""

from dataclasses import replace

from pd_autoscaler.core import mesh, outcomes
from pd_autoscaler.core.fleet import Fleet, link_thing, unlink_thing
from pd_autoscaler.core.rules import LinkRules, Rules
from pd_autoscaler.model.facts import EntryState, LinkEntry
from pd_autoscaler.model.link import Link, LinkState, Verdict
from pd_autoscaler.model.node import Endpoint, NodeState
from pd_autoscaler.model.plan import Action, LinkNodes, UnlinkNodes
from pd_autoscaler.model.report import Done, Failed
from tests.support.fleets import NOW_S, cluster_id, fleet, link, node, row

S, L = NodeState, LinkState
RULES = LinkRules()


def calls(of: Fleet, *busy: str) -> list[tuple[str, str, list[str]]]:
    """Tell the planned calls as (verb, at which node, to which peers)."""
    return [told(a) for a in mesh.planned(of, frozenset(busy), RULES, now_s=NOW_S)]


def told(action: Action) -> tuple[str, str, list[str]]:
    match action:
        case LinkNodes(decoder_id=at, prompts=peers):
            return ("link", at, [p.node_id for p in peers])
        case UnlinkNodes(node_id=at, peers=peers, force=force):
            return ("force" if force else "unlink", at, [p.node_id for p in peers])
        case _:
            raise AssertionError(action)


def with_link(of: Fleet, pair: tuple[str, str], **changes: object) -> Fleet:
    changed = replace(of.links[pair], **changes)  # type: ignore[arg-type]  # Any field, by name.
    return replace(of, links={**of.links, pair: changed})


def with_rows(of: Fleet, decoder: str, *rows: LinkEntry) -> Fleet:
    """Let a decoder's table show these rows, and take them in."""
    agents = {**of.agents, decoder: replace(of.agents[decoder], links=rows)}
    return mesh.observed(replace(of, agents=agents), frozenset(agents), now_s=NOW_S)


def small() -> Fleet:
    return fleet(node("p1"), node("p2"), node("d1"), node("d2"))


def test_a_whole_mesh_needs_no_call_and_what_is_found_is_adopted() -> None:
    of = small()
    assert calls(of) == []
    found = mesh.observed(replace(of, links={}), frozenset(of.agents), now_s=NOW_S)
    assert {link.state for link in found.links.values()} == {L.LINKED}
    assert calls(found) == []


def test_a_link_that_is_found_is_remembered_at_its_prompt_node() -> None:
    of = replace(small(), linked={}, links={})
    found = mesh.observed(of, frozenset(of.agents), now_s=NOW_S)
    both = frozenset({cluster_id("d1"), cluster_id("d2")})
    assert found.linked == {"p1/1": both, "p2/1": both}


def test_a_missing_link_is_made_by_its_decoder_in_one_batch() -> None:
    of = with_rows(small(), "d1")
    assert calls(of) == [("link", "d1", ["p1", "p2"])]


def test_a_pair_with_a_call_under_way_is_left_alone() -> None:
    of = with_rows(small(), "d1")
    assert calls(of, link_thing("d1", "p1")) == [("link", "d1", ["p2"])]
    assert calls(of, unlink_thing("p1", "d1")) == [("link", "d1", ["p2"])]


def test_an_unknown_outcome_blocks_its_pair_alone() -> None:
    of = replace(with_rows(small(), "d1"), blocked={link_thing("d1", "p1"): NOW_S})
    assert calls(of) == [("link", "d1", ["p2"])]


def test_a_failed_pair_waits_longer_each_time_and_blocks_no_other() -> None:
    of = with_rows(small(), "d1")
    link = of.links["d1", "p1"]
    waits = []
    for _ in range(8):
        link = mesh.failed(
            link, code="LLM_LINK_FAILED", verdict=Verdict.RETRY, why="", now_s=0, rules=RULES
        )
        waits.append(link.retry_at_s)
    assert waits == sorted(waits)
    assert waits[-1] <= RULES.backoff_max_s * 1.2
    of = with_link(of, ("d1", "p1"), state=L.FAILED, retry_at_s=NOW_S + 1)
    assert calls(of) == [("link", "d1", ["p2"])]


def test_a_restarted_prompt_node_is_unlinked_by_force_then_linked() -> None:
    of = small()
    p1 = replace(of.nodes["p1"], incarnation="p1/2")
    of = of.with_node(p1)
    of = with_rows(of, "d1", row(node("p1")), row(of.nodes["p2"]))
    assert of.links["d1", "p1"].state is L.SUSPECT
    assert ("force", "d1", ["p1"]) in calls(of)
    unlinked = mesh.unlinked(of.links["d1", "p1"], now_s=NOW_S)
    of = replace(of, links={**of.links, ("d1", "p1"): unlinked})
    of = with_rows(of, "d1", row(of.nodes["p2"]))
    assert ("link", "d1", ["p1"]) in calls(of)


def test_a_call_past_its_deadline_is_cured_at_both_ends_while_others_go_on() -> None:
    of = with_rows(small(), "d1", row(node("p1"), EntryState.UNKNOWN))
    assert calls(of, link_thing("d1", "p1")) == [
        ("link", "d1", ["p2"]),
        ("force", "d1", ["p1"]),
    ]
    assert calls(of)[1:] == [("force", "d1", ["p1"]), ("force", "p1", ["d1"])]


def test_a_time_out_leaves_the_pair_suspect_until_a_forced_unlink_ended() -> None:
    of = with_rows(small(), "d1", row(node("p2")))
    link = mesh.failed(
        of.links["d1", "p1"],
        code="LLM_TIMEOUT",
        verdict=Verdict.FORCE,
        why="",
        now_s=NOW_S,
        rules=RULES,
    )
    of = replace(of, links={**of.links, ("d1", "p1"): link})
    of = with_rows(of, "d1", row(node("p2")))
    assert of.links["d1", "p1"].state is L.SUSPECT
    assert ("force", "d1", ["p1"]) in calls(of)


def test_a_leaving_node_is_unlinked_normally_by_each_decoder() -> None:
    of = fleet(node("p1"), node("p2", S.UNLINKING), node("d1"), node("d2"))
    of = with_rows(of, "d1", row(node("p1")), row(node("p2")))
    of = with_rows(of, "d2", row(node("p1")), row(node("p2")))
    assert calls(of) == [("unlink", "d1", ["p2"]), ("unlink", "d2", ["p2"])]


def test_an_unlink_that_failed_is_forced() -> None:
    of = fleet(node("p1"), node("p2", S.UNLINKING), node("d1"))
    of = with_rows(of, "d1", row(node("p1")), row(node("p2")))
    of = with_link(of, ("d1", "p2"), attempts=1)
    assert calls(of) == [("force", "d1", ["p2"])]


def test_a_dead_prompt_node_is_dropped_by_its_decoders_by_force() -> None:
    of = fleet(node("p1"), node("p2", S.FAILED), node("d1"))
    of = with_rows(of, "d1", row(node("p1")), row(node("p2")))
    assert calls(of) == [("force", "d1", ["p2"])]


def test_a_dead_decoder_is_dropped_by_the_prompt_nodes_it_ever_linked() -> None:
    of = fleet(node("p1"), node("d1"))
    of = replace(of, linked={"p1/1": frozenset({cluster_id("d1"), cluster_id("d7")})})
    assert calls(of) == [("force", "p1", [f"cluster {cluster_id('d7')}"])]


def test_a_dead_decoder_of_several_ranks_is_dropped_as_one_pair() -> None:
    dead = replace(
        node("d2", S.FAILED),
        endpoints=(Endpoint(0, 102, "127.0.0.1"), Endpoint(1, 202, "127.0.0.1")),
    )
    of = fleet(node("p1"), node("d1"), dead)
    of = replace(of, linked={"p1/1": frozenset({101, 102, 202})})
    [call] = mesh.planned(of, frozenset(), RULES, now_s=NOW_S)
    assert isinstance(call, UnlinkNodes)
    [peer] = call.peers
    assert peer.node_id == "d2"
    assert [e.cluster_id for e in peer.endpoints] == [102, 202]
    of = outcomes.ended(of, Done(call), Rules(), now_s=NOW_S)
    assert of.linked == {"p1/1": frozenset({101})}


def test_an_unlink_that_keeps_failing_waits_longer_each_time_at_its_end_alone() -> None:
    of = fleet(node("p1"), node("p2"), node("d1"))
    gone = frozenset({101, 177})
    of = replace(of, linked={"p1/1": gone, "p2/1": gone})
    [first, _] = mesh.planned(of, frozenset(), RULES, now_s=NOW_S)
    dues = []
    for _ in range(9):
        of = outcomes.ended(of, Failed(first, "HTTP 500"), Rules(), now_s=NOW_S)
        dues.append(of.unlink_waits[unlink_thing("p1", "cluster 177")][1] - NOW_S)
    assert dues[0] == 0
    assert dues == sorted(dues)
    assert 40 < dues[-1] <= RULES.backoff_max_s * 1.2
    assert calls(of) == [("force", "p2", ["cluster 177"])]
    of = outcomes.ended(of, Done(first), Rules(), now_s=NOW_S)
    assert of.unlink_waits == {}


def test_what_a_prompt_node_dropped_of_a_dead_decoder_is_not_remembered_again() -> None:
    of = fleet(node("p1"), node("d1", S.FAILED))
    of = replace(of, links={("d1", "p1"): link(of.nodes["d1"], of.nodes["p1"])})
    of = replace(of, linked={"p1/1": frozenset({101})})
    [call] = mesh.planned(of, frozenset(), RULES, now_s=NOW_S)
    of = outcomes.ended(of, Done(call), Rules(), now_s=NOW_S)
    of = mesh.observed(of, frozenset({"p1"}), now_s=NOW_S + 1)
    assert of.linked == {}
    assert calls(of) == []


def test_a_link_that_did_not_change_stays_the_same_object() -> None:
    of = small()
    again = mesh.observed(of, frozenset(of.agents), now_s=NOW_S + 5)
    assert all(again.links[pair] is link for pair, link in of.links.items())


def test_a_row_of_a_node_that_is_no_more_is_dropped_by_force() -> None:
    of = fleet(node("p1"), node("d1"))
    of = with_rows(of, "d1", row(node("p1")), row(node("p9")))
    assert calls(of) == [("force", "d1", ["cluster 9"])]


def test_nothing_is_called_before_every_node_found_has_answered() -> None:
    of = replace(with_rows(small(), "d1", row(node("p9"))), is_synced=False)
    assert calls(of) == []


def test_a_suspect_node_is_not_called_and_not_linked() -> None:
    of = with_rows(small(), "d1")
    of = of.with_node(replace(of.nodes["d1"], is_suspect=True))
    assert calls(of) == []


def test_no_more_calls_are_planned_than_a_decoder_and_a_prompt_node_serve_at_once() -> None:
    many = fleet(*[node(f"p{i}") for i in range(1, 21)], node("d1"))
    [(_, _, peers)] = calls(with_rows(many, "d1"))
    assert len(peers) == 16
    crowd = fleet(node("p1"), *[node(f"d{i}") for i in range(1, 21)])
    for decoder in [n for n in crowd.nodes if n[0] == "d"]:
        crowd = with_rows(crowd, decoder)
    assert len(calls(crowd)) == 16


def test_a_node_is_unlinked_when_nothing_is_left_on_either_side() -> None:
    of = fleet(node("p1"), node("d1", S.UNLINKING))
    of = with_rows(of, "d1", row(node("p1")))
    assert not mesh.unlinked_from(of, of.nodes["d1"])
    gone: Link = mesh.unlinked(of.links["d1", "p1"], now_s=NOW_S)
    of = replace(of, links={("d1", "p1"): gone})
    assert not mesh.unlinked_from(of, of.nodes["d1"])
    of = of.forget_linked("p1/1", [cluster_id("d1")])
    assert mesh.unlinked_from(of, of.nodes["d1"])
