"""Virtual time: an asyncio loop whose clock jumps to the next timer when nothing is ready.

Code written with anyio runs in it unchanged: `anyio.sleep`, `fail_after` and task groups take no
real time. There is no outside world in it: no file descriptors, no threads.
"""

import asyncio
import math
import selectors
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TURNS_MAX = 200_000
"""Turns of the loop at one moment of virtual time before the program counts as spinning."""


class StuckError(RuntimeError):
    """The program can never go on: nothing is ready and no timer is set, or time stands still."""


def _descriptor(fileobj: Any) -> int:
    return fileobj if isinstance(fileobj, int) else int(fileobj.fileno())


class _TimeSelector(selectors.BaseSelector):
    """Never waits: what would have been waiting moves the clock."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._turns = 0
        self._keys: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Take the loop's own wake-up socket, and refuse every other descriptor."""
        if self._keys:
            raise RuntimeError("no I/O in virtual time: use a simulated adapter")
        key = selectors.SelectorKey(fileobj, _descriptor(fileobj), events, data)
        self._keys[key.fd] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Forget the wake-up socket when the loop closes."""
        return self._keys.pop(_descriptor(fileobj))

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Move the clock by `timeout` seconds; None means that nothing will ever be ready."""
        if timeout is None:
            raise StuckError("every task waits and no timer is set")
        if timeout > 0:
            # Rounding must not leave the clock where it was, or the loop would turn for ever.
            self.now_s = max(self.now_s + timeout, math.nextafter(self.now_s, math.inf))
            self._turns = 0
            return []
        self._turns += 1
        if self._turns > TURNS_MAX:
            raise StuckError(f"{TURNS_MAX} turns at {self.now_s:.3f}s: a task never sleeps")
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """Return what is registered."""
        return self._keys


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` is virtual seconds, beginning at `start_s`."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._time_selector = _TimeSelector()
        self._time_selector.now_s = start_s
        super().__init__(self._time_selector)
        # asyncio runs a timer once it is nearer than this; below the rounding error of large
        # times a timer could be due and never run.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Return the virtual seconds; they move only while every task waits."""
        return self._time_selector.now_s

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Refuse: with a real thread in flight virtual time would lie about deadlines."""
        raise RuntimeError("no threads in virtual time: use the simulated Workers")

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Schedule a callback from the loop's own thread (a signal handler), and no other."""
        try:
            running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is not self:
            raise RuntimeError("no threads in virtual time: called from outside the loop")
        return self.call_soon(callback, *args, context=context)


def run(main: Callable[[], Awaitable[T]], *, start_s: float = 0.0) -> T:
    """Run `main` in virtual time from `start_s` seconds and return its result.

    Raises StuckError when the program can never go on.
    """

    async def call() -> T:
        return await main()

    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(start_s)) as runner:
        return runner.run(call())
