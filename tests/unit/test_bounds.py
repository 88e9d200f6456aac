"""Bounds: a fluid's need on hand-made arrivals and a profile with round numbers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.engine_model.profile import DEMO
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.decision import Target
from pd_autoscaler.sim.bounds import (
    Need,
    decoder_batch,
    decoder_tokens_per_s,
    fixed_ratio_bound,
    fluid_bound,
    fluid_need,
    prompt_tokens_per_s,
    static_bound,
    static_split,
)
from pd_autoscaler.sim.records import Slo
from pd_autoscaler.sim.staffing import Staffing
from pd_autoscaler.workload.arrivals import Arrivals

SLO = Slo("round", 1.0, 0.050)
ROUND = replace(
    DEMO,
    prefill_points=((1, 0.001), (1000, 0.1), (2000, 0.25)),
    prefill_tokens_max=2000,
    decode_base_s=0.030,
    decode_per_request_s=0.001,
    decode_per_token_s=0.0,
    batch_max=40,
    kv_tokens=100_000,
)
"""10,000 prompt tokens a second at 1,000 of them; 20 requests of any length in 50 ms."""


def arrivals(
    at_s: list[float], input_tokens: int, output_tokens: int, cached_tokens: int = 0
) -> Arrivals:
    ones = np.ones(len(at_s), np.int64)
    return Arrivals(
        np.array(at_s),
        ones * input_tokens,
        ones * output_tokens,
        ones * cached_tokens,
    )


def need(prompt: list[float], decoder: list[float]) -> Need:
    return Need(60.0, np.array(prompt), np.array(decoder))


def test_a_prompt_node_is_rated_at_its_best_batch() -> None:
    assert prompt_tokens_per_s(ROUND) == pytest.approx(10_000)


def test_a_batch_is_as_large_as_the_step_time_allows() -> None:
    assert decoder_batch(ROUND, 1000.0, 0.050) == 20
    assert decoder_tokens_per_s(ROUND, 1000.0, 0.050) == pytest.approx(400)


def test_a_batch_is_no_larger_than_kv_or_the_engine_hold() -> None:
    assert decoder_batch(ROUND, 10_000.0, 0.050) == 10
    assert decoder_batch(ROUND, 10.0, 1.0) == 40


def test_a_batch_of_one_is_left_where_no_request_is_quick_enough() -> None:
    assert decoder_batch(ROUND, 1000.0, 0.001) == 1


@given(st.floats(1, 50_000), st.floats(0.02, 0.5))
def test_no_larger_batch_would_be_within_the_target(context: float, tpot_s: float) -> None:
    batch = decoder_batch(DEMO, context, tpot_s)
    larger = batch + 1
    assert (
        larger > DEMO.batch_max
        or larger * context > DEMO.kv_tokens
        or DEMO.decode_step_s(larger, round(larger * context)) > tpot_s
    )


def test_prompts_are_work_where_they_arrive_less_what_is_cached() -> None:
    found = fluid_need(arrivals([0.0] * 300 + [90.0] * 600, 2500, 1, cached_tokens=500), ROUND, SLO)
    assert found.prompt == pytest.approx([1.0, 2.0])


def test_long_prompts_are_more_work_than_as_many_tokens_of_short_ones() -> None:
    looking_back = replace(ROUND, prefill_attention_s=1e-7)
    found = fluid_need(
        arrivals([0.0] * 60, 3000, 1, cached_tokens=1000), looking_back, SLO, until_s=60.0
    )
    # 0.2 s for 2,000 tokens, and 1e-7 for each of 3,000^2 - 1,000^2.
    assert found.prompt == pytest.approx([0.2 + 0.8])
    assert prompt_tokens_per_s(looking_back, 1000.0) == pytest.approx(5_000)


def test_outputs_are_spread_over_the_time_that_they_take() -> None:
    # 2,400 tokens at 50 ms take 120 s: from the middle of the first slot into the third.
    found = fluid_need(arrivals([30.0] * 20, 100, 2400), ROUND, SLO, until_s=240.0)
    assert found.decoder == pytest.approx([0.5, 1.0, 0.5, 0.0])


def test_long_outputs_weigh_more_in_the_context_of_a_batch() -> None:
    mixed = Arrivals(
        np.array([0.0, 0.0]),
        np.array([10_000, 10_000]),
        np.array([100, 60_000]),
        np.array([0, 0]),
    )
    # Nearly all of the tokens are those of the long output: 40,000 in the cache, two to a node.
    found = fluid_need(mixed, ROUND, SLO, until_s=60.0)
    rate = decoder_tokens_per_s(ROUND, 39_666.0, SLO.tpot_s)
    assert rate == pytest.approx(2 / 0.032)
    assert found.decoder[0] == pytest.approx((1200 + 100) / (rate * 60))


@given(st.lists(st.floats(0, 600), min_size=1, max_size=50), st.integers(1, 5000))
def test_no_output_token_is_lost_or_made_twice(at_s: list[float], output: int) -> None:
    tail_s = output * SLO.tpot_s
    found = fluid_need(arrivals(sorted(at_s), 1, output), ROUND, SLO, until_s=600 + tail_s + 60)
    # The context is tiny next to the cache: the batch is 20 wherever KV allows it.
    if output <= 5000:
        assert found.decoder.sum() * 400 * 60 == pytest.approx(len(at_s) * output, rel=1e-6)


def test_the_bound_rounds_up_at_its_utilisation_and_keeps_a_node_of_each_role() -> None:
    found = fluid_bound(need([0.0, 1.6, 1.7], [0.0, 0.8, 4.0]))
    assert found == Staffing(60.0, (1, 2, 3), (1, 1, 5))
    assert found.node_hours == pytest.approx(13 / 60)


def test_a_fixed_ratio_costs_what_the_scarcer_role_makes_of_it() -> None:
    ratio, found = fixed_ratio_bound(need([4.0, 8.0], [8.0, 4.0]), utilisation=1.0)
    assert 0.5 <= ratio <= 2.0
    # Either ratio has one slot that is right; in the other both roles follow the fuller one.
    assert found.node_hours == pytest.approx(min(12 + 24, 24 + 12, 16 + 16) / 60)


@given(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50)), min_size=1, max_size=20),
    st.sampled_from((0.8, 1.0)),
)
def test_no_fixed_ratio_is_cheaper_than_the_bound(
    slots: list[tuple[float, float]], utilisation: float
) -> None:
    asked = need([p for p, _ in slots], [d for _, d in slots])
    least = fluid_bound(asked, utilisation=utilisation)
    _, found = fixed_ratio_bound(asked, utilisation=utilisation)
    for slot in range(len(slots)):
        assert found.prompt[slot] >= least.prompt[slot]
        assert found.decoder[slot] >= least.decoder[slot]


def test_a_static_fleet_is_sized_to_all_but_a_part_of_the_work() -> None:
    asked = need([1.0] * 99 + [10.0], [2.0] * 100)
    assert static_bound(asked, utilisation=1.0, covered=0.9) == Target(1, 2)
    assert static_bound(asked, utilisation=1.0, covered=1.0) == Target(10, 2)
    assert static_bound(asked, utilisation=0.8, covered=1.0) == Target(13, 3)


def test_a_static_split_leaves_the_least_work_undone() -> None:
    assert static_split(need([2.0, 2.0], [5.0, 6.0]), 8) == Target(2, 6)
    assert static_split(need([0.5], [0.5]), 8) == Target(4, 4)


def test_a_split_of_one_node_is_refused() -> None:
    with pytest.raises(ConfigError):
        static_split(need([1.0], [1.0]), 1)


def test_a_staffing_is_read_by_time_and_lasts_at_its_end() -> None:
    staffing = Staffing(60.0, (1, 2, 2), (3, 1, 1))
    assert [staffing.at(at_s) for at_s in (-5.0, 0.0, 59.9, 60.0, 1e6)] == [
        Target(1, 3),
        Target(1, 3),
        Target(1, 3),
        Target(2, 1),
        Target(2, 1),
    ]
    assert staffing.between(0.0, 60.0) == Target(2, 3)
    assert list(staffing.changes()) == [(0.0, Target(1, 3)), (60.0, Target(2, 1))]


def test_a_staffing_without_a_slot_for_each_role_is_refused() -> None:
    for prompt, decoder in (((), ()), ((1,), (1, 2)), ((1, -1), (1, 1))):
        with pytest.raises(ConfigError):
            Staffing(60.0, prompt, decoder)
