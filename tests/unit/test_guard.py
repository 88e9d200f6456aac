"""The guard: what no policy can get past."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.core.gates import GuardMemory
from pd_autoscaler.core.guard import can_spare, guarded
from pd_autoscaler.core.rules import GuardRules
from pd_autoscaler.core.target_limits import within
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.signals import RoleSignals, Signal
from pd_autoscaler.model.snapshot import Attribution, Bottleneck, Limits, Snapshot

LIMITS = Limits(prompt_max=6, decoder_max=6, nodes_max=8)
RULES = GuardRules(limits=LIMITS, up_window_s=3, down_window_s=20, cooldown_s=10, step_up_max=2)
STANDING = Target(3, 3)
FRESH = RoleSignals(serving=3, fresh=3)


def seen(target: Target, now_s: float, **changes: object) -> Snapshot:
    base = Snapshot(
        now_s=now_s,
        now_unix_s=now_s,
        target=target,
        prompt=FRESH,
        decoder=FRESH,
        limits=LIMITS,
        attribution=Attribution(Bottleneck.NONE),
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # Any field, by name.


def answers(
    asked: Target, moments: tuple[float, ...], *, standing: Target = STANDING, **changes: object
) -> list[Decision]:
    """Ask for the same target at each moment; the standing target follows the answers."""
    memory, decisions = GuardMemory(began_s=-1000.0), list[Decision]()
    for now_s in moments:
        answer = guarded(asked, seen(standing, now_s, **changes), RULES, memory)
        memory = answer.memory
        if isinstance(answer.decision, Target):
            standing = answer.decision
        decisions.append(answer.decision)
    return decisions


def reasons(decisions: list[Decision]) -> list[object]:
    return [d.reason if isinstance(d, Hold) else d for d in decisions]


def test_growth_waits_until_it_was_asked_for_throughout_the_up_window() -> None:
    decisions = answers(Target(4, 3), (0, 1, 2, 3))
    assert reasons(decisions) == [HoldReason.UP_WINDOW] * 3 + [Target(4, 3)]


def test_growth_is_allowed_however_long_the_up_window_is_beside_the_down_window() -> None:
    rules = replace(RULES, up_window_s=20, down_window_s=20)
    memory, decisions = GuardMemory(began_s=-1000.0), list[Decision]()
    for now_s in (0.0, 7.3, 14.6, 21.9):
        answer = guarded(Target(4, 3), seen(STANDING, now_s), rules, memory)
        memory = answer.memory
        decisions.append(answer.decision)
    assert reasons(decisions) == [HoldReason.UP_WINDOW] * 3 + [Target(4, 3)]


def test_growth_takes_the_least_that_was_asked_for_in_the_window() -> None:
    memory = GuardMemory(began_s=-1000.0, asked=((0, 4, 3), (1, 6, 3)))
    answer = guarded(Target(6, 3), seen(Target(3, 3), 3), RULES, memory)
    assert answer.decision == Target(4, 3)


def test_one_step_up_is_no_larger_than_allowed() -> None:
    assert answers(Target(6, 2), (0, 3), standing=Target(2, 2))[-1] == Target(4, 2)


def test_a_dip_in_the_down_window_is_not_adopted() -> None:
    memory = GuardMemory(began_s=-1000.0, asked=((0, 3, 3), (10, 1, 3)))
    answer = guarded(Target(1, 3), seen(Target(3, 3), 19), RULES, memory)
    assert reasons([answer.decision]) == [HoldReason.DOWN_WINDOW]


def test_shrinking_goes_one_step_and_the_next_waits_for_the_cooldown() -> None:
    decisions = answers(Target(1, 3), (0, 9, 10))
    assert reasons(decisions) == [Target(2, 3), HoldReason.COOLDOWN, Target(1, 3)]


def test_nothing_shrinks_before_one_whole_window_after_the_start() -> None:
    asked, memory = Target(2, 3), GuardMemory(began_s=0.0)
    answer = guarded(asked, seen(Target(3, 3), 19.9), RULES, memory)
    assert reasons([answer.decision]) == [HoldReason.WARM_UP]


def test_partial_metrics_let_a_role_grow_but_not_shrink() -> None:
    partial = RoleSignals(serving=3, fresh=2)
    assert answers(Target(4, 3), (0, 3), prompt=partial)[-1] == Target(4, 3)
    held = answers(Target(2, 3), (0,), prompt=partial)
    assert reasons(held) == [HoldReason.PARTIAL_METRICS]


def test_fewer_fresh_nodes_than_the_quorum_hold_everything() -> None:
    held = answers(Target(4, 4), (0, 3), decoder=RoleSignals(serving=3, fresh=1))
    assert reasons(held) == [HoldReason.STALE_METRICS] * 2


def test_no_prompt_node_is_added_while_decoders_or_links_are_at_fault() -> None:
    for side in (Bottleneck.DECODER, Bottleneck.LINK):
        held = answers(Target(4, 3), (0, 3), attribution=Attribution(side, "the evidence"))
        assert reasons(held)[-1] == HoldReason.BOTTLENECK_ELSEWHERE
        assert "the evidence" in str(held[-1])


def test_where_both_are_short_prompt_nodes_may_follow_the_decoders() -> None:
    both = Attribution(Bottleneck.DECODER, also=Bottleneck.PROMPT)
    serving = tuple(
        Node(id=f"d{n}", role=Role.DECODER, state=NodeState.SERVING, since_s=0) for n in range(3)
    )
    asked, moments = Target(4, 3), (0, 3)
    first = answers(asked, moments, attribution=both, nodes=serving)
    assert reasons(first)[-1] == HoldReason.BOTTLENECK_ELSEWHERE
    # One decoder of the target is on its way.
    assert answers(asked, moments, attribution=both, nodes=serving[:2])[-1] == asked
    # There can be no more decoders.
    full = replace(LIMITS, decoder_max=3)
    assert answers(asked, moments, attribution=both, nodes=serving, limits=full)[-1] == asked


def test_decoders_are_added_where_they_are_at_fault_and_not_where_links_are() -> None:
    asked, moments = Target(3, 4), (0, 3)
    short = answers(asked, moments, attribution=Attribution(Bottleneck.DECODER))
    assert short[-1] == asked
    unlinked = answers(asked, moments, attribution=Attribution(Bottleneck.LINK))
    assert reasons(unlinked)[-1] == HoldReason.BOTTLENECK_ELSEWHERE


def test_an_unknown_bottleneck_lets_decoders_come_and_nothing_else() -> None:
    unknown = Attribution(Bottleneck.UNKNOWN, "contradictions")
    assert answers(Target(3, 4), (0, 3), attribution=unknown)[-1] == Target(3, 4)
    for asked in (Target(4, 3), Target(2, 3), Target(3, 2)):
        held = answers(asked, (0, 3), attribution=unknown)
        assert reasons(held) == [HoldReason.BOTTLENECK_UNKNOWN] * 2


def test_nothing_goes_while_links_are_repaired() -> None:
    held = answers(Target(3, 2), (0,), attribution=Attribution(Bottleneck.LINK))
    assert reasons(held) == [HoldReason.BOTTLENECK_ELSEWHERE]


def test_a_guard_that_heeds_no_bottleneck_grows_and_shrinks_against_it() -> None:
    deaf, memory = replace(RULES, heeds_bottleneck=False, up_window_s=0), GuardMemory(-1000.0)
    against = (
        (Target(4, 3), Bottleneck.DECODER),
        (Target(4, 3), Bottleneck.LINK),
        (Target(3, 4), Bottleneck.LINK),
        (Target(4, 3), Bottleneck.UNKNOWN),
        (Target(2, 3), Bottleneck.UNKNOWN),
        (Target(3, 2), Bottleneck.UNKNOWN),
        (Target(3, 2), Bottleneck.LINK),
    )
    for asked, side in against:
        snapshot = seen(STANDING, 0, attribution=Attribution(side))
        heeding = guarded(asked, snapshot, replace(deaf, heeds_bottleneck=True), memory)
        assert isinstance(heeding.decision, Hold)
        assert guarded(asked, snapshot, deaf, memory).decision == asked


def test_a_guard_that_heeds_no_bottleneck_still_wants_all_evidence_to_shrink() -> None:
    deaf, memory = replace(RULES, heeds_bottleneck=False), GuardMemory(-1000.0)
    partial, failing = replace(FRESH, fresh=2), replace(FRESH, transfer_failure_rate=Signal(0.1, 0))
    for decoder, reason in (
        (partial, HoldReason.PARTIAL_METRICS),
        (failing, HoldReason.TRANSFERS_FAIL),
    ):
        answer = guarded(Target(3, 2), seen(STANDING, 0, decoder=decoder), deaf, memory)
        assert reasons([answer.decision]) == [reason]


def test_nothing_goes_while_transfers_fail_on_either_side() -> None:
    failing = replace(FRESH, transfer_failure_rate=Signal(0.1, 0))
    for side in ("prompt", "decoder"):
        held = answers(Target(2, 3), (0,), standing=STANDING, **{side: failing})
        assert reasons(held) == [HoldReason.TRANSFERS_FAIL]
        assert f"fail at {side} nodes" in str(held[0])
    assert answers(Target(4, 3), (0, 3), prompt=failing)[-1] == Target(4, 3)
    calm = replace(FRESH, transfer_failure_rate=Signal(0.0, 0))
    assert answers(Target(2, 3), (0,), prompt=calm) == [Target(2, 3)]
    few = replace(failing, arrival_rate=Signal(2.0, 0))
    assert answers(Target(2, 3), (0,), prompt=few) == [Target(2, 3)]


def test_a_hold_counts_as_a_cycle_that_needed_what_stood() -> None:
    memory = GuardMemory(began_s=-1000.0, asked=((-30, 3, 2),))
    blind = guarded(Hold(HoldReason.NO_METRICS), seen(STANDING, 0), RULES, memory)
    assert [str(g) for g in blind.gates] == ["no_metrics"]
    for now_s, expected in ((1, HoldReason.DOWN_WINDOW), (20, HoldReason.DOWN_WINDOW)):
        answer = guarded(Target(3, 2), seen(STANDING, now_s), RULES, blind.memory)
        assert reasons([answer.decision]) == [expected]
    later = guarded(Target(3, 2), seen(STANDING, 21), RULES, blind.memory)
    assert later.decision == Target(3, 2)


def test_what_was_asked_before_a_long_silence_does_not_begin_a_window() -> None:
    for asked_s, expected in ((-2, Target(4, 3)), (-3, Target(4, 3)), (-4, HoldReason.UP_WINDOW)):
        silent = ((-1.0, 3, 3),)
        memory = GuardMemory(began_s=-1000.0, asked=((asked_s, 4, 3),), held=silent)
        answer = guarded(Target(4, 3), seen(STANDING, 3), RULES, memory)
        assert reasons([answer.decision]) == [expected]


def test_a_period_longer_than_the_up_window_lets_a_role_grow() -> None:
    assert RULES.up_window_s < 10
    assert reasons(answers(Target(4, 3), (0, 10))) == [HoldReason.UP_WINDOW, Target(4, 3)]


def gates(asked: Target, now_s: float, memory: GuardMemory, **changes: object) -> list[str]:
    answer = guarded(asked, seen(STANDING, now_s, **changes), RULES, memory)
    return [str(gate) for gate in answer.gates]


def test_each_gate_says_its_role_and_its_numbers() -> None:
    old = GuardMemory(began_s=-1000.0)
    assert gates(Target(4, 3), 0, old) == [
        (
            "up_window (prompt): at least 4 asked for in the last 0 s; "
            "more than 3 must be asked for throughout 3 s"
        )
    ]
    assert gates(Target(3, 2), 5, GuardMemory(began_s=0.0)) == [
        "warm_up (decoder): watched for 5 s, nothing goes before 20 s"
    ]
    assert gates(Target(3, 2), 5, old._replace(changed_at_s=1.0)) == [
        "cooldown (decoder): the target moved 4 s ago; may shrink in 6 s"
    ]
    wanted = old._replace(changed_at_s=1.0, asked=((2, 3, 3),))
    assert gates(Target(3, 2), 5, wanted) == [
        "cooldown (decoder): the target moved 4 s ago; may shrink in 17 s"
    ]
    asked = old._replace(asked=((0, 3, 3), (4, 3, 3), (6, 3, 2)))
    assert gates(Target(3, 2), 10, asked) == [
        (
            "down_window (decoder): 3 asked for, or held, in the last 20 s; "
            "may shrink in 14 s if no more is asked for until then"
        )
    ]
    assert gates(Target(9, 3), 0, old)[0] == (
        "budget: 9P:3D becomes 5P:3D: 1 to 6 prompt, 1 to 6 decoder, at most 8 nodes"
    )


def test_a_step_that_is_cut_is_named_and_the_rest_of_it_is_made() -> None:
    up = guarded(
        Target(6, 1),
        seen(Target(3, 1), 3),
        RULES,
        GuardMemory(began_s=-1000.0, asked=((0, 6, 1),)),
    )
    assert up.decision == Target(5, 1)
    assert [str(g) for g in up.gates] == ["step (prompt): 6 asked for, at most 2 at once"]
    down = guarded(Target(3, 1), seen(STANDING, 0), RULES, GuardMemory(began_s=-1000.0))
    assert down.decision == Target(3, 2)
    assert [str(g) for g in down.gates] == ["step (decoder): 1 asked for, at most 1 less at once"]


def test_at_a_full_budget_the_ratio_moves_once_the_other_role_may_shrink() -> None:
    decisions = answers(Target(5, 3), (0, 3), standing=Target(4, 4))
    assert decisions[-1] == Target(5, 3)
    # While the decoders' down window still wants four of them, there is no room for a fifth.
    memory = GuardMemory(began_s=-1000.0, asked=((0.0, 5, 4),))
    answer = guarded(Target(5, 3), seen(Target(4, 4), 3), RULES, memory)
    assert isinstance(answer.decision, Hold)


def test_a_ratio_is_repaired_upwards() -> None:
    rules = replace(RULES, limits=replace(LIMITS, ratio_min=0.5), up_window_s=0)
    answer = guarded(Target(1, 4), seen(Target(1, 3), 0), rules, GuardMemory(began_s=-1000.0))
    assert answer.decision == Target(2, 4)


def test_a_hold_passes_through_and_an_unsynced_fleet_holds() -> None:
    hold = Hold(HoldReason.NO_METRICS)
    memory = GuardMemory(began_s=0)
    assert guarded(hold, seen(Target(3, 3), 0), RULES, memory).decision == hold
    unsynced = seen(Target(3, 3), 0, is_synced=False)
    assert reasons([guarded(Target(4, 4), unsynced, RULES, memory).decision]) == [
        HoldReason.NOT_SYNCED
    ]


@given(
    asked=st.builds(Target, st.integers(0, 50), st.integers(0, 50)),
    standing=st.builds(Target, st.integers(1, 6), st.integers(1, 2)),
)
def test_no_answer_leaves_the_limits(asked: Target, standing: Target) -> None:
    for decision in answers(asked, (0, 3, 30, 60, 90), standing=standing):
        if isinstance(decision, Target):
            assert 1 <= decision.prompt <= LIMITS.prompt_max
            assert 1 <= decision.decoder <= LIMITS.decoder_max
            assert decision.total <= LIMITS.nodes_max


@given(st.builds(Target, st.integers(0, 50), st.integers(0, 50)))
def test_a_target_brought_within_the_limits_is_there_and_stays_as_it_is(target: Target) -> None:
    inside = within(target, LIMITS)
    assert within(inside, LIMITS) == inside
    assert 1 <= inside.prompt <= LIMITS.prompt_max
    assert 1 <= inside.decoder <= LIMITS.decoder_max
    assert inside.total <= LIMITS.nodes_max


def test_a_role_can_be_spared_only_if_the_rest_stay_below_saturation() -> None:
    def with_load(queue: float, kv_used: float, fresh: int = 3) -> Snapshot:
        signals = RoleSignals(
            serving=3, fresh=fresh, queue=Signal(queue, 0), kv_used_mean=Signal(kv_used, 0)
        )
        return seen(Target(3, 3), 0, decoder=signals)

    assert can_spare(with_load(2, 0.5), Role.DECODER)
    assert not can_spare(with_load(2, 0.6), Role.DECODER)
    assert not can_spare(with_load(11, 0.1), Role.DECODER)
    assert not can_spare(with_load(0, 0.0, fresh=2), Role.DECODER)
    partly = replace(FRESH, queue=Signal(0, 0, is_lower_bound=True), kv_used_mean=Signal(0, 0))
    assert not can_spare(seen(Target(3, 3), 0, decoder=partly), Role.DECODER)
    partly = replace(FRESH, queue=Signal(0, 0), kv_used_mean=Signal(0, 0, nodes=2))
    assert not can_spare(seen(Target(3, 3), 0, decoder=partly), Role.DECODER)
