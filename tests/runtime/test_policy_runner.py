"""The policy runner: whatever a plug-in does, the loop gets a decision."""

import threading
from typing import Any

import pytest

from pd_autoscaler.adapters.workers import ThreadWorkers
from pd_autoscaler.errors import OutcomeUnknownError, TransientError
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.contract import Policy
from pd_autoscaler.ports import Workers
from pd_autoscaler.runtime.policy_runner import PolicyRunner
from tests.support.ports_fakes import InlineWorkers, ToldPolicy, virtually

SNAPSHOT = Snapshot(now_s=0.0, now_unix_s=0.0, target=Target(1, 1))


class Eager(Target):
    """A target of a class that nobody else knows."""


def nonsense() -> list[Any]:
    untold: Any = "because"
    return [
        None,
        (3, 4),
        {"prompt": 1},
        Target,
        Target(-1, 2),
        Target(True, 2),
        Target(2.0, 2),  # type: ignore[arg-type]  # A policy may return anything.
        Target(10**400, 2),
        Target(1, 1, why=None),  # type: ignore[arg-type]  # As above.
        Eager(1, 1),
        Hold(untold),
        Hold(HoldReason.NO_METRICS, None),  # type: ignore[arg-type]  # As above.
    ]


def runner_of(policy: Policy, workers: Workers | None = None) -> PolicyRunner:
    return PolicyRunner(policy, workers or InlineWorkers(), deadline_s=2.0)


@pytest.mark.parametrize("answer", [Target(2, 3, why="load"), Hold(HoldReason.NO_METRICS, "none")])
def test_a_decision_is_returned_as_it_is(answer: Decision) -> None:
    @virtually
    async def test() -> None:
        policy = ToldPolicy()
        policy.answer = answer
        assert await runner_of(policy).decide(SNAPSHOT) is answer

    test()


@pytest.mark.parametrize("answer", nonsense(), ids=lambda a: type(a).__name__)
def test_nonsense_is_a_hold_that_says_what_came(answer: object) -> None:
    @virtually
    async def test() -> None:
        policy = ToldPolicy()
        policy.answer = answer
        decision = await runner_of(policy).decide(SNAPSHOT)
        assert isinstance(decision, Hold)
        assert decision.reason is HoldReason.POLICY_FAILED
        assert decision.detail.startswith("it returned")

    test()


@pytest.mark.parametrize(
    "error", [ValueError("bad"), StopIteration(), SystemExit(3), TransientError("no"), KeyError()]
)
async def test_an_exception_is_a_hold_even_one_that_means_to_end_the_process(
    error: BaseException,
) -> None:
    policy = ToldPolicy()
    policy.answer = error
    for workers in (ThreadWorkers(slots=1), InlineWorkers()):
        runner = runner_of(policy, workers)
        decision = await runner.decide(SNAPSHOT)
        assert isinstance(decision, Hold)
        assert decision.reason is HoldReason.POLICY_FAILED
        assert not runner.is_hung


async def test_while_a_call_hangs_no_second_one_begins_and_it_recovers_by_itself() -> None:
    inside, leave, began = threading.Event(), threading.Event(), list[int]()

    class Slow:
        def decide(self, snapshot: Snapshot) -> Decision:
            began.append(1)
            inside.set()
            if len(began) == 1:
                leave.wait(60)
            return Target(1, 1)

    workers = ThreadWorkers(slots=1)
    runner = PolicyRunner(Slow(), workers, deadline_s=0.05)
    try:
        decision: Decision = await runner.decide(SNAPSHOT)
        while not inside.is_set():  # It had not begun by its deadline: a busy machine.
            decision = await runner.decide(SNAPSHOT)
        assert isinstance(decision, Hold)
        assert runner.is_hung
        for _ in range(3):
            decision = await runner.decide(SNAPSHOT)
            assert isinstance(decision, Hold)
            assert "not returned" in decision.detail
        assert len(began) == 1
    finally:
        leave.set()
    while isinstance(decision, Hold):
        decision = await runner.decide(SNAPSHOT)
    assert not runner.is_hung


@virtually
async def test_a_call_that_is_merely_under_way_is_not_hung() -> None:
    seen: list[bool] = []

    class Asking:
        def decide(self, snapshot: Snapshot) -> Decision:
            seen.append(runner.is_hung)
            return Target(1, 1)

    runner = runner_of(Asking())
    await runner.decide(SNAPSHOT)
    assert seen == [False]


@virtually
async def test_a_failure_is_logged_when_its_kind_changes_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy, workers = ToldPolicy(), InlineWorkers()
    runner = runner_of(policy, workers)
    with caplog.at_level("INFO", logger="pd_autoscaler.runtime.policy_runner"):
        for answer in (ValueError(1), ValueError(2), ValueError(3), None, None, Target(1, 1)):
            policy.answer = answer
            await runner.decide(SNAPSHOT)
        workers.fault = OutcomeUnknownError("late")
        for _ in range(3):
            await runner.decide(SNAPSHOT)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR", "INFO", "ERROR"]
