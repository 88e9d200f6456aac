"""Windows over one node's pages: rates, histogram deltas, quantiles and gauges."""

import math
from array import array
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.core.windows import History, Span
from pd_autoscaler.model.signals import Histogram, Reading
from tests.support.pages import reading

INF = math.inf


def counted(*values: tuple[float, float], keep_s: float = 300.0) -> History:
    """Make a history of one counter from moments and values."""
    history = History()
    for at_s, value in values:
        history = history.added(reading(at_s=at_s, counters={"n": value}), keep_s=keep_s)
    return history


def buckets(**counts: float) -> Histogram:
    """Make a histogram from cumulative counts by bound, as in `le1=3, inf=4`."""
    bounds = tuple(INF if name == "inf" else float(name[2:]) for name in counts)
    return Histogram(bounds, array("d", counts.values()))


def test_a_rate_is_the_growth_over_the_window_per_second() -> None:
    history = counted((0, 100), (10, 120), (20, 180))

    assert history.over(now_s=20, window_s=10).rate("n") == 6.0
    assert history.over(now_s=20, window_s=20).rate("n") == 4.0


def test_a_rate_starts_from_the_newest_page_before_the_window() -> None:
    history = counted((0, 0), (10, 50), (20, 70))

    assert history.over(now_s=25, window_s=12).grown("n") == Span(20, 10)
    assert history.over(now_s=25, window_s=16).grown("n") == Span(70, 20)


def spell(*, waiting: float) -> History:
    """Make nine pages that say the same, ten seconds apart, and one that moved."""
    history = History()
    for i in range(10):
        counters = {"n": 100.0} if i < 9 else {"n": 1000.0}
        page = reading(at_s=10.0 * i, counters=counters, gauges={"waiting": waiting})
        history = history.added(page, keep_s=300)
    return history


def test_what_was_counted_while_pages_only_repeated_is_not_one_windows_work() -> None:
    frozen = spell(waiting=3)

    assert frozen.over(now_s=90, window_s=20).rate("n") == 10.0
    assert frozen.over(now_s=90, window_s=50).gauges("waiting") == [3.0]


def test_an_idle_engine_whose_pages_repeat_begins_its_work_when_it_moves() -> None:
    assert spell(waiting=0).over(now_s=90, window_s=20).rate("n") == 45.0


def test_a_counter_that_goes_back_began_again_at_zero() -> None:
    history = counted((0, 100), (10, 130), (20, 5), (30, 25))

    assert history.over(now_s=30, window_s=30).grown("n") == Span(30 + 5 + 20, 30)
    assert history.over(now_s=30, window_s=10).grown("n") == Span(20, 10)


def test_one_page_says_nothing_about_growth() -> None:
    assert counted((0, 100)).over(now_s=0, window_s=30).rate("n") is None
    assert History().over(now_s=0, window_s=30).rate("n") is None


def test_nothing_is_known_of_a_window_without_a_page() -> None:
    assert counted((0, 1), (10, 2)).over(now_s=50, window_s=30).rate("n") is None


def test_a_counter_that_the_newest_page_lacks_is_unknown() -> None:
    history = counted((0, 1), (10, 2)).added(reading(at_s=20), keep_s=300)

    assert history.over(now_s=20, window_s=30).rate("n") is None


def test_a_page_without_the_counter_is_bridged() -> None:
    history = counted((0, 1)).added(reading(at_s=10), keep_s=300)
    history = history.added(reading(at_s=20, counters={"n": 9}), keep_s=300)

    assert history.over(now_s=20, window_s=30).grown("n") == Span(8, 20)


def test_a_rate_looks_one_page_past_its_window_and_no_further() -> None:
    history = counted((0, 1)).added(reading(at_s=10), keep_s=300)
    history = history.added(reading(at_s=20, counters={"n": 9}), keep_s=300)

    assert history.over(now_s=20, window_s=10).rate("n") is None


