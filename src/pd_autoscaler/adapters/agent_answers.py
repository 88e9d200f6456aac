"""What agents answer, read with care: sizes, deadlines, and what a broken answer means."""

from contextlib import suppress
from typing import TypeVar

import aiohttp
import anyio
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import BaseModel, ValidationError

from pd_autoscaler.agent.wire import ClusterLine, ErrorReply, StateReply
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
from pd_autoscaler.model.node import Endpoint, Role
from pd_autoscaler.ports import ClusterResult

ANSWER_MAX_BYTES = 8 * 1024 * 1024

_BROKEN = (aiohttp.ClientError, HttpProcessingError, ValueError)
"""What reading a body raises; a line above the buffer's size is one of the last two."""

M = TypeVar("M", bound=BaseModel)


def unsent(url: str, error: aiohttp.ClientError) -> PdAutoscalerError:
    """Say what a request without an answer means: the kind of error tells if it was ever sent."""
    said = f"{url}: {str(error) or type(error).__name__}"
    if isinstance(error, aiohttp.InvalidURL):
        return PermanentError(f"{url}: is not a URL")
    if isinstance(error, aiohttp.ClientSSLError):
        return PermanentError(said)
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return TransientError(said)
    return OutcomeUnknownError(said)


async def error_of(response: aiohttp.ClientResponse, ends_s: float, url: str) -> PdAutoscalerError:
    """Say what an answer that is not 200 means: whether it happened, and whether it may yet."""
    status = response.status
    try:
        reply = ErrorReply.model_validate_json(await body_of(response, ends_s, url))
        said = f"{url}: {reply.reason}: {reply.error}"
    except (ValidationError, PdAutoscalerError):
        said = f"{url}: HTTP {status}"
    # 502 is a gateway's, whose agent may have done it all the same; 504 is the agent's deadline.
    if status in {502, 504}:
        return OutcomeUnknownError(said)
    if status == 429 or status >= 500:
        return TransientError(said)
    return PermanentError(said)


def check_content_type(response: aiohttp.ClientResponse, wanted: str, url: str) -> None:
    """Raise PermanentError for an answer that no agent gives."""
    if response.content_type != wanted:
        raise PermanentError(
            f"{url}: the answer is {response.content_type}, not {wanted}; no agent is there"
        )


async def body_of(response: aiohttp.ClientResponse, ends_s: float, url: str) -> bytes:
    """Read a whole body, bounded in size and time."""
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


async def next_line(response: aiohttp.ClientResponse, ends_s: float, url: str) -> ClusterLine:
    """Read one line of a stream of answers; what breaks off leaves its effect open."""
    with anyio.move_on_after(ends_s - anyio.current_time()):
        try:
            raw = await response.content.readline()
        except _BROKEN as error:
            raise OutcomeUnknownError(f"{url}: the answer broke off: {error}") from error
        if not raw.endswith(b"\n"):
            raise OutcomeUnknownError(f"{url}: the answer ended early")
        try:
            line = parsed(raw, ClusterLine, url)
        except PermanentError as error:
            # The calls were begun: a line that nobody understands leaves their effect open.
            raise OutcomeUnknownError(str(error)) from error
        if (line.outcome == "done") != (line.verdict == "success"):
            raise OutcomeUnknownError(f"{url}: {line.outcome} contradicts {line.verdict}")
        return line
    raise OutcomeUnknownError(f"{url}: no line before the deadline")


async def read_to_end(response: aiohttp.ClientResponse, ends_s: float) -> None:
    """Take what is left, so that the connection can be used again; all answers are here."""
    with anyio.move_on_after(ends_s - anyio.current_time()):
        with suppress(*_BROKEN):
            await response.content.readany()


def parsed(body: bytes, model: type[M], url: str) -> M:
    """Return a message, or raise PermanentError naming the field that is wrong."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "body"
        raise PermanentError(
            f"{url}: the answer is no {model.__name__}: {place}: {first['msg']}"
        ) from error


def result_of(line: ClusterLine, rank: int) -> ClusterResult:
    """Return a line as the model's result."""
    is_unknown = line.outcome == "unknown"
    return ClusterResult(
        line.id, line.code, Verdict(line.verdict), is_unknown=is_unknown, rank=rank
    )


def agent_state_of(reply: StateReply, *, rank: int, at_s: float) -> AgentState:
    """Return a state reply as the model\'s state of one rank."""
    return AgentState(
        node_id=reply.node_id,
        at_s=at_s,
        incarnation=reply.incarnation,
        role=None if reply.role is None else Role(reply.role),
        phase=AgentPhase(reply.phase),
        endpoints=tuple(
            Endpoint(
                rank,
                endpoint.cluster_id,
                endpoint.ip,
                endpoint.port,
                links_max=endpoint.links_max,
            )
            for endpoint in reply.endpoints
        ),
        links=tuple(
            LinkEntry(
                cluster_id=row.cluster_id,
                state=EntryState(row.state),
                rank=rank,
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
            kv_used=reply.engine.kv_used,
        ),
        calls_in_flight=reply.calls_in_flight,
        calls_hung=reply.calls_hung,
        can_switch_role="role" in reply.capabilities,
        epoch=reply.epoch,
        holder=reply.holder,
        version=reply.version,
    )
