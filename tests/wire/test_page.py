"""The web page in a real browser, over a real admin API."""

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from pd_autoscaler.admin.serve import serve
from pd_autoscaler.model.decision import Mode
from pd_autoscaler.model.link import LinkState, Wait
from pd_autoscaler.model.report import Report
from tests.support.admin import (
    COOLING,
    AdminParts,
    StandInControl,
    StandInJournal,
    a_rich_history,
    a_rich_past,
    a_rich_report,
    served,
)

CHROMIUM = Path("/usr/bin/chromium")
HAS_CHROMIUM = CHROMIUM.exists()
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PAUSED = (
    "Paused: the policy does not move the target; links are repaired and lost nodes replaced. "
    "\u2018pd-autoscaler resume\u2019 ends it."
)

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(name="browser", scope="module", loop_scope="module")
async def _browser() -> AsyncIterator[Browser]:
    if not HAS_CHROMIUM:
        if "browser" in os.environ.get("PD_AUTOSCALER_REQUIRE_PARTS", "").split(","):
            pytest.fail(f"{CHROMIUM} is required here and is not there: install chromium")
        pytest.skip(f"{CHROMIUM} is not there: install chromium to test the page")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


@dataclass
class Opened:
    """A page that was opened, and whatever the browser complained of."""

    page: Page
    complaints: list[str]


@asynccontextmanager
async def opened(
    browser: Browser, url: str, *, width: int = 1280, scheme: str = "light"
) -> AsyncIterator[Opened]:
    """Open the page and, at the end, allow no complaint of the browser."""
    page = await browser.new_page(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if scheme == "dark" else "light",
        timezone_id="UTC",
    )
    seen = Opened(page, [])
    page.on("console", lambda message: seen.complaints.append(message.text))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    await page.goto(url)
    try:
        yield seen
    finally:
        await page.close()
    assert seen.complaints == []


def rich_parts(report: Report | None = None) -> AdminParts:
    """Return an API with much to show."""
    shown = report if report is not None else a_rich_report()
    return AdminParts(control=StandInControl(shown), journal=StandInJournal(a_rich_history()))


async def lines_of(page: Page, selector: str) -> list[str]:
    """Return the text of each element, its cells set apart by one space."""
    texts = await page.locator(selector).all_inner_texts()
    return [" ".join(text.split()) for text in texts]


async def test_it_shows_targets_reasons_nodes_links_and_what_changed(browser: Browser) -> None:
    async with served(rich_parts()) as url, opened(browser, url) as seen:
        page = seen.page
        await expect(page.locator("#history tr")).to_have_count(8)

        head = "pd-autoscaler 1.2.3 paused cycle 1234, 3.0 s ago"
        assert await lines_of(page, "header") == [head]
        assert await lines_of(page, "#mode-banner") == [PAUSED]
        assert await lines_of(page, "#alarms li") == [
            "link decoder-1 - prompt-3 has hung for 95 s: LLM-DataDist does not answer"
        ]
        assert await lines_of(page, ".role .counts") == ["3 serving, target 4"] * 2
        assert await lines_of(page, ".role p") == [
            "1 coming",
            "1 leaving, 1 without fresh metrics",
        ]
        assert await lines_of(page, "#why dd") == [
            "4P:4D \u2014 an operator asked for it",
            "4P:3D \u2014 prompt queue 6.2 per node is above 4; 3 decoders can carry it",
            "hold, cooldown",
            "step (prompt) \u2014 6 asked for, at most 4 at once",
            f"cooldown (decoder) \u2014 {COOLING}",
            "5P:4D \u2014 9,100 prompt tokens/s expected, 2,000 a node",
            "4P:4D \u2014 hold, policy failed: no answer within 5 s",
            "prompt \u2014 queue 6.2 per prompt node, decoders at 62% of their KV cache",
            "link decoder-2 to prompt-3",
            "decoder-3 waits: prompt-3 does not serve yet",
        ]
        rows = await lines_of(page, "#nodes tbody tr")
        assert rows[3:5] == [
            "prompt-3 linking 1 m 41 s \u2013 ? ? ?",
            "2 of 4 links are up; ready in about 20 s",
        ]
        assert rows[6] == "decoder-1 serving suspect 1 hung 1 d 00 h \u2713 ? 32 62%"
        assert (await lines_of(page, "#history tr"))[1] == (
            "22:13:04 done start one prompt node (run7-12): done after 0.25 s"
        )


async def test_the_heat_map_has_a_cell_with_its_story_for_every_pair(browser: Browser) -> None:
    async with served(rich_parts()) as url, opened(browser, url) as seen:
        cells = seen.page.locator(".cell")
        await expect(cells).to_have_count(16)

        titles = [await cell.get_attribute("title") for cell in await cells.all()]
        assert titles[0] == "decoder-0 \u2192 prompt-0: linked for 1 h 40 m"
        assert titles[11] == (
            "decoder-2 \u2192 prompt-3: failed for 15 s, LLM_LINK_FAILED, the peer did not answer, "
            "3 failed tries, next try in 6.0 s"
        )
        marks = [text or " " for text in await cells.all_inner_texts()]
        assert "".join(marks) == (
            "\u2713\u2713\u2713\u2713\u2713\u2713\u2713!"
            "\u2713\u2713\u2713\u00d7\u2713\u2713\u2713\u2026"
        )
        assert await lines_of(seen.page, ".side") == [
            "decoder-0",
            "decoder-1 \u26a0 1 hung",
            "decoder-2",
            "decoder-3",
        ]


