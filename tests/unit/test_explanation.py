"""What is said of a pair: its state, whether it is wanted, what was tried, and what comes next."""

from dataclasses import replace
from typing import Any

import pytest

from pd_autoscaler.core.attempts import KEPT_MAX, Attempt
from pd_autoscaler.core.explanation import pair_explained, troubled
from pd_autoscaler.core.scene import UNMESHED, Scene, spoken
from pd_autoscaler.model.decision import Hold, HoldReason, Mode
from pd_autoscaler.model.link import Link, LinkState, Wait
from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.model.plan import LinkNodes, Peer, UnlinkNodes, in_waves
from pd_autoscaler.model.report import Report
from tests.support.reports import START_UNIX_S, a_link, a_node, a_report, a_snapshot

NOW_S = 100.0
MEANINGS = {"LLM_LINK_FAILED": "the peer cannot be connected to"}
DUE = "next: a call is due in one of the next cycles"


def report_of(
    link: Link | None = None,
    *,
    decoder: NodeState = NodeState.SERVING,
    prompt: NodeState = NodeState.LINKING,
    **changes: Any,
) -> Report:
    """Return the report, three seconds old, of a controller that acts on one pair."""
    nodes = (a_node("d1", Role.DECODER, decoder), a_node("p1", Role.PROMPT, prompt))
    snapshot = replace(
        a_snapshot(nodes=nodes), now_s=NOW_S - 3.0, now_unix_s=START_UNIX_S + NOW_S - 3.0
    )
    links = () if link is None else (link,)
    return a_report(**{"snapshot": snapshot, "links": links, "epoch": 7, **changes})


def lines(report: Report, *attempts: Attempt) -> list[str]:
    scene = Scene(report=report, now_s=NOW_S, meanings=MEANINGS)
    return list(pair_explained(scene, ("d1", "p1"), attempts).lines)


def an_attempt(**changes: Any) -> Attempt:
    told: dict[str, Any] = {
        "at_unix_s": START_UNIX_S + 88.0,
        "node": "d1",
        "peer": "p1",
        "verb": "link",
        "outcome": "failed",
        "code": "LLM_LINK_FAILED",
        "why": "LLM_LINK_FAILED",
        "took_s": 5.0,
    }
    return Attempt(**(told | changes))


def down(state: LinkState, **changes: Any) -> Link:
    return replace(a_link("d1", "p1", state), **{"since_s": NOW_S - 40.0, **changes})


FAILED = down(LinkState.FAILED, attempts=2, code="LLM_LINK_FAILED", retry_at_s=NOW_S + 6.0)


def test_a_failed_pair_is_explained_from_its_state_to_its_next_try() -> None:
    hung = an_attempt(
        at_unix_s=START_UNIX_S + 40.0, outcome="unknown", code="", why="no answer within 12 s"
    )
    forced = an_attempt(
        at_unix_s=START_UNIX_S, node="p1", peer="d1", verb="force-unlink", outcome="done", code=""
    )

    said = lines(report_of(FAILED), an_attempt(), hung, replace(forced, why="", took_s=0.007))

    assert said == [
        (
            "failed for 40 s, down for 60 s, 2 failed tries since it was last up: "
            "LLM_LINK_FAILED (the peer cannot be connected to)"
        ),
        "wanted: d1 is serving and p1 is linking",
        (
            "tried 12 s ago: link failed after 5.0 s: "
            "LLM_LINK_FAILED (the peer cannot be connected to)"
        ),
        "tried 60 s ago: link ended unknown after 5.0 s: no answer within 12 s",
        "tried 100 s ago: force-unlink at p1 done after 0.007 s",
        "next: the next try is due in 6.0 s",
    ]


def test_a_suspect_pair_says_what_that_means() -> None:
    said = lines(report_of(down(LinkState.SUSPECT, why="no answer within 12 s")))

    assert said[:2] == [
        "suspect for 40 s: no answer within 12 s",
        (
            "suspect means that one end may hold an entry which the other lacks: "
            "only a forced unlink on both ends leads out of it"
        ),
    ]


def test_a_pair_with_some_endpoint_links_up_says_how_many() -> None:
    said = lines(report_of(down(LinkState.ABSENT, endpoints_up=3)))

    assert said[0] == "absent for 40 s, 3 of its endpoint links are up"


def test_a_wait_says_why_and_how_long_and_goes_before_the_next_try() -> None:
    timed = report_of(FAILED, waits=(Wait("d1", "p1", "3 tries failed", NOW_S + 8.0),))
    open_ended = report_of(FAILED, waits=(Wait("d1", "p1", "the card of p1 is full"),))

    assert lines(timed)[-1] == "next: no call now, 3 tries failed; the next is due in 8.0 s"
    assert lines(open_ended)[-1] == "next: no call now, the card of p1 is full"


