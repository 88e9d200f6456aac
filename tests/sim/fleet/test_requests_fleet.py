"""What callers of the fleet of requests may rely on."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pd_autoscaler.engine_model.profile import DEMO
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.node import Role
from pd_autoscaler.sim.fleet.requests.bounds import BOUNDS
from pd_autoscaler.sim.fleet.requests.fleet import RequestFleet
from pd_autoscaler.workload.arrivals import Arrivals
from tests.support.request_fleets import fleet_of, poisson


def results(fleet: RequestFleet) -> tuple[bytes, ...]:
    return fleet.first_token_s.tobytes(), fleet.done_s.tobytes(), fleet.decoder_slots.tobytes()


def one(at_s: float, input_tokens: int, output_tokens: int) -> Arrivals:
    columns = (np.array([tokens]) for tokens in (input_tokens, output_tokens, 0))
    return Arrivals(np.array([at_s]), *columns)


def test_compiled_and_plain_python_give_the_same_bits() -> None:
    offered = poisson(200, 15.0, 4)
    found = []
    for is_compiled in (True, False):
        fleet = fleet_of(3, 4, DEMO, is_compiled=is_compiled)
        fleet.offer(offered)
        fleet.advance(7.0)
        fleet.remove(0)
        fleet.remove(4)
        fleet.advance(1e6)
        found.append((results(fleet), fleet.totals))
    assert found[0] == found[1]
    assert found[0][1].failed > 0


def test_the_same_input_gives_the_same_output() -> None:
    found = set()
    for _ in range(2):
        fleet = fleet_of(3, 4)
        fleet.offer(poisson(5000, 12.0, 1))
        fleet.advance(1e6)
        found.add(results(fleet))
    assert len(found) == 1


def test_looking_and_offering_little_by_little_change_nothing() -> None:
    offered = poisson(3000, 14.0, 2)
    whole = fleet_of(3, 4)
    whole.offer(offered)
    whole.advance(1e6)
    looked = fleet_of(3, 4)
    for at in range(0, len(offered), 30):
        part = slice(at, at + 30)
        looked.offer(
            Arrivals(
                offered.at_s[part],
                offered.input_tokens[part],
                offered.output_tokens[part],
                offered.cached_tokens[part],
            )
        )
        until_s = looked.now_s
        while until_s < offered.at_s[part][-1]:
            until_s = min(until_s + 0.37, float(offered.at_s[part][-1]))
            looked.advance(until_s)
            for slot in range(7):
                looked.load(slot)
                looked.reading(slot, "n", until_s)
    looked.advance(1e6)
    assert results(looked) == results(whole)


def test_every_token_is_counted_once() -> None:
    offered = poisson(2000, 20.0, 3)
    fleet = fleet_of(4, 3, replace(DEMO, kv_tokens=9000))
    fleet.offer(offered)
    for until_s in np.linspace(1.0, 200.0, 50):
        fleet.advance(float(until_s))
        pages = [fleet.reading(slot, "n", 0.0).counters for slot in range(4, 7)]
        made = sum(page["generation_tokens"] for page in pages)
        done = ~np.isnan(fleet.done_s)
        begun = ~np.isnan(fleet.first_token_s)
        least = offered.output_tokens[done].sum() + (begun & ~done).sum()
        most = offered.output_tokens[begun].sum()
        assert least <= made <= most
    fleet.advance(1e6)
    pages = [fleet.reading(slot, "n", 0.0).counters for slot in range(4, 7)]
    assert sum(page["generation_tokens"] for page in pages) == offered.output_tokens.sum()
    assert sum(page["preemptions"] for page in pages) == fleet.totals.preemptions > 0
    pages = [fleet.reading(slot, "n", 0.0).counters for slot in range(4)]
    assert sum(page["prompt_tokens"] for page in pages) == offered.uncached_tokens.sum()
    assert sum(page["prompt_tokens_cached"] for page in pages) == offered.cached_tokens.sum()


def test_a_page_tells_what_happened_on_the_node() -> None:
    offered = poisson(400, 8.0, 5)
    fleet = fleet_of(1, 1, replace(DEMO, batch_max=200, kv_tokens=10**6))
    fleet.offer(offered)
    fleet.advance(1e6)
    prompt, decoder = fleet.reading(0, "p", 9.0), fleet.reading(1, "d", 9.0)
    assert (prompt.node_id, prompt.at_s) == ("p", 9.0)
    after = np.maximum(offered.output_tokens - 1, 1)
    tpot_s = np.where(offered.output_tokens > 1, (fleet.done_s - fleet.first_token_s) / after, 0.0)
    for page, name, values in (
        (prompt, "input_len", offered.input_tokens),
        (decoder, "output_len", offered.output_tokens),
        (decoder, "tpot_s", tpot_s),
    ):
        assert page.counters[f"{name}_count"] == len(offered)
        assert page.counters[f"{name}_sum"] == pytest.approx(values.sum())
        bounds = (*BOUNDS[name], math.inf)
        wanted = [(values <= bound).sum() for bound in bounds]
        found = page.histograms[name]
        assert (found.bounds, list(found.counts)) == (bounds, wanted)
    assert decoder.gauges == {
        "waiting": 0.0,
        "waiting_deferred": 0.0,
        "running": 0.0,
        "kv_used": 0.0,
        "cache_tokens": 1e6,
    }


def test_a_restarted_exporter_counts_from_zero_amid_a_batch() -> None:
    fleet = fleet_of(1, 1)
    fleet.offer(one(0.0, 100, 1000))
    fleet.advance(5.0)
    before = fleet.reading(1, "d", 5.0).counters["generation_tokens"]
    assert before > 100
    fleet.reset_counters(1)
    assert set(fleet.reading(1, "d", 5.0).counters.values()) == {0.0}
    fleet.advance(1e6)
    assert fleet.reading(1, "d", 1e6).counters["generation_tokens"] == 1000 - before


def test_requests_wait_for_nodes_to_be_published() -> None:
    fleet = RequestFleet(DEMO)
    prompt, decoder = fleet.add(Role.PROMPT), fleet.add(Role.DECODER)
    fleet.offer(one(1.0, 100, 10))
    fleet.advance(2.0)
    assert fleet.at_router == 1
    fleet.publish(prompt)
    fleet.advance(4.0)
    assert fleet.load(prompt).kv_unpulled == fleet.load(prompt).in_flight == 1
    fleet.publish(decoder)
    fleet.advance(5.0)
    assert fleet.totals.finished == 1
    assert fleet.first_token_s[0] > 4.0


def test_what_waits_too_long_for_a_prompt_node_is_dropped() -> None:
    fleet = RequestFleet(DEMO, patience_s=5.0)
    fleet.offer(one(0.0, 100, 10))
    fleet.offer(one(4.0, 100, 10))
    fleet.advance(6.0)
    for role in Role:
        fleet.publish(fleet.add(role))
    fleet.advance(1e3)
    assert fleet.totals.dropped == fleet.totals.finished == 1
    assert np.isnan(fleet.done_s).tolist() == [True, False]


def test_an_empty_node_takes_the_other_role_and_a_busy_one_does_not() -> None:
    fleet = fleet_of(2, 1)
    fleet.offer(one(0.0, 100, 1000))
    fleet.advance(5.0)
    with pytest.raises(ConfigError, match="requests are on it"):
        fleet.take_role(2, Role.PROMPT)
    fleet.withdraw(1)
    fleet.take_role(1, Role.DECODER)
    fleet.publish(1)
    fleet.withdraw(2)
    fleet.offer(one(6.0, 100, 10))
    fleet.advance(1e3)
    assert fleet.totals.finished == 2
    assert fleet.decoder_slots.tolist() == [2, 1]


def test_a_fleet_grows_to_a_thousand_nodes_while_requests_run() -> None:
    fleet = RequestFleet(DEMO, nodes_max_hint=2)
    fleet.offer(poisson(4000, 100.0, 6))
    for index in range(1000):
        fleet.publish(fleet.add(Role.PROMPT if index % 2 else Role.DECODER))
        fleet.advance(0.04 * index)
    fleet.advance(1e4)
    assert fleet.totals.finished == 4000


def test_nodes_of_one_fleet_may_differ() -> None:
    slow = replace(DEMO, prefill_points=((1, 3.0), (2, 3.1), (2048, 6.0)), decode_base_s=1.0)
    fleet = RequestFleet(DEMO)
    for role in Role:
        fleet.publish(fleet.add(role, slow))
    fleet.offer(one(0.0, 1, 3))
    fleet.advance(1e3)
    assert fleet.first_token_s[0] == pytest.approx(4.0, abs=0.01)
    assert fleet.done_s[0] == pytest.approx(6.0, abs=0.01)


def test_mistakes_are_refused() -> None:
    fleet = fleet_of(1, 1)
    fleet.advance(10.0)
    with pytest.raises(ConfigError, match="before"):
        fleet.offer(one(9.0, 1, 1))
    with pytest.raises(ConfigError, match="slot 7 has no node"):
        fleet.publish(7)
    fleet.remove(0)
    with pytest.raises(ConfigError, match="slot 0 has no node"):
        fleet.remove(0)
    timeless = replace(DEMO, decode_base_s=0.0, decode_per_request_s=0.0, decode_per_token_s=0.0)
    with pytest.raises(ConfigError, match="must take time"):
        fleet.add(Role.DECODER, timeless)
    with pytest.raises(ConfigError, match="must rise"):
        RequestFleet(DEMO, bounds={**BOUNDS, "ttft_s": (2.0, 1.0)})
