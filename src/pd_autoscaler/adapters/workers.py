"""The controller's threads: blocking code under a deadline."""

from collections.abc import Callable
from typing import TypeVar

from pd_autoscaler.threads import Threads

T = TypeVar("T")


class ThreadWorkers:
    """`ports.Workers` on daemon threads.

    With `slots=1` calls run one at a time in the order they were made, and none begins while one
    hangs: what policies and the journal want.
    """

    def __init__(self, slots: int = 4, *, name: str = "worker") -> None:
        self._threads = Threads(name, slots)

    @property
    def in_flight(self) -> int:
        """Calls whose caller still waits."""
        return self._threads.in_flight

    @property
    def hung(self) -> int:
        """Calls past their deadline that still hold their slot."""
        return self._threads.hung

    async def run(self, work: Callable[[], T], *, deadline_s: float) -> T:
        """Run `work` off the event loop and return its result, or raise what it raised.

        Raises TransientError if it had not begun by the deadline, OutcomeUnknownError if it had
        begun and not ended.
        """
        return await self._threads.run(work, deadline_s=deadline_s)
