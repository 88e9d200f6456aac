"""Histograms: quantiles, second moments and sums over nodes."""

import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.core.histograms import Quantile, mean_square, merged, quantile
from pd_autoscaler.model.signals import Histogram

INF = math.inf
BOUNDS = (1.0, 2.0, 5.0, 10.0, INF)


def buckets(**counts: float) -> Histogram:
    """Make a histogram from cumulative counts by bound, as in `le1=3, inf=4`."""
    bounds = tuple(INF if name == "inf" else float(name[2:]) for name in counts)
    return Histogram(bounds, array("d", counts.values()))


def of(values: list[float], bounds: tuple[float, ...] = BOUNDS) -> Histogram:
    """Make the histogram of values."""
    return Histogram(bounds, array("d", (sum(v <= bound for v in values) for bound in bounds)))


@pytest.mark.parametrize(
    ("histogram", "q", "expected"),
    [
        (buckets(le1=10, le2=20, inf=20), 0.5, Quantile(1.0, is_lower_bound=False)),
        (buckets(le1=10, le2=20, inf=20), 0.95, Quantile(1.9, is_lower_bound=False)),
        (buckets(le1=10, le2=20, inf=20), 0.25, Quantile(0.5, is_lower_bound=False)),
        (buckets(le1=0, le2=20, inf=20), 0.0, Quantile(1.0, is_lower_bound=False)),
        # In a published sample of MindIE 252 of 400 first tokens are past the last bucket.
        (buckets(le5=100, le10=148, inf=400), 0.95, Quantile(10.0, is_lower_bound=True)),
        (buckets(inf=3), 0.5, Quantile(0.0, is_lower_bound=True)),
    ],
)
def test_a_quantile_is_interpolated_or_a_lower_bound(
    histogram: Histogram, q: float, expected: Quantile
) -> None:
    got = quantile(histogram, q)

    assert got is not None
    assert got.is_lower_bound is expected.is_lower_bound
    assert got.value == pytest.approx(expected.value)


def test_nothing_observed_has_no_quantile() -> None:
    assert quantile(buckets(le1=0, inf=0), 0.95) is None
    assert quantile(Histogram((), array("d")), 0.95) is None


def test_histograms_of_one_shape_are_summed() -> None:
    assert merged([buckets(le1=1, inf=2), buckets(le1=3, inf=4)]) == buckets(le1=4, inf=6)
    assert merged([]) is None


def test_histograms_of_two_shapes_are_never_summed_to_less_delay() -> None:
    got = merged([buckets(le1=5, le4=10, inf=10), buckets(le2=8, inf=10)])

    # Where a histogram has no bound of its own, its count is that of the bound below.
    assert got == buckets(le1=5, le2=13, le4=18, inf=20)


_VALUES = st.lists(st.floats(0, 20), max_size=30)


@given(_VALUES, _VALUES)
def test_merged_histograms_are_the_histogram_of_all_values(
    one: list[float], other: list[float]
) -> None:
    assert merged([of(one), of(other)]) == of(one + other)


@given(_VALUES.filter(bool), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_quantile_is_never_lower(values: list[float], a: float, b: float) -> None:
    low, high = (quantile(of(values), q) for q in sorted((a, b)))

    assert low is not None
    assert high is not None
    assert low.value <= high.value
    assert low.is_lower_bound <= high.is_lower_bound


def test_values_at_the_middles_of_their_buckets_have_their_exact_mean_square() -> None:
    values = [0.5, 1.5, 1.5, 3.5]

    got = mean_square(of(values), sum(values) / 4)

    assert got is not None
    assert not got.is_lower_bound
    assert got.value == pytest.approx(sum(v * v for v in values) / 4)


def test_a_mean_square_is_scaled_to_the_mean_that_is_known() -> None:
    # All are 4, but their bucket's middle is 3.5.
    scaled, unscaled = mean_square(of([4.0] * 9), 4.0), mean_square(of([4.0] * 9), None)

    assert scaled is not None
    assert scaled.value == pytest.approx(16)
    assert unscaled is not None
    assert unscaled.value == pytest.approx(12.25)


def test_the_top_bucket_is_put_where_the_mean_needs_it_to_be() -> None:
    values = [0.5, 0.5, 100.0]

    known, unknown = mean_square(of(values), sum(values) / 3), mean_square(of(values), None)

    assert known is not None
    assert known.is_lower_bound
    assert known.value == pytest.approx((0.25 + 0.25 + 10_000) / 3)
    assert unknown is not None
    assert unknown.is_lower_bound
    assert unknown.value == pytest.approx((0.25 + 0.25 + 100) / 3)


def test_nothing_observed_has_no_mean_square() -> None:
    assert mean_square(of([]), None) is None
    assert mean_square(Histogram((), array("d")), 3.0) is None


@given(_VALUES.filter(any))
def test_a_mean_square_is_never_below_the_square_of_the_mean(values: list[float]) -> None:
    mean = math.fsum(values) / len(values)

    got = mean_square(of(values), mean)

    assert got is not None
    assert got.value >= mean * mean * (1 - 1e-9)


def test_buckets_that_contradict_each_other_count_nothing_below_zero() -> None:
    torn = Histogram((1.0, 2.0, INF), array("d", (3, 2, 4)))

    # Three at 0.5 and one at 2 or more.
    assert mean_square(torn, None) == ((3 * 0.25 + 4) / 4, True)
