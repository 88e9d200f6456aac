"""What every journal does, on the disk and in memory."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from pd_autoscaler.adapters import journal_sqlite
from pd_autoscaler.adapters.journal_sqlite import SqliteJournal
from pd_autoscaler.model.decision import HoldReason, Target
from pd_autoscaler.model.link import LinkState
from pd_autoscaler.model.node import Endpoint, NodeState, Role
from pd_autoscaler.model.plan import (
    Action,
    DrainNode,
    LinkNodes,
    Peer,
    StartNode,
    StopNode,
    UnlinkNodes,
)
from pd_autoscaler.model.report import Done, Failed, Outcome, Unknown
from pd_autoscaler.ports import Journal, Remembered
from tests.support.journals import Place, in_a_file, in_memory
from tests.support.reports import (
    START_UNIX_S,
    a_busy_report,
    a_link,
    a_node,
    a_report,
    a_snapshot,
    holding,
)

PROMPT = Peer("p1", "p1-i1", (Endpoint(0, 7, "10.0.0.1", 26000),))
OTHER = Peer("p2", "p2-i1", (Endpoint(0, 8, "10.0.0.2", 26000),))
HUGE_ID = 2**64 - 1


@pytest.fixture(params=["file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return in_memory() if request.param == "memory" else in_a_file(tmp_path / "journal.db")


@pytest_asyncio.fixture
async def journal(place: Place) -> AsyncIterator[SqliteJournal]:
    async with place.open() as opened:
        yield opened


async def _texts(journal: SqliteJournal, *kinds: str) -> list[object]:
    """Return the history's words, oldest first."""
    entries = await journal.history(limit=1000)
    return [e["text"] for e in reversed(entries) if not kinds or e["kind"] in kinds]


async def test_a_new_journal_remembers_nothing(journal: Journal) -> None:
    assert await journal.remembered() == Remembered(linked={})


async def test_epoch_mode_and_target_are_remembered(journal: Journal) -> None:
    await journal.set_epoch(7)
    await journal.set_mode("paused")
    await journal.set_target(3, 5, "queue")

    remembered = await journal.remembered()

    assert (remembered.epoch, remembered.mode, remembered.target) == (7, "paused", (3, 5))


async def test_intents_get_rising_ids_and_the_open_ones_are_told_once(
    journal: SqliteJournal, place: Place
) -> None:
    actions: list[Action] = [StartNode(Role.PROMPT, "run-1"), StopNode("d9"), DrainNode("d2", "x")]
    ids = await journal.intend(actions)
    await journal.ended(ids[1], Done(actions[1]))
    place.now_unix_s += 12

    first, second = await journal.remembered(), await journal.remembered()

    assert list(ids) == sorted(set(ids))
    assert first.open_intents == (
        f"start one prompt node (run-1) (intent {ids[0]}, 12 s ago)",
        f"drain d2: x (intent {ids[2]}, 12 s ago)",
    )
    assert second.open_intents == ()


async def test_no_actions_are_no_intents(journal: Journal) -> None:
    assert await journal.intend([]) == ()


async def test_the_highest_request_number_is_remembered(journal: Journal) -> None:
    await journal.intend([StartNode(Role.PROMPT, "run-9"), StartNode(Role.DECODER, "run-10")])
    await journal.intend([StartNode(Role.DECODER, "run-3"), StartNode(Role.PROMPT, "by hand")])

    assert (await journal.remembered()).request_count == 10


async def test_every_decoder_id_that_ever_linked_is_remembered_until_forgotten(
    journal: Journal,
) -> None:
    clusters = {"d1": (1, HUGE_ID), "d2": (2,)}
    await journal.intend([LinkNodes("d1", (PROMPT, OTHER))], decoder_clusters=clusters)
    await journal.intend([LinkNodes("d2", (PROMPT,))], decoder_clusters=clusters)
    await journal.intend([LinkNodes("d2", (PROMPT,)), LinkNodes("d3", (PROMPT,))])
    await journal.intend([UnlinkNodes("d1", (PROMPT,), force=True)], decoder_clusters=clusters)
    await journal.forget_linked("p1-i1", iter([2, 99]))
    await journal.forget_linked("p2-i1", [1, HUGE_ID])
    await journal.forget_linked("nobody", [1])

    assert (await journal.remembered()).linked == {"p1-i1": frozenset({1, HUGE_ID})}


async def test_a_link_that_was_found_is_remembered_like_one_that_was_made(journal: Journal) -> None:
    await journal.remember_linked("p1-i1", [HUGE_ID])
    await journal.remember_linked("p1-i1", iter([HUGE_ID, 3]))

    assert (await journal.remembered()).linked == {"p1-i1": frozenset({HUGE_ID, 3})}


