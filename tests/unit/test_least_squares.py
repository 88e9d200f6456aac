"""Least squares that go on: recovery, outliers, changes, forgetting, and what stays sane."""

import math
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.core.least_squares import (
    GUESS_SAMPLES,
    LEAP,
    MEMORY_S,
    PATIENCE,
    REACH,
    STREAK,
    Fit,
)
from pd_autoscaler.core.matrices import Vector, identity, solved

TRUTH: Vector = (0.018, 6.0e-4, 3.0e-7)
SHAPE: Vector = (0.030, 2.0e-4, 1.8e-7)
WINDOW_S = 30.0
POINTS = [(1.0, b, b * held) for b in (4.0, 10.0, 20.0, 40.0) for held in (700.0, 1000.0, 1400.0)]


def step_s(at: Vector, truth: Vector = TRUTH) -> float:
    """Return the true value."""
    return sum(value * part for value, part in zip(truth, at, strict=True))


def guess(values: Vector = SHAPE) -> Fit:
    """Begin with a shape and no size."""
    floors = (1e-5, *(0.0 for _ in values[1:]))
    return Fit.begun(values, sizes=values, spread=1.0, floors=floors, noise_min=0.05, is_guess=True)


def believed(values: Vector, spread: float = 0.3) -> Fit:
    """Begin with what an operator measured."""
    return Fit.begun(values, sizes=values, spread=spread, floors=(1e-5, 0.0, 0.0), noise_min=0.05)


def fed(
    fit: Fit,
    count: int,
    *,
    seed: int = 1,
    truth: Vector = TRUTH,
    noise: float = 0.05,
    garbage: float = 0.0,
    begin: int = 0,
) -> Fit:
    """Teach samples of a load that comes and goes, one a window; some of them are garbage."""
    random = Random(seed)
    for index in range(begin, begin + count):
        batch = random.uniform(4, 40)
        at = (1.0, batch, batch * random.uniform(700, 1400))
        y = step_s(at, truth) * max(0.1, random.gauss(1, noise))
        if random.random() < garbage:
            y *= random.choice([0.2, 0.5, 2, 4, 10])
        fit = fit.taught(at, y, at_s=index * WINDOW_S, window_s=WINDOW_S)
    return fit


def worst(fit: Fit, truth: Vector = TRUTH) -> float:
    """Return the largest relative error over the range of loads."""
    return max(abs(fit.expected(at) / step_s(at, truth) - 1) for at in POINTS)


def test_a_solved_system_is_right() -> None:
    matrix = ((4.0, 1.0, 0.5), (1.0, 3.0, -1.0), (0.5, -1.0, 2.0))

    assert solved(matrix, (5.5, 3.0, 1.5)) == pytest.approx((1.0, 1.0, 1.0))
    assert solved(identity(2), (3.0, 4.0)) == (3.0, 4.0)


@pytest.mark.parametrize("seed", range(20))
def test_noisy_samples_give_the_steps_back(seed: int) -> None:
    fit = fed(guess(), 100, seed=seed)

    assert worst(fit) < 0.08
    assert fit.error == pytest.approx(0.05, abs=0.03)


def test_samples_without_noise_give_the_coefficients_back() -> None:
    fit = fed(guess(), 200, noise=0.0)

    assert fit.values == pytest.approx(TRUTH, rel=0.02)
    assert fit.rejected == 0


def test_an_engine_far_from_the_shape_is_found_from_the_first_samples() -> None:
    truth = (0.9, 0.004, 5e-6)

    assert worst(fed(guess(), 40, truth=truth, noise=0.02), truth) < 0.1


def test_a_guess_is_no_fit_before_enough_samples_agree_on_its_size() -> None:
    before = fed(guess(), GUESS_SAMPLES - 1)
    after = fed(guess(), GUESS_SAMPLES)

    assert (before.is_guess, before.samples) == (True, 0)
    assert (after.is_guess, after.samples) == (False, GUESS_SAMPLES)


