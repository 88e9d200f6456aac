"""The embedded cluster's router: prompt leg, decoder leg, and an admin API to publish nodes."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import anyio
from aiohttp import web

from pd_autoscaler.embedded.engine_http import BODY_BYTES_MAX
from pd_autoscaler.embedded.engine_listen import bound_socket, listening
from pd_autoscaler.embedded.engine_request import BadRequestError, completion_of
from pd_autoscaler.embedded.json_only import json_only
from pd_autoscaler.embedded.router_legs import (
    LegError,
    Legs,
    RefusedError,
    Route,
    RouterLimits,
    chunk_of,
)
from pd_autoscaler.embedded.router_log import RouterFailure, RouterLog
from pd_autoscaler.embedded.router_table import NodeTable, RoutedNode
from pd_autoscaler.model.node import Role

LIMITS = RouterLimits()


class EmbeddedRouter:
    """Routes completions to the least loaded published nodes, blind to their links.

    A request counts on its prompt node until its KV was pulled (the decoder's header), and on its
    decoder until it ends. `log` holds the counts and failures.
    """

    def __init__(self, limits: RouterLimits = LIMITS) -> None:
        self.table = NodeTable()
        self.log = RouterLog()
        self._limits = limits
        self._numbers = itertools.count(1)
        self._legs: Legs | None = None

    @property
    def failures(self) -> tuple[RouterFailure, ...]:
        """The newest requests that were lost, oldest first, each with the nodes it was on."""
        return tuple(self.log.failures)

    @asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator[str]:
        """Serve on loopback for as long as the block runs; yield the URL. Port 0 is a free one."""
        async with listening(self.app(), bound_socket(port)) as bound:
            yield f"http://127.0.0.1:{bound}"

    def app(self) -> web.Application:
        """Build the app; run it with `handler_cancellation=True`. What is posted must be JSON."""
        app = web.Application(middlewares=[json_only], client_max_size=BODY_BYTES_MAX)
        app.cleanup_ctx.append(self._connected)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_get("/health", self._health)
        app.router.add_get("/nodes", self._nodes)
        app.router.add_post("/nodes", self._publish)
        app.router.add_delete("/nodes/{id}", self._withdraw)
        app.router.add_get("/log", self._told)
        return app

    async def _connected(self, _: web.Application) -> AsyncIterator[None]:
        """Hold the one session to all nodes while the app runs."""
        # Nodes keep idle connections longer than this, so a reused one is seldom a closed one.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=15)
        async with aiohttp.ClientSession(connector=connector) as session:
            self._legs = Legs(self.table, self.log, session=session, limits=self._limits)
            yield

    async def _complete(self, http: web.Request) -> web.StreamResponse:
        """Carry one request, and account for however it ends."""
        self.log.requests += 1
        try:
            body = await _json(http)
            completion_of({**body, "kv_transfer_params": {}})
        except BadRequestError as error:
            self.log.refused += 1
            return web.json_response({"error": str(error), "code": "bad_request"}, status=400)
        except web.HTTPRequestEntityTooLarge:
            self.log.refused += 1
            raise
        except (asyncio.CancelledError, ConnectionError):
            self.log.client_gone += 1
            raise
        route = Route(f"r{next(self._numbers)}", body)
        try:
            response = await self._carry(http, route)
            self.log.completed += 1
        except RefusedError as error:
            self.log.refused += 1
            return web.Response(body=error.body, status=400, content_type="application/json")
        except LegError as error:
            return web.json_response(self._failed(route, error).wire(), status=error.status)
        except _StreamBrokenError as error:
            failure = self._failed(route, error.leg)
            await _break(http, error.response, failure)
            return error.response
        except (asyncio.CancelledError, ConnectionError):
            # Only the client's own connection raises these here.
            self.log.client_gone += 1
            raise
        return response

    async def _carry(self, http: web.Request, route: Route) -> web.StreamResponse:
        """Send both legs and stream the second one's answer through."""
        if self._legs is None:
            raise RuntimeError("the app is not running")
        transfer, leave_prompt = await self._legs.prompt(route)
        try:
            async with self._legs.decoder(route, transfer) as answer:
                leave_prompt()
                return await _pass_on(http, route, answer)
        finally:
            leave_prompt()

    def _failed(self, route: Route, error: LegError) -> RouterFailure:
        """Log a failure with the nodes that the request was on."""
        failure = RouterFailure(
            request_id=route.request_id,
            stage=error.stage,
            code=error.code,
            node_id=error.node_id,
            prompt_node_id=route.prompt.id if route.prompt else "",
            decoder_node_id=route.decoder.id if route.decoder else "",
            error=str(error),
            at_s=anyio.current_time(),
        )
        self.log.add(failure)
        return failure

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _nodes(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "prompt": self.table.ids(Role.PROMPT),
                "decoder": self.table.ids(Role.DECODER),
                "in_flight": self.table.in_flight,
                "waiting": self.log.waiting,
            }
        )

    async def _publish(self, http: web.Request) -> web.Response:
        try:
            body = await _json(http)
            node = _node_of(body)
        except BadRequestError as error:
            return web.json_response({"error": str(error)}, status=400)
        self.table.publish(node)
        return web.json_response({"id": node.id})

    async def _withdraw(self, http: web.Request) -> web.Response:
        self.table.withdraw(http.match_info["id"])
        return web.json_response({"id": http.match_info["id"]})

    async def _told(self, _: web.Request) -> web.Response:
        return web.json_response(self.log.wire())


