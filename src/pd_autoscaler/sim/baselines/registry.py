"""Registry: what policies are compared with, by name, and the parameters they are given.

None of these is a plug-in of the daemon. `BASELINES` are the published policies that live here;
`NAMED` are rules that a plug-in has already, under the name of the system that is known for it.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from pd_autoscaler.engine_model.profile import EngineProfile
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.decision import Target
from pd_autoscaler.policies.contract import PolicySpec
from pd_autoscaler.sim.baselines import (
    aibrix_apa,
    arrow,
    dynamo,
    dynamo_2025,
    replayed,
    token_velocity,
)
from pd_autoscaler.sim.bounds import (
    decoder_batch,
    decoder_tokens_per_s,
    fixed_ratio_bound,
    fluid_bound,
    fluid_need,
    prompt_tokens_per_s,
    static_bound,
)
from pd_autoscaler.sim.records import Slo
from pd_autoscaler.sim.staffing import Staffing
from pd_autoscaler.workload.arrivals import Arrivals

FIRST_HOUR_S = 3600.0
"""What the static fleet that knows no more is sized from; a shorter trace gives its first tenth."""

BASELINES: Mapping[str, PolicySpec] = MappingProxyType(
    {
        "static-best": replayed.STATIC,
        "static-first-hour": replayed.STATIC,
        "clairvoyant-ratio": replayed.REPLAYED,
        "replayed": replayed.REPLAYED,
        "token-velocity": token_velocity.SPEC,
        "token-velocity-convertible": token_velocity.SPEC,
        "dynamo-throughput": dynamo.THROUGHPUT,
        "dynamo-load": dynamo.LOAD,
        "dynamo-hybrid": dynamo.HYBRID,
        "dynamo-2025-sla": dynamo_2025.SLA,
        "dynamo-2025-load": dynamo_2025.LOAD,
        "arrow": arrow.SPEC,
        "aibrix-apa": aibrix_apa.SPEC,
    }
)


@dataclass(frozen=True, slots=True)
class Named:
    """A plug-in's name and the parameters with which it plays a known system."""

    policy: str
    params: Mapping[str, object] = field(default_factory=dict)


NAMED: Mapping[str, Named] = MappingProxyType(
    {
        "mindie-hourly": Named("throughput-match", {"period_s": 3600.0}),
        "mindie-daily": Named("throughput-match", {"period_s": 86400.0}),
        "heteroscale": Named("proportional"),
        "hpa": Named("hpa"),
        "kpa": Named("kpa"),
        "queue-pressure": Named("queue-pressure"),
        "fixed-ratio": Named("fixed-ratio"),
    }
)
"""MindIE-Motor decides every 86,400 s, or 3,600 s at the least."""

_TTFT, _TPOT = ("ttft_s", "ttft_max_s"), ("tpot_s", "tpot_max_s")

PROMPT_TOKENS = 1024.0
OUTPUT_TOKENS = 256.0
"""The lengths at which a node is profiled where a rule knows one rate only, and not the trace."""
KV_SHARE = 0.7
"""The part of a full decoder's KV use that AIBrix is set to in TokenScale's comparison."""
VELOCITY_INPUTS = (256.0, 1024.0, 4096.0, 16384.0)
VELOCITY_OUTPUTS = (64.0, 256.0, 1024.0)
"""Lengths for which a decoder's velocity is profiled."""
CONVERTIBLE = 2
"""Convertible decoders where they are to be shown; from a trace their count is that of its bursts.
"""


def params_for(
    name: str,
    profile: EngineProfile,
    slo: Slo,
    *,
    arrivals: Arrivals | None = None,
    until_s: float | None = None,
    lead_s: float = 0.0,
) -> dict[str, Any]:
    """Return the parameters of a baseline: rates from the profile, counts from the arrivals.

    Those with hindsight, `static-*`, `clairvoyant-ratio` and `replayed` (the fluid bound), need the
    arrivals and may know that nodes take `lead_s` to come. Raises ConfigError where they are
    missing, or for a name that is no baseline's.
    """
    if name not in BASELINES:
        raise ConfigError(f"no baseline is called {name}; there are {', '.join(BASELINES)}")
    if name in _WITH_HINDSIGHT:
        if arrivals is None:
            raise ConfigError(f"{name} needs the arrivals: it has hindsight")
        return _WITH_HINDSIGHT[name](arrivals, profile, slo, until_s, lead_s)
    if name.startswith("token-velocity"):
        convertible = CONVERTIBLE if name.endswith("convertible") else 0
        return {**velocities(profile, slo), "convertible": convertible}
    if name == "dynamo-2025-load":
        return {"kv_full": _kv_full(profile, slo, arrivals)}
    if name == "aibrix-apa":
        kv_used = KV_SHARE * _kv_full(profile, slo, arrivals)
        return {"concurrency": _concurrency(profile, slo), "kv_used": kv_used}
    return {"engine": asdict(profile), "ttft_s": slo.ttft_s, "tpot_s": slo.tpot_s}


