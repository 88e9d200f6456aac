"""Compressed, looped and generated workloads."""

import math
from collections import Counter
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.workload.generated import DEMO, Phase, generated
from pd_autoscaler.workload.request import Request
from pd_autoscaler.workload.shaping import compressed, looped

gaps = st.lists(st.floats(0, 10), min_size=1, max_size=200)
speeds = st.floats(1, 50)


def trace(gaps_s: list[float]) -> tuple[Request, ...]:
    at_s, requests = 0.0, []
    for number, gap_s in enumerate(gaps_s, start=1):
        requests.append(Request(at_s, number, 1))
        at_s += gap_s
    return tuple(requests)


@given(gaps, speeds)
def test_compressing_keeps_one_request_in_speed_and_so_the_rate(
    gaps_s: list[float], speed: float
) -> None:
    requests = trace(gaps_s)

    kept = compressed(requests, speed)

    assert abs(len(kept) - len(requests) / speed) <= 1
    assert all(k.at_s == requests[k.input_tokens - 1].at_s / speed for k in kept)
    numbers = [k.input_tokens for k in kept]
    assert all(math.floor(speed) <= b - a <= math.ceil(speed) for a, b in pairwise(numbers))


def test_speed_one_changes_nothing_and_a_lower_one_is_refused() -> None:
    requests = trace([1.0, 2.0, 0.5])

    assert compressed(requests, 1) == requests
    for speed in (0.5, 0, -1, math.nan, math.inf):
        with pytest.raises(ConfigError, match="speed is"):
            compressed(requests, speed)


@given(gaps, st.floats(0, 50))
def test_a_looped_trace_never_goes_back_and_ends_in_time(gaps_s: list[float], for_s: float) -> None:
    times = [request.at_s for request in islice(looped(trace(gaps_s), for_s), 5000)]

    assert times == sorted(times)
    assert all(at_s < for_s for at_s in times)
    assert bool(times) == (for_s > 0)


def test_a_looped_trace_repeats_beyond_its_end_at_its_mean_rate() -> None:
    requests = (Request(0, 7, 1), Request(1, 8, 2), Request(4, 9, 3))

    assert list(looped(requests, 11)) == [
        *requests,
        Request(6, 7, 1),
        Request(7, 8, 2),
        Request(10, 9, 3),
    ]
    assert [r.at_s for r in islice(looped(requests[:1], math.inf), 4)] == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="no request"):
        looped((), 10)


def test_a_seed_gives_the_same_workload_and_another_seed_another() -> None:
    once, again, other = (list(generated(60, seed)) for seed in (3, 3, 4))

    assert once == again
    assert once != other
    assert list(islice(generated(math.inf, 3), 50)) == once[:50]


@given(st.integers(0, 2**32), st.floats(0, 300))
def test_generated_requests_are_in_order_within_time_and_never_empty(
    seed: int, for_s: float
) -> None:
    requests = list(generated(for_s, seed))

    assert all(a.at_s <= b.at_s for a, b in pairwise(requests))
    assert all(0 <= r.at_s < for_s and r.input_tokens > 0 and r.output_tokens > 0 for r in requests)


def test_the_first_two_minutes_move_both_roles_within_eight_nodes() -> None:
    assert sum(phase.for_s for phase in DEMO) == 120
    prompt = [math.ceil(phase.prompt_token_per_s / 5000) for phase in DEMO]
    decoder = [math.ceil(phase.output_token_per_s / 670) for phase in DEMO]

    assert prompt == [1, 3, 1, 1]
    assert decoder == [1, 1, 3, 1]


@pytest.mark.parametrize("seed", range(5))
def test_every_phase_offers_about_what_it_says(seed: int) -> None:
    ends_s = [15, 55, 100, 120]
    offered = Counter[int]()
    for request in generated(120, seed):
        index = next(n for n, end_s in enumerate(ends_s) if request.at_s < end_s)
        offered[index] += request.input_tokens

    for number, phase in enumerate(DEMO):
        wanted = phase.prompt_token_per_s * phase.for_s
        assert 0.4 * wanted < offered[number] < 1.8 * wanted


def test_a_phase_without_load_is_refused_by_name() -> None:
    idle = Phase(name="idle", for_s=5, request_per_s=0, input_tokens=1, output_tokens=1)

    with pytest.raises(ConfigError, match="'idle'"):
        generated(10, 1, phases=[idle])
    with pytest.raises(ConfigError, match="no phase"):
        generated(10, 1, phases=[])
