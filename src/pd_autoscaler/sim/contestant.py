"""Contestants: whatever can be run over a scenario by its name, with the guard it runs behind."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pd_autoscaler.core.rules import GuardRules
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.policies.contract import Policy, PolicySpec
from pd_autoscaler.policies.registry import installed, load_policy, load_spec
from pd_autoscaler.sim.baselines.registry import BASELINES, NAMED, params_for, targets_for
from pd_autoscaler.sim.experiment import FREE, Scenario, window_of

OWN_PACE = frozenset({"hpa", "kpa", "proportional", "throughput-match"})
"""Plug-ins that are published rules: compared as they are, behind limits alone."""
SWITCHING = frozenset({"arrow", "mindie-hourly", "mindie-daily", "throughput-match"})
"""Rules that move nodes from one role to the other: their engines can switch in place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A policy under the name by which it is compared.

    `plug_in` is the installed policy behind it, None for a published one that no daemon has.
    `params` are those that it is given if nothing else is said, `guard` None for production's.
    """

    name: str
    spec: PolicySpec
    plug_in: str | None
    params: Mapping[str, Any]
    guard: GuardRules | None

    def built(self, params: Mapping[str, object]) -> Policy:
        """Build it with these parameters over its own; raises ConfigError where it refuses them."""
        merged = {**self.params, **params}
        if self.plug_in is not None:
            return load_policy(self.plug_in, merged)
        try:
            policy: Policy = self.spec.build(self.spec.params.model_validate(merged))
        except ValidationError as error:
            raise ConfigError(f"policy {self.name!r}: {' '.join(str(error).split())}") from error
        return policy

    def default(self, parameter: str) -> object:
        """Return what a parameter is if nothing is said; None where it must be given.

        Raises ConfigError for a parameter that it does not have.
        """
        fields = self.spec.params.model_fields
        if parameter not in fields:
            has = ", ".join(fields) or "none"
            raise ConfigError(f"policy {self.name!r} has no parameter {parameter!r}; it has {has}")
        if parameter in self.params:
            return self.params[parameter]
        field = fields[parameter]
        return None if field.is_required() else field.get_default(call_default_factory=True)


def contestant(name: str, scenario: Scenario, *, lead_s: float = 0.0) -> Contestant:
    """Return what is called so: a published policy, a known system, or an installed policy.

    Published policies bring windows and steps of their own, so the guard only keeps the limits.
    Those with hindsight are shown the scenario's arrivals, and begin `lead_s` before the need. A
    plug-in that has parameters `ttft_s` and `tpot_s` is given the scenario's targets, and one that
    has `window_s` how far its signals look back, as an operator would. Raises
    ConfigError for any other name.
    """
    if name in BASELINES:
        params = params_for(
            name,
            scenario.profile,
            scenario.slo,
            arrivals=scenario.arrivals,
            lead_s=lead_s,
        )
        return Contestant(name=name, spec=BASELINES[name], plug_in=None, params=params, guard=FREE)
    given: dict[str, object] = {}
    if name in NAMED:
        plug_in, given = NAMED[name].policy, dict(NAMED[name].params)
    elif ":" in name or any(policy.name == name for policy in installed()):
        plug_in = name
    else:
        known = sorted({*BASELINES, *NAMED, *(policy.name for policy in installed())})
        raise ConfigError(f"no policy is called {name!r}; there are {', '.join(known)}")
    spec = load_spec(plug_in)
    return Contestant(
        name=name,
        spec=spec,
        plug_in=plug_in,
        params={**targets_for(spec, scenario.slo), **_window_for(spec, scenario), **given},
        guard=FREE if plug_in in OWN_PACE else None,
    )


def _window_for(spec: PolicySpec, scenario: Scenario) -> dict[str, float]:
    is_told = "window_s" in spec.params.model_fields
    return {"window_s": window_of(scenario.period_s)} if is_told else {}
