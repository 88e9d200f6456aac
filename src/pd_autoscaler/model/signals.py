"""Signals: what one engine's page says, and what a role's pages say together."""

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Histogram(NamedTuple):
    """Cumulative counts by ascending upper bound; the last bound is +Inf."""

    bounds: tuple[float, ...]
    counts: "array[float]"

    @classmethod
    def of(cls, rows: Iterable[tuple[float, float]]) -> "Histogram":
        """Make one of bounds with their counts."""
        bounds, counts = [], array("d")
        for bound, count in rows:
            bounds.append(bound)
            counts.append(count)
        return cls(tuple(bounds), counts)

    @property
    def total(self) -> float:
        """All observations."""
        return self.counts[-1] if self.counts else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One page of one node in canonical names; what the page lacks is absent, never zero.

    Gauges: `waiting`, `waiting_deferred` (for KV from afar), `running`, `kv_used` (0 to 1),
    `kv_export_backlog` (requests whose KV no decoder has pulled yet), `cache_tokens`, `token_rate`
    (tokens a second, as the engine averages them).
    Counters: `prompt_tokens` (computed here), `prompt_tokens_cached` (found in a prefix cache),
    `generation_tokens`, `requests_received`, `requests_finished`, `preemptions`,
    `transfer_failures`, `kv_expired`. Histograms: `ttft_s`, `queue_time_s`, `tpot_s`, `input_len`,
    `output_len`, `duration_s` (with `…_sum` and `…_count` among the counters, which may also be
    there without the buckets). `at_s` is when the page was true, `engine` the name of the profile
    it was read with, `lumpy` the counters that grow at the end of a request only. `parts` says of
    how many series each counter and histogram is the sum, where that is not one: with another
    number of them it cannot be compared. 0 is a counter that appears with its first event only.
    """

    node_id: str
    at_s: float
    engine: str = ""
    gauges: Mapping[str, float] = field(default_factory=dict)
    counters: Mapping[str, float] = field(default_factory=dict)
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    lumpy: frozenset[str] = frozenset()
    parts: Mapping[str, int] = field(default_factory=dict)

    def says_as(self, other: "Reading") -> bool:
        """Whether two pages differ in nothing but when they were true."""
        return (
            self.gauges == other.gauges
            and self.counters == other.counters
            and self.histograms == other.histograms
            and self.parts == other.parts
            and self.lumpy == other.lumpy
            and (self.engine, self.node_id) == (other.engine, other.node_id)
        )


@dataclass(frozen=True, slots=True)
class Signal:
    """A value and its age in seconds.

    `is_lower_bound` marks a quantile of the top bucket, and a sum of which some nodes say nothing.
    `nodes` counts those that a role's signal comes from, 0 where that is not said.
    """

    value: float
    age_s: float
    is_lower_bound: bool = False
    nodes: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSignals:
    """One node's canonical signals; None is unknown, never zero.

    `age_s` is the age of the newest page, None if there never was one; `doubt` says why a node is
    not fresh, `engine` which profile its pages are read with. `token_rate` is that of the role's
    own tokens: prompt tokens computed, or tokens generated.
    """

    node_id: str
    engine: str = ""
    age_s: float | None = None
    is_fresh: bool = False
    doubt: str = ""
    queue: Signal | None = None
    transfer_wait: Signal | None = None
    running: Signal | None = None
    kv_used: Signal | None = None
    kv_export_backlog: Signal | None = None
    token_rate: Signal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSignals:
    """Canonical signals over the fresh serving nodes of one role; None is unknown, never zero.

    Units: `queue`, `running`, `transfer_wait`, `kv_export_backlog` in requests (sum over nodes),
    `kv_used_*` and `uncached_share` 0 to 1, `*_s` in seconds, `*_rate` per second, `*_len` in
    tokens, `*_len_sq` the mean of their squares. `untold` names what no fresh node's pages have at
    all (`ttft_s`, `tpot_s`), which is not the same as nothing having been observed.
    """

    serving: int = 0
    fresh: int = 0
    untold: frozenset[str] = frozenset()
    queue: Signal | None = None
    queue_time_p95_s: Signal | None = None
    ttft_p95_s: Signal | None = None
    tpot_p95_s: Signal | None = None
    running: Signal | None = None
    transfer_wait: Signal | None = None
    kv_export_backlog: Signal | None = None
    kv_used_mean: Signal | None = None
    kv_used_max: Signal | None = None
    token_rate: Signal | None = None
    arrival_rate: Signal | None = None
    preempt_rate: Signal | None = None
    transfer_failure_rate: Signal | None = None
    kv_expired_rate: Signal | None = None
    uncached_share: Signal | None = None
    input_len: Signal | None = None
    input_len_sq: Signal | None = None
    output_len: Signal | None = None
    output_len_sq: Signal | None = None
