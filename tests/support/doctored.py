"""Servers that a doctor looks at: each path answers as a test says, and every request is noted."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from aiohttp import web

from pd_autoscaler.app import wall_clock
from pd_autoscaler.doctor import prepared
from pd_autoscaler.doctor.diagnosis import Round
from pd_autoscaler.doctor.findings import Diagnosis, Finding, Verdict
from pd_autoscaler.embedded.engine_listen import bound_socket, listening
from pd_autoscaler.model.facts import ProvidedNode
from pd_autoscaler.model.node import Role
from pd_autoscaler.settings import ScrapeSettings, Settings

SCRAPE_S = 0.5
"""How long an answer may take that never comes."""

Given = bytes | str | list[Any] | dict[str, Any] | web.Response | Callable[[web.Request], Any]


@dataclass
class Served:
    """Where a server is, and what was asked of it."""

    url: str
    asked: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)


def with_token(token: str, body: bytes) -> Callable[[web.Request], web.Response]:
    """Answer only to who has the token."""

    def answer(request: web.Request) -> web.Response:
        is_known = request.headers.get("Authorization") == f"Bearer {token}"
        return web.Response(body=body) if is_known else web.Response(status=401)

    return answer


async def hanging(_: web.Request) -> web.Response:
    """Answer never."""
    await anyio.sleep_forever()
    raise AssertionError


@asynccontextmanager
async def served(paths: Mapping[str, Given]) -> AsyncIterator[Served]:
    """Serve these paths on loopback."""
    seen = Served("")

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.asked.append((request.method, request.path, dict(request.headers)))
        given = paths.get(request.path)
        if callable(given):
            given = given(request)
        if isinstance(given, Awaitable):
            given = await given
        return _response(given)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(listening(app, bound_socket()))
        seen.url = f"http://127.0.0.1:{port}"
        yield seen


def _response(given: object) -> web.StreamResponse:
    match given:
        case None:
            return web.Response(status=404)
        case web.StreamResponse():
            # One response answers one request.
            body = given.body if isinstance(given, web.Response) else b""
            return web.Response(status=given.status, body=body, headers=given.headers)
        case bytes() | str():
            return web.Response(body=given)
        case _:
            return web.json_response(given)


def a_round(settings: Settings | None = None, *, deadline_s: float = 30.0) -> Round:
    """A round with a short deadline for each page and no pause between two."""
    settings = settings or Settings(scrape=ScrapeSettings(deadline_s=SCRAPE_S))
    return Round(
        settings=settings,
        reader=prepared.reader_of(settings),
        terms=prepared.terms_of(settings, pause_s=0.0),
        now_unix_s=wall_clock,
        deadline_s=deadline_s,
    )


async def one(
    metrics_url: str = "",
    *agent_urls: str,
    role: Role | None = Role.PROMPT,
    made: Round | None = None,
) -> dict[str, Finding]:
    """Look at one node, and give its findings by check."""
    node = ProvidedNode(
        id="n1", role=role or Role.PROMPT, agent_urls=agent_urls, metrics_url=metrics_url
    )
    return checks(await (made or a_round()).of_one(node, role), "n1")


def checks(found: Diagnosis, name: str) -> dict[str, Finding]:
    """Return a group's findings by check."""
    (group,) = (group for group in found.groups if group.name == name)
    return {finding.check: finding for finding in group.findings}


def troubles(found: dict[str, Finding]) -> set[str]:
    """Name the checks that found something to fix or to mind."""
    return {c for c, f in found.items() if f.verdict in {Verdict.PROBLEM, Verdict.WARNING}}
