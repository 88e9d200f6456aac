"""Scenarios by name, and what a simulated fleet is made of: delays, traffic and engines."""

import math
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean, pstdev

import numpy as np
import pytest

from pd_autoscaler.engine_model.profile import DEMO
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.facts import EngineLoad
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.sim.bounds import fluid_need
from pd_autoscaler.sim.experiment import FREE, Scenario, run_experiment
from pd_autoscaler.sim.faults import CallFault, WorldFault
from pd_autoscaler.sim.fleet.delays import Delay, Delays, LogNormal, Uniform
from pd_autoscaler.sim.fleet.engines import NOTHING, Engines
from pd_autoscaler.sim.fleet.traffic import PLAIN, PROMPT_TOKENS, Recorded, Steady
from pd_autoscaler.sim.scenarios import (
    AZURE_CONVERSATION,
    BUDGET_MIN,
    MOONCAKE,
    SCENARIOS,
    SERVEGEN,
    Setting,
    budget_of,
    first_fleet,
    of_arrivals,
    scenario,
)
from pd_autoscaler.workload.arrivals import Arrivals, arrivals_of
from pd_autoscaler.workload.joining import superposed
from pd_autoscaler.workload.request import Request
from pd_autoscaler.workload.reshaping import between
from pd_autoscaler.workload.shapes import DAY_S
from tests.support.real_data import real_data

GENERATED = ("S3", "S6", "S7", "S8")
FROM_TRACES = {
    "S1": AZURE_CONVERSATION,
    "S2": AZURE_CONVERSATION,
    "S4": SERVEGEN,
    "S5": MOONCAKE,
    "S9": AZURE_CONVERSATION,
    "S10": AZURE_CONVERSATION,
    "S11": AZURE_CONVERSATION,
    "S12": AZURE_CONVERSATION,
}
SMALL = Setting(profile=DEMO, nodes_mean=0.5)
"""Rates so low that days are made at once."""


class _Standing:
    """Wants what stands."""

    def decide(self, snapshot: Snapshot) -> Target:
        return Target(snapshot.target.prompt, snapshot.target.decoder)


def runs(made: Scenario) -> None:
    """Run the beginning, a hundred requests or so, and see that they are answered."""
    until_s = float(made.arrivals.at_s[100])
    # Four nodes more than it needs: who cannot reach one of them is answered by another.
    roomy = Target(made.initial.prompt + 2, made.initial.decoder + 2)
    short = replace(made, arrivals=between(made.arrivals, 0.0, until_s), initial=roomy)
    run = run_experiment(short, _Standing(), name="standing", guard=FREE)
    assert run.scenario == made.name
    assert len(run.samples) >= 1
    assert np.isfinite(run.requests.done_s).mean() > 0.5


def nodes_of(made: Scenario) -> float:
    """Return the mean of the fluid need at 0.8 utilisation."""
    need = fluid_need(made.arrivals, made.profile, made.slo)
    return float(np.mean(need.prompt + need.decoder)) / 0.8


def with_traces(name: str) -> Setting:
    """Return the setting of a scenario whose traces are here, or skip the test by a file's name."""
    return replace(SMALL, data=real_data(f"traces/{FROM_TRACES[name]}").parent)


def even(count: int, *, span_s: float) -> Arrivals:
    return arrivals_of(Request(n * span_s / (count - 1), 1000, 200) for n in range(count))


# Scenarios


def test_every_scenario_is_generated_or_of_a_trace() -> None:
    assert sorted(SCENARIOS) == sorted((*GENERATED, *FROM_TRACES))


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_scenario_is_made_of_nothing_and_runs(name: str) -> None:
    made = scenario(name, SMALL, 0)

    assert made.name == name
    assert made.limits.nodes_max == BUDGET_MIN
    assert (made.faults, made.strikes, made.partitioned) == ({}, (), 0)
    runs(made)


