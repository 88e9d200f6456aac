"""Reading: one role's meanings, compiled so that a sample costs a look-up and an append.

Where the values of a series go is worked out once and remembered by the series itself, which a
`PageParser` hands out again for the same text: bucket bounds are parsed, labels compared and ranks
told apart once for a fleet, not once a page.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pd_autoscaler.adapters.metrics.exposition import (
    SERIES_MAX,
    SERIES_MAX_BYTES,
    PageError,
    Sample,
    Series,
    weight_of,
)
from pd_autoscaler.adapters.metrics.profiles.cells import (
    NO_BOUND,
    VALUE_MAX,
    Bucketed,
    Cased,
    Cells,
    Divided,
    Summed,
    distribution,
    first,
    is_unborn,
    parts,
)
from pd_autoscaler.adapters.metrics.profiles.meaning import (
    Buckets,
    Meaning,
    Meanings,
    Term,
    Value,
)
from pd_autoscaler.model.signals import Histogram

ROUTES_MAX = SERIES_MAX
"""Series remembered, as many as by a parser; past it all are forgotten."""
ROUTES_MAX_BYTES = SERIES_MAX_BYTES
"""What these may take in memory: they are kept here also when a parser has forgotten them."""

_RANK_DIGITS_MAX = 9


class Found(NamedTuple):
    """What a page says, in canonical names; `is_empty` if it had no sample that is read.

    `parts` says of how many series a counter or histogram is the sum, where that is not one: none
    of a sparse counter that has not appeared yet. Of one that has, they do not tell how many
    engines are on the page.
    """

    gauges: dict[str, float]
    counters: dict[str, float]
    histograms: dict[str, Histogram]
    lumpy: frozenset[str]
    parts: dict[str, int]
    is_empty: bool


_Places = tuple[tuple[tuple[int, float], ...], tuple[tuple[int, float], ...]]
"""Cells with the factors that labels give, and cells of histograms with the bounds."""
_Fellows = tuple[str, frozenset[tuple[str, str]]]
_ALONE: _Fellows = ("", frozenset())


class _Route(NamedTuple):
    """Where a series goes, its ranks and its fellows.

    It keeps the series, so that no other can have its id.
    """

    series: Series
    places: _Places
    ranks: tuple[int, ...]
    fellows: _Fellows


class _Taker(NamedTuple):
    """Takes series of one name into its cell, those of buckets by the bound that `le` names."""

    term: Term
    cell: int
    is_bucket: bool = False


class Reader:
    """Reads the samples of one role's pages; `rank_labels` number copies of the same thing.

    Of several ranks that differ in nothing but these labels the lowest alone is counted.
    """

    def __init__(
        self, meanings: Meanings, prefixes: Sequence[str], rank_labels: Sequence[str] = ()
    ) -> None:
        self._meanings = meanings
        self._prefixes = tuple(prefixes)
        self._rank_labels = tuple(rank_labels)
        self._compile()

    @property
    def wanted(self) -> frozenset[str]:
        """Names of the samples that are read."""
        return frozenset(self._takers)

    def found(self, samples: Iterable[Sample]) -> Found:
        """Return what the samples of one page say; PageError if two of one series differ."""
        if len(self._routes) > ROUTES_MAX or self._routes_bytes > ROUTES_MAX_BYTES:
            self._compile()
        routes, route_of = self._routes, self._route_of
        samples = once(samples)
        routed = [(routes.get(id(series)) or route_of(series), value) for series, value in samples]
        if self._rank_labels and any(route.ranks for route, _ in routed):
            routed = _of_lowest_ranks(routed)
        values: list[list[float]] = [[] for _ in range(self._cell_count)]
        # The bounds of this page alone: what one engine makes up costs the others nothing.
        buckets = [defaultdict[float, list[float]](list) for _ in range(self._bucket_count)]
        for route, value in routed:
            cells, bounds = route.places
            for cell, factor in cells:
                values[cell].append(value * factor)
            for bucket, bound in bounds:
                buckets[bucket][bound].append(value)
        return self._found(Cells(values, buckets), is_empty=not any(values) and not any(buckets))

    def _found(self, cells: Cells, *, is_empty: bool) -> Found:
        gauges = {
            name: found[0]
            for name, ways in self._gauges.items()
            if (found := first(ways, cells)) is not None
        }
        counters: dict[str, float] = {}
        of_series: dict[str, int] = {}
        lumpy = set()
        for name, ways in self._counters.items():
            if (found := first(ways, cells)) is not None:
                counters[name], way = found
                if way.is_lumpy:
                    lumpy.add(name)
                if not way.is_sparse:
                    of_series[name] = parts(way, cells)
            elif is_unborn(ways, cells):
                of_series[name] = 0
        histograms: dict[str, Histogram] = {}
        for name, ways_to in self._histograms.items():
            spread = distribution(ways_to, cells)
            if spread.total is not None:
                counters[f"{name}_sum"] = spread.total
                of_series[f"{name}_sum"] = spread.parts
            if spread.observed is not None:
                counters[f"{name}_count"] = spread.observed
                of_series[f"{name}_count"] = spread.parts
            if spread.histogram is not None:
                histograms[name] = spread.histogram
                of_series[name] = spread.parts
        several = {name: count for name, count in of_series.items() if count != 1}
        return Found(gauges, counters, histograms, frozenset(lumpy), several, is_empty)

    def _compile(self) -> None:
        """Lay out the cells; forgets every series seen so far."""
        self._cell_count = self._bucket_count = 0
        self._takers: dict[str, list[_Taker]] = {}
        self._routes: dict[int, _Route] = {}
        self._routes_bytes = 0
        self._places: dict[_Places, _Places] = {}
        self._gauges = {n: self._ways(m) for n, m in self._meanings.gauges.items()}
        self._counters = {n: self._ways(m) for n, m in self._meanings.counters.items()}
        self._histograms = {
            name: tuple(
                self._bucketed(way)
                if isinstance(way, Buckets)
                else Divided(self._summed(way.total), self._summed(way.count))
                for way in wanted.ways
            )
            for name, wanted in self._meanings.histograms.items()
        }

    def _ways(self, meaning: Meaning) -> tuple[Summed, ...]:
        return tuple(self._summed(way) for way in meaning.ways)

    def _summed(self, way: Value) -> Summed:
        terms = tuple(self._cased(t, self._full(t)) for t in way.terms)
        return Summed(terms, way.is_lumpy, way.is_sparse)

    def _bucketed(self, way: Buckets) -> Bucketed:
        # Of a histogram only what is measured has a unit; counts have none.
        counted = Term(names=way.term.names, labels=way.term.labels)
        names = []
        for name in self._full(way.term):
            bucket = self._bucket_count
            self._bucket_count += 1
            self._take(f"{name}_bucket", _Taker(counted, bucket, is_bucket=True))
            names.append(
                (
                    bucket,
                    self._cased(way.term, (f"{name}_sum",)),
                    self._cased(counted, (f"{name}_count",)),
                )
            )
        return Bucketed(way.term.factor, tuple(names))

    def _full(self, term: Term) -> tuple[str, ...]:
        return tuple(prefix + name for name in term.names for prefix in self._prefixes)

    def _cased(self, term: Term, names: Iterable[str]) -> Cased:
        cells = []
        for name in names:
            cells.append(self._cell_count)
            self._cell_count += 1
            self._take(name, _Taker(term, cells[-1]))
        return Cased(term, tuple(cells))

    def _take(self, name: str, taker: _Taker) -> None:
        self._takers.setdefault(name, []).append(taker)

    def _route_of(self, series: Series) -> _Route:
        """Work out and remember where a series goes; one that nothing takes goes nowhere."""
        labels = series.labels
        cells, buckets = [], []
        for taker in self._takers.get(series.name, ()):
            if all(labels.get(key, "") == wanted for key, wanted in taker.term.labels.items()):
                if taker.is_bucket:
                    buckets.append((taker.cell, _bound(labels)))
                elif (factor := _product(taker.term.label_product, labels)) is not None:
                    cells.append((taker.cell, factor))
        # A fleet's series go to few places: what is equal is kept once.
        places = tuple(cells), tuple(buckets)
        route = _Route(series, self._places.setdefault(places, places), *self._ranks(series))
        self._routes[id(series)] = route
        self._routes_bytes += weight_of(series)
        return route

    def _ranks(self, series: Series) -> tuple[tuple[int, ...], _Fellows]:
        """Return a series' ranks, empty for the lowest there are, and what its copies share."""
        if not self._rank_labels:
            return (), _ALONE
        labels = series.labels
        ranks = tuple(_rank(labels.get(label, "")) for label in self._rank_labels)
        rest = ((k, v) for k, v in labels.items() if k not in self._rank_labels)
        return (ranks if any(ranks) else ()), (series.name, frozenset(rest))


