"""Node rates: what a node can take, from learnt capacities and lengths."""

import math
from dataclasses import replace

import pytest

from pd_autoscaler.model.capacity import Demand, NodeCapacity
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import Signal
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.node_rates import (
    Lengths,
    full_batch,
    lengths,
    prompt_tokens_per_s,
    request_rates,
)
from tests.support.moments import CAPACITY, DEMAND, loads, moment

P, D = CAPACITY


def shown(*capacity: NodeCapacity, kv_used: float | None = None, held: float = 0.0) -> Snapshot:
    decoder = {} if kv_used is None else {"kv_used_mean": Signal(kv_used, 0.0)}
    return moment(
        loads(0, name="queue"),
        loads(0, 0, name="queue"),
        capacity=capacity or CAPACITY,
        demand=replace(DEMAND, decode_tokens=Signal(held, 0.0)),
        roles=({}, decoder),
    )


def test_long_outputs_weigh_by_the_time_that_they_are_in_a_batch() -> None:
    # Half of the requests end after 100 tokens, half after 300: a batch holds three of those to one
    # of these, 250 on average.
    demand = Demand(
        input_len=Signal(1000.0, 0.0),
        output_len=Signal(200.0, 0.0),
        output_len_sq=Signal(50000.0, 0.0),
        uncached_share=Signal(0.4, 0.0),
    )

    assert lengths(demand) == Lengths(computed=400.0, context=1125.0, output=200.0)
    assert lengths(Demand()) == Lengths()


def test_a_batch_is_full_at_the_step_time_or_where_its_kv_is() -> None:
    told = lengths(DEMAND)
    by_time = full_batch(shown(), told, tpot_s=0.050)
    # Two decoders hold 44000 tokens in 40 % of their KV: 55000 each, which are 50 requests.
    by_kv = full_batch(shown(kv_used=0.4, held=44000.0), told, tpot_s=0.050)

    assert by_time is not None
    assert [by_time.requests, by_time.step_s] == pytest.approx([100, 0.050])
    assert by_time.tokens_per_s == pytest.approx(2000)
    assert by_time.bound == "50 ms a token"
    assert by_kv is not None
    assert [by_kv.requests, by_kv.step_s] == pytest.approx([50, 0.039])
    assert by_kv.bound == "its KV"


def test_a_decoder_takes_one_request_however_long_it_is() -> None:
    one = full_batch(shown(), Lengths(context=1e6), tpot_s=0.030)

    assert one is not None
    assert (one.requests, one.bound) == (1.0, "one request")


def test_of_several_classes_at_work_the_weakest_counts() -> None:
    slow_prompt = replace(P, node_class="vllm/49k", prefill_tokens_per_s=3000.0)
    other = replace(P, node_class="sglang", prefill_tokens_per_s=10.0)
    slow_decoder = replace(D, node_class="vllm/49k", step_base_s=0.039)
    unlearnt = NodeCapacity(role=Role.DECODER, node_class="vllm/9k")
    snapshot = shown(P, slow_prompt, other, D, slow_decoder, unlearnt)

    batch = full_batch(snapshot, lengths(DEMAND), tpot_s=0.050)

    assert prompt_tokens_per_s(snapshot) == 3000.0
    assert batch is not None
    assert batch.requests == pytest.approx(50)


@pytest.mark.parametrize("value", [0.0, -1.0, 1e308, math.inf, math.nan])
def test_what_no_engine_can_have_is_unknown(value: float) -> None:
    absurd = Demand(input_len=Signal(value, 0.0), output_len=Signal(value, 0.0))
    prompt, decoder = replace(P, prefill_tokens_per_s=value), replace(D, step_base_s=value)

    assert lengths(absurd) == Lengths()
    assert prompt_tokens_per_s(shown(prompt)) is None
    assert full_batch(shown(decoder), lengths(DEMAND), tpot_s=0.05) is None
    assert full_batch(shown(kv_used=value, held=value), lengths(DEMAND), tpot_s=0.05) == full_batch(
        shown(), lengths(DEMAND), tpot_s=0.05
    )


def test_requests_a_second_follow_from_tokens_a_second() -> None:
    rates = request_rates(shown(), lengths(DEMAND), tpot_s=0.050)

    assert rates is not None
    assert [rates.prompt, rates.decoder] == pytest.approx([4, 10])
    assert request_rates(shown(P), lengths(DEMAND), tpot_s=0.050) is None
    assert request_rates(shown(), Lengths(), tpot_s=0.050) is None
