"""The parser against prometheus_client's own, on drawn pages and on those of a real engine."""

import math
from collections.abc import Iterable

import pytest
from benchmarks.support.scrape_pages import vllm_page
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families as text_families

from pd_autoscaler.adapters.metrics.exposition import PageParser, Sample
from tests.support.pages import real_page

NAMES = ("a", "a_total", "ab", "vllm:x", "vllm:x_bucket", "vllm:x_sum", "vllm:x_b", "_:9")
WANTED = frozenset({"a", "vllm:x_bucket", "vllm:x_sum", "_:9"})
PAGES = (
    "vllm-0.32-prompt-loaded.txt",
    "vllm-0.32-decoder-loaded.txt",
    "vllm-0.32-prompt-idle.txt",
    "vllm-0.32-decoder-after.txt",
)


def told(samples: list[Sample]) -> list[str]:
    """Return samples in a form that orders, and in which NaN equals itself."""
    return sorted(repr((series.name, dict(series.labels), value)) for series, value in samples)


def expected(families: Iterable[Metric], wanted: frozenset[str]) -> list[str]:
    return sorted(
        # The reference keeps whole numbers as int, beyond what a float holds.
        repr((sample.name, sample.labels, float(sample.value)))
        for family in families
        for sample in family.samples
        if sample.name in wanted
    )


def read(page: bytes, wanted: frozenset[str]) -> list[str]:
    """Read a page without and with what was learnt of it."""
    parser = PageParser(wanted)
    first = parser.samples(page)
    assert told(parser.samples(page)) == told(first)
    return told(first)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


blanks = st.sampled_from(["", "", " ", "\t", "  "])
# prometheus_client reads lines as str.splitlines does not: only at a line feed.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=8)
labels = st.dictionaries(st.sampled_from(["le", "engine", "x_1", "_y"]), texts, max_size=3)
floats = st.floats(allow_nan=False)
numbers = st.one_of(
    floats.map(repr),
    st.integers(-(10**20), 10**20).map(str),
    st.sampled_from(["+Inf", "-Inf", "NaN", "1e3", "0", "007"]),
)
# A counter without `_total` would be renamed by the reference.
kinds = st.sampled_from(["gauge", "histogram", "untyped"])
comments = st.one_of(
    st.builds("# TYPE {} {}".format, st.sampled_from(NAMES), kinds),
    st.builds("# HELP {} {}".format, st.sampled_from(NAMES), st.sampled_from(["", "# a 1", "\\n"])),
    st.sampled_from(["# a", "#", "# a 1", " # TYPE ab gauge"]),
)


@st.composite
def sample_lines(draw: st.DrawFn, names: tuple[str, ...] = NAMES) -> str:
    name, inside = draw(st.sampled_from(names)), draw(labels)
    text = ",".join(f'{key}="{_escaped(value)}"' for key, value in inside.items())
    if text or draw(st.booleans()):
        comma = draw(st.sampled_from(["", ","])) if text else ""
        name += f"{draw(blanks)}{{{text}{comma}}}"
    stamp = draw(st.sampled_from(["", "", " 1395066363000"]))
    end = draw(blanks) + draw(st.sampled_from(["", "", "\r"]))
    return f"{name} {draw(blanks)}{draw(numbers)}{stamp}{end}"


@given(st.lists(st.one_of(sample_lines(), comments, st.just(""))))
def test_lines_in_any_order_are_read_as_the_reference_reads_them(lines: list[str]) -> None:
    # The format wants the lines of a family together; a lone one in the midst of another's is not
    # looked for, and so begins a part of its own here.
    page = "".join(f"#\n{line}\n" if line[:1] not in {"#", ""} else f"{line}\n" for line in lines)

    assert read(page.encode(), WANTED) == expected(text_families(page), WANTED)


@st.composite
def family_lines(draw: st.DrawFn) -> str:
    family = draw(st.sampled_from(("a", "ab", "vllm:x", "vllm:y", "_:9")))
    head = draw(st.sampled_from(["# HELP {0} # a 1\n# TYPE {0} {1}\n", "# TYPE {0} {1}\n", ""]))
    names = tuple(f"{family}{end}" for end in ("", "_bucket", "_sum", "_count", "_created"))
    rows = draw(st.lists(sample_lines(names), max_size=5))
    return head.format(family, draw(kinds)) + "".join(f"{row}\n" for row in rows)


@given(st.lists(family_lines()))
def test_families_are_read_as_the_reference_reads_them(families: list[str]) -> None:
    page = "".join(families)

    assert read(page.encode(), WANTED) == expected(text_families(page), WANTED)


# The reference fails on escapes in an exemplar.
plain = st.text(st.characters(codec="utf-8", exclude_characters='\r\n"\\'), max_size=8)
exemplars = st.one_of(st.none(), st.dictionaries(st.sampled_from(["id", "x"]), plain, min_size=1))


@st.composite
def registries(draw: st.DrawFn) -> CollectorRegistry:
    registry = CollectorRegistry()
    gauge = Gauge("a", "# Some\nhelp", ["x"], registry=registry)
    counter = Counter("x", "Help", ["x", "y"], registry=registry)
    histogram = Histogram("h", "", ["x"], registry=registry, buckets=(0.1, 1, 10))
    for _ in range(draw(st.integers(0, 3))):
        gauge.labels(draw(texts)).set(draw(st.floats()))
        child = counter.labels(draw(texts), draw(texts))
        child.inc(draw(st.floats(0, 1e30)), draw(exemplars))
        histogram.labels(draw(texts)).observe(draw(st.floats(0, 1e9)), draw(exemplars))
    return registry


@given(registries())
def test_openmetrics_is_read_as_the_reference_reads_it(registry: CollectorRegistry) -> None:
    page: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    wanted = frozenset({"a", "x_total", "h_bucket", "h_sum"})

    got = read(page, wanted)

    families = openmetrics_families(page.decode())  # type: ignore[no-untyped-call]
    assert got == expected(families, wanted)
    assert got == read(page.removesuffix(b"\n"), wanted)


@pytest.mark.parametrize("engines", [1, 8])
def test_a_page_as_an_engine_writes_it_is_read_as_by_the_reference(engines: int) -> None:
    page = vllm_page(engines=engines)
    families = list(text_families(page.decode()))
    every = [sample.name for family in families for sample in family.samples]

    for wanted in (frozenset(every), frozenset(every[::7]), frozenset(every[5::11])):
        got = read(page, wanted)
        assert len(got) >= len(wanted) > 10
        assert got == expected(families, wanted)
        assert not any(math.isnan(value) for _, value in PageParser(wanted).samples(page))


@pytest.mark.parametrize("name", PAGES)
def test_a_real_page_is_read_as_by_the_reference(name: str) -> None:
    page = real_page(name)
    families = list(text_families(page.decode()))
    every = frozenset(s.name for f in families for s in f.samples)

    for wanted in (every, frozenset(sorted(every)[::5])):
        assert read(page, wanted) == expected(families, wanted)
    assert len(read(page, every)) > 400
