"""The parser of Prometheus text and OpenMetrics: what is read, what is refused, what it costs."""

import math

import pytest

from pd_autoscaler.adapters.metrics import exposition
from pd_autoscaler.adapters.metrics.exposition import PageError, PageParser, Sample, Series
from pd_autoscaler.adapters.metrics.exposition_line import LINE_MAX_BYTES


def read(page: bytes, *wanted: str) -> list[Sample]:
    """Read a page twice: the second time what was learnt of it the first time is used."""
    parser = PageParser(wanted or ("a",))
    first = parser.samples(page)
    assert repr(parser.samples(page)) == repr(first)
    return first


def values(page: bytes, *wanted: str) -> list[tuple[str, float]]:
    return [(series.name, value) for series, value in read(page, *wanted)]


def test_only_wanted_names_are_read_and_in_page_order() -> None:
    page = b'b 1\na{x="1"} 2\nab 3\na_total 4\na 5\n'

    assert read(page) == [(Series("a", {"x": "1"}), 2.0), (Series("a", {}), 5.0)]


@pytest.mark.parametrize(
    ("line", "labels", "value"),
    [
        (rb'a{x="q\"b\\s\nn\t"} 1', {"x": 'q"b\\s\nn\\t'}, 1.0),
        (rb'a{x="\\n"} 1', {"x": "\\n"}, 1.0),
        (b'a{y="}",x="{,= "} 1', {"y": "}", "x": "{,= "}, 1.0),
        (b'a{x="1",} 1', {"x": "1"}, 1.0),
        (b'a{x="1"}1', {"x": "1"}, 1.0),
        (b"a{} 1", {}, 1.0),
        (b'  a { x = "1" , y = "2" }  1  ', {"x": "1", "y": "2"}, 1.0),
        (b'a{x=""}\t1\t2', {"x": ""}, 1.0),
        (b"a\t1", {}, 1.0),
        (b"a -1.5e-3 1395066363000", {}, -0.0015),
        (b"a 1 -1395066363000", {}, 1.0),
        (b"a 1 1520879607.789", {}, 1.0),
        (b'a{le="1"} 7 # {trace_id="x"} 0.9 1520879607.7', {"le": "1"}, 7.0),
        (b'a{le="1"} 7 1520879607.7 # {trace_id="#} 5"} 0.9', {"le": "1"}, 7.0),
        (b'a{x="#"} 7 # {} 1', {"x": "#"}, 7.0),
        (b'a{x=" # {"} 7', {"x": " # {"}, 7.0),
        ('a{x="å中"} 1'.encode(), {"x": "å中"}, 1.0),
        (b"a 1\r", {}, 1.0),
        (b'a{x="1"} 1 2 \r', {"x": "1"}, 1.0),
    ],
)
def test_a_line_is_read_as_the_formats_say(
    line: bytes, labels: dict[str, str], value: float
) -> None:
    assert read(b"# TYPE a gauge\n" + line + b"\n") == [(Series("a", labels), value)]


@pytest.mark.parametrize("text", ["+Inf", "Inf", "inf", "+inf", "INF", "infinity", "+Infinity"])
def test_infinity_has_many_spellings(text: str) -> None:
    page = f"# TYPE a gauge\na {text}\na -{text.lstrip('+')}\n".encode()

    assert values(page) == [("a", math.inf), ("a", -math.inf)]


@pytest.mark.parametrize("text", ["NaN", "nan", "NAN"])
def test_nan_is_a_value(text: str) -> None:
    ((_, value),) = read(f"# TYPE a gauge\na {text}\n".encode())

    assert math.isnan(value)


