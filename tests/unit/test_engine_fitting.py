"""Profiles fitted to benchmarks, and to what a controller saw."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_autoscaler.engine_model.benchmarks import Kind, read_benchmarks
from pd_autoscaler.engine_model.fitting import KNOTS_MAX, fitted
from pd_autoscaler.engine_model.known import engine_profile, profile_text
from pd_autoscaler.engine_model.measured import Batch, Fitted, Measured, Step
from pd_autoscaler.engine_model.observed import observed
from pd_autoscaler.engine_model.profile import DEMO, EngineProfile
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.capacity import NodeCapacity
from pd_autoscaler.model.node import Role
from tests.support.at_work import H100, LEARNT, LOADS, snapshot
from tests.support.real_data import real_data

SPLITWISE = "model,hardware,prompt_size,batch_size,token_size,prompt_time,token_time\n"


def measured(
    profile: EngineProfile, prompts: list[list[int]], batches: list[tuple[int, int]]
) -> Measured:
    """Return what would be measured of a profile's engine."""
    prefills = []
    for batch in prompts:
        tokens, squares = sum(batch), sum(n * n for n in batch)
        prefills.append(Batch(tokens, squares, profile.prefill_s(tokens, squares)))
    steps = [Step(b, k, profile.decode_step_s(b, k)) for b, k in batches]
    return Measured(tuple(prefills), tuple(steps), len(prefills), len(steps))


def error_of(made: Fitted, part: str) -> tuple[float, float]:
    quality = next(quality for quality in made.qualities if quality.part == part)
    return quality.median_error, quality.p90_error


def test_an_engine_in_a_profiles_shape_is_found_again() -> None:
    prompts = [[2**n] for n in range(7, 15)] + [[512] * 2**n for n in range(1, 6)]
    batches = [(b, b * k) for b in (1, 8, 64) for k in (300, 2000)]

    made = fitted(measured(H100, prompts, batches), DEMO, name="found")

    assert made.profile.prefill_attention_s == pytest.approx(H100.prefill_attention_s, rel=1e-3)
    assert made.profile.decode_per_token_s == pytest.approx(H100.decode_per_token_s, rel=1e-6)
    assert error_of(made, "prefill")[1] < 1e-3
    assert error_of(made, "decode")[1] < 1e-6
    assert made.profile.kv_tokens == DEMO.kv_tokens
    assert made.taken["kv_tokens"] == "not measured: demo's"
    assert not set(made.taken) & {"prefill_points", "prefill_attention_s", "decode_base_s"}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 0.2))
def test_noise_moves_a_fit_less_than_it_moves_a_measurement(seed: int, noise: float) -> None:
    generator = np.random.default_rng(seed)
    prompts = [[int(n)] for n in generator.integers(50, 9000, 80)]
    batches = [
        (int(b), int(b * generator.integers(200, 3000))) for b in generator.integers(1, 64, 80)
    ]
    true = measured(H100, prompts, batches)

    def shaken(seconds: float) -> float:
        return seconds * math.exp(noise * generator.standard_normal())

    made = fitted(
        replace(
            true,
            batches=tuple(b._replace(seconds=shaken(b.seconds)) for b in true.batches),
            steps=tuple(s._replace(seconds=shaken(s.seconds)) for s in true.steps),
        ),
        DEMO,
        name="shaken",
    )

    profile = made.profile
    assert len(profile.prefill_points) <= KNOTS_MAX
    errors = [abs(profile.decode_step_s(b, k) / H100.decode_step_s(b, k) - 1) for b, k in batches]
    assert np.median(errors) <= 0.6 * noise + 1e-6
    assert min(profile.decode_base_s, profile.decode_per_request_s, profile.decode_per_token_s) >= 0


def test_a_table_never_falls_whatever_was_measured() -> None:
    falling = tuple(Batch(n, n * n, 1 / n) for n in (100.0, 200.0, 400.0))

    made = fitted(Measured(falling, (), 3, 0), DEMO, name="odd")

    seconds = [s for _, s in made.profile.prefill_points]
    assert seconds == sorted(seconds)
    assert made.profile.decode_base_s == DEMO.decode_base_s
    assert [quality.part for quality in made.qualities] == ["prefill"]


def test_what_too_few_measurements_tell_scales_the_base() -> None:
    one = Measured(
        (Batch(2048, 2048**2, 2 * DEMO.prefill_s(2048)),),
        (Step(8, 8000, 3 * DEMO.decode_step_s(8, 8000)),),
        1,
        1,
    )

    made = fitted(one, DEMO, name="scaled")

    assert made.profile.prefill_s(100) == pytest.approx(2 * DEMO.prefill_s(100))
    assert made.profile.decode_step_s(1, 100) == pytest.approx(3 * DEMO.decode_step_s(1, 100))
    assert made.taken["prefill_points"] == "one batch size was measured: demo's, times 2"
    assert made.taken["decode_base_s"].endswith("demo's, times 3")


