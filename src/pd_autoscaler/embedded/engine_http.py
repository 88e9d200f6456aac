"""The simulated engines over HTTP: OpenAI's completions with vLLM's KV-transfer fields."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from pd_autoscaler.embedded.engine_decoder import DecoderEngine, Decoding
from pd_autoscaler.embedded.engine_metrics import EngineMetrics
from pd_autoscaler.embedded.engine_prompt import PromptEngine
from pd_autoscaler.embedded.engine_pull import PullError
from pd_autoscaler.embedded.engine_request import (
    BadRequestError,
    Completion,
    KvSource,
    completion_of,
)

BODY_BYTES_MAX = 16 * 2**20
"""A prompt of token ids is about seven bytes a token."""

WORD = " tok"
"""What every generated token reads."""


@dataclass(slots=True)
class Identity:
    """What a node's engine says of itself; the address is where it can be reached.

    `cluster_ids` are its ranks' LLM-DataDist ids, in rank order.
    """

    node_id: str
    cluster_ids: tuple[int, ...]
    host: str
    port: int
    model: str


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def prompt_completion(engine: PromptEngine, identity: Identity) -> Handler:
    """Return what answers completions on a prompt node: where the KV is, and one token."""

    async def complete(http: web.Request) -> web.StreamResponse:
        request = await _read(http)
        if not request.wants_remote_decode or request.tokens_out != 1:
            raise BadRequestError("a prompt node needs do_remote_decode and max_tokens=1")
        request_id = await engine.prefill(request)
        source = KvSource(
            engine_id=identity.node_id,
            cluster_ids=identity.cluster_ids,
            host=identity.host,
            port=identity.port,
            request_id=request_id,
            tokens=request.tokens_in,
        )
        body = _completion(request_id, identity, WORD, "length")
        body["usage"] = _usage(request, 1)
        body["kv_transfer_params"] = source.wire()
        return web.json_response(body)

    return complete


def add_release(app: web.Application, engine: PromptEngine) -> None:
    """Let decoders say which KV they have pulled, or never will."""

    async def release(http: web.Request) -> web.Response:
        body = await _json(http)
        request_id = body.get("request_id") if isinstance(body, dict) else None
        if not isinstance(request_id, str):
            raise BadRequestError("request_id must be a string")
        if engine.release(request_id):
            return web.json_response({"request_id": request_id})
        return web.json_response({"error": f"{request_id} is not held here"}, status=404)

    app.router.add_post("/v1/kv/release", release)


def decoder_completion(engine: DecoderEngine, identity: Identity) -> Handler:
    """Return what answers completions on a decoder: the tokens.

    The answer's header is sent once the KV is here: until then a failure has a status of its own.
    """
    count = 0

    async def complete(http: web.Request) -> web.StreamResponse:
        nonlocal count
        request = await _read(http)
        count += 1
        request_id = f"{identity.node_id}-{count}"
        try:
            async with engine.decoding(request) as decoding:
                send = _send_stream if request.is_stream else _send_whole
                return await send(http, decoding, identity, request_id)
        except PullError as error:
            return _pull_failed(request, identity, error)

    return complete


def _pull_failed(request: Completion, identity: Identity, error: PullError) -> web.Response:
    """Name both nodes and the library's code."""
    source = request.source
    cluster_id = error.cluster_id
    if cluster_id is None and source is not None:
        cluster_id = source.cluster_ids[0]
    body = {
        "error": f"KV was not pulled: {error}",
        "node_id": identity.node_id,
        "stage": "pull",
        "code": error.code,
        "prompt_node_id": source.engine_id if source else None,
        "prompt_cluster_id": cluster_id,
    }
    return web.json_response(body, status=502)


async def _send_stream(
    http: web.Request, decoding: Decoding, identity: Identity, request_id: str
) -> web.StreamResponse:
    """Send tokens as they come, several to an event, as OpenAI's server-sent events."""
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
    )
    await response.prepare(http)
    sent = 0
    while sent < decoding.request.tokens_out:
        tokens = await decoding.more(than=sent)
        finish = "length" if tokens >= decoding.request.tokens_out else None
        event = _completion(request_id, identity, WORD * (tokens - sent), finish)
        if finish:
            event["usage"] = _usage(decoding.request, tokens)
        sent = tokens
        data = b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"
        await response.write(data + b"data: [DONE]\n\n" if finish else data)
    await response.write_eof()
    return response


async def _send_whole(
    http: web.Request, decoding: Decoding, identity: Identity, request_id: str
) -> web.StreamResponse:
    """Send the header at once and one JSON object at the end."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(http)
    tokens = 0
    while tokens < decoding.request.tokens_out:
        tokens = await decoding.more(than=tokens)
    body = _completion(request_id, identity, WORD * tokens, "length")
    body["usage"] = _usage(decoding.request, tokens)
    await response.write_eof(json.dumps(body).encode())
    return response


def _completion(
    request_id: str, identity: Identity, text: str, finish: str | None
) -> dict[str, object]:
    """Return a completion object; `created` is zero, as the engine has no wall clock."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
    return {
        "id": request_id,
        "object": "text_completion",
        "created": 0,
        "model": identity.model,
        "choices": [choice],
    }


def _usage(request: Completion, tokens: int) -> dict[str, int]:
    """Return OpenAI's count of tokens."""
    return {
        "prompt_tokens": request.tokens_in,
        "completion_tokens": tokens,
        "total_tokens": request.tokens_in + tokens,
    }


def engine_app(identity: Identity, metrics: EngineMetrics, complete: Handler) -> web.Application:
    """Build what both roles share around what answers completions."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(body=metrics.page(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"node_id": identity.node_id})

    app = web.Application(middlewares=[_refusals], client_max_size=BODY_BYTES_MAX)
    app.router.add_post("/v1/completions", complete)
    app.router.add_get("/metrics", page)
    app.router.add_get("/health", health)
    return app


@web.middleware
async def _refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a bad request as JSON."""
    try:
        return await handler(request)
    except BadRequestError as error:
        return web.json_response({"error": str(error), "code": "bad_request"}, status=400)


async def _read(http: web.Request) -> Completion:
    """Read a completion request."""
    return completion_of(await _json(http))


async def _json(http: web.Request) -> object:
    """Read a JSON body."""
    try:
        body: object = await http.json()
    except ValueError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    return body
