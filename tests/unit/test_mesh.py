"""The mesh: what is wanted against what is known, repaired from either end."""

from dataclasses import replace

import pytest

from pd_autoscaler.core import link_tables, mesh, outcomes
from pd_autoscaler.core.fleet import Fleet, link_thing, unlink_thing
from pd_autoscaler.core.rules import LinkRules, Rules
from pd_autoscaler.model.facts import EntryState, LinkEntry
from pd_autoscaler.model.link import Link, LinkState, Verdict
from pd_autoscaler.model.node import Endpoint, Node, NodeState
from pd_autoscaler.model.plan import Action, LinkNodes, UnlinkNodes
from pd_autoscaler.model.report import Done, Failed
from tests.support.fleets import NOW_S, cluster_id, fleet, link, node, peer_of, row

S, L = NodeState, LinkState
UP = EntryState.LINKED
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
    return link_tables.observed(replace(of, agents=agents), frozenset(agents), RULES, now_s=NOW_S)


def small() -> Fleet:
    return fleet(node("p1"), node("p2"), node("d1"), node("d2"))


def test_a_whole_mesh_needs_no_call_and_what_is_found_is_adopted() -> None:
    of = small()
    assert calls(of) == []
    found = link_tables.observed(replace(of, links={}), frozenset(of.agents), RULES, now_s=NOW_S)
    assert {link.state for link in found.links.values()} == {L.LINKED}
    assert calls(found) == []


def test_a_link_that_is_found_is_remembered_at_its_prompt_node() -> None:
    of = replace(small(), linked={}, links={})
    found = link_tables.observed(of, frozenset(of.agents), RULES, now_s=NOW_S)
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
    of = replace(of, unlink_waits={unlink_thing("d1", "p2"): (1, NOW_S)})
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
    of = link_tables.observed(of, frozenset({"p1"}), RULES, now_s=NOW_S + 1)
    assert of.linked == {}
    assert calls(of) == []


def test_a_link_that_did_not_change_stays_the_same_object() -> None:
    of = small()
    again = link_tables.observed(of, frozenset(of.agents), RULES, now_s=NOW_S + 5)
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


def ranked(node_id: str, ranks: int, state: NodeState = S.SERVING) -> Node:
    first = node(node_id, state)
    base = first.cluster_ids[0] * 10
    return replace(
        first, endpoints=tuple(Endpoint(r, base + r, "127.0.0.1", 26000) for r in range(ranks))
    )


def rank_rows(prompt: Node, *ranks: tuple[int, int], state: EntryState = UP) -> list[LinkEntry]:
    """Make rows (decoder's rank, prompt's rank)."""
    return [
        LinkEntry(
            rank=d,
            cluster_id=prompt.cluster_ids[p],
            state=state,
            peer_incarnation=prompt.incarnation,
            code="LLM_SUCCESS",
        )
        for d, p in ranks
    ]


def test_a_link_is_up_when_all_its_endpoint_links_are() -> None:
    p1, d1 = ranked("p1", 4), ranked("d1", 2)
    of = replace(fleet(p1, d1), links={})
    part = with_rows(of, "d1", *rank_rows(p1, (0, 0), (1, 1), (0, 2)))
    assert (part.links["d1", "p1"].state, part.links["d1", "p1"].endpoints_up) == (L.ABSENT, 3)
    whole = with_rows(part, "d1", *rank_rows(p1, (0, 0), (1, 1), (0, 2), (1, 3)))
    assert (whole.links["d1", "p1"].state, whole.links["d1", "p1"].endpoints_up) == (L.LINKED, 4)


def test_a_link_that_is_up_in_part_is_linked_again_at_each_rank() -> None:
    p1, d1 = ranked("p1", 2), ranked("d1", 2)
    of = with_rows(replace(fleet(p1, d1), links={}), "d1", *rank_rows(p1, (0, 0)))
    [call] = mesh.planned(of, frozenset(), RULES, now_s=NOW_S)
    assert isinstance(call, LinkNodes)
    assert [(rank, e.cluster_id) for rank, e in call.prompts[0].calls] == [(0, 10), (1, 11)]


def test_what_is_up_in_part_is_unlinked_before_its_node_counts_as_unlinked() -> None:
    p1, d1 = ranked("p1", 2, S.UNLINKING), ranked("d1", 2)
    failed = rank_rows(p1, (1, 1), state=EntryState.FAILED)
    of = with_rows(replace(fleet(p1, d1), links={}), "d1", *rank_rows(p1, (0, 0)), *failed)
    assert of.links["d1", "p1"].state is L.FAILED
    assert not mesh.unlinked_from(of, p1)
    assert calls(of) == [("unlink", "d1", ["p1"])]
    of = replace(of, unlink_waits={unlink_thing("d1", "p1"): (1, NOW_S)})
    assert calls(of) == [("force", "d1", ["p1"])]


