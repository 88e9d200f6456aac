"""vLLM's profile: what each of its names means on a node of each role, and which mean nothing."""

import math

import pytest

from pd_autoscaler.adapters.metrics.profiles import ProfileBook, shipped_profiles
from pd_autoscaler.adapters.metrics.profiles.vllm import VLLM
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import Reading
from tests.support.engine_pages import vllm
from tests.support.pages import histogram_lines, line, real_page, rows, vllm_page

INF = math.inf
BY_REASON = "num_requests_waiting_by_reason"
FETCH = "num_requests_kv_fetch_by_stage"
SOURCE = "prompt_tokens_by_source_total"


def read(page: bytes, role: Role = Role.PROMPT) -> Reading:
    return VLLM.reading(page, node_id="n", role=role, at_s=7.0)


def test_waiting_counts_those_that_lack_room_and_not_those_that_lack_kv() -> None:
    page = vllm(
        {"num_requests_waiting": 7.0, f"{BY_REASON}/capacity": 2.0, f"{BY_REASON}/deferred": 5.0},
        engines=("0", "1"),
        without=[FETCH],
    )

    for role in Role:
        got = read(page, role)
        assert got.gauges["waiting"] == 4.0
        assert got.gauges["waiting_deferred"] == 10.0


def test_without_reasons_all_that_wait_are_the_queue_and_none_is_known_to_be_deferred() -> None:
    page = vllm({"num_requests_waiting": 3.0}, without=[BY_REASON, FETCH])

    for role in Role:
        got = read(page, role)
        assert got.gauges["waiting"] == 3.0
        assert "waiting_deferred" not in got.gauges


def test_a_decoders_requests_whose_kv_has_come_wait_for_room_and_not_for_the_link() -> None:
    # As while a full batch keeps out requests whose KV is there: all seven are "deferred".
    page = vllm(
        {
            "num_requests_waiting": 7.0,
            f"{BY_REASON}/deferred": 7.0,
            f"{FETCH}/waiting_to_start": 1.0,
            f"{FETCH}/in_progress": 2.0,
            f"{FETCH}/completed_waiting": 4.0,
        }
    )

    got = read(page, Role.DECODER)

    assert got.gauges["waiting"] == 4.0
    assert got.gauges["waiting_deferred"] == 3.0


@pytest.mark.parametrize("prefix", ["vllm:", "vllm_"])
def test_both_prefixes_are_read(prefix: str) -> None:
    got = read(vllm({"num_requests_running": 3.0}, prefix=prefix))

    assert got.gauges["running"] == 3.0
    assert got.histograms.keys() == {"ttft_s", "queue_time_s", "input_len"}


def test_a_page_with_both_prefixes_is_not_counted_twice() -> None:
    text = line("vllm:num_requests_running", 3.0) + line("vllm_num_requests_running", 3.0)

    assert read(text.encode()).gauges["running"] == 3.0


def test_older_names_are_read_where_the_newer_are_not_there() -> None:
    page = vllm(
        {"kv_cache_usage_perc": 0.5, "inter_token_latency_seconds": [0.02, 0.3]},
        renamed={
            "kv_cache_usage_perc": "gpu_cache_usage_perc",
            "inter_token_latency_seconds": "time_per_output_token_seconds",
        },
    )

    got = read(page, Role.DECODER)

    assert got.gauges["kv_used"] == 0.5
    assert got.counters["tpot_s_count"] == 2.0
    assert rows(got.histograms["tpot_s"])[-1] == (INF, 2.0)


def test_the_old_name_of_the_cache_gauge_does_not_hide_the_new_one() -> None:
    page = vllm({"kv_cache_usage_perc": 0.5}) + line("vllm:gpu_cache_usage_perc", 0.0).encode()

    assert read(page).gauges["kv_used"] == 0.5


