"""Where queueing theory knows the answer, the fleet of requests gives it."""

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pd_autoscaler.sim.fleet.requests.fleet import RequestFleet
from pd_autoscaler.workload.arrivals import Arrivals, Counts, Floats
from tests.support.request_fleets import EXACT, fleet_of

IDEAL = replace(
    EXACT,
    # A token a millisecond, one request a batch; decode steps that nothing makes longer.
    prefill_points=((1, 0.001), (2, 0.002)),
    prefill_attention_s=0.0,
    prefill_tokens_max=1,
    decode_base_s=0.001,
    decode_per_request_s=0.0,
    decode_per_token_s=0.0,
    batch_max=1,
    kv_tokens=10**9,
    pull_bytes_per_s=1e12,
)

REQUESTS = 200_000


def arrivals(request_per_s: float, inputs: Counts, outputs: Counts, *, seed: int) -> Arrivals:
    gaps_s = np.random.default_rng(seed).exponential(1 / request_per_s, len(inputs))
    return Arrivals(np.cumsum(gaps_s), inputs, outputs, np.zeros(len(inputs), np.int64))


def is_near(values: Floats, wanted: float) -> bool:
    """Whether the mean is within four standard errors, told by the means of 40 stretches."""
    means = np.array([stretch.mean() for stretch in np.array_split(values, 40)])
    return bool(abs(means.mean() - wanted) < 4 * means.std(ddof=1) / math.sqrt(len(means)))


def ones(count: int) -> NDArray[np.int64]:
    return np.ones(count, np.int64)


def exponential(mean: float, *, seed: int) -> Counts:
    drawn = np.random.default_rng(seed).exponential(mean, REQUESTS)
    return np.maximum(np.rint(drawn), 1).astype(np.int64)


def run(fleet: RequestFleet, offered: Arrivals) -> RequestFleet:
    fleet.offer(offered)
    fleet.advance(math.inf)
    return fleet


def prompt_waits_s(inputs: Counts, request_per_s: float) -> Floats:
    """Seconds that requests wait for one prompt node whose service is a millisecond a token."""
    offered = arrivals(request_per_s, inputs, ones(len(inputs)), seed=7)
    # Each request its own step on a decoder of any size, so that the first token is the only one.
    fleet = fleet_of(1, 1, replace(IDEAL, batch_max=100_000, decode_base_s=1e-9))
    run(fleet, offered)
    return fleet.first_token_s - offered.at_s - 0.001 * inputs


@pytest.mark.parametrize("busy", [0.5, 0.8])
def test_equal_prompts_wait_as_pollaczek_and_khinchine_say(busy: float) -> None:
    service_s = 0.1
    waits_s = prompt_waits_s(100 * ones(REQUESTS), busy / service_s)
    assert is_near(waits_s, busy * service_s / (2 * (1 - busy)))


def test_prompts_of_many_lengths_wait_as_pollaczek_and_khinchine_say() -> None:
    inputs = exponential(100.0, seed=3)
    request_per_s = 7.0
    services_s = 0.001 * inputs
    second = float((services_s**2).mean())
    busy = request_per_s * float(services_s.mean())
    waits_s = prompt_waits_s(inputs, request_per_s)
    assert is_near(waits_s, request_per_s * second / (2 * (1 - busy)))


def erlang_c(servers: int, load: float) -> float:
    """Probability to wait in M/M/k."""
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(load**k / math.factorial(k) for k in range(servers)) + last)


@pytest.mark.parametrize(("servers", "busy"), [(1, 0.6), (4, 0.8), (10, 0.85)])
def test_a_decoder_with_k_places_lets_wait_as_erlang_says(servers: int, busy: float) -> None:
    outputs = exponential(2000.0, seed=5)
    # A place is free again a step after the last token at most, and is taken at the next step.
    service_s = 0.001 * float(outputs.mean())
    request_per_s = busy * servers / service_s
    fleet = fleet_of(1, 1, replace(IDEAL, batch_max=servers, prefill_points=((1, 1e-9), (2, 2e-9))))
    offered = arrivals(request_per_s, ones(REQUESTS), outputs, seed=11)
    run(fleet, offered)
    waits_s = fleet.done_s - offered.at_s - 0.001 * outputs
    wanted_s = erlang_c(servers, busy * servers) / (servers / service_s - request_per_s)
    assert is_near(waits_s, wanted_s + 0.0005)


def test_a_decoder_without_limits_holds_what_little_says() -> None:
    outputs = exponential(2000.0, seed=9)
    profile = replace(IDEAL, batch_max=10_000, prefill_points=((1, 1e-9), (2, 2e-9)))
    offered = arrivals(50.0, ones(REQUESTS), outputs, seed=13)
    fleet = fleet_of(1, 1, profile)
    fleet.offer(offered)
    seen = []
    for at_s in np.arange(20.0, offered.span_s, 0.5):
        fleet.advance(float(at_s))
        seen.append(fleet.load(1).running)
    assert is_near(np.array(seen, np.float64), 50.0 * 0.001 * float(outputs.mean()))


def test_what_is_inside_each_pool_is_what_enters_times_how_long_it_stays() -> None:
    inputs, outputs = exponential(40.0, seed=1)[:2000], exponential(30.0, seed=2)[:2000]
    offered = arrivals(0.5, inputs, outputs, seed=3)
    fleet = fleet_of(1, 3, EXACT)
    fleet.offer(offered)
    inside = []
    step_s = 0.25
    for at_s in np.arange(step_s, offered.span_s + 500.0, step_s):
        fleet.advance(float(at_s))
        inside.append([fleet.load(slot) for slot in range(4)])
    assert fleet.totals.finished == len(offered)
    prompt = fleet.reading(0, "p", 0.0).counters
    held_s = step_s * sum(one[0].waiting + one[0].running for one in inside)
    assert held_s == pytest.approx(prompt["ttft_s_sum"], rel=0.01)
    stay_s = float((fleet.done_s - offered.at_s).sum()) - prompt["ttft_s_sum"]
    held_s = step_s * sum(load.in_flight for one in inside for load in one[1:])
    assert held_s == pytest.approx(stay_s, rel=0.01)
