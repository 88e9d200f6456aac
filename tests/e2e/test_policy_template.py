"""The template of a policy package, built and installed as an author would do it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TEMPLATE = Path(__file__).parents[2] / "docs" / "examples" / "policy_template"

Python = Callable[..., str]

DECIDES = """
import json, logging
from pd_autoscaler.policies.registry import load_policy
from pd_autoscaler.sim.run import run_seed

logging.disable(logging.CRITICAL)
decisions = []


class Noted:
    def __init__(self):
        self.policy = load_policy("request-rate", {"prompt_per_s": 3.0})

    def decide(self, snapshot):
        decision = self.policy.decide(snapshot)
        decisions.append((str(decision), type(decision).__name__))
        return decision


result = run_seed(3, hours=0.1, only=frozenset(), policy=Noted)
kinds = [kind for _, kind in decisions]
print(json.dumps({
    "violation": result.violation and result.violation.what,
    "targets": kinds.count("Target"),
    "decisions": len(kinds),
}))
"""


@pytest.fixture(name="python", scope="module")
def _python(tmp_path_factory: pytest.TempPathFactory) -> Python:
    """Run Python where the template's wheel is installed, beside this project."""
    place = tmp_path_factory.mktemp("template")
    source, installed = place / "source", place / "installed"
    shutil.copytree(TEMPLATE, source, ignore=shutil.ignore_patterns("__pycache__"))
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        *offline,
        "--target",
        installed,
        source,
    ]
    subprocess.run(command, check=True, timeout=100)

    def run(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=source,
            env={**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "140"},
            timeout=100,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return run


def test_it_is_listed_under_its_name_and_keeps_the_contract(python: Python) -> None:
    listed = json.loads(python("-m", "pd_autoscaler", "policies", "--json"))["policies"]
    assert {
        "name": "request-rate",
        "origin": "pd-request-rate 0.1.0",
        "points_at": "pd_request_rate:SPEC",
    } in listed
    checked = json.loads(
        python("-m", "pd_autoscaler", "policies", "check", "request-rate", "--json")
    )
    assert [c["check"] for c in checked["checks"] if c["violations"]] == []
    assert checked["is_kept"] is True


def test_a_misspelt_parameter_of_it_is_refused_at_the_start(python: Python) -> None:
    python(
        *("-m", "pd_autoscaler", "policies", "check", "request-rate", "--param", "promt_per_s=3"),
        code=2,
    )


def test_it_decides_in_the_simulated_loop(python: Python) -> None:
    said = json.loads(python("-c", DECIDES))
    assert said["violation"] is None
    assert said["decisions"] > 30
    assert said["targets"] > said["decisions"] / 2
