"""proportional, decision by decision."""

from typing import Any

import pytest
from pydantic import ValidationError

from pd_autoscaler.model.capacity import Demand
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import Signal
from pd_autoscaler.model.snapshot import Bottleneck, Limits, Snapshot
from pd_autoscaler.policies.proportional import Proportional, ProportionalParams
from tests.support.moments import loads, moment

SET = {"tokens_per_s": 1000.0, "ratio": 0.5}
"""A stress-tested target and ratio, as the rule was published with."""


def shown(
    rate: float | None,
    prompt: int = 2,
    decoder: int = 4,
    *,
    ttft_s: float | None = 0.2,
    tpot_s: float | None = 0.03,
    **more: Any,
) -> Snapshot:
    """Show a fleet by the tokens that its decoders generate a second."""

    def signal(value: float | None) -> Signal | None:
        return None if value is None else Signal(value, 0.0)

    return moment(
        loads(*[0.0] * prompt, name="queue"),
        loads(*[0.0] * decoder, name="queue"),
        roles=(
            {"ttft_p95_s": signal(ttft_s), "token_rate": Signal(5.0 * (rate or 0), 0.0)},
            {"tpot_p95_s": signal(tpot_s), "token_rate": signal(rate)},
        ),
        **more,
    )


def decided(snapshot: Snapshot, **params: float | None) -> Decision:
    return Proportional(ProportionalParams.model_validate(SET | params)).decide(snapshot)


def test_decoders_follow_the_tokens_and_prompt_nodes_the_ratio() -> None:
    decision = decided(shown(7200))

    assert decision == Target(4, 8)
    assert isinstance(decision, Target)
    assert decision.why == (
        "7200 tokens/s at 1000 a decoder are 7.2 of 4 decoders; 4P:8D at 0.5 prompt nodes a decoder"
    )


@pytest.mark.parametrize(
    ("rate", "decoders"), [(4400, 4), (4401, 5), (3600, 4), (3000, 3), (900, 1)]
)
def test_within_a_tenth_of_what_there_is_nothing_moves(rate: float, decoders: int) -> None:
    assert decided(shown(rate)).decoder == decoders  # type: ignore[union-attr]  # No hold.


def test_a_fleet_off_its_ratio_is_brought_to_it() -> None:
    assert decided(shown(4000, prompt=1)) == Target(2, 4)
    assert decided(shown(4000, prompt=3)) == Target(2, 4)


@pytest.mark.parametrize(
    ("ttft_s", "tpot_s", "target"),
    [
        (1.1, 0.03, Target(6, 11)),
        (1.3, 0.03, Target(6, 12)),
        (0.2, 0.055, Target(6, 11)),
        (0.2, 0.07, Target(6, 12)),
        (1.1, 0.07, Target(6, 12)),
        (1.0, 0.05, Target(5, 10)),
    ],
)
def test_a_latency_above_its_bound_adds_a_tenth_and_a_severe_one_a_fifth(
    ttft_s: float, tpot_s: float, target: Target
) -> None:
    assert decided(shown(10000, 5, 10, ttft_s=ttft_s, tpot_s=tpot_s)) == target


def test_a_step_waits_for_nodes_that_are_coming_and_tokens_do_not() -> None:
    coming = [("new", Role.PROMPT), ("other", Role.DECODER)]
    step = decided(shown(10000, 5, 10, ttft_s=2, coming=coming))
    tokens = decided(shown(14000, 5, 10, coming=coming))

    assert step == Target(5, 10)
    assert isinstance(step, Target)
    assert "TTFT p95 2 s above 1 s: +20%" in step.why
    assert "prompt stays at 5: 1 prompt node coming" in step.why
    assert tokens == Target(7, 14)


def test_nothing_goes_while_a_latency_is_above_its_bound() -> None:
    coming = [("new", Role.PROMPT), ("other", Role.DECODER)]
    assert decided(shown(1000, 3, 4, ttft_s=1.1, coming=coming)) == Target(3, 4)
    assert decided(shown(1000, 3, 4, coming=())) == Target(1, 1)


