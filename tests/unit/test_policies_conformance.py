"""The kit finds the policies that do not conform, and a good one comes to rest where it should."""

import math
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import count
from typing import Any, cast

import pytest

from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.link import LinkState
from pd_autoscaler.model.node import NodeState
from pd_autoscaler.model.signals import NodeSignals, Signal
from pd_autoscaler.model.snapshot import Bottleneck, Limits, Snapshot
from pd_autoscaler.policies.awkward import awkward_snapshots
from pd_autoscaler.policies.conformance import checks, does_not_flap, verdicts, violations
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


class Flipping:
    """Asks for what the rate of this cycle needs, to the node: what must not be shipped."""

    def decide(self, snapshot: Snapshot) -> Decision:
        rate = snapshot.prompt.arrival_rate
        if rate is None or not math.isfinite(rate.value):
            return Hold(HoldReason.NO_METRICS)
        return Target(max(1, math.ceil(min(rate.value, 1e6) / 4)), snapshot.target.decoder)


class Creeping:
    """Adds a decoder every fifty cycles, whatever is seen."""

    def __init__(self) -> None:
        self._cycles = 0

    def decide(self, snapshot: Snapshot) -> Decision:
        self._cycles += 1
        grown = snapshot.target.decoder + (self._cycles % 50 == 0)
        return Target(snapshot.target.prompt, grown)


def numbered() -> Callable[[], Policy]:
    """Make policies each of which wants another count, for ever: a counter of the module's own."""
    numbers = count()

    def made() -> Policy:
        wanted = Target(1 + next(numbers) % 7, 1)
        return Written(lambda _: wanted)

    return made


class Named(Target):
    """A target with a name of its own."""


def standing(snapshot: Snapshot) -> Target:
    return snapshot.target


def odd(snapshot: Snapshot) -> Decision:
    return snapshot.target.prompt  # type: ignore[return-value]  # What the kit must find.


def halved(snapshot: Snapshot) -> Decision:
    return Target(snapshot.target.prompt / 2, 1)  # type: ignore[arg-type]  # As above.


def nowhere(_: Snapshot) -> Decision:
    return Hold("tired")  # type: ignore[arg-type]  # As above.


def asserting(snapshot: Snapshot) -> Decision:
    assert snapshot.prompt.queue is not None
    return snapshot.target


def exiting(snapshot: Snapshot) -> Decision:
    if not snapshot.capacity:
        sys.exit("no capacity")
    return snapshot.target


def sized_by_demand(snapshot: Snapshot) -> Decision:
    demand = snapshot.demand.requests_per_s
    return snapshot.target if demand is None else Target(max(1, int(demand.value) // 4), 1)


def stateful_time() -> Policy:
    """Make a policy that takes two snapshots never to be of one moment."""
    seen_s: list[float] = []

    def decide(snapshot: Snapshot) -> Decision:
        seen_s.append(snapshot.now_s)
        if len(seen_s) > 1:
            1 / (seen_s[-1] - seen_s[-2])
        return snapshot.target

    return Written(decide)


def clearing(snapshot: Snapshot) -> Decision:
    cast("dict[str, NodeSignals]", snapshot.node_signals).clear()
    return snapshot.target


def unwritten(snapshot: Snapshot) -> Decision:
    return replace(snapshot.target, why=snapshot.attribution)  # type: ignore[arg-type]  # As above.


def named(snapshot: Snapshot) -> Decision:
    return Named(snapshot.target.prompt, snapshot.target.decoder)


def of(decide: Callable[[Snapshot], Decision]) -> Callable[[], Policy]:
    return lambda: Written(decide)


@pytest.mark.parametrize(
    ("factory", "check", "finding"),
    [
        (of(odd), "answers", "answered a int, neither Target nor Hold"),
        (of(halved), "answers", "counts are not whole"),
        (of(nowhere), "answers", "held for 'tired', no HoldReason"),
        (of(asserting), "answers", "blind, at first sight: raised AssertionError"),
        (of(exiting), "answers", "nothing is said of capacity, at first sight: raised SystemExit"),
        (of(sized_by_demand), "answers", "demand requests_per_s is no number, at first sight"),
        (of(lambda s: Target(s.target.prompt - 9, 1)), "answers", "asked for -"),
        (stateful_time, "answers", "shown again: raised ZeroDivisionError"),
        (of(clearing), "spares the snapshot", "usual: it changed the snapshot's node_signals"),
        (of(unwritten), "can be stored", "usual: its reason is Attribution("),
        (of(named), "can be stored", "a Named cannot be stored"),
        (numbered(), "repeats itself", "empty: first "),
        (Creeping, "comes to rest", "still 2 moves in 100 cycles"),
        (Flipping, "does not flap", "the prompt target turned "),
    ],
)
def test_a_policy_that_breaks_one_promise_is_found_by_its_check_alone(
    factory: Callable[[], Policy], check: str, finding: str
) -> None:
    found = violations(factory)

    assert {violation.partition(": ")[0] for violation in found} == {check}
    assert any(finding in violation for violation in found)


def test_a_policy_that_raises_in_closed_loop_alone_is_found_with_its_cycle() -> None:
    def decide(snapshot: Snapshot) -> Decision:
        assert snapshot.prompt.serving < 12
        return Target(snapshot.target.prompt + 1, 1)

    [found, *_] = violations(of(decide))

    assert "under a step of load, cycle" in found
    assert "raised AssertionError" in found


def test_every_check_says_what_it_promises() -> None:
    told = {verdict.check: verdict.promise for verdict in verdicts(queue_pressure)}

    assert list(told) == list(checks())
    assert all(promise.endswith(".") for promise in told.values())


def test_whoever_does_not_answer_is_asked_nothing_else() -> None:
    assert [verdict.check for verdict in verdicts(of(odd))] == ["answers"]


def test_a_load_that_ripples_is_no_reason_to_move_for_those_that_are_shipped() -> None:
    for factory in (queue_pressure, fixed_ratio):
        assert list(does_not_flap(factory)) == []


@pytest.mark.parametrize(("every_s", "found"), [(720, 0), (600, 3)])
def test_five_turns_an_hour_are_allowed_and_six_are_not(every_s: float, found: int) -> None:
    def decide(snapshot: Snapshot) -> Decision:
        return Target(4, 2 + int(snapshot.now_s // every_s) % 2)

    # Once for each of the loads.
    assert len(list(does_not_flap(of(decide)))) == found


def test_every_signal_of_the_model_is_flooded_and_is_left_out_once() -> None:
    shown = awkward_snapshots()
    flooded = shown["every signal nan"]

    roles_and_demand = (flooded.prompt, flooded.decoder, flooded.demand)
    parts: list[Any] = [*roles_and_demand, *flooded.node_signals.values()]
    for part in parts:
        for field in fields(part):
            value = getattr(part, field.name)
            if field.type == Signal | None:
                assert math.isnan(value.value), field.name
                assert any(f"{field.name} is unknown" in name for name in shown)
    for field in fields(NodeSignals):
        is_left_out = f"one node's {field.name} is unknown" in shown
        assert is_left_out is (field.type == Signal | None), field.name
    for known in flooded.capacity:
        numbers = (known.prefill_tokens_per_s, known.step_base_s, known.error)
        assert all(number is not None and math.isnan(number) for number in numbers)


def test_every_state_of_the_model_is_shown() -> None:
    shown = awkward_snapshots()

    assert {s.attribution.bottleneck for s in shown.values()} == set(Bottleneck)
    assert {n.state for s in shown.values() for n in s.nodes} == set(NodeState)
    assert {state for s in shown.values() for state in s.links} == set(LinkState)


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
