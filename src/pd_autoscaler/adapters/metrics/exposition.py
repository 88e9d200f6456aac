"""Prometheus text: the samples that are wanted, read from the bytes of a page.

The format is that of prometheus/docs content/docs/instrumenting/exposition_formats.md; the
exemplars of OpenMetrics are skipped, and so is every line whose name is not wanted.
"""

import re
from typing import NamedTuple

_NAME_END = re.compile(rb"[ \t{]")
_LABEL = re.compile(rb'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(,?)')
_LABELS_END = re.compile(rb"[ \t]*}")
_ESCAPE = re.compile(r'\\[\\n"]')
_ESCAPED = {"\\\\": "\\", "\\n": "\n", '\\"': '"'}


class PageError(ValueError):
    """A page that cannot be trusted; the message says where and why."""


class Sample(NamedTuple):
    """One line of a page."""

    name: str
    labels: dict[str, str]
    value: float


def parse(page: bytes, wanted: frozenset[bytes]) -> list[Sample]:
    """Return the samples named in `wanted`, in page order.

    A name is that of a sample: a histogram is wanted as `…_bucket`, `…_sum` and `…_count`.
    Raises PageError on a wanted line that is malformed, and on a page whose last line has no end,
    since a value cut short is still a number.
    """
    lines = page.split(b"\n")
    if lines[-1].strip():
        raise PageError(
            f"page of {len(page)} bytes is cut short in line {len(lines)}: {_shown(lines[-1])}"
        )
    samples = []
    for number, line in enumerate(lines, 1):
        if line[:1] == b"#":
            continue
        text = line.strip()
        end = _NAME_END.search(text)
        if end is None or text[: end.start()] not in wanted:
            continue
        try:
            samples.append(_sample(text, end.start()))
        except ValueError as error:
            raise PageError(f"line {number}: {error}: {_shown(line)}") from error
    return samples


def _sample(text: bytes, name_end: int) -> Sample:
    at = name_end
    while text[at] in b" \t":
        at += 1
    labels: dict[str, str] = {}
    if text[at] == ord("{"):
        labels, at = _labels(text, at + 1)
    fields = text[at:].split(b"#", 1)[0].split()
    if len(fields) not in {1, 2}:
        raise PageError("expected a value and perhaps a timestamp")
    if len(fields) == 2:
        _number(fields[1])
    return Sample(text[:name_end].decode(), labels, _number(fields[0]))


def _labels(text: bytes, at: int) -> tuple[dict[str, str], int]:
    labels: dict[str, str] = {}
    more = True
    while not (end := _LABELS_END.match(text, at)):
        label = _LABEL.match(text, at) if more else None
        if label is None:
            raise PageError("malformed labels")
        name, value, comma = label.groups()
        if name.decode() in labels:
            raise PageError(f"label {name.decode()} twice")
        labels[name.decode()] = _ESCAPE.sub(lambda m: _ESCAPED[m.group()], value.decode())
        more, at = bool(comma), label.end()
    return labels, end.end()


def _number(field: bytes) -> float:
    # float() takes the digit separators of Python, which the format does not have.
    if b"_" in field:
        raise PageError("malformed number")
    return float(field)


def _shown(line: bytes) -> str:
    return repr(line[:80].decode(errors="replace"))
