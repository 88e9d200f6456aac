"""Series of closed label sets, and of values that may be unknown."""

from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram

OTHER = "other"
"""The label of whatever a closed set does not know."""


def begin(metric: Gauge | Counter | Histogram, labels: Iterable[str]) -> None:
    """Have every series of a closed label set from the start."""
    for label in labels:
        metric.labels(str(label))


def set_or_remove(gauge: Gauge, labels: tuple[str, ...], value: float | None) -> None:
    """Set a series, or remove it where the value is unknown."""
    if value is None:
        gauge.remove(*labels)
    else:
        gauge.labels(*labels).set(value)
