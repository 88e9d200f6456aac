"""hpa: Kubernetes' rule, by the worked examples of its documentation and of its code."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.policies.hpa import Hpa, HpaParams
from pd_autoscaler.policies.hpa_rule import Pace, Readings, Scale, proposed
from tests.support.moments import loads, moment

PLAIN = {"prompt_token_use": None, "decoder_token_use": None, "prompt_queue": 10.0}
"""One metric a role, as most operators have it."""


def count(
    *values: float, target: float = 100.0, missing: int = 0, unready: int = 0, current: int = 0
) -> int | None:
    """Return what a metric of these values calls for at Kubernetes' tolerance."""
    seen = Readings(tuple(values), missing, unready)
    current = current or len(values) + missing + unready
    proposal = proposed(seen, target=target, current=current, tolerance=0.1)
    return None if proposal is None else proposal.count


def test_twice_the_target_doubles_and_half_of_it_halves() -> None:
    # "if the current metric value is 200m, and the desired value is 100m, the number of replicas
    # will be doubled, since 200.0 / 100.0 == 2.0. If the current value is instead 50m, you'll halve
    # the number of replicas" (kubernetes.io, Horizontal Pod Autoscaling, Algorithm details).
    assert count(0.2, 0.2, 0.2, target=0.1) == 6
    assert count(0.05, 0.05, 0.05, 0.05, target=0.1) == 2


@pytest.mark.parametrize(("value", "nodes"), [(110, 10), (111, 12), (90, 10), (89, 9)])
def test_a_tenth_from_the_target_nothing_moves(value: float, nodes: int) -> None:
    assert count(*[value] * 10) == nodes


def test_counts_are_rounded_up_and_not_by_the_noise_of_a_sum() -> None:
    assert count(150, 150, 151) == 5
    assert count(0.1, 0.1, 0.1, target=0.05) == 6


def test_a_missing_node_counts_as_idle_where_more_are_called_for() -> None:
    assert count(300, 300) == 6
    # 600 over three nodes are twice the target.
    assert count(300, 300, missing=1) == 6
    # 300 over four nodes are below it: the change of direction keeps what there is.
    assert count(150, 150, missing=2) == 4


def test_a_missing_node_counts_as_on_target_where_fewer_are_called_for() -> None:
    assert count(20, 20) == 1
    # 20 + 20 + 100 are 46 a node: three nodes of it on 100 each are 1.38.
    assert count(20, 20, missing=1) == 2
    assert count(80, 80, missing=2) == 4


def test_an_unready_node_counts_as_idle_where_more_are_called_for_and_not_else() -> None:
    # Both nodes at 160 are 1.6; with the one that comes 320 over three are within a tenth of it.
    assert count(160, 160, unready=1) == 3
    assert count(300, 300, unready=1) == 6
    assert count(20, 20, unready=3) == 1


def test_nobody_who_tells_is_no_proposal() -> None:
    assert count(missing=3) is None


def scale(up: Pace | None = None, down: Pace | None = None) -> Scale:
    return Scale(
        up or Pace(window_s=0, percent=100, nodes=4, period_s=15),
        down or Pace(window_s=300, percent=100, nodes=0, period_s=15),
    )


def test_a_role_grows_by_four_nodes_or_double_in_fifteen_seconds() -> None:
    small, large = scale(), scale()

    assert small.paced(100, current=2, now_s=0) == 6
    assert large.paced(100, current=10, now_s=0) == 20
    large.changed(10, at_s=0)
    # Of the 15 s since it began with 10 nothing is left.
    assert large.paced(100, current=20, now_s=10) == 20
    assert large.paced(100, current=20, now_s=15) == 40


def test_what_went_in_the_period_may_come_back() -> None:
    role = scale(up=Pace(window_s=0, percent=0, nodes=1, period_s=60))
    role.changed(-5, at_s=0)

    # The period began with ten: eleven are its most.
    assert role.paced(100, current=5, now_s=10) == 11


def test_a_role_shrinks_to_the_most_that_was_wanted_in_five_minutes() -> None:
    role = scale()
    seen = [
        role.paced(wanted, current=5, now_s=now_s)
        for now_s, wanted in ((0, 2), (100, 4), (200, 2), (299, 2), (301, 2), (399, 2), (401, 2))
    ]

    # The count found at the start is the first that was wanted.
    assert seen == [5, 5, 5, 5, 4, 4, 2]


def test_with_an_up_window_a_role_grows_to_the_least_that_was_wanted_in_it() -> None:
    role = scale(up=Pace(window_s=60, percent=900, nodes=0, period_s=15))
    seen = [role.paced(wanted, current=2, now_s=at) for at, wanted in ((0, 8), (30, 6), (61, 9))]

    assert seen == [2, 2, 6]


def test_the_paces_of_the_documentation_shrink_by_the_one_that_allows_more() -> None:
    # 80 nodes under "4 pods" and "10 percent" a minute go by the percentage, rounded up, until 40
    # are left, then by 4 (kubernetes.io, Horizontal Pod Autoscaling, Scaling policies).
    role = scale(down=Pace(window_s=0, percent=10, nodes=4, period_s=60))
    current, seen = 80, [80]
    for minute in range(6):
        after = role.paced(10, current=current, now_s=60 * minute)
        role.changed(after - current, at_s=60 * minute)
        current = after
        seen.append(current)

    assert seen == [80, 72, 64, 57, 51, 45, 40]
    assert role.paced(10, current=40, now_s=360) == 36


