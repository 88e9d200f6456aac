"""The evaluation that tuning asks for: runs of one contestant over the parts of a scenario."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from pd_autoscaler.sim.contestant import contestant
from pd_autoscaler.sim.experiment import Scenario, run_experiment
from pd_autoscaler.sim.scenarios import first_fleet
from pd_autoscaler.sim.score import scored
from pd_autoscaler.sim.tuning import Params, Part, split


@dataclass(frozen=True, slots=True)
class Measured:
    """The means over the seeds: see `sim.tuning.Outcome`."""

    node_hours: float
    attainment: float


class Runs:
    """Evaluates a policy over the two parts of a scenario, with the same seeds each time.

    `given` are parameters that are not tuned, `lead_s` what those with hindsight know of nodes to
    come. Raises ConfigError for a policy that is not known.
    """

    def __init__(
        self,
        policy: str,
        parts: Mapping[Part, Scenario],
        *,
        given: Params,
        seeds: Sequence[int],
        lead_s: float = 0.0,
    ) -> None:
        self._contestants = {part: contestant(policy, parts[part], lead_s=lead_s) for part in parts}
        self._parts, self._given, self._seeds = dict(parts), dict(given), tuple(seeds)
        self.contestant = self._contestants[Part.TUNED]

    def __call__(self, params: Params, part: Part) -> Measured:
        """Run the policy with these parameters; raises ConfigError where it refuses them."""
        found = [self._run(params, part, seed) for seed in self._seeds]
        return Measured(
            fmean(one.node_hours for one in found), fmean(one.attainment for one in found)
        )

    def _run(self, params: Params, part: Part, seed: int) -> Measured:
        scenario, policy = self._parts[part], self._contestants[part]
        merged = {**self._given, **params}
        run = run_experiment(
            scenario,
            policy.built(merged),
            name=policy.name,
            params=merged,
            seed=seed,
            guard=policy.guard,
        )
        return Measured(run.node_hours, scored(run, scenario.slo).both)


def parts_of(scenario: Scenario, held_out: float) -> dict[Part, Scenario]:
    """Cut a scenario in time; each part begins with the fleet that its first minutes need.

    Raises ConfigError as `split` does.
    """
    return {
        part: replace(
            scenario,
            name=f"{scenario.name}, {part}",
            arrivals=arrivals,
            initial=first_fleet(arrivals, scenario.profile, scenario.slo),
        )
        for part, arrivals in split(scenario.arrivals, held_out).items()
    }
