import json
import math
from dataclasses import replace

import pytest

from pd_autoscaler.sim.intervals import Interval
from pd_autoscaler.sim.records import SLOS, Run
from pd_autoscaler.sim.report.columns import COLUMNS, NONE, mean_text, width_text
from pd_autoscaler.sim.report.comparison import Comparison, comparison
from pd_autoscaler.sim.report.document import document
from pd_autoscaler.sim.score import scored
from tests.support.runs import log_of, run_of

BY_FIGURE = {column.figure: column for column in COLUMNS}


def compared(*runs: Run) -> Comparison:
    return comparison([(run, scored(run, slo)) for run in runs for slo in SLOS], SLOS)


def test_runs_are_sorted_by_policy_and_parameters_and_their_seeds_come_together() -> None:
    runs = [
        run_of(policy, seed=seed, params=params, lasted_s=600.0)
        for seed in (1, 0)
        for policy, params in (("slo", {}), ("hpa", {"a": 1}), ("hpa", {"a": 2}))
    ]
    settings = compared(*runs).settings

    assert [setting.label for setting in settings] == ["slo", "hpa (a=1)", "hpa (a=2)"]
    assert [run.seed for run in settings[0].runs] == [0, 1]
    assert {name: len(scores) for name, scores in settings[0].scores.items()} == {
        "chat": 2,
        "long": 2,
        "relaxed": 2,
    }


def test_a_setting_has_the_mean_of_its_seeds_with_an_interval() -> None:
    fast, slow = (
        replace(run_of(lasted_s=600.0), seed=seed, requests=log)
        for seed, log in (
            (0, log_of([1.0] * 4, ttft_s=[0.1] * 4, tpot_s=[0.01] * 4)),
            (1, log_of([1.0] * 4, ttft_s=[0.1, 0.1, 9.0, 9.0], tpot_s=[0.01] * 4)),
        )
    )
    found = compared(fast, slow).settings[0].figures(SLOS[0])["both"]

    assert found.mean == 0.75
    assert found.count == 2
    assert found.half_width is not None


def test_there_is_nothing_to_compare_without_a_run() -> None:
    with pytest.raises(ValueError, match="needs a run"):
        comparison([], SLOS)


@pytest.mark.parametrize(
    ("figure", "interval", "mean", "width"),
    [
        ("both", Interval(0.98765, 0.0012, 3), "98.77", "± 0.12"),
        ("both", Interval(1.0, None, 1), "100.00", ""),
        ("node_hours", Interval(1234.5, 12.0, 3), "1234", "± 12"),
        ("node_hours", Interval(1.234, 0.5, 3), "1.23", "± 0.50"),
        ("actions", Interval(12.5, 1.0, 2), "12.5", "± 1.0"),
        ("tpot_p99_s", Interval(0.0312, None, 1), "31.2", ""),
        ("ttft_p99_s", Interval(math.inf, None, 2), "never", ""),
    ],
)
def test_a_figure_is_written_in_its_unit_with_as_many_digits_as_say_something(
    figure: str, interval: Interval, mean: str, width: str
) -> None:
    column = BY_FIGURE[figure]

    assert mean_text(column, {figure: interval}) == mean
    assert width_text(column, {figure: interval}) == width


def test_a_figure_that_is_not_known_is_a_dash() -> None:
    assert mean_text(BY_FIGURE["cost_ratio"], {}) == NONE
    assert width_text(BY_FIGURE["cost_ratio"], {}) == ""


def test_the_document_has_the_same_keys_for_programs_for_good() -> None:
    told = document(compared(run_of(lasted_s=600.0), run_of(seed=1, lasted_s=600.0)))

    assert list(told) == ["schema", "scenario", "target", "slos"]
    assert [slo["name"] for slo in told["slos"]] == ["chat", "long", "relaxed"]
    assert list(told["slos"][0]) == ["name", "ttft_s", "tpot_s", "policies"]
    (policy,) = told["slos"][0]["policies"]
    assert list(policy) == ["policy", "params", "figures", "runs"]
    assert [run["seed"] for run in policy["runs"]] == [0, 1]
    assert list(policy["figures"]["both"]) == ["mean", "half_width", "count"]


def test_the_document_is_json_even_where_something_never_came() -> None:
    run = replace(
        run_of(lasted_s=600.0),
        requests=log_of([1.0] * 2, ttft_s=[math.nan] * 2, tpot_s=[math.nan] * 2),
    )
    text = json.dumps(document(compared(run)), allow_nan=False)

    assert json.loads(text)["slos"][0]["policies"][0]["figures"]["ttft_p50_s"]["mean"] is None
