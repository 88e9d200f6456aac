"""Signals: what one engine's page says, and what a role's pages say together."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Histogram = tuple[tuple[float, float], ...]
"""Cumulative counts by upper bound, ascending; the last bound is +Inf."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One page of one node in canonical names; what the page lacks is absent, never zero.

    Gauges: `waiting`, `waiting_deferred`, `running`, `kv_used` (0 to 1), `cache_tokens`.
    Counters: `prompt_tokens`, `generation_tokens`, `requests_finished`, `preemptions`,
    `transfer_failures`. Histograms: `ttft_s`, `queue_time_s`, `tpot_s`, `input_len`, `output_len`
    (with `…_sum` and `…_count` among the counters). `at_s` is when the page arrived.
    """

    node_id: str
    at_s: float
    gauges: Mapping[str, float] = field(default_factory=dict)
    counters: Mapping[str, float] = field(default_factory=dict)
    histograms: Mapping[str, Histogram] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Signal:
    """A value and its age in seconds; `is_lower_bound` marks a quantile of the top bucket."""

    value: float
    age_s: float
    is_lower_bound: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSignals:
    """One node's canonical signals; None is unknown, never zero.

    `age_s` is the age of the newest page, None if there never was one.
    """

    node_id: str
    age_s: float | None = None
    is_fresh: bool = False
    queue: Signal | None = None
    transfer_wait: Signal | None = None
    running: Signal | None = None
    kv_used: Signal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSignals:
    """Canonical signals over the fresh serving nodes of one role; None is unknown, never zero.

    Units: `queue`, `running`, `transfer_wait` in requests (sum over nodes), `kv_used_*` 0 to 1,
    `*_s` in seconds, `*_rate` per second, `*_len` in tokens.
    """

    serving: int = 0
    fresh: int = 0
    queue: Signal | None = None
    queue_time_p95_s: Signal | None = None
    ttft_p95_s: Signal | None = None
    tpot_p95_s: Signal | None = None
    running: Signal | None = None
    transfer_wait: Signal | None = None
    kv_used_mean: Signal | None = None
    kv_used_max: Signal | None = None
    token_rate: Signal | None = None
    arrival_rate: Signal | None = None
    preempt_rate: Signal | None = None
    transfer_failure_rate: Signal | None = None
    input_len: Signal | None = None
    output_len: Signal | None = None
