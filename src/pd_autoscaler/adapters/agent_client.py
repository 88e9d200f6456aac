"""The controller's hand on the nodes' agents: `ports.NodeAgent` over HTTP."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
import anyio
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import BaseModel, ValidationError

from pd_autoscaler.agent.wire import (
    ClusterLine,
    ClusterWire,
    ErrorReply,
    FinalizeRequest,
    InitRequest,
    LinksRequest,
    Mutation,
    StateReply,
    UnlinksRequest,
)
from pd_autoscaler.errors import (
    OutcomeUnknownError,
    PdAutoscalerError,
    PermanentError,
    TransientError,
)
from pd_autoscaler.model.facts import (
    AgentPhase,
    AgentState,
    EngineLoad,
    EntryState,
    LinkEntry,
)
from pd_autoscaler.model.link import Verdict
from pd_autoscaler.model.node import Endpoint, Node, Role
from pd_autoscaler.model.plan import Peer
from pd_autoscaler.ports import ClusterResult, Fence

NO_ANSWER = "NO_ANSWER"
"""The code of a cluster whose line never came."""
ANSWER_MAX_BYTES = 8 * 1024 * 1024
JSON_LINES = "application/x-ndjson"

log = logging.getLogger(__name__)

_BROKEN = (aiohttp.ClientError, HttpProcessingError, ValueError)
"""What reading a body raises; a line above the buffer's size is one of the last two."""

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentDeadlines:
    """Seconds an agent gets for each verb; `link_timeout_ms` goes on to the native call.

    The agent answers at its deadline, so a mutating call waits `grace_s` longer for its answer. A
    connection that is not there within `connect_s` carried no request.
    """

    connect_s: float = 3.0
    state_s: float = 5.0
    init_s: float = 60.0
    link_s: float = 10.0
    link_timeout_ms: int = 3000
    finalize_s: float = 30.0
    grace_s: float = 2.0