def test_data_parallel_engines_add_up_in_counts_and_are_averaged_in_ratios() -> None:
    text = "".join(
        line("vllm:num_requests_running", running, engine=engine)
        + line("vllm:kv_cache_usage_perc", used, engine=engine)
        + line("vllm:request_success_total", 5.0, engine=engine, finished_reason="stop")
        + line("vllm:request_success_total", 2.0, engine=engine, finished_reason="abort")
        for engine, running, used in (("0", 3.0, 0.2), ("1", 4.0, 0.6))
    )

    got = read(text.encode())

    assert (got.node_id, got.at_s, got.engine) == ("n", 7.0, "vllm")
    assert got.gauges["running"] == 7.0
    assert got.gauges["kv_used"] == pytest.approx(0.4)
    assert got.counters["requests_finished"] == 14.0


def test_histograms_of_data_parallel_engines_add_up() -> None:
    text = histogram_lines("vllm:time_to_first_token_seconds", {0.5: 1, INF: 4}, 9, engine="0")
    text += histogram_lines("vllm:time_to_first_token_seconds", {0.5: 2, INF: 2}, 1, engine="1")

    got = read(text.encode())

    assert rows(got.histograms["ttft_s"]) == ((0.5, 3.0), (INF, 6.0))
    assert (got.counters["ttft_s_sum"], got.counters["ttft_s_count"]) == (10.0, 6.0)


def test_the_first_token_of_a_decoder_is_not_what_users_wait_for() -> None:
    page = vllm({"time_to_first_token_seconds": [0.01], "request_queue_time_seconds": [0.01]})

    got = read(page, Role.DECODER)

    assert got.histograms.keys() == {"tpot_s", "output_len", "duration_s"}
    assert "ttft_s_count" not in got.counters


def test_time_between_tokens_is_not_read_from_a_prompt_node() -> None:
    page = vllm(
        {
            "inter_token_latency_seconds": [0.5],
            "request_time_per_output_token_seconds": [0.0, 0.0],
            "generation_tokens_total": 41.0,
        }
    )

    got = read(page)

    assert "tpot_s" not in got.histograms
    assert "tpot_s_count" not in got.counters
    assert "generation_tokens" not in got.counters


def test_the_mean_over_a_request_is_no_substitute_for_time_between_tokens() -> None:
    page = vllm(
        {"request_time_per_output_token_seconds": [0.02]}, without=["inter_token_latency_seconds"]
    )

    assert "tpot_s" not in read(page, Role.DECODER).histograms


def test_the_prompts_that_a_decoder_counts_again_are_not_read() -> None:
    page = vllm(
        {
            "prompt_tokens_total": 100.0,
            f"{SOURCE}/local_compute": 30.0,
            f"{SOURCE}/external_kv_transfer": 70.0,
            "request_prompt_tokens": [100.0],
        }
    )

    got = read(page, Role.DECODER)

    assert not {"prompt_tokens", "prompt_tokens_cached", "input_len_sum"} & got.counters.keys()
    assert not any("prompt_tokens" in name for name in VLLM.wanted_by(Role.DECODER))


def test_only_the_tokens_that_a_prompt_node_computed_are_its_work() -> None:
    page = vllm(
        {
            "prompt_tokens_total": 100.0,
            f"{SOURCE}/local_compute": 50.0,
            f"{SOURCE}/local_cache_hit": 40.0,
            f"{SOURCE}/external_kv_transfer": 10.0,
        }
    )

    got = read(page)

    assert got.counters["prompt_tokens"] == 50.0
    assert got.counters["prompt_tokens_cached"] == 50.0


def test_without_sources_all_prompt_tokens_are_work_and_the_cached_are_unknown() -> None:
    got = read(vllm({"prompt_tokens_total": 100.0}, without=[SOURCE]))

    assert got.counters["prompt_tokens"] == 100.0
    assert "prompt_tokens_cached" not in got.counters


def test_kv_that_no_decoder_pulled_is_counted_on_the_prompt_node_alone() -> None:
    page = vllm({"nixl_num_kv_expired_reqs_total": 3.0, "nixl_num_failed_transfers_total": 2.0})

    assert read(page).counters["kv_expired"] == 3.0
    assert "kv_expired" not in read(page, Role.DECODER).counters
    assert {read(page, role).counters["transfer_failures"] for role in Role} == {2.0}