def targets_for(spec: PolicySpec, slo: Slo) -> dict[str, float]:
    """Return the latency targets of a pair under the names that a policy has for them, if any.

    Policies are compared at one pair: none may aim at the targets that it happens to default to.
    """
    targets = dict.fromkeys(_TTFT, slo.ttft_s) | dict.fromkeys(_TPOT, slo.tpot_s)
    return {name: seconds for name, seconds in targets.items() if name in spec.params.model_fields}


def scheduled(staffing: Staffing, *, ahead_s: float = 0.0) -> dict[str, Any]:
    """Return the parameters of `replayed` that play a staffing."""
    return {
        "slot_s": staffing.slot_s,
        "prompt": staffing.prompt,
        "decoder": staffing.decoder,
        "ahead_s": ahead_s,
    }


def velocities(profile: EngineProfile, slo: Slo) -> dict[str, Any]:
    """Return TokenScale's V_P, V_N and V_D of a profile, the last by lengths of requests."""
    rows = []
    for given in VELOCITY_INPUTS:
        for made in VELOCITY_OUTPUTS:
            finished = decoder_tokens_per_s(profile, given + made / 2, slo.tpot_s) / made
            rows.append((given, made, finished * (given + made)))
    return {
        "prompt_tokens_per_s": prompt_tokens_per_s(profile, PROMPT_TOKENS),
        "network_tokens_per_s": profile.pull_bytes_per_s / profile.kv_bytes_per_token,
        "decoder_velocities": tuple(rows),
    }


def _concurrency(profile: EngineProfile, slo: Slo) -> float:
    """Return the prompts of usual length that a node computes within the TTFT target, one at least.

    A queue of so many is what the target has room for.
    """
    return max(1.0, slo.ttft_s * prompt_tokens_per_s(profile, PROMPT_TOKENS) / PROMPT_TOKENS)


def _kv_full(profile: EngineProfile, slo: Slo, arrivals: Arrivals | None) -> float:
    """Return the KV use of a decoder whose batch is as large as the TPOT target allows.

    Rules that watch KV alone would never add a decoder whose steps are too slow long before.
    """
    given, made = PROMPT_TOKENS, OUTPUT_TOKENS
    if arrivals is not None and len(arrivals):
        given, made = float(arrivals.input_tokens.mean()), float(arrivals.output_tokens.mean())
    context = given + made / 2
    return min(decoder_batch(profile, context, slo.tpot_s) * context / profile.kv_tokens, 1.0)


_Hindsight = Callable[
    [Arrivals, EngineProfile, Slo, float | None, float],
    dict[str, Any],
]


def _static(target: Target) -> dict[str, Any]:
    return {"prompt": target.prompt, "decoder": target.decoder}


def _static_best(
    arrivals: Arrivals, profile: EngineProfile, slo: Slo, until_s: float | None, _: float
) -> dict[str, Any]:
    return _static(static_bound(fluid_need(arrivals, profile, slo, until_s=until_s)))


def _static_first_hour(
    arrivals: Arrivals, profile: EngineProfile, slo: Slo, until_s: float | None, _: float
) -> dict[str, Any]:
    whole_s = arrivals.span_s if until_s is None else until_s
    seen_s = FIRST_HOUR_S if whole_s > FIRST_HOUR_S else whole_s / 10
    return _static(static_bound(fluid_need(arrivals, profile, slo, until_s=seen_s)))


def _clairvoyant_ratio(
    arrivals: Arrivals, profile: EngineProfile, slo: Slo, until_s: float | None, lead_s: float
) -> dict[str, Any]:
    _, staffing = fixed_ratio_bound(fluid_need(arrivals, profile, slo, until_s=until_s))
    return scheduled(staffing, ahead_s=lead_s)


def _replayed(
    arrivals: Arrivals, profile: EngineProfile, slo: Slo, until_s: float | None, lead_s: float
) -> dict[str, Any]:
    staffing = fluid_bound(fluid_need(arrivals, profile, slo, until_s=until_s))
    return scheduled(staffing, ahead_s=lead_s)


_WITH_HINDSIGHT: Mapping[str, _Hindsight] = MappingProxyType(
    {
        "static-best": _static_best,
        "static-first-hour": _static_first_hour,
        "clairvoyant-ratio": _clairvoyant_ratio,
        "replayed": _replayed,
    }
)
