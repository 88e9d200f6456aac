"""The report of a comparison in a real browser, from a file and with nothing else."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page, async_playwright, expect

from pd_autoscaler.sim.records import SLOS
from pd_autoscaler.sim.report.comparison import comparison
from pd_autoscaler.sim.report.page import page as report_page
from pd_autoscaler.sim.score import scored
from tests.support.runs import run_of
from tests.wire.test_page import CHROMIUM, FLAGS

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

DRAWN = ".js-plotly-plot"
RANGE = "plot => plot._fullLayout.xaxis.range"


@dataclass
class Opened:
    """The report in a browser: what it complained of, and what it asked of a network."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest_asyncio.fixture(name="report", scope="module", loop_scope="module")
async def _report(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Opened]:
    if not CHROMIUM.exists():
        if "browser" in os.environ.get("PD_AUTOSCALER_REQUIRE_PARTS", "").split(","):
            pytest.fail(f"{CHROMIUM} is required here and is not there: install chromium")
        pytest.skip(f"{CHROMIUM} is not there: install chromium to test the report")
    path = tmp_path_factory.mktemp("report") / "report.html"
    _write(path)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = await browser.new_page(viewport={"width": 1280, "height": 900})
        opened = Opened(page)
        page.on("console", lambda message: opened.complaints.append(message.text))
        page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        page.on("request", lambda request: opened.asked.append(request.url))
        await page.goto(path.as_uri())
        yield opened
        await browser.close()


def _write(path: Path) -> None:
    runs = [
        run_of(policy, seed=seed, slack=slack, lasted_s=1800.0)
        for policy, slack in (("slo", 1.5), ("hpa", 0.8), ("kpa", 1.0))
        for seed in (0, 1)
    ]
    scores = [(run, scored(run, slo)) for run in runs for slo in SLOS]
    path.write_text(report_page(comparison(scores, SLOS)), encoding="utf-8")


async def drawn(report: Opened, run: int) -> Any:
    section = report.page.locator(f"#run-{run}")
    await section.scroll_into_view_if_needed()
    plot = section.locator(DRAWN)
    await expect(plot.locator(".infolayer .g-xtitle")).to_have_count(1)
    return plot


async def test_every_plot_is_drawn_and_nothing_is_asked_of_a_network(report: Opened) -> None:
    for run in range(3):
        await drawn(report, run)

    await expect(report.page.locator(DRAWN)).to_have_count(4)
    assert not report.complaints
    assert [url.partition(":")[0] for url in report.asked] == ["file"]


async def test_the_report_fits_a_window_of_1280_pixels(report: Opened) -> None:
    assert await report.page.evaluate("document.documentElement.scrollWidth") <= 1280
    table = report.page.locator(".wide").first
    assert await table.evaluate("wide => wide.scrollWidth <= wide.clientWidth")


async def test_no_plot_offers_to_be_uploaded(report: Opened) -> None:
    plot = await drawn(report, 0)

    titles = await plot.locator(".modebar-btn").evaluate_all(
        "buttons => buttons.map(button => button.dataset.title)"
    )
    assert "Reset axes" in titles
    assert not [title for title in titles if "hare" in title or "loud" in title]


async def test_a_zoom_of_one_policy_is_the_zoom_of_all(report: Opened) -> None:
    plots = [await drawn(report, run) for run in range(3)]
    await plots[0].evaluate("plot => Plotly.relayout(plot, {'xaxis.range': [5, 15]})")
    for plot in plots:
        await report.page.wait_for_function(
            "plot => plot._fullLayout.xaxis.range[0] === 5", arg=await plot.element_handle()
        )

    await report.page.locator("#together").uncheck()
    await plots[1].evaluate("plot => Plotly.relayout(plot, {'xaxis.range': [7, 9]})")
    assert await plots[1].evaluate(RANGE) == [7, 9]
    assert await plots[2].evaluate(RANGE) == [5, 15]
    await report.page.locator("#together").check()


async def test_a_move_is_found_by_its_reason_and_shown_in_the_plot(report: Opened) -> None:
    plot = await drawn(report, 0)
    section = report.page.locator("#run-0")
    rows = section.locator(".decisions tbody tr")
    count = await rows.count()
    move = run_of("slo", slack=1.5, lasted_s=1800.0).changes[3]
    await section.get_by_role("searchbox").fill(move.after.why.upper())

    visible = section.locator(".decisions tbody tr:visible")
    await expect(visible).to_have_count(1)
    limits = await plot.evaluate("plot => plot.layout.shapes.length")
    await visible.first.click()
    await visible.first.click()
    shapes = await plot.evaluate("plot => plot.layout.shapes")
    assert len(shapes) == limits + 1
    assert shapes[-1]["x0"] == pytest.approx(move.at_s / 60, abs=0.01)

    await section.get_by_role("searchbox").fill("")
    await expect(section.locator(".decisions tbody tr:visible")).to_have_count(count)


async def test_a_click_on_a_title_sorts_the_table_and_another_turns_it(report: Opened) -> None:
    table = report.page.locator("table.scores").first
    names = table.locator("tbody th")
    hours = table.locator("th.key", has_text="node-hours")

    await hours.click()
    assert await names.all_inner_texts() == await _by_hours(table, reverse=True)
    await hours.click()
    assert await names.all_inner_texts() == await _by_hours(table, reverse=False)


async def _by_hours(table: Any, *, reverse: bool) -> list[str]:
    rows = await table.locator("tbody tr").evaluate_all(
        "rows => rows.map(row => [Number(row.cells[7].dataset.value), row.cells[0].innerText])"
    )
    return [name for _, name in sorted(rows, reverse=reverse)]
