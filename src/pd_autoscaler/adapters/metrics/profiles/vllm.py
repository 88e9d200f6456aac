"""vLLM and vllm-ascend (V1 engine): names of 0.32 first, older ones after them.

Names and labels are those of vllm-project/vllm vllm/v1/metrics/loggers.py and of its NIXL
connector; one series per data-parallel rank carries the label `engine`.
"""

import math

from pd_autoscaler.adapters.metrics.exposition import Sample
from pd_autoscaler.adapters.metrics.profiles.profile import (
    DECODER,
    PROMPT,
    Meaning,
    Profile,
    Source,
    mean,
)


def _cache_tokens(samples: list[Sample]) -> float:
    """Sum the KV capacity of the engines in tokens; NaN if one does not say."""
    try:
        return math.fsum(
            float(s.labels["num_gpu_blocks"]) * float(s.labels["block_size"]) for s in samples
        )
    except (KeyError, ValueError):
        return math.nan


VLLM = Profile(
    name="vllm",
    # Relabelling rules and some exporters turn the colon into an underscore.
    prefixes=("vllm:", "vllm_"),
    gauges={
        "waiting": Meaning(
            (
                # Without those that wait for KV from afar, which more nodes would not help.
                Source("num_requests_waiting_by_reason", {"reason": "capacity"}),
                Source("num_requests_waiting"),
            )
        ),
        "waiting_deferred": Meaning(
            (Source("num_requests_waiting_by_reason", {"reason": "deferred"}),)
        ),
        "running": Meaning((Source("num_requests_running"),)),
        "kv_used": Meaning(
            (Source("kv_cache_usage_perc"), Source("gpu_cache_usage_perc")), value_of=mean
        ),
        "cache_tokens": Meaning((Source("cache_config_info"),), value_of=_cache_tokens),
    },
    counters={
        # A decoder counts its prompts again, those that came over a link included.
        "prompt_tokens": Meaning(
            (
                Source("prompt_tokens_by_source_total", {"source": "local_compute"}),
                Source("prompt_tokens_total"),
            ),
            PROMPT,
        ),
        # A prompt node emits one token a request, for the decoder to go on from.
        "generation_tokens": Meaning((Source("generation_tokens_total"),), DECODER),
        "requests_finished": Meaning((Source("request_success_total"),)),
        "preemptions": Meaning((Source("num_preemptions_total"),)),
        "transfer_failures": Meaning(
            (Source("nixl_num_failed_transfers_total"), Source("nixl_num_failed_transfers"))
        ),
    },
    histograms={
        # A decoder's first token is the end of its KV wait, not what a user waits for.
        "ttft_s": Meaning((Source("time_to_first_token_seconds"),), PROMPT),
        "queue_time_s": Meaning((Source("request_queue_time_seconds"),), PROMPT),
        "tpot_s": Meaning(
            # request_time_per_output_token_seconds has samples on prompt nodes, all zero.
            (Source("inter_token_latency_seconds"), Source("time_per_output_token_seconds")),
            DECODER,
        ),
        "input_len": Meaning((Source("request_prompt_tokens"),), PROMPT),
        "output_len": Meaning((Source("request_generation_tokens"),), DECODER),
    },
)
