"""MindIE-LLM (2026-04), on its metrics port (1027 by default).

Names and bounds are those of MindIE-LLM `prometheus_metrics.cpp`; what each role observes is from
`single_llm_*_req_handler.cpp` and `scheduler.cpp`. Its gauges are refreshed each second, and keep
their last value when the engine inside does not answer: their age is told by the counters.
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

_BOTH = Meanings(
    gauges={
        # On a prompt node with every prompt not pulled yet, on a decoder with every pull.
        "waiting": named("num_requests_waiting"),
        "running": named("num_requests_running"),
        "kv_used": Meaning(
            (
                Value(
                    (
                        Term(
                            names=("npu_cache_usage_perc",),
                            combine=Combine.MEAN,
                            # Its help says 0 to 1; published pages show 30.
                            is_percent=True,
                        ),
                    )
                ),
            )
        ),
    },
    counters={"transfer_failures": named("request_failed_total")},
)

# Left out: request_success_total and the duration, which a prompt node observes only for requests
# that end with their first token; the hits of the prefix cache, counted in blocks by some versions
# and in tokens by others, so that they cannot be taken from prompt_tokens_total.
_PROMPT = Meanings(
    gauges={"token_rate": named("avg_prompt_throughput_toks_per_s")},
    counters={
        "prompt_tokens": named("prompt_tokens_total"),
        "requests_received": named("request_received_total"),
    },
    histograms={
        "ttft_s": histogram("time_to_first_token_seconds"),
        "input_len": histogram("request_prompt_tokens"),
    },
)

_DECODER = Meanings(
    gauges={"token_rate": named("avg_generation_throughput_toks_per_s")},
    counters={
        # Added when a request ends.
        "generation_tokens": Meaning((value("generation_tokens_total", is_lumpy=True),)),
        "requests_finished": named("request_success_total"),
        "preemptions": named("num_preemptions_total"),
    },
    histograms={
        "tpot_s": histogram("time_per_output_token_seconds"),
        "output_len": histogram("request_generation_tokens"),
        "duration_s": histogram("e2e_request_latency_seconds"),
    },
)

MINDIE = Profile(
    name="mindie",
    recognised_by=("npu_cache_usage_perc",),
    hint="MindIE needs MIES_SERVICE_MONITOR_MODE=1 in its environment",
    meanings={Role.PROMPT: _BOTH | _PROMPT, Role.DECODER: _BOTH | _DECODER},
)
