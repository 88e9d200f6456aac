"""What of a policy's contract needs a process of its own to be seen, as a program.

`python -m pd_autoscaler.cli.policy_child` reads `{"name", "params"}` from its standard input and
writes `{"decisions": [[where, what], ...], "reached": [...]}`: what the policy decided with this
process's PYTHONHASHSEED, and what it reached for outside the snapshots while it did. Where it does
not answer at all there is `{"unanswered": "where and why"}` instead.
"""

import builtins
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from pd_autoscaler.model.decision import Decision
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.closed_loop import UnansweredError
from pd_autoscaler.policies.conformance import recorded
from pd_autoscaler.policies.contract import Policy
from pd_autoscaler.policies.registry import load_policy

_CLOCKS = (
    "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns",
    "process_time", "process_time_ns", "thread_time", "thread_time_ns", "sleep",
)  # fmt: skip
_NATIVE: dict[object, str] = {
    **{getattr(time, name): f"time.{name}" for name in _CLOCKS},
    os.urandom: "os.urandom",
    builtins.print: "print",
}
_OUTSIDE = frozenset(
    {"open", "os", "socket", "subprocess", "sqlite3", "urllib", "http", "shutil", "tempfile"}
)
"""First parts of the names of Python's audit events that tell of I/O (docs.python.org/3/library/
audit_events.html)."""


class Watch:
    """Notes every clock, draw and I/O that is reached for while a policy decides.

    Native calls are seen by the profiler whatever name they were imported under; files, sockets and
    processes by audit events. Other C extensions are not seen.
    """

    def __init__(self) -> None:
        self.reached: dict[str, None] = {}
        self._is_on = False
        sys.addaudithook(self._audit)

    def watched(self, decide: Callable[[Snapshot], Decision], snapshot: Snapshot) -> Decision:
        """Ask for a decision and note what is reached for meanwhile."""
        self._is_on = True
        sys.setprofile(self._profile)
        try:
            return decide(snapshot)
        finally:
            sys.setprofile(None)
            self._is_on = False

    def _audit(self, event: str, _: tuple[Any, ...]) -> None:
        if self._is_on and event.partition(".")[0] in _OUTSIDE:
            self.reached[f"{event} (I/O)"] = None

    def _profile(self, _: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and (name := _named(function)):
            self.reached[name] = None


def _named(function: Any) -> str:
    """Name a native function that no policy may call; empty for any other."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, random.SystemRandom) or owner is random._inst:  # noqa: SLF001  # The draws that nobody seeded.
        return f"random.{function.__name__}"
    if isinstance(owner, type) and owner.__module__ == "datetime":
        is_clock = function.__name__ in {"now", "utcnow", "today"}
        return f"datetime.{owner.__name__}.{function.__name__}" if is_clock else ""
    try:
        return _NATIVE.get(function, "")
    except TypeError:  # Bound to something that cannot be hashed: none of these is.
        return ""


class Watched:
    """A policy under a watch."""

    def __init__(self, policy: Policy, watch: Watch) -> None:
        self._policy = policy
        self._watch = watch

    def decide(self, snapshot: Snapshot) -> Decision:
        """Decide, watched."""
        return self._watch.watched(self._policy.decide, snapshot)


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Run the policy twice, the second time under the watch, and say what came of it."""

    def made() -> Policy:
        return load_policy(asked["name"], asked["params"])

    try:
        decided = recorded(made)
        watch = Watch()
        # Modules that are imported at the first call were read from files by the run before.
        recorded(lambda: Watched(made(), watch))
    except UnansweredError as error:
        return {"unanswered": str(error)}
    # As text: the reasons of a target belong to it but not to its equality.
    decisions = [[where, str(decision)] for where, decision in decided]
    return {"decisions": decisions, "reached": sorted(watch.reached)}


def main() -> None:
    """Read what is asked and write the answer; whatever a plug-in prints goes elsewhere."""
    out = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    asked = json.load(sys.stdin)
    if ":" in asked["name"]:
        sys.path.append(str(Path.cwd()))
    said = json.dumps(answer(asked))
    os.write(out, said.encode())


if __name__ == "__main__":
    main()
