"""For every test: the event loop is never blocked, and drawn examples are the same in each run.

In every async test a blocking call of ours is an error. PD_AUTOSCALER_HYPOTHESIS=hunt draws new
examples instead (with --hypothesis-seed=N those of a seed).
"""

import asyncio
import inspect
import os
from collections.abc import Iterator

import blockbuster.blockbuster as guarding
import hypothesis
import pytest

from tests.support.request_fleets import fleet_of

# Said once, asyncio makes no loop of its own for whoever asks for one between two tests: nobody
# would close it, and a later test would fail for that.
asyncio.set_event_loop(None)

# No example has a deadline: how long one takes says more about the machine than about the code.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.register_profile("hunt", derandomize=False, deadline=None)
hypothesis.settings.load_profile(os.environ.get("PD_AUTOSCALER_HYPOTHESIS", "fixed"))


def pytest_collection_finish() -> None:
    """Compile before the first test: the first time on a machine takes longer than a test may."""
    fleet_of(1, 1).advance(1.0)


ALLOWED = (
    # Starting a process blocks until its exec has succeeded: asyncio has no other way.
    ("subprocess.py", "_execute_child"),
    # The log file of a node that starts or has ended, in the embedded cluster's own process: a few
    # bytes on a local disk, and no controller has that code.
    ("pd_autoscaler/embedded/child.py", "opened"),
    ("pd_autoscaler/embedded/child.py", "log_tail"),
    ("pd_autoscaler/embedded/supervisor.py", "_record"),
    # The folder of a cluster's logs, made and deleted once.
    ("pd_autoscaler/embedded/cluster.py", "running_cluster"),
    # A process's own numbers for its page: /proc is memory, not a disk.
    ("prometheus_client/process_collector.py", "collect"),
    # Which plug-in is the policy: read once, before the loop of a controller begins.
    ("pd_autoscaler/policies/registry.py", "load_spec"),
    # A log line: pytest's own handler writes to a file what a daemon writes to standard error.
    ("logging/__init__.py", "emit"),
    # Stand-in workers run each call where it stands, as a simulation does.
    ("tests/support/journals.py", "run"),
)
"""(file, function) below which a blocking call is no error, each with its reason."""


@pytest.fixture(autouse=True, name="blocking_calls")
def _blocking_calls(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[str]]:
    """Fail an async test in which code of this package blocks the loop, whoever catches that."""
    blocked: list[str] = []
    if not inspect.iscoroutinefunction(getattr(request.node, "function", None)):
        yield blocked
        return

    class Recorded(guarding.BlockingError):
        def __init__(self, func: str) -> None:
            super().__init__(func)
            blocked.append(func)

    monkeypatch.setattr(guarding, "BlockingError", Recorded)
    guard = guarding.BlockBuster("pd_autoscaler")
    for function in guard.functions.values():
        for file, name in ALLOWED:
            function.can_block_in(file, name)
    guard.activate()
    try:
        yield blocked
    finally:
        guard.deactivate()
    assert not blocked, f"the loop was blocked by {blocked}"
