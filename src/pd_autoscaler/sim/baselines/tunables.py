"""Tunables: the one or two gains of each policy that are tuned before it is compared.

Every policy gets as many, so that none wins by having had more knobs turned for it. The values are
found on a part of the data that is not scored.
"""

from collections.abc import Mapping
from types import MappingProxyType

from pd_autoscaler.sim.tuning import Dimension


def _gain(name: str, low: float, high: float) -> Dimension:
    return Dimension(name=name, low=low, high=high)


def _factor(name: str, low: float, high: float) -> Dimension:
    return Dimension(name=name, low=low, high=high, is_log=True)


def _count(name: str, low: int, high: int) -> Dimension:
    return Dimension(name=name, low=low, high=high, is_integer=True)


_TOKEN_VELOCITY = (_gain("headroom", 0.8, 2.0),)
_DYNAMO = (_factor("ttft_s", 0.1, 5.0), _factor("tpot_s", 0.02, 0.1))

_PROPORTIONAL = (_gain("utilisation", 0.4, 0.95), _gain("theta_in", 0.05, 0.3))
# It never changes its total: what is tuned is how many nodes it is given.
_MINDIE = (_count("nodes", 2, 64),)

TUNABLES: Mapping[str, tuple[Dimension, ...]] = MappingProxyType(
    {
        # What is known beforehand leaves nothing to tune.
        "static-best": (),
        "static-first-hour": (),
        "clairvoyant-ratio": (),
        "replayed": (),
        "token-velocity": _TOKEN_VELOCITY,
        "token-velocity-convertible": (*_TOKEN_VELOCITY, _count("convertible", 1, 8)),
        # Its targets are the only gains that these planners have: a stricter one is headroom.
        "dynamo-throughput": _DYNAMO,
        "dynamo-load": (_gain("sensitivity", 0.3, 1.0), _factor("ttft_s", 0.1, 5.0)),
        "dynamo-hybrid": (_gain("sensitivity", 0.3, 1.0), _factor("tpot_s", 0.02, 0.1)),
        "dynamo-2025-sla": _DYNAMO,
        "dynamo-2025-load": (_factor("kv_full", 0.05, 1.0), _factor("queue_up", 0.2, 5.0)),
        "arrow": (_factor("ttft_s", 0.2, 30.0), _factor("tpot_s", 0.02, 0.1)),
        "aibrix-apa": (_factor("concurrency", 1.0, 64.0), _factor("kv_used", 0.03, 0.9)),
        # Plug-ins, and the names under which they play known systems.
        "fixed-ratio": (_factor("ratio", 0.1, 10.0), _gain("utilisation_up", 0.71, 0.95)),
        "heteroscale": _PROPORTIONAL,
        "hpa": (_factor("prompt_queue", 0.5, 20.0), _gain("decoder_kv", 0.3, 0.9)),
        "kpa": (_gain("utilisation", 0.3, 1.0), _factor("prompt_concurrency", 0.5, 16.0)),
        "mindie-daily": _MINDIE,
        "mindie-hourly": _MINDIE,
        "proportional": _PROPORTIONAL,
        "queue-pressure": (_gain("kv_saturated", 0.6, 0.95), _factor("queue_saturated", 5.0, 30.0)),
        "slo": (_factor("shortage_cost", 1.0, 100.0), _gain("headroom", 0.6, 1.0)),
        "throughput-match": _MINDIE,
    }
)


def tunable(name: str) -> tuple[Dimension, ...]:
    """Return the gains of a policy with their ranges; none for one that is not listed."""
    return TUNABLES.get(name, ())