@pytest.mark.parametrize(
    ("report", "coming"),
    [
        (report_of(), "next: nothing"),
        (
            report_of(down(LinkState.SUSPECT)),
            "next: both ends are dropped by force, then it is linked again",
        ),
        (report_of(FAILED, prompt=NodeState.FAILED), "next: nothing"),
        (report_of(down(LinkState.LINKED), prompt=NodeState.UNLINKING), "next: it is unlinked"),
        (report_of(down(LinkState.ABSENT)), DUE),
        (report_of(down(LinkState.LINKING)), "next: a call is under way, begun 40 s ago"),
        (report_of(down(LinkState.LINKED)), "next: nothing, it is up"),
        (
            report_of(FAILED, mode=Mode.STOPPED),
            "next: nothing, no action is taken while the loop is stopped",
        ),
        (
            report_of(FAILED, epoch=0),
            "next: nothing, this controller does not lead or has not taken an epoch yet",
        ),
        (
            report_of(FAILED, guarded=Hold(HoldReason.MASS_FAILURE, "half the fleet is silent")),
            "next: nothing, half the fleet is silent",
        ),
        (report_of(FAILED, prompt=NodeState.STARTING), "next: nothing before p1 links"),
        (
            report_of(down(LinkState.LINKED), decoder=NodeState.DRAINING),
            "next: it is unlinked once the drain is over",
        ),
        (
            report_of(down(LinkState.SUSPECT), decoder=NodeState.FAILED),
            "next: what is left of it is dropped by force",
        ),
    ],
)
def test_what_comes_next_is_said_for_every_case(report: Report, coming: str) -> None:
    assert lines(report)[-1] == coming


@pytest.mark.parametrize(
    "action",
    [
        LinkNodes("d1", (Peer("p0", "", ()), Peer("p1", "", ()))),
        UnlinkNodes("p1", (Peer("d1", "", ()),), force=True),
    ],
)
def test_a_call_begun_in_the_newest_cycle_is_what_comes_next(action: Any) -> None:
    verb = "link" if isinstance(action, LinkNodes) else "unlink"
    plan = in_waves([action])

    assert (
        lines(report_of(FAILED, plan=plan))[-1] == f"next: a call to {verb} it was begun 3.0 s ago"
    )
    idle = lines(report_of(FAILED, plan=plan, mode=Mode.ADVISORY, is_acting=False))
    assert idle[-1] == "next: nothing, no action is taken while the loop is advisory"


def test_a_call_to_another_pair_is_none_to_this_one() -> None:
    plan = in_waves(
        [LinkNodes("d1", (Peer("p0", "", ()),)), LinkNodes("d0", (Peer("p1", "", ()),))]
    )

    assert lines(report_of(down(LinkState.ABSENT), plan=plan))[-1] == DUE


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (NodeState.STARTING, "not wanted yet: p1 is starting"),
        (NodeState.DRAINING, "not wanted: p1 is draining"),
        (NodeState.STANDBY, "not wanted: p1 is standby"),
    ],
)
def test_a_pair_that_is_not_wanted_says_whose_state_that_is(prompt: NodeState, words: str) -> None:
    assert lines(report_of(prompt=prompt))[1] == words


def test_a_pair_whose_node_is_gone_says_so() -> None:
    report = report_of(FAILED)
    alone = replace(report, snapshot=replace(report.snapshot, nodes=report.snapshot.nodes[:1]))

    assert lines(alone)[1] == "not wanted: there is no node p1 any more"


def test_a_silent_node_and_its_hung_calls_are_named() -> None:
    report = report_of(down(LinkState.ABSENT), hung_calls={"d1": 2, "p1": 0})
    decoder, prompt = report.snapshot.nodes
    nodes = (replace(decoder, is_suspect=True), prompt)
    said = lines(replace(report, snapshot=replace(report.snapshot, nodes=nodes)))

    assert said[-2:] == [
        "native calls past their deadline at d1: 2",
        "next: nothing while d1 is suspect: its agent is silent",
    ]


def test_alarms_and_notes_that_name_both_nodes_are_told_and_no_others() -> None:
    report = report_of(
        alarms=("node p1 cannot join for 60 s: d1-p1 failed", "link d11-p1 failed", "d1 is full"),
        plan=in_waves([], ("p1 waits: no link to d1, and those cannot be spared",)),
    )

    assert lines(report)[-2:] == [
        "alarm: node p1 cannot join for 60 s: d1-p1 failed",
        "not done: p1 waits: no link to d1, and those cannot be spared",
    ]


def test_a_name_within_a_longer_name_of_another_node_is_not_named() -> None:
    nodes = tuple(a_node(name, Role.DECODER) for name in ("d", "d-1", "d-1-2"))
    scene = Scene(report=a_report(snapshot=a_snapshot(nodes=nodes)), now_s=NOW_S, meanings={})

    assert scene.naming(["d-1-2 is full"], "d-1") == []
    assert scene.naming(["d-1-2 is full"], "d-1-2") == ["d-1-2 is full"]


def test_without_the_journal_the_rest_is_told_all_the_same() -> None:
    scene = Scene(report=report_of(FAILED), now_s=NOW_S, meanings=MEANINGS)

    said = pair_explained(scene, ("d1", "p1"), None)

    assert said.lines[2] == "tried: the journal does not answer, so it is not known"
    assert (said.state, said.age_s, said.is_wanted, said.next_s) == ("failed", 40.0, True, 6.0)


