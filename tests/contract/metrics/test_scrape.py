"""Scraping real HTTP servers, good and bad ones; what every MetricsSource promises."""

import asyncio
import gzip
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import aiohttp
import anyio
import anyio.lowlevel
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.adapters.metrics.profiles.vllm import VLLM
from pd_autoscaler.adapters.metrics.scrape import Scraper, delay_s
from pd_autoscaler.model.node import Node, Role
from pd_autoscaler.model.signals import Reading
from pd_autoscaler.ports import MetricsSource
from tests.support.clock import Clock
from tests.support.pages import node, vllm_page

PAGE = vllm_page(waiting=3.0, running=2.0, finished=7.0, prompt_tokens=9.0)
BOUND_S = 30.0

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Engines:
    """A server whose paths are engines, each with an answer of its own."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.in_flight = 0
        self.in_flight_max = 0
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        name = request.path.strip("/")
        self.asked.append(name)
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


@pytest.fixture
async def engines() -> AsyncIterator[Engines]:
    engines = Engines()
    app = web.Application()
    app.router.add_get("/{name}", engines.answer)
    # A scraper that gives up leaves its connection: the handler need not be waited for.
    async with TestServer(app, handler_cancellation=True, shutdown_timeout=0.0) as server:
        engines.url = str(server.make_url("")).rstrip("/")
        yield engines


@asynccontextmanager
async def scraping(**options: float) -> AsyncIterator[Scraper]:
    settings: dict[str, float] = {"deadline_s": BOUND_S} | options
    async with aiohttp.ClientSession() as session:
        yield Scraper(
            session,
            VLLM,
            deadline_s=settings["deadline_s"],
            size_max_bytes=int(settings.get("size_max_bytes", 1_000_000)),
            concurrency_max=int(settings.get("concurrency_max", 10)),
            jitter_s=settings.get("jitter_s", 0.0),
        )


def with_page(page: bytes = PAGE) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=page, content_type="text/plain")

    return answer


def with_status(status: int, headers: Mapping[str, str] | None = None) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers=headers, body=PAGE)

    return answer


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


async def test_every_node_that_answers_is_read_in_its_role(engines: Engines) -> None:
    nodes = [engines.node("p", with_page()), engines.node("d", with_page(), Role.DECODER)]

    async with scraping() as scraper:
        before_s = anyio.current_time()
        readings = await read(scraper, *nodes)

    assert list(readings) == ["p", "d"]
    assert readings["p"].gauges["waiting"] == 3.0
    assert readings["p"].counters["prompt_tokens"] == 9.0
    assert "prompt_tokens" not in readings["d"].counters
    assert before_s <= readings["p"].at_s <= anyio.current_time()
    assert scraper.errors == {}
    assert (scraper.failures, scraper.bytes_read) == (0, 2 * len(PAGE))


async def test_a_compressed_page_is_read(engines: Engines) -> None:
    async def compressed(request: web.Request) -> web.StreamResponse:
        assert "gzip" in request.headers["Accept-Encoding"]
        return web.Response(body=gzip.compress(PAGE), headers={"Content-Encoding": "gzip"})

    async with scraping() as scraper:
        assert "p" in await read(scraper, engines.node("p", compressed))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (with_status(500), "HTTP 500"),
        (with_status(404), "HTTP 404"),
        (with_status(204), "HTTP 204"),
        (
            with_status(302, {"Location": "http://elsewhere/"}),
            "HTTP 302 to http://elsewhere/; redirects are not followed",
        ),
        (with_page(b"<html>hello</html>\n"), "no metric of the vllm profile"),
        (with_page(b""), "no metric of the vllm profile"),
        (with_page(b"\x00\xff" * 99), "cut short in line 1"),
        (with_page(PAGE[:-5]), "cut short in line"),
        (with_page(PAGE + b'vllm:num_requests_waiting{engine="0"} many\n'), "could not convert"),
        (broken_off, "payload"),
        (endless, "page is larger than 1000000 bytes"),
        (with_page(PAGE + b"x 1\n" * 250_000), "page is larger than 1000000 bytes"),
    ],
)
async def test_a_bad_page_makes_its_node_absent_and_harms_no_other(
    engines: Engines, answer: Answer, error: str
) -> None:
    bad, good = engines.node("bad", answer), engines.node("good", with_page())

    async with scraping() as scraper:
        readings = await read(scraper, bad, good)

    assert list(readings) == ["good"]
    assert list(scraper.errors) == ["bad"]
    assert scraper.errors["bad"].startswith(f"{bad.metrics_url}: ")
    assert error in scraper.errors["bad"]
    assert scraper.failures == 1


async def test_a_small_answer_that_unpacks_to_a_huge_page_is_refused(engines: Engines) -> None:
    async def bomb(request: web.Request) -> web.StreamResponse:
        packed = gzip.compress(b"x 1\n" * 2_000_000)
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    async with scraping() as scraper:
        assert await read(scraper, engines.node("p", bomb)) == {}
        assert "page is larger than" in scraper.errors["p"]


async def test_a_page_whose_compression_is_broken_is_an_error_of_its_node(
    engines: Engines,
) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        packed = b"\x1f\x8b" + b"no gzip at all" * 9
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    async with scraping() as scraper:
        assert await read(scraper, engines.node("p", broken)) == {}
        assert "p" in scraper.errors


@pytest.mark.parametrize(
    "said", [b"", b"\x00" * 99, b"HTTP/1.1 two hundred\r\n\r\n", b"SSH-2.0-x\r\n"]
)
async def test_a_port_that_does_not_speak_http_is_an_error_of_its_node(said: bytes) -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(say, "127.0.0.1", 0) as server, scraping() as scraper:
        port = server.sockets[0].getsockname()[1]
        target = node("p", metrics_url=f"http://127.0.0.1:{port}/metrics")
        assert await read(scraper, target) == {}
        assert "p" in scraper.errors


@pytest.mark.parametrize("answer", [hung, hung_half_way])
async def test_a_node_that_does_not_answer_in_time_is_absent(
    engines: Engines, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)

    async def later(request: web.Request) -> web.StreamResponse:
        clock.advance(100)
        return await answer(request)

    slow, good = engines.node("slow", later), engines.node("good", with_page())

    async with scraping(deadline_s=50) as scraper:
        # The good one first: the clock moves on when the slow one is asked.
        assert list(await scraper.read([good])) == ["good"]
        assert await scraper.read([slow]) == {}

    assert scraper.errors["slow"].endswith("no whole page within 50 s")


async def test_a_closed_port_and_a_wrong_address_are_errors_of_their_nodes() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        nodes = [
            node("closed", metrics_url=f"http://127.0.0.1:{port}/metrics"),
            node("wrong", metrics_url="no address"),
            node("none", metrics_url=""),
        ]
        async with scraping() as scraper:
            assert await read(scraper, *nodes) == {}

    # A node that has no address yet is not asked, which is no failure.
    assert scraper.errors.keys() == {"closed", "wrong"}


async def test_no_more_nodes_are_asked_at_once_than_allowed(engines: Engines) -> None:
    async def turn(request: web.Request) -> web.StreamResponse:
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        return web.Response(body=PAGE)

    nodes = [engines.node(f"n{i}", turn) for i in range(20)]

    async with scraping(concurrency_max=3) as scraper:
        assert len(await read(scraper, *nodes)) == 20

    assert engines.in_flight_max <= 3


async def test_nodes_that_hang_keep_no_slot_from_those_that_answer(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)

    async def later(request: web.Request) -> web.StreamResponse:
        clock.advance(100)
        return await hung(request)

    nodes = [engines.node(name, later) for name in ("slow", "slower")]
    nodes.append(engines.node("good", with_page()))

    async with scraping(deadline_s=50, concurrency_max=1) as scraper:
        assert await scraper.read(nodes) == {}
        assert scraper.errors["slow"].endswith("no whole page within 50 s")
        assert scraper.errors["good"].endswith("not asked within 50 s")
        # "slower" is not yet known to hang; then both are asked last.
        assert await scraper.read(nodes) == {}
        assert list(await scraper.read(nodes)) == ["good"]


async def test_connections_are_kept_between_cycles(engines: Engines) -> None:
    ports: set[int] = set()

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername")[1])
        return web.Response(body=PAGE)

    target = engines.node("p", answer)
    async with scraping() as scraper:
        for _ in range(5):
            await read(scraper, target)

    assert len(ports) == 1


async def test_a_failing_node_is_logged_once_when_it_starts_and_once_when_it_ends(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pd_autoscaler")
    target = engines.node("p", with_status(500))
    async with scraping() as scraper:
        for _ in range(3):
            await read(scraper, target)
        engines.answers["p"] = with_page()
        for _ in range(3):
            await read(scraper, target)

    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", f"metrics of p failing: {target.metrics_url}: HTTP 500"),
        ("INFO", "metrics of p back after 0s"),
    ]
    assert (scraper.failures, scraper.errors) == (3, {})


async def test_a_node_that_is_no_more_leaves_no_error_behind(engines: Engines) -> None:
    bad = engines.node("bad", with_status(500))
    async with scraping() as scraper:
        await read(scraper, bad)
        await read(scraper)

        assert scraper.errors == {}


async def test_the_jitter_delays_a_scrape_by_the_nodes_share(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, target = Clock(monkeypatch), engines.node("p", with_page())
    async with scraping(jitter_s=1000.0) as scraper, anyio.create_task_group() as group:
        group.start_soon(scraper.read, [target])
        await anyio.wait_all_tasks_blocked()
        assert engines.asked == []

        clock.advance(delay_s("p", 1000.0))

    assert engines.asked == ["p"]


@given(st.text(), st.floats(0, 100))
def test_a_nodes_delay_is_within_the_jitter(node_id: str, jitter_s: float) -> None:
    assert 0 <= delay_s(node_id, jitter_s) <= jitter_s


def test_nodes_are_spread_over_the_jitter() -> None:
    delays = [delay_s(f"prompt-{i}", 1.0) for i in range(200)]

    assert min(delays) < 0.1
    assert max(delays) > 0.9
    assert delay_s("prompt-0", 1.0) == delays[0]
