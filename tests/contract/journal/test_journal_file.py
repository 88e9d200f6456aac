"""What only a file can do: outlive its controller, be locked, full, corrupt or from the future."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import anyio.lowlevel
import pytest

from pd_autoscaler.adapters.journal_schema import APPLICATION_ID, MIGRATIONS
from pd_autoscaler.adapters.workers import ThreadWorkers
from pd_autoscaler.errors import ConfigError, TransientError
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.plan import DrainNode, StartNode, StopNode
from pd_autoscaler.model.report import Done
from tests.support.clock import Clock
from tests.support.journals import InlineWorkers, Place, in_a_file
from tests.support.reports import START_UNIX_S, a_busy_report, a_node, a_report, a_snapshot

START = StartNode(Role.PROMPT, "run-1")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return in_a_file(tmp_path / "a new folder" / "journal.db")


async def test_everything_outlives_the_controller(place: Place) -> None:
    async with place.open() as journal:
        await journal.remembered()
        await journal.set_epoch(3)
        await journal.set_target(2, 2, "as found")
        await journal.append(a_busy_report())
        await journal.intend([START])

    async with place.open() as journal:
        remembered = await journal.remembered()
        texts = [e["text"] for e in await journal.history(limit=3)]

    assert (remembered.epoch, remembered.target, remembered.cycle) == (3, (2, 2), 2)
    assert remembered.open_intents == ("start one prompt node (run-1) (intent 1, 0 s ago)",)
    assert texts[:2] == ["controller started; 1 intents were open", "controller stopped"]


async def test_a_journal_of_the_first_schema_is_carried_over_with_all_it_knows(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal.db"
    old = sqlite3.connect(path)
    for statement in (
        *MIGRATIONS[0],
        "INSERT INTO meta VALUES ('epoch', '7'), ('draining', '[\"p1\"]')",
        (
            "INSERT INTO events (at_unix_s, kind, text, data)"
            f" VALUES ({START_UNIX_S}, 'mode', 'mode paused', '{{}}')"
        ),
        f"PRAGMA application_id = {APPLICATION_ID}",
        "PRAGMA user_version = 1",
    ):
        old.execute(statement)
    old.commit()
    old.close()

    async with in_a_file(path).open() as journal:
        remembered = await journal.remembered()
        before = await journal.link_events("d1", "p1", limit=9)
        await journal.append(a_busy_report())
        after = await journal.link_events("d1", "p1", limit=9)
        texts = [e["text"] for e in await journal.history(limit=99)]

    assert remembered.epoch == 7
    assert remembered.draining == {"p1"}
    assert remembered.switching == {}
    assert (before, [e["code"] for e in after]) == ([], ["LLM_SUCCESS"])
    assert texts[-1] == "mode paused"
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


async def test_a_pair_is_found_by_an_index_without_reading_every_end(place: Place) -> None:
    async with place.open() as journal:
        statements: list[str] = []
        journal._connection.set_trace_callback(statements.append)
        await journal.link_events("d1", "p1", limit=3)
        journal._connection.set_trace_callback(None)
        (asked,) = [statement for statement in statements if statement.startswith("SELECT")]
        plan = journal._connection.execute(f"EXPLAIN QUERY PLAN {asked}").fetchall()

    steps = [step[-1] for step in plan]
    assert not [step for step in steps if step.startswith("SCAN")]
    assert sum("link_ends_by_pair" in step for step in steps) == 2


async def test_whoever_only_reads_leaves_no_start_and_no_stop(place: Place) -> None:
    async with place.open() as journal:
        await journal.append(a_report())
    async with place.open() as journal:
        assert await journal.history(limit=9) == []


CHILD = """
import sys, anyio
from pathlib import Path
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.plan import DrainNode, StartNode
from pd_autoscaler.model.report import Done
from tests.support.journals import in_a_file
from tests.support.reports import a_report

