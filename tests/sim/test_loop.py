"""Virtual time: what takes a day takes no time, and what can never go on says so."""

import asyncio
import socket
import threading

import anyio
import pytest
from anyio import lowlevel

from pd_autoscaler.sim.loop import StuckError, VirtualTimeLoop, run


def test_a_day_of_sleep_passes_at_once_and_the_clock_shows_it() -> None:
    async def main() -> float:
        await anyio.sleep(86_400)
        return anyio.current_time()

    assert run(main, start_s=100.0) == pytest.approx(86_500.0)


def test_sleepers_wake_in_the_order_of_their_times() -> None:
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, delay_s: float) -> None:
        await anyio.sleep(delay_s)
        woken.append((name, anyio.current_time()))

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(sleeper, "late", 50.0)
            group.start_soon(sleeper, "early", 5.0)
            group.start_soon(sleeper, "between", 20.0)

    run(main)
    assert woken == [("early", 5.0), ("between", 20.0), ("late", 50.0)]


def test_a_deadline_ends_what_takes_longer_at_its_moment() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError), anyio.fail_after(10):
            await anyio.sleep(3600)
        return anyio.current_time()

    assert run(main) == pytest.approx(10.0)


def test_what_ends_before_its_deadline_is_not_cut_short() -> None:
    async def main() -> bool:
        with anyio.move_on_after(10) as scope:
            await anyio.sleep(9.999)
        return scope.cancelled_caught

    assert run(main) is False


@pytest.mark.parametrize("step_s", [1e-9, 1e-7, 1e-5])
def test_steps_below_the_rounding_of_a_large_time_still_end(step_s: float) -> None:
    async def main() -> float:
        for _ in range(100):
            await anyio.sleep(step_s)
        return anyio.current_time()

    assert run(main, start_s=1e9) == pytest.approx(1e9)


def test_a_program_that_waits_for_nobody_raises_instead_of_hanging() -> None:
    async def main() -> None:
        await anyio.Event().wait()

    with pytest.raises(StuckError, match="no timer"):
        run(main)


def test_a_task_that_never_sleeps_raises_instead_of_spinning() -> None:
    async def main() -> None:
        while True:
            await lowlevel.checkpoint()

    with pytest.raises(StuckError, match="never sleeps"):
        run(main)


def test_a_thread_pool_is_refused() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)

    with pytest.raises(RuntimeError, match="no threads"):
        run(main)


def test_a_call_from_another_thread_is_refused() -> None:
    refusals: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def intrude() -> None:
            try:
                loop.call_soon_threadsafe(lambda: None)
            except RuntimeError as error:
                refusals.append(str(error))

        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()

    run(main)
    assert refusals == ["no threads in virtual time: called from outside the loop"]


def test_a_call_from_the_loops_own_thread_is_taken() -> None:
    async def main() -> None:
        called = anyio.Event()
        asyncio.get_running_loop().call_soon_threadsafe(called.set)
        await called.wait()

    run(main)


def test_a_socket_is_refused() -> None:
    async def main() -> None:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen()
            server.setblocking(False)
            await asyncio.get_running_loop().sock_accept(server)

    with pytest.raises(RuntimeError, match="no I/O"):
        run(main)


def test_the_loop_serves_anyio_run_as_well() -> None:
    async def main() -> float:
        await anyio.sleep(1000)
        return anyio.current_time()

    assert anyio.run(main, backend_options={"loop_factory": VirtualTimeLoop}) == 1000.0