class AgentClient:
    """Calls agents at their nodes' `agent_url`, meaning the process of their `incarnation`.

    The session is the caller's (with its TLS settings); `token` is sent as a bearer token.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        deadlines: AgentDeadlines | None = None,
        token: str | None = None,
    ) -> None:
        self._session = session
        self._deadlines = AgentDeadlines() if deadlines is None else deadlines
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def state(self, node: Node) -> AgentState:
        """Read a node's state; no answer is a TransientError, a nonsense one a PermanentError."""
        url = _url(node, "state")
        ends_s = anyio.current_time() + self._deadlines.state_s
        try:
            reply = _parsed(await self._answer("GET", url, None, ends_s), StateReply, url)
        except OutcomeUnknownError as error:
            # A read has no effect that could be in doubt.
            raise TransientError(str(error)) from error
        return _agent_state(reply, at_s=anyio.current_time())

    async def init(self, node: Node, role: Role, *, fence: Fence, key: str) -> None:
        """Initialise the node's library object; one that is ready in this role is a success."""
        deadline_s = self._deadlines.init_s
        request = InitRequest(
            epoch=fence.epoch,
            holder=fence.holder,
            incarnation=node.incarnation,
            key=key,
            role=role.value,
            deadline_s=deadline_s,
        )
        await self._mutate(_url(node, "init"), request, deadline_s)

    async def finalize(self, node: Node, *, fence: Fence, key: str) -> None:
        """Finalise the node's library object; refused while a native call is inside it."""
        deadline_s = self._deadlines.finalize_s
        request = FinalizeRequest(
            epoch=fence.epoch,
            holder=fence.holder,
            incarnation=node.incarnation,
            key=key,
            deadline_s=deadline_s,
        )
        await self._mutate(_url(node, "finalize"), request, deadline_s)

    async def links(
        self, node: Node, peers: Sequence[Peer], *, fence: Fence, key: str
    ) -> AsyncIterator[ClusterResult]:
        """Link every endpoint of these peers, yielding each as it ends.

        Raises before the first result when nothing was begun. Once begun, a cluster whose answer
        does not come is yielded as unknown.
        """
        clusters = _clusters(peers)
        if not clusters:
            return
        request = LinksRequest(
            epoch=fence.epoch,
            holder=fence.holder,
            incarnation=node.incarnation,
            key=key,
            clusters=clusters,
            timeout_ms=self._deadlines.link_timeout_ms,
            deadline_s=self._deadlines.link_s,
        )
        async with aclosing(self._stream(_url(node, "links"), request)) as results:
            async for result in results:
                yield result

    async def unlinks(
        self, node: Node, peers: Sequence[Peer], *, force: bool, fence: Fence, key: str
    ) -> AsyncIterator[ClusterResult]:
        """Unlink every endpoint of these peers, yielding each as it ends; errors as for `links`."""
        clusters = _clusters(peers)
        if not clusters:
            return
        request = UnlinksRequest(
            epoch=fence.epoch,
            holder=fence.holder,
            incarnation=node.incarnation,
            key=key,
            clusters=clusters,
            timeout_ms=self._deadlines.link_timeout_ms,
            deadline_s=self._deadlines.link_s,
            force=force,
        )
        async with aclosing(self._stream(_url(node, "unlinks"), request)) as results:
            async for result in results:
                yield result

    async def _mutate(self, url: str, request: Mutation, deadline_s: float) -> None:
        ends_s = anyio.current_time() + deadline_s + self._deadlines.grace_s
        _parsed(await self._answer("POST", url, request, ends_s), StateReply, url)

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
                _check_content_type(response, JSON_LINES, url)
                while waiting:
                    line = await _next_line(response, ends_s, url)
                    if line.id in waiting:
                        del waiting[line.id]
                        yield _result(line)
                await _read_to_end(response, ends_s)
            except OutcomeUnknownError as error:
                broken = str(error)
            finally:
                response.close()
        if broken:
            log.warning("%d clusters without an answer: %s", len(waiting), broken)
        for cluster_id in waiting:
            yield ClusterResult(cluster_id, NO_ANSWER, Verdict.FORCE, is_unknown=True)

    async def _answer(
        self, method: str, url: str, request: Mutation | None, ends_s: float
    ) -> bytes:
        response = await self._opened(method, url, request, ends_s)
        try:
            _check_content_type(response, "application/json", url)
            return await _body(response, ends_s, url)
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
                raise _unanswered(url, error) from error
            if response.status != 200:
                try:
                    raise await _error_of(response, ends_s, url)
                finally:
                    response.close()
            return response
        raise OutcomeUnknownError(f"{url}: no answer before the deadline")


def _url(node: Node, verb: str) -> str:
    return f"{node.agent_url.rstrip('/')}/v1/{verb}"


def _clusters(peers: Sequence[Peer]) -> list[ClusterWire]:
    return [
        ClusterWire(
            id=endpoint.cluster_id,
            ip=endpoint.ip,
            port=endpoint.port,
            incarnation=peer.incarnation,
        )
        for peer in peers
        for endpoint in peer.endpoints
    ]


def _unanswered(url: str, error: aiohttp.ClientError) -> PdAutoscalerError:
    """Say what a request without an answer means: the kind of error tells if it was ever sent."""
    said = f"{url}: {str(error) or type(error).__name__}"
    if isinstance(error, aiohttp.InvalidURL):
        return PermanentError(f"{url}: is not a URL")
    if isinstance(error, aiohttp.ClientSSLError):
        return PermanentError(said)
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return TransientError(said)
    return OutcomeUnknownError(said)


