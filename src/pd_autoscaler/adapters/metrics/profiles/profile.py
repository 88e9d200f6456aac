"""Profiles: which of an engine's metrics mean what, on a prompt node and on a decoder node."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from pd_autoscaler.adapters.metrics.exposition import PageError, Sample, parse
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import Histogram, Reading

BOTH = frozenset(Role)
PROMPT = frozenset({Role.PROMPT})
DECODER = frozenset({Role.DECODER})


def total(samples: list[Sample]) -> float:
    """Sum the values: counts of several engines in one node."""
    return math.fsum(sample.value for sample in samples)


def mean(samples: list[Sample]) -> float:
    """Average the values: ratios of several engines in one node."""
    return math.fsum(sample.value for sample in samples) / len(samples)


@dataclass(frozen=True, slots=True)
class Source:
    """One name under which an engine exports a thing, without prefix, and the labels it needs."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def is_in(self, sample: Sample) -> bool:
        """Whether a sample of this name has the labels."""
        return all(sample.labels.get(key) == value for key, value in self.labels.items())


@dataclass(frozen=True, slots=True)
class Meaning:
    """Where a canonical value comes from: sources tried left to right, on nodes of these roles."""

    sources: tuple[Source, ...]
    roles: frozenset[Role] = BOTH
    value_of: Callable[[list[Sample]], float] = total


@dataclass(frozen=True)
class Profile:
    """An engine's metrics in the canonical names of `model.signals.Reading`.

    What a role exports without meaning it (a decoder counts the prompts again) is left out of
    that role's readings, so that nothing behind the profile needs to know the engine.
    """

    name: str
    prefixes: tuple[str, ...]
    gauges: Mapping[str, Meaning]
    counters: Mapping[str, Meaning]
    histograms: Mapping[str, Meaning]

    @cached_property
    def wanted(self) -> frozenset[bytes]:
        """Sample names this profile reads."""
        plain = [
            s.name for m in (*self.gauges.values(), *self.counters.values()) for s in m.sources
        ]
        parts = [
            f"{source.name}{suffix}"
            for meaning in self.histograms.values()
            for source in meaning.sources
            for suffix in ("_bucket", "_sum", "_count")
        ]
        return frozenset(
            f"{prefix}{name}".encode() for prefix in self.prefixes for name in (*plain, *parts)
        )

    def reading(self, page: bytes, *, node_id: str, role: Role, at_s: float) -> Reading:
        """Read a page; raises PageError if it is malformed or has nothing this profile knows."""
        by_name: dict[str, list[Sample]] = {}
        for sample in parse(page, self.wanted):
            by_name.setdefault(self._bare(sample.name), []).append(sample)
        if not by_name:
            raise PageError(
                f"no metric of the {self.name} profile among {len(page)} bytes "
                f"(metrics switched off, or another engine?)"
            )
        found = {
            name: value
            for name, meaning in (*self.gauges.items(), *self.counters.items())
            if role in meaning.roles and (value := _value(meaning, by_name)) is not None
        }
        counters = {name: value for name, value in found.items() if name in self.counters}
        histograms: dict[str, Histogram] = {}
        for name, meaning in self.histograms.items():
            if role not in meaning.roles:
                continue
            counts, histogram = _histogram(meaning, by_name)
            counters |= {f"{name}{suffix}": value for suffix, value in counts.items()}
            if histogram is not None:
                histograms[name] = histogram
        return Reading(
            node_id=node_id,
            at_s=at_s,
            gauges={name: value for name, value in found.items() if name in self.gauges},
            counters=counters,
            histograms=histograms,
        )

    def _bare(self, name: str) -> str:
        prefix = max((p for p in self.prefixes if name.startswith(p)), key=len)
        return name[len(prefix) :]


def _value(meaning: Meaning, by_name: Mapping[str, list[Sample]]) -> float | None:
    for source in meaning.sources:
        samples = [s for s in by_name.get(source.name, ()) if source.is_in(s)]
        if samples:
            value = meaning.value_of(samples)
            # A NaN is an engine that does not know; a count below zero is one that is wrong.
            return value if math.isfinite(value) and value >= 0 else None
    return None


def _histogram(
    meaning: Meaning, by_name: Mapping[str, list[Sample]]
) -> tuple[dict[str, float], Histogram | None]:
    for source in meaning.sources:
        buckets = [s for s in by_name.get(f"{source.name}_bucket", ()) if source.is_in(s)]
        counts = {
            suffix: value
            for suffix in ("_sum", "_count")
            if (value := _value(Meaning((Source(source.name + suffix, source.labels),)), by_name))
            is not None
        }
        if buckets or counts:
            return counts, _cumulative(buckets, counts.get("_count"))
    return {}, None


def _cumulative(buckets: Iterable[Sample], count: float | None) -> Histogram | None:
    """Sum the buckets of all engines; None if they do not make a histogram."""
    by_bound: dict[float, float] = {}
    try:
        for sample in buckets:
            bound = float(sample.labels["le"])
            by_bound[bound] = by_bound.get(bound, 0.0) + sample.value
    except (KeyError, ValueError):
        return None
    if by_bound and count is not None:
        by_bound.setdefault(math.inf, count)
    rows = tuple(sorted(by_bound.items()))
    values = [value for _, value in rows]
    is_whole = bool(rows) and rows[-1][0] == math.inf and all(map(math.isfinite, values))
    return rows if is_whole and values[0] >= 0 and values == sorted(values) else None
