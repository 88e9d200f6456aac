"""`pd-autoscaler simulate`: policies over a small trace with real runs, and seeds with faults."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from pd_autoscaler.cli import extra, invoke, simulate
from pd_autoscaler.sim.records import SLOS

RUNS = 2
CHEAP = ("--policies", "static-first-hour,queue-pressure")
QUICK = ("--profile", "demo", "--lead-s", "20", "--link-s", "0.1")
LOADED = r"""(?:src|href)\s*=\s*["'](?!#|data:)|url\((?!["']?(?:#|data:))|@import"""
"""What makes a browser ask for something else."""


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    error: str


Here = Callable[..., Ran]


@pytest.fixture(name="trace", scope="module")
def _trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces") / "small.csv"
    times = np.sort(np.random.default_rng(0).uniform(0.0, 120.0, 120))
    rows = "".join(f"{at_s:.3f},800,100\n" for at_s in times)
    path.write_text(f"arrival_s,input_tokens,output_tokens\n{rows}")
    return path


@pytest.fixture(name="everywhere")
def _everywhere(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    """Run a command here, its simulations on all cores."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: object) -> Ran:
        code = invoke(["simulate", *map(str, arguments)])
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture(name="here")
def _here(everywhere: Here, monkeypatch: pytest.MonkeyPatch) -> Here:
    """Run a command with its simulations in this process, which is quicker for a few."""
    monkeypatch.setattr("pd_autoscaler.sim.parallel.cores", lambda: 1)
    return everywhere


@pytest.fixture(name="idle")
def _idle(tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch) -> Here:
    """Run a command in an empty folder, in which no simulation may begin."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a run began")

    monkeypatch.setattr("pd_autoscaler.sim.comparing.run_experiment", never)
    monkeypatch.chdir(tmp_path)
    return here


# Policies over a trace


def test_policies_are_compared_over_a_trace_on_all_cores(
    trace: Path, tmp_path: Path, everywhere: Here
) -> None:
    html = tmp_path / "report.html"

    ran = everywhere("--trace", trace, *CHEAP, *QUICK, "--runs", RUNS, "--html", html)

    assert (ran.code, ran.error) == (0, "")
    caption, *table = ran.out.splitlines()
    assert caption == ("small.csv, chat: TTFT 1 s, TPOT 50 ms; 2 runs of each; owed 99 % of both")
    assert max(map(len, table)) <= 120
    rows = [line.split()[0] for line in table if re.search(r"\d", line)]
    assert rows[-3:] == ["static-first-hour", "queue-pressure", "report:"]
    assert table[-1] == f"report: {html}"
    page = html.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "queue-pressure" in page
    # What a library holds as text in its script loads nothing by itself.
    assert not re.search(LOADED, re.sub(r"(?s)<script.*?</script>", "", page))
    assert not re.search(r"<script[^>]*\bsrc", page)


def test_json_has_every_score_of_every_run(trace: Path, here: Here) -> None:
    ran = here(
        *("--trace", trace, *CHEAP, *QUICK, "--runs", RUNS, "--json", "--slo", "long"),
        *("--param", "queue-pressure:settle_s=45"),
    )

    assert (ran.code, ran.error) == (0, "")
    said = json.loads(ran.out)
    assert list(said) == ["left_out", "comparisons"]
    assert said["left_out"] == 0
    [compared] = said["comparisons"]
    assert list(compared) == ["schema", "scenario", "target", "slos"]
    assert compared["scenario"] == "small.csv"
    assert [slo["name"] for slo in compared["slos"]] == ["long", "chat", "relaxed"]
    policies = compared["slos"][0]["policies"]
    assert [list(policy) for policy in policies] == [["policy", "params", "figures", "runs"]] * 2
    assert [(policy["policy"], policy["params"]) for policy in policies] == [
        ("static-first-hour", {}),
        ("queue-pressure", {"settle_s": 45}),
    ]
    for policy in policies:
        assert [run["seed"] for run in policy["runs"]] == list(range(RUNS))
        assert all(0 < run["requests"] <= 120 for run in policy["runs"])
        assert 0 < policy["figures"]["both"]["mean"] <= 1
        assert policy["figures"]["node_hours"]["count"] == RUNS


def test_several_workloads_have_a_table_and_a_report_each(
    trace: Path, tmp_path: Path, here: Here
) -> None:
    ran = here(
        *("--trace", trace, "--scenario", "S7", "--nodes-mean", "0.2", *QUICK),
        *("--policies", "static-first-hour", "--runs", "1", "--period-s", "60"),
        *("--html", tmp_path / "report.html"),
    )

    assert (ran.code, ran.error) == (0, "")
    captions = [line.partition(",")[0] for line in ran.out.splitlines() if "owed" in line]
    assert captions == ["small.csv", "S7"]
    assert "1 run of each" in ran.out
    assert {path.name for path in tmp_path.iterdir()} == {"report-small.html", "report-S7.html"}


def test_runs_beyond_the_budget_are_left_out_and_counted(trace: Path, here: Here) -> None:
    ran = here("--trace", trace, *CHEAP, *QUICK, "--runs", 1000, "--budget-minutes", 0.01)

    assert (ran.code, ran.error) == (0, "")
    said = re.search(
        r"^(\d+) of 2000 runs were left out: the budget was over$", ran.out, re.MULTILINE
    )
    assert said is not None
    assert 1000 < int(said[1]) < 2000
    assert "static-first-hour" in ran.out


def test_a_parameter_without_an_owner_is_everybodys(trace: Path, here: Here) -> None:
    ran = here(
        *("--trace", trace, "--policies", "queue-pressure, fixed-ratio", *QUICK, "--runs", "1"),
        *("--param", "settle_s=20", "--param", "fixed-ratio:ratio=0.7", "--json"),
    )

    policies = json.loads(ran.out)["comparisons"][0]["slos"][0]["policies"]
    assert {policy["policy"]: policy["params"] for policy in policies} == {
        "queue-pressure": {"settle_s": 20},
        "fixed-ratio": {"settle_s": 20, "ratio": 0.7},
    }


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--policies", "nobody"), "no policy is called 'nobody'; there are aibrix-apa, "),
        (("--policies", " , "), "--policies ' , ' names no policy: give some, such as slo,hpa"),
        (
            ("--scenario", "S13"),
            "no scenario is called 'S13', and no such file is there; scenarios ",
        ),
        (("--scenario", "S1"), "AzureLLMInferenceTrace_conv_2023.csv"),
        (("--slo", "fast"), "--slo 'fast' is not known: give chat, long, relaxed"),
        (("--profile", "h100"), "engine profile 'h100' is not known: give one of demo, "),
        (("--param", "hpa:tolerance=1"), "--param hpa:tolerance=1: 'hpa' is not among --policies "),
        (("--param", "settle_s"), "--param 'settle_s' is no key=value, such as ratio=0.5"),
        (("--param", "queue-pressure:settle=1"), "policy 'queue-pressure': no parameter 'settle'"),
        (("--html", "none/report.html"), "--html none/report.html: the folder none is not there"),
        (("--html", "."), "--html .: is a folder, give a file in it"),
        (("--seed", "3"), "--seed, --seeds and --hours are of runs with faults; with --trace or "),
        (("--seeds", "0..3"), "--seed, --seeds and --hours are of runs with faults; with --trace"),
        (("--hours", "1"), "--seed, --seeds and --hours are of runs with faults; with --trace or"),
        (("--runs", "0"), "--runs"),
        (("--nodes-mean", "0"), "--nodes-mean"),
        (("--period-s", "fast"), "--period-s"),
    ],
)
def test_wrong_input_is_one_sentence_before_the_first_run(
    trace: Path, idle: Here, arguments: tuple[str, ...], error: str
) -> None:
    ran = idle("--trace", trace, "--policies", "queue-pressure", "--runs", "1", *arguments)

    assert (ran.code, ran.out) == (2, "")
    assert ran.error.startswith("error: ")
    assert ran.error.count("\n") == 1
    assert error in ran.error


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, "trace.csv"),
        ("", "trace.csv: holds no request"),
        ("a,b,c\n1,2,3\n", "trace.csv:1: is not a known trace format"),
        (
            "arrival_s,input_tokens,output_tokens\n0,100,many\n",
            "trace.csv:2: output_tokens 'many' is no count of 1 or more",
        ),
    ],
)
def test_a_trace_that_cannot_be_read_is_one_sentence_with_its_name(
    tmp_path: Path, here: Here, content: str | None, error: str
) -> None:
    trace = tmp_path / "trace.csv"
    if content is not None:
        trace.write_text(content)

    ran = here("--trace", trace, *CHEAP)

    assert (ran.code, ran.out) == (2, "")
    assert ran.error.startswith("error: ")
    assert ran.error.count("\n") == 1
    assert error in ran.error