@pytest.mark.parametrize("name", FROM_TRACES)
def test_a_scenario_of_a_trace_runs(name: str) -> None:
    # A day has many requests even so.
    nodes_mean = 0.05 if name == "S4" else 0.5
    setting = replace(with_traces(name), nodes_mean=nodes_mean)

    made = scenario(name, setting, 1)

    assert nodes_of(made) == pytest.approx(nodes_mean, rel=0.1)
    assert made.period_s == (60.0 if name == "S4" else 10.0)
    assert made.arrivals.span_s == pytest.approx(DAY_S if name == "S4" else 3600.0, rel=0.04)
    runs(made)


def test_the_rate_is_scaled_to_the_mean_of_nodes_that_is_asked_for() -> None:
    small, large = (scenario("S6", replace(SMALL, nodes_mean=n), 0) for n in (0.5, 2.0))

    assert nodes_of(small) == pytest.approx(0.5, rel=0.02)
    assert nodes_of(large) == pytest.approx(2.0, rel=0.02)
    assert len(large.arrivals) == pytest.approx(4 * len(small.arrivals), rel=0.05)


def test_a_named_scenario_needs_eight_nodes_on_average_if_nothing_is_said() -> None:
    assert nodes_of(scenario("S7", Setting(), 0)) == pytest.approx(8.0, rel=0.02)


@pytest.mark.parametrize("name", GENERATED)
def test_a_seed_gives_the_same_requests_again_and_another_seed_others(name: str) -> None:
    one, again, other = (scenario(name, SMALL, seed).arrivals.at_s for seed in (1, 1, 2))

    assert np.array_equal(one, again)
    assert not np.array_equal(one[:100], other[:100])


def test_scenarios_of_one_seed_do_not_share_their_draws() -> None:
    made = [scenario(name, SMALL, 0).arrivals.at_s[:20].tolist() for name in ("S6", "S7", "S8")]

    assert len({tuple(times) for times in made}) == 3


def test_seeds_begin_at_other_moments_of_a_trace() -> None:
    # As many nodes as the trace itself needs, so that the same requests are in it.
    setting = replace(with_traces("S1"), nodes_mean=None)
    recorded = real_data(f"traces/{AZURE_CONVERSATION}")
    nodes_mean = nodes_of(scenario(str(recorded), setting, 0))

    first, other = (
        scenario("S1", replace(setting, nodes_mean=nodes_mean), seed) for seed in (0, 1)
    )

    assert len(first.arrivals) == pytest.approx(len(other.arrivals), rel=0.01)
    assert first.arrivals.input_tokens[:5].tolist() != other.arrivals.input_tokens[:5].tolist()


def test_trouble_is_told_by_the_scenario() -> None:
    setting = with_traces("S9")

    deaths, links, starts, pages = (scenario(n, setting, 2) for n in ("S9", "S10", "S11", "S12"))

    assert [(strike.at_s, strike.role) for strike in deaths.strikes] == [
        (900.0, Role.PROMPT),
        (1800.0, Role.DECODER),
        (2700.0, Role.PROMPT),
        (2700.0, Role.DECODER),
    ]
    assert links.faults == {CallFault.LINK_FAILS: 0.20}
    assert (links.partitioned, links.links_max) == (1, 512)
    assert scenario("S10", setting, 3).faults == {CallFault.LINK_FAILS: 0.01}
    assert starts.faults == {CallFault.START_NEVER: 0.05}
    assert isinstance(starts.delays.start, LogNormal)
    assert starts.delays.start.cv == 1.0
    assert set(pages.faults) == {
        CallFault.SCRAPE_PARTIAL,
        CallFault.SCRAPE_STALE,
        WorldFault.COUNTER_RESET,
    }


