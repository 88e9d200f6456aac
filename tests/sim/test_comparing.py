"""Comparing: many runs on all cores, and who may be compared behind which guard."""

import math
import operator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pd_autoscaler.engine_model.profile import DEMO
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.decision import Target
from pd_autoscaler.policies.registry import installed
from pd_autoscaler.sim.baselines.registry import BASELINES, NAMED
from pd_autoscaler.sim.comparing import Done, Job, compared, done, jobs
from pd_autoscaler.sim.contestant import OWN_PACE, SWITCHING, contestant
from pd_autoscaler.sim.experiment import FREE, Scenario, run_experiment
from pd_autoscaler.sim.parallel import cores, spread
from pd_autoscaler.sim.records import SLOS
from pd_autoscaler.sim.scenarios import Setting, of_arrivals
from pd_autoscaler.workload.arrivals import arrivals_of
from pd_autoscaler.workload.request import Request
from tests.support.moments import moment

SETTING = Setting(profile=DEMO, lead_s=20.0, link_s=0.1)


@pytest.fixture(name="trace", scope="module")
def _trace(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("traces") / "small.csv"
    times = np.sort(np.random.default_rng(0).uniform(0.0, 120.0, 120))
    rows = "".join(f"{at_s:.3f},800,100\n" for at_s in times)
    path.write_text(f"arrival_s,input_tokens,output_tokens\n{rows}")
    return str(path)


@pytest.fixture(name="calm", scope="module")
def _calm() -> Scenario:
    requests = (Request(number / 2, 800, 100) for number in range(240))
    return of_arrivals("calm", arrivals_of(requests), SETTING)


def told(made: Done) -> Any:
    """Return what came of a job but the processor time, which is never the same."""
    return made.scores, made.requests


# Spreading


def test_results_from_two_processes_equal_those_of_one() -> None:
    asked = [0.0, 1.0, 4.0, 9.0, 16.0]

    one, two = (sorted(spread(math.sqrt, asked, workers=count)) for count in (1, 2))

    assert one == two == [(0.0, 0.0), (1.0, 1.0), (4.0, 2.0), (9.0, 3.0), (16.0, 4.0)]


def test_one_process_keeps_the_order_and_nothing_gives_nothing() -> None:
    assert list(spread(operator.neg, [3, 1, 2], workers=1)) == [(3, -3), (1, -1), (2, -2)]
    assert list(spread(operator.neg, [])) == []
    assert cores() >= 1


@pytest.mark.parametrize("workers", [1, 2])
def test_the_exception_of_a_job_comes_through(workers: int) -> None:
    with pytest.raises(ValueError, match="math domain error"):
        list(spread(math.sqrt, [4.0, -1.0], workers=workers))


@pytest.mark.parametrize(("workers", "count"), [(1, 3), (2, 3000)])
def test_what_has_not_begun_when_nobody_listens_any_more_is_not_begun(
    tmp_path: Path, workers: int, count: int
) -> None:
    paths = [tmp_path / str(number) for number in range(count)]

    results = spread(Path.touch, paths, workers=workers)
    next(results)
    results.close()  # type: ignore[attr-defined]  # It is a generator.

    assert 1 <= len(list(tmp_path.iterdir())) < count


# Jobs


def test_all_of_one_seed_comes_before_the_next() -> None:
    made = jobs(["S6", "S7"], {"slo": {}, "hpa": {"target": 0.5}}, range(2), SETTING)

    assert [(job.seed, job.scenario, job.policy) for job in made] == [
        *((0, "S6", "slo"), (0, "S6", "hpa"), (0, "S7", "slo"), (0, "S7", "hpa")),
        *((1, "S6", "slo"), (1, "S6", "hpa"), (1, "S7", "slo"), (1, "S7", "hpa")),
    ]
    assert made[1].params == {"target": 0.5}


def test_the_targets_that_are_owed_come_first_and_all_are_scored() -> None:
    [job] = jobs(["S6"], {"slo": {}}, [0], replace(SETTING, slo=SLOS[1]))

    assert job.slos == (SLOS[1], SLOS[0], SLOS[2])


def test_a_job_is_scored_for_each_pair_of_targets_and_the_run_is_kept_if_asked_for(
    trace: str,
) -> None:
    job = Job(scenario=trace, policy="queue-pressure", seed=0, setting=SETTING)

    scores, whole = done(job), done(replace(job, is_whole=True))

    assert [score.slo for score in scores.scores] == [slo.name for slo in SLOS]
    assert scores.run is None
    assert whole.run is not None
    assert (whole.run.policy, whole.run.scenario) == ("queue-pressure", "small.csv")
    assert scores.requests == len(whole.run.requests.arrivals) == 120
    assert told(scores) == told(whole)


def test_parameters_are_given_over_the_policys_own(trace: str) -> None:
    fixed = {"prompt": 2, "decoder": 3}
    job = Job(scenario=trace, policy="static-best", seed=0, setting=SETTING, is_whole=True)

    run = done(replace(job, params=fixed)).run

    assert run is not None
    assert run.params == fixed
    assert run.samples[-1].target == Target(2, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scenario": "S13"}, "no scenario is called 'S13'"),
        ({"policy": "nobody"}, "no policy is called 'nobody'"),
        ({"params": {"nonsense": 1}}, "queue-pressure.*nonsense"),
    ],
)
def test_what_cannot_be_used_is_refused(trace: str, change: dict[str, Any], message: str) -> None:
    job = Job(scenario=trace, policy="queue-pressure", seed=0, setting=SETTING)

    with pytest.raises(ConfigError, match=message):
        done(replace(job, **change))


