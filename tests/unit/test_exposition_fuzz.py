"""The parser under damage: it reads or refuses, and bytes that nobody wants do no harm."""

from collections.abc import Callable

import pytest
from benchmarks.support.scrape_pages import vllm_page
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.adapters.metrics.exposition import (
    LARGE_BYTES,
    LINES_MAX,
    SERIES_MAX,
    PageError,
    PageParser,
)
from pd_autoscaler.adapters.metrics.exposition_blocks import FAMILIES_MAX, Passable, blocks

PAGE = vllm_page(engines=1)
WANTED = frozenset(
    {
        *("vllm:num_requests_running", "vllm:num_requests_waiting_by_reason"),
        *("vllm:prompt_tokens_total", "vllm:request_success_total", "vllm:cache_config_info"),
        *(f"vllm:time_to_first_token_seconds{end}" for end in ("_bucket", "_sum", "_count")),
        *(f"vllm:inter_token_latency_seconds{end}" for end in ("_sum", "_count")),
        "process_open_fds",
    }
)
LARGE = 10_000_000
"""The largest page that a scrape accepts by default, in bytes."""


def _is_wanted(line: bytes) -> bool:
    return line.replace(b"{", b" ").split(b" ")[0].decode() in WANTED


def _learnt() -> PageParser:
    parser = PageParser(WANTED)
    parser.samples(PAGE)
    return parser


KNOWS = _learnt()
EXPECTED = KNOWS.samples(PAGE)
INSIDE = [
    at
    for start, line in zip(
        (sum(map(len, PAGE.splitlines(keepends=True)[:n])) for n in range(PAGE.count(b"\n"))),
        PAGE.splitlines(),
        strict=True,
    )
    if not _is_wanted(line)
    for at in range(start, start + len(line))
]
"""Every place in a line that is not wanted, its end excepted."""

scraps = st.one_of(
    st.binary(max_size=6),
    st.sampled_from(
        [b"#", b"\n", b"\r", b"# TYPE ", b"\n# HELP x", b"\n\n", b'"', b"\\", b"{", b"}"]
    ),
    st.sampled_from([b"NaN", b"1e999", b" 5 6", b"\n# EOF", b"vllm:num_requests_running 5\n"]),
)
places = st.integers(0, len(PAGE))
cuts = st.tuples(places, st.integers(0, 200), scraps)


def _read(parser: PageParser, page: bytes) -> str:
    try:
        return repr(parser.samples(page))
    except PageError as error:
        return f"PageError: {error}"


@given(st.lists(cuts, max_size=6))
def test_a_damaged_page_is_read_or_refused_whatever_was_read_before(
    damage: list[tuple[int, int, bytes]],
) -> None:
    page = PAGE
    for at, length, scrap in damage:
        page = page[:at] + scrap + page[at + length :]

    assert _read(KNOWS, page) == _read(PageParser(WANTED), page)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(INSIDE),
            st.binary(min_size=1, max_size=1).filter(lambda byte: byte != b"\n"),
        ),
        max_size=8,
    )
)
def test_damage_to_lines_that_are_not_wanted_does_no_harm(damage: list[tuple[int, bytes]]) -> None:
    page = bytearray(PAGE)
    for at, byte in damage:
        page[at : at + 1] = byte

    for parser in (KNOWS, PageParser(WANTED)):
        assert parser.samples(bytes(page)) == EXPECTED


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(tail: bytes) -> None:
    for head in (b"", b"vllm:num_requests_running ", b"# TYPE process_open_fds gauge\n"):
        page = head + tail
        assert _read(KNOWS, page) == _read(PageParser(WANTED), page)


