"""When nodes are asked for their pages: at once, in time, and once a cycle each."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import anyio
import anyio.lowlevel
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.adapters.metrics.scrape import Scraper, delay_s
from pd_autoscaler.model.facts import Scraped
from pd_autoscaler.model.node import Node, Role
from tests.support.clock import Clock
from tests.support.metrics_servers import (
    PAGE,
    Answer,
    Engines,
    hung,
    hung_half_way,
    read,
    scraping,
    serving_engines,
    with_page,
)
from tests.support.pages import node


@pytest.fixture
async def engines() -> AsyncIterator[Engines]:
    async with serving_engines() as engines:
        yield engines


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
    assert scraper.scraped == Scraped(pages=2, failures=0, page_bytes=2 * len(PAGE))


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
    assert scraper.errors == {
        "closed": f"http://127.0.0.1:{port}/metrics: connection refused by 127.0.0.1:{port}",
        "wrong": "no address: not an address such as http://host:port",
    }


async def test_as_many_nodes_are_asked_at_once_as_allowed_and_no_more(engines: Engines) -> None:
    full = anyio.Event()

    async def turn(request: web.Request) -> web.StreamResponse:
        if engines.in_flight == 3:
            full.set()
        await full.wait()
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        return web.Response(body=PAGE)

    nodes = [engines.node(f"n{i}", turn) for i in range(20)]

    async with scraping(concurrency_max=3) as scraper:
        assert len(await read(scraper, *nodes)) == 20

    assert engines.in_flight_max == 3


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


async def test_a_jitter_gives_nodes_that_hang_no_head_start(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)

    async def later(request: web.Request) -> web.StreamResponse:
        clock.advance(100)
        return await hung(request)

    by_delay = sorted((f"n{i}" for i in range(9)), key=lambda name: delay_s(name, 1.0))
    slow, good = engines.node(by_delay[0], later), engines.node(by_delay[-1], with_page())

    async with scraping(deadline_s=50, concurrency_max=1, jitter_s=20.0) as scraper:
        with anyio.fail_after(1000), anyio.move_on_after(900):
            assert await read_past(scraper, clock, slow) == []
            engines.asked.clear()
            assert await read_past(scraper, clock, slow, good) == [good.id]

    assert engines.asked == [good.id, slow.id]


async def read_past(scraper: Scraper, clock: Clock, *nodes: Node) -> list[str]:
    """Read with the clock moved on past the jitter as soon as all of them wait for it."""
    readings: list[str] = []

    async def reads() -> None:
        readings.extend(await scraper.read(nodes))

    async with anyio.create_task_group() as group:
        group.start_soon(reads)
        await anyio.wait_all_tasks_blocked()
        clock.advance(19.9)
    return readings


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


async def test_a_thousand_nodes_are_read_in_one_go() -> None:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving_engines()) for _ in range(4)]
        nodes = [servers[i % 4].node(f"n{i}", with_page()) for i in range(1000)]
        async with scraping(concurrency_max=64) as scraper:
            readings = await read(scraper, *nodes)

    assert list(readings) == [node.id for node in nodes]
    assert [r.node_id for r in readings.values()] == [node.id for node in nodes]
    assert scraper.scraped.pages == 1000
    assert sum(server.in_flight_max for server in servers) <= 64
    assert sorted(name for server in servers for name in server.asked) == sorted(readings)


async def test_a_connection_that_a_node_has_closed_meanwhile_is_no_error(engines: Engines) -> None:
    ports: set[int] = set()

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername")[1])
        transports.append(request.transport)
        return web.Response(body=PAGE)

    transports: list[asyncio.Transport] = []
    target = engines.node("p", answer)
    async with scraping() as scraper:
        for cycle in range(3):
            assert list(await read(scraper, target)) == ["p"]
            # As an engine does with a connection that has been idle for longer than it likes.
            transports[cycle].close()

    assert len(ports) == 3
