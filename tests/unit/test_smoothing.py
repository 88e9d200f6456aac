"""Averages in which the past loses half of its weight every half-life."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.core.smoothing import FIRST_WEIGHT, Smoothed, smoothed


def test_half_of_the_past_is_left_after_a_half_life() -> None:
    got = smoothed(Smoothed(8.0, 0.0), 0.0, now_s=60.0, half_life_s=60.0)

    assert got == Smoothed(4.0, 60.0)


def test_the_first_value_is_the_average() -> None:
    assert smoothed(None, 3.0, now_s=5.0, half_life_s=60.0) == Smoothed(3.0, 5.0, FIRST_WEIGHT)


def test_the_first_value_counts_as_a_short_past_and_not_as_an_endless_one() -> None:
    begun = smoothed(None, 100.0, now_s=0.0, half_life_s=60.0)

    settled = smoothed(begun, 10.0, now_s=60.0, half_life_s=60.0)

    assert settled.value == pytest.approx((0.05 * 100 + 0.5 * 10) / 0.55)
    assert settled.weight == pytest.approx(0.55)


def test_without_a_half_life_the_newest_value_counts_alone() -> None:
    assert smoothed(Smoothed(8.0, 0.0), 2.0, now_s=1.0, half_life_s=0.0) == Smoothed(2.0, 1.0)


def test_a_value_from_the_past_is_not_taken_in() -> None:
    before = Smoothed(8.0, 10.0)

    assert smoothed(before, 2.0, now_s=9.0, half_life_s=60.0) is before


_MOMENTS = st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1e9)), min_size=1, max_size=30)


@given(_MOMENTS, st.floats(0, 1e4))
def test_an_average_lies_between_the_least_and_the_greatest(
    moments: list[tuple[float, float]], half_life_s: float
) -> None:
    average, now_s = None, 0.0
    for passed_s, value in moments:
        now_s += passed_s
        average = smoothed(average, value, now_s=now_s, half_life_s=half_life_s)

    assert average is not None
    values = [value for _, value in moments]
    assert min(values) <= average.value <= max(values)


@given(st.floats(0, 1e3), st.floats(0, 1e3), st.floats(0.1, 1e3), st.floats(0, 1))
def test_showing_a_value_twice_changes_nothing(
    first: float, second: float, passed_s: float, part: float
) -> None:
    before = Smoothed(first, 0.0)
    between = smoothed(before, second, now_s=part * passed_s, half_life_s=30.0)

    once = smoothed(before, second, now_s=passed_s, half_life_s=30.0)
    twice = smoothed(between, second, now_s=passed_s, half_life_s=30.0)

    assert twice.value == pytest.approx(once.value, abs=1e-6)
