"""Pages in the shape of three engines' `/metrics`, with the traps that real ones have.

Every family that a real page of the role has, and that a profile might be tempted by, is there,
at zero unless `values` says otherwise: by the family's name, or by name and label value
(`num_requests_waiting_by_reason/capacity`). A histogram's value is a list of observations, an
info's a mapping of labels. `without` leaves families out, `renamed` gives them older names. Each
of `ranks` is one more copy of everything, under its own labels.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pd_autoscaler.model.node import Role

Given = float | Sequence[float] | Mapping[str, str]


class Family(NamedTuple):
    """One family of a page: a histogram has bounds, a family in parts has a label for them."""

    name: str
    kind: str
    bounds: tuple[float, ...] = ()
    label: str = ""
    parts: tuple[str, ...] = ()
    info: Mapping[str, str] | None = None


def engine_page(
    families: Iterable[Family],
    *,
    prefix: str = "",
    ranks: Sequence[Mapping[str, str]] = ({},),
    values: Mapping[str, Given] | None = None,
    without: Iterable[str] = (),
    renamed: Mapping[str, str] | None = None,
) -> bytes:
    """Write a page of these families; an unknown name in `values` is a mistake of the test."""
    families = list(families)
    values, renamed, left_out = values or {}, renamed or {}, set(without)
    known = {name for f in families for name in (f.name, *(f"{f.name}/{p}" for p in f.parts))}
    unknown = (values.keys() | renamed.keys() | left_out) - known
    if unknown:
        raise ValueError(f"no such families: {sorted(unknown)}")
    return "".join(
        [
            _of_process(),
            *(
                _family(f, prefix + renamed.get(f.name, f.name), ranks, values)
                for f in families
                if f.name not in left_out
            ),
        ]
    ).encode()


def _of_process() -> str:
    return (
        "# HELP python_info Python platform information\n# TYPE python_info gauge\n"
        'python_info{implementation="CPython",major="3"} 1.0\n'
        "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds 1.79e+09\n"
    )


def _family(
    family: Family, name: str, ranks: Sequence[Mapping[str, str]], values: Mapping[str, Given]
) -> str:
    rows = [f"# HELP {name} What {family.name} says.\n# TYPE {name} {family.kind}\n"]
    for rank in ranks:
        given = values.get(family.name, ())
        if family.kind == "histogram":
            assert not isinstance(given, float | int | Mapping)
            rows.append(_histogram(name, family.bounds, rank, given))
        elif family.info is not None:
            info = given if isinstance(given, Mapping) else family.info
            rows.append(_line(name, 1.0, {**rank, **info}))
        elif family.parts:
            for part in family.parts:
                value = values.get(f"{family.name}/{part}", 0.0)
                assert isinstance(value, float | int)
                rows.append(_line(name, value, {**rank, family.label: part}))
        else:
            rows.append(_line(name, given if isinstance(given, float | int) else 0.0, rank))
    return "".join(rows)


def _line(name: str, value: float, labels: Mapping[str, str]) -> str:
    inside = ",".join(f'{key}="{text}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value}\n" if inside else f"{name} {value}\n"


def _histogram(
    name: str, bounds: Iterable[float], rank: Mapping[str, str], observed: Sequence[float]
) -> str:
    rows = [
        _line(
            f"{name}_bucket",
            sum(value <= bound for value in observed),
            {**rank, "le": "+Inf" if bound == math.inf else str(bound)},
        )
        for bound in (*bounds, math.inf)
    ]
    rows.append(_line(f"{name}_count", len(observed), rank))
    rows.append(_line(f"{name}_sum", math.fsum(observed), rank))
    return "".join(rows)


def _all(kind: str, *names: str) -> list[Family]:
    return [Family(name, kind) for name in names]


_SECONDS = (0.001, 0.01, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_TOKENS = (1.0, 10.0, 100.0, 1000.0, 10000.0)

VLLM_FAMILIES = [
    *_all("gauge", "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"),
    Family(
        "num_requests_waiting_by_reason", "gauge", label="reason", parts=("capacity", "deferred")
    ),
    Family(
        "num_requests_kv_fetch_by_stage",
        "gauge",
        label="stage",
        parts=("waiting_to_start", "in_progress", "completed_waiting"),
    ),
    *_all(
        "counter",
        "prompt_tokens_total",
        "prompt_tokens_cached_total",
        "generation_tokens_total",
        "num_preemptions_total",
        "nixl_num_failed_transfers_total",
        "nixl_num_kv_expired_reqs_total",
    ),
    Family(
        "prompt_tokens_by_source_total",
        "counter",
        label="source",
        parts=("local_compute", "local_cache_hit", "external_kv_transfer"),
    ),
    Family(
        "request_success_total",
        "counter",
        label="finished_reason",
        parts=("stop", "length", "abort", "error"),
    ),
    *(
        Family(name, "histogram", _SECONDS)
        for name in (
            "time_to_first_token_seconds",
            "inter_token_latency_seconds",
            "request_time_per_output_token_seconds",
            "request_queue_time_seconds",
            "request_prefill_time_seconds",
            "e2e_request_latency_seconds",
        )
    ),
    Family("request_prompt_tokens", "histogram", _TOKENS),
    Family("request_generation_tokens", "histogram", _TOKENS),
    Family(
        "cache_config_info",
        "gauge",
        info={"block_size": "16", "num_gpu_blocks": "100", "kv_cache_size_tokens": "1600"},
    ),
]

SGLANG_FAMILIES = [
    *_all(
        "gauge",
        "num_running_reqs",
        "num_queue_reqs",
        "num_grammar_queue_reqs",
        "token_usage",
        "max_total_num_tokens",
        "gen_throughput",
        "num_prefill_bootstrap_queue_reqs",
        "num_prefill_inflight_queue_reqs",
        "num_decode_prealloc_queue_reqs",
        "num_decode_transfer_queue_reqs",
        "kv_transfer_latency_ms",
        "utilization",
        "pending_prealloc_token_usage",
        "engine_startup_time",
    ),
    Family(
        "realtime_tokens_total",
        "counter",
        label="mode",
        parts=("prefill_compute", "prefill_cache", "decode"),
    ),
    *_all(
        "counter",
        "prompt_tokens_total",
        "generation_tokens_total",
        "cached_tokens_total",
        "num_requests_total",
        "num_retracted_requests_total",
        "num_transfer_failed_reqs_total",
        "num_bootstrap_failed_reqs_total",
    ),
    *(
        Family(name, "histogram", _SECONDS)
        for name in (
            "time_to_first_token_seconds",
            "inter_token_latency_seconds",
            "queue_time_seconds",
            "e2e_request_latency_seconds",
        )
    ),
    Family("prompt_tokens_histogram", "histogram", _TOKENS),
    Family("generation_tokens_histogram", "histogram", _TOKENS),
]

MINDIE_FAMILIES = [
    *_all(
        "gauge",
        "num_requests_running",
        "num_requests_waiting",
        "num_requests_swapped",
        "avg_prompt_throughput_toks_per_s",
        "avg_generation_throughput_toks_per_s",
        "failed_request_perc",
        "npu_cache_usage_perc",
        "cpu_cache_usage_perc",
        "npu_prefix_cache_hit_rate",
        "all_radix_match_num",
        "npu_radix_match_hit_num",
    ),
    *_all(
        "counter",
        "request_received_total",
        "request_success_total",
        "request_failed_total",
        "prompt_tokens_total",
        "generation_tokens_total",
        "num_preemptions_total",
    ),
    Family("time_to_first_token_seconds", "histogram", _SECONDS),
    Family("time_per_output_token_seconds", "histogram", (0.01, 0.05, 0.1, 0.5, 1.0, 2.5)),
    Family("e2e_request_latency_seconds", "histogram", (1.0, 10.0, 60.0)),
    Family("request_prompt_tokens", "histogram", _TOKENS),
    Family("request_generation_tokens", "histogram", _TOKENS),
]


def vllm(
    values: Mapping[str, Given] | None = None,
    *,
    engines: Sequence[str] = ("0",),
    prefix: str = "vllm:",
    without: Iterable[str] = (),
    renamed: Mapping[str, str] | None = None,
) -> bytes:
    """Write a page of vLLM, whose data-parallel ranks are its `engines`."""
    return engine_page(
        VLLM_FAMILIES,
        prefix=prefix,
        ranks=[{"engine": engine, "model_name": "tiny"} for engine in engines],
        values=values,
        without=without,
        renamed=renamed,
    )


def sglang(
    values: Mapping[str, Given] | None = None,
    *,
    role: Role = Role.PROMPT,
    ranks: Sequence[Mapping[str, str]] = ({"tp_rank": "0"},),
    prefix: str = "sglang:",
    without: Iterable[str] = (),
    renamed: Mapping[str, str] | None = None,
) -> bytes:
    """Write a page of SGLang, whose families are the same on both roles."""
    kind = "prefill" if role is Role.PROMPT else "decode"
    return engine_page(
        SGLANG_FAMILIES,
        prefix=prefix,
        ranks=[{"model_name": "tiny", "engine_type": kind, **rank} for rank in ranks],
        values=values,
        without=without,
        renamed=renamed,
    )


def mindie(
    values: Mapping[str, Given] | None = None,
    *,
    models: Sequence[str] = ("tiny",),
    without: Iterable[str] = (),
) -> bytes:
    """Write a page of MindIE, which has no prefix and the model as its only label."""
    return engine_page(
        MINDIE_FAMILIES,
        ranks=[{"model_name": model} for model in models],
        values=values,
        without=without,
    )