async def test_a_cell_that_is_not_up_tells_its_story_to_mouse_and_keyboard(
    browser: Browser,
) -> None:
    parts = rich_parts()
    parts.journal.attempts = a_rich_past()
    async with served(parts) as url, opened(browser, url) as seen:
        page, story = seen.page, seen.page.locator("#explanation")
        await expect(page.locator("button.cell")).to_have_count(3)
        failed = page.locator("button.cell.failed")
        await failed.click()

        await expect(story.locator("h3")).to_have_text("decoder-2 \u2192 prompt-3")
        await expect(story.locator("li").nth(3)).to_have_text(
            "tried 40 s ago: link ended unknown after 12 s: no answer within 12 s"
        )
        await expect(failed).to_have_attribute("aria-expanded", "true")
        # The matrix is made anew each second: the focus must stay, and so must what was chosen.
        parts.control.latest = a_rich_report(cycle=1235)
        await expect(page.locator("#cycle")).to_contain_text("cycle 1235")
        await expect(failed).to_be_focused()
        await expect(failed).to_have_attribute("aria-expanded", "true")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(story.locator("h3")).to_have_text("decoder-3 \u2192 prompt-3")
        await page.keyboard.press("Escape")
        await expect(story).to_be_hidden()


async def test_a_story_goes_on_as_the_pair_does_and_ends_with_its_node(browser: Browser) -> None:
    parts = rich_parts()
    async with served(parts) as url, opened(browser, url) as seen:
        story = seen.page.locator("#explanation")
        await seen.page.locator("button.cell.suspect").click()
        await expect(story).to_contain_text("suspect for 98 s")

        parts.control.latest = replace(a_rich_report(cycle=1235), links=())
        await expect(story).to_contain_text("absent: the controller keeps no such pair")
        snapshot = replace(a_rich_report().snapshot, nodes=())
        parts.control.latest = replace(a_rich_report(), snapshot=snapshot, links=())
        await expect(story).to_contain_text("there is no node 'decoder-1'; there are no nodes")
        await expect(seen.page.locator("#unreachable")).to_be_hidden()
        # The browser itself notes each 404.
        assert all("404" in complaint for complaint in seen.complaints)
        seen.complaints.clear()


async def test_the_whole_explanation_of_scaling_opens_and_follows_the_cycles(
    browser: Browser,
) -> None:
    parts = rich_parts()
    async with served(parts) as url, opened(browser, url) as seen:
        page, told = seen.page, seen.page.locator("#scaling-parts")
        await expect(page.locator("#cycle")).to_contain_text("cycle 1234")
        await expect(told).to_be_hidden()
        await page.locator("#scaling summary").click()

        await expect(told.locator("dt").first).to_have_text("target")
        about = await lines_of(page, "#scaling-parts dt")
        assert about[:6] == ["target", "policy", "guard", "bottleneck", "prompt", "decoder"]
        assert "TTFT p95 at least 10 s (3.4 s old)" in await lines_of(page, "#scaling-parts dd div")
        await expect(told.locator("p")).to_contain_text("Cycle 1234, at 22:13:20")
        parts.control.latest = a_rich_report(mode=Mode.ACTIVE, cycle=1235)
        await expect(told.locator("p")).to_contain_text("Cycle 1235")
        await expect(told.locator("dt").last).to_have_text("alarm")
        await page.locator("#scaling summary").click()
        await expect(told).to_be_hidden()


async def test_an_explanation_of_scaling_that_cannot_be_had_says_so(browser: Browser) -> None:
    parts = rich_parts()
    async with served(parts) as url, opened(browser, url) as seen:
        await expect(seen.page.locator("#cycle")).to_contain_text("cycle 1234")
        await seen.page.route("**/v1/explain", lambda route: route.abort())
        await seen.page.locator("#scaling summary").click()

        told = seen.page.locator("#scaling-parts")
        await expect(told).to_contain_text("The daemon does not answer")
        await seen.page.unroute("**/v1/explain")
        await expect(told.locator("dt").first).to_have_text("target")
        # The browser itself notes each call that failed.
        assert all("ERR_FAILED" in complaint for complaint in seen.complaints)
        seen.complaints.clear()


async def test_the_chart_begins_with_what_the_journal_remembers(browser: Browser) -> None:
    async with served(rich_parts()) as url, opened(browser, url) as seen:
        lines = seen.page.locator("#chart path")
        await expect(lines).to_have_count(4)

        # Steps down and up again: the decoder target was 4, then 3, and is 4; 4 served, now 3 do.
        paths = {
            await line.get_attribute("class"): await line.get_attribute("d") or ""
            for line in await lines.all()
        }
        heights = {
            name: len(set(re.findall(r"(?:M[\d.]+ |V)([\d.]+)", path)))
            for name, path in paths.items()
        }
        assert heights == {
            "prompt target": 2,
            "prompt serving": 1,
            "decoder target": 2,
            "decoder serving": 2,
        }


