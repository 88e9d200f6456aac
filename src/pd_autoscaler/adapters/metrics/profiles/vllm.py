"""vLLM and vllm-ascend (V1 engine): names of 0.32 first, older ones after them.

Names and labels are those of vllm-project/vllm `vllm/v1/metrics/loggers.py` and of its NIXL
connector; one series per data-parallel rank carries the label `engine`. vllm-ascend runs the same
loggers.
"""

from pd_autoscaler.adapters.metrics.profiles.meaning import (
    Combine,
    Meaning,
    Meanings,
    Term,
    Value,
    histogram,
    named,
    value,
)
from pd_autoscaler.adapters.metrics.profiles.profile import Profile
from pd_autoscaler.model.node import Role

_NIXL = "only with the NIXL connector"
_BY_REASON = "num_requests_waiting_by_reason"
_FETCH = "num_requests_kv_fetch_by_stage"
_BY_SOURCE = "prompt_tokens_by_source_total"

_CAPACITY = value(_BY_REASON, labels={"reason": "capacity"})
_DEFERRED = value(_BY_REASON, labels={"reason": "deferred"})
_FETCHING = ("waiting_to_start", "in_progress")
"""Stages of a fetch of KV; in the third, `completed_waiting`, the KV has come."""

_BOTH = Meanings(
    gauges={
        "running": named("num_requests_running"),
        "kv_used": named("kv_cache_usage_perc", "gpu_cache_usage_perc", combine=Combine.MEAN),
        "cache_tokens": Meaning(
            (
                # What a hybrid cache holds is less than its blocks times their size.
                Value(
                    (Term(names=("cache_config_info",), label_product=("kv_cache_size_tokens",)),)
                ),
                Value(
                    (
                        Term(
                            names=("cache_config_info",),
                            label_product=("num_gpu_blocks", "block_size"),
                        ),
                    )
                ),
            )
        ),
    },
    counters={
        "requests_finished": named("request_success_total"),
        "preemptions": named("num_preemptions_total"),
        "transfer_failures": named(
            "nixl_num_failed_transfers_total", "nixl_num_failed_transfers", note=_NIXL
        ),
    },
)

_PROMPT = Meanings(
    gauges={
        # Without those that wait for KV from afar, which more nodes would not help.
        "waiting": Meaning((_CAPACITY, value("num_requests_waiting"))),
        "waiting_deferred": Meaning((_DEFERRED,)),
    },
    counters={
        "prompt_tokens": Meaning(
            (value(_BY_SOURCE, labels={"source": "local_compute"}), value("prompt_tokens_total"))
        ),
        # On a prompt node KV from outside comes from a store: a prefix cache like the node's own.
        "prompt_tokens_cached": Meaning(
            (
                Value(
                    (
                        Term(names=(_BY_SOURCE,), labels={"source": "local_cache_hit"}),
                        Term(
                            names=(_BY_SOURCE,),
                            labels={"source": "external_kv_transfer"},
                            is_optional=True,
                        ),
                    )
                ),
            )
        ),
        "kv_expired": named(
            "nixl_num_kv_expired_reqs_total", "nixl_num_kv_expired_reqs", note=_NIXL
        ),
    },
    histograms={
        "ttft_s": histogram("time_to_first_token_seconds"),
        "queue_time_s": histogram("request_queue_time_seconds"),
        "input_len": histogram("request_prompt_tokens"),
    },
)

# Left out: a decoder counts its prompts again, those that came over a link included, and its first
# token is the end of its wait for KV, not what a user waits for.
_DECODER = Meanings(
    gauges={
        "waiting": Meaning(
            (
                # Requests whose KV has come wait for room like any other, but are still "deferred".
                Value(
                    (
                        Term(names=("num_requests_waiting",)),
                        *(
                            Term(names=(_FETCH,), labels={"stage": stage}, factor=-1.0)
                            for stage in _FETCHING
                        ),
                    )
                ),
                _CAPACITY,
                value("num_requests_waiting"),
            )
        ),
        "waiting_deferred": Meaning(
            (
                Value(tuple(Term(names=(_FETCH,), labels={"stage": stage}) for stage in _FETCHING)),
                _DEFERRED,
            )
        ),
    },
    # A prompt node generates one token a request, for the decoder to go on from.
    counters={"generation_tokens": named("generation_tokens_total")},
    histograms={
        # request_time_per_output_token_seconds has samples on prompt nodes, all zero.
        "tpot_s": histogram("inter_token_latency_seconds", "time_per_output_token_seconds"),
        "output_len": histogram("request_generation_tokens"),
        "duration_s": histogram("e2e_request_latency_seconds"),
    },
)

VLLM = Profile(
    name="vllm",
    aliases=("vllm-ascend",),
    # Relabelling rules and some exporters turn the colon into an underscore.
    prefixes=("vllm:", "vllm_"),
    recognised_by=("num_requests_running",),
    hint="vLLM has them unless it is started with --disable-log-stats",
    meanings={Role.PROMPT: _BOTH | _PROMPT, Role.DECODER: _BOTH | _DECODER},
)