def decided(
    queues: Sequence[float | None],
    kv_used: Sequence[float | None] = (0.7, 0.7),
    *,
    target: Target | None = None,
    coming: int = 0,
    **params: float | None,
) -> Decision:
    shown = moment(
        loads(*queues, name="queue"),
        loads(*kv_used, name="kv_used"),
        target=target,
        coming=[(f"new-{i}", Role.PROMPT) for i in range(coming)],
    )
    policy = Hpa(HpaParams.model_validate(PLAIN | {"down_window_s": 0.0} | params))
    return policy.decide(shown)


def test_each_role_follows_its_own_metric() -> None:
    decision = decided([20, 20, 20], [0.35, 0.35])

    assert decision == Target(6, 1)
    assert decision.why == (
        "prompt: queue a node at 200% of 10: 6 of 3 wanted; "
        "decoder: KV use at 50% of 0.7: 1 of 2 wanted"
    )


def test_the_largest_proposal_of_several_metrics_counts() -> None:
    shown = moment(
        loads(0, 0, name="queue"),
        [*loads(2000.0, 2000.0, name="token_rate")],
    )
    policy = Hpa(HpaParams(prompt_token_use=None, decoder_kv=None, decoder_token_use=0.5))

    decision = policy.decide(shown)

    # A full decoder does 2000 tokens a second here.
    assert isinstance(decision, Target)
    assert decision.decoder == 4
    assert "token use at 200% of 0.5" in decision.why


def test_an_unknown_metric_keeps_a_role_from_shrinking_and_not_from_growing() -> None:
    idle = decided([0, 0, 0], prompt_token_use=0.7)
    full = decided([40, 40, 40], prompt_token_use=0.7)

    assert idle == Target(3, 2)
    assert isinstance(idle, Target)
    assert "token use unknown: stays at 3" in idle.why
    assert full == Target(7, 2)


def test_coming_nodes_count_as_idle_where_more_are_wanted() -> None:
    assert decided([20, 20], coming=0, target=Target(4, 2)) == Target(4, 2)
    # 40 waiting over four nodes are what each should have.
    assert decided([20, 20], coming=2, target=Target(4, 2)) == Target(4, 2)
    assert decided([60, 60], coming=2, target=Target(4, 2)) == Target(8, 2)
    assert decided([60, 60], coming=0, target=Target(4, 2)) == Target(8, 2)


def test_a_fleet_of_which_nothing_is_known_is_held() -> None:
    held = Hpa(HpaParams()).decide(moment([None, None], [None]))

    assert isinstance(held, Hold)
    assert held.reason is HoldReason.NO_METRICS
    assert "queue a node unknown" in held.detail


def test_between_two_looks_the_last_answer_stands() -> None:
    policy = Hpa(HpaParams.model_validate(PLAIN))
    answers = [
        policy.decide(
            moment(
                loads(queue, name="queue"),
                loads(0.7, name="kv_used"),
                now_s=now_s,
                target=Target(1, 1),
            )
        )
        for now_s, queue in ((0, 20), (5, 50), (14.9, 50), (15, 50))
    ]

    assert answers == [Target(2, 1), Target(2, 1), Target(2, 1), Target(5, 1)]


def test_what_the_guard_let_through_is_what_the_pace_counts() -> None:
    policy = Hpa(HpaParams.model_validate(PLAIN | {"up_period_s": 60.0}))

    def asked(now_s: float, target: Target) -> Decision:
        nodes = loads(*[90.0] * target.prompt, name="queue")
        kv = loads(0.7, 0.7, name="kv_used")
        return policy.decide(moment(nodes, kv, now_s=now_s, target=target))

    # Held back at first, it may still grow by four; then the four count for a minute.
    assert asked(0, Target(2, 2)) == Target(6, 2)
    assert asked(20, Target(2, 2)) == Target(6, 2)
    assert asked(40, Target(6, 2)) == Target(6, 2)
    assert asked(81, Target(6, 2)) == Target(12, 2)


@given(
    st.lists(st.floats(min_value=0, max_value=1e9), min_size=1, max_size=20),
    st.integers(min_value=0, max_value=5),
    st.integers(min_value=0, max_value=5),
)
def test_missing_and_unready_nodes_never_make_a_change_larger(
    values: list[float], missing: int, unready: int
) -> None:
    current = len(values) + missing + unready
    seen = Readings(tuple(values), missing, unready)
    proposal = proposed(seen, target=10.0, current=current, tolerance=0.1)
    plain = proposed(Readings(tuple(values)), target=10.0, current=current, tolerance=0.1)

    assert proposal is not None
    assert plain is not None
    if proposal.count > current:
        assert proposal.count <= plain.count + 1
    if proposal.count < current and missing:
        assert proposal.count >= plain.count


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"prompt_queue": None, "prompt_token_use": None}, "one of prompt_queue and"),
        ({"decoder_kv": None, "decoder_token_use": None}, "one of decoder_kv and"),
        ({"up_percent": 0, "up_nodes": 0}, "else nothing grows"),
    ],
)
def test_parameters_that_contradict_are_refused(params: dict[str, float], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        HpaParams.model_validate(params)