def once(samples: Iterable[Sample]) -> Sequence[Sample]:
    """Return each series once: a page that a proxy gives out twice is no node of twice the load.

    Raises PageError for a series with two values, of which nobody can say which one is true.
    """
    given = samples if isinstance(samples, list) else list(samples)
    if len({id(series) for series, _ in given}) == len(given):
        return given
    values: dict[int, float] = {}
    for series, value in given:
        known = values.setdefault(id(series), value)
        if known != value and not (math.isnan(known) and math.isnan(value)):
            told = ", ".join(f"{key}={text!r}" for key, text in series.labels.items())
            raise PageError(f"{series.name}{{{told}}} has two values, {known:g} and {value:g}")
    return [(series, values.pop(id(series))) for series, _ in given if id(series) in values]


def _product(names: Sequence[str], labels: Mapping[str, str]) -> float | None:
    """Multiply numbers in labels: None if one is not there, NaN if one is no number."""
    if not all(name in labels for name in names):
        return None
    try:
        return math.prod(float(labels[name]) for name in names) if names else 1.0
    except ValueError:
        return math.nan


def _bound(labels: Mapping[str, str]) -> float:
    try:
        bound = float(labels["le"])
    except (KeyError, ValueError):
        return NO_BOUND
    return bound if abs(bound) <= VALUE_MAX or bound == math.inf else NO_BOUND


def _rank(text: str) -> int:
    is_rank = text.isdecimal() and len(text) <= _RANK_DIGITS_MAX
    return int(text) if is_rank else 0


def _of_lowest_ranks(routed: list[tuple[_Route, float]]) -> list[tuple[_Route, float]]:
    lowest: dict[_Fellows, tuple[int, ...]] = {}
    for route, _ in routed:
        # A route without ranks has the lowest: an empty tuple is below all others.
        lowest[route.fellows] = min(lowest.get(route.fellows, route.ranks), route.ranks)
    return [(route, value) for route, value in routed if route.ranks == lowest[route.fellows]]