def test_a_plain_benchmark_may_leave_times_out(tmp_path: Path) -> None:
    path = tmp_path / "bench.csv"
    path.write_text(
        "prompt_tokens,requests,output_tokens,prefill_s,step_s,context_tokens\n"
        "1000,2,100,0.2,0.03,\n"
        "1000,2,100,0.4,,\n"
        "1000,2,100,0.3,,\n"
        ",4,,,0.05,9000\n"
    )

    assert read_benchmarks(path) == Measured(
        (Batch(2000, 2e6, 0.3),), (Step(2, 2100, 0.03), Step(4, 9000, 0.05)), 3, 2
    )


def test_splitwises_times_are_milliseconds(tmp_path: Path) -> None:
    path = tmp_path / "perf.csv"
    path.write_text(SPLITWISE + "m,h,512,2,128,80,30\nother,h,512,2,128,1,1\n")

    assert read_benchmarks(path, Kind("M", "h")) == Measured(
        (Batch(1024, 524288, 0.08),), (Step(2, 1152, 0.03),), 1, 1
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n", "is no known benchmark"),
        ("", "is no known benchmark"),
        (SPLITWISE, "has no row"),
        (SPLITWISE + "m,h,512,1,128,0,30\n", ":2: prompt_time '0' is no number above 0"),
        (SPLITWISE + "m,h,512,many,128,9,30\n", ":2: batch_size 'many'"),
        (SPLITWISE + "m,h,,1,128,9,30\n", ":2: has a prefill time and no prompt_tokens"),
        (SPLITWISE + "m,h,,1,128,,30\n", ":2: has a step time and no prompt_tokens"),
        (SPLITWISE + "m,h,5,1,1,,\n", "holds no time"),
        (SPLITWISE + "m,h,5,1,1,1,1\nm,g,5,1,1,1,1\n", "m g, m h; choose one"),
    ],
)
def test_what_is_no_benchmark_is_refused_by_file_and_line(
    tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "bench.csv"
    path.write_text(text)

    with pytest.raises(ConfigError) as refusal:
        read_benchmarks(path)

    assert str(refusal.value).startswith(str(path))
    assert says in str(refusal.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_benchmarks(tmp_path)


@pytest.mark.parametrize(
    ("model", "hardware", "prefill", "decode"),
    [
        ("llama2-70b", "h100-80gb", (0.01, 0.06), (0.02, 0.05)),
        # Its batches of short prompts take up to a third longer than single prompts as long.
        ("llama2-70b", "a100-80gb", (0.04, 0.13), (0.02, 0.05)),
        ("bloom-176b", "h100-80gb", (0.01, 0.01), (0.02, 0.05)),
    ],
)
def test_measured_engines_are_fitted_within_the_published_error(
    model: str, hardware: str, prefill: tuple[float, float], decode: tuple[float, float]
) -> None:
    path = real_data("profiles/splitwise_perf_model.csv")

    made = fitted(read_benchmarks(path, Kind(model, hardware, "8")), DEMO, name=model)

    for part, (median_most, p90_most) in (("prefill", prefill), ("decode", decode)):
        seen_median, seen_p90 = error_of(made, part)
        assert seen_median < median_most
        assert seen_p90 < p90_most


def test_a_fitted_profile_is_read_back_from_its_file(tmp_path: Path) -> None:
    made = fitted(measured(H100, [[100], [900]], [(1, 10), (2, 50)]), DEMO, name="ours")
    (tmp_path / "ours.yaml").write_text(profile_text(made.profile))

    assert engine_profile(tmp_path / "ours.yaml") == made.profile


def test_a_journal_gives_what_its_controller_learnt() -> None:
    seen = [
        snapshot(1000.0 + n, running=running, used=used, capacity=LEARNT)
        for n, (running, used) in enumerate(LOADS)
    ]

    made = observed(seen, DEMO, name="ours")

    assert made.profile.decode_base_s == 0.03
    assert made.profile.kv_tokens == 1_300_000
    assert (made.profile.start_s, made.profile.flip_s) == (33.0, 2.0)
    assert 2048 / made.profile.prefill_s(2048, 2048 * 2000) == pytest.approx(10_000)
    assert {"decode_base_s", "kv_tokens", "start_s", "flip_s"} & set(made.taken) == set()
    assert "demo's, times" in made.taken["prefill_points"]
    # What the pages showed is what the profile is compared with: 9,000 tokens/s, and H100's steps.
    assert error_of(made, "prefill")[0] == pytest.approx(0.1, abs=0.001)
    assert error_of(made, "decode")[1] < 0.03


def test_steps_that_nobody_learnt_are_fitted_to_the_pages() -> None:
    class_alone = (NodeCapacity(role=Role.DECODER, node_class="vllm/1.3M", samples=1),)
    seen = [snapshot(1000, running=b, used=u, capacity=class_alone) for b, u in LOADS]

    made = observed(seen, DEMO, name="ours")

    assert made.profile.decode_per_request_s == pytest.approx(H100.decode_per_request_s, rel=0.01)
    assert 2048 / made.profile.prefill_s(2048, 2048 * 2000) == pytest.approx(9000)


def test_nodes_that_do_not_serve_long_or_freshly_are_not_believed() -> None:
    young = snapshot(60, running=4, used=0.1)

    with pytest.raises(ConfigError, match="no node was ever seen at work"):
        observed([young], DEMO, name="ours")
    with pytest.raises(ConfigError, match="no node was ever seen at work"):
        observed([], DEMO, name="ours")