MALFORMED = [
    b"a",
    b"a ",
    b"a one",
    b"a 1_000",
    b"a 0x10",
    b"a 1 2 3",
    b"a 1 later",
    b"a 1 2_000",
    b"a 1#{} 1",
    b"a 1 # 1",
    b"a \x0b1",
    b'a{x="1" 1',
    b'a{x="1} 1',
    b'a{x="1\\"} 1',
    b'a{x="1"y="2"} 1',
    b'a{x="1",,y="2"} 1',
    b"a{,} 1",
    b'a{x="1",x="2"} 1',
    b'a{9="1"} 1',
    b"a{x=1} 1",
    b'a{x="1"}',
    b'a{x="\xff"} 1',
    b'a 1 # {x="\xff"} 1',
]


@pytest.mark.parametrize("line", MALFORMED)
def test_a_malformed_line_is_refused_with_its_number_and_text(line: bytes) -> None:
    shown = repr(line.decode(errors="replace"))
    for before in (b"a 1\n", b"# TYPE a gauge\n"):
        with pytest.raises(PageError, match=r"^line 2: ") as refused:
            read(before + line + b"\na 2\n")
        assert str(refused.value).endswith(shown)


@pytest.mark.parametrize("line", MALFORMED)
def test_what_was_read_before_makes_no_malformed_line_right(line: bytes) -> None:
    parser = PageParser(["a"])
    parser.samples(b'# TYPE a gauge\na 1\na{x="1"} 1\na{x="1} 1"} 5\n')

    with pytest.raises(PageError, match=r"^line 3: "):
        parser.samples(b"# TYPE a gauge\na 1\n" + line + b"\na 2\n")


def test_a_value_on_the_next_line_is_not_a_value() -> None:
    parser = PageParser(["a", "b"])
    parser.samples(b"# TYPE a gauge\na 1\nb 2\n")

    with pytest.raises(PageError, match="line 2"):
        parser.samples(b"# TYPE a gauge\na \n1\n")
    with pytest.raises(PageError, match="line 2"):
        parser.samples(b"# TYPE a gauge\na 1 b\n2\n")


def test_a_malformed_line_that_is_not_wanted_does_no_harm() -> None:
    assert values(b'<html>\nb one\nb{x="\xff"} 1\n\xff\n{x="1"} 2\na 1\n') == [("a", 1.0)]


def test_a_long_line_is_shown_in_part() -> None:
    with pytest.raises(PageError) as refused:
        read(b'a{x="' + b"y" * 1000 + b"\n")

    assert len(str(refused.value)) < 150


def test_samples_need_no_comment_before_them() -> None:
    assert values(b"# TYPE b gauge\nb 1\na 2\n# HELP c\nc 1\n\na 3\n") == [("a", 2.0), ("a", 3.0)]
    assert values(b"a 1\n# TYPE b gauge\na 2\nb 1\n") == [("a", 1.0), ("a", 2.0)]


def test_a_wanted_line_is_not_looked_for_in_the_midst_of_another_family() -> None:
    assert values(b"# TYPE b gauge\nb 1\na 2\nb 3\n# TYPE c gauge\na 4\nc 5\n") == [("a", 4.0)]


def test_a_family_may_come_twice_and_in_any_order() -> None:
    page = b"# TYPE a gauge\na 1\n# TYPE b gauge\nb 1\n# TYPE a gauge\na 2\n# TYPE a gauge\n"

    assert values(page) == [("a", 1.0), ("a", 2.0)]


def test_the_same_series_twice_keeps_its_order() -> None:
    page = b'# TYPE a gauge\na{x="1"} 1\na{x="1"} 3\na{x="1"} 2\n'

    assert [value for _, value in read(page)] == [1.0, 3.0, 2.0]


def test_a_name_that_begins_another_is_not_the_other() -> None:
    page = (
        b"# TYPE a gauge\na 1\n# TYPE ab gauge\nab 2\n# TYPE abc gauge\nabc 3\n"
        b"# TYPE ab_c histogram\nab_c_sum 4\nab_c_count 5\n"
    )

    assert values(page, "ab") == [("ab", 2.0)]
    assert values(page, "abc", "ab_c_count") == [("abc", 3.0), ("ab_c_count", 5.0)]
    assert values(page, "abcd") == []


