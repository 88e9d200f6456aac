"""Calls about the library object as a whole: one at a time, and a repeat finds how it ended."""

from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup

from pd_autoscaler.agent.refusals import RefusedError


class WholeCall:
    """One init or finalize request; any number of callers may wait for it."""

    def __init__(self) -> None:
        self._error: RefusedError | None = None
        self._answered = anyio.Event()

    def begin(self, tasks: TaskGroup, work: Callable[[], Awaitable[None]]) -> None:
        """Begin the work, which goes on whether or not anybody waits; RefusedError is its no."""
        tasks.start_soon(self._carry_out, work)

    def answer(self, error: RefusedError | None) -> None:
        """Set how the call ended, or that it has not by its deadline; the last word counts."""
        self._error = error
        self._answered.set()

    async def wait(self, *, deadline_s: float) -> None:
        """Return when the call succeeded, or raise RefusedError as it was answered."""
        with anyio.move_on_after(deadline_s):
            await self._answered.wait()
        if not self._answered.is_set():
            raise RefusedError("deadline", f"no answer within {deadline_s:g}s")
        if self._error is not None:
            # A new one each time: an exception that is raised twice gathers tracebacks.
            raise RefusedError(self._error.reason, self._error.error, status=self._error.status)

    async def _carry_out(self, work: Callable[[], Awaitable[None]]) -> None:
        answer: RefusedError | None = RefusedError("deadline", "the agent is being stopped")
        try:
            await work()
            answer = None
        except RefusedError as error:
            answer = error
        finally:
            self.answer(answer)
