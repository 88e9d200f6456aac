"""The controller's settings for the embedded cluster: made for looking at, not for production."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pd_autoscaler.engine_model.profile import DEMO as ENGINE

_BATCH = ENGINE.prefill_tokens_max

DEMO: Mapping[str, Mapping[str, Any]] = {
    "loop": {
        "period_s": 1.0,
        "cycle_gap_min_s": 0.1,
        "policy": "slo",
        "policy_params": {
            "drain_s": 10.0,
            "lead_s": 8.0,
            "react_s": 3.0,
            "window_s": 5.0,
            "trend_s": 30.0,
            "settle_s": 2.0,
            "breach_s": 15.0,
            "heal_s": 300.0,
        },
        "policy_deadline_s": 0.8,
    },
    # What somebody who measured these engines would set.
    "capacity": {
        "prefill_tokens_per_s": _BATCH / ENGINE.prefill_s(_BATCH),
        "step_base_s": ENGINE.decode_base_s,
        "step_per_request_s": ENGINE.decode_per_request_s,
        "step_per_token_s": ENGINE.decode_per_token_s,
        "demand_half_life_s": 4.0,
    },
    "scrape": {"deadline_s": 0.8, "jitter_s": 0.1, "age_max_s": 5.0, "window_s": 5.0},
    "guard": {
        "prompt_max": 7,
        "decoder_max": 7,
        "nodes_max": 8,
        "up_window_s": 3.0,
        "down_window_s": 20.0,
        "cooldown_s": 10.0,
        "step_up_max": 3,
    },
    "node": {
        "start_timeout_s": 60.0,
        "init_timeout_s": 20.0,
        "drain_deadline_s": 60.0,
        "unlink_deadline_s": 10.0,
        "stop_timeout_s": 15.0,
        "lost_after_s": 6.0,
    },
    "links": {
        "timeout_ms": 2000,
        "deadline_s": 3.0,
        "backoff_s": 0.5,
        "backoff_max_s": 5.0,
        "join_deadline_s": 20.0,
    },
    "agent": {"deadline_s": 0.8},
    "admin": {"port": 0},
}
"""Seconds are real ones: a start takes a few, so windows and cooldowns are short."""

_AS_USUAL: Mapping[str, Any] = MappingProxyType({})


def configuration(
    supervisor_url: str, router_url: str, *, links: Mapping[str, Any] = _AS_USUAL
) -> dict[str, dict[str, Any]]:
    """Return a whole configuration that leads a controller to this cluster.

    `links` goes over the demonstration's own, such as how its nodes' ranks are paired.
    """
    values: dict[str, dict[str, Any]] = {
        "provider": {"kind": "process", "url": supervisor_url},
        "router": {"kind": "builtin", "url": router_url},
        **{name: dict(section) for name, section in DEMO.items()},
    }
    values["links"].update(links)
    return values