def test_rows_at_ranks_that_are_not_linked_by_this_mapping_are_dropped_by_force() -> None:
    p1, d1 = ranked("p1", 2), ranked("d1", 2)
    crossed = rank_rows(p1, (0, 0), (1, 1), (0, 1))
    of = with_rows(fleet(p1, d1), "d1", *crossed)
    [call] = mesh.planned(of, frozenset(), RULES, now_s=NOW_S)
    assert isinstance(call, UnlinkNodes)
    assert (call.force, call.peers[0].node_id, call.peers[0].ranks) == (True, "cluster 11", (0,))


def test_a_prompt_node_drops_a_dead_decoder_at_the_ranks_that_it_had_linked() -> None:
    p1, dead = ranked("p1", 4), ranked("d1", 2, S.FAILED)
    of = replace(fleet(p1, dead, node("d2")), linked={p1.incarnation: frozenset(dead.cluster_ids)})
    [call] = [
        a for a in mesh.planned(of, frozenset(), RULES, now_s=NOW_S) if type(a) is UnlinkNodes
    ]
    assert [(r, e.cluster_id) for r, e in call.peers[0].calls] == [
        (0, 1010), (1, 1011), (2, 1010), (3, 1011)
    ]  # fmt: skip


def test_engines_that_connect_by_themselves_are_never_linked() -> None:
    of = replace(small(), links={}, agents={})
    rules = replace(RULES, is_meshed=False)
    assert mesh.planned(of, frozenset(), rules, now_s=NOW_S) == []
    assert mesh.waits(of, frozenset(), rules, now_s=NOW_S) == ()


def test_every_wanted_pair_that_is_not_up_is_called_or_says_why_it_waits() -> None:
    of = fleet(*(node(n) for n in ("p1", "p2", "p3", "d1", "d2")))
    of = replace(of, links={k: mesh.unlinked(v, now_s=0) for k, v in of.links.items()})
    of = with_link(of, ("d1", "p2"), state=L.FAILED, attempts=3, retry_at_s=NOW_S + 9)
    of = replace(of.with_node(replace(of.nodes["d2"], is_suspect=True)), unreachable={"p3": "no"})
    waits = {(w.decoder, w.prompt): w for w in mesh.waits(of, frozenset(), RULES, now_s=NOW_S)}
    assert calls(of) == [("link", "d1", ["p1"])]
    assert {pair: (w.why, w.until_s) for pair, w in waits.items()} == {
        ("d1", "p2"): ("3 tries failed", NOW_S + 9),
        ("d1", "p3"): ("p3 takes no connection: no", None),
        ("d2", "p1"): ("the agent of d2 is silent", None),
        ("d2", "p2"): ("the agent of d2 is silent", None),
        ("d2", "p3"): ("the agent of d2 is silent", None),
    }


def doubts(of: Fleet, *moments: float) -> list[tuple[str, int]]:
    """Let d1's transfers from p1 fail at each moment; it is cured and linked again in between."""
    seen = []
    failing = replace(row(node("p1")), state=EntryState.UNKNOWN, code="LLM_TIMEOUT")
    for now_s in moments:
        up = {**of.agents, "d1": replace(of.agents["d1"], links=(row(node("p1")),))}
        of = link_tables.observed(replace(of, agents=up), frozenset(up), RULES, now_s=now_s)
        bad = {**up, "d1": replace(up["d1"], links=(failing,))}
        of = link_tables.observed(replace(of, agents=bad), frozenset(bad), RULES, now_s=now_s)
        link = of.links["d1", "p1"]
        seen.append((link.state.value, link.attempts))
        if link.state is L.SUSPECT:
            of = with_link(of, ("d1", "p1"), state=L.ABSENT)
    return seen


def test_a_link_whose_transfers_fail_is_cured_at_once_and_later_with_growing_patience() -> None:
    of = fleet(node("p1"), node("d1"))
    # Linked again at 1000.5: one second of patience, then (from 1003 on) two, then four.
    assert doubts(of, 1000, 1000.5, 1002, 1003, 1006, 1007, 1012) == [
        ("suspect", 1),
        ("linked", 1),
        ("suspect", 2),
        ("linked", 2),
        ("suspect", 3),
        ("linked", 3),
        ("suspect", 4),
    ]


