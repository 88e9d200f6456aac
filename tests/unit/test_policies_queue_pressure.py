"""queue-pressure, decision by decision."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from pd_autoscaler.model.capacity import Demand, NodeCapacity
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.signals import NodeSignals, RoleSignals, Signal
from pd_autoscaler.model.snapshot import Attribution, Bottleneck, Limits, Snapshot
from pd_autoscaler.policies.queue_pressure import QueuePressure, QueuePressureParams
from tests.support.pages import node

P, D = Role.PROMPT, Role.DECODER


def signal(value: float | None, *, at_least: bool = False) -> Signal | None:
    return None if value is None else Signal(value, 0.0, at_least)


def snapshot(
    queues: Sequence[float | None] = (1, 1),
    kv_used: Sequence[float | None] = (0.6, 0.6),
    *,
    decoder_queues: Sequence[float | None] | None = None,
    target: Target | None = None,
    extra: Sequence[Node] = (),
    stale: Sequence[str] = (),
    ttft_s: float | None = 0.2,
    tpot_s: float | None = 0.03,
    token_rates: tuple[float, float] | None = None,
    bottleneck: Bottleneck = Bottleneck.NONE,
    limits: Limits | None = None,
    now_s: float = 1000.0,
) -> Snapshot:
    """Show prompt nodes by queue and decoders by KV use; usually neither short nor idle."""
    prompts = [node(f"p{i}") for i in range(len(queues))]
    decoders = [node(f"d{i}", D) for i in range(len(kv_used))]
    waiting = decoder_queues or [0.0] * len(kv_used)
    signals = [
        NodeSignals(node_id=n.id, age_s=1, is_fresh=True, queue=signal(q), kv_used=signal(0.9))
        for n, q in zip(prompts, queues, strict=True)
    ] + [
        NodeSignals(node_id=n.id, age_s=1, is_fresh=True, queue=signal(q), kv_used=signal(kv))
        for n, q, kv in zip(decoders, waiting, kv_used, strict=True)
    ]
    aged = [NodeSignals(node_id=s.node_id, age_s=99) if s.node_id in stale else s for s in signals]
    rates = token_rates or (None, None)
    return Snapshot(
        now_s=now_s,
        now_unix_s=0.0,
        target=target or Target(len(prompts), len(decoders)),
        nodes=(*prompts, *decoders, *extra),
        prompt=RoleSignals(
            serving=len(prompts),
            fresh=len(prompts),
            ttft_p95_s=signal(ttft_s),
            token_rate=signal(rates[0]),
        ),
        decoder=RoleSignals(
            serving=len(decoders),
            fresh=len(decoders),
            tpot_p95_s=signal(tpot_s),
            token_rate=signal(rates[1]),
        ),
        node_signals={s.node_id: s for s in aged},
        attribution=Attribution(bottleneck, "as seen"),
        limits=limits or Limits(),
    )


def policy(**params: float) -> QueuePressure:
    return QueuePressure(QueuePressureParams(**params))


def decided(shown: Snapshot) -> Decision:
    return policy().decide(shown)


def held(shown: Snapshot) -> HoldReason:
    decision = decided(shown)
    assert isinstance(decision, Hold), decision
    return decision.reason


def test_a_load_that_is_neither_high_nor_low_keeps_the_standing_target() -> None:
    assert decided(snapshot()) == Target(2, 2)


def test_too_little_spare_kv_adds_a_decoder() -> None:
    decision = decided(snapshot(kv_used=[0.7, 0.75]))

    assert decision == Target(2, 3)
    assert "spare KV use 0.075 below 0.1" in decision.why


def test_too_little_spare_queue_adds_a_decoder_or_a_prompt_node() -> None:
    assert decided(snapshot(decoder_queues=[2.1, 2.1])) == Target(2, 3)
    assert decided(snapshot([2.1, 2.1])) == Target(3, 2)


def test_spare_is_averaged_over_the_nodes_that_are_not_full() -> None:
    # The full node's 90 would make an average of any spare.
    assert decided(snapshot([90, 1, 1])) == Target(3, 2)
    assert decided(snapshot([90, 2, 3])) == Target(4, 2)


def test_a_side_on_which_every_node_is_full_grows() -> None:
    decision = decided(snapshot([9, 7]))

    assert decision == Target(3, 2)
    assert "every node's queue is at or above 5" in decision.why


def test_a_prompt_nodes_kv_is_no_load() -> None:
    # Every prompt node of these snapshots holds 0.9 of its KV for decoders to pull.
    assert decided(snapshot([0, 0], ttft_s=0.9)) == Target(2, 2)


def test_slow_first_tokens_count_only_with_a_queue() -> None:
    assert decided(snapshot([1, 0], ttft_s=1.5)) == Target(3, 2)
    assert decided(snapshot([0, 0], ttft_s=1.5)) == Target(2, 2)


def test_slow_tokens_add_a_decoder() -> None:
    assert decided(snapshot(tpot_s=0.06)) == Target(2, 3)


def test_both_sides_grow_together_where_there_is_room() -> None:
    assert decided(snapshot([9, 9], [0.9, 0.9])) == Target(3, 3)
    room_for_one = Limits(nodes_max=5)
    assert decided(snapshot([9, 9], [0.9, 0.9], limits=room_for_one)) == Target(2, 3)


def test_a_node_goes_only_if_the_rest_can_carry_the_load_with_spare() -> None:
    assert decided(snapshot(kv_used=[0.42, 0.42, 0.42])) == Target(2, 2)
    assert decided(snapshot(kv_used=[0.44, 0.44, 0.44])) == Target(2, 3)
    assert decided(snapshot([0.4, 0.4])) == Target(1, 2)
    assert decided(snapshot([0.6, 0.6])) == Target(2, 2)


def test_the_larger_side_shrinks_first_and_by_one() -> None:
    assert decided(snapshot([0, 0, 0], [0.1, 0.1])) == Target(2, 2)
    assert decided(snapshot([0, 0], [0.1, 0.1, 0.1])) == Target(2, 2)


def test_the_last_node_of_a_side_stays() -> None:
    assert decided(snapshot([0], [0.0])) == Target(1, 1)
    assert decided(snapshot([0, 0], [0.6], limits=Limits(prompt_min=2))) == Target(2, 1)


@pytest.mark.parametrize(("ttft_s", "left"), [(0.79, 1), (0.81, 2), (None, 1)])
def test_prompt_nodes_near_their_latency_bound_stay(ttft_s: float | None, left: int) -> None:
    assert decided(snapshot([0, 0], ttft_s=ttft_s)) == Target(left, 2)


@pytest.mark.parametrize("tpot_s", [0.0488, 0.03, None])
def test_a_tpot_that_wide_buckets_put_near_its_bound_keeps_no_decoder(
    tpot_s: float | None,
) -> None:
    assert decided(snapshot(kv_used=[0.1, 0.1], tpot_s=tpot_s)) == Target(2, 1)


DECODER = NodeCapacity(
    role=D,
    node_class="vllm/49k",
    step_base_s=0.020,
    step_per_request_s=0.0001,
    step_per_token_s=1e-7,
)


HELD = Signal(40_000, 0.0)


def learnt(running: float, *capacities: NodeCapacity, tokens: Signal | None = HELD) -> Snapshot:
    """Show two decoders with little KV used, so many requests in their batches, and learnt steps.

    A step of 50 requests and 20k tokens of KV takes 20 ms and 7 ms of load.
    """
    usual = snapshot(kv_used=[0.1, 0.1], tpot_s=0.0488)
    signals = {i: replace(s, engine="vllm") for i, s in usual.node_signals.items()}
    demand = Demand(decode_running=Signal(running, 0.0), decode_tokens=tokens)
    return replace(usual, node_signals=signals, demand=demand, capacity=capacities or (DECODER,))


def test_decoders_stay_where_the_learnt_steps_of_the_others_would_be_too_slow() -> None:
    # At twice the load, and headroom: 20 ms / (1 - 2 / 0.85 x 7 / 27) are 51 ms, and 49 ms before.
    decision = decided(learnt(100))

    assert decision == Target(2, 2)
    assert isinstance(decision, Target)
    assert "1 decoder at 2.35 times the load would take 0.0513 s" in decision.why
    assert decided(learnt(95)) == Target(2, 1)


def test_decoders_that_others_could_not_replace_at_any_batch_stay() -> None:
    decision = decided(learnt(400))

    assert decision == Target(2, 2)
    assert isinstance(decision, Target)
    assert "1 decoder at 2.35 times the load would not keep up" in decision.why


def test_slow_steps_that_no_load_causes_keep_no_decoder() -> None:
    slow = replace(DECODER, step_base_s=0.045)

    assert decided(learnt(2, slow, tokens=Signal(1000, 0.0))) == Target(2, 1)


def test_of_decoders_of_several_kinds_the_slowest_counts() -> None:
    slow = replace(DECODER, node_class="vllm/20k", step_base_s=0.03)

    assert decided(learnt(95, DECODER, slow)) == Target(2, 2)
    assert decided(learnt(95, DECODER, replace(slow, node_class="mindie/20k"))) == Target(2, 1)


def test_step_times_that_are_not_known_for_all_decoders_are_not_asked() -> None:
    unlearnt = NodeCapacity(role=D, node_class="vllm/20k")
    part = Signal(40_000, 0, is_lower_bound=True)

    assert decided(learnt(400, DECODER, unlearnt)) == Target(2, 1)
    assert decided(learnt(400, tokens=part)) == Target(2, 1)
    assert decided(learnt(400, tokens=None)) == Target(2, 1)
    # Of engines that do not say how much KV they have only the batch is learnt.
    by_batch = replace(DECODER, step_per_token_s=0.0)
    assert decided(learnt(400, by_batch, tokens=None)) == Target(2, 2)


@pytest.mark.parametrize(
    ("queues", "kv_used", "decoder_queues", "missing"),
    [
        ((1, 1), (0.1, None, None), None, "2 of 3 decoder nodes not telling KV use"),
        ((1, 1), (0.1, 0.1, 0.1), (0, 0, None), "1 of 3 decoder nodes not telling queue"),
        ((0, None, 0), (0.6, 0.6), None, "1 of 3 prompt nodes not telling queue"),
    ],
)
def test_a_role_of_which_a_fresh_node_does_not_tell_its_load_does_not_shrink(
    queues: Sequence[float | None],
    kv_used: Sequence[float | None],
    decoder_queues: Sequence[float | None] | None,
    missing: str,
) -> None:
    shown = snapshot(queues, kv_used, decoder_queues=decoder_queues)

    decision = decided(shown)

    assert decision == shown.target
    assert isinstance(decision, Target)
    assert missing in decision.why


def test_no_metrics_and_stale_metrics_hold() -> None:
    usual = snapshot()
    assert held(replace(usual, node_signals={})) is HoldReason.NO_METRICS
    assert held(snapshot(stale=["p0", "p1"])) is HoldReason.STALE_METRICS
    assert held(snapshot([None, None])) is HoldReason.NO_METRICS
    assert held(snapshot(kv_used=[None, None])) is HoldReason.NO_METRICS
    assert held(replace(usual, nodes=usual.nodes[:2])) is HoldReason.NO_METRICS


def test_below_half_of_the_nodes_it_holds_and_above_it_only_grows() -> None:
    assert held(snapshot([9, 9, 9], stale=["p0", "p1"])) is HoldReason.PARTIAL_METRICS
    assert decided(snapshot([9, 9, 9], stale=["p0"])) == Target(4, 2)
    assert decided(snapshot([0, 0, 0])) == Target(2, 2)
    assert decided(snapshot([0, 0, 0], stale=["p0"])) == Target(3, 2)


def test_the_quorum_is_the_operators() -> None:
    strict, lax = Limits(fresh_quorum=0.9), Limits(fresh_quorum=0.1)

    assert held(snapshot([9, 9, 9], stale=["p0"], limits=strict)) is HoldReason.PARTIAL_METRICS
    assert decided(snapshot([9, 9, 9], stale=["p0", "p1"], limits=lax)) == Target(4, 2)


def test_a_refusal_says_why_nodes_are_not_believed() -> None:
    usual = snapshot([0, 0, 0])
    frozen = {
        i: NodeSignals(node_id=i, age_s=0.2, doubt="frozen") if i != "d0" else s
        for i, s in usual.node_signals.items()
    }

    assert decided(replace(usual, node_signals=frozen)) == Hold(
        HoldReason.STALE_METRICS, "0 of 3 prompt nodes fresh (p0: frozen; p1: frozen; …)"
    )
    frozen |= {i: s for i, s in usual.node_signals.items() if i.startswith("p")}
    fewer = Limits(fresh_quorum=0.6)
    assert decided(replace(usual, node_signals=frozen, limits=fewer)) == Hold(
        HoldReason.PARTIAL_METRICS, "1 of 2 decoder nodes fresh (d1: frozen)"
    )


@pytest.mark.parametrize("state", [NodeState.STARTING, NodeState.INITIALISING, NodeState.LINKING])
def test_what_is_coming_is_supply(state: NodeState) -> None:
    coming = [node("p9", state=state)]

    assert held(snapshot([9, 9], extra=coming, target=Target(3, 2))) is HoldReason.POLICY_HELD
    assert decided(snapshot([9, 9], extra=[node("d9", D, state=state)])) == Target(3, 2)


def test_the_standing_target_moves_and_not_what_happens_to_serve() -> None:
    # A lost node is replaced by others; asking for one more each time would never end.
    assert held(snapshot([9, 9], target=Target(3, 2))) is HoldReason.POLICY_HELD
    assert decided(snapshot([0, 0], target=Target(3, 2))) == Target(3, 2)
    assert decided(snapshot([0, 0, 0], target=Target(2, 2))) == Target(2, 2)


def test_nothing_goes_while_a_node_of_its_role_is_leaving() -> None:
    leaving = [node("p9", state=NodeState.DRAINING)]

    assert decided(snapshot([0, 0], extra=leaving)) == Target(2, 2)


def test_a_node_that_just_joined_gets_time_to_show_its_effect() -> None:
    joined = node("p9", served_at_s=980.0)
    usual = snapshot([9, 9], extra=[joined], target=Target(3, 2))

    assert held(usual) is HoldReason.POLICY_HELD
    assert decided(replace(usual, now_s=1010.0)) == Target(4, 2)


def test_a_target_that_just_moved_is_not_moved_down_again() -> None:
    mover = policy()
    assert mover.decide(snapshot([0, 0, 0], now_s=1000)) == Target(2, 2)
    assert mover.decide(snapshot([0, 0], [0.6], now_s=1010, target=Target(2, 1))) == Target(2, 1)
    assert mover.decide(snapshot([0, 0], [0.6], now_s=1030, target=Target(2, 1))) == Target(2, 1)
    assert mover.decide(snapshot([0, 0], [0.6], now_s=1040, target=Target(2, 1))) == Target(1, 1)


@pytest.mark.parametrize("bottleneck", [Bottleneck.DECODER, Bottleneck.LINK])
def test_no_prompt_node_is_added_for_what_decoders_or_links_hold_up(
    bottleneck: Bottleneck,
) -> None:
    assert held(snapshot([9, 9], bottleneck=bottleneck)) is HoldReason.BOTTLENECK_ELSEWHERE


def test_a_decoder_is_added_for_what_decoders_hold_up_though_prompts_queue() -> None:
    shown = snapshot([9, 9], [0.9, 0.9], bottleneck=Bottleneck.DECODER)

    assert decided(shown) == Target(2, 3)


def test_nothing_goes_while_links_are_at_fault() -> None:
    assert decided(snapshot([0, 0], bottleneck=Bottleneck.LINK)) == Target(2, 2)


def test_a_side_at_its_own_limit_holds() -> None:
    assert held(snapshot([9, 9], limits=Limits(prompt_max=2))) is HoldReason.BUDGET


def test_with_all_nodes_used_one_moves_over_if_the_rest_can_carry_the_load() -> None:
    limits = Limits(nodes_max=5)

    decision = decided(snapshot([9, 9], [0.3, 0.3, 0.3], limits=limits))
    assert decision == Target(3, 2)
    assert "+1 prompt, -1 decoder" in decision.why
    assert decided(snapshot([0, 0, 0], [0.9, 0.9], limits=limits)) == Target(2, 3)
    assert held(snapshot([9, 9], [0.6, 0.6, 0.6], limits=limits)) is HoldReason.BUDGET
    assert held(snapshot([9, 9], [0.9, 0.9, 0.9], limits=limits)) is HoldReason.BUDGET
    assert held(snapshot([9, 9, 9, 9], [0.1], limits=limits)) is HoldReason.BUDGET


def test_a_side_is_not_made_as_small_as_it_was_seen_to_be_too_small() -> None:
    mover = policy(settle_s=0)
    assert mover.decide(snapshot([9, 9], token_rates=(800, 100))) == Target(3, 2)

    # 400 tokens a second and node were too many; without a queue at 3 nodes nothing else says so.
    assert mover.decide(snapshot([0, 0, 0], token_rates=(800, 100))) == Target(3, 2)
    assert mover.decide(snapshot([0, 0, 0], token_rates=(690, 100))) == Target(3, 2)
    assert mover.decide(snapshot([0, 0, 0], token_rates=(670, 100))) == Target(2, 2)


def test_a_node_that_carried_more_since_raises_what_is_too_much() -> None:
    mover = policy(settle_s=0)
    mover.decide(snapshot([9, 9], token_rates=(800, 100)))
    assert mover.decide(snapshot([1, 1, 1], token_rates=(1500, 100))) == Target(3, 2)

    assert mover.decide(snapshot([0, 0, 0], token_rates=(800, 100))) == Target(2, 2)


def test_a_shortfall_that_others_caused_teaches_nothing() -> None:
    mover = policy(settle_s=0)
    blocked = snapshot([9, 9], token_rates=(100, 100), bottleneck=Bottleneck.DECODER)
    assert isinstance(mover.decide(blocked), Hold)

    assert mover.decide(snapshot([0, 0, 0], token_rates=(800, 100))) == Target(2, 2)


def absurd_while_short(*, until_s: float) -> Decision:
    """Show a rate that no node can do for one cycle of a shortfall, and then its usual rate."""
    mover = policy(settle_s=0)
    limits = Limits(prompt_max=2)
    for now_s in range(1000, round(until_s), 10):
        rate = 2e7 if now_s == 1010 else 4000
        mover.decide(snapshot([9, 9], token_rates=(rate, 100), limits=limits, now_s=now_s))
    shown = snapshot([40, 40], token_rates=(4000, 100), now_s=until_s)
    prompt = replace(shown.prompt, queue=signal(80), input_len=signal(1000), arrival_rate=signal(4))
    return mover.decide(replace(shown, prompt=prompt))


def test_a_rate_that_no_node_can_do_is_forgotten_while_the_role_is_short() -> None:
    before = absurd_while_short(until_s=1130)

    assert isinstance(before, Hold)
    assert "the queue will be gone in 0 s" in before.detail
    assert absurd_while_short(until_s=1140) == Target(3, 2)


def test_the_highest_rate_of_a_short_shortfall_counts() -> None:
    # A rate over a window says less than a node does while the load steps up.
    mover = policy(settle_s=0)
    full = Limits(prompt_max=2)
    mover.decide(snapshot([9, 9], token_rates=(1600, 100), limits=full, now_s=1000))
    mover.decide(snapshot([9, 9], token_rates=(800, 100), limits=full, now_s=1010))

    assert mover.decide(snapshot([0, 0, 0], token_rates=(1300, 100), now_s=1020)) == Target(2, 2)


def test_of_two_shortfalls_the_later_one_counts() -> None:
    mover = policy(settle_s=0)
    full = Limits(prompt_max=3)
    mover.decide(snapshot([9, 9], token_rates=(1600, 100), limits=full, now_s=1000))
    mover.decide(snapshot([1, 1, 1], token_rates=(1600, 100), limits=full, now_s=1010))
    mover.decide(snapshot([9, 9, 9], token_rates=(1200, 100), limits=full, now_s=1020))

    # Two nodes were too few for 800 each, and then three for 400: requests are others now.
    assert mover.decide(snapshot([0, 0, 0], token_rates=(900, 100), now_s=1030)) == Target(3, 2)


@pytest.mark.parametrize("rate", [math.nan, math.inf])
def test_a_rate_that_is_no_number_teaches_nothing(rate: float) -> None:
    mover = policy(settle_s=0)
    mover.decide(snapshot([9, 9], token_rates=(800, 100)))
    mover.decide(snapshot([1, 1, 1], token_rates=(rate, 100)))

    assert mover.decide(snapshot([0, 0, 0], token_rates=(800, 100))) == Target(3, 2)


def test_the_tokens_of_a_node_are_those_of_the_nodes_that_tell() -> None:
    mover = policy(settle_s=0)
    told = snapshot([9, 9], token_rates=(800, 100))
    by_one = replace(told.prompt, token_rate=Signal(800, 0.0, is_lower_bound=True, nodes=1))
    mover.decide(replace(told, prompt=by_one))

    # 800 a node were too many, not 400.
    assert mover.decide(snapshot([0, 0, 0], token_rates=(1300, 100))) == Target(2, 2)


def test_a_queue_that_is_being_worked_off_adds_no_more_nodes() -> None:
    mover = policy(settle_s=0)
    mover.decide(snapshot([50, 50], token_rates=(8000, 100)))
    grown = snapshot([50, 50, 50], token_rates=(12000, 100))

    def asked(requests_per_s: float) -> Snapshot:
        prompt = replace(
            grown.prompt,
            queue=signal(150),
            input_len=signal(1000),
            arrival_rate=signal(requests_per_s),
        )
        return replace(grown, prompt=prompt)

    # 12 requests a second can be done: a queue of 150 goes in 50 s at 9, and in 75 s at 10.
    first = mover.decide(asked(9))
    assert isinstance(first, Hold)
    assert "the queue will be gone in 50 s" in first.detail
    assert mover.decide(asked(10)) == Target(4, 2)