def _filled(piece: bytes, head: bytes = b"", tail: bytes = b"") -> bytes:
    return head + piece * ((LARGE - len(head) - len(tail)) // len(piece)) + tail


def _lines(line: bytes, count: int = LINES_MAX - 2) -> bytes:
    """Write so many lines, with their number where the line has a place for it."""
    if b"%d" not in line:
        return (line + b"\n") * count
    return b"".join(line.replace(b"%d", b"%d" % n) + b"\n" for n in range(count))


ADVERSE: dict[str, Callable[[], bytes]] = {
    "signs": lambda: _filled(b"#"),
    "lines of signs": lambda: _lines(b"#" * 49),
    "more lines of signs": lambda: b"#\n" * (LARGE_BYTES // 2),
    "signs in a label": lambda: _filled(b"#", b'a{x="', b'"} 1\n'),
    "signs in another's label": lambda: _filled(b"#", b'b{x="', b'"} 1\n'),
    "empty lines": lambda: b"\n" * LARGE_BYTES,
    "too many lines": lambda: _filled(b"\n"),
    "one blank": lambda: _filled(b" ", b"a", b"\n"),
    "blanks before a value": lambda: _filled(b" ", b"a ", b"1\n"),
    "blanks behind a value": lambda: b"".join([b"a 1" + b" \t" * 32_000 + b"\n"] * 150),
    "blanks in labels": lambda: b"".join([b"a{" + b" " * 64_000 + b'x="1"} 1\n'] * 150),
    "blanks in place of labels": lambda: b"a{" + b" " * 64_000 + b"\n",
    "no line end": lambda: _filled(b"a"),
    "a text without an end": lambda: b'a{x="' + b"y" * 64_000 + b"\n",
    "escapes": lambda: b"".join([b'a{x="' + rb"\\" * 32_000 + b'"} 1\n'] * 150),
    "escapes without an end": lambda: b'a{x="' + rb"\"" * 32_000 + b"\n",
    "labels": lambda: b"".join(
        [b"a{" + _lines(b'x%d="",', 6_000).replace(b"\n", b"") + b"} 1\n"] * 150
    ),
    "digits": lambda: b"".join([b"a " + b"1" * 64_000 + b"\n"] * 150),
    "an exemplar": lambda: b"".join([b"a 1 # {" + b"#{ " * 20_000 + b"\n"] * 150),
    "other families": lambda: _lines(b"# TYPE b%d gauge\nb%d 1", LINES_MAX // 2),
    "comments without names": lambda: _lines(b"# HELP x\nb", LINES_MAX // 2),
    "a family without an end": lambda: b"# TYPE b gauge\n" + _lines(b"b 1") + b"a 1\n",
    "wanted lines": lambda: b"# TYPE a gauge\n" + _lines(b"a 1"),
    "series": lambda: b"# TYPE a gauge\n" + _lines(b'a{x="%d"} 1'),
    "unwanted series": lambda: _lines(b'b{x="%d"} 1'),
    "long names": lambda: _lines(b"# TYPE %d" + b"y" * 100_000, 90),
    "nothing of a number": lambda: _filled(b"\0", b"a ", b"\n"),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ADVERSE)
def test_the_largest_pages_are_read_or_refused(kind: str) -> None:
    page = ADVERSE[kind]()
    parser = PageParser({"a"})

    once, again = _outcome(parser, page), _outcome(parser, page)

    assert once == again
    assert len(parser._known) <= SERIES_MAX
    assert len(parser._passable) <= FAMILIES_MAX


def _outcome(parser: PageParser, page: bytes) -> str | int:
    """Return how many samples there are, or why the page is refused."""
    try:
        return len(parser.samples(page))
    except PageError as error:
        return str(error)


def test_the_lines_of_a_large_page_are_never_held_all_at_once() -> None:
    page = b"# TYPE a gauge\n" + _lines(b"a 1 and more than fifty bytes in all, or almost so")

    parts = list(blocks(page, Passable([b"a"])))

    assert [start for start, _ in parts[1:]] == [end for _, end in parts[:-1]]
    assert parts[-1][1] == len(page)
    assert max(end - start for start, end in parts) < 300_000
    assert all(page[end - 1 : end] == b"\n" for _, end in parts)
