"""Pages in the shape of a vLLM server's `/metrics`, and histories of readings."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.signals import Histogram, Reading

_REAL = Path(__file__).parents[2].parent / "shared" / "data" / "metrics"


def real_page(name: str) -> bytes:
    """Return a page of a real engine, or skip the test by its name where there is none."""
    path = _REAL / name
    if not path.exists():
        pytest.skip(f"no real page {name}")
    return path.read_bytes()


def line(name: str, value: float, **labels: str) -> str:
    """Write one sample."""
    inside = ",".join(f'{key}="{text}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value}\n" if labels else f"{name} {value}\n"


def histogram_lines(
    name: str, counts: Mapping[float, float], total: float = 0.0, **labels: str
) -> str:
    """Write a histogram from cumulative counts by bound, +Inf included."""
    rows = [
        line(f"{name}_bucket", count, le="+Inf" if bound == math.inf else str(bound), **labels)
        for bound, count in counts.items()
    ]
    count = max(counts.values(), default=0.0)
    return "".join(
        [*rows, line(f"{name}_sum", total, **labels), line(f"{name}_count", count, **labels)]
    )


def vllm_page(
    *,
    engines: Sequence[str] = ("0",),
    waiting: float = 0.0,
    deferred: float = 0.0,
    running: float = 0.0,
    kv_used: float = 0.0,
    finished: float = 0.0,
    prompt_tokens: float = 0.0,
    generation_tokens: float = 0.0,
    prefix: str = "vllm:",
) -> bytes:
    """Write a page on which every engine says the same."""
    text = "# HELP python_info Python platform information\npython_info 1.0\n"
    for engine in engines:
        labels = {"engine": engine, "model_name": "tiny"}
        text += line(f"{prefix}num_requests_running", running, **labels)
        text += line(f"{prefix}num_requests_waiting", waiting + deferred, **labels)
        by_reason = f"{prefix}num_requests_waiting_by_reason"
        text += line(by_reason, waiting, **labels, reason="capacity")
        text += line(by_reason, deferred, **labels, reason="deferred")
        text += line(f"{prefix}kv_cache_usage_perc", kv_used, **labels)
        text += line(f"{prefix}prompt_tokens_total", prompt_tokens, **labels)
        text += line(f"{prefix}generation_tokens_total", generation_tokens, **labels)
        text += line(f"{prefix}request_success_total", finished, **labels, finished_reason="stop")
        info = {**labels, "num_gpu_blocks": "100", "block_size": "16"}
        text += line(f"{prefix}cache_config_info", 1.0, **info)
    return text.encode()


def node(
    node_id: str,
    role: Role = Role.PROMPT,
    *,
    state: NodeState = NodeState.SERVING,
    incarnation: str = "a",
    metrics_url: str = "",
    served_at_s: float | None = None,
) -> Node:
    """Make a node that only its metrics matter of."""
    return Node(
        id=node_id,
        role=role,
        state=state,
        since_s=0.0,
        incarnation=incarnation,
        metrics_url=metrics_url,
        served_at_s=served_at_s,
    )


def reading(
    node_id: str = "p0",
    at_s: float = 0.0,
    *,
    gauges: Mapping[str, float] | None = None,
    counters: Mapping[str, float] | None = None,
    histograms: Mapping[str, Iterable[tuple[float, float]]] | None = None,
) -> Reading:
    """Make a reading from plain numbers."""
    return Reading(
        node_id=node_id,
        at_s=at_s,
        gauges=gauges or {},
        counters=counters or {},
        histograms={name: Histogram.of(rows) for name, rows in (histograms or {}).items()},
    )


def rows(histogram: Histogram) -> tuple[tuple[float, float], ...]:
    """Return the bounds of a histogram with their counts."""
    return tuple(zip(histogram.bounds, histogram.counts, strict=True))