async def main():
    async with in_a_file(Path(sys.argv[1])).open() as journal:
        await journal.remembered()
        await journal.set_epoch(1)
        for number in range(1, 1_000_000):
            await journal.append(a_report(cycle=number))
            start, drain = StartNode(Role.PROMPT, f"run-{number}"), DrainNode("p1", "less to do")
            first, second = await journal.intend([start, drain])
            print(number, flush=True)
            await journal.ended(first, Done(start))
            await journal.ended(second, Done(drain))

anyio.run(main)
"""


def _killed_after(lines: int, path: Path | str) -> list[int]:
    """Kill a controller once it told so many intents as written; return all that it told."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        told = [int(child.stdout.readline()) for _ in range(lines)]
        child.send_signal(signal.SIGKILL)
        told += [int(line) for line in child.stdout if line.endswith("\n")]
    assert child.returncode == -signal.SIGKILL
    return told


def _killed_between_intent_and_end(path: Path | str) -> None:
    code = CHILD.replace("await journal.ended(first", "import os; os.kill(os.getpid(), 9); (first")
    child = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, check=False, text=True
    )
    assert child.returncode == -signal.SIGKILL, child.stderr


def _damaged_in_the_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 * 2 : 4096 * 6] = b"\xa5" * (4096 * 4)
    path.write_bytes(content)


@pytest.mark.parametrize("lines", [1, 7, 30])
async def test_a_controller_killed_at_any_moment_loses_no_intent(place: Place, lines: int) -> None:
    told = _killed_after(lines, place.path)

    async with place.open() as journal:
        rows = journal._connection.execute("SELECT verb, thing FROM intents ORDER BY id").fetchall()
        remembered = await journal.remembered()
        reports = await journal.reports(from_unix_s=0, until_unix_s=2e9, limit=10**6)
        sound = journal._connection.execute("PRAGMA integrity_check").fetchone()

    written = [int(thing.removeprefix("run-")) for verb, thing in rows if verb == "start"]
    assert sound == ("ok",)
    assert written == list(range(1, len(written) + 1))
    assert len(written) >= told[-1], "an intent that was told as written is lost"
    assert len(rows) == 2 * len(written), "half a call was written"
    assert remembered.request_count == len(written)
    assert remembered.epoch == 1
    assert remembered.draining == {"p1"}
    assert remembered.cycle == reports[-1].cycle
    assert [r.cycle for r in reports] == list(range(1, len(reports) + 1))


async def test_an_intent_cut_off_by_a_kill_is_found_open(place: Place) -> None:
    _killed_between_intent_and_end(place.path)

    async with place.open() as journal:
        remembered = await journal.remembered()

    assert remembered.open_intents == (
        "start one prompt node (run-1) (intent 1, 0 s ago)",
        "drain p1: less to do (intent 2, 0 s ago)",
    )


async def test_a_locked_file_is_a_transient_error_and_nothing_is_written(place: Place) -> None:
    place.deadline_s = 0.02  # Half of it is how long SQLite waits for the lock.
    place.workers = InlineWorkers()
    async with place.open() as journal:
        other = sqlite3.connect(place.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TransientError, match=r"journal\.db: database is locked"):
            await journal.intend([START])
        other.execute("ROLLBACK")
        other.close()

        assert await journal.intend([START]) == (1,)
        assert place.failures == 1


async def test_a_full_disk_is_a_transient_error_and_what_was_there_stays(place: Place) -> None:
    nodes = tuple(a_node(f"p{n}", Role.PROMPT) for n in range(500))
    big = a_report(cycle=2, snapshot=a_snapshot(nodes=nodes))
    async with place.open() as journal:
        await journal.append(a_report(cycle=1))
        connection = journal._connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(TransientError, match=r"journal\.db: database or disk is full"):
            await journal.append(big)
        with pytest.raises(TransientError, match="full"):
            await journal.intend([StopNode("p" * 5000)])
        connection.execute("PRAGMA max_page_count = 1000000")

        assert await journal.intend([START]) == (1,)
        assert (await journal.remembered()).cycle == 1
        await journal.append(big)


