"""The parser of Prometheus text, against the format and against prometheus_client's own parser."""

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from pd_autoscaler.adapters.metrics.exposition import PageError, Sample, parse
from tests.support.pages import real_page

A = frozenset({b"a"})

NAMES = ("a", "a_total", "ab", "vllm:x", "vllm:x_bucket", "_:9")
WANTED = frozenset({b"a", b"vllm:x_bucket", b"_:9"})
PAGES = (
    "vllm-0.32-prompt-loaded.txt",
    "vllm-0.32-decoder-loaded.txt",
    "vllm-0.32-prompt-idle.txt",
    "vllm-0.32-decoder-after.txt",
)


def test_only_wanted_names_are_read_and_in_page_order() -> None:
    page = b'b 1\na{x="1"} 2\nab 3\na_total 4\na 5\n'

    assert parse(page, A) == [Sample("a", {"x": "1"}, 2.0), Sample("a", {}, 5.0)]


@pytest.mark.parametrize(
    ("line", "sample"),
    [
        (rb'a{x="q\"b\\s\nn\t"} 1', Sample("a", {"x": 'q"b\\s\nn\\t'}, 1.0)),
        (b'a{y="}",x="{,= "} 1', Sample("a", {"y": "}", "x": "{,= "}, 1.0)),
        (b'a{x="1",} 1', Sample("a", {"x": "1"}, 1.0)),
        (b"a{} 1", Sample("a", {}, 1.0)),
        (b'  a { x = "1" , y = "2" }  1  ', Sample("a", {"x": "1", "y": "2"}, 1.0)),
        (b"a\t1", Sample("a", {}, 1.0)),
        (b"a +Inf", Sample("a", {}, math.inf)),
        (b"a -Inf", Sample("a", {}, -math.inf)),
        (b"a -1.5e-3 1395066363000", Sample("a", {}, -0.0015)),
        (b'a{le="1"} 7 # {trace_id="x"} 0.9 1520879607.7', Sample("a", {"le": "1"}, 7.0)),
        (b'a{x="#"} 7 # {} 1', Sample("a", {"x": "#"}, 7.0)),
        ('a{x="å"} 1'.encode(), Sample("a", {"x": "å"}, 1.0)),
        (b"a 1\r", Sample("a", {}, 1.0)),
    ],
)
def test_a_line_is_read_as_the_format_says(line: bytes, sample: Sample) -> None:
    assert parse(b"# TYPE a gauge\n" + line + b"\n", A) == [sample]


def test_nan_is_a_value() -> None:
    (sample,) = parse(b"a NaN\n", A)

    assert math.isnan(sample.value)


@pytest.mark.parametrize(
    "line",
    [
        b"a one",
        b"a 1_000",
        b"a 1 2 3",
        b"a 1 later",
        b'a{x="1" 1',
        b'a{x="1"y="2"} 1',
        b'a{x="1",,y="2"} 1',
        b"a{,} 1",
        b'a{x="1",x="2"} 1',
        b"a{x=1} 1",
        b'a{x="1"}',
        b'a{x="\xff"} 1',
    ],
)
def test_a_malformed_line_is_refused_with_its_number(line: bytes) -> None:
    with pytest.raises(PageError, match=r"^line 2: "):
        parse(b"a 1\n" + line + b"\na 2\n", A)


def test_a_malformed_line_that_is_not_wanted_does_no_harm() -> None:
    assert parse(b"<html>\nb one\na 1\n", A) == [Sample("a", {}, 1.0)]


def test_a_page_cut_short_is_refused_wherever_it_is_cut() -> None:
    page = b'a{x="1"} 125\nb 3\na 17\n'

    for size in range(1, len(page)):
        if page[:size].endswith(b"\n"):
            continue
        with pytest.raises(PageError, match="cut short in line"):
            parse(page[:size], A)


def test_an_empty_page_has_no_samples() -> None:
    assert parse(b"", A) == []
    assert parse(b"\n\r\n", A) == []


def _reference(page: str) -> list[tuple[str, dict[str, str], float]]:
    return [
        # The reference keeps whole numbers as int, beyond what a float holds.
        (sample.name, sample.labels, float(sample.value))
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name.encode() in WANTED
    ]


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


blanks = st.sampled_from(["", " ", "\t", "  "])
# prometheus_client reads lines as str.splitlines does not: only at a line feed.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=8)
labels = st.dictionaries(st.sampled_from(["le", "engine", "x_1", "_y"]), texts, max_size=3)
numbers = st.one_of(
    st.floats(allow_nan=False).map(repr),
    st.integers(-(10**20), 10**20).map(str),
    st.sampled_from(["+Inf", "-Inf", "1e3", "0", "007"]),
)


@st.composite
def sample_lines(draw: st.DrawFn) -> str:
    name, inside = draw(st.sampled_from(NAMES)), draw(labels)
    text = ",".join(f'{key}="{_escaped(value)}"' for key, value in inside.items())
    if text or draw(st.booleans()):
        comma = draw(st.sampled_from(["", ","])) if text else ""
        name += f"{draw(blanks)}{{{text}{comma}}}"
    stamp = draw(st.sampled_from(["", " 1395066363000"]))
    end = draw(blanks) + draw(st.sampled_from(["", "\r"]))
    return f"{name} {draw(blanks)}{draw(numbers)}{stamp}{end}"


@given(st.lists(st.one_of(sample_lines(), st.sampled_from(["", "# HELP a \\n", "# a"]))))
def test_it_reads_what_the_reference_parser_reads(lines: list[str]) -> None:
    page = "".join(f"{line}\n" for line in lines)

    read = [(s.name, s.labels, s.value) for s in parse(page.encode(), WANTED)]

    assert sorted(read, key=repr) == sorted(_reference(page), key=repr)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(page: bytes) -> None:
    with suppress(PageError):
        assert all(sample.name == "a" for sample in parse(b"a " + page, A))


@pytest.mark.parametrize("name", PAGES)
def test_a_real_page_reads_as_with_the_reference_parser(name: str) -> None:
    page = real_page(name)
    families = list(text_string_to_metric_families(page.decode()))
    wanted = frozenset(s.name.encode() for f in families for s in f.samples)

    read = [(s.name, s.labels, s.value) for s in parse(page, wanted)]

    expected = [(s.name, s.labels, s.value) for f in families for s in f.samples]
    assert len(read) > 400
    assert sorted(read, key=repr) == sorted(expected, key=repr)
