"""Windows: one node's recent pages, read as rates, histogram deltas and gauges over a span."""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter, sub
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from pd_autoscaler.core.histograms import alike, unwrapped
from pd_autoscaler.model.signals import Histogram, Reading

T = TypeVar("T")

_NONE: Mapping[str, Any] = MappingProxyType({})


class Span(NamedTuple):
    """What a counter grew by, and over how many seconds."""

    delta: float
    seconds: float


class Page(NamedTuple):
    """One page with its counters unwrapped: they never go back, whatever the engine did."""

    at_s: float
    gauges: Mapping[str, float]
    counters: Mapping[str, float]
    histograms: Mapping[str, Histogram]


_AT_S = attrgetter("at_s")
"""What pages are in order of."""

INSIDE = ("waiting", "waiting_deferred", "running")
"""Gauges that count requests inside an engine; not every engine tells deferred ones apart."""

LOSS_DOUBTED_S = 60.0
"""For so long a page with fewer engines than before is taken for one that lacks some."""


def inside(page: Page) -> float | None:
    """Return how many requests are inside, None where that is not the whole of them."""
    waiting, running = page.gauges.get("waiting"), page.gauges.get("running")
    if waiting is None or running is None:
        return None
    return sum(page.gauges.get(name, 0.0) for name in INSIDE)


def is_working(page: Page) -> bool:
    """Whether a page shows requests inside, so that its counters must move."""
    if not page.counters:
        return False
    gauges = page.gauges
    return bool(gauges.get("waiting") or gauges.get("waiting_deferred") or gauges.get("running"))


class History(NamedTuple):
    """The pages of one process, oldest first; a counter that goes back began again at zero.

    `moved_at_s` is when a page last differed from the one before it. Pages that repeat while there
    is work inside were not renewed: once one differs again they are left out, so that all that was
    counted meanwhile is not taken for the work of one window. A page of another number of engines
    begins anew: what one that comes or goes has counted in its life is nobody's growth.
    """

    pages: tuple[Page, ...] = ()
    moved_at_s: float = -math.inf
    last: Reading | None = None
    raw: Mapping[str, float] = _NONE
    totals: Mapping[str, float] = _NONE
    raw_buckets: Mapping[str, Histogram] = _NONE
    total_buckets: Mapping[str, Histogram] = _NONE
    parts: Mapping[str, int] = _NONE

    def lost(self, reading: Reading) -> str:
        """Say which series a page lacks that are likely to come back; empty if there are none.

        It is no page to read: its sums are too low, and what was taken from them would be a
        lifetime's growth on the next whole page.
        """
        newest = self.newest
        if newest is None or reading.at_s - newest.at_s > LOSS_DOUBTED_S:
            return ""
        fewer = [(old, now, name) for name, old, now in self._other_parts(reading) if now < old]
        if not fewer:
            return ""
        before, now, name = min(fewer)
        return f"the newest has {now} of {before} series of {name}"

    def added(self, reading: Reading, *, keep_s: float, spacing_s: float = 0.0) -> "History":
        """Return this history with one more page, and without what is older than `keep_s`.

        A page that is not newer than the newest one changes nothing. The newest takes the place of
        the one before it where that came less than `spacing_s` after its own.
        """
        if self.last is not None and reading.at_s <= self.last.at_s:
            return self
        if reading.parts != self.parts and any(self._other_parts(reading)):
            return NO_PAGES.added(reading, keep_s=keep_s)
        if self.parts and (born := self._born(reading)):
            return self._from_zero(born).added(reading, keep_s=keep_s, spacing_s=spacing_s)
        totals: dict[str, float] = {}
        for name, raw in reading.counters.items():
            before = self.raw.get(name, raw)
            totals[name] = self.totals.get(name, raw) + (raw - before if raw >= before else raw)
        raw_buckets: dict[str, Histogram] = {}
        total_buckets: dict[str, Histogram] = {}
        for name, histogram in reading.histograms.items():
            before_buckets = self.raw_buckets.get(name)
            now = raw_buckets[name] = alike(histogram, before_buckets)
            total_buckets[name] = unwrapped(before_buckets, self.total_buckets.get(name), now)
        page = Page(reading.at_s, reading.gauges, totals, total_buckets)
        is_same = self.last is not None and reading.says_as(self.last)
        kept = self.pages if is_same else self._renewed(reading)
        # One page older than the window stays: a rate over the whole window starts there.
        outside = bisect_left(kept, reading.at_s - keep_s, key=_AT_S)
        kept = kept[outside - 1 :] if outside > 1 else kept
        if len(kept) > 1 and kept[-1].at_s - kept[-2].at_s < spacing_s:
            kept = kept[:-1]
        return History(
            pages=(*kept, page),
            moved_at_s=self.moved_at_s if is_same else reading.at_s,
            last=reading,
            raw=_updated(self.raw, reading.counters),
            totals=_updated(self.totals, totals),
            raw_buckets=_updated(self.raw_buckets, raw_buckets),
            total_buckets=_updated(self.total_buckets, total_buckets),
            parts=_updated(self.parts, reading.parts),
        )

    def _other_parts(self, reading: Reading) -> Iterator[tuple[str, int, int]]:
        """Give what is the sum of another number of series than before, with both numbers."""
        if reading.parts == self.parts:
            return
        for name in {**self.parts, **reading.parts}:
            is_on_both = (name in self.raw and name in reading.counters) or (
                name in self.raw_buckets and name in reading.histograms
            )
            # None of a counter that was not there yet: its first series is growth, as in `_born`.
            before, now = self.parts.get(name) or 1, reading.parts.get(name) or 1
            if is_on_both and before != now:
                yield name, before, now

    def _born(self, reading: Reading) -> dict[str, float]:
        """Return at zero the counters that were to appear with their first event, and now did."""
        return {
            name: 0.0
            for name, parts in self.parts.items()
            if parts == 0 and name in reading.counters and name not in self.raw
        }

    def _from_zero(self, born: Mapping[str, float]) -> "History":
        return self._replace(
            pages=tuple(p._replace(counters={**born, **p.counters}) for p in self.pages),
            raw={**self.raw, **born},
            totals={**self.totals, **born},
        )

    def _renewed(self, reading: Reading) -> tuple[Page, ...]:
        """Return the pages without those that only repeated, where this one says something new."""
        newest = self.newest
        # Where counters grow at the end of a request only, standing still is how they work.
        if newest is None or reading.lumpy or not is_working(newest):
            return self.pages
        return self.pages[: bisect_right(self.pages, self.moved_at_s, key=_AT_S)]

    @property
    def newest(self) -> Page | None:
        """The newest page, None before the first."""
        return self.pages[-1] if self.pages else None

    @property
    def engine(self) -> str:
        """The profile that the newest page was read with; empty before the first."""
        return self.last.engine if self.last else ""

    @property
    def lumpy(self) -> frozenset[str]:
        """The counters that grow at the end of a request only."""
        return self.last.lumpy if self.last else frozenset()

    def over(self, *, now_s: float, window_s: float) -> "View":
        """Return what these pages say over a window that ends now."""
        pages, start_s = self.pages, now_s - window_s
        if not pages:
            return View(self, window_s, 0.0, None, (), ())
        last = pages[-1]
        first = bisect_left(pages, start_s, key=_AT_S)
        earlier: tuple[Page, ...] = ()
        if last.at_s >= start_s:
            # Not further back, whatever is kept: a longer memory must not change an answer.
            at_or_before = bisect_right(pages, start_s, first, len(pages) - 1, key=_AT_S)
            earlier = pages[max(0, at_or_before - 1) : -1]
        return View(self, window_s, max(0.0, now_s - last.at_s), last, earlier, pages[first:])


