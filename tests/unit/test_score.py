"""Scores: requests, windows, bursts, churn and intervals on hand-made runs."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.sim.attainment import recovery_s, verdicts, worst
from pd_autoscaler.sim.churn import reversals
from pd_autoscaler.sim.intervals import Interval, interval, paired, t_975
from pd_autoscaler.sim.records import Change, RequestLog, Run, Sample, Slo
from pd_autoscaler.sim.score import FIGURES, Score, averaged, compared, scored
from pd_autoscaler.sim.staffing import Staffing
from pd_autoscaler.workload.arrivals import Arrivals

SLO = Slo("chat", 1.0, 0.050)
NEVER = math.nan


def log(*rows: tuple[float, int, float, float]) -> RequestLog:
    """Make requests of (arrival, output tokens, seconds to the first token, seconds a token)."""
    at_s = np.array([row[0] for row in rows], np.float64)
    output = np.array([row[1] for row in rows], np.int64)
    first_s = at_s + np.array([row[2] for row in rows], np.float64)
    done_s = first_s + np.array([row[3] for row in rows], np.float64) * (output - 1)
    ones = np.ones(len(rows), np.int64)
    return RequestLog(Arrivals(at_s, ones, output, ones * 0), first_s, done_s)


def run(requests: RequestLog, **more: object) -> Run:
    plain: dict[str, object] = {
        "scenario": "s",
        "policy": "p",
        "seed": 1,
        "requests": requests,
        "node_seconds": {Role.PROMPT: 3600.0, Role.DECODER: 7200.0},
        "lasted_s": 10_000.0,
    }
    return Run(**{**plain, **more})  # type: ignore[arg-type]


def sample(at_s: float, prompt: int, decoder: int, *, starting: int = 0) -> Sample:
    return Sample(
        at_s=at_s,
        target=Target(prompt, decoder),
        nodes={
            (Role.PROMPT, NodeState.SERVING): prompt,
            (Role.DECODER, NodeState.SERVING): decoder,
            (Role.DECODER, NodeState.STARTING): starting,
            (Role.PROMPT, NodeState.STANDBY): 50,
        },
        queue_prompt=0,
        queue_decoder=0,
        running_prompt=0,
        running_decoder=0,
    )


def change(at_s: float, before: Target, after: Target) -> Change:
    return Change(at_s, before, after)


GOOD, LATE, SLOW = (0.5, 0.04), (1.5, 0.04), (0.5, 0.06)


def test_attainment_is_of_the_offered_requests() -> None:
    found = scored(
        run(
            log(
                (0.0, 10, *GOOD),
                (1.0, 10, *LATE),
                (2.0, 10, *SLOW),
                (3.0, 10, NEVER, NEVER),  # Refused.
                (4.0, 10, 0.5, NEVER),  # Begun and never finished.
            )
        ),
        SLO,
    )
    assert (found.requests, found.ttft, found.tpot, found.both) == (5, 3 / 5, 2 / 5, 1 / 5)
    assert not found.is_at_target
    assert found.goodput_per_node_hour == pytest.approx(1 / 3)


def test_a_single_token_has_no_time_per_token_to_miss() -> None:
    assert scored(run(log((0.0, 1, 0.9, 0.0))), SLO).both == 1.0


def test_a_latency_just_at_the_target_is_in_time() -> None:
    assert scored(run(log((0.0, 2, 1.0, 0.05))), SLO).both == 1.0


def test_requests_of_the_warm_up_do_not_count() -> None:
    found = scored(run(log((0.0, 10, *LATE), (60.0, 10, *GOOD))), SLO, warmup_s=60.0)
    assert (found.requests, found.both) == (1, 1.0)


def test_a_request_that_is_not_due_at_the_end_does_not_count_however_it_went() -> None:
    rows = log((0.0, 101, *LATE), (95.0, 101, *GOOD), (95.0, 101, NEVER, NEVER))
    # Due at 95 + 1 + 100 * 0.05.
    assert scored(run(rows, lasted_s=100.9), SLO).requests == 1
    assert scored(run(rows, lasted_s=101.0), SLO).requests == 3


def test_a_run_without_requests_misses_nothing() -> None:
    found = scored(run(log(), node_seconds={}), SLO)
    assert (found.both, found.worst_both, found.goodput_per_node_hour) == (1.0, 1.0, 0.0)


def test_the_worst_window_is_five_minutes_of_arrivals() -> None:
    rows = [(at_s, 2, *(LATE if 600 <= at_s < 750 else GOOD)) for at_s in np.arange(0, 1800, 1.0)]
    found = scored(run(log(*rows)), SLO)
    assert found.worst_ttft == pytest.approx(0.5)
    assert found.worst_tpot == 1.0
    assert found.both == pytest.approx(1 - 150 / 1800)


def test_a_window_of_few_requests_is_not_judged() -> None:
    busy = [(float(at_s), 2, *GOOD) for at_s in range(300)]
    rows = log(*busy, (2000.0, 2, *LATE))
    of = verdicts(rows, SLO, lasted_s=1e4)
    assert worst(of, of.both) == 1.0


def test_where_no_window_can_be_judged_all_requests_are_one() -> None:
    assert scored(run(log((0.0, 2, *GOOD), (900.0, 2, *LATE))), SLO).worst_both == 0.5


def test_recovery_ends_with_the_first_minute_back_at_the_target() -> None:
    rows = [(at_s, 2, *(LATE if 130 <= at_s < 290 else GOOD)) for at_s in np.arange(0, 900, 1.0)]
    of = verdicts(log(*rows), SLO, lasted_s=1e4)
    assert recovery_s(of, 100.0, target=0.99) == 240.0
    assert recovery_s(of, 400.0, target=0.99) == 0.0


def test_a_burst_that_is_never_over_has_no_recovery() -> None:
    rows = [(at_s, 2, *(LATE if at_s > 120 else GOOD)) for at_s in np.arange(0, 900, 1.0)]
    found = scored(run(log(*rows)), SLO, bursts_s=(100.0, 5000.0))
    assert found.recovery_s == (None, 0.0)


def test_a_dip_long_after_a_burst_is_not_the_bursts() -> None:
    rows = [(at_s, 2, *(LATE if at_s > 800 else GOOD)) for at_s in np.arange(0, 900, 1.0)]
    of = verdicts(log(*rows), SLO, lasted_s=1e4)
    assert recovery_s(of, 100.0, target=0.99) == 0.0


def test_latencies_of_requests_that_were_never_served_are_infinite() -> None:
    rows = [(float(i), 3, 0.1 * (i + 1), 0.01) for i in range(9)] + [(9.0, 3, NEVER, NEVER)]
    found = scored(run(log(*rows)), SLO)
    assert found.ttft_p50_s == pytest.approx(0.5)
    assert found.ttft_p90_s == pytest.approx(0.9)
    assert found.ttft_p99_s == math.inf
    assert found.to_dict()["ttft_p99_s"] is None


def test_a_reversal_is_a_turn_of_one_role_within_ten_minutes() -> None:
    moves = [
        change(0.0, Target(2, 2), Target(3, 2)),
        change(100.0, Target(3, 2), Target(3, 3)),  # Another role: no turn.
        change(600.0, Target(3, 3), Target(2, 3)),  # Turned within 600 s.
        change(1300.0, Target(2, 3), Target(3, 3)),  # Turned, but later than that.
        change(1310.0, Target(3, 3), Target(4, 2)),  # Decoders turned after 1,210 s.
        change(1400.0, Target(4, 2), Target(3, 3)),  # Both turned.
    ]
    assert reversals(moves) == 3


def test_cost_and_overshoot_are_held_against_the_oracle() -> None:
    oracle = Staffing(60.0, (1, 2), (2, 2))
    found = scored(
        run(
            log((0.0, 2, *GOOD)),
            samples=(sample(0.0, 1, 2), sample(30.0, 2, 3, starting=1), sample(60.0, 1, 3)),
            starts=4,
            stops=3,
            switches=2,
            link_calls=9,
            preemptions=5,
        ),
        SLO,
        oracle=oracle,
    )
    assert found.cost_ratio == pytest.approx(3.0 / (7 / 60))
    assert found.overshoot_max == pytest.approx(6 / 3 - 1)
    assert found.overshoot_mean == pytest.approx(1 / 3)
    assert found.short_share == pytest.approx(1 / 3)
    assert found.imbalance == pytest.approx((0 + abs(2 / 1 - 3 / 2) + abs(1 / 2 - 3 / 2)) / 3)
    assert (found.actions, found.link_calls, found.preemptions) == (9, 9, 5)


def test_without_an_oracle_nothing_is_held_against_it() -> None:
    found = scored(run(log((0.0, 2, *GOOD)), samples=(sample(0.0, 1, 2),)), SLO)
    assert (found.cost_ratio, found.overshoot_max, found.imbalance) == (None, None, None)


def test_a_score_can_be_written_as_json() -> None:
    found = scored(run(log((0.0, 2, NEVER, NEVER))), SLO, bursts_s=(0.0,))
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again["recovery_s"] == [None]
    assert set(again) == {"scenario", "policy", "seed", "slo", "recovery_s", *FIGURES}


def test_an_interval_is_students() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert found is not None
    assert found.mean == 2.0
    assert found.half_width == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    assert (found.low, found.high) == pytest.approx((2.0 - 2.484, 2.0 + 2.484), abs=1e-3)


def test_one_value_has_a_mean_and_no_width_and_none_has_neither() -> None:
    assert interval([4.0]) == Interval(4.0, None, 1)
    assert interval([]) is None


@pytest.mark.parametrize("freedom", [*range(1, 31), 31, 40, 100, 1000])
def test_the_quantile_leaves_two_and_a_half_percent_of_students_density(freedom: int) -> None:
    x = np.linspace(0, t_975(freedom), 200_001)
    scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    density = np.exp(scale - (freedom + 1) / 2 * np.log1p(x * x / freedom))
    area = np.trapezoid(density, x) / math.sqrt(freedom * math.pi)
    assert area == pytest.approx(0.475, abs=1e-5)


def test_differences_are_taken_seed_by_seed() -> None:
    found = paired({1: 10.0, 2: 20.0, 3: 99.0}, {1: 9.0, 2: 18.0, 4: 0.0})
    assert found is not None
    assert (found.mean, found.count) == (1.5, 2)


def scores(values: dict[int, float], **more: object) -> list[Score]:
    plain = scored(run(log((0.0, 2, *GOOD))), SLO)
    return [
        replace(plain, seed=seed, node_hours=hours, **more)  # type: ignore[arg-type]
        for seed, hours in values.items()
    ]


def test_two_policies_are_compared_on_the_same_seeds() -> None:
    found = compared(scores({1: 3.0, 2: 5.0, 3: 50.0}), scores({2: 4.0, 1: 1.0}), "node_hours")
    assert found is not None
    assert (found.mean, found.count) == (1.5, 2)
    with pytest.raises(ValueError, match="is no figure"):
        compared([], [], "beauty")


def test_figures_are_averaged_and_those_that_a_run_lacks_left_out() -> None:
    found = averaged(scores({1: 3.0, 2: 5.0}, recovery_s=(60.0, 120.0)))
    assert found["node_hours"].mean == 4.0
    assert found["is_at_target"].mean == 1.0
    assert found["recovery_s"].mean == 90.0
    assert "cost_ratio" not in found
    assert "recovery_s" not in averaged(scores({1: 3.0}, recovery_s=(60.0, None)))


@given(
    st.lists(st.tuples(st.floats(0, 3000), st.sampled_from((GOOD, LATE, SLOW))), max_size=60),
)
def test_the_worst_window_is_no_better_than_half_of_the_misses_allow(
    rows: list[tuple[float, tuple[float, float]]],
) -> None:
    of = verdicts(log(*((at_s, 2, *how) for at_s, how in sorted(rows))), SLO, lasted_s=1e4)
    found = worst(of, of.both)
    assert 0.0 <= found <= 1.0
    if of.both.all():
        assert found == 1.0
