"""What each ingredient of `slo` is worth: every one left out in turn, over the same runs.

`python -m benchmarks.ablation [--json] [--data DIR] [--scenarios S1,S2,...] [--seeds N]
[--nodes-max N] [--policy NAME] [--only NAME,NAME]`

An ingredient is a parameter of `slo` that can be false, or a window of the guard before it.
Runs are those of `benchmarks.policies`, by default seeds that are not scored there. Each row is a
difference to `slo` as it is, paired by scenario and seed, with its 95 % interval: points of
attainment (above 0: the ingredient is worth so much), and node-hours in per cent (above 0: without
the ingredient the same runs cost so much more).

Gone are peakedness (nothing on S1, S3 and S11, a quarter more nodes than needed on S8) and asking
for others in place of late nodes (0.0008 points: a start that takes too long fails and is replaced
anyway). Two stay that earn nothing in the table. The offered load is for a full budget: without it
the conformance kit sees 18 moves in 100 cycles that never come to rest, and with nine nodes at most
(`--nodes-max 9`, S1, S2, S7, S8) it is worth 1.9 points. The pay-back test is the guard's, for
policies and engines that switch roles: with six or nine nodes at most it changes nothing for `slo`,
`throughput-match` loses 0.8 points by it, and no scenario has a mix that swings back and forth,
which it is there for. `guard.pay_back_max_s: 0` turns it off. The correction is worth most on S4,
0.8 to 6.1 points.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.support.rows import Row, printed

from pd_autoscaler.core.rules import GuardRules
from pd_autoscaler.policies.slo_params import SloParams
from pd_autoscaler.sim.comparing import Job, compared, jobs
from pd_autoscaler.sim.intervals import paired
from pd_autoscaler.sim.scenarios import Setting
from pd_autoscaler.sim.score import Score

OURS = "slo"
WHOLE = "whole"
"""The variant that lacks nothing."""
FIRST_SEED = 10
"""Scored runs begin with seed 0, and there are ten of them at most."""


GUARDS = {
    "pay_back": replace(GuardRules(), pay_back_max_s=0.0),
    "down_window": replace(GuardRules(), down_window_s=0.0, cooldown_s=0.0),
    "up_window": replace(GuardRules(), up_window_s=0.0),
}
"""Production's guard without one of its windows."""


def switches() -> list[str]:
    """List the ingredients: parameters that are true by default, and windows of the guard."""
    own = [name for name, field in SloParams.model_fields.items() if field.default is True]
    return [*own, *GUARDS]


def runs_of(
    variant: str, names: Sequence[str], seed: int, setting: Setting, policy: str = OURS
) -> list[Job]:
    """Return the runs of a policy without one ingredient, or with all of them."""
    params: dict[str, object] = {}
    if variant != WHOLE and variant not in GUARDS:
        params = {variant: False}
    asked = jobs(names, {policy: params}, [seed], setting)
    return [replace(job, guard=GUARDS.get(variant)) for job in asked]


def variant_of(job: Job) -> str:
    """Return which ingredient a run is without."""
    without = next((name for name, guard in GUARDS.items() if job.guard == guard), WHOLE)
    return next(iter(job.params), without)


def differences(
    whole: dict[int, Score], without: dict[int, Score]
) -> tuple[dict[int, float], dict[int, float]]:
    """Return points of attainment lost and per cent of node-hours added, by run."""
    both = whole.keys() & without.keys()
    points = {run: 100 * (whole[run].both - without[run].both) for run in both}
    hours = {run: 100 * (without[run].node_hours / whole[run].node_hours - 1) for run in both}
    return points, hours


def main(argv: Sequence[str] | None = None) -> None:
    """Run slo whole, and without each ingredient."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/traces"))
    parser.add_argument("--scenarios", default="S1,S2,S6,S7,S8")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget-minutes", type=float, default=20.0)
    parser.add_argument("--only", default="", help="leave out these ingredients alone")
    parser.add_argument("--nodes-max", type=int, help="the budget of nodes, by default a wide one")
    parser.add_argument("--policy", default=OURS, help="another one has the guard's windows alone")
    args = parser.parse_args(argv)
    names = args.scenarios.split(",")
    known = switches() if args.policy == OURS else GUARDS
    variants = [WHOLE, *(args.only.split(",") if args.only else known)]
    seeds = range(FIRST_SEED, FIRST_SEED + args.seeds)
    setting = Setting(data=args.data, nodes_mean=5.0, nodes_max=args.nodes_max)
    asked = [
        job
        for seed in seeds
        for variant in variants
        for job in runs_of(variant, names, seed, setting, args.policy)
    ]
    found: dict[str, dict[int, Score]] = defaultdict(dict)
    began_s, count = time.perf_counter(), 0
    for job, done in compared(asked):
        count += 1
        variant = variant_of(job)
        score = done.scores[0]
        found[variant][100 * names.index(job.scenario) + job.seed] = score
        told = f"{score.both:.4f} at {score.node_hours:.2f} node-hours"
        print(f"{job.scenario} seed {job.seed} {variant}: {told}", flush=True)
        if time.perf_counter() - began_s > 60 * args.budget_minutes:
            break
    print(f"{count} of {len(asked)} runs in {args.budget_minutes:g} minutes")
    printed("ablation", rows_of(found), tables=[table_of(found)], is_json=args.json)


def rows_of(found: dict[str, dict[int, Score]]) -> list[Row]:
    """Return what leaving each ingredient out costs, as means."""
    rows = []
    for variant, scores in found.items():
        if variant == WHOLE:
            continue
        for what, unit, of in zip(
            ("attainment lost", "node-hours added"),
            ("points", "%"),
            differences(found[WHOLE], scores),
            strict=True,
        ):
            mean = paired(of, dict.fromkeys(of, 0.0))
            if mean is not None:
                rows.append(Row(f"without {variant}: {what}", round(mean.mean, 2), unit))
    return rows


def table_of(found: dict[str, dict[int, Score]]) -> dict[str, Any]:
    """Return the same with intervals."""
    rows = []
    for variant, scores in found.items():
        if variant == WHOLE:
            continue
        points, hours = differences(found[WHOLE], scores)
        told = [str(paired(of, dict.fromkeys(of, 0.0))) for of in (points, hours)]
        rows.append([variant, *told, str(len(points))])
    columns = ["without", "attainment lost, points", "node-hours added, %", "runs"]
    return {"title": "Ingredients", "columns": columns, "rows": rows}


if __name__ == "__main__":
    main()
