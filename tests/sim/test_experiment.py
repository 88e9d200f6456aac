"""One experiment: a scenario and a policy through the production loop, and what is written down."""

import gc
import logging
import math
from dataclasses import fields, replace
from random import Random
from typing import Any

import numpy as np
import pytest

from pd_autoscaler.core.rules import GuardRules
from pd_autoscaler.engine_model.profile import DEMO
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.model.snapshot import Limits, Snapshot
from pd_autoscaler.policies.contract import Policy
from pd_autoscaler.sim.contestant import contestant
from pd_autoscaler.sim.experiment import (
    FREE,
    Scenario,
    Strike,
    delays_of,
    priors_of,
    run_experiment,
)
from pd_autoscaler.sim.faults import CallFault, WorldFault
from pd_autoscaler.sim.fleet.engines import Engines
from pd_autoscaler.sim.fleet.traffic import PLAIN, PROMPT_TOKENS
from pd_autoscaler.sim.fleet.world import World
from pd_autoscaler.sim.records import Run, Sample
from pd_autoscaler.workload.arrivals import Arrivals, arrivals_of
from pd_autoscaler.workload.request import Request

SPAN_S = 300.0
LEAD_S = 20.0
LIMITS = Limits(prompt_max=6, decoder_max=6, nodes_max=8)
BOTH = Target(2, 2, "two of each")


class Wants:
    """Answers what it was told to from each moment on, and remembers what it was shown."""

    def __init__(self, *answers: tuple[float, Decision]) -> None:
        self._answers = answers
        self.shown: list[Snapshot] = []

    def decide(self, snapshot: Snapshot) -> Decision:
        self.shown.append(snapshot)
        return next(told for at_s, told in reversed(self._answers) if snapshot.now_s >= at_s)


def always(target: Target) -> Wants:
    return Wants((0.0, target))


def even(count: int = 300, *, span_s: float = SPAN_S, output_tokens: int = 100) -> Arrivals:
    """Return requests one after the other, evenly, the last of them at the end."""
    return arrivals_of(
        Request(number * span_s / (count - 1), PROMPT_TOKENS, output_tokens)
        for number in range(count)
    )


def scenario_of(**changes: Any) -> Scenario:
    """Return two nodes of each role with time to spare, and delays that are all alike."""
    calm = Scenario(
        name="plain",
        arrivals=even(),
        profile=PLAIN,
        initial=Target(2, 2),
        limits=LIMITS,
        delays=delays_of(LEAD_S, 0.1, cv=0.0),
    )
    return replace(calm, **changes)


def ran(
    scenario: Scenario | None = None,
    policy: Policy | None = None,
    *,
    seed: int = 0,
    guard: GuardRules | None = FREE,
) -> Run:
    return run_experiment(
        scenario or scenario_of(), policy or always(BOTH), name="wants", seed=seed, guard=guard
    )


def serving(sample: Sample) -> tuple[int, int]:
    prompt, decoder = (sample.count(role, NodeState.SERVING) for role in Role)
    return prompt, decoder


@pytest.fixture(name="worlds")
def _worlds(monkeypatch: pytest.MonkeyPatch) -> list[World]:
    """List the worlds of the experiments to come."""
    made: list[World] = []

    class Known(World):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            made.append(self)

    monkeypatch.setattr("pd_autoscaler.sim.experiment.World", Known)
    return made


# What it is told


def test_a_lead_is_nine_tenths_start_and_one_tenth_initialisation() -> None:
    delays, rng = delays_of(155.0, 2.0, cv=0.0), Random(0)

    drawn = [delay.draw(rng) for delay in (delays.start, delays.init, delays.link)]

    assert drawn == pytest.approx([139.5, 15.5, 2.0])


def test_priors_are_what_the_profile_measured() -> None:
    profile = replace(PLAIN, decode_per_request_s=1e-4, decode_per_token_s=1e-7)

    priors = priors_of(profile)

    assert priors.prefill_tokens_per_s == pytest.approx(PROMPT_TOKENS / 0.5)
    steps = (priors.step_base_s, priors.step_per_request_s, priors.step_per_token_s)
    assert steps == (PLAIN.decode_base_s, 1e-4, 1e-7)


