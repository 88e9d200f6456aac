"""Engine profiles: what a page means on a node of each role."""

import math

import pytest

from pd_autoscaler.adapters.metrics.exposition import PageError
from pd_autoscaler.adapters.metrics.profiles import profile_named
from pd_autoscaler.adapters.metrics.profiles.vllm import VLLM
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import Reading
from tests.support.pages import histogram_lines, line, real_page, vllm_page

INF = math.inf


def read(page: bytes, role: Role = Role.PROMPT) -> Reading:
    return VLLM.reading(page, node_id="n", role=role, at_s=7.0)


def test_a_page_of_two_engines_sums_counts_and_averages_ratios() -> None:
    text = "".join(
        line("vllm:num_requests_running", running, engine=engine)
        + line("vllm:kv_cache_usage_perc", used, engine=engine)
        + line("vllm:request_success_total", 5.0, engine=engine, finished_reason="stop")
        + line("vllm:request_success_total", 2.0, engine=engine, finished_reason="abort")
        for engine, running, used in (("0", 3.0, 0.2), ("1", 4.0, 0.6))
    )

    got = read(text.encode())

    assert (got.node_id, got.at_s) == ("n", 7.0)
    assert got.gauges["running"] == 7.0
    assert got.gauges["kv_used"] == pytest.approx(0.4)
    assert got.counters["requests_finished"] == 14.0


def test_waiting_counts_those_that_lack_room_and_not_those_that_lack_kv() -> None:
    got = read(vllm_page(engines=("0", "1"), waiting=2.0, deferred=5.0))

    assert got.gauges["waiting"] == 4.0
    assert got.gauges["waiting_deferred"] == 10.0


def test_an_older_engine_without_reasons_and_with_old_names_is_read_too() -> None:
    text = line("vllm_num_requests_waiting", 3.0) + line("vllm_gpu_cache_usage_perc", 0.5)
    text += histogram_lines("vllm_time_per_output_token_seconds", {0.1: 1.0, INF: 2.0})

    got = read(text.encode(), Role.DECODER)

    assert got.gauges == {"waiting": 3.0, "kv_used": 0.5}
    assert got.histograms["tpot_s"] == ((0.1, 1.0), (INF, 2.0))


def test_what_a_page_lacks_is_absent_and_never_zero() -> None:
    got = read(line("vllm:num_requests_running", 0.0).encode())

    assert got.gauges == {"running": 0.0}
    assert got.counters == {}
    assert got.histograms == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_value_that_is_no_count_is_unknown(value: float) -> None:
    text = line("vllm:num_requests_waiting", value) + line("vllm:num_requests_running", 1.0)

    assert read(text.encode()).gauges == {"running": 1.0}


def test_the_cache_size_is_blocks_times_block_size_over_engines() -> None:
    assert read(vllm_page(engines=("0", "1"))).gauges["cache_tokens"] == 3200.0
    text = line("vllm:cache_config_info", 1.0, num_gpu_blocks="None", block_size="16")
    assert "cache_tokens" not in read(text.encode()).gauges


def test_only_the_tokens_a_prompt_node_computed_are_its_work() -> None:
    text = line("vllm:prompt_tokens_total", 100.0)
    assert read(text.encode()).counters["prompt_tokens"] == 100.0
    by_source = "vllm:prompt_tokens_by_source_total"
    text += line(by_source, 60.0, source="local_compute")
    text += line(by_source, 40.0, source="local_cache_hit")
    assert read(text.encode()).counters["prompt_tokens"] == 60.0