async def test_it_follows_the_daemon_from_second_to_second(browser: Browser) -> None:
    parts = rich_parts()
    async with served(parts) as url, opened(browser, url) as seen:
        await expect(seen.page.locator("#mode")).to_have_text("paused")
        parts.control.latest = replace(
            a_rich_report(mode=Mode.ACTIVE, cycle=1235), alarms=(), links=()
        )

        await expect(seen.page.locator("#mode")).to_have_text("active")
        await expect(seen.page.locator("#cycle")).to_contain_text("cycle 1235")
        await expect(seen.page.locator("#alarms")).to_be_hidden()
        await expect(seen.page.locator("#mode-banner")).to_be_hidden()
        await expect(seen.page.locator(".cell.absent")).to_have_count(16)


async def test_where_engines_connect_by_themselves_the_matrix_says_so(browser: Browser) -> None:
    report = replace(a_rich_report(), links=(), is_meshed=False)
    async with served(rich_parts(report)) as url, opened(browser, url) as seen:
        await expect(seen.page.locator("#matrix")).to_have_text(
            "Engines connect by themselves, links are off (links.linker: none)."
        )
        await expect(seen.page.locator("#link-legend")).to_be_hidden()
        assert await seen.page.locator(".cell").count() == 0


async def test_code_and_tries_of_a_pair_are_said_once(browser: Browser) -> None:
    report = a_rich_report()
    links = tuple(replace(link, why=link.code) for link in report.links)
    waits = (Wait("decoder-2", "prompt-3", "3 tries failed", 1006.0),)
    shown = replace(report, links=links, waits=waits)
    async with served(rich_parts(shown)) as url, opened(browser, url) as seen:
        await expect(seen.page.locator("#trouble td.words").last).to_have_text(
            "LLM_LINK_FAILED, 3 failed tries, next try in 6.0 s"
        )


async def test_it_says_when_the_daemon_does_not_answer_and_when_it_is_back(
    browser: Browser,
) -> None:
    parts = rich_parts()
    async with served(parts) as url, opened(browser, url) as seen:
        banner = seen.page.locator("#unreachable")
        await expect(seen.page.locator("#mode")).to_have_text("paused")
        await expect(banner).to_be_hidden()
        parts.control.latest = None
        await expect(banner).to_contain_text("has not ended its first cycle yet")
        parts.control.latest = a_rich_report()
        await expect(banner).to_be_hidden()
        # The browser itself notes each 503.
        assert all("503" in complaint for complaint in seen.complaints)
        seen.complaints.clear()


async def test_it_keeps_what_it_last_saw_while_the_daemon_is_gone(browser: Browser) -> None:
    parts = rich_parts()
    page = await browser.new_page()
    async with served(parts) as url:
        await page.goto(url)
        await expect(page.locator("#mode")).to_have_text("paused")

    banner = page.locator("#unreachable")
    await expect(banner).to_contain_text("The daemon does not answer (no connection). What you see")
    await expect(page.locator("#nodes tbody tr")).to_have_count(10)
    async with serve(parts.app(), port=int(url.rpartition(":")[2])):
        await expect(banner).to_be_hidden()
    await page.close()


async def test_a_nodes_name_is_shown_as_text_whatever_it_holds(browser: Browser) -> None:
    report = a_rich_report()
    name = "<img src=x onerror=alert(1)>"
    first, *others = report.snapshot.nodes
    snapshot = replace(report.snapshot, nodes=(replace(first, id=name, why=name), *others))
    suspect = replace(report.links[0], prompt=name, state=LinkState.SUSPECT, why=name)
    shown = replace(report, snapshot=snapshot, links=(suspect,), alarms=(name,))
    async with served(rich_parts(shown)) as url, opened(browser, url) as seen:
        await expect(seen.page.locator("#alarms li")).to_have_text(name)
        await expect(seen.page.locator("#nodes td").first).to_have_text(name)
        await expect(seen.page.locator(".matrix .head").first).to_have_text(name)
        await seen.page.locator("button.cell.suspect").click()
        await expect(seen.page.locator("#explanation h3")).to_have_text(f"decoder-0 \u2192 {name}")
        await expect(seen.page.locator("#explanation li").first).to_contain_text(name)
        assert await seen.page.locator("img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 600])
async def test_nothing_is_wider_than_the_window(browser: Browser, width: int, scheme: str) -> None:
    async with (
        served(rich_parts()) as url,
        opened(browser, url, width=width, scheme=scheme) as seen,
    ):
        await expect(seen.page.locator("#chart svg")).to_be_visible()

        assert await seen.page.evaluate("document.documentElement.scrollWidth") == width
        background = await seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        light = "rgb(244, 245, 247)"
        assert (background == light) is (scheme == "light")
