"""Reshaping and joining arrivals."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.workload.arrivals import Arrivals, arrivals_of
from pd_autoscaler.workload.joining import concatenated, superposed
from pd_autoscaler.workload.request import Request
from pd_autoscaler.workload.reshaping import (
    at_speed,
    between,
    clipped,
    repeated,
    scaled,
    started_at,
    thinned,
)
from pd_autoscaler.workload.shaping import compressed, looped

TIMES = [0.0, 1.0, 4.0, 4.0, 10.0]
gaps = st.lists(st.floats(0, 10), min_size=1, max_size=60)


def requests(gaps_s: list[float]) -> list[Request]:
    times = [0.0, *np.cumsum(gaps_s[:-1]).tolist()]
    return [Request(at_s, number + 2, 1, number) for number, at_s in enumerate(times)]


def load(*times: float) -> Arrivals:
    """Return requests whose inputs tell them apart."""
    return arrivals_of([Request(at_s, n + 2, 10 * n + 1, n) for n, at_s in enumerate(times)])


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def same(left: Arrivals, right: Arrivals) -> bool:
    return all(
        np.array_equal(getattr(left, name), getattr(right, name)) for name in Arrivals.__slots__
    )


@given(gaps, st.floats(1, 20))
def test_thinning_evenly_at_speed_is_what_compressing_requests_is(
    gaps_s: list[float], speed: float
) -> None:
    made = requests(gaps_s)

    faster = at_speed(thinned(arrivals_of(made), 1 / speed), speed)

    # 1 / (1 / speed) may round, and so may the last request or two.
    assert abs(len(faster) - len(compressed(made, speed))) <= 1
    if (1 / (1 / speed)) == speed:
        assert same(faster, arrivals_of(compressed(made, speed)))


@given(gaps, st.floats(0, 60))
def test_repeating_is_what_looping_requests_is(gaps_s: list[float], for_s: float) -> None:
    made = requests(gaps_s)
    if sum(gaps_s[:-1]) < 0.1:
        return
    again = repeated(arrivals_of(made), for_s)

    expected = arrivals_of(looped(made, for_s))
    assert again.at_s.tolist() == pytest.approx(expected.at_s.tolist())
    assert again.input_tokens.tolist() == expected.input_tokens.tolist()


def test_thinning_at_random_keeps_about_the_share_and_the_same_by_the_seed() -> None:
    many = load(*np.arange(2000.0))

    kept = thinned(many, 0.25, rng())

    assert len(kept) == pytest.approx(500, rel=0.15)
    assert same(kept, thinned(many, 0.25, rng()))
    assert not same(kept, thinned(many, 0.25, rng(2)))
    assert same(thinned(many, 1.0), many)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0, 3.3])
def test_scaling_multiplies_the_rate_and_leaves_time_and_lengths(factor: float) -> None:
    many = load(*np.arange(2000.0))

    more = scaled(many, factor, rng())

    assert len(more) == pytest.approx(2000 * factor, rel=0.06)
    assert more.span_s <= many.span_s
    assert more.input_tokens.mean() == pytest.approx(many.input_tokens.mean(), rel=0.05)
    halves = (more.at_s < 1000).sum(), (more.at_s >= 1000).sum()
    assert halves[0] == pytest.approx(halves[1], rel=0.1)
    if factor >= 1:
        assert set(many.at_s) <= set(more.at_s)


def test_beginning_in_the_middle_wraps_around_after_a_mean_gap() -> None:
    arrivals = started_at(load(*TIMES), 4.0)

    # The round is 10 s and a mean gap of 2.5 s.
    assert arrivals.at_s.tolist() == [0, 0, 6, 8.5, 9.5]
    assert arrivals.input_tokens.tolist() == [4, 5, 6, 2, 3]
    assert arrivals.cached_tokens.tolist() == [2, 3, 4, 0, 1]
    assert same(started_at(load(*TIMES), 0), load(*TIMES))
    assert same(started_at(load(*TIMES), 4 + 12.5), arrivals)
    assert len(started_at(load(), 3)) == 0


@given(gaps, st.floats(0, 1000))
def test_a_later_beginning_loses_no_request(gaps_s: list[float], offset_s: float) -> None:
    whole = arrivals_of(requests(gaps_s))

    moved = started_at(whole, offset_s)

    assert sorted(moved.input_tokens) == sorted(whole.input_tokens)


def test_a_part_is_counted_from_its_own_beginning() -> None:
    part = between(load(*TIMES), 1, 10)

    assert part.at_s.tolist() == [0, 3, 3]
    assert part.input_tokens.tolist() == [3, 4, 5]
    assert len(between(load(*TIMES), 5, 6)) == 0
    assert between(load(*TIMES), 4).at_s.tolist() == [0, 0, 6]


def test_lengths_are_clipped_each_or_together() -> None:
    arrivals = load(*TIMES)

    assert clipped(arrivals, input_max=4).input_tokens.tolist() == [2, 3, 4, 4, 4]
    assert clipped(arrivals, input_max=4).cached_tokens.tolist() == [0, 1, 2, 3, 3]
    assert clipped(arrivals, output_max=15).output_tokens.tolist() == [1, 11, 15, 15, 15]
    both = clipped(arrivals, tokens_max=5, output_max=3)
    assert both.input_tokens.max() == 5
    assert both.output_tokens.max() == 3


def test_loads_come_at_once_or_one_after_the_other() -> None:
    one, other = load(0, 2), load(1, 4, 5)

    at_once = superposed(one, other)
    assert at_once.at_s.tolist() == [0, 1, 2, 4, 5]
    assert at_once.output_tokens.tolist() == [1, 1, 11, 11, 21]
    assert concatenated(one, other).at_s.tolist() == [0, 2, 5, 8, 9]
    assert concatenated(load(), other, load()).at_s.tolist() == other.at_s.tolist()
    assert len(superposed(load())) == 0


def test_a_trace_of_one_moment_comes_once_a_second() -> None:
    assert repeated(load(0), 3).at_s.tolist() == [0, 1, 2]
    assert concatenated(load(0), load(0)).at_s.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: thinned(load(0), 0), "share is 0"),
        (lambda: thinned(load(0), 1.1, rng()), "share is 1.1"),
        (lambda: scaled(load(0), math.inf, rng()), "factor is inf"),
        (lambda: at_speed(load(0), -1), "speed is -1"),
        (lambda: started_at(load(0), -1), "offset is -1"),
        (lambda: between(load(0), 3, 3), "no span"),
        (lambda: clipped(load(0), output_max=0), "output_max is 0"),
        (lambda: repeated(load(), 3), "no request"),
        (lambda: repeated(load(0), math.inf), "for_s is inf"),
        (superposed, "no part"),
        (concatenated, "no part"),
    ],
)
def test_reshaping_that_makes_no_sense_is_refused(make: "object", says: str) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match=says):
        make()