def test_failures_are_forgotten_once_a_link_was_up_for_long() -> None:
    of = with_link(fleet(node("p1"), node("d1")), ("d1", "p1"), attempts=3, since_s=NOW_S)
    soon = link_tables.observed(of, frozenset(of.agents), RULES, now_s=NOW_S + 59)
    late = link_tables.observed(of, frozenset(of.agents), RULES, now_s=NOW_S + 61)
    assert (soon.links["d1", "p1"].attempts, late.links["d1", "p1"].attempts) == (3, 0)


def test_a_busy_link_is_unlinked_normally_again_and_later_not_by_force() -> None:
    of = fleet(node("p1"), node("p2", S.UNLINKING), node("d1"))
    of = with_rows(of, "d1", row(node("p1")), row(node("p2")))
    [call] = mesh.planned(of, frozenset(), RULES, now_s=NOW_S)
    busy = Failed(call, "LLM_LINK_BUSY", verdict=Verdict.RETRY, code="LLM_LINK_BUSY")
    of = outcomes.ended(of, busy, Rules(), now_s=NOW_S)
    assert calls(of) == []
    [again] = mesh.planned(of, frozenset(), RULES, now_s=NOW_S + 2)
    assert told(again) == ("unlink", "d1", ["p2"])


def test_so_many_decoders_unlink_a_prompt_node_at_a_time() -> None:
    decoders = [node(f"d{i}") for i in range(1, 8)]
    of = fleet(node("p1"), node("p2", S.UNLINKING), *decoders)
    rules = replace(RULES, in_flight_max=3)
    planned = mesh.planned(of, frozenset({unlink_thing("d1", "p2")}), rules, now_s=NOW_S)
    assert [told(a)[:2] for a in planned] == [("unlink", "d2"), ("unlink", "d3")]


def test_a_code_that_says_a_node_is_past_help_counts_as_many_failures() -> None:
    of = with_link(fleet(node("p1"), node("d1")), ("d1", "p1"), state=L.ABSENT)
    link = of.links["d1", "p1"]
    dead = mesh.failed(link, code="X", verdict=Verdict.REPLACE, why="X", now_s=NOW_S, rules=RULES)
    assert dead.attempts == RULES.attempts_max


def test_a_link_that_fails_its_transfers_before_it_was_seen_up_is_made_again_later_each_time() -> (
    None
):
    of = fleet(node("p1"), node("d1"))
    failing = replace(row(node("p1")), state=EntryState.UNKNOWN, code="LLM_TIMEOUT")
    waits = []
    for _ in range(3):
        of = with_link(of, ("d1", "p1"), state=L.LINKING)
        of = with_rows(of, "d1", failing)
        waits.append(of.links["d1", "p1"].retry_at_s - NOW_S)
    assert waits[0] == 0
    assert 0 < waits[1] < waits[2]


def test_a_pair_is_not_cured_by_force_while_a_rank_of_it_is_still_calling() -> None:
    p1, d1 = ranked("p1", 2), ranked("d1", 2)
    doubted = rank_rows(p1, (0, 0), state=EntryState.UNKNOWN)
    calling = rank_rows(p1, (1, 1), state=EntryState.LINKING)
    of = with_rows(fleet(p1, d1), "d1", *doubted, *calling)
    assert of.links["d1", "p1"].state is L.SUSPECT
    assert ("force", "d1", ["p1"]) not in calls(of)
    of = with_rows(of, "d1", *doubted, *rank_rows(p1, (1, 1)))
    assert ("force", "d1", ["p1"]) in calls(of)


@pytest.mark.parametrize(
    ("verdict", "attempts", "state", "is_longest"),
    [
        (Verdict.RETRY, 0, L.FAILED, False),
        (Verdict.RETRY, 3, L.FAILED, False),
        (Verdict.RETRY, 4, L.FAILED, True),
        (Verdict.CONFIG, 0, L.FAILED, True),
        (Verdict.FORCE, 0, L.SUSPECT, False),
    ],
)
def test_a_failed_call_waits_longer_each_time_and_the_longest_where_it_will_fail_again(
    verdict: Verdict, attempts: int, state: LinkState, is_longest: bool
) -> None:
    link = replace(small().links["d1", "p1"], state=L.LINKING, attempts=attempts)
    after = mesh.failed(link, code="X", verdict=verdict, why="X", now_s=NOW_S, rules=RULES)
    assert (after.state, after.attempts) == (state, attempts + 1)
    assert (after.retry_at_s - NOW_S >= RULES.backoff_max_s) == is_longest


