"""Aggregates: what the sources of one role say together over one window."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import fsum

from pd_autoscaler.core import first_tokens
from pd_autoscaler.core.freshness import Source
from pd_autoscaler.core.histograms import Buckets, mean_square, merged, quantile
from pd_autoscaler.core.windows import History
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import Signal

_FELT = {Role.PROMPT: "ttft_s", Role.DECODER: "tpot_s"}
"""The latency that each role owes its users."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Over:
    """Sums, means and quantiles over fresh sources; None where none of them knows.

    A signal is as old as the oldest of the newest pages behind it, and counts the nodes it comes
    from. A sum that some of the sources know nothing of is a lower bound.
    """

    sources: Sequence[Source]
    now_s: float
    window_s: float

    def total(self, name: str) -> Signal | None:
        """Sum of a gauge's means: counts of requests."""
        found = self._gauges(name)
        return self._sum([(signal.value, signal.age_s) for signal in found])

    def mean(self, name: str) -> Signal | None:
        """Mean of a gauge's means: shares."""
        found = self._gauges(name)
        if not found:
            return None
        value = fsum(signal.value for signal in found) / len(found)
        return Signal(value, max(signal.age_s for signal in found), nodes=len(found))

    def highest(self, name: str) -> Signal | None:
        """Highest value that a gauge had anywhere in the window."""
        found = [
            signal
            for source in self.sources
            if (signal := source.highest(name, now_s=self.now_s, window_s=self.window_s))
        ]
        if not found:
            return None
        value = max(signal.value for signal in found)
        return Signal(value, max(signal.age_s for signal in found), nodes=len(found))

    def rate(self, name: str) -> Signal | None:
        """Sum of a counter's rates."""
        return self.rates(lambda h: h.rate(name, now_s=self.now_s, window_s=self.window_s))

    def rates(self, rate_of: Callable[[History], float | None]) -> Signal | None:
        """Sum of what is read from each history."""
        return self._sum(
            [
                (rate, source.age_s or 0.0)
                for source in self.sources
                if (rate := rate_of(source.pages)) is not None
            ]
        )

    def mean_observed(self, name: str) -> Signal | None:
        """Sum over count of what was observed in the window, None if nothing was."""
        spans = [
            (source, total, count)
            for source in self.sources
            if (total := self._grown(source, f"{name}_sum")) is not None
            and (count := self._grown(source, f"{name}_count")) is not None
        ]
        observations = fsum(count for _, _, count in spans)
        if observations <= 0:
            return None
        value = fsum(total for _, total, _ in spans) / observations
        return self._signal(value, (source for source, _, _ in spans))

    def share(self, part: str, rest: str) -> Signal | None:
        """Growth of one counter over that of both, at the nodes that have both."""
        spans = [
            (source, one, other)
            for source in self.sources
            if (one := self._grown(source, part)) is not None
            and (other := self._grown(source, rest)) is not None
        ]
        whole = fsum(one + other for _, one, other in spans)
        if whole <= 0:
            return None
        value = fsum(one for _, one, _ in spans) / whole
        return self._signal(value, (source for source, _, _ in spans))

    def p95(self, name: str) -> Signal | None:
        """The 95th percentile of what was observed in the window, None if nothing was."""
        known = self._observations(name)
        whole = merged(buckets for _, buckets in known)
        found = None if whole is None else quantile(whole, 0.95)
        if found is None:
            return None
        return self._signal(
            found.value, (source for source, _ in known), is_lower_bound=found.is_lower_bound
        )

    def mean_square(self, name: str) -> Signal | None:
        """The mean of the squares of what was observed in the window, None if nothing was."""
        known = self._observations(name)
        whole = merged(buckets for _, buckets in known)
        if whole is None:
            return None
        mean = replace(self, sources=[source for source, _ in known]).mean_observed(name)
        found = mean_square(whole, mean.value if mean else None)
        if found is None:
            return None
        return self._signal(
            found.value, (source for source, _ in known), is_lower_bound=found.is_lower_bound
        )

    def ttft_p95_s(self) -> Signal | None:
        """The 95th percentile of the time to a first token.

        While none came anywhere in the window it is that of what pending requests have waited so
        far, a lower bound: a prompt side so stuck that nobody is served must not look unknown.
        """
        observed = self.p95("ttft_s")
        if observed is not None:
            return observed
        waiting = [source for source in self.sources if not source.is_idle]
        waited_s = first_tokens.waited_p95_s(
            [source.pages for source in waiting], now_s=self.now_s, window_s=self.window_s
        )
        if waited_s is None:
            return None
        return self._signal(waited_s, waiting, is_lower_bound=True)

    def queue_time_p95_s(self, first: Signal | None) -> Signal | None:
        """The 95th percentile of the time in a queue, never above that to the first token.

        A request's queue time is part of its time to the first token, but vLLM's buckets begin at
        0.3 s for the one and at 1 ms for the other: an idle queue would read 0.285 s.
        """
        queue = self.p95("queue_time_s")
        if queue is None or first is None or first.is_lower_bound or queue.value <= first.value:
            return queue
        return replace(queue, value=first.value, is_lower_bound=False)

    def untold(self, role: Role) -> frozenset[str]:
        """What every user of the role would feel, and none of its pages has anything of.

        An engine that has not counted anything yet may have no series of it: it says nothing.
        """
        name = _FELT[role]
        pages = [page for s in self.sources if (page := s.pages.newest) is not None]
        working = [page for page in pages if any(page.counters.values())]
        is_told = any(name in p.histograms or f"{name}_count" in p.counters for p in pages)
        return frozenset({name}) if working and not is_told else frozenset()

    def _gauges(self, name: str) -> list[Signal]:
        return [
            signal
            for source in self.sources
            if (signal := source.mean(name, now_s=self.now_s, window_s=self.window_s)) is not None
        ]

    def _sum(self, parts: Sequence[tuple[float, float]]) -> Signal | None:
        """Sum values with their ages."""
        if not parts:
            return None
        value, age_s = fsum(value for value, _ in parts), max(age_s for _, age_s in parts)
        is_part = len(parts) < len(self.sources)
        return Signal(value, age_s, is_lower_bound=is_part, nodes=len(parts))

    def _grown(self, source: Source, name: str) -> float | None:
        span = source.pages.grown(name, now_s=self.now_s, window_s=self.window_s)
        return None if span is None else span.delta

    def _observations(self, name: str) -> list[tuple[Source, Buckets]]:
        now_s, window_s = self.now_s, self.window_s
        return [
            (source, buckets)
            for source in self.sources
            if (buckets := source.pages.observations(name, now_s=now_s, window_s=window_s))
            is not None
        ]

    def _signal(
        self, value: float, sources: Iterable[Source], *, is_lower_bound: bool = False
    ) -> Signal:
        ages_s = [source.age_s or 0.0 for source in sources]
        return Signal(value, max(ages_s, default=0.0), is_lower_bound, nodes=len(ages_s))