async def test_a_file_that_became_read_only_is_a_transient_error(place: Place) -> None:
    async with place.open() as journal:
        # What a read-only mount does; file modes do not stop root.
        journal._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(TransientError, match="attempt to write a readonly database"):
            await journal.set_epoch(2)
        journal._connection.execute("PRAGMA query_only = OFF")

        assert (await journal.remembered()).epoch == 0


async def test_a_call_that_hangs_fails_the_next_at_once_until_it_returns(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, loop = Clock(monkeypatch), asyncio.get_running_loop()
    release = threading.Event()
    workers = ThreadWorkers(slots=1, name="journal")
    place.workers = workers

    def hang() -> int:
        if not release.is_set():
            loop.call_soon_threadsafe(clock.advance, place.deadline_s + 1)
            release.wait(60)
        return 0

    async with place.open() as journal:
        # SQLite calls this in the middle of a statement, as a disk that does not answer would.
        journal._connection.set_progress_handler(hang, 1)
        with pytest.raises(TransientError, match=r"journal\.db: journal: no answer within 30s"):
            await journal.intend([START])
        with pytest.raises(TransientError, match="an earlier call has not returned"):
            await journal.set_epoch(9)
        release.set()
        while workers.hung:
            await anyio.lowlevel.checkpoint()

        assert place.failures == 2
        # The first was written after all, by a call that nobody waited for.
        assert await journal.intend([START]) == (2,)
        # Nobody acted on that one: it is not for a restart to finish.
        (left,) = (await journal.remembered()).open_intents
        assert "(intent 2," in left


async def test_a_cancelled_write_is_finished_before_the_file_is_closed(place: Place) -> None:
    loop, release = asyncio.get_running_loop(), threading.Event()
    async with place.open() as journal:
        await journal.remembered()
        with anyio.CancelScope() as scope:

            def cancel() -> None:
                scope.cancel()
                release.set()

            def begun() -> int:
                if not release.is_set():
                    loop.call_soon_threadsafe(cancel)
                    release.wait(60)
                return 0

            journal._connection.set_progress_handler(begun, 1)
            await journal.intend([START])

    async with place.open() as journal:
        remembered = await journal.remembered()
        texts = [e["text"] for e in await journal.history(limit=2)]
    assert len(remembered.open_intents) == 1
    assert texts[1] == "controller stopped"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"loop: {period_s: 5}\n" * 100, ("is corrupt or no journal (file is not a database); move "
         "it away, a new one is begun")),
        ("CREATE TABLE cats (name)", ("is a database of another program; give journal.path another "
         "value")),
        ("PRAGMA user_version = 99", ("has schema version 99, this program knows 2; run the newer "
         "program, or move the file away")),
    ],
)  # fmt: skip
async def test_a_file_that_is_no_journal_of_ours_is_refused_and_left_alone(
    tmp_path: Path, content: bytes | str, message: str
) -> None:
    path = tmp_path / "journal.db"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        other = sqlite3.connect(path)
        other.execute(content)
        other.commit()
        other.close()
    before = path.read_bytes()

    with pytest.raises(ConfigError) as refusal:
        async with in_a_file(path).open():
            pass

    assert str(refusal.value) == f"journal {path} {message}"
    assert path.read_bytes() == before


async def test_a_journal_damaged_in_the_middle_is_refused(place: Place) -> None:
    async with place.open() as journal:
        for cycle in range(1, 40):
            await journal.append(a_report(cycle=cycle))
    _damaged_in_the_middle(Path(place.path))

    with pytest.raises(ConfigError, match=r"is corrupt or no journal .*; move it away"):
        async with place.open():
            pass


async def test_a_path_that_cannot_be_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")

    for path in (tmp_path, tmp_path / "file" / "journal.db"):
        with pytest.raises(ConfigError, match="cannot be opened for writing"):
            async with in_a_file(path).open():
                pass


async def test_ended_of_an_intent_that_was_dropped_is_nothing(place: Place) -> None:
    async with place.open() as journal:
        await journal.ended(12345, Done(DrainNode("p1", "")))

        assert (await journal.remembered()).open_intents == ()
