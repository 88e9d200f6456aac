"""kpa: Knative's rule, by the worked examples of its own tests."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.signals import Signal
from pd_autoscaler.policies.kpa import Kpa, KpaParams
from pd_autoscaler.policies.kpa_rule import Answer, Autoscaler, Rule
from tests.support.moments import CAPACITY, Told, moment


def autoscaler(**settings: float) -> Autoscaler:
    usual = {
        "stable_s": 60.0,
        "panic_s": 6.0,
        "panic_threshold": 2.0,
        "up_rate_max": 1000.0,
        "down_rate_max": 2.0,
        "down_delay_s": 0.0,
    }
    return Autoscaler(Rule(**(usual | settings)))


def counts(
    scaler: Autoscaler, moments: Sequence[tuple[float, float | None, int]], *, target: float = 10.0
) -> list[int | None]:
    """Return what is wanted at each moment: its second, the concurrency, and nodes that serve."""
    answers = [
        scaler.scaled(concurrency, ready=ready, target=target, now_s=now_s)
        for now_s, concurrency, ready in moments
    ]
    return [None if answer is None else answer.count for answer in answers]


def answered(scaler: Autoscaler, now_s: float, concurrency: float, ready: int) -> Answer:
    answer = scaler.scaled(concurrency, ready=ready, target=1.0, now_s=now_s)
    assert answer is not None
    return answer


def test_the_mean_over_the_stable_window_is_what_is_served() -> None:
    # TestAutoscalerStableModeIncreaseWithConcurrencyDefault and …StableModeDecrease.
    assert counts(autoscaler(), [(0, 50, 5)]) == [5]
    assert counts(autoscaler(), [(0, 100, 8), (60, 50, 8)]) == [10, 5]
    # Two samples that count alike.
    assert counts(autoscaler(), [(0, 40, 5), (30, 60, 5), (59, 80, 5)]) == [4, 5, 6]


def test_a_burst_begins_a_panic_at_twice_what_serves() -> None:
    # Of 10 nodes 19 are no panic, and what is wanted is the mean of both samples.
    calm, panicking = autoscaler(), autoscaler()
    assert answered(calm, 0, 3, 10).count == 5
    assert answered(panicking, 0, 3, 10).count == 5

    below = answered(calm, 30, 19, 10)
    at = answered(panicking, 30, 20, 10)

    assert (below.count, below.is_panicking) == (11, False)
    assert (at.count, at.is_panicking) == (20, True)


def test_a_panic_ends_when_a_stable_window_has_passed_without_a_burst() -> None:
    # As TestAutoscalerUnpanicAfterSlowIncrease: from 10 to 25 nodes at once, then a slow increase.
    scaler = autoscaler()
    seen = [
        (answer.count, answer.is_panicking)
        for now_s, concurrency, ready in ((0, 25, 10), (30, 41, 40), (60, 20, 55), (61, 20, 55))
        for answer in [answered(scaler, now_s, concurrency, ready)]
    ]

    assert seen == [(25, True), (41, True), (41, True), (27, False)]


def test_a_burst_during_a_panic_extends_it() -> None:
    # As TestAutoscalerExtendPanicWindow.
    scaler = autoscaler()
    first = answered(scaler, 0, 25, 10)
    again = answered(scaler, 30, 80, 40)

    assert (first.count, again.count) == (25, 80)
    assert scaler.panicked_at_s == 30


def test_a_panic_never_lowers_the_count() -> None:
    scaler = autoscaler()

    assert counts(scaler, [(0, 100, 2), (10, 0, 2), (20, 0, 10), (60, 0, 10)]) == [10, 10, 10, 10]


def test_in_a_panic_the_larger_of_both_windows_counts() -> None:
    # TestAutoscalerScale, AutoscalerPanicStableLargerThanPanic and …LessThanPanic.
    larger, less = autoscaler(), autoscaler()
    for scaler in (larger, less):
        scaler.panicked_at_s, scaler.panic_count = 0.0, 5

    assert counts(larger, [(0, 70, 5), (10, 30, 5)], target=1.0) == [70, 70]
    assert counts(less, [(0, 10, 5), (10, 30, 5)], target=1.0) == [10, 30]


def test_rates_are_bounded_by_what_serves_and_always_let_one_node_move() -> None:
    # TestAutoscalerScale, …IncreaseWithSmallScaleUpRate and …DecreaseWithSmallScaleDownRate.
    assert counts(autoscaler(up_rate_max=1.1), [(0, 3, 2)], target=1.0) == [3]
    assert counts(autoscaler(down_rate_max=1.1), [(0, 1, 100)]) == [90]
    assert counts(autoscaler(), [(0, 0, 9)]) == [4]
    assert counts(autoscaler(up_rate_max=3), [(0, 999, 2)]) == [6]


def test_a_fleet_of_several_nodes_begins_in_panic_and_one_node_does_not() -> None:
    # TestStartInPanicMode: nothing goes before a stable window has passed.
    several, one = autoscaler(), autoscaler()
    several.began(ready=4, now_s=0)
    one.began(ready=1, now_s=0)

    assert counts(several, [(0, 5, 4), (30, 5, 4), (60, 5, 4), (61, 5, 4)]) == [4, 4, 4, 2]
    assert counts(one, [(0, 5, 1)]) == [1]


def test_no_data_is_no_decision_and_old_samples_are_none() -> None:
    scaler = autoscaler()

    assert counts(scaler, [(0, None, 1), (5, 20, 1), (64, None, 1), (65, None, 1)]) == [
        None,
        2,
        2,
        None,
    ]


def test_with_a_delay_the_most_of_its_time_is_wanted() -> None:
    # As TestAutoscalerScaleDownDelay.
    scaler = autoscaler(down_delay_s=300.0, panic_threshold=100.0, down_rate_max=10.0)
    moments: list[tuple[float, float | None, int]] = [(0, 40, 1), (100, 20, 4), (299, 0, 4)]

    assert counts(scaler, [*moments, (300, 0, 4), (401, 0, 2)]) == [4, 4, 4, 2, 0]


@given(st.lists(st.floats(min_value=0, max_value=1e300), min_size=1, max_size=30))
def test_no_answer_leaves_the_rates(values: list[float]) -> None:
    scaler = autoscaler(up_rate_max=3.0)
    for cycle, value in enumerate(values):
        count = answered(scaler, 100.0 * cycle, value, 6).count

        assert 3 <= count <= 18


def load(**values: float) -> Told:
    return {name: Signal(value, 0.0) for name, value in values.items()}


def decided(
    prompts: Sequence[Told | None],
    decoders: Sequence[Told | None],
    params: dict[str, Any] | None = None,
    **shown: Any,
) -> Decision:
    return Kpa(KpaParams.model_validate(params or {})).decide(moment(prompts, decoders, **shown))


def test_what_prompt_nodes_run_and_queue_is_their_concurrency() -> None:
    decision = decided(
        [load(running=1, queue=3)], [load(running=50, queue=0)], {"decoder_concurrency": 100}
    )

    # 4 over 0.7 are 6 nodes; 50 over 70 are one.
    assert decision == Target(6, 1)
    assert isinstance(decision, Target)
    assert decision.why == (
        "prompt: concurrency 4 over 60 s, 4 of late, 0.7 a node aimed at (70% of 1 at once): "
        "6 wanted, in panic; decoder: concurrency 50 over 60 s, 50 of late, 70 a node aimed at "
        "(70% of 100 at once): 1 wanted, stable"
    )


def test_decoders_are_counted_at_the_speed_of_a_full_batch() -> None:
    # 4200 tokens a second at 50 ms are 210 requests, of which each should run 70.
    decision = decided(
        [load(running=0, queue=0)],
        [load(token_rate=1400, queue=0, running=20)] * 3,
    )

    assert isinstance(decision, Target)
    assert decision.decoder == 3
    assert "decoder: concurrency 210" in decision.why
    assert "70 a node aimed at (70% of 100 at once, bounded by 50 ms a token)" in decision.why


def test_who_tells_speaks_for_those_that_do_not() -> None:
    decision = decided([load(running=1, queue=2), None, None], [load(token_rate=100, queue=0)])

    assert isinstance(decision, Target)
    assert "prompt: concurrency 9 over" in decision.why


def test_a_role_of_which_nothing_is_known_keeps_its_count() -> None:
    decision = decided([load(running=1, queue=3)], [load(token_rate=900, queue=0)] * 2, capacity=())

    assert decision == Target(6, 2)
    assert isinstance(decision, Target)
    assert "decoder: stays at 2, as what a decoder can do is not learnt" in decision.why


def test_a_fleet_of_which_nothing_is_known_is_held() -> None:
    held = decided([None], [None])

    assert isinstance(held, Hold)
    assert held.reason is HoldReason.NO_METRICS


def test_lengths_that_are_unknown_for_want_of_requests_are_those_before() -> None:
    policy = Kpa(KpaParams(down_delay_s=0))
    busy = moment([load(running=0, queue=0)], [load(token_rate=5000, queue=0)], now_s=0)
    # A step that hangs on the context needs the lengths.
    idle = moment(
        [load(running=0, queue=0)],
        [load(token_rate=0, queue=0)] * 4,
        now_s=200,
        demand=type(busy.demand)(),
        capacity=CAPACITY,
    )
    policy.decide(busy)

    assert policy.decide(idle) == Target(1, 2)


def test_a_delay_that_does_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="would do nothing"):
        KpaParams(down_delay_s=3)
