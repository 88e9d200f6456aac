"""The simulated engine's `/metrics`, in the names, labels and buckets of vLLM's.

The families, labels and bucket bounds are those of a vLLM 0.32 server's page with a KV connector
(vllm-project/vllm `vllm/v1/metrics/loggers.py`); what a simulated engine has no honest value for
is left out.
"""

from collections.abc import Callable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest

from pd_autoscaler.engine_model.profile import EngineProfile

_LABELS = ("engine", "model_name")
_REQUEST_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0,
    240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_TOKEN_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0,
)  # fmt: skip


def _lengths(limit: int) -> tuple[float, ...]:
    """Return 1, 2, 5, 10, ... up to a context length, as vLLM's `build_1_2_5_buckets`."""
    bounds: list[float] = []
    decade = 1
    while True:
        for mantissa in (1, 2, 5):
            if mantissa * decade > limit:
                return tuple(bounds)
            bounds.append(float(mantissa * decade))
        decade *= 10


class EngineGauges(Protocol):
    """What the page reads from the engine at the moment it is asked for."""

    @property
    def running(self) -> int:
        """Requests in the batch."""
        ...

    @property
    def waiting_capacity(self) -> int:
        """Requests that wait for room."""
        ...

    @property
    def waiting_deferred(self) -> int:
        """Requests that wait for KV from another node."""
        ...

    @property
    def kv_used(self) -> float:
        """Share of KV blocks in use, 0 to 1."""
        ...


class EngineMetrics:
    """One engine's counters and histograms, on a registry of their own."""

    def __init__(self, profile: EngineProfile, *, model: str, length_max: int) -> None:
        self._registry = CollectorRegistry()
        self._model = model
        ProcessCollector(registry=self._registry)
        self._gauges: dict[str, Gauge] = {}
        for name, text in _GAUGES.items():
            self._gauges[name] = self._gauge(name, text)
        self._by_reason = self._gauge(
            "num_requests_waiting_by_reason", "Number of waiting requests by reason.", "reason"
        )
        self._build_counters()
        self._build_histograms(_lengths(length_max))
        self._build_config(profile)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"vllm:{name}", text, (*_LABELS, *labels), registry=self._registry)

    def _counter(self, name: str, text: str) -> Counter:
        counter = Counter(f"vllm:{name}", text, _LABELS, registry=self._registry)
        return counter.labels("0", self._model)

    def _counters(self, name: str, text: str, label: str, *values: str) -> dict[str, Counter]:
        counter = Counter(f"vllm:{name}", text, (*_LABELS, label), registry=self._registry)
        return {value: counter.labels("0", self._model, value) for value in values}

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...]) -> Histogram:
        histogram = Histogram(
            f"vllm:{name}", text, _LABELS, buckets=bounds, registry=self._registry
        )
        return histogram.labels("0", self._model)

    def _build_counters(self) -> None:
        """Make the counters; each is on the page from the start, at zero."""
        self.prompt_tokens = self._counter("prompt_tokens", "Number of prefill tokens processed.")
        self.prompt_tokens_by_source = self._counters(
            "prompt_tokens_by_source", "Number of prompt tokens by source.", "source",
            "local_compute", "local_cache_hit", "external_kv_transfer",
        )  # fmt: skip
        self.generation_tokens = self._counter(
            "generation_tokens", "Number of generation tokens processed."
        )
        self.preemptions = self._counter(
            "num_preemptions", "Cumulative number of preemption from the engine."
        )
        self.requests_ended = self._counters(
            "request_success", "Count of successfully processed requests.", "finished_reason",
            "stop", "length", "abort", "error", "repetition",
        )  # fmt: skip

    def _build_histograms(self, lengths: tuple[float, ...]) -> None:
        """Make the histograms; unit seconds, or tokens."""
        self.first_token_s = self._histogram(
            "time_to_first_token_seconds", "Time to first token in seconds.", _FIRST_TOKEN_S
        )
        self.token_s = self._histogram(
            "inter_token_latency_seconds", "Inter-token latency in seconds.", _TOKEN_S
        )
        self.mean_token_s = self._histogram(
            "request_time_per_output_token_seconds",
            "Time per output token in seconds per request.",
            _TOKEN_S,
        )
        self.queue_s = self._histogram(
            "request_queue_time_seconds", "Time spent in the WAITING phase.", _REQUEST_S
        )
        self.prefill_s = self._histogram(
            "request_prefill_time_seconds", "Time spent in the PREFILL phase.", _REQUEST_S
        )
        self.decode_s = self._histogram(
            "request_decode_time_seconds", "Time spent in the DECODE phase.", _REQUEST_S
        )
        self.request_s = self._histogram(
            "e2e_request_latency_seconds", "End-to-end request latency in seconds.", _REQUEST_S
        )
        self.tokens_in = self._histogram(
            "request_prompt_tokens", "Number of prefill tokens processed.", lengths
        )
        self.tokens_out = self._histogram(
            "request_generation_tokens", "Number of generation tokens processed.", lengths
        )

    def _build_config(self, profile: EngineProfile) -> None:
        """Say how much KV there is, as vLLM does: in labels."""
        values = {
            "block_size": str(profile.kv_block_tokens),
            "engine": "0",
            "kv_cache_size_tokens": str(profile.kv_blocks * profile.kv_block_tokens),
            "num_gpu_blocks": str(profile.kv_blocks),
        }
        config = Gauge(
            "vllm:cache_config_info",
            "Information of the LLMEngine CacheConfig",
            sorted(values),
            registry=self._registry,
        )
        config.labels(**values).set(1)

    def watch(self, engine: EngineGauges) -> None:
        """Have the gauges read this engine whenever the page is asked for."""
        reads: dict[str, Callable[[], float]] = {
            "num_requests_running": lambda: engine.running,
            "num_requests_waiting": lambda: engine.waiting_capacity + engine.waiting_deferred,
            "kv_cache_usage_perc": lambda: engine.kv_used,
        }
        for name, read in reads.items():
            self._gauges[name].labels("0", self._model).set_function(read)
        by_reason: dict[str, Callable[[], float]] = {
            "capacity": lambda: engine.waiting_capacity,
            "deferred": lambda: engine.waiting_deferred,
        }
        for reason, read in by_reason.items():
            self._by_reason.labels("0", self._model, reason).set_function(read)

    def page(self) -> bytes:
        """Return the exposition."""
        return generate_latest(self._registry)


_GAUGES = {
    "num_requests_running": "Number of requests in model execution batches.",
    "num_requests_waiting": "Number of requests waiting to be processed.",
    "kv_cache_usage_perc": "KV-cache usage. 1 means 100 percent usage.",
}
