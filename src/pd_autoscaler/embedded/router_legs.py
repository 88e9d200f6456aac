"""The two legs of a request: its prompt on one node, its tokens on another."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from pd_autoscaler.embedded.router_log import RouterLog
from pd_autoscaler.embedded.router_table import NodeTable, RoutedNode
from pd_autoscaler.model.node import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterLimits:
    """How long the router waits, in seconds; there is no limit on a stream that moves.

    `queue_s` for a published node, `connect_s` for a connection, `idle_s` for the next byte.
    """

    queue_s: float = 30.0
    connect_s: float = 2.0
    idle_s: float = 300.0


@dataclass(slots=True)
class Route:
    """One request's way so far."""

    request_id: str
    body: Mapping[str, Any]
    prompt: RoutedNode | None = None
    decoder: RoutedNode | None = None


class LegError(Exception):
    """A request failed on a node, or found none; `status` is what the client gets."""

    def __init__(
        self, message: str, *, stage: str, code: str, node_id: str = "", status: int = 502
    ) -> None:
        super().__init__(message)
        self.stage = stage
        self.code = code
        self.node_id = node_id
        self.status = status


class RefusedError(Exception):
    """A node called the request itself bad; the client gets the node's own words."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body.decode(errors="replace"))
        self.body = body


class Legs:
    """Sends legs to nodes, and tries another node only where nothing was sent."""

    def __init__(
        self,
        table: NodeTable,
        log: RouterLog,
        *,
        session: aiohttp.ClientSession,
        limits: RouterLimits,
    ) -> None:
        self._table = table
        self._log = log
        self._session = session
        self._limits = limits

    async def prompt(self, route: Route) -> tuple[Mapping[str, Any], Callable[[], None]]:
        """Have a prompt computed; return where its KV is, and what to call once it is pulled."""
        transfer = {"do_remote_decode": True, "do_remote_prefill": False}
        body = {**route.body, "max_tokens": 1, "stream": False, "kv_transfer_params": transfer}
        body.pop("stream_options", None)
        node, answer, leave = await self._send(route, Role.PROMPT, body)
        is_ours = False
        try:
            async with answer:
                found = await _found(answer, node, stage="prompt")
            is_ours = True
        finally:
            if not is_ours:
                leave()
        return found, leave

    @asynccontextmanager
    async def decoder(
        self, route: Route, transfer: Mapping[str, Any]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Have tokens generated; the answer's header means that the KV was pulled."""
        body = {**route.body, "kv_transfer_params": dict(transfer)}
        node, answer, leave = await self._send(route, Role.DECODER, body)
        try:
            async with answer:
                if answer.status != 200:
                    await _refuse(answer, node, stage="decode")
                yield answer
        finally:
            leave()

    async def _send(
        self, route: Route, role: Role, body: Mapping[str, Any]
    ) -> tuple[RoutedNode, aiohttp.ClientResponse, Callable[[], None]]:
        """Send a leg to the least loaded node that takes the connection."""
        stage = "prompt" if role is Role.PROMPT else "decode"
        tried: dict[str, str] = {}
        while True:
            node = await self._pick(role, tried, stage=stage)
            if role is Role.PROMPT:
                route.prompt = node
            else:
                route.decoder = node
            leave = self._table.enter(node)
            is_ours = False
            try:
                answer = await self._post(node, body, route.request_id)
                is_ours = True
                return node, answer, leave
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                # No connection, so nothing was sent and another node may be tried.
                tried[node.id] = str(error)
                self._log.retried += 1
            except (aiohttp.ClientError, TimeoutError) as error:
                raise _broken(error, node, stage=stage) from error
            finally:
                if not is_ours:
                    leave()

    async def _post(
        self, node: RoutedNode, body: Mapping[str, Any], request_id: str
    ) -> aiohttp.ClientResponse:
        """Send a request and wait for the answer's header."""
        return await self._session.post(
            f"{node.url.rstrip('/')}/v1/completions",
            json=body,
            headers={"X-Request-Id": request_id},
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self._limits.connect_s, sock_read=self._limits.idle_s
            ),
        )

    async def _pick(self, role: Role, tried: Mapping[str, str], *, stage: str) -> RoutedNode:
        """Pick a node that was not tried, waiting for the first one if none is published."""
        if not tried:
            # Without a decoder a prompt's KV would only wait in vain, and block the next ones.
            roles = tuple(Role) if role is Role.PROMPT else (role,)
            self._log.waiting += 1
            try:
                is_there = await self._table.wait_for(*roles, within_s=self._limits.queue_s)
            finally:
                self._log.waiting -= 1
            if not is_there:
                missing = " or ".join(r for r in roles if not self._table.ids(r))
                message = f"no {missing} node within {self._limits.queue_s:g}s"
                raise LegError(message, stage="route", code="no_node", status=503)
        node = self._table.pick(role, but=tried)
        if node is None:
            last, why = list(tried.items())[-1]
            message = f"{len(tried)} {role} nodes took no connection; {last}: {why}"
            raise LegError(message, stage=stage, code="refused", node_id=last)
        return node


async def _found(
    answer: aiohttp.ClientResponse, node: RoutedNode, *, stage: str
) -> Mapping[str, Any]:
    """Read a prompt's answer: where its KV is."""
    if answer.status != 200:
        await _refuse(answer, node, stage=stage)
    try:
        body = await answer.json()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise _broken(error, node, stage=stage) from error
    transfer = body.get("kv_transfer_params") if isinstance(body, dict) else None
    if not isinstance(transfer, dict):
        message = f"{node.id} answered without kv_transfer_params"
        raise LegError(message, stage=stage, code="bad_answer", node_id=node.id)
    return transfer


async def _refuse(answer: aiohttp.ClientResponse, node: RoutedNode, *, stage: str) -> None:
    """Raise what an answer other than 200 means."""
    try:
        body = await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise _broken(error, node, stage=stage) from error
    if answer.status == 400:
        raise RefusedError(body)
    try:
        said = json.loads(body)
    except ValueError:
        said = {}
    said = said if isinstance(said, dict) else {}
    raise LegError(
        f"{node.id}: {said.get('error') or f'HTTP {answer.status}'}",
        stage=str(said.get("stage") or stage),
        code=str(said.get("code") or f"http_{answer.status}"),
        node_id=node.id,
    )


def _broken(error: Exception, node: RoutedNode, *, stage: str) -> LegError:
    """Name a connection that broke or fell silent after the request was sent."""
    code = "idle" if isinstance(error, TimeoutError) else "broken"
    why = str(error) or type(error).__name__
    return LegError(f"{node.id}: {why}", stage=stage, code=code, node_id=node.id)


async def chunk_of(answer: aiohttp.ClientResponse, node_id: str) -> bytes:
    """Return the next bytes of an answer, nothing at its end; raise LegError if it broke."""
    try:
        return await answer.content.readany()
    except (aiohttp.ClientError, TimeoutError) as error:
        code = "idle" if isinstance(error, TimeoutError) else "broken"
        why = str(error) or type(error).__name__
        raise LegError(f"{node_id}: {why}", stage="decode", code=code, node_id=node_id) from error
