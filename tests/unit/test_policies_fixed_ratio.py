"""fixed-ratio, decision by decision."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.model.signals import NodeSignals, RoleSignals, Signal
from pd_autoscaler.model.snapshot import Attribution, Bottleneck, Limits, Snapshot
from pd_autoscaler.policies.fixed_ratio import FixedRatio, FixedRatioParams, split
from tests.support.pages import node


def snapshot(
    prompt: int = 2,
    decoder: int = 4,
    *,
    queue: float = 0.0,
    kv_used: float = 0.6,
    limits: Limits | None = None,
    bottleneck: Bottleneck = Bottleneck.NONE,
) -> Snapshot:
    """Show a fleet whose nodes of a role are all alike."""
    prompts = [node(f"p{i}") for i in range(prompt)]
    decoders = [node(f"d{i}", Role.DECODER) for i in range(decoder)]
    signals = {
        n.id: NodeSignals(
            node_id=n.id,
            age_s=1.0,
            is_fresh=True,
            queue=Signal(queue if n.role is Role.PROMPT else 0.0, 1.0),
            kv_used=Signal(kv_used, 1.0),
        )
        for n in (*prompts, *decoders)
    }
    return Snapshot(
        now_s=1000.0,
        now_unix_s=0.0,
        target=Target(prompt, decoder),
        nodes=(*prompts, *decoders),
        prompt=RoleSignals(serving=prompt, fresh=prompt),
        decoder=RoleSignals(serving=decoder, fresh=decoder),
        node_signals=signals,
        attribution=Attribution(bottleneck, "as seen"),
        limits=limits or Limits(),
    )


def decided(shown: Snapshot, **params: float) -> Decision:
    return FixedRatio(FixedRatioParams.model_validate(params)).decide(shown)


def test_between_its_thresholds_nothing_moves() -> None:
    assert decided(snapshot(kv_used=0.6)) == Target(2, 4)


def test_full_decoders_grow_both_roles_by_the_ratio() -> None:
    # 0.9 of the 0.8 that is full: 4 decoders become 4 x 1.125 / 0.85, rounded up.
    decision = decided(snapshot(kv_used=0.9))

    assert decision == Target(3, 6)
    assert decision.why == "prompt load 0%, decoder load 112%, above 85%: 3P:6D at 0.5"


def test_the_fuller_role_decides() -> None:
    assert decided(snapshot(queue=5, kv_used=0.1)) == Target(3, 5)


def test_growth_is_bounded_by_the_step_and_the_budget() -> None:
    assert decided(snapshot(queue=500)) == Target(4, 7)
    assert decided(snapshot(queue=500), step_max=2) == Target(3, 5)
    assert decided(snapshot(queue=500, limits=Limits(nodes_max=8))) == Target(3, 5)
    full = decided(snapshot(queue=500, limits=Limits(nodes_max=6)))
    assert isinstance(full, Hold)
    assert full.reason is HoldReason.BUDGET


def test_no_node_is_added_that_the_fuller_role_does_not_need() -> None:
    # 8 to 10 nodes at 1 to 2 have three prompt nodes: a ninth or tenth would be trimmed again.
    assert decided(snapshot(queue=5)) == Target(3, 5)
    # The seventh node would be a decoder, and no prompt node could follow it.
    last = decided(snapshot(queue=500, limits=Limits(nodes_max=7)))
    assert isinstance(last, Hold)
    assert last.reason is HoldReason.BUDGET


def test_a_step_too_small_for_the_fuller_role_is_taken_for_the_next() -> None:
    assert decided(snapshot(queue=500), step_max=1) == Target(2, 5)
    assert decided(snapshot(2, 5, queue=500), step_max=1) == Target(3, 5)


def test_a_node_goes_if_the_rest_stay_below_the_lower_threshold() -> None:
    # 0.42 of 0.8 on 4 decoders is 0.70 of 0.8 on 3.
    assert decided(snapshot(2, 4, kv_used=0.41)) == Target(2, 3)
    assert decided(snapshot(2, 4, kv_used=0.43)) == Target(2, 4)


def test_a_fleet_off_the_ratio_is_brought_to_it_one_node_at_a_time() -> None:
    assert decided(snapshot(4, 2, kv_used=0.6), ratio=0.5) == Target(3, 3)
    # Decoders that would be too full stay.
    assert decided(snapshot(2, 4, kv_used=0.6), ratio=2.0) == Target(2, 4)


def test_a_role_of_which_a_fresh_node_does_not_tell_its_load_does_not_shrink() -> None:
    usual = snapshot(2, 4, kv_used=0.1)
    silent = {**usual.node_signals, "d3": replace(usual.node_signals["d3"], kv_used=None)}

    decision = decided(replace(usual, node_signals=silent))

    assert decision == Target(2, 4)
    assert isinstance(decision, Target)
    assert "1 of 4 decoder nodes not telling KV use" in decision.why


def test_nothing_moves_while_a_node_is_coming() -> None:
    usual = snapshot(queue=500)
    coming = replace(usual, nodes=(*usual.nodes, node("p9", state=NodeState.STARTING)))

    decision = decided(coming)

    assert isinstance(decision, Hold)
    assert decision.detail.endswith("waiting: 1 prompt node coming")


@pytest.mark.parametrize("bottleneck", [Bottleneck.DECODER, Bottleneck.LINK])
def test_a_queue_that_others_cause_adds_nothing(bottleneck: Bottleneck) -> None:
    decision = decided(snapshot(queue=500, bottleneck=bottleneck))

    assert isinstance(decision, Hold)
    assert decision.reason is HoldReason.BOTTLENECK_ELSEWHERE


def test_decoders_that_hold_prompts_up_are_added() -> None:
    shown = snapshot(10, 3, queue=500, kv_used=0.9, bottleneck=Bottleneck.DECODER)

    # By the decoders' load, not by the queue that they cause.
    assert decided(shown) == Target(10, 4)


def test_without_metrics_it_holds() -> None:
    blind = decided(replace(snapshot(), node_signals={}))

    assert isinstance(blind, Hold)
    assert blind.reason is HoldReason.NO_METRICS


@pytest.mark.parametrize(
    ("total", "ratio", "expected"),
    [
        (2, 0.5, Target(1, 1)),
        (3, 0.5, Target(1, 2)),
        (6, 0.5, Target(2, 4)),
        (7, 0.5, Target(2, 5)),
        (8, 0.5, Target(3, 5)),
        (9, 2.0, Target(6, 3)),
        (4, 100.0, Target(3, 1)),
        (4, 0.01, Target(1, 3)),
    ],
)
def test_a_total_is_split_to_the_nearest_ratio(total: int, ratio: float, expected: Target) -> None:
    assert split(total, ratio, Limits()) == expected


def test_what_one_role_may_not_have_goes_to_the_other() -> None:
    assert split(9, 0.5, Limits(decoder_max=4)) == Target(5, 4)
    assert split(9, 2.0, Limits(prompt_max=4)) == Target(4, 5)
    assert split(9, 2.0, Limits(decoder_min=5)) == Target(4, 5)


@given(
    st.integers(0, 60),
    st.floats(0.01, 100),
    st.tuples(st.integers(0, 9), st.integers(9, 30)),
    st.tuples(st.integers(0, 9), st.integers(9, 30)),
)
def test_a_split_stays_within_the_limits_of_each_role(
    total: int, ratio: float, prompt: tuple[int, int], decoder: tuple[int, int]
) -> None:
    (p_min, p_max), (d_min, d_max) = prompt, decoder
    limits = Limits(prompt_min=p_min, prompt_max=p_max, decoder_min=d_min, decoder_max=d_max)

    got = split(total, ratio, limits)

    assert max(1, p_min) <= got.prompt <= p_max
    assert max(1, d_min) <= got.decoder <= d_max
    if max(1, p_min) + max(1, d_min) <= total <= p_max + d_max:
        assert got.total == total
