"""The agent's HTTP face: JSON in, JSON or a stream of JSON lines out."""

import hmac
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError

from pd_autoscaler.agent.refusals import RefusedError
from pd_autoscaler.agent.service import AgentService
from pd_autoscaler.agent.wire import (
    ClaimRequest,
    ClusterLine,
    ErrorReply,
    FinalizeRequest,
    InitRequest,
    LinksRequest,
    Mutation,
    SwitchRoleRequest,
    UnlinksRequest,
)

BODY_MAX_BYTES = 1024 * 1024
JSON_LINES = "application/x-ndjson"
STOP_GRACE_S = 2.0

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Mutation)


def build_app(service: AgentService, token: str | None = None) -> web.Application:
    """Return the agent's application; while it runs, so does the service.

    With a token every request but /healthz must carry `Authorization: Bearer <token>`.
    """
    app = web.Application(middlewares=[_errors_as_json], client_max_size=BODY_MAX_BYTES)
    if token:
        app.middlewares.append(_token_required(token))
    handlers = _Handlers(service)
    app.router.add_get("/healthz", handlers.healthz)
    app.router.add_get("/metrics", handlers.metrics)
    app.router.add_get("/v1/state", handlers.state)
    app.router.add_post("/v1/claim", handlers.claim)
    app.router.add_post("/v1/init", handlers.init)
    app.router.add_post("/v1/links", handlers.links)
    app.router.add_post("/v1/unlinks", handlers.unlinks)
    app.router.add_post("/v1/role", handlers.role)
    app.router.add_post("/v1/finalize", handlers.finalize)

    async def owned(_: web.Application) -> AsyncIterator[None]:
        async with service.running():
            yield

    async def stopped(_: web.Application) -> None:
        # Before the server waits for its handlers: those may wait for calls without end.
        service.stop()

    app.cleanup_ctx.append(owned)
    app.on_shutdown.append(stopped)
    return app


@asynccontextmanager
async def serve(
    app: web.Application,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Serve until the context is left, and give the port that was bound (0 picks a free one).

    Raises OSError if the address is taken.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_GRACE_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=ssl_context).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


class _Handlers:
    def __init__(self, service: AgentService) -> None:
        self._service = service

    async def healthz(self, _: web.Request) -> web.Response:
        trouble = self._service.trouble
        if trouble:
            return web.json_response({"status": "degraded", "error": trouble}, status=503)
        return web.json_response({"status": "ok"})

    async def metrics(self, _: web.Request) -> web.Response:
        page = generate_latest(self._service.metrics.registry)
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def state(self, _: web.Request) -> web.Response:
        return await self._state()

    async def init(self, request: web.Request) -> web.Response:
        await self._service.init(await _parsed(request, InitRequest))
        return await self._state()

    async def role(self, request: web.Request) -> web.Response:
        await self._service.switch_role(await _parsed(request, SwitchRoleRequest))
        return await self._state()

    async def claim(self, request: web.Request) -> web.Response:
        self._service.claim(await _parsed(request, ClaimRequest))
        return await self._state()

    async def finalize(self, request: web.Request) -> web.Response:
        await self._service.finalize(await _parsed(request, FinalizeRequest))
        return await self._state()

    async def links(self, request: web.Request) -> web.StreamResponse:
        return await _streamed(request, self._service.links(await _parsed(request, LinksRequest)))

    async def unlinks(self, request: web.Request) -> web.StreamResponse:
        return await _streamed(
            request, self._service.unlinks(await _parsed(request, UnlinksRequest))
        )

    async def _state(self) -> web.Response:
        reply = await self._service.state()
        return web.Response(text=reply.model_dump_json(), content_type="application/json")


async def _parsed(request: web.Request, model: type[M]) -> M:
    body = await request.read()
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise RefusedError("bad_request", _sentence(error)) from error


def _sentence(error: ValidationError) -> str:
    """Name each field that is wrong and say what it should be."""
    return "; ".join(
        f"{'.'.join(map(str, part['loc'])) or 'body'}: {part['msg']}"
        for part in error.errors(include_url=False, include_input=False)
    )


async def _streamed(
    request: web.Request, lines: AsyncGenerator[ClusterLine, None]
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": JSON_LINES})
    # A reader that goes away misses the answers; the calls go on and its key finds them again.
    with suppress(ConnectionError):
        async with aclosing(lines):
            await response.prepare(request)
            async for line in lines:
                await response.write(line.model_dump_json().encode() + b"\n")
            await response.write_eof()
    return response


def _token_required(token: str) -> Middleware:
    expected = f"Bearer {token}".encode()

    @web.middleware
    async def checked(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if request.path != "/healthz" and not hmac.compare_digest(given, expected):
            raise RefusedError("unauthorised", "the bearer token is missing or wrong")
        return await handler(request)

    return checked


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except RefusedError as refused:
        reply, status = ErrorReply(reason=refused.reason, error=refused.error), refused.status
    except web.HTTPException as error:
        # The framework's own: no such path, a wrong method, a body that is too large.
        reply = ErrorReply(reason="bad_request", error=f"{error.reason}: {request.path}")
        status = error.status
    except Exception:
        log.exception("%s %s", request.method, request.path)
        reply, status = ErrorReply(reason="internal_error", error="see the agent's log"), 500
    return web.Response(
        text=reply.model_dump_json(), content_type="application/json", status=status
    )