def test_what_a_role_exports_without_meaning_it_is_left_out() -> None:
    text = "".join(
        histogram_lines(f"vllm:{name}", {1.0: 3.0, INF: 3.0}, 2.0)
        for name in (
            "time_to_first_token_seconds",
            "inter_token_latency_seconds",
            "request_queue_time_seconds",
            "request_prompt_tokens",
            "request_generation_tokens",
        )
    )
    page = vllm_page(prompt_tokens=5.0, generation_tokens=6.0) + text.encode()

    prompt, decoder = read(page), read(page, Role.DECODER)

    assert prompt.histograms.keys() == {"ttft_s", "queue_time_s", "input_len"}
    assert decoder.histograms.keys() == {"tpot_s", "output_len"}
    assert "generation_tokens" not in prompt.counters
    assert "prompt_tokens" not in decoder.counters
    assert prompt.counters["input_len_sum"] == 2.0
    assert prompt.counters["input_len_count"] == 3.0
    assert decoder.counters["output_len_count"] == 3.0
    assert "tpot_s_sum" not in prompt.counters


def test_histograms_of_two_engines_are_summed() -> None:
    text = histogram_lines("vllm:time_to_first_token_seconds", {0.5: 1, INF: 4}, 9, engine="0")
    text += histogram_lines("vllm:time_to_first_token_seconds", {0.5: 2, INF: 2}, 1, engine="1")

    got = read(text.encode())

    assert got.histograms["ttft_s"] == ((0.5, 3.0), (INF, 6.0))
    assert (got.counters["ttft_s_sum"], got.counters["ttft_s_count"]) == (10.0, 6.0)


@pytest.mark.parametrize(
    "rows",
    [
        [("0.5", 3.0), ("+Inf", 2.0)],
        [("0.5", math.nan), ("+Inf", 2.0)],
        [("half", 1.0), ("+Inf", 2.0)],
        [("0.5", 1.0)],
    ],
)
def test_buckets_that_make_no_histogram_are_unknown(rows: list[tuple[str, float]]) -> None:
    name = "vllm:time_to_first_token_seconds_bucket"
    text = "".join(line(name, value, le=bound) for bound, value in rows)

    assert read(text.encode()).histograms == {}


def test_a_missing_top_bucket_is_the_count() -> None:
    text = line("vllm:time_to_first_token_seconds_bucket", 1.0, le="0.5")
    text += line("vllm:time_to_first_token_seconds_count", 3.0)

    assert read(text.encode()).histograms["ttft_s"] == ((0.5, 1.0), (INF, 3.0))


def test_a_page_of_something_else_is_refused() -> None:
    with pytest.raises(PageError, match="no metric of the vllm profile"):
        read(b"<html><body>It works!</body></html>\n")


def test_an_unknown_profile_is_refused_with_those_there_are() -> None:
    assert profile_named("vllm") is VLLM
    with pytest.raises(ConfigError, match="no engine profile 'vlm'; there are: vllm"):
        profile_named("vlm")


def test_a_real_prompt_page_says_what_the_node_did() -> None:
    got = read(real_page("vllm-0.32-prompt-loaded.txt"))

    assert got.gauges == {
        "waiting": 0.0,
        "waiting_deferred": 0.0,
        "running": 0.0,
        "kv_used": 0.0,
        "cache_tokens": 524288.0,
    }
    assert got.counters["prompt_tokens"] == 8078.0
    assert got.counters["requests_finished"] == 41.0
    assert got.counters["ttft_s_count"] == 41.0
    assert got.histograms["ttft_s"][-1] == (INF, 41.0)
    assert (0.1, 24.0) in got.histograms["ttft_s"]
    assert "tpot_s" not in got.histograms


def test_a_real_decoder_page_says_what_the_node_did() -> None:
    got = read(real_page("vllm-0.32-decoder-loaded.txt"), Role.DECODER)

    assert got.gauges["running"] == 10.0
    assert got.gauges["kv_used"] == pytest.approx(0.0061, abs=1e-4)
    assert got.counters["generation_tokens"] == 3800.0
    assert got.counters["requests_finished"] == 31.0
    assert got.histograms["tpot_s"][-1][0] == INF
    assert "prompt_tokens" not in got.counters
    assert "ttft_s" not in got.histograms
