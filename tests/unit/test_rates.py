"""Token rates of one node, where the counter of tokens grows at the end of a request only."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from pd_autoscaler.core.rates import token_rate
from pd_autoscaler.core.windows import History
from pd_autoscaler.model.node import Role
from tests.support.pages import reading

KEEP_S = 300.0


def lumpy(
    rows: Iterable[tuple[float, float, float]],
    *,
    duration_s: float | None = 60.0,
    rate: float | None = None,
    running: float = 1.0,
) -> History:
    """Make a decoder's history from moments, tokens counted so far and requests ended so far."""
    history = History()
    for at_s, tokens, ended in rows:
        counters = {"generation_tokens": tokens}
        if duration_s is not None:
            counters |= {"duration_s_sum": ended * duration_s, "duration_s_count": ended}
        gauges = {"waiting": 0.0, "running": running} | (
            {} if rate is None else {"token_rate": rate}
        )
        page = reading(at_s=at_s, counters=counters, gauges=gauges)
        page = replace(page, lumpy=frozenset({"generation_tokens"}))
        history = history.added(page, keep_s=KEEP_S)
    return history


def rate_of(history: History, *, now_s: float, window_s: float = 30.0) -> float | None:
    seen = history.over(now_s=now_s, window_s=window_s)
    return token_rate(seen, Role.DECODER, keep_s=KEEP_S)


# Every 60 s a request of 600 tokens ends.
STEADY = [(10.0 * i, 600.0 * (i // 6), i // 6) for i in range(20)]


def test_a_lumpy_counter_is_read_over_as_long_as_a_request_takes() -> None:
    assert [rate_of(lumpy(STEADY[:n]), now_s=10.0 * (n - 1)) for n in (13, 15, 18)] == [10] * 3
    # What it would say over the window: nothing, or three times too much.
    name = "generation_tokens"
    assert lumpy(STEADY[:18]).over(now_s=170, window_s=30).rate(name) == 0
    assert lumpy(STEADY[:13]).over(now_s=120, window_s=20).rate(name) == 30


def test_a_short_history_of_a_lumpy_counter_tells_by_the_gauge() -> None:
    assert rate_of(lumpy(STEADY[:6], rate=11.0), now_s=50) == 11
    assert rate_of(lumpy(STEADY[:6]), now_s=50) is None


def test_a_lumpy_counter_that_stands_still_while_requests_run_is_unknown() -> None:
    still = [(10.0 * i, 0.0, 0) for i in range(40)]

    assert rate_of(lumpy(still), now_s=390) is None
    assert rate_of(lumpy(still, rate=9.0), now_s=390) == 9
    assert rate_of(lumpy(still, running=0.0), now_s=390) == 0


def test_without_durations_a_lumpy_counter_is_read_over_all_that_is_kept() -> None:
    rows = [(10.0 * i, 600.0 * (i // 6), i // 6) for i in range(31)]

    assert rate_of(lumpy(rows, duration_s=None), now_s=300) == pytest.approx(10)
    assert rate_of(lumpy(rows[:30], duration_s=None), now_s=290) is None


def test_durations_beyond_what_is_kept_are_cut_to_it() -> None:
    rows = [(10.0 * i, 60.0 * i, i) for i in range(31)]

    assert rate_of(lumpy(rows, duration_s=4000.0), now_s=300) == pytest.approx(6)


def test_a_lumpy_counter_of_an_old_page_is_unknown() -> None:
    assert rate_of(lumpy(STEADY), now_s=190 + 31) is None


def test_a_plain_counter_comes_before_the_gauge() -> None:
    history = History()
    for at_s in (0.0, 10.0):
        page = reading(
            at_s=at_s, counters={"generation_tokens": 5 * at_s}, gauges={"token_rate": 99.0}
        )
        history = history.added(page, keep_s=KEEP_S)
        if not at_s:
            assert rate_of(history, now_s=0) == 99

    assert rate_of(history, now_s=10) == 5