@pytest.mark.parametrize("at_s", [10, 4])
def test_a_page_that_is_not_newer_changes_nothing(at_s: float) -> None:
    history = counted((0, 1), (10, 2))

    assert history.added(reading(at_s=at_s, counters={"n": 50}), keep_s=300) is history


def test_readings_that_follow_too_closely_replace_one_another() -> None:
    history = History()
    for at_s in (0.0, 3.0, 4.0, 6.0, 7.0, 11.0, 20.0):
        page = reading(at_s=at_s, gauges={"g": at_s}, counters={"n": 10 * at_s})
        history = history.added(page, keep_s=300, spacing_s=5)

    assert [page.at_s for page in history.pages] == [0, 6, 11, 20]
    assert history.over(now_s=20, window_s=20).rate("n") == 10


def test_old_pages_go_but_for_the_one_a_full_window_starts_from() -> None:
    history = counted(*((10.0 * i, i) for i in range(100)), keep_s=30)

    assert [page.at_s for page in history.pages] == [950, 960, 970, 980, 990]
    assert history.over(now_s=990, window_s=30).rate("n") == pytest.approx(0.1)


_STEPS = st.lists(
    st.tuples(st.floats(0.5, 40), st.integers(0, 50), st.booleans()), min_size=2, max_size=25
)


