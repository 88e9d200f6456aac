"""Meanings: under which of an engine's names a canonical value stands, and how it is put together.

All of it is data: a profile is written down with these, and `reader` compiles them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

GAUGES = frozenset(
    {
        "waiting",
        "waiting_deferred",
        "running",
        "kv_used",
        "kv_export_backlog",
        "cache_tokens",
        "token_rate",
    }
)
COUNTERS = frozenset(
    {
        "prompt_tokens",
        "prompt_tokens_cached",
        "generation_tokens",
        "requests_received",
        "requests_finished",
        "preemptions",
        "transfer_failures",
        "kv_expired",
    }
)
HISTOGRAMS = frozenset(
    {"ttft_s", "queue_time_s", "tpot_s", "input_len", "output_len", "duration_s"}
)
"""The canonical names that `model.signals.Reading` describes."""

METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


class Combine(StrEnum):
    """How the values of several engines or ranks in one node become the node's."""

    SUM = "sum"
    MEAN = "mean"
    MAX = "max"


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One part of a value: names, without prefix, tried left to right, and the labels they need.

    A label that must be empty may also be absent, as in PromQL. `label_product` multiplies a value
    by numbers that stand in labels. `is_percent` takes anything above 1 for a percentage. A term
    that `is_optional` may be absent when another term of its sum is there.
    """

    names: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    combine: Combine = Combine.SUM
    factor: float = 1.0
    label_product: tuple[str, ...] = ()
    is_percent: bool = False
    is_optional: bool = False

    def text(self, prefix: str) -> str:
        """Name what is looked for, as it would stand on a page."""
        labels = ",".join(f'{key}="{value}"' for key, value in self.labels.items() if value)
        names = " or ".join(
            prefix + name + (f"{{{labels}}}" if labels else "") for name in self.names
        )
        return f"({names})" if len(self.names) > 1 else names


@dataclass(frozen=True, slots=True)
class Value:
    """One way to a value: a sum of terms.

    `is_lumpy` if it grows at the end of requests only, `is_sparse` if its series appear with the
    first event that each counts.
    """

    terms: tuple[Term, ...]
    is_lumpy: bool = False
    is_sparse: bool = False

    def text(self, prefix: str) -> str:
        """Name what is looked for, as a sum."""
        text = "".join(
            (" - " if term.factor < 0 else " + ") + term.text(prefix) for term in self.terms
        )
        return text.removeprefix(" + ")


@dataclass(frozen=True, slots=True)
class Buckets:
    """One way to a histogram: a histogram's name, without the suffixes of its samples.

    The term's factor is that of its unit: 0.001 for milliseconds.
    """

    term: Term

    def text(self, prefix: str) -> str:
        """Name what is looked for."""
        return self.term.text(prefix)


@dataclass(frozen=True, slots=True)
class Ratio:
    """One way to a mean where there is no histogram: two counters that grow together."""

    total: Value
    count: Value

    def text(self, prefix: str) -> str:
        """Name what is looked for, as a fraction."""
        return f"{self.total.text(prefix)} / {self.count.text(prefix)}"


@dataclass(frozen=True, slots=True)
class Meaning:
    """Ways to a gauge or counter, tried left to right; `note` says when an engine has none."""

    ways: tuple[Value, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Ways to a histogram, tried left to right; `note` says when an engine has none."""

    ways: tuple[Buckets | Ratio, ...]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meanings:
    """What is read on nodes of one role, by canonical name; what is not named is not read."""

    gauges: Mapping[str, Meaning] = field(default_factory=dict)
    counters: Mapping[str, Meaning] = field(default_factory=dict)
    histograms: Mapping[str, Distribution] = field(default_factory=dict)

    def __or__(self, over: "Meanings") -> "Meanings":
        """Lay other meanings over these."""
        return Meanings(
            gauges={**self.gauges, **over.gauges},
            counters={**self.counters, **over.counters},
            histograms={**self.histograms, **over.histograms},
        )


def value(
    *names: str,
    labels: Mapping[str, str] | None = None,
    combine: Combine = Combine.SUM,
    is_lumpy: bool = False,
    is_sparse: bool = False,
) -> Value:
    """Make the plain kind of value: one term."""
    term = Term(names=names, labels=labels or {}, combine=combine)
    return Value((term,), is_lumpy, is_sparse)


def named(*names: str, combine: Combine = Combine.SUM, note: str = "") -> Meaning:
    """Make the plain kind of meaning: names tried left to right."""
    return Meaning(tuple(value(name, combine=combine) for name in names), note)


def histogram(*names: str) -> Distribution:
    """Make the plain kind of distribution: histograms tried left to right."""
    return Distribution(tuple(Buckets(Term(names=(name,))) for name in names))