@pytest.mark.parametrize("knows_profile", [True, False])
def test_a_controller_knows_what_nodes_can_do_from_the_start_only_if_it_is_told(
    *, knows_profile: bool
) -> None:
    policy = always(BOTH)

    run = ran(scenario_of(arrivals=even(60, span_s=60.0), knows_profile=knows_profile), policy)

    first = policy.shown[0].capacity
    assert any(told.prefill_tokens_per_s is not None for told in first) is knows_profile
    assert np.isfinite(run.requests.done_s).all()


# The guard


def test_without_a_guard_of_its_own_a_target_stands_at_once_in_one_step() -> None:
    many, few = Target(4, 4, "many"), Target(1, 1, "few")

    run = ran(policy=Wants((0.0, BOTH), (50.0, many), (150.0, few)))

    assert [change.after for change in run.changes] == [many, few]
    moments = [change.at_s for change in run.changes]
    assert all(0 <= at_s - asked_s < 11 for at_s, asked_s in zip(moments, (50, 150), strict=True))


def test_the_free_guard_keeps_the_limits_all_the_same() -> None:
    limits = Limits(prompt_max=3, decoder_max=4, nodes_max=6)

    run = ran(scenario_of(limits=limits), always(Target(9, 9)))

    assert run.changes
    for sample in run.samples:
        assert sample.target.prompt <= 3
        assert sample.target.decoder <= 4
        assert sample.target.total <= 6
    assert run.holds[HoldReason.BUDGET] > 0


def test_the_guard_of_production_waits_for_its_windows() -> None:
    policy = Wants((0.0, BOTH), (50.0, Target(4, 4, "many")), (150.0, Target(1, 1, "few")))

    run = ran(policy=policy, guard=None)

    [change] = run.changes
    assert change.at_s >= 50 + GuardRules().up_window_s
    assert run.holds[HoldReason.UP_WINDOW] > 0
    assert run.holds[HoldReason.WARM_UP] > 0


# What is written down


def test_each_cycle_is_a_sample_in_the_order_of_time() -> None:
    run = ran()

    moments = [sample.at_s for sample in run.samples]
    assert np.diff(moments) == pytest.approx(10.0, abs=0.5)
    assert moments[0] < 1
    assert SPAN_S - moments[-1] < 11
    assert {serving(sample) for sample in run.samples} == {(2, 2)}
    assert {sample.decision for sample in run.samples} == {str(BOTH)}
    assert {sample.held for sample in run.samples} == {""}
    # Three seconds of tokens, one request a second.
    busy = [sample.running_decoder for sample in run.samples[1:]]
    assert 2 <= np.mean(busy) <= 4


def test_a_queue_is_seen_where_it_is() -> None:
    # One prompt node does two requests a second, and three come.
    overload = even(300, span_s=100.0)

    run = ran(scenario_of(arrivals=overload, initial=Target(1, 2)), always(Target(1, 2)))

    queues = [sample.queue_prompt for sample in run.samples]
    assert queues == sorted(queues)
    assert queues[-1] > 80
    assert max(sample.queue_decoder for sample in run.samples) <= 1


def test_a_hold_is_written_down_with_its_reason() -> None:
    hold = Hold(HoldReason.POLICY_HELD, "cannot say")

    run = ran(policy=Wants((0.0, hold), (100.0, BOTH)))

    held = [sample.held for sample in run.samples if sample.at_s < 100]
    assert set(held) == {HoldReason.POLICY_HELD}
    assert run.holds == {HoldReason.POLICY_HELD: len(held)}
    assert "cannot say" in run.samples[0].decision


def test_changes_follow_each_other_and_say_why_in_the_words_of_the_policy() -> None:
    run = ran(policy=Wants((0.0, BOTH), (50.0, Target(2, 3, "a peak")), (150.0, BOTH)))

    first, second = run.changes
    assert (first.before, first.after, first.after.why) == (BOTH, Target(2, 3), "a peak")
    assert (second.before, second.after, second.after.why) == (Target(2, 3), BOTH, "two of each")
    assert [sample.target for sample in run.samples if sample.at_s < first.at_s - 1][-1] == BOTH


