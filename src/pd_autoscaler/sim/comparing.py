"""Comparing: many policies over many scenarios and seeds, on all cores, within a budget of time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from pd_autoscaler.core.rules import GuardRules
from pd_autoscaler.sim.contestant import SWITCHING, contestant
from pd_autoscaler.sim.experiment import Scenario, run_experiment
from pd_autoscaler.sim.parallel import spread
from pd_autoscaler.sim.records import SLOS, Run, Slo
from pd_autoscaler.sim.scenarios import Setting, scenario
from pd_autoscaler.sim.score import Score, scored

SCENARIOS_KEPT = 2
"""Scenarios that a worker keeps: jobs of one follow each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run to make; `params` are given beside those that the policy has by itself.

    `guard` is the guard of the policy unless one is given. `is_whole` asks for the run itself, with
    every cycle, and not for its scores alone.
    """

    scenario: str
    policy: str
    seed: int
    setting: Setting
    params: Mapping[str, object] = field(default_factory=dict)
    slos: tuple[Slo, ...] = SLOS
    guard: GuardRules | None = None
    is_whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What came of a job: a score for each pair of targets, and the run if it was asked for."""

    scores: tuple[Score, ...]
    cpu_s: float
    requests: int
    run: Run | None = None


def jobs(
    scenarios: Sequence[str],
    policies: Mapping[str, Mapping[str, object]],
    seeds: Sequence[int],
    setting: Setting,
    *,
    is_whole: bool = False,
) -> list[Job]:
    """Return every combination, all of one seed before the next: a budget cuts seeds first."""
    return [
        Job(
            scenario=name,
            policy=policy,
            seed=seed,
            setting=setting,
            params=params,
            slos=(setting.slo, *(slo for slo in SLOS if slo != setting.slo)),
            is_whole=is_whole,
        )
        for seed in seeds
        for name in scenarios
        for policy, params in policies.items()
    ]


def done(job: Job) -> Done:
    """Make one run; raises ConfigError for names, traces or parameters that cannot be used."""
    of = _scenario(job.scenario, job.setting, job.seed)
    entrant = contestant(job.policy, of, lead_s=job.setting.lead_s)
    run = run_experiment(
        replace(of, can_switch_roles=job.policy in SWITCHING),
        entrant.built(job.params),
        name=job.policy,
        params=job.params,
        seed=job.seed,
        guard=job.guard or entrant.guard,
    )
    return Done(
        scores=tuple(scored(run, slo) for slo in job.slos),
        cpu_s=run.cpu_s,
        requests=len(of.arrivals),
        run=run if job.is_whole else None,
    )


def compared(asked: Sequence[Job], *, workers: int | None = None) -> Iterator[tuple[Job, Done]]:
    """Yield each job with what came of it, as it ends."""
    return spread(done, asked, workers=workers)


@lru_cache(maxsize=SCENARIOS_KEPT)
def _scenario(name: str, setting: Setting, seed: int) -> Scenario:
    return scenario(name, setting, seed)
