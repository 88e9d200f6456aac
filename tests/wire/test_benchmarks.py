"""Benchmarks end with the object that programs read, and the page shows every row of it."""

import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.__main__ import page, section
from benchmarks.support.link_cases import CASES
from benchmarks.support.rows import compared, measured, read

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

    new = page(old, {"links": section("links", [{**row, "met": False}], "2 cores")})

    assert "old" not in new
    assert "## scrape\nkept\n" in new
    assert "| a | 2 | s | 1 | 2 | 1.15 | **no** |" in new
    assert new.count("# Benchmarks") == 1