def test_a_run_says_what_it_was_a_run_of() -> None:
    run = run_experiment(
        scenario_of(arrivals=even(30, span_s=30.0)),
        always(BOTH),
        name="mine",
        params={"ratio": 0.5},
        seed=7,
    )

    assert (run.scenario, run.policy, run.params, run.seed) == ("plain", "mine", {"ratio": 0.5}, 7)
    assert run.lasted_s == 30.0
    assert run.cpu_s > 0


# Requests


def test_every_request_is_answered_in_the_order_of_its_tokens() -> None:
    run = ran()

    log = run.requests
    assert len(log.done_s) == len(log.arrivals) == 300
    assert (log.ttft_s >= PLAIN.prefill_s(PROMPT_TOKENS)).all()
    assert log.tpot_s == pytest.approx(np.full(300, PLAIN.decode_base_s))


def test_what_is_under_way_at_the_last_arrival_ends_unpaid() -> None:
    run = ran(scenario_of(arrivals=even(30, span_s=30.0, output_tokens=2000)))

    assert np.isfinite(run.requests.done_s).all()
    assert run.requests.done_s.max() > run.lasted_s + 30
    assert sum(run.node_seconds.values()) == pytest.approx(4 * 30.0)


@pytest.mark.parametrize(
    "trouble",
    [
        {"strikes": (Strike(60.0, Role.PROMPT), Strike(150.0, Role.DECODER))},
        {"faults": {WorldFault.NODE_DIES: 120.0, CallFault.LINK_FAILS: 0.3}},
        {"arrivals": even(600, span_s=100.0), "patience_s": 5.0},
    ],
    ids=["strikes", "faults", "overload"],
)
def test_requests_are_conserved_whatever_befalls_them(
    worlds: list[World], trouble: dict[str, Any]
) -> None:
    run = ran(scenario_of(**trouble))

    totals, log = worlds[0].engines.requests.totals, run.requests
    assert totals.arrived == len(log.arrivals)
    assert totals.finished == np.isfinite(log.done_s).sum()
    assert totals.failed + totals.dropped == np.isnan(log.done_s).sum() > 0
    assert totals.dropped <= np.isnan(log.first_token_s).sum()


def test_users_who_are_not_looked_at_leave() -> None:
    overload = scenario_of(arrivals=even(300, span_s=100.0), initial=Target(1, 2))

    impatient = ran(replace(overload, patience_s=5.0), always(Target(1, 2))).requests
    patient = ran(replace(overload, patience_s=math.inf), always(Target(1, 2))).requests

    assert np.isnan(impatient.first_token_s).sum() > 50
    # Whoever stays waits for the patience, for a prompt before it and for its own.
    assert np.nanmax(impatient.ttft_s) < 5.0 + 3 * PLAIN.prefill_s(PROMPT_TOKENS)
    assert np.isfinite(patient.done_s).all()
    assert patient.ttft_s.max() > 20


# Bills


def test_a_fleet_that_stays_costs_its_nodes_for_the_whole_time() -> None:
    run = ran(scenario_of(initial=Target(1, 3)), always(Target(1, 3)))

    assert run.node_seconds == pytest.approx({Role.PROMPT: SPAN_S, Role.DECODER: 3 * SPAN_S})
    assert run.node_hours == pytest.approx(4 * SPAN_S / 3600)


def test_a_node_is_paid_for_from_when_it_was_asked_for_until_it_is_gone() -> None:
    run = ran(policy=Wants((0.0, BOTH), (50.0, Target(2, 3)), (150.0, Target(1, 3))))

    more, less = run.changes
    assert (run.starts, run.stops) == (1, 1)
    third_s = SPAN_S - more.at_s
    assert run.node_seconds[Role.DECODER] == pytest.approx(2 * SPAN_S + third_s, abs=1.0)
    # It drains, is unlinked and takes five seconds to stop.
    assert less.at_s + 5 < run.node_seconds[Role.PROMPT] - SPAN_S < less.at_s + 30