def test_a_report_that_cannot_be_written_is_told_of(trace: Path, here: Here) -> None:
    ran = here(
        *("--trace", trace, "--policies", "static-first-hour", *QUICK, "--runs", "1"),
        *("--html", "/proc/report.html"),
    )

    assert (ran.code, ran.error.count("\n")) == (2, 1)
    assert "--html /proc/report.html: cannot be written (No such file or" in ran.error


# Seeds with faults


def test_a_seed_runs_with_faults_and_says_how_it_went(here: Here) -> None:
    ran = here("--seed", 3, "--hours", 0.05)

    assert (ran.code, ran.error) == (0, "")
    assert re.fullmatch(
        r"seed 3: OK, \d+ cycles, \d+ controller\(s\), 0\.\d h, digest [0-9a-f]{16}\n", ran.out
    )


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--seed", "1", "--seeds", "0..3"), "give --seed or --seeds, not both"),
        (("--seeds", "a..b"), "--seeds wants A..B, such as 0..19, not 'a..b'"),
        (("--seeds", "5..2"), "--seeds 5..2 names no seed: A must not be above B"),
        (("--seed", "1", "--hours", "0.01"), "--hours"),
    ],
)
def test_seeds_that_are_none_are_one_sentence(
    here: Here, arguments: tuple[str, ...], error: str
) -> None:
    ran = here(*arguments)

    assert (ran.code, ran.out, ran.error.count("\n")) == (2, "", 1)
    assert error in ran.error


def test_without_the_extra_the_fix_is_named(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra, "find_spec", lambda name: None)

    ran = here("--seed", 3)

    assert (ran.code, ran.out) == (2, "")
    assert "pip install 'pd-autoscaler[simulation]'" in ran.error


def test_the_help_names_what_there_is(here: Here) -> None:
    ran = here("--help")

    assert ran.code == 0
    for slo in SLOS:
        assert slo.name in ran.out
    assert simulate.POLICIES in ran.out
