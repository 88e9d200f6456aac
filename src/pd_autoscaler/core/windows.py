"""Windows: one node's recent pages, read as rates, histogram deltas and gauges over a span."""

import math
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pd_autoscaler.model.signals import Histogram, Reading


@dataclass(frozen=True, slots=True)
class Buckets:
    """Cumulative counts by ascending upper bound; the last bound is +Inf."""

    bounds: tuple[float, ...]
    counts: "array[float]"


class Quantile(NamedTuple):
    """A quantile; one that falls into the top bucket is only known to be at least its bound."""

    value: float
    is_lower_bound: bool


class Span(NamedTuple):
    """What a counter grew by, and over how many seconds."""

    delta: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Page:
    """One page with its counters unwrapped: they never go back, whatever the engine did."""

    at_s: float
    gauges: Mapping[str, float]
    counters: Mapping[str, float]
    histograms: Mapping[str, Buckets]


@dataclass(frozen=True, slots=True)
class History:
    """The pages of one process, oldest first; a counter that goes back began again at zero.

    `moved_at_s` is when a page last differed from the one before it.
    """

    pages: tuple[Page, ...] = ()
    moved_at_s: float = -math.inf
    _last: Reading | None = None
    _raw: Mapping[str, float] = field(default_factory=dict)
    _totals: Mapping[str, float] = field(default_factory=dict)
    _raw_buckets: Mapping[str, Buckets] = field(default_factory=dict)
    _total_buckets: Mapping[str, Buckets] = field(default_factory=dict)

    def added(self, reading: Reading, *, keep_s: float) -> "History":
        """Return this history with one more page, and without what is older than `keep_s`.

        A page that is not newer than the newest one changes nothing.
        """
        if self._last is not None and reading.at_s <= self._last.at_s:
            return self
        totals = {
            name: self._totals.get(name, raw) + _growth(self._raw.get(name, raw), raw)
            for name, raw in reading.counters.items()
        }
        raw_buckets: dict[str, Buckets] = {}
        total_buckets: dict[str, Buckets] = {}
        for name, histogram in reading.histograms.items():
            raw_now = _buckets(histogram, like=self._raw_buckets.get(name))
            raw_buckets[name] = raw_now
            total_buckets[name] = _unwrapped(
                self._raw_buckets.get(name), self._total_buckets.get(name), raw_now
            )
        page = Page(reading.at_s, reading.gauges, totals, total_buckets)
        first_s = reading.at_s - keep_s
        # One page older than the window stays: a rate over the whole window starts there.
        outside = sum(old.at_s < first_s for old in self.pages)
        return History(
            pages=(*self.pages[max(0, outside - 1) :], page),
            moved_at_s=self.moved_at_s if self._is_same(reading) else reading.at_s,
            _last=reading,
            _raw={**self._raw, **reading.counters},
            _totals={**self._totals, **totals},
            _raw_buckets={**self._raw_buckets, **raw_buckets},
            _total_buckets={**self._total_buckets, **total_buckets},
        )

    def _is_same(self, reading: Reading) -> bool:
        return self._last is not None and replace(reading, at_s=self._last.at_s) == self._last

    @property
    def newest(self) -> Page | None:
        """The newest page, None before the first."""
        return self.pages[-1] if self.pages else None

    def ends(
        self, has: Callable[[Page], bool], *, now_s: float, window_s: float
    ) -> tuple[Page, Page] | None:
        """Return the newest page and the one that a delta over the window starts from.

        That is the newest page at or before the window's start, else the oldest inside it; None
        without two pages that have what is asked for, or with none inside the window.
        """
        start_s = now_s - window_s
        last = self.newest
        if last is None or last.at_s < start_s or not has(last):
            return None
        first: Page | None = None
        for page in reversed(self.pages[:-1]):
            if has(page):
                first = page
                if page.at_s <= start_s:
                    break
        return None if first is None else (first, last)

    def grown(self, name: str, *, now_s: float, window_s: float) -> Span | None:
        """Return by how much a counter grew over the window, None if that is unknown."""
        pair = self.ends(lambda page: name in page.counters, now_s=now_s, window_s=window_s)
        if pair is None:
            return None
        first, last = pair
        return Span(last.counters[name] - first.counters[name], last.at_s - first.at_s)

    def rate(self, name: str, *, now_s: float, window_s: float) -> float | None:
        """Return a counter's growth per second over the window, None if that is unknown."""
        span = self.grown(name, now_s=now_s, window_s=window_s)
        return None if span is None else span.delta / span.seconds

    def observations(self, name: str, *, now_s: float, window_s: float) -> Buckets | None:
        """Return the histogram of what was observed in the window, None if that is unknown."""
        newest = self.newest
        bounds = newest.histograms[name].bounds if newest and name in newest.histograms else ()
        pair = self.ends(
            # Other bounds are another engine's; what it counted cannot be taken from this one's.
            lambda page: name in page.histograms and page.histograms[name].bounds == bounds,
            now_s=now_s,
            window_s=window_s,
        )
        if pair is None:
            return None
        first, last = (page.histograms[name].counts for page in pair)
        return Buckets(bounds, array("d", (b - a for a, b in zip(first, last, strict=True))))

    def gauges(self, name: str, *, now_s: float, window_s: float) -> list[float]:
        """Return a gauge's values inside the window, oldest first."""
        return [
            page.gauges[name]
            for page in self.pages
            if page.at_s >= now_s - window_s and name in page.gauges
        ]

    def highest(self, name: str, *, now_s: float, window_s: float) -> float | None:
        """Return a gauge's highest value in the window, None if it has none there."""
        return max(self.gauges(name, now_s=now_s, window_s=window_s), default=None)

    def mean(self, name: str, *, now_s: float, window_s: float) -> float | None:
        """Return a gauge's mean over the pages in the window, None if there are none."""
        values = self.gauges(name, now_s=now_s, window_s=window_s)
        return math.fsum(values) / len(values) if values else None


