"""What an engine's counters say of the role it plays, whatever it is called.

The rules are those of the engines' own sources: vllm-project/vllm `vllm/v1/metrics/loggers.py`,
sgl-project/sglang `scheduler_metrics_mixin.py`, MindIE-LLM `single_llm_*_req_handler.cpp`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pd_autoscaler.adapters.metrics.exposition import Sample
from pd_autoscaler.model.node import Role

REQUESTS_MIN = 5
"""Fewer finished requests prove nothing: a warm-up request decodes on a prompt node, too."""
ONE_TOKEN = 1.5
"""Generated tokens a request up to which a node is taken to generate one only."""

_VLLM = ("vllm:", "vllm_")
_SGLANG = ("sglang:", "sglang_")

Count = tuple[str, Mapping[str, str]]
"""A sample's name without prefix, and the labels it needs."""

_COUNTS: Mapping[str, tuple[tuple[str, ...], Mapping[str, Count]]] = {
    "vllm": (
        _VLLM,
        {
            "pulled": ("prompt_tokens_by_source_total", {"source": "external_kv_transfer"}),
            "itl": ("inter_token_latency_seconds_count", {}),
            "itl_old": ("time_per_output_token_seconds_count", {}),
            "generated": ("generation_tokens_total", {}),
            "finished": ("request_success_total", {}),
        },
    ),
    "sglang": (
        _SGLANG,
        {
            "prefill": ("num_running_reqs", {"engine_type": "prefill"}),
            "decode": ("num_running_reqs", {"engine_type": "decode"}),
            "prefill_queue": ("num_prefill_inflight_queue_reqs", {}),
            "decode_queue": ("num_decode_prealloc_queue_reqs", {}),
            "transfer_queue": ("num_decode_transfer_queue_reqs", {}),
            "itl": ("inter_token_latency_seconds_count", {}),
        },
    ),
    "mindie": (
        ("",),
        {
            "ttft": ("time_to_first_token_seconds_count", {}),
            "tpot": ("time_per_output_token_seconds_count", {}),
        },
    ),
}

Counts = Mapping[str, float]
"""Sums by the names of `_COUNTS`; what the page lacks is absent."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A role, or None where the counters do not tell or contradict each other, and by what.

    `is_both` says that they are those of both roles.
    """

    role: Role | None
    because: str
    is_both: bool = False


def wanted(engine: str) -> frozenset[str]:
    """Return the sample names that `counts` reads; none for an engine that is not known."""
    prefixes, counts = _COUNTS.get(engine, ((), {}))
    return frozenset(f"{prefix}{name}" for prefix in prefixes for name, _ in counts.values())


def counts(engine: str, samples: list[Sample]) -> Counts:
    """Sum what tells roles apart over all engines of a page."""
    prefixes, wanted_counts = _COUNTS.get(engine, ((), {}))
    found: dict[str, float] = {}
    for key, (name, labels) in wanted_counts.items():
        names = {f"{prefix}{name}" for prefix in prefixes}
        values = [
            value
            for series, value in samples
            if series.name in names and all(series.labels.get(k) == v for k, v in labels.items())
        ]
        # Not fsum, which raises where a sum is past all numbers or is none.
        if values and math.isfinite(total := sum(values)):
            found[key] = total
    return found


def grown(engine: str, first: Counts, later: Counts) -> Counts:
    """Return by how much the counters grew; gauges stay as they are in the later page."""
    gauges = {"prefill", "decode", "prefill_queue", "decode_queue", "transfer_queue"}
    return {
        key: value if key in gauges else value - first.get(key, 0.0) for key, value in later.items()
    }


def evidence(engine: str, seen: Counts) -> Evidence:
    """Say which role's counts these are."""
    told = _TOLD.get(engine)
    if told is None:
        return Evidence(None, f"nothing is known of how {engine or 'this engine'} tells roles")
    return told(seen)


def _vllm(seen: Counts) -> Evidence:
    pulled, itl = seen.get("pulled", 0.0), seen.get("itl", seen.get("itl_old", 0.0))
    finished, generated = seen.get("finished", 0.0), seen.get("generated", 0.0)
    if pulled > 0:
        return Evidence(Role.DECODER, f"KV of {pulled:.0f} prompt tokens came from other nodes")
    if finished < REQUESTS_MIN:
        return Evidence(None, f"{finished:.0f} requests finished, too few to tell")
    each = f"{generated / finished:.1f} generated tokens a request"
    if generated / finished <= ONE_TOKEN:
        return Evidence(Role.PROMPT, each)
    if itl > 0:
        return Evidence(Role.DECODER, f"{each}, {itl:.0f} latencies between tokens")
    return Evidence(None, each)


def _sglang(seen: Counts) -> Evidence:
    if "prefill" in seen and "decode" in seen:
        return Evidence(None, "series of both engine types are on the page", is_both=True)
    if "prefill" in seen or "decode" in seen:
        role = Role.PROMPT if "prefill" in seen else Role.DECODER
        return Evidence(role, f'engine_type="{"prefill" if role is Role.PROMPT else "decode"}"')
    prompt = seen.get("prefill_queue", 0.0)
    decoder = seen.get("decode_queue", 0.0) + seen.get("transfer_queue", 0.0)
    if prompt > 0 and decoder > 0:
        return Evidence(None, "requests are in the queues of both roles", is_both=True)
    if prompt > 0:
        return Evidence(Role.PROMPT, f"{prompt:.0f} requests whose KV is exported")
    if decoder > 0:
        return Evidence(Role.DECODER, f"{decoder:.0f} requests that wait for their KV")
    return Evidence(None, "no engine_type label of a role, and its queues are empty")


def _mindie(seen: Counts) -> Evidence:
    first, later = seen.get("ttft", 0.0), seen.get("tpot", 0.0)
    if first > 0 and later > 0:
        return Evidence(
            None, f"{first:.0f} first tokens and {later:.0f} times a later token", is_both=True
        )
    if first > 0:
        return Evidence(Role.PROMPT, f"{first:.0f} first tokens and no later ones")
    if later > 0:
        return Evidence(Role.DECODER, f"{later:.0f} times a later token and no first ones")
    return Evidence(None, "neither first nor later tokens were timed yet")


_TOLD: Mapping[str, Callable[[Counts], Evidence]] = {
    "vllm": _vllm,
    "sglang": _sglang,
    "mindie": _mindie,
}
