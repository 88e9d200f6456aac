"""Seeds of faults around the production loop: safety all the way, then it settles and rests."""

import json
import os
import subprocess
import sys

import pytest

from pd_autoscaler.model.decision import Hold, HoldReason, Target
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.sim.checks import Checks
from pd_autoscaler.sim.run import Result, run_seed
from tests.support.sim import seeds_of_commit

SHORT_HOURS = 0.25
DIGESTS = """
from pd_autoscaler.sim.run import run_seed
print([run_seed(seed, hours=0.25).digest for seed in (3, 5, 8)])
"""
COMMAND = """
import typer
from pd_autoscaler.cli import simulate
app = typer.Typer()
app.callback()(lambda: None)
simulate.register(app)
app()
"""


def told(result: Result) -> str:
    """Say what a person needs to repeat a run that failed."""
    return (
        f"{result.violation}\nfaults on: {', '.join(result.faults)}\n"
        + "\n".join(result.lines[-15:])
        + f"\nrepeat it: pd-autoscaler simulate --seed {result.seed}"
    )


@pytest.mark.parametrize("seed", seeds_of_commit(20))
def test_a_seed_of_this_commit_breaks_no_rule_and_settles(seed: int) -> None:
    result = run_seed(seed)

    assert result.is_ok, told(result)


def test_a_node_that_restarts_while_the_router_is_silent_is_withdrawn_before_its_init() -> None:
    # Its init was begun, and for as long as it took nobody could withdraw the predecessor.
    result = run_seed(3769569426)

    assert result.is_ok, told(result)


def test_a_late_link_told_after_the_cure_of_its_far_end_is_not_published() -> None:
    # The decoder's agent was silent, so the prompt node alone dropped the pair; then it told of it.
    result = run_seed(9064)

    assert result.is_ok, told(result)


def test_without_faults_the_fleet_settles() -> None:
    result = run_seed(1, hours=SHORT_HOURS, only=frozenset())

    assert result.is_ok, told(result)
    assert result.faults == ()


def test_the_same_seed_gives_the_same_digest_and_another_seed_another() -> None:
    one, again, other = (run_seed(seed, hours=SHORT_HOURS) for seed in (3, 3, 4))

    assert one.digest == again.digest
    assert one.digest != other.digest


def test_two_hash_seeds_give_the_same_digest() -> None:
    digests = set()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                DIGESTS,
            ],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout)

    assert len(digests) == 1


class _Stubborn:
    """Wants what no guard allows, in turns."""

    def __init__(self) -> None:
        self._count = 0

    def decide(self, snapshot: Snapshot) -> Target:
        self._count += 1
        return Target(5, 1) if self._count // 30 % 2 else Target(1, 5)


def test_a_policy_that_never_settles_is_told_of() -> None:
    result = run_seed(1, hours=SHORT_HOURS, only=frozenset(), policy=_Stubborn)

    assert result.violation is not None


class _Silent:
    """Never decides."""

    def decide(self, snapshot: Snapshot) -> Hold:
        return Hold(HoldReason.POLICY_HELD, str(snapshot.target))


def test_a_policy_that_only_holds_leaves_a_fleet_that_settles() -> None:
    result = run_seed(2, hours=SHORT_HOURS, only=frozenset(), policy=_Silent)

    assert result.is_ok, told(result)


def test_the_first_violation_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def violated_at_once(self: Checks, ids: object) -> None:
        self.violated(f"a rule made for this test, by {ids}")

    monkeypatch.setattr(Checks, "asked", violated_at_once)

    result = run_seed(2, hours=SHORT_HOURS, only=frozenset())

    assert result.violation is not None
    assert result.violation.what.startswith("a rule made for this test")
    assert result.simulated_s < SHORT_HOURS * 3600.0
    assert any("VIOLATION" in line for line in result.lines)


def test_the_command_prints_each_seed_and_its_digest() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            COMMAND,
            "simulate",
            "--seeds",
            "3..4",
            "--hours",
            "0.05",
            "--json",
        ],
        capture_output=True,
        text=True,
        check=True,
    )

    runs = json.loads(done.stdout)["runs"]
    assert [run["seed"] for run in runs] == [3, 4]
    assert [run["digest"] for run in runs] == [run_seed(s, hours=0.05).digest for s in (3, 4)]
    assert runs[0]["command"] == "pd-autoscaler simulate --seed 3 --hours 0.05"
