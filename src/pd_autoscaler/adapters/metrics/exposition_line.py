"""One line of Prometheus text or OpenMetrics, read with care: whatever is unusual ends here.

The grammar is that of prometheus/docs content/docs/instrumenting/exposition_formats.md and of
content/docs/specs/om/open_metrics_spec.md. Escapes that neither knows stay as they are written,
as in prometheus_client's parser.
"""

import re
from typing import NamedTuple

_BLANKS = re.compile(rb"[ \t]*")
_NAME = re.compile(rb"[^ \t{]*")
# Possessive: a text of megabytes must not be remembered step by step for a way back.
_LABEL = re.compile(
    rb'[ \t]*+([a-zA-Z_][a-zA-Z0-9_]*+)[ \t]*+=[ \t]*+"((?:[^"\\]++|\\.)*+)"[ \t]*+(,?)',
    re.DOTALL,
)
_LABELS_END = re.compile(rb"[ \t]*+}")
_VALUE = re.compile(
    rb"[ \t]*+([^ \t]++)(?:[ \t]++(?!#)([^ \t]++))?+[ \t]*+(?:(?<=[ \t])#[ \t]*+{.*)?", re.DOTALL
)

LINE_MAX_BYTES = 1 << 16
"""A longer line is malformed: reading one cannot be interrupted."""
NUMERIC = b"0123456789.+-eEaAnNiIfFtTyY"
"""What a number is written with; `float` alone would take more, the `_` of Python among it."""


class Line(NamedTuple):
    """One sample; the first `series_end` bytes of the line say which series it is of."""

    series_end: int
    labels: dict[str, str]
    value: float


def name_of(line: bytes) -> bytes:
    """Return the name a line begins with; empty if it is blank or has none, `#…` if a comment."""
    found = _NAME.match(line, _skipped(line))
    return found.group() if found else b""


def line_of(line: bytes) -> Line:
    """Read a line that begins with a name; raises ValueError if it is malformed."""
    if len(line) > LINE_MAX_BYTES:
        raise ValueError(f"longer than {LINE_MAX_BYTES} bytes")
    line.decode()  # Only this says whether all of it is UTF-8.
    line = line.removesuffix(b"\r")
    found = _NAME.match(line, _skipped(line))
    end = found.end() if found else 0
    at = _skipped(line, end)
    labels: dict[str, str] = {}
    if line[at : at + 1] == b"{":
        labels, at = _labels(line, at + 1)
        end = at
    rest = _VALUE.fullmatch(line, at)
    if rest is None:
        raise ValueError("expected a value and perhaps a timestamp")
    value, stamp = rest.groups()
    if stamp is not None:
        _number(stamp)
    return Line(end, labels, _number(value))


def _skipped(line: bytes, at: int = 0) -> int:
    found = _BLANKS.match(line, at)
    return found.end() if found else at


def _labels(line: bytes, at: int) -> tuple[dict[str, str], int]:
    labels: dict[str, str] = {}
    more = True
    while not (end := _LABELS_END.match(line, at)):
        label = _LABEL.match(line, at) if more else None
        if label is None:
            raise ValueError("malformed labels")
        name, value, comma = label.groups()
        if name.decode() in labels:
            raise ValueError(f"label {name.decode()[:80]} twice")
        labels[name.decode()] = _unescaped(value.decode())
        more, at = bool(comma), label.end()
    return labels, end.end()


def _unescaped(text: str) -> str:
    parts = text.split(r"\\")
    return "\\".join(part.replace(r"\n", "\n").replace(r"\"", '"') for part in parts)


def _number(field: bytes) -> float:
    if field.translate(None, NUMERIC):
        raise ValueError("malformed number")
    return float(field)
