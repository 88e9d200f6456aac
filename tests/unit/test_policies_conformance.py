"""The shipped policies conform, and the kit finds those that do not."""

from collections.abc import Callable
from itertools import count

import pytest

from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.snapshot import Limits, Snapshot
from pd_autoscaler.policies.conformance import violations
from pd_autoscaler.policies.contract import Policy
from pd_autoscaler.policies.fixed_ratio import FixedRatio, FixedRatioParams
from pd_autoscaler.policies.fluid import FluidFleet
from pd_autoscaler.policies.queue_pressure import QueuePressure, QueuePressureParams


def queue_pressure() -> Policy:
    return QueuePressure(QueuePressureParams())


def fixed_ratio() -> Policy:
    return FixedRatio(FixedRatioParams())


class Written:
    """A policy that is one function."""

    def __init__(self, decide: Callable[[Snapshot], Decision]) -> None:
        self._decide = decide

    def decide(self, snapshot: Snapshot) -> Decision:
        return self._decide(snapshot)


@pytest.mark.parametrize("factory", [queue_pressure, fixed_ratio])
def test_a_shipped_policy_conforms(factory: Callable[[], Policy]) -> None:
    assert violations(factory) == ()


@pytest.mark.parametrize(
    "params",
    [
        {"settle_s": 0.0},
        {"kv_saturated": 0.6, "queue_saturated": 20.0, "queue_spare": 15.0, "queue_spare_down": 19},
        {"tpot_max_s": 0.03, "ttft_max_s": 0.3},
    ],
)
def test_queue_pressure_conforms_with_other_parameters(params: dict[str, float]) -> None:
    assert violations(lambda: QueuePressure(QueuePressureParams(**params))) == ()


@pytest.mark.parametrize("ratio", [0.2, 3.0])
def test_fixed_ratio_conforms_at_other_ratios(ratio: float) -> None:
    assert violations(lambda: FixedRatio(FixedRatioParams(ratio=ratio, settle_s=0.0))) == ()


def test_a_policy_that_always_holds_conforms() -> None:
    held = Hold(HoldReason.POLICY_HELD)

    assert violations(lambda: Written(lambda _: held)) == ()


def one_more(snapshot: Snapshot) -> Target:
    return Target(snapshot.serving(Role.PROMPT) + 1, snapshot.serving(Role.DECODER))


def by_queue_alone(snapshot: Snapshot) -> Target:
    """Add a node where a queue is, remove one where none is: what must not be shipped."""
    queue = snapshot.prompt.queue
    step = 1 if queue is not None and queue.value > 0 else -1
    return Target(max(1, snapshot.target.prompt + step), snapshot.target.decoder)


def odd(snapshot: Snapshot) -> Decision:
    return snapshot.target.prompt  # type: ignore[return-value]  # What the kit must find.


def halved(snapshot: Snapshot) -> Decision:
    return Target(snapshot.target.prompt / 2, 1)  # type: ignore[arg-type]  # As above.


def raising(snapshot: Snapshot) -> Decision:
    assert snapshot.prompt.queue is not None
    return Target(int(snapshot.prompt.queue.value), 1)


@pytest.mark.parametrize(
    ("decide", "finding"),
    [
        (by_queue_alone, "moves in 100 cycles"),
        (odd, "answered a int, neither Target nor Hold"),
        (halved, "counts are not whole"),
        (raising, "blind, at first sight: raised AssertionError"),
        (lambda s: Target(s.target.prompt - 9, 1), "asked for -"),
    ],
)
def test_a_policy_that_does_not_conform_is_found(
    decide: Callable[[Snapshot], Decision], finding: str
) -> None:
    assert any(finding in violation for violation in violations(lambda: Written(decide)))


def test_a_policy_that_answers_the_same_snapshots_differently_is_found() -> None:
    numbers = count()

    found = violations(lambda: Written(lambda s: Target(2 + next(numbers) % 7, 1)))

    assert any(violation.startswith("the same snapshots, cycle") for violation in found)


def run(policy: Policy, fleet: FluidFleet, cycles: int) -> list[Target]:
    targets: list[Target] = []
    for _ in range(cycles):
        fleet.advance(policy.decide(fleet.snapshot()))
        if not targets or targets[-1] != fleet.target:
            targets.append(fleet.target)
    return targets


@pytest.mark.parametrize("requests_per_s", [3.9, 7.5, 31])
@pytest.mark.parametrize("first", [Target(1, 1), Target(10, 3)])
@pytest.mark.parametrize("factory", [queue_pressure, fixed_ratio])
def test_a_constant_load_is_met_and_then_nothing_moves(
    factory: Callable[[], Policy], first: Target, requests_per_s: float
) -> None:
    limits = Limits(nodes_max=100)
    fleet = FluidFleet(requests_per_s=requests_per_s, target=first, limits=limits)
    policy = factory()
    run(policy, fleet, 250)

    assert len(run(policy, fleet, 100)) == 1
    settled = fleet.snapshot()
    assert settled.prompt.queue is not None
    assert settled.prompt.queue.value == 0
    assert settled.decoder.kv_used_mean is not None
    assert settled.decoder.kv_used_mean.value <= 0.80


@pytest.mark.parametrize("requests_per_s", [0, 5, 9, 20])
@pytest.mark.parametrize("first", [Target(1, 2), Target(2, 1), Target(1, 1)])
def test_three_nodes_of_three_settle(first: Target, requests_per_s: float) -> None:
    limits = Limits(nodes_max=3)
    fleet = FluidFleet(requests_per_s=requests_per_s, target=first, limits=limits)
    policy = queue_pressure()
    run(policy, fleet, 60)

    assert len(run(policy, fleet, 100)) == 1


def test_a_rebalance_moves_a_node_to_the_side_that_needs_it() -> None:
    fleet = FluidFleet(requests_per_s=6, target=Target(1, 2), limits=Limits(nodes_max=3))

    assert run(queue_pressure(), fleet, 100)[-1] == Target(2, 1)


def test_a_load_that_comes_and_goes_is_followed_both_ways() -> None:
    fleet, policy = FluidFleet(requests_per_s=2, target=Target(1, 1)), queue_pressure()
    run(policy, fleet, 60)
    low = fleet.target
    fleet.requests_per_s = 25
    run(policy, fleet, 200)
    high = fleet.target
    fleet.requests_per_s = 2
    run(policy, fleet, 300)

    assert high.prompt >= 7
    assert high.decoder >= 3
    assert fleet.target == low
