"""Tuned gains: found for each policy alike on a workload that is not scored, kept in a file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.sim.baselines.tunables import tunable
from pd_autoscaler.sim.contestant import contestant
from pd_autoscaler.sim.experiment import Scenario, run_experiment
from pd_autoscaler.sim.parallel import spread
from pd_autoscaler.sim.scenarios import Setting, of_arrivals, sized
from pd_autoscaler.sim.score import scored
from pd_autoscaler.sim.tuning import Part, Search
from pd_autoscaler.sim.tuning_runs import Measured
from pd_autoscaler.workload.drawn import drawn
from pd_autoscaler.workload.joining import concatenated
from pd_autoscaler.workload.shapes import CHAT, day, mix_shift, steps

TUNED = Path(__file__).parent.parent / "tuned.json"
SEED = 1_000_003
"""Of the workload that gains are found on: no scored one is drawn with it."""


def training() -> Scenario:
    """Return 75 minutes that are not scored: a day squeezed into 30, a burst, and a shift."""
    generator = np.random.default_rng(SEED)
    setting = Setting(nodes_mean=5.0)
    loads = (
        drawn(day(CHAT, swing=8.0, for_s=1800.0, burstiness=2.0), generator),
        drawn(steps(CHAT, factors=(3,), lasts_s=(240,), calm_s=300.0), generator),
        drawn(mix_shift(CHAT, factor=3.0, for_s=600.0), generator),
    )
    return of_arrivals("training", sized(concatenated(*loads), setting, generator), setting)


class _Tune:
    def __init__(self, trials: int) -> None:
        self._trials = trials

    def __call__(self, name: str) -> dict[str, object]:
        of = training()
        entrant = contestant(name, of, lead_s=155.0)

        def evaluate(params: Mapping[str, object], part: Part) -> Measured:
            del part
            run = run_experiment(
                of, entrant.built(params), name=name, params=params, guard=entrant.guard
            )
            return Measured(run.node_hours, scored(run, of.slo).both)

        dimensions = tunable(name)
        default = {d.name: entrant.default(d.name) for d in dimensions}
        known = {key: value for key, value in default.items() if value is not None}
        search = Search(evaluate, dimensions, default=known, attainment_min=0.99, seed=SEED)
        for trial in search.trials(self._trials):
            outcome = f"{trial.outcome.attainment:.4f}, {trial.outcome.node_hours:.1f} node-hours"
            print(f"{name} {trial.params}: {outcome}", flush=True)
        if search.best is None:
            raise ConfigError(f"{name}: no trial ended")
        return {} if search.best.params == known else dict(search.best.params)


def write_tuned(names: Sequence[str], *, trials: int) -> None:
    """Find gains that are better than a policy's own, on all cores, and keep them."""
    found = dict(spread(_Tune(trials), [name for name in names if tunable(name)]))
    better = {name: gains for name, gains in sorted(found.items()) if gains}
    TUNED.write_text(json.dumps(better, indent=2) + "\n")


def tuned_params() -> dict[str, dict[str, object]]:
    """Return the gains that were kept, by policy; empty where none were."""
    if not TUNED.exists():
        return {}
    kept: dict[str, dict[str, object]] = json.loads(TUNED.read_text())
    return kept
