"""The step-time model: tables, limits, and what the demo profile is sized for."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.engine_model.profile import DEMO, profile_of
from pd_autoscaler.errors import ConfigError


@pytest.mark.parametrize(("tokens", "seconds"), DEMO.prefill_points)
def test_the_table_says_what_its_points_say(tokens: float, seconds: float) -> None:
    assert DEMO.prefill_s(int(tokens)) == pytest.approx(seconds)


def test_between_two_points_time_is_on_the_line_between_them() -> None:
    assert DEMO.prefill_s(1536) == pytest.approx((0.21 + 0.41) / 2)


def test_past_the_table_the_last_slope_goes_on() -> None:
    slope = (4.4 - 2.0) / 8192
    assert DEMO.prefill_s(24576) == pytest.approx(4.4 + 8192 * slope)


@given(st.integers(min_value=1, max_value=60_000), st.integers(min_value=0, max_value=5_000))
def test_more_tokens_never_take_less_time(tokens: int, more: int) -> None:
    assert DEMO.prefill_s(tokens + more) >= DEMO.prefill_s(tokens) >= 0


def test_a_full_prompt_batch_runs_at_about_five_thousand_tokens_a_second() -> None:
    assert 4800 < 2048 / DEMO.prefill_s(2048) < 5200


def test_the_demo_decoder_meets_its_token_time_at_four_fifths_of_its_kv() -> None:
    requests, tokens_in, tokens_out = 32, 1000, 210
    reserved = DEMO.blocks(tokens_in + tokens_out) * requests / DEMO.kv_blocks
    step_s = DEMO.decode_step_s(requests, requests * (tokens_in + tokens_out // 2))
    assert reserved == pytest.approx(0.80, abs=0.02)
    assert step_s == pytest.approx(0.048, abs=0.001)


def test_the_demo_trace_fits_eight_nodes() -> None:
    prompt_per_s = 2048 / DEMO.prefill_s(2048)
    decode_per_s = 32 / DEMO.decode_step_s(32, 32 * 1105)
    # Busiest and calmest five minutes of the trace: requests/s, mean input, mean output.
    for rate, tokens_in, tokens_out in ((7.46, 1427, 143), (4.82, 1057, 254), (6.28, 1321, 193)):
        nodes = rate * tokens_in / prompt_per_s + rate * tokens_out / decode_per_s
        assert 2 < nodes < 6


def test_tokens_take_whole_blocks() -> None:
    assert [DEMO.blocks(n) for n in (1, 16, 17)] == [1, 1, 2]


def test_a_profile_survives_json() -> None:
    again = profile_of(json.loads(json.dumps(asdict(DEMO))))
    assert again == DEMO


def test_some_values_can_be_replaced() -> None:
    assert profile_of({"start_s": 0.5}).start_s == 0.5


@pytest.mark.parametrize(
    "values",
    [
        {"kv_token": 1},
        {"batch_max": 0},
        {"decode_base_s": -1},
        {"kv_tokens": 3},
        {"prefill_points": [[1, 1]]},
        {"prefill_points": [[1, 1], [1, 2]]},
        {"prefill_points": [[1, 2], [3, 1]]},
        {"prefill_points": "abc"},
        {"batch_max": "many"},
    ],
)
def test_a_senseless_profile_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        profile_of(values)