def test_a_node_that_vanished_is_not_paid_for_any_more(worlds: list[World]) -> None:
    run = ran(scenario_of(faults={WorldFault.NODE_VANISHES: 30.0}), seed=1)

    vanished = [n for n in worlds[0].nodes.values() if not n.is_up and math.isinf(n.gone_at_s)]
    lost_s = sum(SPAN_S - node.unlisted_at_s for node in vanished if node.unlisted_at_s < SPAN_S)
    made_s = sum(SPAN_S - node.made_at_s for node in worlds[0].nodes.values())
    assert lost_s > 0
    assert sum(run.node_seconds.values()) == pytest.approx(made_s - lost_s)


# Trouble


def test_a_strike_kills_nodes_at_its_moment_and_the_loop_replaces_them() -> None:
    four = Target(2, 4)
    run = ran(
        scenario_of(initial=four, strikes=(Strike(95.0, Role.DECODER, share=0.5),)), always(four)
    )

    before = [serving(sample) for sample in run.samples if sample.at_s < 95]
    after = [serving(sample) for sample in run.samples if sample.at_s > 95]
    assert set(before) == {(2, 4)}
    assert min(after) == (2, 2)
    assert after[-1] == (2, 4)
    assert run.starts == 2
    assert not run.changes


def test_a_strike_without_a_share_kills_one_node() -> None:
    run = ran(scenario_of(strikes=(Strike(95.0, Role.PROMPT),)))

    assert min(serving(sample) for sample in run.samples) == (1, 2)
    assert serving(run.samples[-1]) == (2, 2)
    assert run.starts == 1


def test_a_level_of_a_call_fault_is_how_likely_it_is() -> None:
    grows = ((0.0, BOTH), (20.0, Target(2, 3)))

    calm = ran(scenario_of(), Wants(*grows))
    never = ran(scenario_of(faults={CallFault.START_NEVER: 1.0}), Wants(*grows))
    unlinked = ran(scenario_of(faults={CallFault.LINK_FAILS: 1.0}), Wants(*grows))

    assert serving(calm.samples[-1]) == (2, 3)
    assert never.samples[-1].count(Role.DECODER, NodeState.STARTING) == 1
    assert serving(unlinked.samples[-1]) == (2, 2)
    assert unlinked.link_calls > calm.link_calls == 2


def test_a_level_of_a_world_fault_is_how_often_it_comes_in_an_hour(worlds: list[World]) -> None:
    ran(scenario_of())
    ran(scenario_of(faults={WorldFault.NODE_DIES: 120.0}))

    calm, dying = (sum(" dead " in line for line in world.lines) for world in worlds)
    # Ten in five minutes, some of them on nodes that are dead already.
    assert calm == 0
    assert 3 <= dying <= 20


def test_a_partitioned_pair_is_never_linked_and_the_loop_replaces_one_of_it(
    worlds: list[World],
) -> None:
    run = ran(scenario_of(arrivals=even(420, span_s=420.0), partitioned=1))

    world = worlds[0]
    [pair] = world.partitioned
    decoder, prompt = (world.nodes[node_id] for node_id in sorted(pair))
    assert (decoder.role, prompt.role) == (Role.DECODER, Role.PROMPT)
    assert prompt.process is not None
    calls = f"link {decoder.id} {prompt.process.cluster_id} "
    codes = {line.partition(calls)[2] for line in world.lines if calls in line}
    assert codes == {"LLM_LINK_FAILED"}
    assert decoder.id not in world.published
    assert prompt.id in world.published
    assert run.starts == 1
    assert serving(run.samples[-1]) == (2, 2)
    # Before it was withdrawn, requests were sent over the pair and lost.
    assert np.isnan(run.requests.done_s[:60]).any()
    assert np.isfinite(run.requests.done_s[120:]).all()


