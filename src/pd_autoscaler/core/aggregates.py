"""Aggregates: what the sources of one role say together over one window."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import fsum

from pd_autoscaler.core import first_tokens
from pd_autoscaler.core.freshness import Source, Told
from pd_autoscaler.core.histograms import mean_square, merged, quantile
from pd_autoscaler.core.windows import View
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import Histogram, Signal

_FELT = {Role.PROMPT: "ttft_s", Role.DECODER: "tpot_s"}
"""The latency that each role owes its users."""


@dataclass(frozen=True, slots=True)
class Over:
    """Sums, means and quantiles over fresh sources; None where none of them knows.

    A signal is as old as the oldest of the newest pages behind it, and counts the nodes it comes
    from. A sum that some of the sources know nothing of is a lower bound.
    """

    sources: Sequence[Source]

    def total(self, name: str) -> Signal | None:
        """Sum of a gauge's means: counts of requests."""
        return self._sum(self._means(name))

    def mean(self, name: str) -> Signal | None:
        """Mean of a gauge's means: shares."""
        found = self._means(name)
        if not found:
            return None
        values, ages_s = zip(*found, strict=True)
        return Signal(fsum(values) / len(found), max(ages_s), nodes=len(found))

    def highest(self, name: str) -> Signal | None:
        """Highest value that a gauge had anywhere in the window."""
        found = [told for source in self.sources if (told := source.highest(name)) is not None]
        if not found:
            return None
        values, ages_s = zip(*found, strict=True)
        return Signal(max(values), max(ages_s), nodes=len(found))

    def rate(self, name: str) -> Signal | None:
        """Sum of a counter's rates."""
        return self.rates(lambda view: view.rate(name))

    def rates(self, rate_of: Callable[[View], float | None]) -> Signal | None:
        """Sum of what is read from each node's pages."""
        return self._sum(
            [
                (rate, source.age_s or 0.0)
                for source in self.sources
                if (rate := rate_of(source.pages)) is not None
            ]
        )

    def mean_observed(self, name: str) -> Signal | None:
        """Sum over count of what was observed in the window, None if nothing was."""
        spans = self._both(f"{name}_sum", f"{name}_count")
        observations = fsum([count for _, _, count in spans])
        if observations <= 0:
            return None
        value = fsum([total for _, total, _ in spans]) / observations
        return self._signal(value, [source for source, _, _ in spans])

    def share(self, part: str, rest: str) -> Signal | None:
        """Growth of one counter over that of both, at the nodes that have both."""
        spans = self._both(part, rest)
        whole = fsum([one + other for _, one, other in spans])
        if whole <= 0:
            return None
        value = fsum([one for _, one, _ in spans]) / whole
        return self._signal(value, [source for source, _, _ in spans])

    def p95(self, name: str) -> Signal | None:
        """The 95th percentile of what was observed in the window, None if nothing was."""
        known = self._observations(name)
        whole = merged(buckets for _, buckets in known)
        found = None if whole is None else quantile(whole, 0.95)
        if found is None:
            return None
        return self._signal(
            found.value, [source for source, _ in known], is_lower_bound=found.is_lower_bound
        )

    def mean_square(self, name: str) -> Signal | None:
        """The mean of the squares of what was observed in the window, None if nothing was."""
        known = self._observations(name)
        whole = merged(buckets for _, buckets in known)
        if whole is None:
            return None
        mean = Over([source for source, _ in known]).mean_observed(name)
        found = mean_square(whole, mean.value if mean else None)
        if found is None:
            return None
        return self._signal(
            found.value, [source for source, _ in known], is_lower_bound=found.is_lower_bound
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
        waited_s = first_tokens.waited_p95_s([source.pages for source in waiting])
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
        pages = [page for s in self.sources if (page := s.pages.last) is not None]
        working = [page for page in pages if any(page.counters.values())]
        is_told = any(name in p.histograms or f"{name}_count" in p.counters for p in pages)
        return frozenset({name}) if working and not is_told else frozenset()

    def _means(self, name: str) -> list[Told]:
        return [told for source in self.sources if (told := source.mean(name)) is not None]

    def _sum(self, parts: Sequence[Told]) -> Signal | None:
        """Sum values with their ages."""
        if not parts:
            return None
        is_part = len(parts) < len(self.sources)
        if len(parts) == 1:
            return Signal(*parts[0], is_part, 1)
        values, ages_s = zip(*parts, strict=True)
        return Signal(fsum(values), max(ages_s), is_lower_bound=is_part, nodes=len(parts))

    def _both(self, one: str, other: str) -> list[tuple[Source, float, float]]:
        """Return the growth of two counters at the nodes that have both."""
        return [
            (source, first.delta, second.delta)
            for source in self.sources
            if (first := source.pages.grown(one)) is not None
            and (second := source.pages.grown(other)) is not None
        ]

    def _observations(self, name: str) -> list[tuple[Source, Histogram]]:
        return [
            (source, buckets)
            for source in self.sources
            if (buckets := source.pages.observations(name)) is not None
        ]

    def _signal(
        self, value: float, sources: Sequence[Source], *, is_lower_bound: bool = False
    ) -> Signal:
        age_s = max([source.age_s or 0.0 for source in sources], default=0.0)
        return Signal(value, age_s, is_lower_bound, nodes=len(sources))