def test_two_garbage_samples_of_the_first_five_do_not_set_the_size() -> None:
    fit = guess()
    for index, factor in enumerate((8.0, 1.0, 1.0, 8.0, 1.0)):
        at = POINTS[index]
        fit = fit.taught(at, factor * step_s(at), at_s=index * WINDOW_S, window_s=WINDOW_S)

    assert abs(fit.expected(POINTS[5]) / step_s(POINTS[5]) - 1) < 0.25


def test_a_prior_carries_until_samples_come() -> None:
    fit = believed(TRUTH)

    assert fit.expected(POINTS[0]) == pytest.approx(step_s(POINTS[0]))
    assert (fit.samples, fit.error) == (0, None)


def test_samples_correct_a_prior() -> None:
    wrong = tuple(1.3 * value for value in TRUTH)

    assert worst(fed(believed(wrong), 60)) < 0.08


def test_a_prior_that_is_wrong_by_far_is_given_up() -> None:
    wrong = tuple(5 * value for value in TRUTH)

    assert worst(fed(believed(wrong), 60)) < 0.10


@pytest.mark.parametrize("seed", range(20))
def test_one_garbage_sample_in_ten_does_not_move_the_fit(seed: int) -> None:
    fit = fed(guess(), 300, seed=seed, garbage=0.1)

    assert worst(fit) < 0.10
    assert fit.rejected == pytest.approx(30, abs=18)


def test_an_outlier_changes_nothing_but_the_count() -> None:
    fit = fed(guess(), 100)
    at = POINTS[5]
    hit = fit.taught(at, 5 * step_s(at), at_s=100 * WINDOW_S, window_s=WINDOW_S)

    assert (hit.values, hit.samples) == (fit.values, fit.samples)
    assert hit.rejected == fit.rejected + 1


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("change", [(1.6, 1.6, 1.6), (0.5, 0.5, 0.5), (2.0, 1.0, 1.0)])
def test_an_engine_that_changed_is_followed_within_twenty_samples(
    seed: int, change: Vector
) -> None:
    truth = tuple(a * b for a, b in zip(TRUTH, change, strict=True))
    before = fed(guess(), 200, seed=seed)
    after = fed(before, 20, seed=seed, truth=truth, begin=200)

    assert worst(before, truth) > 0.3
    assert worst(after, truth) < 0.15


def test_a_sample_that_fits_by_chance_does_not_hide_a_change() -> None:
    fit = fed(guess(), 100)
    for index in range(40):
        at = POINTS[index % len(POINTS)]
        slowness = 1.0 if index % 5 == 0 else 2.0
        at_s = (100 + index) * WINDOW_S
        fit = fit.taught(at, slowness * step_s(at), at_s=at_s, window_s=WINDOW_S)

    assert worst(fit, tuple(2 * value for value in TRUTH)) < 0.15


def test_an_engine_whose_steps_vary_widely_is_not_taken_for_outliers() -> None:
    fit = fed(guess(), 300, noise=0.2)

    assert fit.error == pytest.approx(0.2, abs=0.06)
    assert fit.rejected < 15
    assert worst(fit) < 0.3


@pytest.mark.parametrize("seed", range(10))
def test_an_engine_a_little_slower_is_followed_within_an_hour(seed: int) -> None:
    truth = tuple(1.2 * value for value in TRUTH)

    assert worst(fed(fed(guess(), 200, seed=seed), 120, truth=truth, begin=200), truth) < 0.08


def test_nodes_that_stumble_together_for_one_window_change_nothing() -> None:
    fit = fed(guess(), 100)
    hit = fit
    for _ in range(50):
        hit = hit.taught(POINTS[5], 3 * step_s(POINTS[5]), at_s=3000, window_s=WINDOW_S)

    assert hit.values == fit.values
    assert len(hit.streak) == STREAK


