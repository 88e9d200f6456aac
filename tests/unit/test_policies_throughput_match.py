"""throughput-match, decision by decision."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pd_autoscaler.model.capacity import Demand
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.signals import Signal
from pd_autoscaler.model.snapshot import Limits, Snapshot
from pd_autoscaler.policies.node_rates import RequestRates
from pd_autoscaler.policies.throughput_match import ThroughputMatch, ThroughputMatchParams, matched
from tests.support.moments import loads, moment


def shown(
    now_s: float, input_len: float = 1000, *, requests_per_s: float = 10, **more: Any
) -> Snapshot:
    demand = Demand(
        requests_per_s=Signal(requests_per_s, 0.0),
        input_len=Signal(input_len, 0.0),
        output_len=Signal(200.0, 0.0),
    )
    seen: dict[str, Any] = {"demand": demand, "target": Target(4, 3)} | more
    return moment(loads(0, name="queue"), loads(0, name="queue"), now_s=now_s, **seen)


def policy(**params: float | None) -> ThroughputMatch:
    return ThroughputMatch(ThroughputMatchParams.model_validate(params))


def test_both_roles_end_as_many_requests() -> None:
    # A prompt node takes four such requests a second, a decoder ten: 5 x 4 = 2 x 10.
    decision = policy(watch_s=0.0).decide(shown(0))

    assert decision == Target(5, 2)
    assert isinstance(decision, Target)
    assert decision.why == (
        "5P:2D of 7 nodes: a prompt node takes 4 requests/s, a decoder 10, at 1000 tokens computed "
        "and 200 generated; chosen 0 s ago, next in 3600 s"
    )


@given(
    st.integers(min_value=2, max_value=40),
    st.floats(min_value=0.01, max_value=100),
    st.floats(min_value=0.01, max_value=100),
)
def test_no_other_split_lets_more_requests_through(
    total: int, prompt: float, decode: float
) -> None:
    rates = RequestRates(prompt, decode)

    def through(prompts: int) -> float:
        return min(prompts * prompt, (total - prompts) * decode)

    split = matched(total, rates, Limits())

    assert split.total == total
    assert through(split.prompt) == max(through(prompts) for prompts in range(1, total))


@pytest.mark.parametrize(
    ("limits", "split"),
    [
        (Limits(prompt_max=3), Target(3, 4)),
        (Limits(decoder_min=4), Target(3, 4)),
        (Limits(prompt_max=2, decoder_max=2), Target(2, 2)),
        (Limits(prompt_min=6, decoder_min=6), Target(6, 6)),
    ],
)
def test_limits_of_a_role_are_kept(limits: Limits, split: Target) -> None:
    assert matched(7, RequestRates(4.0, 10.0), limits) == split


def test_the_first_choice_waits_for_requests_and_the_next_for_the_period() -> None:
    match = policy()
    seen: list[Decision] = [
        match.decide(shown(now_s, input_len))
        for now_s, input_len in (
            (0, 1000),
            (599, 1000),
            (600, 1000),
            (2000, 250),
            (4199, 250),
            (4200, 250),
        )
    ]

    assert seen[0] == Hold(HoldReason.POLICY_HELD, "600 s of requests left to watch")
    assert seen[1] == Hold(HoldReason.POLICY_HELD, "1 s of requests left to watch")
    assert seen[2:] == [Target(5, 2), Target(5, 2), Target(5, 2), Target(3, 4)]


def test_lengths_are_means_over_requests_and_not_over_cycles() -> None:
    match = policy(watch_s=20.0)
    for now_s, input_len, requests_per_s in ((0, 1000, 30.0), (10, 5000, 10.0), (19, 9000, 0.0)):
        match.decide(shown(now_s, input_len, requests_per_s=requests_per_s))

    decision = match.decide(shown(20, 9000, requests_per_s=0.0))

    assert isinstance(decision, Target)
    assert "at 2000 tokens computed" in decision.why


def test_the_total_is_what_stood_at_the_beginning_or_what_is_given() -> None:
    own, given_nodes = policy(watch_s=0.0), policy(watch_s=0.0, nodes=14)
    moved = shown(10, target=Target(5, 3))

    # While a node changes its role the standing target may have one more.
    assert [own.decide(shown(0)), own.decide(moved)] == [Target(5, 2), Target(5, 2)]
    assert given_nodes.decide(shown(0)) == Target(10, 4)
    assert given_nodes.decide(shown(5, limits=Limits(nodes_max=7))) == Target(5, 2)


def test_a_choice_that_cannot_be_made_leaves_the_last_one() -> None:
    match = policy(watch_s=0.0)
    match.decide(shown(0))

    late = match.decide(shown(3700, 250, capacity=()))
    again = match.decide(shown(3710, 250))

    assert late == Target(5, 2)
    assert isinstance(late, Target)
    assert "overdue: what a node can do is not learnt" in late.why
    assert again == Target(3, 4)


def test_without_capacity_or_lengths_it_is_held() -> None:
    unlearnt = policy(watch_s=0.0).decide(shown(0, capacity=()))
    idle = policy(watch_s=0.0).decide(shown(0, requests_per_s=0.0))

    assert isinstance(unlearnt, Hold)
    assert isinstance(idle, Hold)
    assert unlearnt.reason is idle.reason is HoldReason.NO_METRICS
    assert "the capacity settings say it" in unlearnt.detail
    assert idle.detail == "no lengths of requests were seen"


def test_a_first_choice_after_the_second_is_refused() -> None:
    with pytest.raises(ValidationError, match="later than the second"):
        ThroughputMatchParams(period_s=300, watch_s=600)
