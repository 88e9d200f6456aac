"""Profiles in YAML files: what they may say, and how a mistake is told."""

from pathlib import Path
from textwrap import dedent

import pytest

from pd_autoscaler.adapters.metrics.profiles import (
    Profile,
    ProfileBook,
    loaded,
    shipped_profiles,
)
from pd_autoscaler.adapters.metrics.profiles import document as document_module
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import Reading
from tests.support import engine_pages
from tests.support.pages import histogram_lines, line, node, rows


def written(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(dedent(text))
    return path


def of(folder: Path, text: str) -> Profile:
    (profile,) = loaded([written(folder, text)])
    return profile


def problem(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as refused:
        loaded([written(folder, text)])
    return str(refused.value).replace(f"{folder}/", "")


def read(profile: Profile, text: str, role: Role = Role.PROMPT) -> Reading:
    return profile.reading(text.encode(), node_id="n", role=role, at_s=0.0)


WHOLE = """\
    name: mine
    prefixes: ["my:", "my_"]
    recognised_by: [batch]
    rank_labels: [card]
    hint: start it with --metrics
    both:
      gauges:
        running: [batch, batch_size]
        kv_used: {name: kv_percent, combine: mean, factor: 0.01}
    prompt:
      gauges:
        waiting:
          sum: [queue, {name: [handshakes, hellos], is_optional: true}]
        kv_export_backlog: {name: held, labels: {state: ready}}
      counters:
        prompt_tokens:
          - {name: computed_total}
          - {sum: [all_total, {name: cached_total, factor: -1}], is_lumpy: true}
      histograms:
        ttft_s: {name: ttft_ms, factor: 0.001}
        input_len: {total: all_total, count: requests_total}
    decoder:
      gauges:
        cache_tokens: {name: info, label_product: [blocks, block_size]}
        running: null
    """


def test_a_file_says_all_that_a_shipped_profile_can(tmp_path: Path) -> None:
    profile = of(tmp_path, WHOLE)
    text = "".join(
        [
            line("my:batch_size", 3.0, card="0"),
            line("my:batch_size", 3.0, card="1"),
            line("my_kv_percent", 40.0),
            line("my:queue", 2.0),
            line("my:hellos", 1.0),
            line("my:held", 4.0, state="ready"),
            line("my:held", 9.0, state="gone"),
            line("my:all_total", 100.0),
            line("my:cached_total", 30.0),
            line("my:requests_total", 5.0),
            histogram_lines("my:ttft_ms", {500.0: 1.0, float("inf"): 2.0}, 1500.0),
            line("my:info", 1.0, blocks="10", block_size="16"),
        ]
    )

    prompt, decoder = read(profile, text), read(profile, text, Role.DECODER)

    assert prompt.gauges == {
        "running": 3.0,
        "kv_used": pytest.approx(0.4),
        "waiting": 3.0,
        "kv_export_backlog": 4.0,
    }
    assert prompt.counters["prompt_tokens"] == 70.0
    assert prompt.lumpy == {"prompt_tokens"}
    assert prompt.counters["ttft_s_sum"] == pytest.approx(1.5)
    assert rows(prompt.histograms["ttft_s"])[0] == (0.5, 1.0)
    assert (prompt.counters["input_len_sum"], prompt.counters["input_len_count"]) == (100.0, 5.0)
    assert decoder.gauges == {"kv_used": pytest.approx(0.4), "cache_tokens": 160.0}
    assert prompt.engine == profile.name == "mine"
    assert profile.hint == "start it with --metrics"


def test_a_file_says_which_counters_appear_with_their_first_event(tmp_path: Path) -> None:
    profile = of(
        tmp_path,
        """
        name: mine
        both:
          gauges: {running: batch}
          counters:
            preemptions: {name: evicted_total, is_sparse: true}
            transfer_failures: {sum: [lost_total, refused_total], is_sparse: true}
            kv_expired: expired_total
        """,
    )

    assert read(profile, "batch 1\n").parts == {"preemptions": 0, "transfer_failures": 0}
    assert read(profile, "batch 1\nevicted_total 3\n").parts == {"transfer_failures": 0}


def test_a_profile_that_recognises_its_pages_is_chosen_by_them(tmp_path: Path) -> None:
    book = ProfileBook([*shipped_profiles(), of(tmp_path, WHOLE)])

    assert book.chosen(node("p0"), b"my_batch 3.0\n").name == "mine"


def test_what_an_extension_does_not_name_stays_and_what_is_empty_goes(tmp_path: Path) -> None:
    profile = of(
        tmp_path,
        """\
        name: mine
        extends: vllm-ascend
        both:
          gauges: {running: my_batch}
        prompt:
          histograms: {queue_time_s: }
          counters: {kv_expired: }
        """,
    )
    page = engine_pages.vllm({"num_requests_waiting_by_reason/capacity": 2.0}).decode()

    got = read(profile, page + line("vllm:my_batch", 5.0))

    assert got.gauges["running"] == 5.0
    assert got.gauges["waiting"] == 2.0
    assert got.histograms.keys() == {"ttft_s", "input_len"}
    assert "kv_expired" not in got.counters
    assert profile.extends == "vllm"


def test_an_extension_is_not_chosen_by_its_page_unless_it_says_so(tmp_path: Path) -> None:
    extension = "name: mine\nextends: vllm\n"
    silent = of(tmp_path, extension)
    telling = of(tmp_path, extension + "recognised_by: [num_requests_running]\n")

    for profile, chosen in ((silent, "vllm"), (telling, "mine")):
        book = ProfileBook([*shipped_profiles(), profile])
        assert book.chosen(node("p0"), engine_pages.vllm()).name == chosen
        assert book.named("mine") is profile


def test_a_profile_may_extend_one_of_a_file_before_it(tmp_path: Path) -> None:
    first = written(tmp_path, "name: first\nextends: sglang\n", "first.yaml")
    second = written(tmp_path, "name: second\nextends: first\n", "second.yaml")

    got = loaded([first, second])

    assert [profile.name for profile in got] == ["first", "second"]
    assert got[1].rank_labels == got[0].rank_labels == ("tp_rank", "pp_rank", "moe_ep_rank")
    with pytest.raises(ConfigError, match=r"second\.yaml:2: extends is 'first', which is no"):
        loaded([second, first])


def test_without_a_prefix_names_stand_as_they_are(tmp_path: Path) -> None:
    profile = of(tmp_path, "name: mine\nboth: {gauges: {running: batch}}\n")

    assert read(profile, "batch 3.0\n").gauges == {"running": 3.0}


BOTH = "name: mine\nboth:\n  gauges:\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "name: mine\nextend: vllm\n",
            "mine.yaml:2: extend is not a name here; did you mean extends? (known: name, ",
        ),
        ("extends: vllm\n", "name is missing"),
        ("name: My Engine\nextends: vllm\n", "mine.yaml:1: name is 'My Engine', and must match"),
        ("name: vllm\nextends: vllm\n", "mine.yaml:1: name is 'vllm', which is taken"),
        ("name: auto\nextends: vllm\n", "mine.yaml:1: name is 'auto', which is taken"),
        (
            "name: mine\nextends: vlm\n",
            "mine.yaml:2: extends is 'vlm', which is no profile; did you mean vllm? (there are: ",
        ),
        (
            BOTH + "    waitng: queue\n",
            "mine.yaml:4: both.gauges.waitng is not a canonical name; did you mean waiting?",
        ),
        (
            "name: mine\nprompt: {histograms: {ttft: first}}\n",
            "mine.yaml:2: prompt.histograms.ttft is not a canonical name; did you mean ttft_s?",
        ),
        (
            BOTH + "    running: {nam: batch}\n",
            "mine.yaml:4: both.gauges.running.nam is not a name here; did you mean name?",
        ),
        (
            BOTH + "    running: batch-size\n",
            "mine.yaml:4: both.gauges.running is 'batch-size', and must be a metric's name",
        ),
        (
            BOTH + "    running: 3\n",
            "mine.yaml:4: both.gauges.running is '3', and must be a metric's name, or hold name, ",
        ),
        (
            BOTH + "    running: []\n",
            "mine.yaml:4: both.gauges.running is '[]', and must not be an empty list; name one, ",
        ),
        ("name: mine\nboth: 3\n", "both is '3', and must hold gauges, counters or histograms"),
        ("name: mine\nboth: {gauges: []}\n", "'[]', and must hold names with their values"),
        ("name: mine\nprefixes: a\n", "prefixes is 'a', and must be a list"),
        (BOTH + "    running: {name: a, factor: x}\n", "factor is 'x', and must be a number"),
        (
            BOTH + "    running: {name: a, is_optional: 4}\n",
            "running.is_optional is '4', and must be true or false",
        ),
        (
            "name: mine\nprompt: {histograms: {ttft_s: 3}}\n",
            "prompt.histograms.ttft_s is '3', and must be a histogram's name, or hold name, or ",
        ),
        (
            "name: mine\nprompt: {histograms: {ttft_s: first_token_seconds_bucket}}\n",
            (
                "ttft_s.name is 'first_token_seconds_bucket', and must be the histogram's name: "
                "first_token_seconds, without _bucket"
            ),
        ),
        (
            BOTH + "    running: {name: a, combine: median}\n",
            "both.gauges.running.combine is 'median', and must be 'sum', 'mean' or 'max'",
        ),
        (
            BOTH + "    running: {name: a, factor: 0}\n",
            "mine.yaml:4: both.gauges.running.factor is '0', and must not be 0",
        ),
        (
            BOTH + "    running: {name: a, factor: .nan}\n",
            "both.gauges.running.factor is 'nan', and must be a finite number",
        ),
        (
            BOTH + "    running: {name: a, labels: {rank: 0}}\n",
            "both.gauges.running.labels.rank is '0', and must be text; put it in quotes",
        ),
        (
            "name: mine\nprompt: {histograms: {input_len: {total: a}}}\n",
            "prompt.histograms.input_len is \"{'total': 'a'}\", and must have either name, or",
        ),
        (
            "name: mine\nprompt: {histograms: {ttft_s: {name: a, count: b}}}\n",
            "must have either name, or total and count",
        ),
        (
            "name: mine\nprompt: {histograms: {ttft_s: {name: a, factor: -1}}}\n",
            "prompt.histograms.ttft_s.factor is '-1', and must be greater than 0",
        ),
        (
            "name: mine\nprompt: {gauge: {running: a}}\n",
            "mine.yaml:2: prompt.gauge is not a name here; did you mean gauges? (known: gauges, ",
        ),
        ("name: mine\nprefixes: [my-]\n", "mine.yaml:2: prefixes[0] is 'my-', and must be"),
        ("name: mine\nprefixes: []\nextends: vllm\n", "mine.yaml:2: prefixes is '[]', and "),
        (
            "name: mine\nprompt: {gauges: {running: batch}}\n",
            "mine.yaml: nothing is read on one of the roles; name gauges under `both`",
        ),
        ("name: a\nname: b\n", "mine.yaml:2: name is here again (line 1)"),
        ("- name: mine\n", "mine.yaml:1: must hold names such as `name:` and `prompt:`"),
        ("", "mine.yaml:1: must hold names"),
        ("name: [\n", "mine.yaml:2: not YAML: "),
        ("name: !!python/object:os.system {}\n", "mine.yaml:1: name is "),
        ("a: \0\n", "mine.yaml is not YAML: "),
        ("both: &a\n  prompt: *a\n", "more than 20 deep"),
    ],
)
def test_a_mistake_is_told_with_its_file_place_value_and_fix(
    tmp_path: Path, text: str, sentence: str
) -> None:
    assert sentence in problem(tmp_path, text)


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    told = problem(tmp_path, BOTH + "    waitng: a\n    running: {nam: b}\nhnt: c\n")

    assert [row.split(":")[1] for row in told.splitlines()] == ["4", "5", "5", "6"]


def test_aliases_cannot_make_a_short_file_a_huge_one(tmp_path: Path) -> None:
    rows = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    rows += [
        f"{name}: &{name} [{', '.join(['*' + below] * 10)}]"
        for below, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]

    assert "values" in problem(tmp_path, "\n".join(rows))


def test_a_file_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"mine\.yaml cannot be read: No such file"):
        loaded([tmp_path / "mine.yaml"])
    (tmp_path / "mine.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml is not UTF-8 text: byte 6"):
        loaded([tmp_path / "mine.yaml"])
    monkeypatch.setattr(document_module, "SIZE_MAX_BYTES", 5)
    with pytest.raises(ConfigError, match=r"mine\.yaml is larger than 5 bytes"):
        loaded([tmp_path / "mine.yaml"])


def test_the_example_of_the_documentation_is_a_profile(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "profiles.md").read_text()
    example = text.split("```yaml\n# my-engine.yaml", 1)[1].split("```", 1)[0]

    profile = of(tmp_path, example)

    assert {"running", "waiting"} <= read(profile, "mye_batch 1\nmye_queue 2\n").gauges.keys()