def test_a_fault_that_there_is_not_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="there is no fault link_fail"):
        ran(scenario_of(faults={"link_fail": 0.1}))


def test_a_fleet_grows_no_further_than_a_card_holds_links(worlds: list[World]) -> None:
    grows = ((0.0, BOTH), (20.0, Target(3, 2)))

    full = ran(scenario_of(links_max=2), Wants(*grows))
    roomy = ran(scenario_of(links_max=3), Wants(*grows))

    assert serving(full.samples[-1]) == (2, 2)
    assert serving(roomy.samples[-1]) == (3, 2)
    assert [world.links_max for world in worlds] == [2, 3]


def test_a_fault_of_the_world_itself_ends_the_run_with_its_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flow = Engines.flow

    def breaks(self: Engines, now_s: float) -> None:
        if 100 <= now_s < 120:
            raise ArithmeticError("the engines are broken")
        flow(self, now_s)

    monkeypatch.setattr(Engines, "flow", breaks)

    with pytest.raises(ArithmeticError, match="the engines are broken"):
        ran()


def test_a_run_leaves_logging_and_the_collector_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logger = logging.getLogger("pd_autoscaler")
    monkeypatch.setattr(logger, "level", logging.INFO)
    short = scenario_of(arrivals=even(20, span_s=20.0))

    ran(short)
    assert (logger.level, gc.isenabled()) == (logging.INFO, True)
    monkeypatch.setattr(Engines, "reading", None)
    monkeypatch.setattr(Engines, "flow", None)
    with pytest.raises(TypeError):
        ran(short)

    assert (logger.level, gc.isenabled()) == (logging.INFO, True)


# Seeds


def told(run: Run) -> dict[str, Any]:
    """Return all that a run says of itself but the processor time."""
    said = {f.name: getattr(run, f.name) for f in fields(run) if f.name not in {"cpu_s", "seed"}}
    log = said.pop("requests")
    return {**said, "first": log.first_token_s.tolist(), "done": log.done_s.tolist()}


def test_the_same_seed_gives_the_same_run_and_another_seed_other_delays() -> None:
    drawn = scenario_of(
        delays=delays_of(LEAD_S, cv=0.5),
        faults={CallFault.SCRAPE_PARTIAL: 0.2},
        strikes=(Strike(100.0, Role.DECODER),),
    )

    # repr, as a request that was lost has a NaN, which equals nothing.
    one, again, other = (
        repr(told(ran(drawn, Wants((0.0, BOTH), (30.0, Target(3, 3))), seed=seed)))
        for seed in (1, 1, 2)
    )

    assert one == again
    assert one != other


# Roles that switch


@pytest.mark.parametrize("can_switch_roles", [True, False])
def test_at_a_full_budget_a_node_takes_the_other_role_where_it_can(
    *, can_switch_roles: bool
) -> None:
    full = scenario_of(limits=Limits(nodes_max=4), can_switch_roles=can_switch_roles)

    run = ran(full, Wants((0.0, BOTH), (60.0, Target(1, 3))))

    assert serving(run.samples[-1]) == (1, 3)
    verbs = (run.switches, run.starts, run.stops)
    assert verbs == ((1, 0, 0) if can_switch_roles else (0, 1, 1))
    assert np.isfinite(run.requests.done_s).all()


@pytest.mark.parametrize(
    ("name", "params"),
    [("throughput-match", {"watch_s": 60.0, "period_s": 120.0}), ("arrow", {})],
)
def test_rules_that_split_a_budget_switch_roles_and_start_nothing(
    name: str, params: dict[str, object]
) -> None:
    full = scenario_of(
        profile=DEMO,
        initial=Target(2, 4),
        limits=Limits(nodes_max=6),
        can_switch_roles=True,
    )
    entrant = contestant(name, full)

    run = ran(full, entrant.built(params), guard=entrant.guard)

    assert run.switches > 0
    assert (run.starts, run.stops) == (0, 0)
    assert serving(run.samples[-1])[0] > 2
    assert {sum(sample.nodes.values()) for sample in run.samples} == {6}
