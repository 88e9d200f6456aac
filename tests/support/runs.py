"""Simulated runs made up from formulas, for scores and reports that need no simulator."""

import math
from collections.abc import Mapping

import numpy as np

from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.sim.records import Change, RequestLog, Run, Sample
from pd_autoscaler.workload.arrivals import Arrivals

PERIOD_S = 10.0
JOIN_S = 60.0
"""How long a node of these runs takes to serve."""


def log_of(
    at_s: list[float],
    *,
    ttft_s: list[float],
    tpot_s: list[float],
    input_tokens: int = 100,
    output_tokens: int = 11,
) -> RequestLog:
    """Make a log of requests of one size whose latencies are given; NaN is for what never came."""
    times = np.array(at_s, np.float64)
    first_token_s = times + np.array(ttft_s)
    count = len(times)
    return RequestLog(
        Arrivals(
            times,
            np.full(count, input_tokens),
            np.full(count, output_tokens),
            np.zeros(count, np.int64),
        ),
        first_token_s,
        first_token_s + (output_tokens - 1) * np.array(tpot_s),
    )


def run_of(
    policy: str = "slo",
    *,
    seed: int = 0,
    params: Mapping[str, object] | None = None,
    lasted_s: float = 3600.0,
    rate: float = 2.0,
    slack: float = 1.0,
) -> Run:
    """Make a run under one swing of load; more `slack` is more nodes and lower latencies."""
    rng = np.random.default_rng(seed)
    at_s = np.sort(rng.uniform(0.0, lasted_s, int(rate * lasted_s)))
    tightness = (1.0 + 0.5 * np.sin(2 * math.pi * at_s / lasted_s)) / slack
    ttft_s = 0.3 * tightness * rng.lognormal(0.0, 0.6, len(at_s))
    output_tokens = rng.integers(1, 400, len(at_s))
    log = RequestLog(
        Arrivals(
            at_s,
            rng.integers(100, 4000, len(at_s)),
            output_tokens,
            np.zeros(len(at_s), np.int64),
        ),
        at_s + ttft_s,
        at_s + ttft_s + 0.03 * tightness * rng.lognormal(0.0, 0.3, len(at_s)) * output_tokens,
    )
    changes = _changes(lasted_s, slack)
    samples = tuple(
        _sample(number * PERIOD_S, changes, slack) for number in range(int(lasted_s / PERIOD_S))
    )
    return Run(
        scenario="made-up",
        policy=policy,
        params=params or {},
        seed=seed,
        requests=log,
        samples=samples,
        changes=changes,
        node_seconds={
            role: PERIOD_S * sum(sample.count(role) for sample in samples) for role in Role
        },
        lasted_s=lasted_s,
        starts=len(changes),
        holds={"cooldown": 3},
    )


def _wanted(at_s: float, lasted_s: float, slack: float, why: str = "") -> Target:
    load = 1.0 + 0.5 * math.sin(2 * math.pi * at_s / lasted_s)
    return Target(math.ceil(3 * load * slack), math.ceil(5 * load * slack), why)


def _changes(lasted_s: float, slack: float) -> tuple[Change, ...]:
    found = []
    before = _wanted(0.0, lasted_s, slack)
    for number in range(1, int(lasted_s / PERIOD_S)):
        at_s = number * PERIOD_S
        after = _wanted(at_s, lasted_s, slack, f"demand at {at_s:.0f} s needs it")
        if after != before:
            found.append(Change(at_s, before, after))
            before = after
    return tuple(found)


def _standing(at_s: float, changes: tuple[Change, ...]) -> Target:
    past = [change.after for change in changes if change.at_s <= at_s]
    return past[-1] if past else changes[0].before if changes else Target(1, 1)


def _sample(at_s: float, changes: tuple[Change, ...], slack: float) -> Sample:
    target = _standing(at_s, changes)
    earlier = _standing(at_s - JOIN_S, changes)
    nodes = {}
    for role in Role:
        serving, wanted = earlier.of(role), target.of(role)
        nodes[role, NodeState.SERVING] = min(serving, wanted)
        nodes[role, NodeState.STARTING] = max(0, wanted - serving)
        nodes[role, NodeState.DRAINING] = max(0, serving - wanted)
    return Sample(
        at_s=at_s,
        target=target,
        nodes=nodes,
        queue_prompt=int(4 / slack),
        queue_decoder=int(2 / slack),
        running_prompt=target.prompt,
        running_decoder=8 * target.decoder,
    )
