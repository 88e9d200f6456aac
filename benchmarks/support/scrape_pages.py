"""Pages in the shape of a vLLM 0.32 server's: its families, labels and buckets, drawn values.

They are written by prometheus_client, as the engine's are. The families are those that a real
server exported (vllm-project/vllm vllm/v1/metrics/loggers.py, and its Python process's and HTTP
server's own); histograms, counters and summaries bring their `_created` along.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Summary,
    generate_latest,
    metrics,
)

MODEL = "deepseek-ai/DeepSeek-V3.2"

_LENGTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
_STEPS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_WAITS = (
    *(0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60),
    *(120, 240, 480, 960, 1920, 7680),
)
_FIRST = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
    *(20, 40, 80, 160, 640, 2560),
)
_BETWEEN = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
    *(20, 40, 80),
)
_HANDLED = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5),
    *(7.5, 10, 30, 60),
)
_HANDLER = {"handler": ("/v1/completions",)}
_METHOD = {**_HANDLER, "method": ("POST",)}
_SOURCES = ("local_compute", "local_cache_hit", "external_kv_transfer")
_CACHES = ("device", "host", "p2p", "disk", "external_unspecified")
_REASONS = ("stop", "length", "abort", "error", "repetition")
_CONFIG = """
_block_size_resolved=True block_size=128 cache_dtype=auto cache_hit_alignment_tokens=None
effective_attention_block_size=128 enable_prefix_caching=True gpu_memory_utilization=0.92
hash_block_size=None is_attention_free=False kv_cache_dtype_skip_layers=[] kv_cache_layout=None
kv_cache_max_concurrency=256.0 kv_cache_memory_bytes=1073741824 kv_cache_size_tokens=524288
kv_offloading_backend=native kv_offloading_size=None kv_sharing_fast_prefill=False
mamba_block_size=None mamba_cache_dtype=auto mamba_cache_mode=none mamba_page_size_padded=None
mamba_ssm_cache_dtype=float32 num_cpu_blocks=None num_gpu_blocks=4096 num_gpu_blocks_override=None
prefix_caching_hash_algo=sha256 sliding_window=None user_specified_block_size=False
"""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its values of each label beside the engine's, and a histogram's buckets."""

    kind: type[Counter | Gauge | Histogram | Summary]
    name: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()
    is_of_engine: bool = True


