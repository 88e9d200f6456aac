"""SGLang's profile: ranks, queues with two names, counters that come late, and dead gauges."""

import math
from collections.abc import Mapping

import pytest

from pd_autoscaler.adapters.metrics.profiles.sglang import SGLANG
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import Reading
from tests.support.engine_pages import Given, sglang
from tests.support.pages import line, rows

RANKS_OF_TWO_DP: tuple[Mapping[str, str], ...] = (
    {"tp_rank": "0", "dp_rank": "0"},
    {"tp_rank": "0", "dp_rank": "1"},
)


def read(page: bytes, role: Role = Role.PROMPT) -> Reading:
    return SGLANG.reading(page, node_id="n", role=role, at_s=7.0)


@pytest.mark.parametrize("prefix", ["sglang:", "sglang_"])
def test_both_prefixes_are_read(prefix: str) -> None:
    assert read(sglang({"num_running_reqs": 3.0}, prefix=prefix)).gauges["running"] == 3.0


def test_a_prompt_nodes_queue_is_what_waits_and_what_still_shakes_hands() -> None:
    page = sglang({"num_queue_reqs": 2.0, "num_prefill_bootstrap_queue_reqs": 3.0})

    assert read(page).gauges["waiting"] == 5.0


def test_the_older_name_of_the_handshakes_queue_is_read_too() -> None:
    page = sglang(
        {"num_queue_reqs": 2.0, "num_prefill_bootstrap_queue_reqs": 3.0},
        renamed={"num_prefill_bootstrap_queue_reqs": "num_prefill_prealloc_queue_reqs"},
    )

    assert read(page).gauges["waiting"] == 5.0


def test_half_a_queue_is_unknown_and_not_taken_for_the_whole() -> None:
    page = sglang({"num_queue_reqs": 2.0}, without=["num_prefill_bootstrap_queue_reqs"])

    assert "waiting" not in read(page).gauges


def test_a_decoders_queue_is_what_lacks_room_and_its_transfers_are_told_apart() -> None:
    page = sglang(
        {
            "num_queue_reqs": 1.0,
            "num_decode_prealloc_queue_reqs": 4.0,
            "num_decode_transfer_queue_reqs": 6.0,
            # Exported on decoders as well, and meaningless there.
            "num_prefill_bootstrap_queue_reqs": 9.0,
            "num_prefill_inflight_queue_reqs": 9.0,
        },
        role=Role.DECODER,
    )

    got = read(page, Role.DECODER)

    assert got.gauges["waiting"] == 5.0
    assert got.gauges["waiting_deferred"] == 6.0
    assert "kv_export_backlog" not in got.gauges


def test_kv_that_is_being_exported_is_the_backlog_of_a_prompt_node() -> None:
    page = sglang({"num_prefill_inflight_queue_reqs": 8.0, "num_decode_transfer_queue_reqs": 9.0})

    got = read(page)

    assert got.gauges["kv_export_backlog"] == 8.0
    assert "waiting_deferred" not in got.gauges


def test_data_parallel_ranks_add_up_in_counts_and_are_averaged_in_ratios() -> None:
    page = sglang(
        {"num_running_reqs": 3.0, "token_usage": 0.5, "max_total_num_tokens": 1000.0},
        ranks=RANKS_OF_TWO_DP,
    )

    got = read(page)

    assert got.gauges["running"] == 6.0
    assert got.gauges["kv_used"] == 0.5
    assert got.gauges["cache_tokens"] == 2000.0


def test_of_tensor_parallel_ranks_the_first_alone_is_counted() -> None:
    ranks = [{"tp_rank": str(rank), "moe_ep_rank": str(rank)} for rank in range(4)]

    got = read(sglang({"num_running_reqs": 3.0, "queue_time_seconds": [0.3]}, ranks=ranks))

    assert got.gauges["running"] == 3.0
    assert got.counters["queue_time_s_count"] == 1.0
    assert rows(got.histograms["queue_time_s"])[-1] == (math.inf, 1.0)


def test_with_data_parallel_attention_the_first_rank_of_each_group_is_counted() -> None:
    # Groups of two: their first ranks are 0 and 2, and rank 0 alone would be half of the node.
    firsts = [{"tp_rank": "0", "dp_rank": "0"}, {"tp_rank": "2", "dp_rank": "1"}]
    others = [{"tp_rank": "1", "dp_rank": "0"}, {"tp_rank": "3", "dp_rank": "1"}]

    for ranks in (firsts, firsts + others, others[::-1] + firsts):
        assert read(sglang({"num_running_reqs": 3.0}, ranks=ranks)).gauges["running"] == 6.0


