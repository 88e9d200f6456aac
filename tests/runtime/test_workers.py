"""Blocking calls under a deadline, on real threads."""

import asyncio
import threading
from collections.abc import Callable, Iterator

import anyio
import anyio.lowlevel
import pytest

from pd_autoscaler.adapters.workers import ThreadWorkers
from pd_autoscaler.errors import OutcomeUnknownError, PermanentError, TransientError
from pd_autoscaler.ports import Workers
from pd_autoscaler.threads import Raised, Returned, Threads
from tests.support.agent import Held
from tests.support.clock import Clock

DEADLINE_S = 100.0


@pytest.fixture
def held() -> Iterator[Callable[[], Held]]:
    made: list[Held] = []

    def make() -> Held:
        made.append(Held())
        return made[-1]

    yield make
    for call in made:
        call.release()


async def hang(threads: Threads | Workers, call: Held, clock: Clock) -> None:
    """Run a call that is inside when its deadline passes."""
    async with anyio.create_task_group() as group:
        group.start_soon(_expect_unknown, threads, call)
        await call.entered()
        clock.advance(DEADLINE_S)


async def _expect_unknown(threads: Threads | Workers, call: Held) -> None:
    with pytest.raises(OutcomeUnknownError):
        await threads.run(call.block, deadline_s=DEADLINE_S)


async def until_free(threads: Threads) -> None:
    """Use a slot, and so wait for one."""
    await threads.run(lambda: None, deadline_s=DEADLINE_S)


async def test_work_runs_off_the_loop_and_its_result_comes_back() -> None:
    workers: Workers = ThreadWorkers()

    ran_in = await workers.run(threading.current_thread, deadline_s=DEADLINE_S)

    assert ran_in is not threading.current_thread()
    assert ran_in.daemon


async def test_what_the_work_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await ThreadWorkers().run(lambda: 1 / 0, deadline_s=DEADLINE_S)


async def test_work_that_tries_to_end_the_process_only_fails() -> None:
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(PermanentError, match="SystemExit"):
        await ThreadWorkers().run(leave, deadline_s=DEADLINE_S)


async def test_the_loop_goes_on_while_work_blocks(held: Callable[[], Held]) -> None:
    workers, first = ThreadWorkers(slots=2), held()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: workers.run(first.block, deadline_s=DEADLINE_S))
        await first.entered()
        assert workers.in_flight == 1
        assert await workers.run(lambda: 7, deadline_s=DEADLINE_S) == 7
        first.release()
    assert workers.in_flight == 0


async def test_work_past_its_deadline_keeps_its_slot_until_it_ends(
    held: Callable[[], Held], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, workers, stuck, ran = Clock(monkeypatch), ThreadWorkers(slots=1), held(), list[int]()
    await hang(workers, stuck, clock)
    assert (workers.in_flight, workers.hung) == (0, 1)

    with pytest.raises(TransientError):
        await workers.run(lambda: ran.append(1), deadline_s=0)
    stuck.release()
    await workers.run(lambda: ran.append(2), deadline_s=DEADLINE_S)

    assert ran == [2]
    assert (workers.in_flight, workers.hung) == (0, 0)


async def test_no_more_threads_than_slots_are_ever_alive(
    held: Callable[[], Held], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, threads = Clock(monkeypatch), Threads("bounded", 3)
    for _ in range(3):
        await hang(threads, held(), clock)
    for _ in range(5):
        with pytest.raises(TransientError):
            await threads.run(lambda: None, deadline_s=0)

    assert threads.is_exhausted
    alive = [thread for thread in threading.enumerate() if thread.name.startswith("bounded-")]
    assert len(alive) == 3


@pytest.mark.parametrize("fails", [False, True])
async def test_a_late_end_is_told(
    fails: bool, held: Callable[[], Held], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, threads, stuck = Clock(monkeypatch), Threads("late", 1), held()
    error = ValueError("late")
    told: list[Returned[str] | Raised] = []

    def work() -> str:
        code = stuck.block()
        if fails:
            raise error
        return code

    async def run() -> None:
        with pytest.raises(OutcomeUnknownError):
            await threads.run(work, deadline_s=DEADLINE_S, on_late=told.append)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await stuck.entered()
        clock.advance(DEADLINE_S)
    assert told == []
    stuck.release("done")
    await until_free(threads)

    assert told == [Raised(error) if fails else Returned("done")]


async def test_an_end_in_time_is_not_told_as_late() -> None:
    threads, told = Threads("punctual", 1), list[Returned[int] | Raised]()

    assert await threads.run(lambda: 1, deadline_s=DEADLINE_S, on_late=told.append) == 1

    await until_free(threads)
    assert told == []


async def test_a_result_that_is_there_when_the_deadline_passes_is_returned(
    held: Callable[[], Held], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, threads, call = Clock(monkeypatch), Threads("photo-finish", 1), held()
    results: list[str] = []

    async def run() -> None:
        results.append(await threads.run(call.block, deadline_s=DEADLINE_S))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await call.entered()
        call.release("just in time")
        # The loop sees neither the end nor the deadline before both have come.
        _join("photo-finish-1")
        clock.advance(DEADLINE_S)

    assert results == ["just in time"]
    assert (threads.in_flight, threads.hung) == (0, 0)


async def test_a_cancelled_caller_leaves_its_slot_to_the_thread(held: Callable[[], Held]) -> None:
    threads, call = Threads("cancelled", 1), held()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: threads.run(call.block, deadline_s=DEADLINE_S))
        await call.entered()
        group.cancel_scope.cancel()

    assert (threads.in_flight, threads.hung) == (0, 1)
    call.release()
    await until_free(threads)
    assert threads.hung == 0


async def test_a_thread_that_cannot_be_started_gives_its_slot_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = Threads("unstartable", 1)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(TransientError, match="can't start new thread"):
            await threads.run(lambda: None, deadline_s=DEADLINE_S)

    assert threads.in_flight == 0
    await until_free(threads)


async def test_a_thread_that_wakes_after_its_deadline_does_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, threads, ran = Clock(monkeypatch), Threads("sleepy", 1), list[int]()
    asleep: list[threading.Thread] = []
    really_start = threading.Thread.start

    async def run() -> None:
        with pytest.raises(TransientError):
            await threads.run(lambda: ran.append(1), deadline_s=DEADLINE_S)

    def put_to_sleep(thread: threading.Thread) -> None:
        asleep.append(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", put_to_sleep)
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            while not asleep:
                await anyio.lowlevel.checkpoint()
            clock.advance(DEADLINE_S)
    # Its slot is held: the thread may still wake.
    with pytest.raises(TransientError):
        await threads.run(lambda: ran.append(2), deadline_s=0)
    really_start(asleep[0])
    await until_free(threads)

    assert ran == []


def test_a_thread_that_outlives_its_loop_ends_in_silence() -> None:
    calls: list[Held] = []

    async def leave_one_behind() -> None:
        threads = Threads("orphan", 1)
        calls.append(Held())
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: threads.run(calls[0].block, deadline_s=DEADLINE_S))
            await calls[0].entered()
            group.cancel_scope.cancel()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave_one_behind())
    loop.close()
    calls[0].release()

    # An error in the thread would be a warning, and so a failure.
    _join("orphan-1")


def _join(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(60)
