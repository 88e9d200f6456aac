"""The controller's hand on one agent, the one of one rank, over HTTP."""

import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp
import anyio

from pd_autoscaler.adapters.agent_answers import (
    agent_state_of,
    body_of,
    check_content_type,
    error_of,
    next_line,
    parsed,
    read_to_end,
    result_of,
    unsent,
)
from pd_autoscaler.agent.wire import (
    ClaimRequest,
    ClusterWire,
    FinalizeRequest,
    InitRequest,
    LinksRequest,
    Mutation,
    StateReply,
    SwitchRoleRequest,
    UnlinksRequest,
)
from pd_autoscaler.errors import (
    OutcomeUnknownError,
    TransientError,
)
from pd_autoscaler.model.facts import (
    AgentState,
)
from pd_autoscaler.model.link import Verdict
from pd_autoscaler.model.node import Endpoint, Role
from pd_autoscaler.ports import ClusterResult, Fence

NO_ANSWER = "NO_ANSWER"
"""The code of a cluster whose line never came."""
DEADLINE_MAX_S = 3600.0
"""No agent takes a longer one."""
JSON_LINES = "application/x-ndjson"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentDeadlines:
    """Seconds an agent gets for each verb; `link_timeout_ms` goes on to the native call.

    The agent answers at its deadline, so a mutating call waits `grace_s` longer for its answer. A
    connection that is not there within `connect_s` carried no request. `link_s` and
    `link_timeout_ms` are those of one wave of calls.
    """

    connect_s: float = 3.0
    state_s: float = 5.0
    init_s: float = 60.0
    switch_s: float = 60.0
    link_s: float = 10.0
    link_timeout_ms: int = 3000
    finalize_s: float = 30.0
    grace_s: float = 2.0


class Call(NamedTuple):
    """One native call: the far endpoint, and its node's incarnation as the caller knows it."""

    endpoint: Endpoint
    incarnation: str


