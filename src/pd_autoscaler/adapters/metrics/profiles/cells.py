"""Cells: the samples of one page, put together into values and histograms.

A cell holds what one name with its labels had on a page: a number for each engine or rank that
exports it, or, of a histogram, so many for each bound.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pd_autoscaler.adapters.metrics.profiles.meaning import Combine, Term
from pd_autoscaler.model.signals import Histogram

VALUE_MAX = 1e18
"""Above it nothing is a count or a latency, and no sum comes near what a float can hold."""
BOUNDS_MAX = 200
"""Bounds of a histogram; an engine's have some twenty."""
NO_BOUND = math.nan
"""The bound of a bucket that names none: its histogram is none."""


class Cells(NamedTuple):
    """The values of one page: by cell, and by cell and bound."""

    values: Sequence[list[float]]
    buckets: Sequence[Mapping[float, list[float]]]


class Cased(NamedTuple):
    """A term with the cells of its names, prefixes included, in the order they are tried."""

    term: Term
    cells: tuple[int, ...]


class Summed(NamedTuple):
    """The terms of a sum."""

    terms: tuple[Cased, ...]
    is_lumpy: bool = False
    is_sparse: bool = False


class Bucketed(NamedTuple):
    """The names of a histogram in the order they are tried: buckets, sum, count."""

    factor: float
    names: tuple[tuple[int, Cased, Cased], ...]


class Divided(NamedTuple):
    """Two counters in the place of a histogram."""

    above: Summed
    below: Summed


class Spread(NamedTuple):
    """Sum, count and buckets of a histogram, and of how many series they are the sum."""

    total: float | None = None
    observed: float | None = None
    histogram: Histogram | None = None
    parts: int = 1


def first(ways: Iterable[Summed], cells: Cells) -> tuple[float, Summed] | None:
    """Return the first value that can be told, and the way to it."""
    for way in ways:
        value = _summed(way, cells)
        if value is not None:
            return value, way
    return None


def parts(way: Summed, cells: Cells) -> int:
    """Count the series that a value is the sum of, but for those that may be absent."""
    # With nothing but terms that may be absent, their number does not tell engines apart.
    return sum(len(_values(c, cells)) for c in way.terms if not c.term.is_optional) or 1


def is_unborn(ways: Sequence[Summed], cells: Cells) -> bool:
    """Whether a counter is absent because there was nothing to count so far."""
    is_absent = not any(_values(cased, cells) for way in ways for cased in way.terms)
    return is_absent and any(way.is_sparse for way in ways)


def _summed(way: Summed, cells: Cells) -> float | None:
    values = []
    for cased in way.terms:
        value = _combined(cased, cells)
        if value is not None:
            values.append(value)
        elif not cased.term.is_optional:
            return None
    if not values or not all(abs(value) <= VALUE_MAX for value in values):
        return None
    total = math.fsum(values)
    # A NaN is an engine that does not know; a count below zero is one that is wrong.
    return total if total >= 0 else None


def _combined(cased: Cased, cells: Cells) -> float | None:
    """Combine a term's samples: None if there are none, NaN if one of them is no count."""
    term = cased.term
    values = _values(cased, cells)
    if not values:
        return None
    if not all(0 <= value <= VALUE_MAX for value in values):
        return math.nan
    if term.is_percent:
        values = [value / 100 if value > 1 else value for value in values]
        if max(values) > 1:
            return math.nan
    if term.combine is Combine.MAX:
        return max(values) * term.factor
    total = math.fsum(values) * term.factor
    return total / len(values) if term.combine is Combine.MEAN else total


def _values(cased: Cased, cells: Cells) -> list[float]:
    for cell in cased.cells:
        if cells.values[cell]:
            return cells.values[cell]
    return []


def distribution(ways: Iterable[Bucketed | Divided], cells: Cells) -> Spread:
    """Return what the first way says that has a sum, a count or buckets."""
    for way in ways:
        if isinstance(way, Divided):
            total, count = _summed(way.above, cells), _summed(way.below, cells)
            if total is not None and count is not None:
                return Spread(total, count, None, parts(way.above, cells) + parts(way.below, cells))
            continue
        for bucket, sums, counts in way.names:
            total = _summed(Summed((sums,)), cells)
            count = _summed(Summed((counts,)), cells)
            by_bound = cells.buckets[bucket]
            rows = _rows(by_bound, way.factor)
            if rows or total is not None or count is not None:
                is_broken = NO_BOUND in by_bound or len(by_bound) > BOUNDS_MAX
                histogram = None if is_broken else _cumulative(rows, count)
                engines = len(_values(counts, cells)) or len(_values(sums, cells)) or rows[0][2]
                return Spread(total, count, histogram, engines)
    return Spread()


def _rows(by_bound: Mapping[float, list[float]], factor: float) -> list[tuple[float, float, int]]:
    """Return bound, count and number of engines of every bucket on the page, bounds ascending."""
    return sorted(
        (bound * factor, sum(values), len(values))
        for bound, values in by_bound.items()
        if bound is not NO_BOUND
    )


def _cumulative(rows: Sequence[tuple[float, float, int]], count: float | None) -> Histogram | None:
    """Make a histogram of the buckets of all engines; None if they are not one."""
    if not rows:
        return None
    histogram = [(bound, value) for bound, value, _ in rows]
    if histogram[-1][0] != math.inf:
        if count is None:
            return None
        histogram.append((math.inf, count))
    values = [value for _, value in histogram]
    is_whole = (
        # Engines that do not share their bounds cannot be added up.
        len({engines for _, _, engines in rows}) == 1
        and values[0] >= 0
        and values == sorted(values)
        and all(value <= VALUE_MAX for value in values)
    )
    return Histogram.of(histogram) if is_whole else None
