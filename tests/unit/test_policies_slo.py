"""slo, moment by moment in closed loop and decision by decision."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import Signal
from pd_autoscaler.model.snapshot import Attribution, Bottleneck, LeadTime, Limits, Snapshot
from pd_autoscaler.policies.closed_loop import followed
from pd_autoscaler.policies.conformance import answers, verdict_of, violations
from pd_autoscaler.policies.fluid import PROMPT_REQUESTS_PER_S, FluidFleet
from pd_autoscaler.policies.queue_pressure import QueuePressure, QueuePressureParams
from pd_autoscaler.policies.registry import load_policy
from pd_autoscaler.policies.slo import Slo
from pd_autoscaler.policies.slo_params import SloParams

P, D = Role.PROMPT, Role.DECODER
SWITCHES = [name for name, kind in SloParams.__annotations__.items() if kind is bool]


def policy(**params: Any) -> Slo:
    """Return the policy without the margins that tuning moves: the fluid's rates are exact."""
    exact = {"rate_share": 1.0, "shortage_cost": 9.0, "headroom": 0.95}
    return Slo(SloParams(**{**exact, **params}))


def shown(requests_per_s: float = 10.0, target: Target | None = None, **changed: Any) -> Snapshot:
    fleet = FluidFleet(requests_per_s=requests_per_s, target=target or Target(4, 2))
    snapshot = fleet.snapshot()
    return replace(snapshot, **changed)


def decided(snapshot: Snapshot, **params: Any) -> Target:
    decision = policy(**params).decide(snapshot)
    assert isinstance(decision, Target), decision
    return decision


def held(decision: Decision) -> HoldReason:
    assert isinstance(decision, Hold), decision
    return decision.reason


def prompts_needed(decision: Decision) -> int:
    assert isinstance(decision, Target), decision
    return int(decision.why.split("prompt ")[1].split(":")[0])


def step(low: float, high: float, *, at_s: float) -> Callable[[float], float]:
    return lambda now_s: low if now_s < at_s else high


def ramp(low: float, high: float, *, from_s: float, for_s: float) -> Callable[[float], float]:
    return lambda now_s: low + (high - low) * min(1.0, max(0.0, (now_s - from_s) / for_s))


def moved(counts: list[int]) -> list[int]:
    return [after - before for before, after in pairwise(counts) if after != before]


# What every policy owes.


def test_slo_conforms() -> None:
    assert violations(lambda: load_policy("slo", {})) == ()


@pytest.mark.parametrize("switch", SWITCHES)
def test_slo_answers_without_any_one_of_its_ingredients(switch: str) -> None:
    verdict = verdict_of("answers", answers, lambda: policy(**{switch: False}))
    assert verdict.violations == ()