class View(NamedTuple):
    """One history over one window; where that begins is found once for all that is asked.

    `last` is the newest page, `age_s` how old that is. `earlier` are the pages that a delta to it
    may start at, oldest first: the newest at or before the window's start, then those inside; none
    where the newest itself is from before that. `inside` are all pages inside the window.
    """

    history: History
    window_s: float
    age_s: float
    last: Page | None
    earlier: tuple[Page, ...]
    inside: tuple[Page, ...]

    def ends(self, has: Callable[[Page], bool]) -> tuple[Page, Page] | None:
        """Return the pages that a delta over the window starts from and ends at.

        Pages without what is asked for are left out. None without two of them.
        """
        last = self.last
        if last is None or not has(last):
            return None
        for page in self.earlier:
            if has(page):
                return page, last
        return None

    def grown(self, name: str) -> Span | None:
        """Return by how much a counter grew over the window, None if that is unknown."""
        last = self.last
        # What no page has is asked for as often as what all have.
        if last is None or name not in last.counters:
            return None
        for first in self.earlier:
            before = first.counters.get(name)
            if before is not None:
                return Span(last.counters[name] - before, last.at_s - first.at_s)
        return None

    def rate(self, name: str) -> float | None:
        """Return a counter's growth per second over the window, None if that is unknown."""
        span = self.grown(name)
        return None if span is None else span.delta / span.seconds

    def mean_observed(self, name: str) -> float | None:
        """Return sum over count of what a histogram observed in the window, None of nothing."""
        total = self.grown(f"{name}_sum")
        count = self.grown(f"{name}_count")
        if total is None or count is None or count.delta <= 0:
            return None
        return total.delta / count.delta

    def observed_count(self, name: str) -> float | None:
        """Return how much a histogram observed in the window, None if that is unknown."""
        count = self.grown(f"{name}_count")
        if count is not None:
            return count.delta
        buckets = self.observations(name)
        return None if buckets is None else buckets.total

    def observations(self, name: str) -> Histogram | None:
        """Return the histogram of what was observed in the window, None if that is unknown."""
        last = self.last.histograms.get(name) if self.last is not None else None
        if last is None:
            return None
        for page in self.earlier:
            first = page.histograms.get(name)
            # Other bounds are another engine's; what it counted cannot be taken from this one's.
            if first is not None and first.bounds == last.bounds:
                grown = array("d", map(sub, last.counts, first.counts))
                # Bounds that came back after others began again: what lies between is not known.
                return None if min(grown, default=0.0) < 0 else Histogram(last.bounds, grown)
        return None

    def gauges(self, name: str) -> list[float]:
        """Return a gauge's values inside the window, oldest first."""
        return [page.gauges[name] for page in self.inside if name in page.gauges]

    def highest(self, name: str) -> float | None:
        """Return a gauge's highest value in the window, None if it has none there."""
        values = self.gauges(name)
        return max(values) if values else None

    def mean(self, name: str) -> float | None:
        """Return a gauge's mean over the pages in the window, None if there are none."""
        values = self.gauges(name)
        return math.fsum(values) / len(values) if values else None


NO_PAGES = History()


def _updated(before: Mapping[str, T], now: Mapping[str, T]) -> Mapping[str, T]:
    """Return what is known by name: nearly always what is told now, of all names."""
    return now if before.keys() <= now.keys() else {**before, **now}