_PROCESS = (
    *(
        Family(Counter, f"python_gc_{name}", {"generation": ("0", "1", "2")}, is_of_engine=False)
        for name in ("objects_collected", "objects_uncollectable", "collections")
    ),
    *(
        Family(Gauge, f"process_{name}", is_of_engine=False)
        for name in (
            *("virtual_memory_bytes", "resident_memory_bytes", "start_time_seconds"),
            *("open_fds", "max_fds"),
        )
    ),
    Family(
        Gauge,
        "python_info",
        {"implementation": ("CPython",), "major": ("3",), "minor": ("11",), "version": ("3.11.7",)},
        is_of_engine=False,
    ),
    Family(Counter, "process_cpu_seconds", is_of_engine=False),
)
_COUNTS = (
    *(Family(Counter, f"vllm:estimated_{name}_per_gpu") for name in ("flops", "read_bytes")),
    Family(Counter, "vllm:estimated_write_bytes_per_gpu"),
    Family(Gauge, "vllm:num_requests_running"),
    Family(Gauge, "vllm:num_requests_waiting"),
    Family(Gauge, "vllm:num_requests_waiting_by_reason", {"reason": ("capacity", "deferred")}),
    Family(
        Gauge,
        "vllm:num_requests_kv_fetch_by_stage",
        {"stage": ("waiting_to_start", "in_progress", "completed_waiting")},
    ),
    Family(
        Gauge,
        "vllm:engine_sleep_state",
        {"sleep_state": ("awake", "weights_offloaded", "discard_all")},
    ),
    Family(Gauge, "vllm:kv_cache_usage_perc"),
    *(
        Family(Counter, f"vllm:{cache}_cache_{what}")
        for cache in ("prefix", "external_prefix", "mm")
        for what in ("queries", "hits")
    ),
    Family(Counter, "vllm:num_preemptions"),
    Family(Counter, "vllm:prompt_tokens"),
    Family(Counter, "vllm:prompt_tokens_by_source", {"source": _SOURCES}),
    Family(Counter, "vllm:prompt_tokens_cached"),
    Family(Counter, "vllm:prompt_tokens_cached_by_source", {"source": _CACHES}),
    Family(Counter, "vllm:generation_tokens"),
    Family(Counter, "vllm:request_success", {"finished_reason": _REASONS}),
    Family(
        Counter,
        "vllm:admission_rejections",
        {"reason": ("max_num_queued_reqs", "max_num_queued_tokens")},
        is_of_engine=False,
    ),
)
_HISTOGRAMS = tuple(
    Family(Histogram, f"vllm:{name}", {}, buckets)
    for name, buckets in (
        ("request_prompt_tokens", _LENGTHS),
        ("request_generation_tokens", _LENGTHS),
        ("iteration_tokens_total", _STEPS),
        ("request_max_num_generation_tokens", _LENGTHS),
        ("request_params_n", _LENGTHS[:5]),
        ("request_params_max_tokens", _LENGTHS),
        ("time_to_first_token_seconds", _FIRST),
        ("inter_token_latency_seconds", _BETWEEN),
        ("request_time_per_output_token_seconds", _BETWEEN),
        ("e2e_request_latency_seconds", _WAITS),
        ("request_queue_time_seconds", _WAITS),
        ("request_inference_time_seconds", _WAITS),
        ("request_prefill_time_seconds", _WAITS),
        ("request_decode_time_seconds", _WAITS),
        ("request_num_preemptions", (1, 2, 3, 4, 5, 10, 20)),
        ("request_prefill_kv_computed_tokens", _LENGTHS),
    )
)
_SERVER = (
    Family(Counter, "http_requests", {**_METHOD, "status": ("2xx",)}, is_of_engine=False),
    Family(Summary, "http_request_size_bytes", _HANDLER, is_of_engine=False),
    Family(Summary, "http_response_size_bytes", _HANDLER, is_of_engine=False),
    Family(Histogram, "http_request_duration_highr_seconds", {}, _HANDLED, is_of_engine=False),
    Family(Histogram, "http_request_duration_seconds", _METHOD, (0.1, 0.5, 1), is_of_engine=False),
)
_CONFIGURED = Family(
    Gauge,
    "vllm:cache_config_info",
    {key: (value,) for key, value in (pair.split("=") for pair in _CONFIG.split())},
)
FAMILIES = (*_PROCESS, *_COUNTS, *_HISTOGRAMS, _CONFIGURED, *_SERVER)


def vllm_page(*, engines: int, seed: int = 0) -> bytes:
    """Write a page of so many engines in one server; the same for the same seed but for times."""
    drawn = random.Random(seed)
    registry = CollectorRegistry()
    for family in FAMILIES:
        labels = dict(family.labels)
        if family.is_of_engine:
            labels |= {
                "engine": tuple(str(engine) for engine in range(engines)),
                "model_name": (MODEL,),
            }
        _add(registry, family, labels, drawn)
    with _since_when():
        return generate_latest(registry)


@contextmanager
def _since_when() -> Iterator[None]:
    """Have pages say since when each thing is counted, as vLLM's do: one switch for a process."""
    was_on = metrics._get_use_created()  # noqa: SLF001
    metrics.enable_created_metrics()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if not was_on:
            metrics.disable_created_metrics()  # type: ignore[no-untyped-call]


def _add(
    registry: CollectorRegistry,
    family: Family,
    labels: dict[str, tuple[str, ...]],
    drawn: random.Random,
) -> None:
    said = f"{family.name.rpartition(':')[2].replace('_', ' ')}: what it counts, in which unit."
    names = tuple(sorted(labels))
    if family.kind is Histogram:
        metric = Histogram(family.name, said, names, buckets=family.buckets, registry=registry)
    else:
        metric = family.kind(family.name, said, names, registry=registry)  # type: ignore[assignment]
    series: list[dict[str, str]] = [{}]
    for name in names:
        series = [{**one, name: value} for one in series for value in labels[name]]
    for one in series:
        _fill(metric.labels(**one) if one else metric, family, drawn)


def _fill(
    child: Counter | Gauge | Histogram | Summary, family: Family, drawn: random.Random
) -> None:
    match child:
        case Counter():
            child.inc(drawn.randrange(10**7))
        case Gauge():
            # A share is what the percentages of the engine are.
            child.set(drawn.random() if family.name.endswith("perc") else drawn.randrange(100))
        case Histogram() | Summary():
            scale = family.buckets[len(family.buckets) // 2] if family.buckets else 500.0
            for _ in range(200):
                child.observe(drawn.expovariate(1 / scale))
