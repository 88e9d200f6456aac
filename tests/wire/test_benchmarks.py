"""Benchmarks end with the object that programs read, and the page shows every row of it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks import scrape
from benchmarks.__main__ import page, section
from benchmarks.support.link_cases import CASES
from benchmarks.support.rows import compared, measured, read
from benchmarks.support.scrape_pages import vllm_page
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.support.pages import real_page

ROOT = Path(__file__).parents[2]
COLUMNS = {"name", "value", "unit", "reference", "ratio", "aim", "met"}


@pytest.mark.e2e
@pytest.mark.parametrize("case", CASES)
def test_a_tiny_run_links_every_pair_and_ends_with_its_rows(case: str) -> None:
    tiny = ["--divide", "32", "--init-s", "0.01", "--prepare-s", "0.02"]
    command = [sys.executable, "-m", "benchmarks.links", "--json", "--case", case, *tiny]

    done = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=90
    )

    assert done.returncode == 0, done.stderr
    found = read(done.stdout)
    assert found["benchmark"] == "links"
    assert [row for row in found["rows"] if row["aim"] == 1.15]
    assert all(row.keys() == COLUMNS and row["value"] >= 0 for row in found["rows"])


def _ran(*arguments: str) -> tuple[dict[str, Any], str]:
    """Run a benchmark small; return the object it ends with, and all that it printed."""
    command = [sys.executable, "-m", *arguments, "--json"]
    done = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    found = read(done.stdout)
    assert all(row.keys() == COLUMNS and row["value"] >= 0 for row in found["rows"])
    return found, done.stdout


def test_both_parsers_are_run_on_the_same_pages_and_the_rows_say_how_large_they_are() -> None:
    found, said = _ran("benchmarks.scrape", "--only", "parser", "--engines", "1", "--rounds", "1")

    assert found["benchmark"] == "scrape"
    lines = re.search(r"pages of 1 engines, (\d+) lines, \d+ kB; prometheus_client [\d.]+", said)
    assert lines is not None
    assert all(f"{lines[1]} lines" in row["name"] for row in found["rows"])
    compared_rows = [row for row in found["rows"] if row["aim"] is not None]
    assert [row["name"].split()[0] for row in compared_rows] == ["prompt", "decoder"]
    assert all(row["aim"] == 0.01 and row["reference"] > 0 for row in compared_rows)


@pytest.mark.e2e
def test_a_tiny_cycle_reads_every_page_and_says_against_what_it_is_compared() -> None:
    tiny = ["--targets", "6", "--cycles", "2", "--interval-s", "0.5"]

    found, said = _ran("benchmarks.scrape", "--only", "cycle", *tiny)

    (row,) = found["rows"]
    assert row["name"].startswith("cycle of 6 targets, ")
    assert "scraper: 12 pages in 2 cycles (18 served with the first)" in said
    is_compared = shutil.which("prometheus") is not None
    assert (row["aim"] == 1.0) is is_compared
    assert ("Prometheus, which is not installed" in said) is not is_compared


def test_without_prometheus_the_scraper_is_measured_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")

    scrape.main(["--only", "cycle", "--targets", "2", "--cycles", "1", "--interval-s", "0.1"])

    said = capsys.readouterr().out
    assert "left out: the comparison with Prometheus, which is not installed" in said
    assert "cycle of 2 targets" in said


async def test_a_page_that_could_not_be_read_ends_the_run() -> None:
    with pytest.raises(RuntimeError, match=r"^2 failed: "):
        await scrape.scraped(["127.0.0.1:1"], cycles=1, interval_s=0.01)


@pytest.mark.parametrize("engines", [1, 8])
def test_the_page_has_the_families_and_as_many_samples_as_a_real_one(engines: int) -> None:
    real = {family.name: family for family in families(real_page("vllm-0.32-prompt-loaded.txt"))}
    ours = {family.name: family for family in families(vllm_page(engines=engines))}

    # A process counts itself without saying since when.
    extra = ours.keys() - real.keys()
    assert real.keys() <= ours.keys()
    assert all(re.fullmatch("(python_gc|process)_.*_created", name) for name in extra)
    for name, family in ((name, ours[name]) for name in real):
        assert family.type == real[name].type, name
        of_one = [s for s in family.samples if s.labels.get("engine", "0") == "0"]
        assert len(of_one) == len(real[name].samples), name
        assert len(family.samples) == len(of_one) * (engines if "engine" in of_one[0].labels else 1)


def families(page: bytes) -> list[Metric]:
    return list(text_string_to_metric_families(page.decode()))


@pytest.mark.parametrize(("name", "bound_s"), [("prompts", 13.8), ("decoder", 26.6)])
def test_the_bound_is_the_busiest_process_and_one_preparation(name: str, bound_s: float) -> None:
    assert CASES[name].bound_s(init_s=0.2, prepare_s=1.0) == pytest.approx(bound_s)


def test_in_parallel_the_sixteen_slots_are_the_bound() -> None:
    assert CASES["prompts-parallel"].bound_s(init_s=0.2, prepare_s=1.0) == pytest.approx(4.8)


def test_a_ratio_above_its_aim_is_not_met() -> None:
    assert compared("a", 1.16, "s", reference=1.0, aim=1.15).met is False
    assert compared("a", 1.15, "s", reference=1.0, aim=1.15).met is True
    assert measured("a", 1.0, "s").met is None


def test_output_without_the_object_is_refused() -> None:
    with pytest.raises(ValueError, match="last line"):
        read('{"benchmark": "links", "rows": []}\n[]\n')


def test_a_new_section_replaces_its_own_and_keeps_the_others() -> None:
    row = {"name": "a", "value": 2.0, "unit": "s", "reference": 1.0, "ratio": 2.0, "aim": 1.15}
    old = page("", {"links": "## links\nold\n", "scrape": "## scrape\nkept\n"})

    new = page(old, {"links": section("links", {"rows": [{**row, "met": False}]}, "2 cores")})

    assert "old" not in new
    assert "## scrape\nkept\n" in new
    assert "| a | 2 | s | 1 | 2 | 1.15 | **no** |" in new
    assert new.count("# Benchmarks") == 1
