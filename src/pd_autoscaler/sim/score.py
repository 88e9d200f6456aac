"""Scores: one run against one pair of latency targets, and runs over seeds together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from pd_autoscaler.sim.attainment import quantiles, recovery_s, share, verdicts, worst
from pd_autoscaler.sim.churn import distance, reversals
from pd_autoscaler.sim.intervals import Interval, interval, paired
from pd_autoscaler.sim.records import Run, Slo
from pd_autoscaler.sim.staffing import Staffing

TARGET = 0.99
"""The attainment that a policy owes, and a minute after a burst must be back at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What one run was worth: service, cost and churn.

    `ttft`, `tpot` and `both` are parts of the offered requests that were in time, `worst_*` those
    of the worst 5 minutes. `node_hours` and `goodput_per_node_hour` (requests in time) are of the
    whole run, its warm-up too. `cost_ratio` is over the oracle's node-hours, `is_at_target` whether
    the attainment of both was `TARGET` or better: only then is a cost ratio a merit. `actions` are
    starts, stops and switches; `changes` moves of the standing target, `reversals` those undone
    within 10 minutes. `overshoot_max`, `overshoot_mean`, `short_share` and `imbalance` compare
    nodes with the oracle's, None without one. `recovery_s` has one entry a burst, None for one that
    was never over. Latencies are in seconds, infinite where that many requests were never served.
    """

    scenario: str
    policy: str
    seed: int
    slo: str
    requests: int
    ttft: float
    tpot: float
    both: float
    worst_ttft: float
    worst_tpot: float
    worst_both: float
    is_at_target: bool
    node_hours: float
    goodput_per_node_hour: float
    cost_ratio: float | None
    actions: int
    starts: int
    stops: int
    switches: int
    link_calls: int
    changes: int
    reversals: int
    preemptions: int
    overshoot_max: float | None
    overshoot_mean: float | None
    short_share: float | None
    imbalance: float | None
    recovery_s: tuple[float | None, ...]
    ttft_p50_s: float
    ttft_p90_s: float
    ttft_p99_s: float
    tpot_p50_s: float
    tpot_p90_s: float
    tpot_p99_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: None for what is no number or infinite."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def scored(
    run: Run,
    slo: Slo,
    *,
    warmup_s: float = 0.0,
    oracle: Staffing | None = None,
    bursts_s: Sequence[float] = (),
    target: float = TARGET,
) -> Score:
    """Score a run; `bursts_s` are when bursts began, `oracle` what was needed from 0 s on."""
    log = run.requests
    seen = verdicts(log, slo, lasted_s=run.lasted_s, warmup_s=warmup_s)
    both = seen.both
    hours = run.node_hours
    apart = None if oracle is None else distance(run.samples, oracle, warmup_s=warmup_s)
    ttft_p50_s, ttft_p90_s, ttft_p99_s = quantiles(log.ttft_s, seen.counts)
    tpot_p50_s, tpot_p90_s, tpot_p99_s = quantiles(log.tpot_s, seen.counts)
    attained = share(both, seen.counts)
    return Score(
        scenario=run.scenario,
        policy=run.policy,
        seed=run.seed,
        slo=slo.name,
        requests=int(seen.counts.sum()),
        ttft=share(seen.ttft, seen.counts),
        tpot=share(seen.tpot, seen.counts),
        both=attained,
        worst_ttft=worst(seen, seen.ttft),
        worst_tpot=worst(seen, seen.tpot),
        worst_both=worst(seen, both),
        is_at_target=attained >= target,
        node_hours=hours,
        goodput_per_node_hour=float(both.sum()) / hours if hours else 0.0,
        cost_ratio=hours / oracle.node_hours if oracle and oracle.node_hours else None,
        actions=run.starts + run.stops + run.switches,
        starts=run.starts,
        stops=run.stops,
        switches=run.switches,
        link_calls=run.link_calls,
        changes=len(run.changes),
        reversals=reversals(run.changes),
        preemptions=run.preemptions,
        overshoot_max=apart.overshoot_max if apart else None,
        overshoot_mean=apart.overshoot_mean if apart else None,
        short_share=apart.short_share if apart else None,
        imbalance=apart.imbalance if apart else None,
        recovery_s=tuple(recovery_s(seen, at_s, target=target) for at_s in bursts_s),
        ttft_p50_s=ttft_p50_s,
        ttft_p90_s=ttft_p90_s,
        ttft_p99_s=ttft_p99_s,
        tpot_p50_s=tpot_p50_s,
        tpot_p90_s=tpot_p90_s,
        tpot_p99_s=tpot_p99_s,
    )


FIGURES = tuple(
    field.name
    for field in fields(Score)
    if field.name not in {"scenario", "policy", "seed", "slo", "recovery_s"}
)
"""The fields that can be averaged over runs; `is_at_target` as the part of runs."""


def averaged(scores: Sequence[Score]) -> dict[str, Interval]:
    """Return each figure's mean with its 95 % interval over runs that differ by seed or offset.

    `recovery_s` is that of all bursts of all runs, where every one of them was over. A figure that
    some run lacks is left out.
    """
    found = {name: interval(_figures(scores, name)) for name in FIGURES}
    recovered = [seconds for score in scores for seconds in score.recovery_s]
    known = [seconds for seconds in recovered if seconds is not None]
    if known and len(known) == len(recovered):
        found["recovery_s"] = interval(known)
    return {name: mean for name, mean in found.items() if mean is not None}


def compared(ours: Sequence[Score], theirs: Sequence[Score], figure: str) -> Interval | None:
    """Return the mean of ours minus theirs in one figure, paired by scenario and seed.

    None where no pair of runs has it. Raises ValueError for a name that is no figure.
    """
    if figure not in FIGURES:
        raise ValueError(f"{figure} is no figure of a score; there are {', '.join(FIGURES)}")
    known = [_by_run(scores, figure) for scores in (ours, theirs)]
    numbers = {run: n for n, run in enumerate(sorted(known[0].keys() & known[1].keys()))}
    mine, other = ({n: values[run] for run, n in numbers.items()} for values in known)
    return paired(mine, other)


def _by_run(scores: Sequence[Score], figure: str) -> Mapping[tuple[str, str, int], float]:
    return {
        (score.scenario, score.slo, score.seed): float(value)
        for score in scores
        if (value := getattr(score, figure)) is not None
    }


def _figures(scores: Sequence[Score], name: str) -> list[float]:
    values = [getattr(score, name) for score in scores]
    return [] if None in values else [float(value) for value in values]


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