def test_of_the_pairs_that_are_wanted_and_not_up_the_worst_comes_first() -> None:
    nodes = (
        *(a_node(f"d{n}", Role.DECODER) for n in range(6)),
        a_node("d9", Role.DECODER, NodeState.DRAINING),
        a_node("p1", Role.PROMPT),
    )
    links = (
        a_link("d0", "p1"),
        a_link("d1", "p1", LinkState.LINKING),
        replace(a_link("d2", "p1", LinkState.FAILED), attempts=1),
        replace(a_link("d3", "p1", LinkState.FAILED), attempts=5),
        a_link("d4", "p1", LinkState.SUSPECT),
        a_link("d5", "p1", LinkState.ABSENT),
        a_link("d9", "p1", LinkState.FAILED),
    )
    report = a_report(snapshot=a_snapshot(nodes=nodes), links=links)
    scene = Scene(report=report, now_s=NOW_S, meanings={})

    assert [decoder for decoder, _ in troubled(scene)] == ["d4", "d3", "d2", "d5", "d1"]
    assert troubled(scene, node_id="d2") == [("d2", "p1")]
    assert troubled(scene, node_id="d0") == []


@pytest.mark.parametrize(
    ("tries", "past", "words"),
    [
        # Up before: the failures before that are another story.
        (2, ("failed", "failed", "done", "failed"), "failed for 1.0 s, down for 30 s, 2 failed"),
        # Up after a call that was given up, which no call's end tells.
        (2, ("failed", "failed", "unknown"), "failed for 1.0 s, down for at least 30 s, 2 failed"),
        # As much as the journal keeps, and no success among it.
        (40, ("failed",) * KEPT_MAX, "failed for 1.0 s, down for at least 3 min 30 s, 40 failed"),
        # A first failure is as old as the state; after a restart nothing is counted yet.
        (1, ("failed", "done"), "failed for 20 s, 1 failed"),
        (0, ("failed", "failed"), "failed for 1.0 s: LLM_LINK_FAILED"),
    ],
)
def test_a_pair_that_fails_again_and_again_says_since_when_it_is_down(
    tries: int, past: tuple[str, ...], words: str
) -> None:
    is_first = past[1:] == ("done",)
    link = down(
        LinkState.FAILED,
        attempts=tries,
        code="LLM_LINK_FAILED",
        since_s=NOW_S - (20.0 if is_first else 1.0),
    )
    ends = (START_UNIX_S + NOW_S - 20.0 - 10.0 * n for n in range(len(past)))
    attempts = [
        an_attempt(at_unix_s=at, outcome=outcome) for at, outcome in zip(ends, past, strict=True)
    ]

    assert lines(report_of(link), *attempts)[0].startswith(words)


def test_a_pair_that_was_cut_by_force_between_its_tries_is_down_all_the_while() -> None:
    link = down(LinkState.LINKING, attempts=2, since_s=NOW_S - 0.5)
    past = (
        an_attempt(at_unix_s=START_UNIX_S + 95.0, verb="force-unlink", outcome="done"),
        an_attempt(at_unix_s=START_UNIX_S + 90.0, outcome="unknown"),
        an_attempt(at_unix_s=START_UNIX_S + 70.0),
        an_attempt(at_unix_s=START_UNIX_S + 10.0, verb="unlink", outcome="done"),
        an_attempt(at_unix_s=START_UNIX_S),
    )

    assert lines(report_of(link), *past)[0].startswith("linking for 0.5 s, down for 30 s, 2 ")


def test_only_so_many_attempts_are_told_as_were_asked_for() -> None:
    scene = Scene(report=report_of(FAILED), now_s=NOW_S, meanings=MEANINGS)
    old = an_attempt(at_unix_s=START_UNIX_S)

    said = pair_explained(scene, ("d1", "p1"), (an_attempt(), old), told_max=1).lines

    assert said[0].startswith("failed for 40 s, down for 100 s, 2 failed tries")
    assert [line for line in said if line.startswith("tried 100 s ago")] == []


def test_where_engines_connect_by_themselves_no_pair_is_wanted() -> None:
    report = report_of(is_meshed=False)
    scene = Scene(report=report, now_s=NOW_S, meanings={})

    assert troubled(scene) == []
    assert lines(report)[:2] == [
        "absent: the controller keeps no such pair",
        f"not wanted: {UNMESHED}",
    ]


def test_a_pair_of_nodes_just_found_is_not_wanted_yet() -> None:
    assert lines(report_of())[1] == "not wanted yet: its nodes have just been found"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1.0, "0 s"),
        (0.0123, "0.0123 s"),
        (9.94, "9.9 s"),
        (95.0, "95 s"),
        (200.0, "3 min 20 s"),
        (7500.0, "2 h 5 min"),
        (356_400.0, "4 d 3 h"),
    ],
)
def test_durations_are_said_in_words(seconds: float, words: str) -> None:
    assert spoken(seconds) == words