async def _error_of(response: aiohttp.ClientResponse, ends_s: float, url: str) -> PdAutoscalerError:
    status = response.status
    try:
        reply = ErrorReply.model_validate_json(await _body(response, ends_s, url))
        said = f"{url}: {reply.reason}: {reply.error}"
    except (ValidationError, PdAutoscalerError):
        said = f"{url}: HTTP {status}"
    # 502 is a gateway's, whose agent may have done it all the same; 504 is the agent's deadline.
    if status in {502, 504}:
        return OutcomeUnknownError(said)
    if status == 429 or status >= 500:
        return TransientError(said)
    return PermanentError(said)


def _check_content_type(response: aiohttp.ClientResponse, wanted: str, url: str) -> None:
    if response.content_type != wanted:
        raise PermanentError(
            f"{url}: the answer is {response.content_type}, not {wanted}; no agent is there"
        )


async def _body(response: aiohttp.ClientResponse, ends_s: float, url: str) -> bytes:
    body = bytearray()
    with anyio.move_on_after(ends_s - anyio.current_time()):
        try:
            async for chunk in response.content.iter_chunked(65536):
                body += chunk
                if len(body) > ANSWER_MAX_BYTES:
                    raise PermanentError(f"{url}: the answer is above {ANSWER_MAX_BYTES} bytes")
        except _BROKEN as error:
            raise OutcomeUnknownError(f"{url}: the answer broke off: {error}") from error
        return bytes(body)
    raise OutcomeUnknownError(f"{url}: the answer did not end before the deadline")


async def _next_line(response: aiohttp.ClientResponse, ends_s: float, url: str) -> ClusterLine:
    with anyio.move_on_after(ends_s - anyio.current_time()):
        try:
            raw = await response.content.readline()
        except _BROKEN as error:
            raise OutcomeUnknownError(f"{url}: the answer broke off: {error}") from error
        if not raw.endswith(b"\n"):
            raise OutcomeUnknownError(f"{url}: the answer ended early")
        try:
            line = _parsed(raw, ClusterLine, url)
        except PermanentError as error:
            # The calls were begun: a line that nobody understands leaves their effect open.
            raise OutcomeUnknownError(str(error)) from error
        if (line.outcome == "done") != (line.verdict == "success"):
            raise OutcomeUnknownError(f"{url}: {line.outcome} contradicts {line.verdict}")
        return line
    raise OutcomeUnknownError(f"{url}: no line before the deadline")


async def _read_to_end(response: aiohttp.ClientResponse, ends_s: float) -> None:
    """Take what is left, so that the connection can be used again; all answers are here."""
    with anyio.move_on_after(ends_s - anyio.current_time()):
        with suppress(*_BROKEN):
            await response.content.readany()


def _parsed(body: bytes, model: type[M], url: str) -> M:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "body"
        raise PermanentError(
            f"{url}: the answer is no {model.__name__}: {place}: {first['msg']}"
        ) from error


def _result(line: ClusterLine) -> ClusterResult:
    return ClusterResult(
        line.id, line.code, Verdict(line.verdict), is_unknown=line.outcome == "unknown"
    )


def _agent_state(reply: StateReply, *, at_s: float) -> AgentState:
    return AgentState(
        node_id=reply.node_id,
        at_s=at_s,
        incarnation=reply.incarnation,
        role=None if reply.role is None else Role(reply.role),
        phase=AgentPhase(reply.phase),
        endpoints=tuple(
            Endpoint(endpoint.rank, endpoint.cluster_id, endpoint.ip, endpoint.port)
            for endpoint in reply.endpoints
        ),
        links=tuple(
            LinkEntry(
                cluster_id=row.cluster_id,
                state=EntryState(row.state),
                peer_incarnation=row.peer_incarnation,
                code=row.code,
                age_s=row.age_s,
            )
            for row in reply.links
        ),
        engine=EngineLoad(
            waiting=reply.engine.waiting,
            running=reply.engine.running,
            kv_unpulled=reply.engine.kv_unpulled,
        ),
        calls_in_flight=reply.calls_in_flight,
        calls_hung=reply.calls_hung,
        epoch=reply.epoch,
        holder=reply.holder,
        version=reply.version,
    )