def test_a_call_that_failed_while_its_pair_was_being_unlinked_is_noted_all_the_same() -> None:
    link = replace(small().links["d1", "p1"], state=L.LINKED)
    after = mesh.failed(link, code="X", verdict=Verdict.RETRY, why="X", now_s=NOW_S, rules=RULES)
    assert (after.state, after.attempts) == (L.FAILED, 1)


def test_a_call_that_is_to_be_tried_again_leaves_its_pair_in_its_state() -> None:
    link = replace(small().links["d1", "p1"], attempts=1)
    after = mesh.postponed(link, code="X", why="X", now_s=NOW_S, rules=RULES)
    assert (after.state, after.attempts) == (L.LINKED, 2)
    assert after.retry_at_s > NOW_S


def test_nothing_is_called_before_every_node_found_at_the_start_has_been_met() -> None:
    of = with_link(small(), ("d1", "p1"), state=L.ABSENT)
    assert calls(of)
    assert calls(replace(of, is_synced=False)) == []


def test_a_prompt_node_counts_as_unlinked_once_no_decoder_id_is_left_there() -> None:
    of = fleet(node("p1", S.UNLINKING), node("d1"))
    of = with_link(of, ("d1", "p1"), state=L.ABSENT)
    assert not mesh.unlinked_from(of, of.nodes["p1"])
    assert mesh.unlinked_from(replace(of, linked={}), of.nodes["p1"])


def test_before_all_have_been_met_only_pairs_that_are_not_up_say_that_they_wait() -> None:
    of = replace(with_link(small(), ("d1", "p1"), state=L.ABSENT), is_synced=False)
    [wait] = mesh.waits(of, frozenset(), RULES, now_s=NOW_S)
    assert (wait.decoder, wait.prompt) == ("d1", "p1")


@pytest.mark.parametrize("restarted", ["d1", "p1"])
def test_a_new_process_at_either_end_begins_without_the_failures_of_its_predecessor(
    restarted: str,
) -> None:
    of = with_link(small(), ("d1", "p1"), state=L.FAILED, attempts=7, retry_at_s=NOW_S + 60)
    again = replace(of.nodes[restarted], incarnation=f"{restarted}/2")
    of = with_rows(of.with_node(again), "d1")
    link = of.links["d1", "p1"]
    assert (link.attempts, link.retry_at_s) == (0, NOW_S)


def test_a_suspect_pair_stays_so_until_its_table_shows_it_up_or_it_was_cured() -> None:
    of = with_link(small(), ("d1", "p1"), state=L.SUSPECT)
    assert with_rows(of, "d1").links["d1", "p1"].state is L.SUSPECT
    failed = row(node("p1"), EntryState.FAILED)
    assert with_rows(of, "d1", failed).links["d1", "p1"].state is L.SUSPECT
    assert with_rows(of, "d1", row(node("p1"))).links["d1", "p1"].state is L.LINKED


@pytest.mark.parametrize("shown", [EntryState.LINKED, EntryState.LINKING])
def test_a_late_success_behind_the_cure_of_the_prompts_end_is_cured_at_its_own(
    shown: EntryState,
) -> None:
    of = with_link(small(), ("d1", "p1"), state=L.SUSPECT)
    of = of.forget_linked("p1/1", of.nodes["d1"].cluster_ids)
    of = with_rows(of, "d1", row(node("p1"), shown), row(node("p2")))
    assert of.links["d1", "p1"].state is L.SUSPECT
    of = with_rows(of, "d1", row(node("p1")), row(node("p2")))
    assert ("force", "d1", ["p1"]) in calls(of)


def test_a_pair_that_came_up_while_the_cure_of_its_prompts_end_was_under_way_is_in_doubt() -> None:
    of = small()
    cure = UnlinkNodes("p1", (peer_of(of.nodes["d1"]),), force=True)
    of = outcomes.ended(of, Done(cure), Rules(), now_s=NOW_S)
    assert of.links["d1", "p1"].state is L.SUSPECT
    assert ("force", "d1", ["p1"]) in calls(of)


def test_a_pair_in_the_same_state_takes_the_newest_code_and_reason_of_its_table() -> None:
    of = with_link(small(), ("d1", "p1"), state=L.SUSPECT, code="DEADLINE", why="a call is late")
    row_of = replace(row(node("p1"), EntryState.UNKNOWN), code="LLM_TIMEOUT")
    link = with_rows(of, "d1", row_of).links["d1", "p1"]
    assert (link.code, "LLM_TIMEOUT" in link.why) == ("LLM_TIMEOUT", True)