def test_a_trace_is_replayed_as_it_is_unless_nodes_are_asked_for(tmp_path: Path) -> None:
    trace = tmp_path / "mine.csv"
    rows = "".join(f"{second},1000,200\n" for second in range(0, 600, 2))
    trace.write_text(f"arrival_s,input_tokens,output_tokens\n{rows}")

    plain, scaled = (
        scenario(str(trace), replace(SMALL, nodes_mean=nodes), 0) for nodes in (None, 3.0)
    )

    assert plain.name == "mine.csv"
    assert len(plain.arrivals) == 300
    assert plain.arrivals.at_s[:3].tolist() == [0, 2, 4]
    assert nodes_of(scaled) == pytest.approx(3.0, rel=0.05)
    runs(plain)


def test_the_setting_decides_engines_targets_delays_and_period(tmp_path: Path) -> None:
    setting = replace(SMALL, lead_s=40.0, link_s=3.0, period_s=5.0)

    made = scenario("S8", setting, 0)

    assert (made.profile, made.slo, made.period_s) == (DEMO, setting.slo, 5.0)
    drawn = (made.delays.start, made.delays.init, made.delays.link)
    assert [delay.mean_s for delay in drawn if isinstance(delay, LogNormal)] == [36.0, 4.0, 3.0]


def test_a_fleet_begins_with_what_its_first_five_minutes_need() -> None:
    busy = even(1200, span_s=300.0)
    calm = even(60, span_s=300.0)
    later = replace(busy, at_s=busy.at_s + 300.0)

    first = first_fleet(busy, DEMO, SMALL.slo)

    need = fluid_need(busy, DEMO, SMALL.slo)
    assert first.prompt == math.ceil(need.prompt.max() / 0.8)
    assert first.decoder == math.ceil(need.decoder.max() / 0.8)
    assert of_arrivals("mine", busy, SMALL).initial == first
    assert first.total > 2
    assert first_fleet(superposed(calm, later), DEMO, SMALL.slo) == Target(1, 1)


def test_one_request_is_a_trace_too() -> None:
    made = of_arrivals("one", arrivals_of([Request(0.0, 100, 10)]), SMALL)

    assert made.initial == Target(1, 1)


def test_a_name_that_is_nothing_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'S13'.* scenarios are S1, S2, S3, .*, S12$"):
        scenario("S13", SMALL, 0)
    with pytest.raises(ConfigError, match=r"none\.csv"):
        scenario(str(tmp_path / "none.csv"), SMALL, 0)


def test_a_file_that_is_no_trace_is_refused_by_its_name(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("a,b\n1,2\n")

    with pytest.raises(ConfigError, match=r"wrong\.csv:1: is not a known trace format"):
        scenario(str(wrong), SMALL, 0)


def test_a_scenario_of_a_trace_that_is_not_there_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=AZURE_CONVERSATION):
        scenario("S1", replace(SMALL, data=tmp_path), 0)


# Delays


def draws(delay: Delay, *, seed: int = 0) -> list[float]:
    rng = Random(seed)
    return [delay.draw(rng) for _ in range(4000)]


def test_a_uniform_delay_is_anything_between_two_durations() -> None:
    drawn = draws(Uniform(5.0, 30.0))

    assert 5.0 <= min(drawn) < 5.1
    assert 29.9 < max(drawn) <= 30.0
    assert fmean(drawn) == pytest.approx(17.5, rel=0.02)


@pytest.mark.parametrize("cv", [0.0, 0.3, 1.0])
def test_a_log_normal_delay_has_its_mean_and_spread(cv: float) -> None:
    drawn = draws(LogNormal(140.0, cv))

    assert min(drawn) > 0
    assert fmean(drawn) == pytest.approx(140.0, rel=0.05)
    assert pstdev(drawn) / fmean(drawn) == pytest.approx(cv, rel=0.1, abs=1e-9)


def test_no_delay_is_no_delay_always() -> None:
    assert set(draws(LogNormal(0.0))) == {0.0}


@pytest.mark.parametrize("delay", [Uniform(1.0, 2.0), LogNormal(3.0)])
def test_the_same_generator_draws_the_same_delays(delay: Delay) -> None:
    assert draws(delay) == draws(delay)
    assert draws(delay) != draws(delay, seed=1)