def test_a_comment_that_names_no_family_hides_nothing() -> None:
    for comment in (b"#", b"# ", b"# TYPE", b"# TYPE ", b"# TYPE b", b"# HELP a{x", b"# TYPE a\tx"):
        assert values(comment + b'\na{x="1"} 1\n') == [("a", 1.0)], comment
    assert values(b"# TYPE a{x gauge\n" + b'a{x="1"} 1\n' * 2) == [("a", 1.0)] * 2
    assert values(b"# TYPE a\tx gauge\na\tx 1\na 1\n", "b") == []
    assert values(b"#a 1\n #a 1\n# \na 1\n  # TYPE b gauge\na 2\n") == [("a", 1.0), ("a", 2.0)]


def test_a_sign_in_help_or_in_a_label_begins_no_comment() -> None:
    page = (
        b'# HELP b # a\n# TYPE b gauge\nb{x="#"} 1\nb{x="# EOF"} 1\n# HELP a is # 1\na{x="#"} 2\n'
    )

    assert values(page) == [("a", 2.0)]


def test_line_ends_may_be_those_of_windows() -> None:
    page = b'# HELP b B\r\n# TYPE b gauge\r\nb 1\r\n\r\n# TYPE a gauge\r\na 1\r\na{x="1"} 2 3\r\n'

    assert values(page) == [("a", 1.0), ("a", 2.0)]
    assert values(page + b"# EOF\r\na 3\r\n") == [("a", 1.0), ("a", 2.0)]


def test_openmetrics_counters_and_histograms_are_read_without_their_exemplars() -> None:
    page = (
        b"# TYPE a counter\n# UNIT a seconds\n# HELP a A.\n"
        b'a_total 17 1520879607.789 # {trace_id="KOO5S4vxi0o"} 0.67\na_created 1520430000.123\n'
        b"# TYPE h histogram\n"
        b'h_bucket{le="0.1"} 8 # {} 0.054\nh_bucket{le="+Inf"} 17 # {id="1"} 9.8 1520879607.789\n'
        b"h_count 17\nh_sum 324789.3\nh_created 1520430000.123\n# EOF\n"
    )

    got = values(page, "a_total", "h_bucket", "h_count")

    assert got == [("a_total", 17.0), ("h_bucket", 8.0), ("h_bucket", 17.0), ("h_count", 17.0)]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\na 2\n", b"\na one\n", b"\na 3"])
def test_nothing_behind_the_end_of_openmetrics_counts(end: bytes) -> None:
    assert values(b"# TYPE a gauge\na 1\n# EOF" + end) == [("a", 1.0)]
    assert values(b"# EOF" + end) == []


@pytest.mark.parametrize("comment", [b"# EOFS", b" # EOF", b"#EOF", b"# EO", b"# EOF a"])
def test_another_comment_is_not_the_end(comment: bytes) -> None:
    assert values(b"a 1\n" + comment + b"\na 2\n") == [("a", 1.0), ("a", 2.0)]
    with pytest.raises(PageError, match=r"^line 2: page of \d+ bytes is cut short"):
        read(b"a 1\n" + comment)


def test_a_page_cut_short_is_refused_wherever_it_is_cut() -> None:
    page = b'# HELP a A.\n# TYPE a gauge\na{x="1"} 125\nb 3\n# TYPE a gauge\na 17\n'

    for size in range(1, len(page)):
        cut = page[:size]
        if cut.endswith(b"\n"):
            continue
        number, last = cut.count(b"\n") + 1, cut.split(b"\n")[-1].decode()
        with pytest.raises(PageError) as refused:
            read(cut)
        assert str(refused.value) == f"line {number}: page of {size} bytes is cut short: {last!r}"


def test_blanks_behind_the_last_line_end_are_nothing() -> None:
    assert values(b"# TYPE a gauge\na 1\n \t") == [("a", 1.0)]