def quantile(buckets: Buckets, q: float) -> Quantile | None:
    """Return the q-quantile, None of an empty histogram.

    Interpolates inside a bucket as Prometheus' histogram_quantile does (prometheus/prometheus
    promql/quantile.go), which answers the top bucket with its lower bound: here that is flagged.
    """
    count = buckets.counts[-1] if buckets.counts else 0.0
    if count <= 0:
        return None
    rank = q * count
    index = next(i for i, value in enumerate(buckets.counts) if value >= rank)
    bound = buckets.bounds[index]
    below = buckets.counts[index - 1] if index else 0.0
    lower = buckets.bounds[index - 1] if index else 0.0
    if bound == math.inf:
        return Quantile(lower, is_lower_bound=True)
    inside = buckets.counts[index] - below
    if inside <= 0 or (index == 0 and bound <= 0):
        return Quantile(bound, is_lower_bound=False)
    return Quantile(lower + (bound - lower) * (rank - below) / inside, is_lower_bound=False)


def merged(histograms: Iterable[Buckets]) -> Buckets | None:
    """Sum histograms of several nodes, None of none.

    Where bounds differ (engines of two versions), a count is carried up to the next bound, so that
    a quantile can come out too high but never too low.
    """
    by_bounds: dict[tuple[float, ...], list[float]] = {}
    for histogram in histograms:
        counts = by_bounds.setdefault(histogram.bounds, [0.0] * len(histogram.bounds))
        for i, count in enumerate(histogram.counts):
            counts[i] += count
    if not by_bounds:
        return None
    if len(by_bounds) == 1:
        ((bounds, counts),) = by_bounds.items()
        return Buckets(bounds, array("d", counts))
    union = tuple(sorted({bound for bounds in by_bounds for bound in bounds}))
    total = array("d", [0.0] * len(union))
    for bounds, counts in by_bounds.items():
        at, below = 0, 0.0
        for i, bound in enumerate(union):
            while at < len(bounds) and bounds[at] <= bound:
                below = counts[at]
                at += 1
            total[i] += below
    return Buckets(union, total)


def _growth(before: float, now: float) -> float:
    return now - before if now >= before else now


def _buckets(histogram: Histogram, *, like: Buckets | None) -> Buckets:
    bounds = tuple(bound for bound, _ in histogram)
    # One tuple of bounds a node instead of one a page: a thousand nodes keep many pages.
    shared = like.bounds if like is not None and like.bounds == bounds else bounds
    return Buckets(shared, array("d", (count for _, count in histogram)))


def _unwrapped(before: Buckets | None, total: Buckets | None, now: Buckets) -> Buckets:
    if before is None or total is None or before.bounds != now.bounds:
        return now
    if before.counts == now.counts:
        return total
    is_reset = any(b < a for a, b in zip(before.counts, now.counts, strict=True))
    grown = now.counts if is_reset else map(float.__sub__, now.counts, before.counts)
    return Buckets(now.bounds, array("d", map(float.__add__, total.counts, grown)))