def test_of_pipeline_stages_the_first_alone_is_counted() -> None:
    ranks = [{"tp_rank": "0", "pp_rank": "0"}, {"tp_rank": "0", "pp_rank": "1"}]

    assert read(sglang({"num_running_reqs": 3.0}, ranks=ranks)).gauges["running"] == 3.0


def test_with_priorities_the_total_is_counted_and_not_its_parts() -> None:
    ranks = [{"tp_rank": "0", "priority": priority} for priority in ("", "1", "5")]

    got = read(sglang({"num_running_reqs": 3.0, "num_queue_reqs": 2.0}, ranks=ranks))

    assert got.gauges["running"] == 3.0
    assert got.gauges["waiting"] == 2.0


def test_counters_of_the_tokenizer_have_no_ranks_and_are_read() -> None:
    text = sglang(without=["num_requests_total"]).decode()
    text += line("sglang:num_requests_total", 8.0, model_name="tiny")

    assert read(text.encode()).counters["requests_finished"] == 8.0


def test_requests_are_counted_when_they_end_and_so_do_not_say_who_came() -> None:
    got = read(sglang({"num_requests_total": 8.0}))

    assert got.counters["requests_finished"] == 8.0
    assert "requests_received" not in got.counters


def test_tokens_are_read_where_they_are_counted_as_they_are_made() -> None:
    page = sglang(
        {
            "realtime_tokens_total/prefill_compute": 60.0,
            "realtime_tokens_total/prefill_cache": 40.0,
            "realtime_tokens_total/decode": 500.0,
            "prompt_tokens_total": 90.0,
            "cached_tokens_total": 35.0,
            "generation_tokens_total": 300.0,
        }
    )

    prompt, decoder = read(page), read(page, Role.DECODER)

    assert prompt.counters["prompt_tokens"] == 60.0
    assert prompt.counters["prompt_tokens_cached"] == 40.0
    assert decoder.counters["generation_tokens"] == 500.0
    assert prompt.lumpy == decoder.lumpy == frozenset()
    assert "generation_tokens" not in prompt.counters
    assert "prompt_tokens" not in decoder.counters


def test_older_versions_count_tokens_at_the_end_and_are_said_to_be_lumpy() -> None:
    page = sglang(
        {
            "prompt_tokens_total": 90.0,
            "cached_tokens_total": 35.0,
            "generation_tokens_total": 300.0,
        },
        without=["realtime_tokens_total"],
    )

    prompt, decoder = read(page), read(page, Role.DECODER)

    # Whole prompts less what the cache had.
    assert prompt.counters["prompt_tokens"] == 55.0
    assert prompt.counters["prompt_tokens_cached"] == 35.0
    assert prompt.lumpy == {"prompt_tokens", "prompt_tokens_cached"}
    assert decoder.counters["generation_tokens"] == 300.0
    assert decoder.lumpy == {"generation_tokens"}


def test_a_cache_that_had_nothing_yet_has_no_counter_and_takes_nothing_away() -> None:
    page = sglang(
        {"prompt_tokens_total": 90.0}, without=["realtime_tokens_total", "cached_tokens_total"]
    )

    got = read(page)

    assert got.counters["prompt_tokens"] == 90.0
    assert "prompt_tokens_cached" not in got.counters


def test_cached_tokens_of_all_sources_add_up() -> None:
    text = sglang(without=["realtime_tokens_total", "cached_tokens_total"]).decode()
    for source in ("device", "host"):
        text += line("sglang:cached_tokens_total", 5.0, cache_source=source)

    assert read(text.encode()).counters["prompt_tokens_cached"] == 10.0


@pytest.mark.parametrize(
    ("role", "canonical", "tokens", "histogram"),
    [
        (Role.PROMPT, "input_len", "prompt_tokens_total", "prompt_tokens_histogram"),
        (Role.DECODER, "output_len", "generation_tokens_total", "generation_tokens_histogram"),
    ],
)
def test_a_length_is_tokens_over_requests_where_there_is_no_histogram(
    role: Role, canonical: str, tokens: str, histogram: str
) -> None:
    values: dict[str, Given] = {tokens: 800.0, "num_requests_total": 4.0, histogram: [500.0]}

    with_histogram = read(sglang(values), role)
    del values[histogram]
    got = read(sglang(values, without=[histogram]), role)

    assert with_histogram.counters[f"{canonical}_sum"] == 500.0
    assert canonical in with_histogram.histograms
    assert got.counters[f"{canonical}_sum"] == 800.0
    assert got.counters[f"{canonical}_count"] == 4.0
    assert canonical not in got.histograms
    assert not any(text.startswith(canonical) for text in SGLANG.missing(got, role))


