"""Trace readers: recorded requests of real services, told apart by what the file holds.

Formats: the Azure LLM inference traces (github.com/Azure/AzurePublicDataset, a CSV with the columns
TIMESTAMP, ContextTokens, GeneratedTokens) and the Mooncake traces (github.com/kvcache-ai/Mooncake,
one JSON object a line with timestamp in ms, input_length, output_length).
"""

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.workload.request import Request

_AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_MOONCAKE_KEYS = ("timestamp", "input_length", "output_length")
_FIX_FORMAT = (
    "give an Azure CSV (header TIMESTAMP,ContextTokens,GeneratedTokens) or Mooncake JSON lines "
    "(timestamp, input_length, output_length)"
)

_Row = tuple[float, int, int]


class _BadRowError(ValueError):
    """What is wrong with one row, and what to do."""


def read_trace(path: Path | str, *, tokens_max: int | None = None) -> tuple[Request, ...]:
    """Read a trace file into requests in order of arrival, the first one at 0 seconds.

    Token counts above `tokens_max` are clipped to it; without it they stay as they are.
    Raises ConfigError naming file, line and fix for whatever cannot be read.
    """
    if tokens_max is not None and tokens_max < 1:
        raise ConfigError(f"tokens_max is {tokens_max}: give 1 or more, or leave it out")
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as lines:
            rows = sorted(_rows(path, lines), key=lambda row: row[0])
    except OSError as error:
        fix = "check the path and its permissions"
        raise ConfigError(f"{path}: cannot be read ({error.strerror}): {fix}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not a text file: {_FIX_FORMAT}") from error
    if not rows:
        raise ConfigError(f"{path}: holds no request: {_FIX_FORMAT}")
    top = math.inf if tokens_max is None else tokens_max
    first_s = rows[0][0]
    return tuple(
        Request(at_s - first_s, int(min(given, top)), int(min(wanted, top)))
        for at_s, given, wanted in rows
    )


def _rows(path: Path | str, lines: Iterable[str]) -> Iterator[_Row]:
    """Yield (time in seconds, input tokens, output tokens) of every row that is not blank."""
    parse: Callable[[str], _Row] | None = None
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        try:
            if parse is not None:
                yield parse(text)
            elif text.startswith("{"):
                parse = _mooncake_row
                yield parse(text)
            else:
                parse = _azure_parser(text)
        except _BadRowError as error:
            raise ConfigError(f"{path}:{number}: {error}") from error


def _azure_parser(header: str) -> Callable[[str], _Row]:
    names = [name.strip(' "') for name in header.split(",")]
    if any(column not in names for column in _AZURE_COLUMNS):
        raise _BadRowError(f"is not a known trace format: {_FIX_FORMAT}")
    places = tuple(names.index(column) for column in _AZURE_COLUMNS)

    def row(text: str) -> _Row:
        try:
            cells = next(csv.reader([text], strict=True))
            at, given, wanted = (cells[place].strip() for place in places)
        except (csv.Error, IndexError) as error:
            raise _BadRowError(f"has no {len(names)} columns: complete or delete it") from error
        try:
            moment = datetime.fromisoformat(at)
        except ValueError as error:
            example = "2023-11-16 18:17:03.97"
            raise _BadRowError(f"TIMESTAMP {at!r} is no time: write it as {example}") from error
        # Without an offset the times are taken as UTC: only their differences matter.
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        counts = (_integer("ContextTokens", given), _integer("GeneratedTokens", wanted))
        return (aware.timestamp(), *counts)

    return row


def _integer(name: str, cell: str) -> int:
    try:
        return _tokens(name, int(cell))
    except ValueError as error:
        raise _bad_tokens(name, cell) from error


def _mooncake_row(text: str) -> _Row:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _BadRowError("is not JSON: complete or delete it") from error
    missing = [key for key in _MOONCAKE_KEYS if not isinstance(row, dict) or key not in row]
    if missing:
        raise _BadRowError(f"lacks {missing[0]}: {_FIX_FORMAT}")
    at_ms, given, wanted = (row[key] for key in _MOONCAKE_KEYS)
    if isinstance(at_ms, bool) or not isinstance(at_ms, int | float) or not _is_finite(at_ms):
        raise _BadRowError(f"timestamp {at_ms!r} is no number: give milliseconds")
    counts = (_tokens("input_length", given), _tokens("output_length", wanted))
    return (at_ms / 1000, *counts)


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # An integer that no float can hold.
        return False


def _tokens(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _bad_tokens(name, value)
    return value


def _bad_tokens(name: str, value: object) -> _BadRowError:
    return _BadRowError(f"{name} {value!r} is no count of 1 or more: correct or delete the row")
