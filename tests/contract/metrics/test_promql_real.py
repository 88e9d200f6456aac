"""What a real Prometheus makes of an engine's page, and what is read of that."""

import math
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import anyio
import pytest

from pd_autoscaler.adapters.metrics.connection import metrics_session
from pd_autoscaler.adapters.metrics.profiles import shipped_profiles
from pd_autoscaler.adapters.metrics.promql import PromqlSource
from pd_autoscaler.model.node import Node, Role
from pd_autoscaler.model.signals import Reading
from tests.contract.metrics.conftest import ODD_ID, ODD_SITE
from tests.support import engine_pages
from tests.support.metrics_servers import (
    BOUND_S,
    PAGE,
    book,
    read,
    scraping,
)
from tests.support.pages import line, node, real_page
from tests.support.prometheus import Prometheus, ServedPages, ready

pytestmark = pytest.mark.prometheus

ONE_JOB = {"job": "engines"}


class Asking:
    """The real Prometheus, the pages it scrapes, and sources that ask it."""

    def __init__(
        self, asked: Prometheus, pages: list[ServedPages], session: aiohttp.ClientSession
    ) -> None:
        self.asked = asked
        self.pages = pages
        self._session = session

    def source(
        self, *, node_label: str = "instance", matchers: dict[str, str] | None = None
    ) -> PromqlSource:
        return PromqlSource(
            self._session,
            book(),
            url=f"{self.asked.url}/",
            profiles=shipped_profiles(),
            node_label=node_label,
            matchers=ONE_JOB if matchers is None else matchers,
            deadline_s=BOUND_S,
        )

    async def shows(self, index: int, page: bytes, *, jobs: int = 1) -> Node:
        """Have a page scraped by this many jobs, and return its node."""
        served = self.pages[index]
        served.page = page
        newest = f'count(page_version{{instance="{served.address}"}} == {served.version}) == {jobs}'
        await self.asked.until(lambda: self.asked.has_data(newest), "the page is scraped")
        return node(f"n{index}", metrics_url=f"http://{served.address}/metrics")


@pytest.fixture
async def asking(watched: tuple[str, list[ServedPages]]) -> AsyncIterator[Asking]:
    url, pages = watched
    async with aiohttp.ClientSession() as asks, metrics_session() as session:
        await ready(url, asks)
        yield Asking(Prometheus(url, asks), pages, session)


async def same_either_way(asking: Asking, role: Role, *pages: bytes) -> list[Reading]:
    """Read pages through Prometheus and from the engines, show that it is the same, return it."""
    nodes = [replace(await asking.shows(i, page), role=role) for i, page in enumerate(pages)]
    asked = await read(asking.source(), *nodes)
    async with scraping() as scraper:
        scraped = await read(scraper, *nodes)

    assert [replace(r, at_s=0.0) for r in asked.values()] == [
        replace(r, at_s=0.0) for r in scraped.values()
    ]
    assert len(asked) == len(pages)
    return list(asked.values())


@pytest.mark.parametrize("role", Role)
async def test_what_is_read_is_what_a_scrape_of_the_page_itself_reads(
    asking: Asking, role: Role
) -> None:
    ranks = [{"tp_rank": "0", "dp_rank": "0"}, {"tp_rank": "1", "dp_rank": "0"}]
    pages = [
        engine_pages.vllm(engines=("0", "1")),
        engine_pages.sglang(role=role, ranks=ranks),
        engine_pages.mindie(),
    ]

    readings = await same_either_way(asking, role, *pages)

    assert [reading.engine for reading in readings] == ["vllm", "sglang", "mindie"]
    assert all(reading.histograms for reading in readings)


@pytest.mark.parametrize("role", Role)
async def test_what_is_read_of_a_real_engine_is_what_a_scrape_reads(
    asking: Asking, role: Role
) -> None:
    page = real_page(f"vllm-0.32-{role}-loaded.txt")

    [reading] = await same_either_way(asking, role, page)

    assert reading.engine == "vllm"
    assert reading.histograms


