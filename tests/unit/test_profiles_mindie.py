"""MindIE's profile: percentages, counters that jump, and what each role never observes."""

import math

import pytest

from pd_autoscaler.adapters.metrics.exposition import PageError
from pd_autoscaler.adapters.metrics.profiles.mindie import MINDIE
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import Reading
from tests.support.engine_pages import mindie
from tests.support.pages import rows

INF = math.inf


def read(page: bytes, role: Role = Role.PROMPT) -> Reading:
    return MINDIE.reading(page, node_id="n", role=role, at_s=7.0)


@pytest.mark.parametrize(
    ("exported", "share"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0), (30.0, 0.3), (100.0, 1.0)]
)
def test_cache_use_above_one_is_a_percentage(exported: float, share: float) -> None:
    got = read(mindie({"npu_cache_usage_perc": exported}))

    assert got.gauges["kv_used"] == pytest.approx(share)


def test_cache_use_above_a_hundred_per_cent_is_unknown() -> None:
    assert "kv_used" not in read(mindie({"npu_cache_usage_perc": 101.0})).gauges


def test_several_models_add_up_in_counts_and_are_averaged_in_ratios() -> None:
    page = mindie({"num_requests_running": 2.0, "npu_cache_usage_perc": 0.4}, models=("a", "b"))

    got = read(page)

    assert got.gauges["running"] == 4.0
    assert got.gauges["kv_used"] == pytest.approx(0.4)


def test_a_time_beyond_the_last_bound_stays_in_the_top_bucket() -> None:
    # 252 of 400 first tokens took longer than the histogram goes: their p95 is "at least 10 s".
    page = mindie({"time_to_first_token_seconds": [0.2] * 148 + [30.0] * 252})

    assert rows(read(page).histograms["ttft_s"])[-2:] == ((10.0, 148.0), (INF, 400.0))


def test_first_tokens_and_arrivals_are_read_from_prompt_nodes_alone() -> None:
    page = mindie(
        {
            "request_received_total": 8.0,
            "prompt_tokens_total": 800.0,
            "request_prompt_tokens": [100.0] * 8,
            "time_to_first_token_seconds": [0.2],
        }
    )

    prompt, decoder = read(page), read(page, Role.DECODER)

    assert prompt.counters["requests_received"] == 8.0
    assert prompt.counters["prompt_tokens"] == 800.0
    assert prompt.histograms.keys() == {"ttft_s", "input_len"}
    assert not {"requests_received", "prompt_tokens", "input_len_sum", "ttft_s_count"} & (
        decoder.counters.keys()
    )


def test_a_prompt_nodes_finished_requests_and_durations_are_not_read() -> None:
    # It observes them only where a request ends with its first token.
    page = mindie({"request_success_total": 3.0, "e2e_request_latency_seconds": [0.5]})

    prompt, decoder = read(page), read(page, Role.DECODER)

    assert not {"requests_finished", "duration_s_count"} & prompt.counters.keys()
    assert decoder.counters["requests_finished"] == 3.0
    assert decoder.counters["duration_s_count"] == 1.0


def test_generated_tokens_jump_at_the_end_of_requests_and_are_said_to() -> None:
    page = mindie({"generation_tokens_total": 700.0, "time_per_output_token_seconds": [0.02]})

    prompt, decoder = read(page), read(page, Role.DECODER)

    assert decoder.counters["generation_tokens"] == 700.0
    assert decoder.lumpy == {"generation_tokens"}
    assert decoder.histograms.keys() == {"tpot_s", "output_len", "duration_s"}
    assert "generation_tokens" not in prompt.counters
    assert prompt.lumpy == frozenset()


def test_the_engines_own_mean_rate_is_that_of_the_roles_tokens() -> None:
    page = mindie(
        {
            "avg_prompt_throughput_toks_per_s": 900.0,
            "avg_generation_throughput_toks_per_s": 300.0,
        }
    )

    assert read(page).gauges["token_rate"] == 900.0
    assert read(page, Role.DECODER).gauges["token_rate"] == 300.0


def test_preemptions_are_a_decoders_and_failures_are_of_both() -> None:
    page = mindie({"num_preemptions_total": 4.0, "request_failed_total": 2.0})

    prompt, decoder = read(page), read(page, Role.DECODER)

    assert "preemptions" not in prompt.counters
    assert decoder.counters["preemptions"] == 4.0
    assert prompt.counters["transfer_failures"] == decoder.counters["transfer_failures"] == 2.0


@pytest.mark.parametrize(
    ("role", "moving"),
    [
        (Role.PROMPT, {"requests_received", "prompt_tokens", "ttft_s_count"}),
        # While requests run for long, their tokens are counted by the time between them alone.
        (Role.DECODER, {"tpot_s_count", "tpot_s_sum"}),
    ],
)
def test_gauges_that_have_gone_stale_can_be_told_by_counters_that_move_with_work(
    role: Role, moving: set[str]
) -> None:
    got = read(mindie({"num_requests_waiting": 5.0}), role)

    assert got.gauges["waiting"] == 5.0
    assert moving <= got.counters.keys()
    assert not moving & got.lumpy


def test_hits_of_the_prefix_cache_are_not_read_as_some_versions_count_blocks() -> None:
    for role in Role:
        assert not any("radix" in name or "prefix_cache" in name for name in MINDIE.wanted_by(role))
    assert "prompt_tokens_cached" not in read(mindie({"npu_radix_match_hit_num": 9.0})).counters


def test_what_is_deferred_or_not_yet_pulled_is_nothing_mindie_says() -> None:
    for role in Role:
        assert not {"waiting_deferred", "kv_export_backlog"} & read(mindie(), role).gauges.keys()


def test_an_empty_page_names_the_variable_that_switches_metrics_on() -> None:
    with pytest.raises(PageError, match=r"on an empty page.*MIES_SERVICE_MONITOR_MODE=1"):
        read(b"")
