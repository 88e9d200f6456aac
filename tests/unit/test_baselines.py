"""Published policies: their formulas on moments computed by hand."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace

import numpy as np
import pytest

from pd_autoscaler.engine_model.profile import DEMO
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.signals import NodeSignals, RoleSignals, Signal
from pd_autoscaler.model.snapshot import Limits, Snapshot
from pd_autoscaler.policies.awkward import awkward_snapshots
from pd_autoscaler.policies.conformance import checks, verdict_of
from pd_autoscaler.policies.contract import Policy
from pd_autoscaler.policies.registry import load_policy, load_spec
from pd_autoscaler.sim.baselines.forecast import Constant, Kalman
from pd_autoscaler.sim.baselines.rates import (
    decoder_tokens_per_s,
    prefill_s,
    prompt_requests_per_s,
)
from pd_autoscaler.sim.baselines.registry import (
    BASELINES,
    NAMED,
    Named,
    params_for,
    targets_for,
)
from pd_autoscaler.sim.baselines.tunables import TUNABLES, tunable
from pd_autoscaler.sim.records import Slo
from pd_autoscaler.sim.staffing import Staffing
from pd_autoscaler.workload.arrivals import Arrivals

SLO = Slo("round", 1.0, 0.050)
ROUND = replace(
    DEMO,
    prefill_points=((1, 0.0001), (10_000, 1.0)),
    prefill_tokens_max=2000,
    decode_base_s=0.030,
    decode_per_request_s=0.001,
    decode_per_token_s=0.0,
    batch_max=40,
    kv_tokens=100_000,
)
"""10,000 prompt tokens a second, however many at once; 20 requests of any length in 50 ms."""

ENGINE = {"engine": asdict(ROUND), "ttft_s": 1.0, "tpot_s": 0.050}


def built(name: str, **params: object) -> Policy:
    spec = BASELINES[name]
    return spec.build(spec.params(**params))


def seen(
    now_s: float = 0.0,
    *,
    target: Target = Target(2, 2),  # noqa: B008 - frozen
    rate: float = 10.0,
    input_len: float = 1000.0,
    output_len: float = 100.0,
    uncached: float = 1.0,
    queues: tuple[float, ...] = (0.0, 0.0),
    computing: float = 0.0,
    batches: tuple[tuple[float, float], ...] = ((10.0, 0.1), (10.0, 0.1)),
    token_rate: float | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> Snapshot:
    """Make a moment: `queues` of each prompt node, (requests, KV use) of each decoder."""

    def node(role: Role, n: int) -> Node:
        return Node(id=f"{role}-{n}", role=role, state=NodeState.SERVING, since_s=0.0)

    def signal(value: float) -> Signal:
        return Signal(value, 0.0)

    nodes = [node(Role.PROMPT, n) for n in range(len(queues))]
    nodes += [node(Role.DECODER, n) for n in range(len(batches))]
    pages = {
        f"{Role.PROMPT}-{n}": NodeSignals(
            node_id=f"{Role.PROMPT}-{n}", is_fresh=True, age_s=0.0, queue=signal(queue)
        )
        for n, queue in enumerate(queues)
    } | {
        f"{Role.DECODER}-{n}": NodeSignals(
            node_id=f"{Role.DECODER}-{n}",
            is_fresh=True,
            age_s=0.0,
            queue=signal(0.0),
            running=signal(running),
            kv_used=signal(kv_used),
        )
        for n, (running, kv_used) in enumerate(batches)
    }
    return Snapshot(
        now_s=now_s,
        now_unix_s=now_s,
        target=target,
        nodes=tuple(nodes),
        node_signals=pages,
        limits=limits,
        prompt=RoleSignals(
            serving=len(queues),
            fresh=len(queues),
            queue=signal(sum(queues)),
            running=signal(computing),
            arrival_rate=signal(rate),
            input_len=signal(input_len),
            uncached_share=signal(uncached),
        ),
        decoder=RoleSignals(
            serving=len(batches),
            fresh=len(batches),
            running=signal(sum(running for running, _ in batches)),
            kv_used_mean=signal(sum(kv for _, kv in batches) / max(len(batches), 1)),
            output_len=signal(output_len),
            token_rate=None if token_rate is None else signal(token_rate),
        ),
    )


def decided(policy: Policy, *moments: Snapshot) -> list[Decision]:
    return [policy.decide(moment) for moment in moments]


def test_a_prompt_engine_is_rated_by_its_best_batch_in_time() -> None:
    # One request of 1,000 tokens takes 0.1 s; 2,000 tokens are a full batch.
    assert prompt_requests_per_s(ROUND, 1000.0, 1.0) == pytest.approx(10.0)
    assert prefill_s(ROUND, 5000, 1000) == pytest.approx(0.5)


def test_long_prompts_take_longer_than_as_many_tokens_of_short_ones() -> None:
    looking_back = replace(ROUND, prefill_attention_s=1e-7)
    assert prefill_s(looking_back, 5000, 1000) == pytest.approx(0.5 + 5 * 0.1)
    assert prompt_requests_per_s(looking_back, 1000.0, 1.0) == pytest.approx(1 / 0.2)


def test_an_engine_that_is_never_in_time_is_rated_as_if_it_were() -> None:
    assert prompt_requests_per_s(ROUND, 50_000.0, 1.0) == pytest.approx(1 / 5.0)
    assert decoder_tokens_per_s(ROUND, 1000.0, 0.001) == pytest.approx(40 / 0.070)


def test_a_decoder_engine_is_rated_by_the_batch_that_is_in_time_and_fits() -> None:
    assert decoder_tokens_per_s(ROUND, 1000.0, 0.050) == pytest.approx(20 / 0.050)
    assert decoder_tokens_per_s(ROUND, 10_000.0, 0.050) == pytest.approx(10 / 0.040)


def test_static_never_moves() -> None:
    policy = built("static-best", prompt=3, decoder=5)
    assert set(decided(policy, *awkward_snapshots().values())) == {Target(3, 5)}


def test_a_schedule_is_played_from_the_first_moment_and_ahead_of_growth_alone() -> None:
    policy = built("replayed", slot_s=60.0, prompt=(1, 3, 1), decoder=(2, 2, 4), ahead_s=30.0)
    moments = [seen(now_s) for now_s in (500.0, 529.0, 530.0, 600.0, 620.0, 700.0)]
    assert decided(policy, *moments) == [
        Target(1, 2),
        Target(1, 2),
        Target(3, 2),
        Target(3, 4),
        Target(1, 4),
        Target(1, 4),
    ]


def test_token_velocity_divides_arriving_tokens_by_what_a_node_takes() -> None:
    policy = built(
        "token-velocity",
        prompt_tokens_per_s=10_000.0,
        network_tokens_per_s=4_000.0,
        decoder_velocities=((1000.0, 100.0, 2_000.0), (1000.0, 1000.0, 1.0)),
        watch_s=0.0,
    )
    # 10/s of 500 uncached tokens at the network's 4,000; 10/s of 1,100 at 2,000.
    assert policy.decide(seen(uncached=0.5)) == Target(2, 6)


def test_token_velocity_watches_a_full_window_before_it_concludes_anything() -> None:
    policy = built("token-velocity", watch_s=120.0)
    found = decided(policy, *(seen(now_s, rate=0.0) for now_s in (50.0, 169.0, 170.0)))
    waiting = Hold(HoldReason.WARM_UP, "watches for 120 s first")
    assert found == [waiting, waiting, Target(1, 1)]


def test_convertible_decoders_are_lent_to_prompts_until_enough_of_those_serve() -> None:
    policy = built(
        "token-velocity-convertible",
        prompt_tokens_per_s=2_000.0,
        decoder_velocities=((1000.0, 100.0, 2_000.0),),
        convertible=2,
        watch_s=0.0,
    )
    assert policy.decide(seen(queues=(0.0,) * 2)) == Target(5, 4)
    assert policy.decide(seen(queues=(0.0,) * 4)) == Target(5, 5)
    assert policy.decide(seen(queues=(0.0,) * 5)) == Target(5, 6)
    # Of decoders not even needed the convertible ones stay.
    assert policy.decide(seen(rate=0.1, queues=(0.0,))) == Target(1, 2)


def every(
    period_s: float, until_s: float, moment: Callable[[float], Snapshot]
) -> Iterator[Snapshot]:
    now_s = 0.0
    while now_s <= until_s:
        yield moment(now_s)
        now_s += period_s


def test_the_throughput_loop_divides_predicted_requests_by_what_an_engine_does() -> None:
    policy = built("dynamo-throughput", **ENGINE)
    found = decided(policy, *every(60.0, 360.0, lambda now_s: seen(now_s, rate=35.0)))
    # 10 requests/s a prompt node, 400 tokens/s a decoder at 100 a request: no headroom.
    waiting = Hold(HoldReason.POLICY_HELD, "decides every 180 s")
    assert found[:3] == [waiting] * 3
    assert found[3:] == [Target(4, 9)] * 4


def test_the_throughput_loop_takes_the_mean_of_its_interval() -> None:
    policy = built("dynamo-throughput", **ENGINE)
    rates = {0.0: 10.0, 60.0: 10.0, 120.0: 10.0, 180.0: 50.0}
    found = decided(policy, *(seen(now_s, rate=rate) for now_s, rate in rates.items()))
    assert found[-1] == Target(2, 5)


def test_the_throughput_loop_moves_a_role_by_eight_nodes_at_most() -> None:
    policy = built("dynamo-throughput", **ENGINE)
    found = decided(policy, seen(0.0, rate=400.0), seen(180.0, rate=400.0))
    assert found[-1] == Target(10, 10)


def test_the_throughput_loop_shares_a_budget_in_proportion() -> None:
    policy = built("dynamo-throughput", **ENGINE, step_max=100)
    limits = Limits(nodes_max=10)
    found = decided(policy, *(seen(now_s, rate=100.0, limits=limits) for now_s in (0.0, 180.0)))
    # 10 prompt nodes and 25 decoders are wanted.
    assert found[-1] == Target(2, 8)


def test_the_kalman_filter_follows_a_trend_after_five_points() -> None:
    series, expected = Kalman(), []
    for value in (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0):
        series.saw(value)
        expected.append(series.next)
    assert expected[:4] == [10.0, 20.0, 30.0, 40.0]
    assert expected[-1] == pytest.approx(110.0, abs=5.0)
    for _ in range(60):
        series.saw(100.0)
    assert series.next == pytest.approx(100.0, abs=0.5)


def test_the_constant_predictor_expects_the_last_value() -> None:
    series = Constant()
    series.saw(3.0)
    assert series.next == 3.0


LOAD_S = (0.0, 5.0)


def load_rule(**moment: object) -> Decision:
    policy = built("dynamo-load", **ENGINE)
    return decided(policy, *(seen(now_s, **moment) for now_s in LOAD_S))[-1]  # type: ignore[arg-type]


def test_the_load_loop_adds_a_node_only_if_all_engines_are_late() -> None:
    # 0.1 s of its own, 10 queued requests are 1 s.
    busy = ((15.0, 0.5), (15.0, 0.5))
    assert load_rule(queues=(10.0, 10.0), batches=busy) == Target(3, 2)
    assert load_rule(queues=(10.0, 8.0), batches=busy) == Target(2, 2)
    late = ((21.0, 0.5), (25.0, 0.5))
    assert load_rule(queues=(5.0, 5.0), batches=late) == Target(2, 3)
    assert load_rule(queues=(5.0, 5.0), batches=((21.0, 0.5), (15.0, 0.5))) == Target(2, 2)


def test_the_load_loop_drops_a_node_only_if_the_others_stay_within_their_part() -> None:
    # One of two prompt nodes: twice the queue must take less than 0.8 * (1.0 - 0.1) s.
    busy = ((15.0, 0.5), (15.0, 0.5))
    assert load_rule(queues=(3.5, 3.5), batches=busy) == Target(1, 2)
    assert load_rule(queues=(3.7, 3.5), batches=busy) == Target(2, 2)
    # One of two decoders: twice the batch must be below 40 ms, and its KV must fit.
    assert load_rule(queues=(5.0, 5.0), batches=((4.0, 0.4), (4.0, 0.4))) == Target(2, 1)
    assert load_rule(queues=(5.0, 5.0), batches=((5.5, 0.4), (4.0, 0.4))) == Target(2, 2)
    assert load_rule(queues=(5.0, 5.0), batches=((4.0, 0.5), (4.0, 0.4))) == Target(2, 2)


def test_the_load_loop_keeps_a_single_engine() -> None:
    found = load_rule(queues=(0.0,), batches=((1.0, 0.1),), target=Target(1, 1))
    assert found == Target(1, 1)


def test_the_load_loop_waits_for_what_is_on_its_way() -> None:
    found = load_rule(queues=(50.0, 50.0), target=Target(3, 2))
    assert found == Hold(HoldReason.POLICY_HELD, "a scaling is in progress")


def test_together_throughput_is_a_floor_for_load() -> None:
    policy = built("dynamo-hybrid", **ENGINE)
    # Throughput wants two prompt nodes and five decoders of 20 requests/s; load would drop both.
    idle = {"batches": ((1.0, 0.1),) * 6, "queues": (0.0,) * 3, "target": Target(3, 6)}
    found = decided(
        policy,
        *(seen(now_s, rate=20.0, **idle) for now_s in (0.0, 90.0, 180.0)),  # type: ignore[arg-type]
    )
    assert found == [Hold(HoldReason.POLICY_HELD, "decides every 5 s"), Target(2, 5), Target(2, 5)]
    small = {"batches": ((15.0, 0.1),) * 2, "queues": (5.0,), "target": Target(1, 2)}
    assert policy.decide(seen(181.0, rate=20.0, **small)) == Target(2, 5)  # type: ignore[arg-type]


def sla(**moment: object) -> Decision:
    policy = built("dynamo-2025-sla", **ENGINE)
    return decided(policy, *(seen(now_s, **moment) for now_s in (0.0, 180.0)))[-1]  # type: ignore[arg-type]


def test_the_planner_of_2025_never_adds_prompt_nodes_for_a_late_first_token() -> None:
    # 35 requests/s of 1,000 tokens at 10,000 tokens/s; decoders: 3,500 tokens/s at 400.
    assert sla(rate=35.0, queues=(500.0, 500.0)) == Target(4, 9)
    # Quick first tokens take some away: (0 + 1.75) / 35 is half of the profile's 0.1 s.
    assert sla(rate=35.0, queues=(0.0, 0.0), computing=1.75) == Target(2, 9)


def test_the_planner_of_2025_asks_for_decoders_as_slow_as_they_are_seen() -> None:
    # 40 requests at 400 tokens/s: 100 ms where the profile says 50 ms, so half of the target.
    slow = {"batches": ((20.0, 0.2), (20.0, 0.2)), "token_rate": 400.0}
    # No batch is in 25 ms: the best one of all, 40 in 70 ms.
    assert sla(rate=35.0, queues=(9.0, 9.0), **slow) == Target(4, 7)
    quick = {"batches": ((20.0, 0.2), (20.0, 0.2)), "token_rate": 800.0 / 0.8}
    # 40 ms where the profile says 50 ms: the target counts as 62.5 ms, 32 requests.
    assert sla(rate=35.0, queues=(9.0, 9.0), **quick) == Target(4, 7)


def test_the_load_planner_of_2025_steps_at_its_thresholds() -> None:
    policy = built("dynamo-2025-load")
    full, half, empty = (((10.0, kv),) * 2 for kv in (0.95, 0.7, 0.3))
    moments = [
        seen(0.0),
        seen(30.0, queues=(2.0, 0.0), batches=full),  # A queue of 1 a node, KV 0.95.
        seen(40.0, queues=(0.0, 0.0), batches=empty),  # Not due.
        seen(60.0, queues=(0.3, 0.3), batches=half),
        seen(90.0, queues=(0.1, 0.1), batches=empty),  # The new decoder has its grace.
        seen(150.0, queues=(0.1, 0.1), batches=empty),
        seen(180.0, queues=(0.1, 0.1), batches=empty),
    ]
    assert decided(policy, *moments)[1:] == [
        Target(3, 3),
        Target(3, 3),
        Target(2, 2),
        Target(1, 2),
        Target(1, 2),
        Target(1, 1),
    ]


def test_rules_that_watch_kv_are_told_how_much_of_it_a_slow_decoder_has() -> None:
    # 20 requests of 1,050 tokens are all that 50 ms allow, of room for 100,000 tokens.
    found = params_for("dynamo-2025-load", ROUND, SLO, arrivals=steady())
    assert found == {"kv_full": pytest.approx(0.21)}
    assert params_for("aibrix-apa", ROUND, SLO, arrivals=steady())["kv_used"] == pytest.approx(
        0.7 * 0.21
    )
    policy = built("dynamo-2025-load", **found)
    busy = ((19.0, 0.2),) * 2
    assert decided(policy, *(seen(now_s, batches=busy) for now_s in (0.0, 30.0)))[-1] == Target(
        1, 3
    )


def test_the_load_planner_of_2025_adds_no_prompt_node_for_a_queue_that_empties() -> None:
    policy = built("dynamo-2025-load")
    half = ((10.0, 0.7),) * 2
    moments = [
        seen(now_s, queues=(each, each), batches=half)
        for now_s, each in ((0.0, 0.0), (30.0, 4.0), (60.0, 3.0), (90.0, 2.5))
    ]
    # A queue of 3 that falls by 1 each time is gone in three, one of 2.5 that falls by 0.5 is not.
    assert decided(policy, *moments)[1:] == [Target(3, 2), Target(2, 2), Target(3, 2)]


def test_arrow_turns_an_idle_decoder_into_a_prompt_node() -> None:
    policy = built("arrow", **ENGINE)
    assert policy.decide(seen(batches=((5.0, 0.1), (0.0, 0.0)))) == Target(3, 1)
    last = seen(batches=((0.0, 0.0),), target=Target(2, 1))
    assert policy.decide(last) == Target(2, 1)


def test_arrow_turns_a_prompt_node_into_a_decoder_if_prompts_have_time() -> None:
    slow = ((25.0, 0.1), (22.0, 0.1))
    # Of 1 s at two nodes half is left: 5 requests at 10/s take as long.
    policy = built("arrow", **ENGINE)
    assert policy.decide(seen(batches=slow, queues=(2.0, 2.0))) == Target(1, 3)
    assert policy.decide(seen(batches=slow, queues=(3.0, 2.0))) == Target(2, 2)
    fewer = seen(batches=slow, queues=(9.0,) * 3, target=Target(3, 2))
    assert policy.decide(fewer) == Target(2, 3)


def test_arrow_leaves_roles_alone_while_one_decoder_is_quick_enough() -> None:
    policy = built("arrow", **ENGINE)
    assert policy.decide(seen(batches=((25.0, 0.1), (19.0, 0.1)))) == Target(2, 2)


def test_arrow_keeps_its_total() -> None:
    policy = built("arrow", **ENGINE)
    for snapshot in awkward_snapshots().values():
        found = policy.decide(snapshot)
        assert isinstance(found, Hold) or found.total == snapshot.target.total


def test_aibrix_scales_in_proportion_within_a_factor_of_two() -> None:
    policy = built("aibrix-apa", concurrency=2.0, kv_used=0.5, down_window_s=0.0)
    half = ((10.0, 0.5),) * 2
    # Three a prompt node where two are wanted.
    assert policy.decide(seen(0.0, queues=(3.0, 3.0), batches=half)) == Target(3, 2)
    assert policy.decide(seen(10.0, queues=(30.0, 30.0), batches=half)) == Target(4, 2)
    assert policy.decide(seen(20.0, queues=(2.1, 2.1), batches=half)) == Target(2, 2)
    four = seen(30.0, queues=(2.0,) * 4, batches=((1.0, 0.01),) * 4, target=Target(4, 4))
    assert policy.decide(four) == Target(4, 2)


def test_aibrix_shrinks_to_the_most_of_its_window() -> None:
    policy = built("aibrix-apa", concurrency=2.0, kv_used=0.5)
    half = ((10.0, 0.5),) * 4

    def prompts(now_s: float, queue: float) -> Decision:
        return policy.decide(seen(now_s, queues=(queue,) * 4, batches=half, target=Target(4, 4)))

    assert prompts(0.0, 2.0) == Target(4, 4)
    assert prompts(100.0, 1.5) == Target(4, 4)
    assert prompts(301.0, 1.0) == Target(3, 4)
    assert prompts(402.0, 1.0) == Target(2, 4)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize(
    "check", ["answers", "spares the snapshot", "can be stored", "repeats itself"]
)
def test_every_baseline_answers_as_a_policy_must(name: str, check: str) -> None:
    params = params_for(name, DEMO, SLO, arrivals=steady(), until_s=600.0)
    assert verdict_of(check, checks()[check], lambda: built(name, **params)).violations == ()


@pytest.mark.parametrize(
    "name", [n for n in BASELINES if not n.startswith(("static", "replayed", "clairvoyant"))]
)
def test_without_a_word_of_traffic_a_baseline_asks_for_no_more_than_it_has(name: str) -> None:
    policy = built(name, **params_for(name, DEMO, SLO))
    for now_s in range(0, 400, 5):
        found = policy.decide(
            replace(
                seen(float(now_s)),
                node_signals={},
                prompt=RoleSignals(serving=2),
                decoder=RoleSignals(serving=2),
            )
        )
        assert isinstance(found, Hold) or found == Target(2, 2)


def steady() -> Arrivals:
    """Ten requests a second for ten minutes, of 1,000 and 100 tokens."""
    at_s = np.arange(6000) / 10
    ones = np.ones(6000, np.int64)
    return Arrivals(at_s, ones * 1000, ones * 100, ones * 0)


def test_hindsight_knows_the_counts_and_how_long_nodes_take() -> None:
    # One prompt node and 2.5 decoders busy.
    assert params_for("static-best", ROUND, SLO, arrivals=steady()) == {"prompt": 2, "decoder": 4}
    found = params_for("clairvoyant-ratio", ROUND, SLO, arrivals=steady(), lead_s=155.0)
    assert (found["ahead_s"], set(found["prompt"]), max(found["decoder"])) == (155.0, {2}, 4)
    played = params_for("replayed", ROUND, SLO, arrivals=steady())
    assert Staffing(played["slot_s"], played["prompt"], played["decoder"]).at(300.0) == Target(2, 4)


def test_the_first_hour_is_all_that_the_static_fleet_is_sized_from() -> None:
    before, after = steady(), steady()
    grown = Arrivals(
        np.concatenate((before.at_s, after.at_s / 10 + 3700)),
        *(
            np.concatenate((getattr(before, name), getattr(after, name)))
            for name in ("input_tokens", "output_tokens", "cached_tokens")
        ),
    )
    assert params_for("static-first-hour", ROUND, SLO, arrivals=grown)["prompt"] == 2
    assert params_for("static-best", ROUND, SLO, arrivals=grown)["prompt"] > 2


def test_hindsight_without_arrivals_and_a_name_of_no_baseline_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs the arrivals"):
        params_for("static-best", ROUND, SLO)
    with pytest.raises(ConfigError, match="no baseline"):
        params_for("queue-pressure", ROUND, SLO)


@pytest.mark.parametrize("name", BASELINES)
def test_what_is_tuned_is_a_parameter_over_all_of_its_range(name: str) -> None:
    params = params_for(name, DEMO, SLO, arrivals=steady(), until_s=600.0)
    for gain in tunable(name):
        for value in (gain.low, gain.high):
            built(name, **{**params, gain.name: int(value) if gain.is_integer else value})


@pytest.mark.parametrize("name", [name for name in TUNABLES if name not in BASELINES])
def test_what_is_tuned_is_a_parameter_of_the_plug_in_by_that_name(name: str) -> None:
    named = NAMED.get(name, Named(name))
    for gain in tunable(name):
        for value in (gain.low, gain.high):
            tuned = int(value) if gain.is_integer else value
            load_policy(named.policy, {**named.params, gain.name: tuned})


def test_policies_aim_at_the_targets_that_they_are_compared_at() -> None:
    assert targets_for(load_spec("queue-pressure"), SLO) == {"ttft_max_s": 1.0, "tpot_max_s": 0.05}
    assert targets_for(load_spec("slo"), SLO) == {"ttft_s": 1.0, "tpot_s": 0.05}
    assert targets_for(load_spec("fixed-ratio"), SLO) == {}


def test_every_baseline_says_what_is_tuned_and_none_has_more_than_two_gains() -> None:
    assert set(BASELINES) <= set(TUNABLES)
    assert all(len(gains) <= 2 for gains in TUNABLES.values())
