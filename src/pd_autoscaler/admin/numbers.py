"""Numbers for JSON: short, and never a value that JSON cannot write."""

import math


def number(value: float | None) -> float | None:
    """Return the value, or None where it is unknown or not finite."""
    return value if value is not None and math.isfinite(value) else None


def seconds(value: float | None) -> float | None:
    """Return a duration in milliseconds' precision, or None where there is none."""
    return round(value, 3) if value is not None and math.isfinite(value) else None


def age(since_s: float, now_s: float) -> float | None:
    """Return seconds since a moment, never negative; both are monotonic seconds."""
    return seconds(max(0.0, now_s - since_s))