def test_every_delay_of_a_node_has_a_usual_value() -> None:
    usual, rng = Delays(), Random(0)

    assert all(
        delay.draw(rng) > 0
        for delay in (usual.start, usual.init, usual.link, usual.switch, usual.stop)
    )


# Traffic


def test_steady_requests_come_one_after_the_other_evenly() -> None:
    traffic = Steady(rate=2.0)

    came = [traffic.until(now_s) for now_s in (1.0, 1.2, 3.0)]

    assert [arrivals.at_s.tolist() for arrivals in came] == [[0.5, 1.0], [], [1.5, 2.0, 2.5, 3.0]]
    assert {int(tokens) for tokens in came[2].input_tokens} == {PROMPT_TOKENS}


def test_a_rate_and_an_answer_that_change_count_from_then_on() -> None:
    traffic = Steady(rate=1.0, answer_s=3.0)
    before = traffic.until(10.5)

    traffic.rate, traffic.answer_s = 4.0, 0.6
    after = traffic.until(11.0)

    assert len(before) == 10
    assert set(before.output_tokens.tolist()) == {100}
    # Half a request was under way.
    assert after.at_s.tolist() == pytest.approx([10.625, 10.875])
    assert set(after.output_tokens.tolist()) == {20}


def test_no_rate_is_no_request_and_time_does_not_go_back() -> None:
    traffic = Steady(rate=0.0)
    assert len(traffic.until(100.0)) == 0

    traffic.rate = 1.0

    assert len(traffic.until(50.0)) == 0
    assert traffic.until(101.0).at_s.tolist() == [101.0]


def test_a_load_says_how_many_plain_nodes_it_would_use_up() -> None:
    traffic = Steady(rate=4.0, answer_s=16.0)

    assert traffic.nodes_of(Role.PROMPT) == pytest.approx(2.0)
    assert traffic.nodes_of(Role.DECODER) == pytest.approx(2.0)
    assert traffic.nodes_needed == pytest.approx(4.0)


def test_a_recording_is_handed_over_once_and_whole() -> None:
    recorded = even(5, span_s=100.0)
    traffic = Recorded(recorded)

    assert traffic.until(0.0) is recorded
    assert len(traffic.until(50.0)) == 0


# Engines


def engines_of(*requests: Request, patience_s: float = math.inf) -> Engines:
    """Return a prompt node p and a decoder d that are published and linked."""
    engines = Engines(PLAIN, Recorded(arrivals_of(requests)), patience_s=patience_s)
    for node_id, role in (("p", Role.PROMPT), ("d", Role.DECODER)):
        engines.boot(node_id, role)
        engines.publish(node_id)
    return engines


ONE = Request(0.0, PROMPT_TOKENS, 100)
"""Half a second of prompt, three seconds of tokens."""


def test_a_request_flows_through_a_prompt_node_and_a_decoder() -> None:
    engines = engines_of(ONE)

    engines.flow(0.25)
    assert (engines.in_flight("p"), engines.in_flight("d")) == (1, 0)
    assert engines.totals(["p", "d"]) == (0, 1)
    engines.flow(1.0)
    assert (engines.in_flight("p"), engines.in_flight("d")) == (0, 1)
    engines.flow(4.0)

    assert engines.requests.totals.finished == 1
    assert engines.requests.done_s[0] == pytest.approx(3.5, abs=0.01)


def test_what_waits_is_counted_apart_from_what_is_worked_on() -> None:
    engines = engines_of(ONE, replace(ONE, at_s=0.1), replace(ONE, at_s=0.2))

    engines.flow(0.3)

    assert engines.totals(["p"]) == (2, 1)
    assert engines.load("p", tells_kv=True) == EngineLoad(waiting=2, running=1, kv_unpulled=0)
    assert engines.load("p", tells_kv=False).kv_unpulled is None


