"""Engines that serve pages over real HTTP, good and bad, and a stand-in for a Prometheus."""

import gzip
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ssl import SSLContext

import anyio
import anyio.lowlevel
from aiohttp import web
from aiohttp.test_utils import TestServer

from pd_autoscaler.adapters.metrics.connection import metrics_session
from pd_autoscaler.adapters.metrics.profiles import ProfileBook, shipped_profiles
from pd_autoscaler.adapters.metrics.scrape import Scraper
from pd_autoscaler.model.node import Node, Role
from pd_autoscaler.model.signals import Reading
from pd_autoscaler.ports import MetricsSource
from tests.support.pages import node, vllm_page

PAGE = vllm_page(waiting=3.0, running=2.0, finished=7.0, prompt_tokens=9.0)
BOUND_S = 30.0

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def book() -> ProfileBook:
    """Return the shipped profiles, told apart by what is on a page."""
    return ProfileBook(shipped_profiles())


class Engines:
    """A server whose paths are engines, each with an answer of its own."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.in_flight = 0
        self.in_flight_max = 0
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        name = request.path.strip("/")
        self.asked.append(name)
        self.headers.append(dict(request.headers))
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight, self.in_flight_max)
        try:
            return await self.answers[name](request)
        finally:
            self.in_flight -= 1

    def node(self, name: str, answer: Answer, role: Role = Role.PROMPT) -> Node:
        """Add an engine, and return its node."""
        self.answers[name] = answer
        return node(name, role, metrics_url=f"{self.url}/{name}")


@asynccontextmanager
async def serving_engines(tls: SSLContext | None = None) -> AsyncIterator[Engines]:
    """Serve engines on loopback, over TLS if there is a context for it."""
    engines = Engines()
    app = web.Application()
    app.router.add_get("/{name:.*}", engines.answer)
    scheme = "http" if tls is None else "https"
    # A scraper that gives up leaves its connection: the handler need not be waited for.
    server = TestServer(app, scheme=scheme, handler_cancellation=True, shutdown_timeout=0.0)
    try:
        await server.start_server(ssl=tls)
        engines.url = str(server.make_url("")).rstrip("/")
        yield engines
    finally:
        await server.close()


def with_page(page: bytes = PAGE, content_type: str = "text/plain; version=0.0.4") -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=page, headers={"Content-Type": content_type})

    return answer


def with_status(status: int, headers: Mapping[str, str] | None = None) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers=headers, body=PAGE)

    return answer


def redirected(where: str, status: int = 307) -> Answer:
    return with_status(status, {"Location": where})


def packed(body: bytes, packing: str = "gzip") -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, headers={"Content-Encoding": packing})

    return answer


BOMB = packed(gzip.compress(b"x 1\n" * 2_000_000))


async def hung(request: web.Request) -> web.StreamResponse:
    await anyio.sleep_forever()
    raise AssertionError


async def hung_half_way(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    await answer.write(PAGE[: len(PAGE) // 2])
    await anyio.sleep_forever()
    raise AssertionError


async def broken_off(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Length": str(len(PAGE))})
    await answer.prepare(request)
    await answer.write(PAGE[: len(PAGE) // 2])
    assert request.transport is not None
    request.transport.close()
    return answer


async def endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    while True:
        await answer.write(b"x 1\n" * 10_000)


async def read(scraper: MetricsSource, *nodes: Node) -> Mapping[str, Reading]:
    with anyio.fail_after(BOUND_S):
        return await scraper.read(nodes)


@asynccontextmanager
async def scraping(
    *,
    deadline_s: float = BOUND_S,
    size_max_bytes: int = 1_000_000,
    concurrency_max: int = 10,
    jitter_s: float = 0.0,
    token: str | None = None,
    tls: SSLContext | None = None,
) -> AsyncIterator[Scraper]:
    async with metrics_session(tls) as session:
        yield Scraper(
            session,
            book(),
            deadline_s=deadline_s,
            size_max_bytes=size_max_bytes,
            concurrency_max=concurrency_max,
            jitter_s=jitter_s,
            token=token,
        )


@dataclass(frozen=True)
class Kept:
    """One series as a Prometheus keeps it, with its newest sample."""

    labels: Mapping[str, str]
    value: str
    sampled_s: float


def kept(instance: str, name: str, value: float | str, sampled_s: float, **labels: str) -> Kept:
    """Make a series of the job `engines`."""
    own = {"__name__": name, "instance": instance, "job": "engines", **labels}
    return Kept(own, str(value), sampled_s)


@dataclass
class StandInPrometheus:
    """Answers an instant query with all it has, and the time of those it is asked the time of.

    Its clock is `now_s`. It looks at no selector, so that it may also have what was not asked for.
    `answer`, if set, answers instead; a query is kept in `asked` with the headers it came with.
    """

    series: list[Kept] = field(default_factory=list)
    now_s: float = 1_000_000.0
    answer: Answer | None = None
    extra: Mapping[str, object] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    in_flight_max: int = 0
    url: str = ""
    _in_flight: int = 0

    async def query(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        self.asked.append(str(form["query"]))
        self.headers.append(dict(request.headers))
        self._in_flight += 1
        self.in_flight_max = max(self._in_flight, self.in_flight_max)
        try:
            if self.answer is not None:
                return await self.answer(request)
            await anyio.lowlevel.checkpoint()
            told = {"resultType": "vector", "result": list(self._rows(self.asked[-1]))}
            return web.json_response({"status": "success", "data": told, **self.extra})
        finally:
            self._in_flight -= 1

    def _rows(self, query: str) -> Iterable[dict[str, object]]:
        dated: dict[str, float] = {}
        names = re.findall(r'timestamp\({__name__="([^"]+)"', query)
        for series in self.series:
            yield {"metric": series.labels, "value": [self.now_s, series.value]}
            if series.labels.get("__name__") in names:
                instance = series.labels["instance"]
                dated[instance] = min(series.sampled_s, dated.get(instance, series.sampled_s))
        for instance, sampled_s in dated.items():
            labels = {"instance": instance, "pd_autoscaler_dated": "yes"}
            yield {"metric": labels, "value": [self.now_s, repr(sampled_s)]}


@asynccontextmanager
async def stand_in_prometheus() -> AsyncIterator[StandInPrometheus]:
    """Serve a stand-in on loopback."""
    stand_in = StandInPrometheus()
    app = web.Application()
    app.router.add_post("/api/v1/query", stand_in.query)
    async with TestServer(app, handler_cancellation=True, shutdown_timeout=0.0) as server:
        stand_in.url = str(server.make_url("")).rstrip("/")
        yield stand_in


def with_json(told: object, status: int = 200) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=json.dumps(told), content_type="application/json")

    return answer
