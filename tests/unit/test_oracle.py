"""The oracle: on fleets whose cheapest staffing is known, and on the request-level model."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_autoscaler.engine_model.profile import DEMO
from pd_autoscaler.model.decision import Target
from pd_autoscaler.sim.bounds import Need, fluid_bound, fluid_need
from pd_autoscaler.sim.oracle import Served, Simulated, oracle
from pd_autoscaler.sim.records import Slo
from pd_autoscaler.sim.staffed import lasting_slots, staffed
from pd_autoscaler.sim.staffing import Staffing
from pd_autoscaler.workload.arrivals import Arrivals

SLO = Slo("round", 2.0, 0.050)


def need(prompt: list[float], decoder: list[float]) -> Need:
    return Need(60.0, np.array(prompt, np.float64), np.array(decoder, np.float64))


def sharp(prompt: list[int], decoder: list[int], runs: list[Staffing] | None = None) -> Simulated:
    """Make a fleet that serves a tenth fewer in time for each node that a slot is short of."""

    def served(staffing: Staffing) -> Served:
        if runs is not None:
            runs.append(staffing)
        short = np.maximum(np.array(prompt) - staffing.prompt, 0)
        short += np.maximum(np.array(decoder) - staffing.decoder, 0)
        offered = np.full(len(prompt), 100.0)
        return Served(offered, np.maximum(offered - 10.0 * short, 0.0))

    return served


def test_the_oracle_finds_the_least_that_every_slot_needs() -> None:
    prompt, decoder = [1, 2, 5, 5, 2, 1, 1, 1], [2, 2, 2, 6, 6, 3, 1, 1]
    found = oracle(sharp(prompt, decoder), need([3.0] * 8, [3.0] * 8), runs_max=500)
    assert found.staffing == Staffing(60.0, tuple(prompt), tuple(decoder))
    assert found.attainment == 1.0
    assert found.is_at_target


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=30))
def test_what_the_oracle_finds_meets_the_target_in_every_window(
    least: list[tuple[int, int]],
) -> None:
    prompt, decoder = [p for p, _ in least], [d for _, d in least]
    simulated = sharp(prompt, decoder)
    asked = need([p * 0.7 for p in prompt], [d * 0.7 for d in decoder])
    found = oracle(simulated, asked)
    served = simulated(found.staffing)
    for first in range(max(1, len(least) - 4)):
        window = slice(first, first + 5)
        assert served.in_time[window].sum() >= 0.99 * served.offered[window].sum() - 1e-6
    assert found.staffing.node_hours <= (sum(prompt) + sum(decoder)) * 1.35 / 60


def test_a_few_misses_are_spent_where_they_save_a_node() -> None:
    # Each slot is one node short for 2 of 1,000 requests: no window misses more than it may.
    def served(staffing: Staffing) -> Served:
        short = np.array(staffing.prompt) < 2
        offered = np.full(len(short), 1000.0)
        return Served(offered, offered - 2.0 * short)

    found = oracle(served, need([1.2] * 10, [0.1] * 10))
    assert found.staffing == Staffing(60.0, (1,) * 10, (1,) * 10)
    assert found.attainment == pytest.approx(0.998)


def test_where_no_fleet_meets_the_target_the_oracle_says_so_and_wants_what_can_be() -> None:
    def served(staffing: Staffing) -> Served:
        offered = np.full(len(staffing), 100.0)
        late = np.where(np.array(staffing.decoder) < 3, 50.0, 0.0)
        return Served(offered, offered - 10.0 - late)

    found = oracle(served, need([1.0] * 6, [1.0] * 6))
    assert not found.is_at_target
    assert found.attainment == pytest.approx(0.9)
    assert found.staffing == Staffing(60.0, (1,) * 6, (3,) * 6)


def test_runs_are_counted_and_never_more_than_allowed() -> None:
    runs: list[Staffing] = []
    found = oracle(sharp([4] * 20, [4] * 20, runs), need([3.0] * 20, [3.0] * 20), runs_max=15)
    assert len(runs) == found.runs == 15
    assert sharp([4] * 20, [4] * 20)(found.staffing).in_time.min() >= 99.0


def arrivals(rate: float, until_s: float) -> Arrivals:
    at_s = np.arange(0.0, until_s, 1 / rate)
    ones = np.ones(len(at_s), np.int64)
    return Arrivals(at_s, ones * 900, ones * 30, ones * 0)


def joined(first: Arrivals, then: Arrivals, at_s: float) -> Arrivals:
    return Arrivals(
        np.concatenate((first.at_s, then.at_s + at_s)),
        np.concatenate((first.input_tokens, then.input_tokens)),
        np.concatenate((first.output_tokens, then.output_tokens)),
        np.concatenate((first.cached_tokens, then.cached_tokens)),
    )


def test_requests_are_in_time_with_enough_nodes_and_late_without() -> None:
    # One prompt node does 5 of these a second.
    busy = joined(arrivals(2.0, 120.0), arrivals(8.0, 60.0), 120.0)
    simulated = staffed(busy, DEMO, SLO)
    few, enough = Staffing(60.0, (1, 1, 1), (1, 1, 1)), Staffing(60.0, (1, 1, 3), (1, 1, 2))
    assert simulated(few).offered.tolist() == [120.0, 120.0, 480.0]
    assert simulated(few).in_time[:2].tolist() == [120.0, 120.0]
    assert simulated(few).in_time[2] < 240.0
    assert simulated(enough).in_time.tolist() == [120.0, 120.0, 480.0]


def test_a_node_that_leaves_ends_what_it_has() -> None:
    asked = arrivals(4.0, 60.0)
    simulated = staffed(asked, DEMO, SLO)
    leaving = simulated(Staffing(30.0, (3, 1), (3, 1)))
    assert leaving.in_time.tolist() == [120.0, 120.0]


def test_on_the_request_level_model_the_oracle_follows_the_load() -> None:
    busy = joined(arrivals(1.0, 180.0), arrivals(8.0, 60.0), 180.0)
    asked = fluid_need(busy, DEMO, SLO)
    simulated = staffed(busy, DEMO, SLO)
    found = oracle(simulated, asked, lasting_slots=lasting_slots(busy, SLO, 60.0), runs_max=40)
    assert found.is_at_target
    assert found.attainment >= 0.99
    assert found.staffing.at(60.0) == Target(1, 1)
    assert found.staffing.at(200.0).prompt == 2
    assert found.staffing.node_hours >= fluid_bound(asked, utilisation=1.0).node_hours
    assert simulated(found.staffing).in_time.sum() >= 0.99 * len(busy)


def test_the_same_requests_have_the_same_oracle() -> None:
    busy = arrivals(4.0, 120.0)
    asked = fluid_need(busy, DEMO, SLO)
    simulated = staffed(busy, DEMO, SLO)
    assert oracle(simulated, asked, runs_max=20) == oracle(simulated, asked, runs_max=20)


def test_long_answers_are_blamed_on_slots_after_their_arrival_too() -> None:
    answers = replace(arrivals(1.0, 60.0), output_tokens=np.full(60, 4000))
    assert lasting_slots(answers, SLO, 60.0) == 4
    assert lasting_slots(arrivals(1.0, 60.0), SLO, 60.0) == 1