def test_only_rules_that_move_nodes_have_engines_that_switch(
    trace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, bool] = {}

    def ran(scenario: Scenario, *args: Any, **named: Any) -> Any:
        seen[named["name"]] = scenario.can_switch_roles
        return run_experiment(scenario, *args, **named)

    monkeypatch.setattr("pd_autoscaler.sim.comparing.run_experiment", ran)
    for name in ("arrow", "queue-pressure"):
        done(Job(scenario=trace, policy=name, seed=0, setting=SETTING))

    assert seen == {"arrow": True, "queue-pressure": False}


def test_a_comparison_in_two_processes_equals_that_in_one(trace: str) -> None:
    asked = jobs([trace], {"queue-pressure": {}, "static-first-hour": {}}, range(2), SETTING)

    one, two = (list(compared(asked, workers=count)) for count in (1, 2))

    assert [job for job, _ in one] == asked
    by_name = {(job.policy, job.seed): told(made) for job, made in two}
    assert by_name == {(job.policy, job.seed): told(made) for job, made in one}


# Contestants


def test_everybody_who_can_be_named_can_be_built(calm: Scenario) -> None:
    plug_ins = {policy.name for policy in installed()} - {"http"}

    for name in sorted({*BASELINES, *NAMED, *plug_ins}):
        assert hasattr(contestant(name, calm).built({}), "decide"), name


@pytest.mark.parametrize("name", sorted({*BASELINES, *OWN_PACE, "mindie-daily", "heteroscale"}))
def test_a_published_rule_runs_behind_the_limits_alone(name: str, calm: Scenario) -> None:
    assert contestant(name, calm).guard is FREE


@pytest.mark.parametrize("name", ["slo", "queue-pressure", "fixed-ratio"])
def test_a_policy_of_the_daemon_runs_behind_the_guard_of_production(
    name: str, calm: Scenario
) -> None:
    entrant = contestant(name, calm)

    assert entrant.guard is None
    assert entrant.plug_in == name


def test_who_switches_roles_is_known_by_a_name_that_exists() -> None:
    names = {*BASELINES, *NAMED, *(policy.name for policy in installed())}

    assert names >= SWITCHING
    assert names >= OWN_PACE


def test_a_published_policy_is_no_plug_in_and_a_known_system_is_one(calm: Scenario) -> None:
    assert contestant("token-velocity", calm).plug_in is None
    mindie = contestant("mindie-hourly", calm)
    assert (mindie.plug_in, mindie.params["period_s"]) == ("throughput-match", 3600.0)


def test_a_policy_is_given_the_targets_and_the_window_of_the_scenario(calm: Scenario) -> None:
    loose = replace(calm, slo=SLOS[1], period_s=60.0)

    assert contestant("slo", loose).params == {"ttft_s": 5.0, "tpot_s": 0.1, "window_s": 180.0}
    assert contestant("fixed-ratio", loose).params == {}


def test_what_is_given_goes_over_what_it_has_by_itself(calm: Scenario) -> None:
    entrant = contestant("static-best", calm)

    built = entrant.built({"prompt": 5})

    assert entrant.params == {"prompt": 1, "decoder": 1}
    assert built.decide(moment([{}], [{}])) == Target(5, 1)


def test_a_default_is_its_own_value_or_that_of_the_parameter(calm: Scenario) -> None:
    assert contestant("mindie-daily", calm).default("period_s") == 86_400.0
    assert contestant("throughput-match", calm).default("watch_s") == 600.0
    assert contestant("fixed-ratio", calm).default("ratio") is not None
    with pytest.raises(ConfigError, match="'fixed-ratio' has no parameter 'rato'; it has ratio"):
        contestant("fixed-ratio", calm).default("rato")


@pytest.mark.parametrize("name", ["token-velocity", "queue-pressure"])
def test_a_parameter_that_is_none_is_refused_by_the_policys_name(name: str, calm: Scenario) -> None:
    with pytest.raises(ConfigError, match=f"policy '{name}'.*nonsense"):
        contestant(name, calm).built({"nonsense": 1})


def test_a_name_that_nobody_has_lists_everybody(calm: Scenario) -> None:
    with pytest.raises(ConfigError) as refused:
        contestant("nobody", calm)

    for name in ("arrow", "mindie-hourly", "slo", "static-best", "token-velocity"):
        assert name in str(refused.value)
