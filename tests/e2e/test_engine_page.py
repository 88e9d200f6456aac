"""The simulated engine's page against pages recorded from a real vLLM server."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pd_autoscaler.embedded.engine_metrics import EngineMetrics
from pd_autoscaler.embedded.engine_prompt import PromptEngine
from tests.support.engine import TINY

RECORDED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "metrics"
PAGES = sorted(RECORDED.glob("vllm-*.txt"))

Shape = dict[str, tuple[str, frozenset[frozenset[str]]]]
"""Sample name -> type of its family, and the sets of label names and closed label values."""

VALUES = frozenset({"reason", "source", "finished_reason", "le"})
"""Labels whose values are part of the format."""
LENGTHS = ("vllm:request_prompt_tokens_bucket", "vllm:request_generation_tokens_bucket")
"""Their bounds depend on the model's context length."""


def _shape(page: str) -> Shape:
    shape: dict[str, tuple[str, set[frozenset[str]]]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            names = {
                f"{name}={value}" if name in VALUES and sample.name not in LENGTHS else name
                for name, value in sample.labels.items()
            }
            shape.setdefault(sample.name, (family.type, set()))[1].add(frozenset(names))
    return {name: (kind, frozenset(labels)) for name, (kind, labels) in shape.items()}


def _own_page() -> str:
    metrics = EngineMetrics(TINY, model="tiny", length_max=2048)
    PromptEngine(engine_id="p1", profile=TINY, metrics=metrics)
    return metrics.page().decode()


@pytest.mark.skipif(not PAGES, reason="the recorded vLLM pages are not beside this checkout")
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_names_types_and_labels_are_those_of_a_real_server(path: Path) -> None:
    real, own = _shape(path.read_text()), _shape(_own_page())
    config = "vllm:cache_config_info"
    (own_labels,), (real_labels,) = own.pop(config)[1], real.pop(config)[1]
    assert own_labels <= real_labels

    assert {name for name in own if name.startswith("vllm:")} <= set(real)
    differing = {
        name: (own[name], real[name])
        for name in own
        if name in real and name.startswith("vllm:") and own[name] != real[name]
    }
    assert differing == {}


def test_every_signal_is_on_the_page_before_the_first_request() -> None:
    own = _shape(_own_page())
    for name in (
        "num_requests_running",
        "num_requests_waiting",
        "num_requests_waiting_by_reason",
        "kv_cache_usage_perc",
        "time_to_first_token_seconds_bucket",
        "request_queue_time_seconds_bucket",
        "inter_token_latency_seconds_bucket",
        "prompt_tokens_total",
        "prompt_tokens_by_source_total",
        "generation_tokens_total",
        "num_preemptions_total",
        "request_success_total",
        "request_prompt_tokens_sum",
        "request_generation_tokens_sum",
        "cache_config_info",
    ):
        assert f"vllm:{name}" in own


def test_the_page_says_how_much_kv_there_is() -> None:
    (line,) = [
        line for line in _own_page().splitlines() if line.startswith("vllm:cache_config_info{")
    ]
    assert 'block_size="16"' in line
    assert 'num_gpu_blocks="20"' in line
