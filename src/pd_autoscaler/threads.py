"""The one owner of threads: runs blocking calls under a deadline; a hung call keeps its slot.

A thread cannot be cancelled, so a deadline ends the wait and not the call. The slot is given back
by the thread's end: however many calls hang, no more threads than slots are ever alive.
"""

import asyncio
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, TypeVar

import anyio

from pd_autoscaler.errors import OutcomeUnknownError, PermanentError, TransientError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Returned(Generic[T]):
    """A late call ended with this value."""

    value: T


@dataclass(frozen=True, slots=True)
class Raised:
    """A late call ended with this error."""

    error: Exception


class _Progress(Enum):
    WAITING = auto()
    RUNNING = auto()
    ENDED = auto()
    REVOKED = auto()


class _Call(Generic[T]):
    """One call; the lock decides whether it began before it was revoked, or never will."""

    def __init__(
        self, work: Callable[[], T], on_late: Callable[[Returned[T] | Raised], None] | None
    ) -> None:
        self.ended = anyio.Event()
        self.is_late = False
        self.on_late = on_late
        self.outcome: Returned[T] | Raised | None = None
        self._work = work
        self._progress = _Progress.WAITING
        self._lock = threading.Lock()

    def carry_out(self) -> None:
        """Do the work in the calling thread, unless it was revoked."""
        with self._lock:
            if self._progress is _Progress.REVOKED:
                return
            self._progress = _Progress.RUNNING
        outcome: Returned[T] | Raised
        try:
            outcome = Returned(self._work())
        except Exception as error:  # noqa: BLE001, RUF100  # it is raised where the call is awaited
            outcome = Raised(error)
        except BaseException as error:  # noqa: BLE001, RUF100  # a plug-in's SystemExit is not ours
            refusal = PermanentError(f"the call tried to end its process: {error!r}")
            refusal.__cause__ = error
            outcome = Raised(refusal)
        with self._lock:
            self.outcome = outcome
            self._progress = _Progress.ENDED

    def revoke(self) -> _Progress:
        """Keep the work from beginning if it has not; return how far it is."""
        with self._lock:
            if self._progress is _Progress.WAITING:
                self._progress = _Progress.REVOKED
            return self._progress


class Threads:
    """A bounded number of daemon threads, for the calls of one event loop.

    `in_flight` counts calls whose caller still waits, `hung` those past their deadline (or whose
    caller was cancelled) and still running; together they never exceed `slots`.
    """

    def __init__(self, name: str, slots: int) -> None:
        self.slots = slots
        self.in_flight = 0
        self.hung = 0
        self._name = name
        self._free = anyio.Semaphore(slots)
        self._numbers = itertools.count(1)

    @property
    def is_exhausted(self) -> bool:
        """Whether every slot is held by a hung call, so that nothing can begin."""
        return self.hung >= self.slots

    async def run(
        self,
        work: Callable[[], T],
        *,
        deadline_s: float,
        on_late: Callable[[Returned[T] | Raised], None] | None = None,
    ) -> T:
        """Run `work` in a thread and return its result, or raise what it raised.

        The deadline includes waiting for a slot. Raises TransientError if the work had not begun
        by then (it never will), OutcomeUnknownError if it had begun and not ended; in that case
        `on_late` is called in the event loop when it ends, if the loop still runs by then.
        """
        call = _Call(work, on_late)
        try:
            with anyio.move_on_after(deadline_s):
                await self._free.acquire()
                self._start(call)
                await call.ended.wait()
        finally:
            progress = call.revoke()
            if progress is _Progress.RUNNING:
                call.is_late = True
                self.in_flight -= 1
                self.hung += 1
        if progress is _Progress.REVOKED:
            raise TransientError(f"{self._name}: not begun within {deadline_s:g}s")
        if progress is not _Progress.ENDED or call.outcome is None:
            # Asked of `progress` first: the thread may end between the question and this line.
            raise OutcomeUnknownError(f"{self._name}: no answer within {deadline_s:g}s")
        if isinstance(call.outcome, Raised):
            raise call.outcome.error
        return call.outcome.value

    def _start(self, call: _Call[T]) -> None:
        loop = asyncio.get_running_loop()

        def carry_out() -> None:
            call.carry_out()
            try:
                loop.call_soon_threadsafe(self._ended, call)
            except RuntimeError:
                # The loop has closed, and with it everybody who could want the slot or the result.
                return

        name = f"{self._name}-{next(self._numbers)}"
        thread = threading.Thread(target=carry_out, name=name, daemon=True)
        self.in_flight += 1
        try:
            thread.start()
        except RuntimeError as error:
            self.in_flight -= 1
            self._free.release()
            raise TransientError(f"{self._name}: no thread could be started: {error}") from error

    def _ended(self, call: _Call[T]) -> None:
        self._free.release()
        call.ended.set()
        if not call.is_late:
            self.in_flight -= 1
            return
        self.hung -= 1
        if call.on_late is not None and call.outcome is not None:
            call.on_late(call.outcome)