class _StreamBrokenError(Exception):
    """A decoder's answer broke after the client had got its header."""

    def __init__(self, response: web.StreamResponse, leg: LegError) -> None:
        super().__init__(str(leg))
        self.response = response
        self.leg = leg


async def _pass_on(
    http: web.Request, route: Route, answer: aiohttp.ClientResponse
) -> web.StreamResponse:
    """Copy a decoder's answer to the client as it comes."""
    decoder_id = route.decoder.id if route.decoder else ""
    headers = {
        "Content-Type": answer.headers.get("Content-Type", "application/json"),
        "X-Request-Id": route.request_id,
        "X-Prompt-Node": route.prompt.id if route.prompt else "",
        "X-Decoder-Node": decoder_id,
    }
    response = web.StreamResponse(headers=headers)
    await response.prepare(http)
    while True:
        try:
            chunk = await chunk_of(answer, decoder_id)
        except LegError as error:
            raise _StreamBrokenError(response, error) from error
        if not chunk:
            break
        await response.write(chunk)
    # A client may hang up after the last event: it has everything.
    with suppress(ConnectionError):
        await response.write_eof()
    return response


async def _break(http: web.Request, response: web.StreamResponse, failure: RouterFailure) -> None:
    """Tell the client in the stream, then cut it: an answer that broke must not look whole."""
    try:
        if response.content_type == "text/event-stream":
            event = json.dumps({"error": failure.wire()}).encode()
            await response.write(b"data: " + event + b"\n\n")
    except ConnectionError:
        return  # The client is gone, too.
    finally:
        if http.transport is not None:
            http.transport.close()


async def _json(http: web.Request) -> Mapping[str, Any]:
    """Read a JSON object."""
    try:
        body = await http.json()
    except ValueError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadRequestError("the body must be a JSON object")
    return body


def _node_of(body: Mapping[str, Any]) -> RoutedNode:
    """Read a node to publish."""
    values = [body.get(name) for name in ("id", "role", "url")]
    if not all(isinstance(value, str) and value for value in values):
        raise BadRequestError("id, role and url must be strings")
    try:
        role = Role(str(values[1]))
    except ValueError as error:
        raise BadRequestError("role must be prompt or decoder") from error
    return RoutedNode(str(values[0]), role, str(values[2]))