def test_one_slow_node_among_four_is_an_outlier_for_good() -> None:
    fit = fed(guess(), 100)
    for index in range(400):
        at = POINTS[index % len(POINTS)]
        slowness = 2.0 if index % 4 == 0 else 1.0
        fit = fit.taught(at, slowness * step_s(at), at_s=3000 + index * 8, window_s=WINDOW_S)

    assert worst(fit) < 0.08


def test_hours_at_one_operating_point_leave_the_fit_as_sure_and_as_sane_as_it_was() -> None:
    random = Random(3)
    at, fit = (1.0, 20.0, 20_000.0), fed(guess(), 100)
    for index in range(10_000):
        y = step_s(at) * random.gauss(1, 0.05)
        fit = fit.taught(at, y, at_s=(100 + index) * WINDOW_S, window_s=WINDOW_S)

    assert fit.expected(at) == pytest.approx(step_s(at), rel=0.05)
    # What was learnt of other loads is kept, though it is no longer sure.
    assert worst(fit) < 0.25
    # What one operating point cannot tell is as sure as at the start, no less.
    first, second, third = (a * b for a, b in zip(fit.spreads, at, strict=True))
    for blind in ((second, -first, 0.0), (third, 0.0, -first), (0.0, third, -second)):
        seen = tuple(step_s(row, blind) for row in fit.information)
        assert step_s(seen, blind) == pytest.approx(step_s(blind, blind), rel=0.01)
    moved = fed(fit, 20, begin=10_100)
    assert worst(moved) < 0.15


def test_requests_that_all_hold_the_same_kv_give_right_answers_where_they_were_seen() -> None:
    random, fit = Random(5), guess()
    for index in range(1000):
        batch = random.uniform(4, 40)
        at = (1.0, batch, 1000 * batch * random.gauss(1, 0.001))
        y = step_s(at) * random.gauss(1, 0.05)
        fit = fit.taught(at, y, at_s=index * WINDOW_S, window_s=WINDOW_S)

    seen = [(1.0, float(batch), 1000.0 * batch) for batch in range(4, 41)]
    assert max(abs(fit.expected(at) / step_s(at) - 1) for at in seen) < 0.08
    # Not told apart, the two keep the proportion that was believed of them.
    assert fit.values[2] / fit.values[1] == pytest.approx(SHAPE[2] / SHAPE[1], rel=0.2)


def test_silence_does_not_make_a_fit_unsure() -> None:
    fit = fed(guess(), 100)
    at = POINTS[5]
    later = fit.taught(at, 1.15 * step_s(at), at_s=100 * MEMORY_S, window_s=WINDOW_S)
    at_once = fit.taught(at, 1.15 * step_s(at), at_s=100 * WINDOW_S, window_s=WINDOW_S)

    assert later.expected(at) == pytest.approx(at_once.expected(at), rel=0.01)


def test_a_coefficient_that_would_be_negative_is_zero_and_the_others_make_up_for_it() -> None:
    fit = guess()
    for index in range(300):
        batch = 4.0 + index % 37
        # Steps that get shorter with the batch: no such engine, but pages can look like it.
        at = (1.0, batch, 1000 * batch)
        fit = fit.taught(at, 0.050 - 2e-4 * batch, at_s=index * WINDOW_S, window_s=WINDOW_S)

    assert fit.values[1:] == pytest.approx((0.0, 0.0), abs=1e-9)
    assert fit.expected((1.0, 22.0, 22_000.0)) == pytest.approx(0.0456, rel=0.05)


@pytest.mark.parametrize("y", [math.nan, math.inf, -math.inf, 0.0, -0.01])
def test_a_sample_that_is_no_duration_is_ignored(y: float) -> None:
    for fit in (guess(), fed(guess(), 10)):
        assert fit.taught(POINTS[0], y, at_s=1e6, window_s=WINDOW_S) == fit


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_a_sample_with_an_impossible_regressor_is_ignored(bad: float) -> None:
    fit = fed(guess(), 10)

    assert fit.taught((1.0, bad, 10.0), 0.03, at_s=1e6, window_s=WINDOW_S) == fit