def test_a_prompt_nodes_backlog_of_unpulled_kv_is_nothing_vllm_says() -> None:
    assert "kv_export_backlog" not in read(vllm()).gauges


def test_no_counter_of_vllm_waits_for_the_end_of_requests() -> None:
    assert read(vllm(), Role.DECODER).lumpy == frozenset()


@pytest.mark.parametrize(
    ("info", "tokens"),
    [
        ({"block_size": "16", "num_gpu_blocks": "100"}, 3200.0),
        ({"block_size": "16", "num_gpu_blocks": "100", "kv_cache_size_tokens": "900"}, 1800.0),
        ({"block_size": "16", "num_gpu_blocks": "100", "kv_cache_size_tokens": "None"}, 3200.0),
        ({"block_size": "16", "num_gpu_blocks": "None"}, None),
        ({"block_size": "16"}, None),
    ],
)
def test_the_cache_size_stands_in_labels_and_adds_up_over_engines(
    info: dict[str, str], tokens: float | None
) -> None:
    page = vllm({"cache_config_info": info}, engines=("0", "1"))

    assert read(page).gauges.get("cache_tokens") == tokens


def test_vllm_ascend_is_read_as_vllm() -> None:
    assert ProfileBook(shipped_profiles()).named("vllm-ascend") is VLLM


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
    assert got.counters["prompt_tokens_cached"] == 0.0
    assert got.counters["requests_finished"] == 41.0
    assert got.counters["ttft_s_count"] == 41.0
    assert rows(got.histograms["ttft_s"])[-1] == (INF, 41.0)
    assert (0.1, 24.0) in rows(got.histograms["ttft_s"])
    assert "tpot_s" not in got.histograms


def test_a_real_decoder_page_says_what_the_node_did() -> None:
    got = read(real_page("vllm-0.32-decoder-loaded.txt"), Role.DECODER)

    assert got.gauges["running"] == 10.0
    assert got.gauges["waiting"] == 0.0
    assert got.gauges["waiting_deferred"] == 0.0
    assert got.gauges["kv_used"] == pytest.approx(0.0061, abs=1e-4)
    assert got.counters["generation_tokens"] == 3800.0
    assert got.counters["requests_finished"] == 31.0
    assert got.counters["duration_s_count"] == 31.0
    assert rows(got.histograms["tpot_s"])[-1][0] == INF
    assert "prompt_tokens" not in got.counters
    assert "ttft_s" not in got.histograms


@pytest.mark.parametrize("state", ["idle", "loaded", "after"])
@pytest.mark.parametrize("role", list(Role))
def test_a_real_page_lacks_nothing_but_what_needs_nixl(role: Role, state: str) -> None:
    page = real_page(f"vllm-0.32-{role}-{state}.txt")

    missing = VLLM.missing(read(page, role), role)

    assert all(text.endswith("(only with the NIXL connector)") for text in missing)
    assert len(missing) == (2 if role is Role.PROMPT else 1)


def test_it_is_told_of_how_many_engines_counters_and_histograms_are_the_sum() -> None:
    text = ""
    for engine in "01234567":
        text += vllm_page(engines=[engine]).decode()
        ttft = "vllm:time_to_first_token_seconds"
        text += histogram_lines(ttft, {0.5: 1.0, INF: 2.0}, engine=engine)

    got = read(text.encode())

    assert got.counters.keys() | got.histograms.keys() == got.parts.keys()
    assert set(got.parts.values()) == {8}
    assert read(vllm_page()).parts == {}


def test_kv_from_a_store_that_only_some_engines_use_does_not_change_the_number_of_engines() -> None:
    text = ""
    for engine in "01":
        labels = {"engine": engine, "source": "local_cache_hit"}
        text += line("vllm:prompt_tokens_by_source_total", 5.0, **labels)
    store = line(
        "vllm:prompt_tokens_by_source_total", 5.0, engine="1", source="external_kv_transfer"
    )

    assert read(text.encode()).parts == read((text + store).encode()).parts
    assert read(text.encode()).parts == {"prompt_tokens_cached": 2}