@pytest.mark.parametrize("page", [b"", b"\n", b"\n\r\n", b" ", b"#\n", b"# TYPE a gauge\n"])
def test_an_empty_page_has_no_samples(page: bytes) -> None:
    assert read(page) == []


def test_the_same_text_gives_the_same_series_on_every_page() -> None:
    parser = PageParser(["a"])
    pages = (b'# TYPE a gauge\na{x="1"} 1\n', b'a{x="1"}\t2\n', b'b 1\na{x="1"} 3 4\n')

    (one, _), (two, _), (three, _) = (parser.samples(page)[0] for page in pages)

    assert one is two is three


def test_what_is_remembered_is_bounded_and_dropped_when_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exposition, "SERIES_MAX", 10)
    parser = PageParser(["a"])
    rows = b"".join(b'a{x="%d"} %d\nb{x="%d"} 1\n' % (n, n, n) for n in range(100))

    for page in (b"# TYPE a gauge\n" + rows, rows):
        assert [value for _, value in parser.samples(page)] == list(range(100))
        assert 0 < len(parser._known) <= 10


def test_a_series_text_of_any_length_is_read_and_a_long_one_not_remembered() -> None:
    parser = PageParser(["a"])
    text = "y" * 50_000

    for _ in range(2):
        page = f'# TYPE a gauge\na{{x="{text}"}} 1\n'.encode()
        assert parser.samples(page) == [(Series("a", {"x": text}), 1.0)]
    assert not parser._known


def test_lines_with_changing_times_are_not_remembered_one_by_one() -> None:
    parser = PageParser(["a"])

    for now in range(50):
        parser.samples(f"a {now} {now + 7}\nb {now} {now + 7}\n".encode())

    assert len(parser._known) == 1


def test_a_longer_line_than_any_engine_writes_is_refused() -> None:
    page = b'# TYPE a gauge\na{x="' + b"y" * LINE_MAX_BYTES + b'"} 1\n'

    assert read(page, "b") == []
    with pytest.raises(PageError, match=f"line 2: longer than {LINE_MAX_BYTES} bytes"):
        read(page)


def test_more_lines_than_any_engine_writes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "LARGE_BYTES", 20)
    monkeypatch.setattr(exposition, "LINES_MAX", 10)

    assert len(read(b"a 1\n" * 10)) == 10
    with pytest.raises(PageError, match="page of 44 bytes has over 10 lines"):
        read(b"a 1\n" * 11)


def test_more_wanted_samples_than_any_engine_writes_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exposition, "SAMPLES_MAX", 10)

    assert len(read(b"# TYPE a gauge\n" + b"a 1\n" * 10 + b"b 1\n" * 10)) == 10
    with pytest.raises(PageError, match="page of 59 bytes has over 10 samples of what is read"):
        read(b"# TYPE a gauge\n" + b"a 1\n" * 11)


def test_what_is_remembered_is_weighed_and_dropped_when_too_heavy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exposition, "SERIES_MAX_BYTES", 100_000)
    parser = PageParser(["a"])
    labels = ",".join(f'x{n}=""' for n in range(100))

    for number in range(100):
        parser.samples(f'a{{{labels},y="{number}"}} 1\nb{{{labels},y="{number}"}} 1\n'.encode())
        known = [series for series in parser._known.values() if series is not None]
        assert sum(map(exposition.weight_of, known)) + sum(map(len, parser._known)) < 100_000
    assert parser._known


def test_a_text_that_comes_again_and_again_is_weighed_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exposition, "SERIES_MAX_BYTES", 1000)
    parser = PageParser(["a"])

    # The time behind the value keeps the lines from being read at once.
    pages = [b'b{x="1"} 1\na{x="1"} %d %d\n' % (n, n) for n in range(100)]
    series = [parser.samples(page)[0][0] for page in pages]

    assert all(one is series[0] for one in series)
