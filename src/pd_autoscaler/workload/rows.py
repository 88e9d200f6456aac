"""Rows of recorded requests: what every trace format comes down to, and how cells are read."""

import csv
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple


class Row(NamedTuple):
    """One recorded request.

    `at_s` counts from any moment. `blocks` name the prompt's blocks of tokens, each name standing
    for its block and all before it; () where the trace does not tell.
    """

    at_s: float
    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    blocks: tuple[int | str, ...] = ()


Parser = Callable[[str], Row]
"""Reads one line; raises BadRowError."""


class BadRowError(ValueError):
    """What is wrong with one row, and what to do."""


def cells_of(text: str, columns: int) -> list[str]:
    """Return the cells of one line of CSV, at least so many; raises BadRowError for fewer."""
    try:
        cells = next(csv.reader([text], strict=True)) if '"' in text else text.split(",")
    except csv.Error as error:
        raise BadRowError(f"has no {columns} columns: complete or delete it") from error
    if len(cells) < columns:
        raise BadRowError(f"has no {columns} columns: complete or delete it")
    return cells


def names_of(header: str) -> list[str]:
    """Return the names of a CSV's columns."""
    return [name.strip(' "') for name in header.split(",")]


def place_of(names: Sequence[str], aliases: Sequence[str]) -> int | None:
    """Return where the first of these aliases is among the names, None where none is."""
    return next((names.index(alias) for alias in aliases if alias in names), None)


def tokens(name: str, value: object, *, least: int = 1) -> int:
    """Return a count of tokens; raises BadRowError for what is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _TOKENS_END:
        raise bad_tokens(name, value, least=least)
    return value


def tokens_in(name: str, cell: str, *, least: int = 1) -> int:
    """Return a count of tokens from a cell; raises BadRowError for what is none."""
    try:
        return tokens(name, int(cell), least=least)
    except ValueError as error:
        raise bad_tokens(name, cell, least=least) from error


def bad_tokens(name: str, value: object, *, least: int = 1) -> BadRowError:
    """Return the refusal of a count."""
    return BadRowError(
        f"{name} {shortened(value)} is no count of {least} or more: correct or delete the row"
    )


def number_in(name: str, cell: str, *, least: float = 0.0, is_least_allowed: bool = True) -> float:
    """Return a finite number from a cell, not below `least`; raises BadRowError for another."""
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if least < value < math.inf or (is_least_allowed and value == least):
        return value
    bound = f"not below {least:g}" if is_least_allowed else f"above {least:g}"
    raise BadRowError(
        f"{name} {shortened(cell.strip())} is no number {bound}: correct or delete the row"
    )


def time_in(name: str, cell: str) -> float:
    """Return the seconds of an ISO 8601 time; raises BadRowError for what is none."""
    try:
        moment = datetime.fromisoformat(cell)
    except ValueError as error:
        example = "2023-11-16 18:17:03.97"
        raise BadRowError(f"{name} {shortened(cell)} is no time: write it as {example}") from error
    # Without an offset the times are taken as UTC: only their differences matter.
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.timestamp()


def is_finite(number: float) -> bool:
    """Whether a number is one that a float can hold."""
    try:
        return math.isfinite(number)
    except OverflowError:  # An integer that no float can hold.
        return False


def shortened(value: object) -> str:
    """Return a value as it was written, cut where it is too long for one line."""
    text = repr(value)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."


_TOKENS_END = 2**53
"""Counts beyond this are no longer exact as floats, and no prompt is as long."""

_SHOWN_MAX = 60
