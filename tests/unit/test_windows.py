"""Windows over one node's pages: rates, histogram deltas, quantiles and gauges."""

import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.core.windows import Buckets, History, Quantile, Span, merged, quantile
from tests.support.pages import reading

INF = math.inf


def counted(*values: tuple[float, float], keep_s: float = 300.0) -> History:
    """Make a history of one counter from moments and values."""
    history = History()
    for at_s, value in values:
        history = history.added(reading(at_s=at_s, counters={"n": value}), keep_s=keep_s)
    return history


def buckets(**counts: float) -> Buckets:
    """Make a histogram from cumulative counts by bound, as in `le1=3, inf=4`."""
    bounds = tuple(INF if name == "inf" else float(name[2:]) for name in counts)
    return Buckets(bounds, array("d", counts.values()))


def test_a_rate_is_the_growth_over_the_window_per_second() -> None:
    history = counted((0, 100), (10, 120), (20, 180))

    assert history.rate("n", now_s=20, window_s=10) == 6.0
    assert history.rate("n", now_s=20, window_s=20) == 4.0


def test_a_rate_starts_from_the_newest_page_before_the_window() -> None:
    history = counted((0, 0), (10, 50), (20, 70))

    assert history.grown("n", now_s=25, window_s=12) == Span(20, 10)
    assert history.grown("n", now_s=25, window_s=16) == Span(70, 20)


def test_a_counter_that_goes_back_began_again_at_zero() -> None:
    history = counted((0, 100), (10, 130), (20, 5), (30, 25))

    assert history.grown("n", now_s=30, window_s=30) == Span(30 + 5 + 20, 30)
    assert history.grown("n", now_s=30, window_s=10) == Span(20, 10)


def test_one_page_says_nothing_about_growth() -> None:
    assert counted((0, 100)).rate("n", now_s=0, window_s=30) is None
    assert History().rate("n", now_s=0, window_s=30) is None


def test_nothing_is_known_of_a_window_without_a_page() -> None:
    assert counted((0, 1), (10, 2)).rate("n", now_s=50, window_s=30) is None


def test_a_counter_that_the_newest_page_lacks_is_unknown() -> None:
    history = counted((0, 1), (10, 2)).added(reading(at_s=20), keep_s=300)

    assert history.rate("n", now_s=20, window_s=30) is None


def test_a_page_without_the_counter_is_bridged() -> None:
    history = counted((0, 1)).added(reading(at_s=10), keep_s=300)
    history = history.added(reading(at_s=20, counters={"n": 9}), keep_s=300)

    assert history.grown("n", now_s=20, window_s=30) == Span(8, 20)


def test_a_page_that_is_not_newer_changes_nothing() -> None:
    history = counted((0, 1), (10, 2))

    assert history.added(reading(at_s=10, counters={"n": 50}), keep_s=300) is history


def test_old_pages_go_but_for_the_one_a_full_window_starts_from() -> None:
    history = counted(*((10.0 * i, i) for i in range(100)), keep_s=30)

    assert [page.at_s for page in history.pages] == [950, 960, 970, 980, 990]
    assert history.rate("n", now_s=990, window_s=30) == pytest.approx(0.1)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.booleans()), min_size=2, max_size=20))
def test_growth_is_what_was_added_whatever_resets_there_were(
    steps: list[tuple[float, bool]],
) -> None:
    value, added, history = 0.0, 0.0, History()
    for i, (step, restarts) in enumerate(steps):
        # A restart that already counted past the old value cannot be seen.
        is_reset = restarts and step < value
        value = step if is_reset else value + step
        added += step if i else 0.0
        history = history.added(reading(at_s=i, counters={"n": value}), keep_s=300)

    span = history.grown("n", now_s=len(steps), window_s=300)

    assert span is not None
    # A step that is small beside the counter's value is known to that value's precision.
    assert span.delta == pytest.approx(added, abs=1e-9 * max(value, 1.0))


def test_observations_are_those_of_the_window_alone() -> None:
    history = History()
    for at_s, counts in ((0, (5, 10)), (10, (6, 12)), (20, (6, 15))):
        rows = zip((1.0, INF), counts, strict=True)
        history = history.added(reading(at_s=at_s, histograms={"h": rows}), keep_s=300)

    assert history.observations("h", now_s=20, window_s=10) == buckets(le1=0, inf=3)
    assert history.observations("h", now_s=20, window_s=20) == buckets(le1=1, inf=5)
    assert history.observations("other", now_s=20, window_s=20) is None


def test_a_histogram_that_goes_back_began_again_at_zero() -> None:
    history = History()
    for at_s, counts in ((0, (5, 10)), (10, (1, 12)), (20, (3, 14))):
        rows = zip((1.0, INF), counts, strict=True)
        history = history.added(reading(at_s=at_s, histograms={"h": rows}), keep_s=300)

    assert history.observations("h", now_s=20, window_s=20) == buckets(le1=3, inf=14)


def test_a_histogram_with_other_bounds_is_another_one() -> None:
    history = History()
    for at_s, bound in ((0, 1.0), (10, 2.0), (20, 2.0)):
        rows = ((bound, at_s), (INF, at_s))
        history = history.added(reading(at_s=at_s, histograms={"h": rows}), keep_s=300)

    assert history.observations("h", now_s=20, window_s=30) == buckets(le2=10, inf=10)
    assert history.observations("h", now_s=10, window_s=5) == buckets(le2=10, inf=10)


def test_gauges_are_read_over_the_window() -> None:
    history = History()
    for at_s, value in ((0, 9.0), (10, 2.0), (20, 4.0)):
        history = history.added(reading(at_s=at_s, gauges={"g": value}), keep_s=300)

    assert history.highest("g", now_s=20, window_s=10) == 4.0
    assert history.highest("g", now_s=20, window_s=20) == 9.0
    assert history.mean("g", now_s=20, window_s=10) == 3.0
    assert history.mean("other", now_s=20, window_s=10) is None


def test_a_page_that_repeats_the_last_one_has_not_moved() -> None:
    history = counted((0, 1), (10, 2), (20, 2), (30, 2))

    assert history.moved_at_s == 10


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
    histogram: Buckets, q: float, expected: Quantile
) -> None:
    got = quantile(histogram, q)

    assert got is not None
    assert got.is_lower_bound is expected.is_lower_bound
    assert got.value == pytest.approx(expected.value)


def test_nothing_observed_has_no_quantile() -> None:
    assert quantile(buckets(le1=0, inf=0), 0.95) is None
    assert quantile(Buckets((), array("d")), 0.95) is None


def test_histograms_of_one_shape_are_summed() -> None:
    assert merged([buckets(le1=1, inf=2), buckets(le1=3, inf=4)]) == buckets(le1=4, inf=6)
    assert merged([]) is None


def test_histograms_of_two_shapes_are_never_summed_to_less_delay() -> None:
    got = merged([buckets(le1=5, le4=10, inf=10), buckets(le2=8, inf=10)])

    # Where a histogram has no bound of its own, its count is that of the bound below.
    assert got == buckets(le1=5, le2=13, le4=18, inf=20)