@given(_STEPS, st.floats(0, 40), st.floats(1, 60))
def test_a_rate_is_never_negative_and_pruning_never_changes_an_answer(
    steps: list[tuple[float, int, bool]], later_s: float, window_s: float
) -> None:
    at_s, kept, whole = 0.0, History(), History()
    for passed_s, value, has_all in steps:
        at_s += passed_s
        names = {"n": value, "h_sum": value, "h_count": value} if has_all else {}
        rows = {"h": ((1.0, value // 2), (INF, value))} if has_all else {}
        page = reading(at_s=at_s, gauges={"g": value}, counters=names, histograms=rows)
        kept, whole = kept.added(page, keep_s=60), whole.added(page, keep_s=INF)

    now_s = at_s + later_s
    answers = [
        (
            history.over(now_s=now_s, window_s=window_s).rate("n"),
            history.over(now_s=now_s, window_s=window_s).observations("h"),
            history.over(now_s=now_s, window_s=window_s).observed_count("h"),
            history.over(now_s=now_s, window_s=window_s).mean("g"),
            history.over(now_s=now_s, window_s=window_s).highest("g"),
        )
        for history in (kept, whole)
    ]

    assert answers[0] == answers[1]
    assert (answers[0][0] or 0.0) >= 0
    assert len(kept.pages) <= len(whole.pages)


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

    span = history.over(now_s=len(steps), window_s=300).grown("n")

    assert span is not None
    # A step that is small beside all that was counted is known to that sum's precision.
    assert span.delta == pytest.approx(added, abs=1e-9 * max(added, value, 1.0))


def test_observations_are_those_of_the_window_alone() -> None:
    history = History()
    for at_s, counts in ((0, (5, 10)), (10, (6, 12)), (20, (6, 15))):
        rows = zip((1.0, INF), counts, strict=True)
        history = history.added(reading(at_s=at_s, histograms={"h": rows}), keep_s=300)

    assert history.over(now_s=20, window_s=10).observations("h") == buckets(le1=0, inf=3)
    assert history.over(now_s=20, window_s=20).observations("h") == buckets(le1=1, inf=5)
    assert history.over(now_s=20, window_s=20).observations("other") is None


def test_a_histogram_that_goes_back_began_again_at_zero() -> None:
    history = History()
    for at_s, counts in ((0, (5, 10)), (10, (1, 12)), (20, (3, 14))):
        rows = zip((1.0, INF), counts, strict=True)
        history = history.added(reading(at_s=at_s, histograms={"h": rows}), keep_s=300)

    assert history.over(now_s=20, window_s=20).observations("h") == buckets(le1=3, inf=14)


def test_a_histogram_with_other_bounds_is_another_one() -> None:
    history = History()
    for at_s, bound in ((0, 1.0), (10, 2.0), (20, 2.0)):
        rows = ((bound, at_s), (INF, at_s))
        history = history.added(reading(at_s=at_s, histograms={"h": rows}), keep_s=300)

    assert history.over(now_s=20, window_s=30).observations("h") == buckets(le2=10, inf=10)
    assert history.over(now_s=10, window_s=5).observations("h") == buckets(le2=10, inf=10)


def test_bounds_that_come_back_are_not_taken_for_growth_below_zero() -> None:
    history = History()
    for at_s, bound, count in ((0, 1.0, 100), (10, 2.0, 7), (20, 1.0, 5)):
        rows = ((bound, count), (INF, count))
        history = history.added(reading(at_s=at_s, histograms={"h": rows}), keep_s=300)

    assert history.over(now_s=20, window_s=30).observations("h") is None


def test_what_was_observed_is_counted_and_averaged() -> None:
    history = History()
    for at_s, total, count in ((0, 100, 10), (10, 160, 14), (20, 160, 14)):
        counters = {"h_sum": total, "h_count": count}
        history = history.added(reading(at_s=at_s, counters=counters), keep_s=300)

    assert history.over(now_s=20, window_s=20).mean_observed("h") == 15
    assert history.over(now_s=20, window_s=20).observed_count("h") == 4
    assert history.over(now_s=20, window_s=10).mean_observed("h") is None
    assert history.over(now_s=20, window_s=10).observed_count("h") == 0
    assert history.over(now_s=20, window_s=10).observed_count("other") is None


def test_a_histogram_without_a_count_is_counted_by_its_buckets() -> None:
    history = History()
    for at_s, count in ((0, 3), (10, 8)):
        rows = ((1.0, 0), (INF, count))
        history = history.added(reading(at_s=at_s, histograms={"h": rows}), keep_s=300)

    assert history.over(now_s=10, window_s=10).observed_count("h") == 5


def test_gauges_are_read_over_the_window() -> None:
    history = History()
    for at_s, value in ((0, 9.0), (10, 2.0), (20, 4.0)):
        history = history.added(reading(at_s=at_s, gauges={"g": value}), keep_s=300)

    assert history.over(now_s=20, window_s=10).gauges("g") == [2.0, 4.0]
    assert history.over(now_s=20, window_s=10).highest("g") == 4.0
    assert history.over(now_s=20, window_s=20).highest("g") == 9.0
    assert history.over(now_s=20, window_s=10).mean("g") == 3.0
    assert history.over(now_s=20, window_s=10).mean("other") is None


def test_a_page_that_repeats_the_last_one_has_not_moved() -> None:
    history = counted((0, 1), (10, 2), (20, 2), (30, 2))

    assert history.moved_at_s == 10


LIFETIME = 1e8


def of_engines(at_s: float, engines: Iterable[int]) -> Reading:
    """Make a page of these engines, that each count ten a second since long ago."""
    each = [LIFETIME + 10 * at_s] * len([*engines])
    count = math.fsum(each)
    page = reading(
        at_s=at_s,
        gauges={"waiting": 1.0 * len(each)},
        counters={"n": count, "h_count": count},
        histograms={"h": ((1.0, count), (INF, count))},
    )
    parts = dict.fromkeys(("n", "h", "h_count"), len(each))
    return replace(page, parts=parts if len(each) > 1 else {})


@pytest.mark.parametrize(("before", "now"), [(1, 2), (7, 8), (8, 7), (2, 1)])
def test_what_an_engine_that_comes_or_goes_has_counted_in_its_life_is_no_growth(
    before: int, now: int
) -> None:
    history = History()
    for at_s, engines in ((0, before), (10, before), (20, now)):
        history = history.added(of_engines(at_s, range(engines)), keep_s=300)

    assert history.over(now_s=20, window_s=30).rate("n") is None
    assert history.over(now_s=20, window_s=30).observations("h") is None
    assert history.over(now_s=20, window_s=30).gauges("waiting") == [now]

    history = history.added(of_engines(30, range(now)), keep_s=300)
    assert history.over(now_s=30, window_s=30).rate("n") == 10 * now
    assert history.over(now_s=30, window_s=30).observed_count("h") == 100 * now


@pytest.mark.parametrize(("before", "now"), [(8, 7), (2, 1), (1, 2)])
def test_engines_that_change_while_their_counter_is_missing_are_no_growth(
    before: int, now: int
) -> None:
    history = History().added(of_engines(0, range(before)), keep_s=300)
    history = history.added(reading(at_s=10, gauges={"waiting": 8.0}), keep_s=300)
    history = history.added(of_engines(20, range(now)), keep_s=300)

    assert history.over(now_s=20, window_s=30).rate("n") is None


def test_a_page_that_lacks_an_engine_says_so_for_a_minute_and_then_is_believed() -> None:
    history = History().added(of_engines(0, range(8)), keep_s=300)

    lost = "the newest has 7 of 8 series of h"
    assert history.lost(of_engines(10, range(7))) == lost
    assert history.lost(of_engines(60, range(7))) == lost
    assert history.lost(of_engines(61, range(7))) == ""
    assert history.lost(of_engines(10, range(8))) == ""
    assert history.lost(of_engines(10, range(9))) == ""
    assert History().lost(of_engines(10, range(7))) == ""


def test_a_counter_that_is_missing_altogether_is_no_lost_engine() -> None:
    history = History().added(of_engines(0, range(8)), keep_s=300)

    assert history.lost(reading(at_s=10, gauges={"waiting": 8.0})) == ""


@given(st.lists(st.tuples(st.floats(1, 40), st.sets(st.integers(0, 3), min_size=1)), min_size=2))
def test_no_rate_is_ever_a_lifetimes_growth_whichever_engines_a_page_lacks(
    steps: list[tuple[float, set[int]]],
) -> None:
    at_s, history = 0.0, History()
    for passed_s, engines in steps:
        at_s += passed_s
        page = of_engines(at_s, engines)
        history = history if history.lost(page) else history.added(page, keep_s=300)

        rate = history.over(now_s=at_s, window_s=30).rate("n")
        assert rate is None or rate == pytest.approx(
            10 * history.over(now_s=at_s, window_s=60).gauges("waiting")[-1], abs=0.01
        )


def sparse(at_s: float, value: float | None = None, **counters: float) -> Reading:
    """Make a page of a counter that appears with its first event, beside others."""
    if value is None:
        return replace(reading(at_s=at_s, counters=counters), parts={"n": 0})
    return reading(at_s=at_s, counters=counters | {"n": value})


def grown_over(*pages: Reading) -> Span | None:
    history = History()
    for page in pages:
        history = history.added(page, keep_s=300)
    return history.over(now_s=pages[-1].at_s, window_s=20).grown("n")


def test_the_first_value_of_a_counter_that_appears_with_its_first_event_is_growth() -> None:
    assert grown_over(*(sparse(10.0 * i) for i in range(4)), sparse(40, 40)) == Span(40, 20)
    assert grown_over(sparse(0), sparse(10), sparse(20, 40), sparse(30, 43)) == Span(43, 20)


def test_a_counter_of_which_nothing_is_said_begins_at_its_first_value() -> None:
    assert grown_over(reading(at_s=0, counters={"m": 1}), sparse(10, 40)) is None
    assert grown_over(sparse(10, 40)) is None


def test_a_counter_that_could_not_be_read_before_begins_at_its_first_value() -> None:
    unread = replace(reading(at_s=0, counters={"m": 1}), parts={"n": 2})
    read = replace(sparse(10, 40), parts={"n": 2})

    assert grown_over(unread, read) is None


def test_a_counter_that_comes_back_is_no_jump() -> None:
    assert grown_over(sparse(0), sparse(10, 40), sparse(20), sparse(30, 41)) == Span(1, 20)


def test_a_counter_that_comes_with_an_engine_says_nothing_of_its_growth() -> None:
    with_another = replace(sparse(10, 40, m=900), parts={"m": 2})

    assert grown_over(sparse(0, m=5), with_another) is None