def test_links_that_hold_requests_up_call_for_no_step() -> None:
    held = decided(shown(10000, 5, 10, ttft_s=2, bottleneck=Bottleneck.LINK))

    assert isinstance(held, Hold)
    assert held.reason is HoldReason.BOTTLENECK_ELSEWHERE


def test_cooldowns_are_of_the_target_and_longer_on_the_way_in() -> None:
    policy = Proportional(ProportionalParams.model_validate(SET | {"settle_s": 0.0}))
    seen = [
        policy.decide(shown(rate, target.prompt, target.decoder, now_s=now_s))
        for now_s, target, rate in (
            (0, Target(2, 4), 6000),
            (10, Target(3, 6), 8000),
            (189, Target(3, 6), 8000),
            (190, Target(3, 6), 8000),
            (200, Target(4, 8), 4000),
            (799, Target(4, 8), 4000),
            (800, Target(4, 8), 4000),
        )
    ]

    assert seen == [
        Target(3, 6),
        Target(3, 6),
        Target(3, 6),
        Target(4, 8),
        Target(4, 8),
        Target(4, 8),
        Target(2, 4),
    ]
    assert isinstance(seen[1], Target)
    assert "decoder stays at 6: the target moved 0 s ago, of 180 s to wait" in seen[1].why


def test_a_count_that_was_too_small_for_these_tokens_is_not_gone_back_to() -> None:
    policy = Proportional(
        ProportionalParams.model_validate(
            SET | {"settle_s": 0.0, "cooldown_in_s": 0.0, "cooldown_out_s": 0.0}
        )
    )
    policy.decide(shown(4000, 2, 4, ttft_s=1.1))

    after = policy.decide(shown(4000, 3, 5, now_s=1600))

    # The five decoders were never short, the two prompt nodes were.
    assert after == Target(3, 4)
    assert isinstance(after, Target)
    assert "prompt stays at 3: 2 prompt would do 10000 tokens/s each, short at 10000" in after.why


def test_what_is_not_given_follows_from_learnt_capacity() -> None:
    # 2000 tokens/s of a full decoder are ten requests, of which a prompt node takes four.
    decision = decided(shown(2800, 1, 1), tokens_per_s=None, ratio=None)

    assert decision == Target(5, 2)
    assert isinstance(decision, Target)
    assert "at 1400 a decoder are 2 of 1" in decision.why
    assert "at 2.5 prompt nodes a decoder" in decision.why


def test_what_was_learnt_is_aimed_at_until_it_differs_by_theta() -> None:
    policy = Proportional(ProportionalParams(cooldown_out_s=0, cooldown_in_s=0, settle_s=0))

    def asked(input_len: float | None, now_s: float) -> Decision:
        told = Demand() if input_len is None else demand(input_len)
        return policy.decide(shown(2800, 5, 2, now_s=now_s, demand=told))

    def demand(input_len: float) -> Demand:
        return Demand(input_len=Signal(input_len, 0.0), output_len=Signal(200.0, 0.0))

    assert asked(1000, 0) == Target(5, 2)
    assert asked(1040, 10) == Target(5, 2)
    assert asked(None, 20) == Target(5, 2)
    assert asked(1500, 30) == Target(10, 3)


def test_without_target_ratio_and_capacity_it_is_held() -> None:
    held = decided(shown(2800, capacity=()), tokens_per_s=None)

    assert isinstance(held, Hold)
    assert held.reason is HoldReason.NO_METRICS
    assert "give tokens_per_s and ratio" in held.detail


def test_decoders_that_tell_speak_for_those_that_do_not() -> None:
    seen = moment(
        loads(0, name="queue"),
        [*loads(0, 0, name="queue"), None],
        roles=({}, {"token_rate": Signal(3000.0, 0.0, nodes=2)}),
    )

    decision = decided(seen)

    assert isinstance(decision, Target)
    assert "4500 tokens/s" in decision.why


def test_a_budget_that_is_too_small_is_split_at_the_ratio() -> None:
    assert decided(shown(90000, limits=Limits(nodes_max=12))) == Target(4, 8)


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"step": 0.3}, "must not be below step"),
        ({"cooldown_in_s": 60.0}, "sooner than they come back"),
    ],
)
def test_parameters_that_contradict_are_refused(params: dict[str, float], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        ProportionalParams.model_validate(params)