async def test_a_start_no_node_answers_to_yet_is_remembered_with_its_role(
    journal: Journal,
) -> None:
    await journal.intend([StartNode(Role.PROMPT, "start-1"), StartNode(Role.DECODER, "start-2")])
    asked = replace(a_node("start-3", Role.PROMPT, NodeState.STARTING), request_id="start-3")
    named = replace(a_node("p9", Role.PROMPT, NodeState.STARTING), request_id="start-0")
    await journal.append(a_report(snapshot=a_snapshot(nodes=(asked, named))))

    pending = (await journal.remembered()).pending
    assert pending == {"start-1": Role.PROMPT, "start-2": Role.DECODER, "start-3": Role.PROMPT}


async def test_what_an_operator_asked_to_go_is_remembered(journal: Journal) -> None:
    await journal.set_drains({"p1", "d1"})
    assert (await journal.remembered()).drains == {"p1", "d1"}
    await journal.set_drains([])
    assert (await journal.remembered()).drains == frozenset()


async def test_the_last_report_tells_the_cycle_the_nodes_and_those_on_their_way_out(
    journal: Journal,
) -> None:
    nodes = (
        a_node("p1", Role.PROMPT),
        a_node("p2", Role.PROMPT, NodeState.DRAINING),
        a_node("d1", Role.DECODER, NodeState.UNLINKING),
        a_node("d2", Role.DECODER, NodeState.STOPPING),
    )
    await journal.append(a_report(cycle=41, snapshot=a_snapshot(nodes=nodes)))
    await journal.append(a_report(cycle=42, snapshot=a_snapshot(nodes=nodes[:3])))

    remembered = await journal.remembered()

    assert remembered.cycle == 42
    assert remembered.nodes == {"p1", "p2", "d1"}
    assert remembered.draining == {"p2", "d1"}


@pytest.mark.parametrize(
    ("ending", "is_leaving"), [("open", True), ("done", True), ("unknown", True), ("failed", False)]
)
async def test_a_drain_is_remembered_before_a_report_shows_it(
    journal: Journal, ending: str, is_leaving: bool
) -> None:
    drain = DrainNode("p1", "too many")
    await journal.append(a_report(cycle=1))
    (intent,) = await journal.intend([drain])
    outcomes: dict[str, Outcome] = {
        "done": Done(drain),
        "unknown": Unknown(drain, "?"),
        "failed": Failed(drain, "no"),
    }
    if ending in outcomes:
        await journal.ended(intent, outcomes[ending])
    # The report of the very cycle that began the drain was made before it began.
    await journal.append(a_report(cycle=2))

    assert (await journal.remembered()).draining == ({"p1"} if is_leaving else frozenset())


async def test_a_drain_that_later_reports_do_not_show_is_over(journal: Journal) -> None:
    drain = DrainNode("p1", "too many")
    (intent,) = await journal.intend([drain])
    await journal.ended(intent, Done(drain))
    for cycle in (1, 2, 3):
        await journal.append(a_report(cycle=cycle))

    assert (await journal.remembered()).draining == frozenset()


async def test_history_tells_moves_outcomes_and_alarms_newest_first(journal: Journal) -> None:
    start = StartNode(Role.PROMPT, "run-2")
    report = a_busy_report()
    await journal.append(report)
    await journal.append(
        a_report(cycle=3, outcomes=(Failed(start, "no room", took_s=1.5), Unknown(start, "late")))
    )

    entries = await journal.history(limit=100)

    assert [(e["kind"], e["text"]) for e in entries] == [
        ("alarm_over", "over: link d1-p2 failed 5 times"),
        ("unknown", "start one prompt node (run-2): unknown after 0 s (late)"),
        ("failed", "start one prompt node (run-2): failed after 1.5 s (no room)"),
        ("alarm", "link d1-p2 failed 5 times"),
        ("done", "link d1 to p1: done after 0.007 s (LLM_SUCCESS)"),
        ("move", "prompt p1: linking -> serving (all linked)"),
    ]
    assert entries[-1] == {
        "at_unix_s": report.snapshot.now_unix_s,
        "cycle": 2,
        "kind": "move",
        "text": "prompt p1: linking -> serving (all linked)",
        "node": "p1",
        "role": "prompt",
        "before": "linking",
        "after": "serving",
        "why": "all linked",
        "before_s": 4.0,
    }
    assert await journal.history(limit=2) == entries[:2]