def test_a_sample_that_outweighs_all_others_leaves_the_fit_sane() -> None:
    fit = fed(guess(), 50, truth=(0.04, 0.0, 0.0), noise=0.0)
    fit = fit.taught((1.0, 9e11, 9e11), 0.04, at_s=50 * WINDOW_S, window_s=WINDOW_S)
    for index in range(5):
        at = POINTS[index]
        fit = fit.taught(at, 0.04, at_s=(51 + index) * WINDOW_S, window_s=WINDOW_S)
        assert fit.expected(at) == pytest.approx(0.04, rel=0.2)


def rate(tokens_per_s: float = 2000.0) -> Fit:
    """Begin with a rate that many samples agree on."""
    fit = Fit.begun(
        (tokens_per_s,), sizes=(tokens_per_s,), spread=0.3, floors=(1.0,), noise_min=0.1
    )
    return shown(fit, *(tokens_per_s for _ in range(60)))


def shown(fit: Fit, *rates: float, windows: float = 1.0, is_bound: bool = False) -> Fit:
    """Teach rates, so many windows after one another; a negative one is a bound of that size."""
    at_s = max(fit.at_s, fit.streak[-1].at_s if fit.streak else 0.0, 0.0)
    for count, y in enumerate(rates, start=1):
        fit = fit.taught(
            (1.0,),
            abs(y),
            at_s=at_s + count * windows * WINDOW_S,
            window_s=WINDOW_S,
            is_bound=is_bound or y < 0,
        )
    return fit


def test_a_bound_below_the_fit_is_no_news() -> None:
    fit = rate()

    assert shown(fit, -2000.0, -5.0) == fit


def test_a_bound_above_the_fit_raises_it() -> None:
    assert shown(rate(), *[-2400.0] * 60).values == pytest.approx((2400.0,), rel=0.05)


def test_bounds_far_above_the_fit_are_followed_when_they_stay() -> None:
    assert shown(rate(), *[-8000.0] * 20).values == pytest.approx((8000.0,), rel=0.02)


@pytest.mark.parametrize("high", [-8000.0, -2e7, 2e7])
def test_what_comes_among_bounds_below_the_fit_is_no_streak(high: float) -> None:
    fit = rate()
    hit = shown(fit, *[high, -500.0, high, -500.0, -500.0] * 100)

    assert hit.values == fit.values
    assert hit.rejected == 200


def test_bounds_alone_do_not_carry_a_fit_by_a_leap() -> None:
    fit = rate()
    hit = shown(fit, *[-1.01 * LEAP * 2000.0] * 400)

    assert (hit.values, hit.rejected) == (fit.values, 400)


def test_bounds_do_not_carry_an_unsure_and_noisy_fit_by_a_leap() -> None:
    fit = replace(rate(), information=identity(1), spreads=(2000.0,), noise=0.25)
    hit = shown(fit, -1.01 * LEAP * 2000.0)

    assert hit.values == fit.values


def test_a_leap_that_stays_is_followed_by_samples_that_are_no_bounds() -> None:
    assert shown(rate(), *[2 * LEAP * 2000.0] * STREAK).values == pytest.approx((40_000.0,), 0.02)


@pytest.mark.parametrize("change", [0.5, 2.0])
def test_a_change_is_followed_where_most_windows_show_a_bound_only(change: float) -> None:
    """Its samples are of one window in seven."""
    seen = [change * 2000.0, *[-300.0] * 6] * 20

    assert shown(rate(), *seen).values == pytest.approx((change * 2000.0,), rel=0.05)


def test_bounds_above_an_outlier_refute_it() -> None:
    fit = rate()
    hit = shown(fit, *[700.0, -1800.0, -1800.0] * 50)

    assert hit.values == fit.values


