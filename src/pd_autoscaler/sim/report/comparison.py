"""A comparison: many runs over one scenario, sorted by policy and parameters, with their scores."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pd_autoscaler.sim.intervals import Interval
from pd_autoscaler.sim.records import Run, Slo
from pd_autoscaler.sim.score import TARGET, Score, averaged


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A policy with one set of parameters: its runs, a seed each, and their scores by SLO."""

    policy: str
    params: Mapping[str, object]
    runs: tuple[Run, ...]
    scores: Mapping[str, tuple[Score, ...]]

    def figures(self, slo: Slo) -> dict[str, Interval]:
        """Return the means over the seeds, with their intervals."""
        return averaged(self.scores.get(slo.name, ()))

    @property
    def params_text(self) -> str:
        """The parameters that were given, as `name=value`; empty for the default ones."""
        return ", ".join(f"{name}={told(value)}" for name, value in self.params.items())

    @property
    def label(self) -> str:
        """The policy, and the parameters that were given."""
        return f"{self.policy} ({self.params_text})" if self.params else self.policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Settings over one scenario; the first SLO is the one that counts."""

    scenario: str
    slos: tuple[Slo, ...]
    settings: tuple[Setting, ...]
    target: float = TARGET

    @property
    def slo(self) -> Slo:
        """The pair of latency targets that counts."""
        return self.slos[0]

    @property
    def policies(self) -> list[str]:
        """The policies in order of appearance, once each."""
        return list(dict.fromkeys(setting.policy for setting in self.settings))


def comparison(
    scored: Iterable[tuple[Run, Score]], slos: Sequence[Slo], *, target: float = TARGET
) -> Comparison:
    """Sort runs with a score each; a run comes once for each SLO it was scored for.

    Raises ValueError without a run or an SLO.
    """
    pairs = list(scored)
    if not pairs or not slos:
        raise ValueError("a comparison needs a run and a pair of latency targets at least")
    sorted_pairs: dict[str, list[tuple[Run, Score]]] = {}
    for run, score in pairs:
        key = json.dumps([run.policy, dict(run.params)], sort_keys=True, default=str)
        sorted_pairs.setdefault(key, []).append((run, score))
    return Comparison(
        scenario=pairs[0][0].scenario,
        slos=tuple(slos),
        settings=tuple(_setting(found, slos) for found in sorted_pairs.values()),
        target=target,
    )


def _setting(pairs: list[tuple[Run, Score]], slos: Sequence[Slo]) -> Setting:
    first = pairs[0][0]
    runs = {run.seed: run for run, _ in pairs}
    return Setting(
        policy=first.policy,
        params=first.params,
        runs=tuple(runs[seed] for seed in sorted(runs)),
        scores={
            slo.name: tuple(
                sorted(
                    (score for _, score in pairs if score.slo == slo.name),
                    key=lambda score: score.seed,
                )
            )
            for slo in slos
        },
    )


def told(value: object) -> str:
    """Return a parameter's value as a person would write it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