def test_half_a_length_is_unknown() -> None:
    got = read(sglang(without=["prompt_tokens_histogram", "num_requests_total"]))

    assert not {"input_len_sum", "input_len_count"} & got.counters.keys()


def test_failures_of_hand_over_and_of_handshake_add_up() -> None:
    page = sglang({"num_transfer_failed_reqs_total": 2.0, "num_bootstrap_failed_reqs_total": 3.0})

    assert {read(page, role).counters["transfer_failures"] for role in Role} == {5.0}


def test_a_failure_counter_that_has_not_appeared_yet_does_not_hide_the_other() -> None:
    one = sglang(
        {"num_transfer_failed_reqs_total": 2.0}, without=["num_bootstrap_failed_reqs_total"]
    )
    none = sglang(without=["num_transfer_failed_reqs_total", "num_bootstrap_failed_reqs_total"])

    assert read(one).counters["transfer_failures"] == 2.0
    assert "transfer_failures" not in read(none).counters


def test_retractions_are_the_preemptions() -> None:
    page = sglang({"num_retracted_requests_total": 2.0})

    assert read(page, Role.DECODER).counters["preemptions"] == 2.0


def test_first_tokens_are_read_from_prompt_nodes_and_times_between_tokens_from_decoders() -> None:
    page = sglang({"time_to_first_token_seconds": [0.2], "inter_token_latency_seconds": [0.02]})

    assert read(page).histograms.keys() == {"ttft_s", "queue_time_s", "input_len"}
    assert read(page, Role.DECODER).histograms.keys() == {"tpot_s", "output_len", "duration_s"}


@pytest.mark.parametrize(
    "dead", ["utilization", "pending_prealloc_token_usage", "engine_startup_time"]
)
def test_dead_gauges_are_not_read(dead: str) -> None:
    for role in Role:
        assert f"sglang:{dead}" not in SGLANG.wanted_by(role)
        assert read(sglang({dead: 0.9}), role) == read(sglang(), role)


LATE = ["num_transfer_failed_reqs_total", "num_bootstrap_failed_reqs_total"]
LATE += ["num_retracted_requests_total", "realtime_tokens_total", "cached_tokens_total"]


def test_a_counter_that_appears_with_its_first_event_is_said_to_be_of_no_series_until_then() -> (
    None
):
    # Each rank brings its own with its own first event: their number says nothing of the engines.
    ranks = RANKS_OF_TWO_DP

    assert read(sglang(without=LATE)).parts == {
        "preemptions": 0,
        "transfer_failures": 0,
        "prompt_tokens_cached": 0,
    }
    assert (
        read(sglang(without=LATE[3:], ranks=ranks)).parts.keys()
        & {
            "preemptions",
            "transfer_failures",
        }
        == set()
    )


def test_a_counter_that_is_no_number_is_not_one_that_has_not_appeared() -> None:
    got = read(sglang({"num_retracted_requests_total": math.nan}))

    assert "preemptions" not in got.counters
    assert "preemptions" not in got.parts


def test_of_data_parallel_ranks_the_number_is_told() -> None:
    got = read(sglang(ranks=RANKS_OF_TWO_DP))

    assert got.parts["prompt_tokens"] == got.parts["queue_time_s"] == 2
    assert got.parts["queue_time_s_count"] == got.parts["queue_time_s_sum"] == 2
    copies = [{"tp_rank": str(rank)} for rank in range(4)]
    assert "prompt_tokens" not in read(sglang(ranks=copies)).parts


def test_a_length_of_two_counters_tells_when_one_of_them_lacks_a_rank() -> None:
    without = ["prompt_tokens_histogram", "prompt_tokens_total"]
    text = sglang(without=without).decode()
    for rank in "01":
        text += line("sglang:prompt_tokens_total", 5.0, dp_rank=rank)

    less = text.replace(line("sglang:prompt_tokens_total", 5.0, dp_rank="1"), "")
    assert read(text.encode()).parts["input_len_sum"] > read(less.encode()).parts["input_len_sum"]