def test_nodes_without_an_engine_hold_nothing() -> None:
    engines = engines_of()

    engines.publish("nobody")
    engines.withdraw("nobody")
    engines.link("nobody", "p", is_linked=False)
    engines.take_role("nobody", Role.PROMPT)
    engines.end("nobody")
    engines.reset_counters("nobody")

    assert engines.load("nobody", tells_kv=True) == NOTHING
    assert engines.in_flight("nobody") == 0
    assert engines.totals(["nobody"]) == (0, 0)


def test_requests_wait_for_a_node_to_be_published() -> None:
    engines = engines_of(ONE)
    engines.withdraw("p")

    engines.flow(10.0)
    assert engines.requests.at_router == 1
    engines.publish("p")
    engines.publish("p")
    engines.flow(20.0)

    assert engines.requests.totals.finished == 1


def test_a_withdrawn_node_ends_what_it_has() -> None:
    engines = engines_of(ONE, replace(ONE, at_s=2.0))
    engines.flow(1.0)

    engines.withdraw("d")
    engines.flow(10.0)

    assert engines.requests.totals.finished == 1
    assert engines.in_flight("d") == 0


def test_what_is_inside_an_engine_at_its_end_is_lost() -> None:
    engines = engines_of(ONE)
    engines.flow(1.0)

    engines.end("d")
    engines.flow(10.0)

    assert engines.in_flight("d") == 0
    assert engines.requests.totals.failed == 1
    assert math.isnan(engines.requests.done_s[0])


def test_a_restarted_engine_is_empty_and_not_published() -> None:
    engines = engines_of(ONE)
    engines.flow(0.25)

    engines.boot("p", Role.PROMPT)
    assert engines.in_flight("p") == 0
    engines.flow(1.0)

    assert engines.requests.totals.failed == 1


def test_kv_passes_only_between_nodes_that_are_linked() -> None:
    engines = engines_of(ONE, replace(ONE, at_s=20.0))
    engines.link("p", "d", is_linked=False)
    engines.flow(10.0)
    assert engines.requests.totals.failed == 1

    # Whichever end is named first.
    engines.link("d", "p", is_linked=True)
    engines.flow(30.0)

    assert engines.requests.totals.finished == 1


def test_a_node_that_takes_the_other_role_stays_published_and_loses_what_it_had() -> None:
    engines = engines_of(ONE, replace(ONE, at_s=20.0))
    engines.boot("spare", Role.DECODER)
    engines.publish("spare")
    engines.end("p")

    engines.take_role("spare", Role.PROMPT)
    engines.take_role("spare", Role.PROMPT)
    engines.link("spare", "d", is_linked=True)
    engines.flow(30.0)

    assert engines.requests.totals.finished == 2


def test_two_nodes_of_one_role_have_no_link() -> None:
    engines = engines_of(ONE)
    engines.boot("p2", Role.PROMPT)

    engines.link("p", "p2", is_linked=False)
    engines.flow(10.0)

    assert engines.requests.totals.finished == 1


def test_a_user_who_is_not_looked_at_leaves() -> None:
    engines = engines_of(ONE, *(replace(ONE, at_s=0.1) for _ in range(5)), patience_s=1.0)

    engines.flow(60.0)

    totals = engines.requests.totals
    assert totals.dropped > 0
    assert totals.finished + totals.dropped == totals.arrived == 6


def test_counters_begin_again_at_zero() -> None:
    engines = engines_of(ONE)
    engines.flow(10.0)
    before = engines.reading("p", now_s=10.0).counters

    engines.reset_counters("p")

    after = engines.reading("p", now_s=10.0).counters
    assert before["prompt_tokens"] == PROMPT_TOKENS
    assert set(after.values()) == {0}


def test_a_budget_is_ten_times_the_need_that_is_set() -> None:
    assert [budget_of(nodes) for nodes in (None, 0.5, 5.0)] == [200, 20, 50]