class AgentClient:
    """Calls the agent at `url`, meaning the process of this `incarnation`, the node's `rank`.

    The session is the caller's (with its TLS settings); `token` is sent as a bearer token.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        rank: int = 0,
        incarnation: str = "",
        deadlines: AgentDeadlines,
        token: str | None = None,
    ) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._rank = rank
        self._incarnation = incarnation
        self._deadlines = deadlines
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def state(self) -> AgentState:
        """Read its state; no answer is a TransientError, a nonsense one a PermanentError."""
        url = self._at("state")
        ends_s = anyio.current_time() + self._deadlines.state_s
        try:
            reply = parsed(await self._answer("GET", url, None, ends_s), StateReply, url)
        except OutcomeUnknownError as error:
            # A read has no effect that could be in doubt.
            raise TransientError(str(error)) from error
        return agent_state_of(reply, rank=self._rank, at_s=anyio.current_time())

    async def init(self, role: Role, *, fence: Fence, key: str) -> None:
        """Initialise the library object; one that is ready in this role is a success."""
        deadline_s = self._deadlines.init_s
        request = InitRequest(
            **self._meant(fence, key),
            role=role.value,
            deadline_s=deadline_s,
        )
        await self._mutate(self._at("init"), request, deadline_s)

    async def switch_role(self, role: Role, *, fence: Fence, key: str) -> None:
        """Take a role without a restart, once unlinked; having it already is a success."""
        deadline_s = self._deadlines.switch_s
        request = SwitchRoleRequest(
            **self._meant(fence, key),
            role=role.value,
            deadline_s=deadline_s,
        )
        await self._mutate(self._at("role"), request, deadline_s)

    async def claim(self, *, fence: Fence, key: str) -> None:
        """Have the agent obey this fence from now on."""
        request = ClaimRequest(**self._meant(fence, key))
        await self._mutate(self._at("claim"), request, self._deadlines.state_s)

    async def finalize(self, *, fence: Fence, key: str) -> None:
        """Finalise the library object; refused while a native call is inside it."""
        deadline_s = self._deadlines.finalize_s
        request = FinalizeRequest(
            **self._meant(fence, key),
            deadline_s=deadline_s,
        )
        await self._mutate(self._at("finalize"), request, deadline_s)

    def links(
        self, calls: Sequence[Call], *, waves: int, fence: Fence, key: str
    ) -> AsyncGenerator[ClusterResult, None]:
        """Make at least one link call, yielding each as it ends; they have `waves` times the time.

        Raises before the first result when nothing was begun. Once begun, a cluster whose answer
        does not come is yielded as unknown.
        """
        request = LinksRequest(
            **self._meant(fence, key),
            clusters=_clusters(calls),
            timeout_ms=self._deadlines.link_timeout_ms * waves,
            deadline_s=min(DEADLINE_MAX_S, self._deadlines.link_s * waves),
        )
        return self._stream(self._at("links"), request)

    def unlinks(
        self, calls: Sequence[Call], *, force: bool, waves: int, fence: Fence, key: str
    ) -> AsyncGenerator[ClusterResult, None]:
        """Unlink at least one far endpoint, yielding each as it ends; errors as for `links`."""
        request = UnlinksRequest(
            **self._meant(fence, key),
            clusters=_clusters(calls),
            timeout_ms=self._deadlines.link_timeout_ms * waves,
            deadline_s=min(DEADLINE_MAX_S, self._deadlines.link_s * waves),
            force=force,
        )
        return self._stream(self._at("unlinks"), request)

    def _meant(self, fence: Fence, key: str) -> dict[str, Any]:
        """Return what every mutating request carries: who calls, and which process is meant."""
        return {
            "epoch": fence.epoch,
            "holder": fence.holder,
            "incarnation": self._incarnation,
            "key": key,
        }

    def _at(self, verb: str) -> str:
        return f"{self._url}/v1/{verb}"

    async def _mutate(self, url: str, request: Mutation, deadline_s: float) -> None:
        ends_s = anyio.current_time() + deadline_s + self._deadlines.grace_s
        parsed(await self._answer("POST", url, request, ends_s), StateReply, url)

    async def _stream(self, url: str, request: LinksRequest) -> AsyncGenerator[ClusterResult, None]:
        waiting = dict.fromkeys(cluster.id for cluster in request.clusters)
        ends_s = anyio.current_time() + request.deadline_s + self._deadlines.grace_s
        broken = ""
        try:
            response = await self._opened("POST", url, request, ends_s)
        except OutcomeUnknownError as error:
            broken = str(error)
        else:
            try:
                check_content_type(response, JSON_LINES, url)
                while waiting:
                    line = await next_line(response, ends_s, url)
                    if line.id in waiting:
                        del waiting[line.id]
                        yield result_of(line, self._rank)
                await read_to_end(response, ends_s)
            except OutcomeUnknownError as error:
                broken = str(error)
            finally:
                response.close()
        if broken:
            log.warning("%d clusters without an answer: %s", len(waiting), broken)
        for cluster_id in waiting:
            yield unanswered(cluster_id, self._rank)

    async def _answer(
        self, method: str, url: str, request: Mutation | None, ends_s: float
    ) -> bytes:
        response = await self._opened(method, url, request, ends_s)
        try:
            check_content_type(response, "application/json", url)
            return await body_of(response, ends_s, url)
        finally:
            response.close()

    async def _opened(
        self, method: str, url: str, request: Mutation | None, ends_s: float
    ) -> aiohttp.ClientResponse:
        """Send a request and return the answer whose body is yet to be read, if it is a good one.

        Raises OutcomeUnknownError if the request may have been received and no answer came.
        """
        with anyio.move_on_after(ends_s - anyio.current_time()):
            try:
                response = await self._session.request(
                    method,
                    url,
                    data=None if request is None else request.model_dump_json().encode(),
                    headers=self._headers,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(sock_connect=self._deadlines.connect_s),
                )
            except aiohttp.ClientError as error:
                raise unsent(url, error) from error
            if response.status != 200:
                try:
                    raise await error_of(response, ends_s, url)
                finally:
                    response.close()
            return response
        raise OutcomeUnknownError(f"{url}: no answer before the deadline")


def unanswered(cluster_id: int, rank: int) -> ClusterResult:
    """Return the result of a call that may have been begun and whose answer did not come."""
    return ClusterResult(cluster_id, NO_ANSWER, Verdict.FORCE, is_unknown=True, rank=rank)


def _clusters(calls: Sequence[Call]) -> list[ClusterWire]:
    return [
        ClusterWire(
            id=endpoint.cluster_id, ip=endpoint.ip, port=endpoint.port, incarnation=incarnation
        )
        for endpoint, incarnation in calls
    ]
