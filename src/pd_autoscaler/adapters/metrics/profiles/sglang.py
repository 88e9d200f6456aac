"""SGLang: names of 2026 first, older ones after them.

Names, labels and the moment of each count are those of sgl-project/sglang
`python/sglang/srt/observability/metrics_collector.py` (earlier `srt/metrics/collector.py`). Its
scheduler exports a series per data-parallel rank (`dp_rank`), of the first tensor-parallel rank
of each or, with `--enable-metrics-for-all-schedulers`, of all; with data-parallel attention those
first ranks are 0, 2, 4 and so on, so `tp_rank` is the lowest of each `dp_rank` rather than 0.
"""

from pd_autoscaler.adapters.metrics.profiles.meaning import (
    Buckets,
    Combine,
    Distribution,
    Meaning,
    Meanings,
    Ratio,
    Term,
    Value,
    histogram,
    named,
    value,
)
from pd_autoscaler.adapters.metrics.profiles.profile import Profile
from pd_autoscaler.model.node import Role


def _queue(*names: str) -> Term:
    # With priority scheduling the total stands under an empty label, beside its parts.
    return Term(names=names, labels={"priority": ""})


def _computed(mode: str) -> Value:
    return value("realtime_tokens_total", labels={"mode": mode})


def _length(histogram_name: str, tokens: str) -> Distribution:
    """Read a length; older versions have the histogram only when asked for it."""
    return Distribution(
        (
            Buckets(Term(names=(histogram_name,))),
            Ratio(value(tokens), value("num_requests_total")),
        )
    )


_BOTH = Meanings(
    gauges={
        "running": Meaning((Value((_queue("num_running_reqs"),)),)),
        "kv_used": named("token_usage", combine=Combine.MEAN),
        "cache_tokens": named("max_total_num_tokens"),
    },
    counters={
        # Counted when a request ends, so it says nothing of those that enter.
        "requests_finished": named("num_requests_total"),
        "preemptions": Meaning(
            (value("num_retracted_requests_total", is_sparse=True),),
            note="appears with the first retraction",
        ),
        "transfer_failures": Meaning(
            (
                Value(
                    (
                        Term(names=("num_transfer_failed_reqs_total",), is_optional=True),
                        Term(names=("num_bootstrap_failed_reqs_total",), is_optional=True),
                    ),
                    is_sparse=True,
                ),
            ),
            note="appears with the first failure",
        ),
    },
)

_PROMPT = Meanings(
    gauges={
        "waiting": Meaning(
            (
                Value(
                    (
                        _queue("num_queue_reqs"),
                        _queue(
                            "num_prefill_bootstrap_queue_reqs", "num_prefill_prealloc_queue_reqs"
                        ),
                    )
                ),
            )
        ),
        "kv_export_backlog": Meaning((Value((_queue("num_prefill_inflight_queue_reqs"),)),)),
    },
    counters={
        "prompt_tokens": Meaning(
            (
                _computed("prefill_compute"),
                # Counts whole prompts; the cached part has no series until there is one.
                Value(
                    (
                        Term(names=("prompt_tokens_total",)),
                        Term(names=("cached_tokens_total",), factor=-1.0, is_optional=True),
                    ),
                    is_lumpy=True,
                ),
            )
        ),
        "prompt_tokens_cached": Meaning(
            (
                _computed("prefill_cache"),
                value("cached_tokens_total", is_lumpy=True, is_sparse=True),
            ),
            note="in older versions it appears with the first cached token",
        ),
    },
    histograms={
        "ttft_s": histogram("time_to_first_token_seconds"),
        "queue_time_s": histogram("queue_time_seconds"),
        "input_len": _length("prompt_tokens_histogram", "prompt_tokens_total"),
    },
)

_DECODER = Meanings(
    gauges={
        "waiting": Meaning(
            (Value((_queue("num_queue_reqs"), _queue("num_decode_prealloc_queue_reqs"))),)
        ),
        "waiting_deferred": Meaning((Value((_queue("num_decode_transfer_queue_reqs"),)),)),
    },
    counters={
        "generation_tokens": Meaning(
            (_computed("decode"), value("generation_tokens_total", is_lumpy=True))
        ),
    },
    histograms={
        "tpot_s": histogram("inter_token_latency_seconds", "time_per_output_token_seconds"),
        "output_len": _length("generation_tokens_histogram", "generation_tokens_total"),
        "duration_s": histogram("e2e_request_latency_seconds"),
    },
)

SGLANG = Profile(
    name="sglang",
    # Newer versions write the underscore, as do relabelling rules.
    prefixes=("sglang:", "sglang_"),
    recognised_by=("num_running_reqs",),
    rank_labels=("tp_rank", "pp_rank", "moe_ep_rank"),
    hint="SGLang needs --enable-metrics",
    meanings={Role.PROMPT: _BOTH | _PROMPT, Role.DECODER: _BOTH | _DECODER},
)