def test_bounds_as_high_as_the_samples_do_not_hide_a_change() -> None:
    seen = [980.0, -1020.0] * 10

    assert shown(rate(), *seen).values == pytest.approx((980.0,), rel=0.05)


@pytest.mark.parametrize("factor", [0.5, 1.6, 13_000.0])
def test_outliers_over_hours_are_no_streak(factor: float) -> None:
    fit = rate()
    hit = shown(fit, *[factor * 2000.0] * 100, windows=1 + REACH / (STREAK - 1))

    assert (hit.values, hit.rejected) == (fit.values, 100)


def test_an_old_outlier_does_not_make_those_of_one_window_last_for_long() -> None:
    before = shown(rate(), 1000.0)
    hit = shown(before, 1000.0, windows=REACH)
    for _ in range(50):
        hit = hit.taught((1.0,), 1000.0, at_s=hit.streak[-1].at_s, window_s=WINDOW_S)
    later = hit.taught((1.0,), 1000.0, at_s=hit.streak_s + PATIENCE * WINDOW_S, window_s=WINDOW_S)

    assert hit.values == before.values
    assert later.values == pytest.approx((1000.0,), rel=0.02)


def test_a_bound_is_nothing_to_begin_with() -> None:
    fit = Fit.begun((1.0,), sizes=(1.0,), spread=1.0, floors=(1.0,), noise_min=0.1, is_guess=True)

    assert shown(fit, *[-2000.0] * 20) == fit
    assert shown(fit, *[2000.0, -9000.0] * GUESS_SAMPLES).values == pytest.approx((2000.0,))


def test_the_highest_regressors_are_those_of_samples_since_the_fit_was_opened() -> None:
    fit = fed(guess(), 50)
    at, beyond = (1.0, 60.0, 40_000.0), (1.0, 90.0, 40_000.0)
    wider = fit.taught(at, step_s(at), at_s=50 * WINDOW_S, window_s=WINDOW_S)
    outlier = wider.taught(beyond, 9 * step_s(beyond), at_s=51 * WINDOW_S, window_s=WINDOW_S)
    opened = fed(wider, 30, truth=tuple(3 * value for value in TRUTH), begin=51)

    assert (guess().highest, believed(TRUTH).highest) == ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    assert fit.highest[1] == pytest.approx(40.0, abs=2.0)
    assert wider.highest[:2] == outlier.highest[:2] == (1.0, 60.0)
    assert opened.highest[1] < 41.0


SAMPLES = st.lists(
    st.tuples(
        st.floats(0, 1e9),
        st.floats(0, 1e12, exclude_max=True),
        st.floats(allow_nan=True, allow_infinity=True),
        st.floats(0, 1e6),
        st.booleans(),
    ),
    max_size=60,
)


@given(samples=SAMPLES, is_guess=st.booleans())
def test_whatever_comes_the_coefficients_are_finite_and_not_negative(
    samples: list[tuple[float, float, float, float, bool]], is_guess: bool
) -> None:
    fit, at_s = guess() if is_guess else believed(TRUTH), 0.0
    for batch, held, y, passed_s, is_bound in samples:
        at_s += passed_s
        at = (1.0, batch, held)
        fit = fit.taught(at, y, at_s=at_s, window_s=WINDOW_S, is_bound=is_bound)

    assert all(math.isfinite(value) and value >= 0 for value in fit.values)
    assert fit.values[0] > 0
    assert all(math.isfinite(cell) for row in fit.information for cell in row)
    assert math.isfinite(fit.noise)


@given(
    truth=st.tuples(st.floats(1e-3, 1.0), st.floats(0, 1e-2), st.floats(0, 1e-5)),
    seed=st.integers(0, 2**16),
)
def test_any_engine_is_learnt_where_it_was_seen(truth: Vector, seed: int) -> None:
    fit = fed(guess(), 200, truth=truth, seed=seed, noise=0.01)

    assert worst(fit, truth) < 0.15