@pytest.mark.parametrize("params", [{"ttft_s": 0}, {"attainment": 1.0}, {"tpot": 0.05}])
def test_parameters_that_make_no_sense_are_refused(params: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SloParams(**params)  # type: ignore[arg-type]


# Moments in closed loop: nodes serve three cycles after they are asked for.


def test_a_step_of_load_is_answered_in_one_go() -> None:
    fleet = FluidFleet(requests_per_s=8.0, target=Target(3, 1))
    targets = followed(policy(), fleet, step(8.0, 24.0, at_s=600.0), 120)

    assert targets[59] == Target(3, 1)
    # Six nodes would be busy all the time; one or two more clear what has queued up meanwhile.
    assert 7 <= targets[60].prompt <= 8
    # Decoders follow the requests that reach them.
    assert targets[60].decoder == 1
    assert targets[-1].decoder == 3
    # The wave that has queued up may take a prompt node more, and decoders while it passes them.
    assert max(target.prompt for target in targets[60:]) <= targets[60].prompt + 1
    assert max(target.decoder for target in targets[60:]) <= 8


def test_a_ramp_is_met_before_it_is_felt() -> None:
    def queues(**params: Any) -> list[float]:
        fleet, asked = FluidFleet(requests_per_s=8.0, target=Target(3, 1)), policy(**params)
        load, found = ramp(8.0, 40.0, from_s=600.0, for_s=1200.0), list[float]()
        for cycle in range(200):
            fleet.requests_per_s = load(cycle * fleet.period_s)
            shown = fleet.snapshot()
            found.append(shown.prompt.queue.value if shown.prompt.queue else 0.0)
            fleet.advance(asked.decide(shown))
        return found

    assert max(queues()) == 0.0
    assert max(queues(looks_ahead=False, has_quantile=False, has_wait_tail=False)) > 10.0


def test_a_drop_is_followed_late_and_node_by_node() -> None:
    fleet = FluidFleet(requests_per_s=40.0, target=Target(13, 5))
    targets = followed(policy(step_down=1), fleet, step(40.0, 8.0, at_s=600.0), 180)

    prompt, decoder = ([target.of(role) for target in targets] for role in (P, D))
    # A node takes 30 s to serve, and 30 s pass before it is started.
    assert min(prompt[60:66]) == prompt[60]
    assert set(moved(prompt[60:])) == {-1}
    assert set(moved(decoder[66:])) == {-1}
    assert targets[-1] == Target(3, 1)


def test_a_burst_that_is_over_leaves_no_nodes_behind_for_long() -> None:
    def burst(now_s: float) -> float:
        return 40.0 if 600.0 <= now_s < 660.0 else 8.0

    targets = followed(policy(), FluidFleet(requests_per_s=8.0, target=Target(3, 1)), burst, 240)

    assert max(target.prompt for target in targets) > 8
    assert targets[-1].prompt <= 4


@given(low=st.floats(1.0, 40.0), more=st.floats(0.0, 40.0))
@settings(max_examples=25, deadline=None)
def test_more_demand_never_asks_for_fewer_nodes(low: float, more: float) -> None:
    few, many = (decided(shown(of, Target(1, 1))) for of in (low, low + more))

    assert few.prompt <= many.prompt
    assert few.decoder <= many.decoder


@given(st.lists(st.floats(0.0, 3.0), min_size=5, max_size=20))
@settings(max_examples=10, deadline=None)
def test_no_node_goes_while_demand_rises(steps: list[float]) -> None:
    fleet, asked, load = FluidFleet(requests_per_s=4.0, target=Target(2, 1)), policy(), 4.0
    for more in steps:
        load += more
        fleet.requests_per_s = load
        decision = asked.decide(fleet.snapshot())
        if isinstance(decision, Target):
            assert decision.prompt >= fleet.target.prompt
            assert decision.decoder >= fleet.target.decoder
        fleet.advance(decision)


# Decision by decision.


def test_the_reasons_are_numbers() -> None:
    why = decided(shown(24.0, Target(3, 1))).why

    assert "uncached tokens/s expected in 60 s (now 24,000" in why
    assert "4,000 a node" in why
    assert "requests at once expected in 60 s" in why
    assert "ms a token" in why


def test_nodes_on_their_way_are_not_asked_for_again() -> None:
    first = decided(shown(24.0, Target(3, 2)))
    fleet = FluidFleet(requests_per_s=24.0, target=Target(3, 2))
    fleet.advance(first)

    assert fleet.snapshot().coming(P) == first.prompt - 3
    again = policy().decide(fleet.snapshot())
    assert isinstance(again, Target)
    assert abs(again.prompt - first.prompt) <= 1


def test_longer_lead_times_ask_for_more_of_a_rising_demand() -> None:
    def at_the_end(lead_s: float) -> int:
        fleet, asked = FluidFleet(requests_per_s=8.0, target=Target(30, 20)), policy()
        load = ramp(8.0, 20.0, from_s=0.0, for_s=600.0)
        times = {"start": LeadTime(lead_s, lead_s, 9)}
        for cycle in range(60):
            fleet.requests_per_s = load(cycle * fleet.period_s)
            snapshot = replace(fleet.snapshot(), lead_times=times)
            told = asked.decide(snapshot)
            fleet.advance(Hold(HoldReason.PAUSED))
        return prompts_needed(told)

    assert at_the_end(300.0) > at_the_end(10.0)


def test_prompt_nodes_do_not_grow_where_decoders_hold_prompts_up() -> None:
    fault = Attribution(Bottleneck.DECODER, "KV is full")

    told = decided(shown(24.0, Target(3, 1), attribution=fault))
    assert told.prompt == 3
    assert told.decoder > 1
    assert "the decoder side is at fault" in told.why

    told_alone = policy().decide(shown(24.0, Target(3, 6), attribution=fault))
    assert held(told_alone) is HoldReason.BOTTLENECK_ELSEWHERE


def test_nothing_grows_where_links_are_at_fault() -> None:
    fault = Attribution(Bottleneck.LINK, "half of them are down")
    decision = policy().decide(shown(24.0, Target(3, 1), attribution=fault))
    assert held(decision) is HoldReason.BOTTLENECK_ELSEWHERE


def test_a_role_that_is_not_seen_holds_with_its_reason() -> None:
    assert held(policy().decide(shown(node_signals={}))) is HoldReason.NO_METRICS


def test_without_capacity_the_thresholds_decide() -> None:
    snapshot = shown(24.0, Target(3, 2), capacity=())
    by_thresholds = QueuePressure(QueuePressureParams()).decide(snapshot)
    decision = policy().decide(snapshot)

    assert type(decision) is type(by_thresholds)
    if isinstance(decision, Target):
        assert decision == by_thresholds
        assert decision.why.startswith("no capacity is learnt yet")


def test_only_the_role_that_is_not_learnt_is_left_to_thresholds() -> None:
    snapshot = shown(24.0, Target(3, 4))
    decoders = tuple(known for known in snapshot.capacity if known.role is D)
    told = decided(replace(snapshot, capacity=decoders))

    assert told.decoder == decided(snapshot).decoder
    assert told.prompt == 4
    assert "its capacity is not learnt yet" in told.why


def test_misses_that_last_are_believed_more_than_the_model() -> None:
    fleet, asked = FluidFleet(requests_per_s=8.0, target=Target(4, 2)), policy()
    prompts = []
    for _ in range(40):
        snapshot = fleet.snapshot()
        late = replace(
            snapshot.prompt, ttft_p95_s=Signal(3.0, 0.0), queue_time_p95_s=Signal(2.0, 0.0)
        )
        decision = asked.decide(replace(snapshot, prompt=late))
        fleet.advance(decision)
        prompts.append(fleet.target.prompt)

    assert prompts[:12] == [4] * 12
    assert prompts[13:16] == [5] * 3
    assert prompts[-1] > 5


def test_a_late_first_token_that_never_waited_calls_for_no_node() -> None:
    fleet, asked = FluidFleet(requests_per_s=8.0, target=Target(3, 2)), policy()
    for _ in range(40):
        snapshot = fleet.snapshot()
        late = replace(
            snapshot.prompt, ttft_p95_s=Signal(3.0, 0.0), queue_time_p95_s=Signal(0.05, 0.0)
        )
        fleet.advance(asked.decide(replace(snapshot, prompt=late)))

    assert fleet.target.prompt == 3


def test_a_correction_heals() -> None:
    def needed(after_s: float) -> int:
        asked = policy(heal_s=600.0)
        fleet = FluidFleet(requests_per_s=40.0, target=Target(20, 8))
        for _ in range(30):
            snapshot = fleet.snapshot()
            late = replace(
                snapshot.prompt, ttft_p95_s=Signal(3.0, 0.0), queue_time_p95_s=Signal(2.0, 0.0)
            )
            asked.decide(replace(snapshot, prompt=late))
            fleet.advance(Hold(HoldReason.PAUSED))
        snapshot = fleet.snapshot()
        told = asked.decide(replace(snapshot, now_s=snapshot.now_s + after_s))
        return prompts_needed(told)

    assert needed(0.0) > 20
    assert needed(7200.0) < 13


@pytest.mark.parametrize(
    ("target", "asked"), [(Target(2, 2), Target(7, 3)), (Target(3, 7), Target(4, 6))]
)
def test_a_budget_that_is_too_small_is_shared_and_traded_one_by_one(
    target: Target, asked: Target
) -> None:
    limits = Limits(nodes_max=10)
    fleet = FluidFleet(requests_per_s=90.0, target=target, limits=limits)
    for _ in range(3):
        fleet.advance(Hold(HoldReason.PAUSED))

    assert decided(replace(fleet.snapshot(), attribution=Attribution(Bottleneck.PROMPT))) == asked


def test_a_service_without_requests_keeps_the_least() -> None:
    fleet = FluidFleet(requests_per_s=0.0, target=Target(3, 3))
    targets = followed(policy(), fleet, lambda _: 0.0, 60)
    assert targets[-1] == Target(1, 1)


def test_decoders_are_asked_for_by_what_they_hold_and_kept_for_what_is_on_its_way() -> None:
    def after(**params: Any) -> int:
        fleet, asked = FluidFleet(requests_per_s=8.0, target=Target(20, 4)), policy(**params)
        for _ in range(120):
            shown = fleet.snapshot()
            # Four times the requests arrive; what is in batches is still that of the load before.
            demand = replace(shown.demand, requests_per_s=Signal(32.0, 0.0))
            arriving = replace(shown.prompt, arrival_rate=Signal(32.0, 0.0))
            fleet.advance(asked.decide(replace(shown, demand=demand, prompt=arriving)))
        return fleet.target.decoder

    fleet = FluidFleet(requests_per_s=8.0, target=Target(20, 1))
    fleet.requests_per_s = 32.0
    assert decided(fleet.snapshot()).decoder == 1
    assert (after(), after(has_offered_load=False)) == (4, 1)


def test_decoders_are_sized_by_the_kv_that_they_say_they_have() -> None:
    snapshot = shown(24.0, Target(7, 4))
    prompt, decoder = snapshot.capacity
    small = replace(decoder, kv_tokens=4_000.0)

    told = decided(replace(snapshot, capacity=(prompt, small)))

    assert "bound by KV" in told.why
    assert told.decoder > decided(snapshot).decoder


def test_prompt_nodes_are_sized_beyond_what_keeps_them_busy() -> None:
    busy = 20.0 / PROMPT_REQUESTS_PER_S
    assert decided(shown(20.0, Target(2, 3)), has_quantile=False).prompt > busy + 1


def test_a_step_that_no_batch_keeps_is_told_and_asks_for_no_endless_decoders() -> None:
    told = decided(shown(24.0, Target(7, 4)), tpot_s=0.015)

    assert told.decoder < 10
    assert "no batch keeps 0.015 s a token" in told.why
