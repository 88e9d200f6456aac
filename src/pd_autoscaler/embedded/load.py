"""The load generator: an open loop, so a slow cluster never slows its arrivals."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import aiohttp
import anyio
from anyio.abc import TaskGroup

from pd_autoscaler.embedded.exchange import CLIENT, Failure, Served, exchanged
from pd_autoscaler.embedded.tally import Tally
from pd_autoscaler.workload.request import Request

_CONNECT_S = 10.0
# Below any server's own, so that no request meets a connection just being closed.
_KEEPALIVE_S = 5.0


class LoadState(StrEnum):
    """How far a load is."""

    WAITING = "waiting"
    RUNNING = "running"
    DRAINING = "draining"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadLimits:
    """Bounds: open requests (more are refused and count as failed), seconds a whole answer may
    take, seconds to wait for those in flight after the last was sent."""

    open_max: int = 1000
    answer_s: float = 300.0
    drain_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadNumbers:
    """A load's running numbers; `recent_…` is over the last ten seconds, None without answers."""

    state: LoadState
    elapsed_s: float
    offered: int
    ok: int
    failed: int
    refused: int
    in_flight: int
    recent_ttft_p50_s: float | None
    recent_ttft_p95_s: float | None


class Load:
    """One run of a workload against a router.

    `killed_at_s` tells which nodes ended without being asked, and when (monotonic seconds).
    """

    def __init__(
        self,
        router_url: str,
        *,
        killed_at_s: Callable[[], Mapping[str, float]] = dict,
        limits: LoadLimits | None = None,
    ) -> None:
        self._url = f"{router_url}/v1/completions"
        self._killed_at_s = killed_at_s
        self._limits = limits or LoadLimits()
        self._sending = anyio.CancelScope()
        self._waiting = anyio.CancelScope()
        self._answered = anyio.Event()
        self._began_s: float | None = None
        self._ended_s: float | None = None
        self.tally = Tally()
        self.state = LoadState.WAITING
        self.refused = 0

    async def run(self, requests: Iterable[Request]) -> None:
        """Send each request at its time; then wait, bounded, for those in flight.

        `requests` come in order of arrival and may be without end.
        """
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
        self._began_s = anyio.current_time()
        self.state = LoadState.RUNNING
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                anyio.create_task_group() as group,
            ):
                with self._sending:
                    for request in requests:
                        due_s = self._began_s + request.at_s
                        await anyio.sleep_until(due_s)
                        self._send(group, session, request, due_s)
                self.state = LoadState.DRAINING
                with self._waiting, anyio.move_on_after(self._limits.drain_s):
                    while self.tally.in_flight:
                        await self._answered.wait()
                group.cancel_scope.cancel()
        finally:
            self._ended_s = anyio.current_time()
            self.state = LoadState.FINISHED

    def stop(self) -> None:
        """Send nothing more; those in flight are still waited for."""
        self._sending.cancel()

    def drop(self) -> None:
        """Send nothing more and wait for no answer: those in flight stay unfinished."""
        self._sending.cancel()
        self._waiting.cancel()

    @property
    def unfinished(self) -> int:
        """Requests that had no end when the wait for them was over; 0 while the load runs."""
        return self.tally.in_flight if self.state is LoadState.FINISHED else 0

    @property
    def lost_on_killed_nodes(self) -> int:
        """Failed requests whose node ended without being asked, as far as it can be told now."""
        return self.tally.settle(self._killed_at_s(), now_s=anyio.current_time())

    def numbers(self) -> LoadNumbers:
        """Return the running numbers."""
        now_s = self._ended_s or anyio.current_time()
        return LoadNumbers(
            state=self.state,
            elapsed_s=now_s - self._began_s if self._began_s is not None else 0.0,
            offered=self.tally.offered,
            ok=self.tally.ok,
            failed=self.tally.failed,
            refused=self.refused,
            in_flight=self.tally.in_flight,
            recent_ttft_p50_s=self.tally.recent_ttft_s(0.5, now_s=now_s),
            recent_ttft_p95_s=self.tally.recent_ttft_s(0.95, now_s=now_s),
        )

    def _send(
        self, group: TaskGroup, session: aiohttp.ClientSession, request: Request, due_s: float
    ) -> None:
        self.tally.offered += 1
        if self.tally.in_flight > self._limits.open_max:
            now_s = anyio.current_time()
            self.refused += 1
            refusal = Failure(
                sent_at_s=now_s, failed_at_s=now_s, stage=CLIENT, code="open_requests_max"
            )
            self.tally.failure(refusal, {})
            return
        group.start_soon(self._one, session, request, due_s)

    async def _one(self, session: aiohttp.ClientSession, request: Request, due_s: float) -> None:
        answer = await exchanged(
            session, self._url, request, due_s=due_s, limit_s=self._limits.answer_s
        )
        match answer:
            case Served():
                self.tally.served(answer, now_s=anyio.current_time())
            case Failure():
                self.tally.failure(answer, self._killed_at_s())
        self._answered.set()
        self._answered = anyio.Event()
