"""Sizes of both roles: against numbers done by hand, and what must hold for any demand."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.core.queueing import wait_tail
from pd_autoscaler.core.sizing import (
    DecodeLoad,
    DecodeStep,
    PromptLoad,
    prompt_nodes,
    split,
    whole,
)
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.snapshot import Limits

# Llama-2-70B on eight H100 (Microsoft/splitwise-sim): 29.9 ms + 0.199 B + 1.79e-4 K.
STEP = DecodeStep(base_s=0.0299, per_request_s=0.000199, per_token_s=1.79e-7)
LOAD = PromptLoad(tokens_per_s=10_000.0, tokens=1000.0)


def prompts(load: PromptLoad, **changed: float) -> int:
    given = {"rate": 4000.0, "ttft_s": 1.0, "late_share": 0.01, "drain_s": 60.0} | changed
    return prompt_nodes(load, nodes_max=1000, **given)


def test_prompt_nodes_keep_all_but_a_few_waits_within_what_the_prompt_leaves() -> None:
    nodes = prompts(LOAD)

    # 2.5 nodes are busy, a prompt takes 0.25 s, 0.75 s are left.
    assert wait_tail(nodes, 2.5, wait_s=0.75, service_s=0.25) <= 0.01
    assert wait_tail(nodes - 1, 2.5, wait_s=0.75, service_s=0.25) > 0.01


def test_lengths_that_vary_more_need_more_prompt_nodes() -> None:
    assert prompts(LOAD._replace(length_variability=20.0)) > prompts(LOAD)


def test_a_prompt_that_alone_is_too_slow_does_not_ask_for_endless_nodes() -> None:
    assert prompts(LOAD._replace(tokens=12_000.0)) < 10


def test_prompts_that_are_late_by_their_length_are_counted() -> None:
    # Log-normal with a squared variation of 1.7: the median is 1.2 / sqrt(2.7) = 0.73 s.
    long = LOAD._replace(tokens=1.2 * 4000.0, length_variability=1.7)

    assert long.late_alone(rate=4000.0, ttft_s=1.0) == pytest.approx(0.376, abs=0.001)
    assert LOAD.late_alone(rate=4000.0, ttft_s=1000.0) == pytest.approx(0.0, abs=1e-6)
    equal = LOAD._replace(length_variability=0.0)
    assert equal.late_alone(rate=4000.0, ttft_s=0.2) == 1.0
    assert equal.late_alone(rate=4000.0, ttft_s=0.3) == 0.0


def test_a_backlog_is_worked_off_beside_the_demand() -> None:
    # 240,000 tokens in 60 s are one node's work.
    nodes = prompts(LOAD._replace(backlog=240_000.0 * 4))
    assert nodes == math.ceil(2.5 + 4)


@given(
    tokens=st.floats(min_value=0.0, max_value=1e6),
    more=st.floats(min_value=0.0, max_value=1e6),
    backlog=st.floats(min_value=0.0, max_value=1e6),
)
def test_more_demand_never_needs_fewer_prompt_nodes(
    tokens: float, more: float, backlog: float
) -> None:
    few, many = (
        prompts(LOAD._replace(tokens_per_s=of, backlog=backlog)) for of in (tokens, tokens + more)
    )
    assert 1 <= few <= many


def test_the_batch_within_a_step_is_the_largest() -> None:
    batch = STEP.batch_within(0.050, 1500.0)

    assert STEP.seconds(batch, 1500.0) == pytest.approx(0.050)
    assert batch == pytest.approx(0.0201 / (0.000199 + 1500 * 1.79e-7))
    assert STEP.batch_within(0.0299, 1500.0) == 0.0


def test_decoders_hold_what_is_running_or_what_is_on_its_way_whichever_is_more() -> None:
    load = DecodeLoad(held=100.0, waiting=5.0, step_s=0.040, tokens_per_s=2000.0)

    # Running in steps of 40 ms, 100 requests become 125 in steps of 50 ms.
    assert load.slots(0.050) == pytest.approx(125.0 + 5.0)
    assert load._replace(tokens_per_s=4000.0).slots(0.050) == pytest.approx(200.0)
    # Steps that are too long already do not shorten by sizing for shorter ones.
    assert load._replace(step_s=0.080).slots(0.050) == pytest.approx(105.0)


@pytest.mark.parametrize(
    ("need", "nodes"), [(0.0, 1), (2.0, 2), (2.0000000001, 2), (2.1, 3), (math.nan, 9), (1e308, 9)]
)
def test_needs_are_whole_nodes_within_their_bounds(need: float, nodes: int) -> None:
    assert whole(need, 9) == nodes


def test_a_full_budget_goes_where_least_is_served() -> None:
    limits = Limits(nodes_max=10)

    assert split(Target(30, 10), limits, Target(5, 5)) == Target(7, 3)
    assert split(Target(10, 30), limits, Target(5, 5)) == Target(3, 7)
    assert split(Target(30, 10), replace(limits, prompt_max=6), Target(5, 5)) == Target(6, 4)


def test_the_standing_split_is_kept_unless_another_serves_clearly_more() -> None:
    limits = Limits(nodes_max=20)

    assert split(Target(22, 20), limits, Target(10, 10)) == Target(10, 10)
    assert split(Target(36, 20), limits, Target(10, 10)) == Target(13, 7)


def test_limits_without_any_split_keep_what_stands() -> None:
    limits = Limits(nodes_max=2, prompt_min=2, decoder_min=2)
    assert split(Target(5, 5), limits, Target(2, 2)) == Target(2, 2)


@given(
    prompt=st.integers(1, 500),
    decoder=st.integers(1, 500),
    nodes=st.integers(2, 60),
    standing=st.integers(1, 59),
)
def test_a_shared_budget_is_all_used_and_leaves_no_role_out(
    prompt: int, decoder: int, nodes: int, standing: int
) -> None:
    before = Target(min(standing, nodes - 1), max(1, nodes - standing))
    shared = split(Target(prompt, decoder), Limits(nodes_max=nodes), before)

    assert shared.total == nodes
    assert min(shared.prompt, shared.decoder) >= 1
