"""What every MetricsSource promises, wherever it gets its metrics from."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Protocol

import aiohttp
import anyio
import pytest

from pd_autoscaler.adapters.metrics.agents import NoPages
from pd_autoscaler.adapters.metrics.connection import metrics_session
from pd_autoscaler.adapters.metrics.profiles import shipped_profiles
from pd_autoscaler.adapters.metrics.promql import PromqlSource
from pd_autoscaler.adapters.metrics.source import check_source
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.node import Node, Role
from pd_autoscaler.ports import MetricsSource
from pd_autoscaler.settings import ProviderSettings, ScrapeSettings, Settings, StaticNode
from tests.support.metrics_servers import (
    BOUND_S,
    PAGE,
    Engines,
    book,
    read,
    scraping,
    serving_engines,
    with_page,
    with_status,
)
from tests.support.pages import node
from tests.support.prometheus import Prometheus, ServedPages, ready

Watched = tuple[str, list[ServedPages]]


class World(Protocol):
    """Engines, and the source under test that knows of them."""

    source: MetricsSource
    reads: bool

    async def node(self, name: str, page: bytes | None, role: Role = Role.PROMPT) -> Node:
        """Have an engine show this page, or fail; the source can see it on return."""
        ...


class PageWorld:
    """Each engine is asked for its page."""

    reads = True

    def __init__(self, source: MetricsSource, engines: Engines) -> None:
        self.source = source
        self._engines = engines

    async def node(self, name: str, page: bytes | None, role: Role = Role.PROMPT) -> Node:
        answer = with_status(500) if page is None else with_page(page)
        return self._engines.node(name, answer, role)


class PrometheusWorld:
    """A real Prometheus asks each engine for its page, and is asked itself."""

    reads = True

    def __init__(self, source: MetricsSource, asked: Prometheus, pages: list[ServedPages]) -> None:
        self.source = source
        self._asked = asked
        self._free = list(pages)
        self._of: dict[str, ServedPages] = {}

    async def node(self, name: str, page: bytes | None, role: Role = Role.PROMPT) -> Node:
        served = self._of.get(name) or self._of.setdefault(name, self._free.pop(0))
        served.page = page
        await shown(self._asked, served)
        return node(name, role, metrics_url=f"http://{served.address}/metrics")


class AgentWorld:
    """No engine has a page."""

    reads = False

    def __init__(self) -> None:
        self.source: MetricsSource = NoPages()

    async def node(self, name: str, page: bytes | None, role: Role = Role.PROMPT) -> Node:
        return node(name, role, metrics_url="http://127.0.0.1:1/metrics")


async def shown(asked: Prometheus, served: ServedPages) -> None:
    """Wait until Prometheus has seen what a page is now."""
    of = f'{{job="engines",instance="{served.address}"}}'
    if served.page is None:
        await asked.until(lambda: asked.has_data(f"up{of} == 0"), "the page fails")
    else:
        newest = f"page_version{of} == {served.version}"
        await asked.until(lambda: asked.has_data(newest), "the page is scraped")


@pytest.fixture(
    name="world",
    params=["pages", pytest.param("promql", marks=pytest.mark.prometheus), "agents"],
)
async def _world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        if request.param == "pages":
            engines = await stack.enter_async_context(serving_engines())
            yield PageWorld(await stack.enter_async_context(scraping()), engines)
        elif request.param == "promql":
            watched: Watched = request.getfixturevalue("watched")
            url, pages = watched
            asking = await stack.enter_async_context(aiohttp.ClientSession())
            session = await stack.enter_async_context(metrics_session())
            await ready(url, asking)
            source = PromqlSource(
                session,
                book(),
                url=url,
                profiles=shipped_profiles(),
                matchers={"job": "engines"},
                deadline_s=BOUND_S,
            )
            yield PrometheusWorld(source, Prometheus(url, asking), pages)
        else:
            yield AgentWorld()


async def test_every_node_that_answers_is_read_in_its_role_under_its_id(world: World) -> None:
    nodes = [await world.node("p", PAGE), await world.node("d", PAGE, Role.DECODER)]

    readings = await read(world.source, *nodes)

    assert list(readings) == (["p", "d"] if world.reads else [])
    assert {node_id: r.node_id for node_id, r in readings.items()} == {i: i for i in readings}
    for reading in readings.values():
        assert reading.engine == "vllm"
        assert reading.gauges["waiting"] == 3.0
        assert reading.at_s <= anyio.current_time()
        assert ("prompt_tokens" in reading.counters) == (reading.node_id == "p")
    assert world.source.errors == {}
    assert world.source.scraped.pages == len(readings)
    assert world.source.scraped.failures == 0
    assert world.source.scraped.page_bytes >= len(readings) * 100


async def test_a_node_that_does_not_answer_is_absent_and_harms_no_other(world: World) -> None:
    nodes = [await world.node("bad", None), await world.node("good", PAGE)]

    readings = await read(world.source, *nodes)

    assert list(readings) == (["good"] if world.reads else [])
    assert list(world.source.errors) == (["bad"] if world.reads else [])
    assert world.source.scraped.failures == len(world.source.errors)


async def test_a_page_of_no_engine_makes_its_node_absent(world: World) -> None:
    nodes = [await world.node("bad", b"x 1\n"), await world.node("good", PAGE)]

    readings = await read(world.source, *nodes)

    assert list(readings) == (["good"] if world.reads else [])
    assert list(world.source.errors) == (["bad"] if world.reads else [])


async def test_a_node_without_a_metrics_url_is_left_out_and_is_no_failure(world: World) -> None:
    nodes = [node("none"), await world.node("good", PAGE)]

    readings = await read(world.source, *nodes)

    assert "none" not in readings
    assert world.source.errors == {}
    assert world.source.scraped.failures == 0


async def test_no_node_has_no_reading(world: World) -> None:
    assert await read(world.source) == {}
    assert world.source.errors == {}


async def test_a_node_that_is_no_more_leaves_no_error_behind(world: World) -> None:
    await read(world.source, await world.node("bad", None))
    await read(world.source)

    assert world.source.errors == {}


async def test_a_read_that_is_cancelled_harms_no_later_one(world: World) -> None:
    target = await world.node("p", PAGE)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await world.source.read([target])

    assert list(await read(world.source, target)) == (["p"] if world.reads else [])
    assert world.source.errors == {}


async def test_a_failing_node_is_logged_once_when_it_starts_and_once_when_it_ends(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pd_autoscaler")
    target = await world.node("p", None)
    for _ in range(3):
        await read(world.source, target)
    error = world.source.errors.get("p", "")
    target = await world.node("p", PAGE)
    for _ in range(3):
        await read(world.source, target)

    said = [(r.levelname, r.getMessage()) for r in caplog.records]
    if world.reads:
        assert said[0] == ("WARNING", f"metrics of p failing: {error}")
        [(level, back)] = said[1:]
        assert level == "INFO"
        assert back.startswith("metrics of p back after ")
    else:
        assert said == []
    assert world.source.scraped.failures == (3 if world.reads else 0)
    assert world.source.errors == {}


def test_a_profile_that_there_is_not_is_told_with_the_setting_that_names_it() -> None:
    def settings(profile: str, own: str | None) -> Settings:
        node = StaticNode(
            id="n1",
            role=Role.PROMPT,
            agent_urls=("http://h:1",),
            metrics_url="http://h:2",
            profile=own,
        )
        provider = ProviderSettings(kind="static", nodes=(node,))
        return Settings(provider=provider, scrape=ScrapeSettings(profile=profile))

    with pytest.raises(ConfigError, match=r"^scrape\.profile: no engine profile 'vlm', did you"):
        check_source(settings("vlm", None))
    with pytest.raises(
        ConfigError, match=r"^provider\.nodes: n1: profile: no engine profile 'vlm'"
    ):
        check_source(settings("sglang", "vlm"))
    check_source(settings("auto", "auto"))
    check_source(settings("vllm", "mindie"))
