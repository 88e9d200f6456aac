"""Forecasts of one demand: level, trend, jumps, noise, and what past ones fell short by."""

import math
import random
from collections.abc import Callable, Iterable
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.core.forecast import ERRORS_MAX, POINTS_MAX, Track

EMPTY = Track(window_s=30.0, trend_s=600.0)


def seen(value_at: Callable[[float], float], until_s: float, track: Track = EMPTY) -> Track:
    for cycle in range(round(until_s / 10) + 1):
        track = track.seen(value_at(cycle * 10.0), now_s=cycle * 10.0)
    return track


def shown(values: Iterable[float]) -> Track:
    track = EMPTY
    for index, value in enumerate(values):
        track = track.seen(value, now_s=30.0 * index)
    return track


def test_nothing_seen_is_nothing_expected() -> None:
    assert EMPTY.level() is None
    assert EMPTY.ahead(60.0, now_s=0.0) is None
    assert EMPTY.variance is None


def test_a_steady_demand_stays() -> None:
    track = seen(lambda _: 8.0, 600)

    assert track.level() == 8.0
    assert track.ahead(300.0, now_s=600.0) == 8.0


def test_a_ramp_goes_on_and_fades() -> None:
    track = seen(lambda at_s: 10.0 + 0.02 * at_s, 600)

    level = track.level()
    assert level is not None
    assert track.slope() == pytest.approx(0.02)
    assert track.ahead(60.0, now_s=600.0) == pytest.approx(level + 0.02 * 60, rel=0.01)
    # In the long run it rises by no more than it does in `trend_s`.
    assert track.ahead(1e6, now_s=600.0) == pytest.approx(level + 0.02 * 600)


def test_a_step_is_a_new_level_at_once_and_no_trend() -> None:
    track = seen(lambda at_s: 8.0 if at_s < 600 else 24.0, 600)

    assert track.level() == 24.0
    for cycle in range(61, 120):
        track = track.seen(24.0, now_s=cycle * 10.0)
        assert track.ahead(150.0, now_s=cycle * 10.0) == 24.0


def test_noise_makes_no_trend() -> None:
    track = shown([10.0, 12.0] * 10)

    assert track.slope() == pytest.approx(0.0, abs=0.002)
    assert track.level() == 11.0


def test_the_variance_of_windows_is_that_of_their_noise() -> None:
    noise = random.Random(7)
    tracks = [shown(noise.gauss(100.0, 10.0) for _ in range(60)) for _ in range(20)]

    assert fmean(track.variance or 0.0 for track in tracks) == pytest.approx(0.1**2, rel=0.1)


def test_neither_a_trend_nor_one_step_is_noise() -> None:
    ramp = shown(100.0 + index for index in range(40))
    step = shown([100.0] * 20 + [300.0] * 20)

    assert ramp.variance == pytest.approx(0.0, abs=1e-4)
    assert step.variance == 0.0


def answered(values: Iterable[float]) -> Track:
    """Forecast 10 in every window, for the next."""
    track = EMPTY
    for index, value in enumerate(values):
        now_s = 30.0 * index
        track = track.seen(value, now_s=now_s).promised(10.0, at_s=now_s + 30.0)
    return track


def test_what_forecasts_fell_short_by_is_a_quantile() -> None:
    track = answered(([10.0] * 4 + [20.0]) * 12)

    assert track.excess(0.75, first=0.3, horizon_s=30.0) == 0.0
    assert track.excess(0.85, first=0.3, horizon_s=30.0) == 1.0


def test_one_step_does_not_decide_what_forecasts_fall_short_by() -> None:
    track = answered([10.0] * 25 + [50.0] * 3)
    assert track.excess(0.99, first=0.3, horizon_s=30.0) == 0.0


def test_before_forecasts_come_due_the_first_guess_holds() -> None:
    assert EMPTY.excess(0.9, first=0.3, horizon_s=30.0) == 0.3
    assert answered([10.0] * 10).excess(0.9, first=0.3, horizon_s=30.0) == 0.3


def test_a_forecast_that_came_due_in_a_silence_is_not_judged() -> None:
    track = EMPTY.seen(10.0, now_s=0.0).promised(10.0, at_s=60.0)
    assert track.seen(99.0, now_s=900.0).errors == ()


def test_the_same_moment_twice_counts_once() -> None:
    track = seen(lambda _: 8.0, 60)
    assert track.seen(99.0, now_s=60.0) is track


@given(st.lists(st.floats(min_value=0.0, max_value=1e12), max_size=150))
def test_whatever_is_seen_is_bounded_and_expected_as_a_number(values: list[float]) -> None:
    track = EMPTY
    for index, value in enumerate(values):
        now_s = index * 20.0
        track = track.seen(value, now_s=now_s)
        ahead = track.ahead(155.0, now_s=now_s)
        assert ahead is not None
        assert 0.0 <= ahead < math.inf
        track = track.promised(ahead, at_s=now_s + 155.0)

    assert len(track.points) <= POINTS_MAX
    assert len(track.due) <= POINTS_MAX
    assert len(track.errors) <= ERRORS_MAX
    assert 0.0 <= track.excess(0.9, first=0.1, horizon_s=155.0) < math.inf
