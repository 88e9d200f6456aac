import math

import numpy as np
import pytest

from pd_autoscaler.sim.report.windows import Windows, windows_over

TWO = Windows(width_s=10.0, count=2)
NEVER = math.nan


def test_a_rate_is_what_came_in_a_window_per_second() -> None:
    at_s = np.array([0.0, 9.9, 10.0, 12.0, 19.0])
    tokens = np.array([5, 5, 10, 20, 30])

    assert list(TWO.rates(at_s)) == [0.2, 0.3]
    assert list(TWO.rates(at_s, tokens)) == [1.0, 6.0]


def test_what_came_after_the_last_window_counts_in_it() -> None:
    assert list(TWO.rates(np.array([20.0, 35.0]))) == [0.0, 0.2]


def test_a_quantile_is_a_value_that_was_seen() -> None:
    at_s = np.array([12.0, 1.0, 11.0, 2.0, 13.0])
    values = np.array([8.0, 1.0, 6.0, 3.0, 7.0])
    middle, high = TWO.quantiles(at_s, values, (0.5, 0.95))

    assert list(middle) == [3.0, 7.0]
    assert list(high) == [3.0, 8.0]


def test_a_value_that_never_came_is_the_highest_and_cannot_be_drawn() -> None:
    at_s = np.array([1.0, 2.0, 3.0, 4.0])
    (middle, high) = TWO.quantiles(at_s, np.array([NEVER, 1.0, 2.0, 3.0]), (0.5, 0.95))

    assert middle[0] == 3.0
    assert math.isnan(high[0])


def test_an_empty_window_has_no_quantile_and_no_share() -> None:
    at_s = np.array([1.0, 2.0])
    assert math.isnan(TWO.quantiles(at_s, at_s, (0.5,))[0][1])

    shares = TWO.shares(at_s, np.array([True, False]))
    assert shares[0] == 0.5
    assert math.isnan(shares[1])


def test_what_held_at_the_end_of_a_window_is_what_was_seen_last_before_it() -> None:
    three = Windows(width_s=10.0, count=3)
    found = three.last(np.array([10.0, 15.0, 30.0]), np.array([1.0, 2.0, 9.0]))

    assert math.isnan(found[0])
    assert list(found[1:]) == [2.0, 2.0]


def test_the_peak_of_a_window_survives_and_holds_where_nothing_was_seen() -> None:
    found = TWO.highest(np.array([0.0, 3.0, 6.0]), np.array([1.0, 40.0, 2.0]))

    assert list(found) == [40.0, 2.0]


def test_a_run_without_samples_has_empty_series() -> None:
    nothing = np.array([])
    assert np.isnan(TWO.last(nothing, nothing)).all()
    assert np.isnan(TWO.highest(nothing, nothing)).all()


@pytest.mark.parametrize(
    ("lasted_s", "expected"),
    [
        (0.0, Windows(1.0, 1)),
        (3600.0, Windows(10.0, 360)),
        (86400.0, Windows(300.0, 288)),
        (400 * 86400.0, Windows(86400.0, 400)),
        (1000 * 86400.0, Windows(172800.0, 500)),
    ],
)
def test_windows_are_as_narrow_as_the_points_allow_and_of_a_nameable_width(
    lasted_s: float, expected: Windows
) -> None:
    assert windows_over(lasted_s, points_max=500) == expected
