"""Known profiles against the measurements they come from, and profiles in files."""

import csv
import json
from collections import defaultdict
from dataclasses import asdict, fields
from pathlib import Path
from statistics import median, quantiles

import pytest

from pd_autoscaler.engine_model.known import KNOWN, engine_profile, known_profile, profile_text
from pd_autoscaler.engine_model.profile import DEMO, EngineProfile
from pd_autoscaler.errors import ConfigError
from tests.support.real_data import real_data

HARDWARE = {"llama-2-70b-h100": "h100-80gb", "llama-2-70b-a100": "a100-80gb"}


def measured(hardware: str, column: str) -> dict[tuple[int, int, int], float]:
    """Return medians in seconds by (prompt, batch, output), of Llama-2-70B on eight GPUs."""
    cells = defaultdict[tuple[int, int, int], list[float]](list)
    with real_data("profiles/splitwise_perf_model.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            of = (row["model"], row["hardware"], row["tensor_parallel"])
            if of == ("llama2-70b", hardware, "8"):
                key = (int(row["prompt_size"]), int(row["batch_size"]), int(row["token_size"]))
                cells[key].append(float(row[column]) / 1000)
    return {key: median(values) for key, values in cells.items()}


@pytest.mark.parametrize("name", HARDWARE)
def test_single_prompts_take_what_was_measured(name: str) -> None:
    profile, seen = KNOWN[name].profile, measured(HARDWARE[name], "prompt_time")
    single = {prompt: s for (prompt, batch, out), s in seen.items() if (batch, out) == (1, 128)}

    assert {512, 1024, 2048, 4096, 8192} < set(single)
    for prompt, seconds in single.items():
        # Below 512 tokens the measurement itself falls and rises by 8 %.
        within = 0.09 if prompt < 512 else 0.02
        assert profile.prefill_s(prompt, prompt**2) == pytest.approx(seconds, rel=within)


def test_batches_of_prompts_take_what_was_measured_on_h100() -> None:
    profile, seen = KNOWN["llama-2-70b-h100"].profile, measured("h100-80gb", "prompt_time")
    batches = {batch: s for (prompt, batch, _), s in seen.items() if prompt == 512 and batch > 1}

    assert set(batches) == {2, 4, 8, 16, 32, 64}
    for batch, seconds in batches.items():
        assert profile.prefill_s(512 * batch, batch * 512**2) == pytest.approx(seconds, rel=0.05)


@pytest.mark.parametrize("name", HARDWARE)
def test_decode_steps_are_within_the_published_error(name: str) -> None:
    profile, seen = KNOWN[name].profile, measured(HARDWARE[name], "token_time")
    errors = [
        abs(profile.decode_step_s(batch, round(batch * (prompt + out / 2))) / seconds - 1)
        for (prompt, batch, out), seconds in seen.items()
    ]

    assert len(errors) >= 19
    assert median(errors) < 0.02
    assert quantiles(errors, n=10)[-1] < 0.05


@pytest.mark.parametrize(
    ("name", "model", "parallel"),
    [("opt-13b-a100", "facebook/opt-13b", "1"), ("opt-66b-a100", "facebook/opt-66b", "4")],
)
def test_opt_profiles_are_the_published_coefficients(name: str, model: str, parallel: str) -> None:
    path = real_data("profiles/distserve_profiler_a100.json")
    of = json.loads(path.read_text())[model][parallel]
    profile = KNOWN[name].profile

    a, b, c = of["prefill"]
    for prompts in ([1], [700, 300], [2048], [1500] * 3):
        squares = sum(n * n for n in prompts)
        seconds = (a + b * sum(prompts) + c * squares) / 1000
        assert profile.prefill_s(sum(prompts), squares) == pytest.approx(seconds)
    a, b, c = of["decoding_smallbs"]
    for requests, context in ((1, 10), (94, 60_000)):
        step_s = (a + b * context + c * requests) / 1000
        assert profile.decode_step_s(requests, context) == pytest.approx(step_s)
    assert profile.batch_max < of["decoding_large_small_bs_threshold"]


def test_a_server_of_910c_meets_all_three_published_rates() -> None:
    profile = KNOWN["deepseek-r1-910c"].profile

    for rate, step_s in ((1943, 0.050), (538, 0.015)):
        requests = 8 * rate * step_s  # Little's law.
        seconds = (
            profile.decode_base_s
            + profile.decode_per_request_s * requests
            + profile.decode_per_token_s * requests * 4096
        )
        assert seconds == pytest.approx(step_s)
    assert 16384 / profile.prefill_s(16384, 4 * 4096**2) == pytest.approx(8 * 6688)
    assert profile.batch_max * (4096 + 256) < profile.kv_tokens


@pytest.mark.parametrize("name", KNOWN)
def test_every_number_of_a_known_profile_has_a_source(name: str) -> None:
    published = KNOWN[name]

    assert published.profile.name == name
    assert set(published.sources) == {f.name for f in fields(EngineProfile)} - {"name"}
    assert all(published.sources.values())
    assert published.about


@pytest.mark.parametrize("name", KNOWN)
def test_a_profile_is_read_back_from_its_text(name: str, tmp_path: Path) -> None:
    profile = KNOWN[name].profile
    (tmp_path / "p.yaml").write_text(profile_text(profile))
    (tmp_path / "p.json").write_text(json.dumps(asdict(profile)))

    assert engine_profile(name) == known_profile(name) == profile
    assert engine_profile(tmp_path / "p.yaml") == profile
    assert engine_profile(str(tmp_path / "p.json")) == profile


def test_a_file_may_name_a_base_and_leave_the_rest_to_it(tmp_path: Path) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text("base: demo\nkv_tokens: 65536\nprefill_attention_s: 5e-10\n")

    profile = engine_profile(path)

    assert profile == EngineProfile(
        **{**asdict(DEMO), "name": "ours", "kv_tokens": 65536, "prefill_attention_s": 5e-10}
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kv_tokens: 3", "lacks batch_max"),
        ("base: demo\nkv_token: 3", "has no kv_token"),
        ("base: nothing", "give one of demo, llama"),
        ("base: demo\nkv_tokens: many", "kv_tokens"),
        ("base: demo\nbatch_max: true", "batch_max True is no number"),
        ("base: demo\nbatch_max: .nan", "batch_max nan is no number"),
        ("base: demo\nbatch_max: 2.5", "batch_max 2.5 is no whole number"),
        ("base: demo\nprefill_points: 3", "prefill_points"),
        ("base: demo\nprefill_points: [[1, x], [2, 3]]", "prefill_points"),
        ("- a", "holds no engine profile"),
        ("a: [", "neither YAML nor JSON"),
        ("{", "neither YAML nor JSON"),
        ("", "holds no engine profile"),
    ],
)
def test_a_senseless_file_is_refused_by_its_name(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)

    with pytest.raises(ConfigError) as refusal:
        engine_profile(path)

    message = str(refusal.value)
    assert message.startswith(f"{path}: ")
    assert says in message
    assert "\n" not in message


def test_an_unknown_name_lists_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"demo, llama-2-70b-h100, .*YAML"):
        engine_profile("llama")
    with pytest.raises(ConfigError, match="cannot be read"):
        engine_profile(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        engine_profile(tmp_path)
