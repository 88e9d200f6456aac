"""`pd-autoscaler tune` over a small trace, with real runs of the simulator."""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import typer

from pd_autoscaler import settings
from pd_autoscaler.cli import extra, tune, tuned
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.policies.registry import load_policy
from pd_autoscaler.sim.tuning import Search, Trial

SHORT = ("--trials", "2", "--lead-s", "20", "--search", "ratio=0.5..2")


class Ran(NamedTuple):
    code: int
    out: str
    error: str


@pytest.fixture(name="trace", scope="module")
def _trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces") / "small.csv"
    times = np.sort(np.random.default_rng(0).uniform(0.0, 400.0, 400))
    rows = "".join(f"{at_s:.3f},500,60\n" for at_s in times)
    path.write_text(f"arrival_s,input_tokens,output_tokens\n{rows}")
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Ran:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    tune.register(app)
    code = app(args=["tune", *map(str, arguments)], standalone_mode=False)
    return Ran(code or 0, *capsys.readouterr())


def test_default_and_tuned_parameters_stand_side_by_side_on_both_parts(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = run(capsys, "--trace", trace, "--policy", "fixed-ratio", *SHORT)

    assert ran.code == 0
    assert "fixed-ratio: 2 trials on the first 3m" in ran.out
    assert "tuned on:" in ran.out
    assert "held out:" in ran.out
    assert "default: ratio=0.5" in ran.out
    assert "tuned: ratio=" in ran.out
    assert "loop:\n  policy: fixed-ratio\n  policy_params:\n    ratio: " in ran.out


def test_what_is_written_is_what_a_daemon_takes(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tuned.yaml"
    ran = run(
        capsys,
        *("--trace", trace, "--policy", "fixed-ratio", "--param", "kv_full=0.7", "--out", out),
        *SHORT,
    )
    loaded = settings.load(out)
    load_policy(loaded.loop.policy, loaded.loop.policy_params)

    assert f"{out} is written" in ran.out
    assert loaded.loop.policy == "fixed-ratio"
    assert loaded.loop.policy_params["kv_full"] == 0.7
    assert 0.5 <= loaded.loop.policy_params["ratio"] <= 2


def test_the_same_seed_gives_the_same_document(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    once, again = (
        json.loads(run(capsys, "--trace", trace, "--policy", "fixed-ratio", "--json", *SHORT).out)
        for _ in range(2)
    )

    assert once == again
    assert list(once) == [
        *("policy", "trials", "seed", "attainment_min", "parts", "default", "tuned"),
        *("words", "is_over_fitted", "settings"),
    ]
    assert list(once["tuned"]["held_out"]) == ["node_hours", "attainment", "loss"]
    assert once["settings"]["loop"]["policy"] == "fixed-ratio"


def test_a_published_policy_has_its_ranges_and_no_settings(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = run(
        capsys,
        *("--trace", trace, "--policy", "token-velocity", "--trials", "1", "--lead-s", "20"),
    )

    assert "tuned: headroom=" in ran.out
    assert "token-velocity is no policy of a daemon" in ran.out


def test_time_that_is_up_ends_the_search_after_the_trial_under_way(trace: Path) -> None:
    task = tuned.prepared(
        trace,
        "fixed-ratio",
        slo="chat",
        profile="demo",
        lead_s=20.0,
        held_out=0.5,
        seed=0,
        ranges=["ratio=0.5..2"],
        pairs=[],
        attainment_min=0.99,
    )

    assert tuned.searched(task, 1000, budget_s=0.0) == 1
    assert task.search.best is not None


def test_ctrl_c_keeps_the_best_so_far(
    trace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = Search.trials

    def interrupted(self: Search, count: int) -> "list[Trial]":
        def each():  # type: ignore[no-untyped-def]
            yield next(trials(self, count))
            raise KeyboardInterrupt

        return each()  # type: ignore[no-any-return, no-untyped-call]

    monkeypatch.setattr(Search, "trials", interrupted)
    ran = run(capsys, "--trace", trace, "--policy", "fixed-ratio", *SHORT)

    assert "stopped after 1 trials; judging the best" in ran.error
    assert "fixed-ratio: 1 trials" in ran.out
    assert "default: ratio=0.5" in ran.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policy", "nobody"), "no policy is called 'nobody'; there are aibrix-apa, "),
        (("--policy", "static-best"), "no ranges are known for policy 'static-best'"),
        (("--policy", "fixed-ratio", "--search", "ration=1..2"), "has no parameter 'ration'; it h"),
        (("--policy", "fixed-ratio", "--search", "ratio=2"), "write name=low..high"),
        (("--policy", "fixed-ratio", "--search", "ratio=1..2", "--param", "x=1"), "x"),
        (("--policy", "fixed-ratio", "--search", "ratio=1..2", "--slo", "fast"), "give chat, long"),
        (("--policy", "token-velocity", "--out", "x.yaml"), "no settings to write"),
        (("--policy", "fixed-ratio", *SHORT, "--out", "/no/such/x.yaml"), "cannot be written"),
    ],
)
def test_wrong_input_is_refused_before_the_first_run(
    trace: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(capsys, "--trace", trace, *arguments)


def test_without_the_extra_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra, "find_spec", lambda name: None if name == "optuna" else sys)

    with pytest.raises(
        ConfigError, match=r"this needs optuna: pip install 'pd-autoscaler\[simulation\]'"
    ):
        extra.require_simulation()
