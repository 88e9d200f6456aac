"""Runs the conformance kit on a policy that is named, with what needs processes of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.decision import Decision
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.conformance import Verdict, checks, verdict_of
from pd_autoscaler.policies.contract import Policy
from pd_autoscaler.policies.registry import load_policy

CHILD_DEADLINE_S = 120.0
"""A child that has not ended by then is killed, and that is the finding."""
HASH_SEEDS = (1, 2)
SAME_ANYWHERE = "Answers the same in another process, whatever order its sets take there."
SNAPSHOTS_ONLY = "Decides from the snapshots alone: no clock, no randomness, no I/O while it does."


class Checked:
    """A policy to be checked: makes fresh ones, and measures every call.

    Raises ConfigError at once if there is no such policy or its parameters are wrong.
    """

    def __init__(self, name: str, params: Mapping[str, Any]) -> None:
        self.name = name
        self.params = dict(params)
        self.calls = 0
        self.slowest_s = 0.0
        look_here(name)
        load_policy(name, params)

    def fresh(self) -> Policy:
        """Make one more of it."""
        return _Measured(load_policy(self.name, self.params), self)

    def took(self, seconds: float) -> None:
        """Take note of one more call."""
        self.calls += 1
        self.slowest_s = max(self.slowest_s, seconds)


class _Measured:
    def __init__(self, policy: Policy, notes: Checked) -> None:
        self._policy = policy
        self._notes = notes

    def decide(self, snapshot: Snapshot) -> Decision:
        began_s = time.perf_counter()
        try:
            return self._policy.decide(snapshot)
        finally:
            self._notes.took(time.perf_counter() - began_s)


def verdicts(checked: Checked) -> Iterator[Verdict]:
    """Run every check; whoever does not answer at all is asked no more.

    On a terminal a line on stderr says what is being checked.
    """
    progress = Console(stderr=True, markup=False)
    total = len(checks()) + 2
    for number, (name, check) in enumerate(checks().items(), 1):
        # What a plug-in prints must not get into the answer.
        with progress.status(f"{number} of {total}: {name}"), redirect_stdout(sys.stderr):
            verdict = verdict_of(name, check, checked.fresh)
        yield verdict
        if number == 1 and verdict.violations:
            return
    with progress.status(f"{total - 1} of {total}: in processes of its own"):
        told = [_told(checked, seed) for seed in HASH_SEEDS]
    yield Verdict("same anywhere", SAME_ANYWHERE, tuple(_differences(told)))
    yield Verdict("snapshots only", SNAPSHOTS_ONLY, tuple(_reached(told)))


def look_here(name: str) -> None:
    """Have a `module:object` be looked for in the current directory, too."""
    here = str(Path.cwd())
    if ":" in name and here not in sys.path:
        # At the end: a file here must not hide a module of Python's own.
        sys.path.append(here)


def parameters(file: Path | None, pairs: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of a file and, over them, those given as key=value.

    Raises ConfigError for a file that is none, or a pair without `=`. Values are read as YAML.
    """
    given: dict[str, Any] = {}
    if file is not None:
        try:
            read = yaml.safe_load(file.read_text())
        except OSError as error:
            raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, ValueError) as error:
            # A date that is none is a ValueError of the reader's.
            raise ConfigError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
        if not isinstance(read, dict | None):
            raise ConfigError(f"{file} must hold parameters by name, such as 'ratio: 0.5'")
        given |= {str(name): value for name, value in (read or {}).items()}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise ConfigError(f"--param {pair!r} is no key=value, such as ratio=0.5")
        try:
            given[name] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"--param {pair!r}: {value!r} is no YAML value") from error
    return given


def _told(checked: Checked, seed: int) -> dict[str, Any]:
    """Have a process with this hash seed run the policy, and return what it told."""
    asked = json.dumps({"name": checked.name, "params": checked.params}, default=str)
    env = {**os.environ, "PYTHONHASHSEED": str(seed)}
    # -P: the current directory goes to the end of the path, as here.
    command = [sys.executable, "-P", "-m", "pd_autoscaler.cli.policy_child"]
    try:
        ended = subprocess.run(  # noqa: S603  # This program's own.
            command,
            input=asked.encode(),
            capture_output=True,
            env=env,
            timeout=CHILD_DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"unanswered": f"its process did not end within {CHILD_DEADLINE_S:g} s"}
    try:
        said = json.loads(ended.stdout)
    except ValueError:
        last = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return {"unanswered": f"its process ended with code {ended.returncode}: {last}"}
    assert isinstance(said, dict)  # noqa: S101  # What our own child writes.
    return said


def _differences(told: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for seed, said in zip(HASH_SEEDS, told, strict=True):
        if "unanswered" in said:
            yield f"with PYTHONHASHSEED={seed}: {said['unanswered']}"
            return
    for (where, first), (_, second) in zip(*(said["decisions"] for said in told), strict=True):
        if first != second:
            yield f"{where}: {first} with PYTHONHASHSEED=1, {second} with PYTHONHASHSEED=2"
            return


def _reached(told: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    reached = sorted({name for said in told for name in said.get("reached", ())})
    for name in reached:
        yield f"called {name} while it decided; what it needs must come with the snapshot"