async def test_a_reading_is_as_old_as_the_sample_and_not_as_the_answer(asking: Asking) -> None:
    sampled_ms = int((time.time() - 100) * 1000)  # noqa: TID251  # What Prometheus goes by.
    dated = b"".join(
        text + f" {sampled_ms}".encode() + b"\n"
        for text in PAGE.splitlines()
        if not text.startswith(b"#")
    )
    target, source = await asking.shows(1, dated), asking.source()

    before_s = anyio.current_time()
    [first] = (await read(source, target)).values()
    after_s = time.time()  # noqa: TID251
    [second] = (await read(source, target)).values()

    assert first.gauges["waiting"] == 3.0
    assert before_s - (after_s - sampled_ms / 1000) <= first.at_s + 0.001
    assert first.at_s <= anyio.current_time() - 100
    # The same sample again is not a newer page.
    assert second == first


async def test_an_engine_that_fails_is_absent_at_once_and_not_minutes_later(
    asking: Asking,
) -> None:
    target, source = await asking.shows(2, PAGE), asking.source()
    assert list(await read(source, target)) == ["n2"]

    served = asking.pages[2]
    served.page = None
    down = f'up{{instance="{served.address}"}} == 0'
    await asking.asked.until(lambda: asking.asked.has_data(down), "the page fails")

    assert await read(source, target) == {}
    assert source.errors["n2"] == (
        f"{asking.asked.url}: no series whose instance is n2 or {served.address} and that match "
        '{job="engines"} (scrape.promql.matchers)'
    )


async def test_a_value_that_an_engine_does_not_know_is_left_out(asking: Asking) -> None:
    page = PAGE.replace(b"num_requests_running{", b"unused{")
    name = "vllm:num_requests_running"
    page += (line(name, math.nan, engine="0") + line(name, math.inf, engine="1")).encode()
    target = await asking.shows(0, page)

    [reading] = (await read(asking.source(), target)).values()

    assert "running" not in reading.gauges
    assert reading.gauges["waiting"] == 3.0


async def test_engines_that_nobody_asks_for_do_not_count(asking: Asking) -> None:
    target = await asking.shows(0, PAGE)
    await asking.shows(1, PAGE)

    assert list(await read(asking.source(), target)) == ["n0"]


async def test_an_engine_that_two_jobs_scrape_is_not_counted_twice(asking: Asking) -> None:
    target = await asking.shows(3, PAGE, jobs=2)
    both, one = asking.source(matchers={}), asking.source()

    assert await read(both, target) == {}
    assert both.errors["n3"].endswith(
        "series of the jobs engines and second; choose one by scrape.promql.matchers"
    )
    assert (await read(one, target))["n3"].gauges["waiting"] == 3.0


async def test_a_node_may_be_named_by_any_label_whatever_its_characters(asking: Asking) -> None:
    await asking.shows(3, PAGE, jobs=2)
    source = asking.source(node_label="node_id", matchers={"site": ODD_SITE})
    other_site = asking.source(node_label="node_id", matchers={"site": ODD_SITE + "."})
    named = node(ODD_ID, metrics_url="http://elsewhere:1/metrics")

    assert (await read(source, named))[ODD_ID].gauges["waiting"] == 3.0
    assert await read(source, replace(named, id=ODD_ID[:-1] + "x")) == {}
    assert await read(other_site, named) == {}


async def test_many_nodes_and_names_fit_into_a_question(asking: Asking) -> None:
    nodes = [
        node(f"{'long-name-' * 20}{i}", role, metrics_url=f"http://host-{i}.example:8000/metrics")
        for role in Role
        for i in range(200 * (role is Role.DECODER), 200 * (role is Role.DECODER) + 200)
    ]
    target, source = await asking.shows(0, PAGE), asking.source()

    assert list(await read(source, *nodes, target)) == ["n0"]
    assert len(source.errors) == 400
    assert all("no series" in error for error in source.errors.values())