async def test_history_tells_a_hold_when_its_reason_changes_or_the_target_moved_between(
    journal: SqliteJournal,
) -> None:
    stays, moves = a_report(cycle=4), a_report(cycle=6, target=Target(2, 1))
    for report in (
        holding(HoldReason.COOLDOWN, cycle=1, detail="90 s left"),
        holding(HoldReason.COOLDOWN, cycle=2, detail="80 s left"),
        holding(HoldReason.STALE_METRICS, cycle=3),
        stays,
        holding(HoldReason.STALE_METRICS, cycle=5),
        moves,
        holding(HoldReason.STALE_METRICS, cycle=7),
    ):
        await journal.append(report)

    assert await _texts(journal, "hold") == [
        "cooldown: 90 s left",
        "stale_metrics",
        "stale_metrics",
    ]


async def test_an_alarm_that_counts_seconds_is_told_once(journal: SqliteJournal) -> None:
    for cycle in (1, 2, 3):
        alarm = f"prompt node p1 does not stop for {cycle * 10} s"
        await journal.append(a_report(cycle=cycle, alarms=(alarm,)))
    await journal.append(a_report(cycle=4))

    assert await _texts(journal) == [
        "prompt node p1 does not stop for 10 s",
        "over: prompt node p1 does not stop for 30 s",
    ]


async def test_history_tells_start_epoch_target_and_mode_once_per_change(
    journal: SqliteJournal,
) -> None:
    await journal.remembered()
    await journal.set_epoch(1)
    for why in ("as found", "again"):
        await journal.set_target(1, 2, why)
    await journal.set_mode("paused")
    await journal.set_mode("paused")

    assert await _texts(journal) == [
        "controller started; 0 intents were open",
        "epoch 1 taken",
        "target 1P:2D (as found)",
        "mode paused",
    ]


async def test_reports_come_back_whole_and_by_time(journal: SqliteJournal) -> None:
    kept = [a_report(cycle=1), a_busy_report(), a_report(cycle=3)]
    for report in kept:
        await journal.append(report)

    everything = await journal.reports(from_unix_s=0, until_unix_s=2e9, limit=10)
    some = await journal.reports(
        from_unix_s=START_UNIX_S + 20, until_unix_s=START_UNIX_S + 30, limit=10
    )

    assert everything == kept
    assert some == kept[1:]
    assert await journal.reports(from_unix_s=0, until_unix_s=2e9, limit=1) == kept[2:]


async def test_a_report_of_a_large_mesh_keeps_only_the_links_that_are_not_up(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_sqlite, "LINKS_KEPT_MAX", 2)
    bad = a_link("d1", "p3", LinkState.FAILED)
    await journal.append(a_report(links=(a_link("d1", "p1"), a_link("d1", "p2"), bad)))

    (report,) = await journal.reports(from_unix_s=0, until_unix_s=2e9, limit=1)

    assert report.links == (bad,)


async def test_what_is_too_old_is_dropped_but_never_the_newest_report(
    journal: SqliteJournal, place: Place
) -> None:
    await journal.remembered()
    old = StopNode("p1")
    (open_intent, ended_intent) = await journal.intend([old, old])
    await journal.ended(ended_intent, Done(old))
    linked = Done(LinkNodes("d1", (PROMPT,)))
    await journal.append(a_report(cycle=1, alarms=("an old alarm",), outcomes=(linked,)))
    place.now_unix_s += place.keep_s + 100

    await journal.append(a_report(cycle=2))

    assert [r.cycle for r in await journal.reports(from_unix_s=0, until_unix_s=2e9, limit=9)] == [2]
    assert await _texts(journal) == []
    assert await journal.link_events("d1", "p1", limit=9) == []
    assert (await journal.remembered()).open_intents == (
        f"stop p1 (intent {open_intent}, 3700 s ago)",
    )


async def test_above_its_size_the_journal_drops_the_oldest_reports_and_shrinks_again(
    journal: SqliteJournal,
) -> None:
    nodes = tuple(a_node(f"p{n}-{n * 7919 % 1009}", Role.PROMPT) for n in range(300))
    limit_bytes = 400_000
    roomy, journal._retention = (
        journal._retention,
        type(journal._retention)(3600.0, limit_bytes),
    )
    for cycle in range(1, 80):
        await journal.append(a_report(cycle=cycle, snapshot=a_snapshot(cycle=cycle, nodes=nodes)))

    kept = await journal.reports(from_unix_s=0, until_unix_s=2e9, limit=1000)
    pages, size = (
        journal._connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "page_size")
    )

    assert roomy.size_max_bytes > limit_bytes
    assert kept[-1].cycle == 79
    assert len(kept) < 79
    assert [r.cycle for r in kept] == list(range(kept[0].cycle, 80))
    # Up to 256 free pages may stay for what comes next.
    assert pages * size < 2 * limit_bytes + 256 * size
