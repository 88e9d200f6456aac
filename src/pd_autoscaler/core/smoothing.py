"""Smoothing: an average in which the past loses half of its weight every half-life."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Smoothed:
    """An exponentially weighted average and the moment that it was last brought up to.

    `weight` is the share of an endless past that has been seen so far.
    """

    value: float
    at_s: float
    weight: float = 1.0


FIRST_WEIGHT = 0.1
"""Of the first value, which held for nobody knows how long: it must not count as a whole past."""


def smoothed(
    before: Smoothed | None, value: float, *, now_s: float, half_life_s: float
) -> Smoothed:
    """Return the average with one more value, which held since the one before.

    Weights follow time, not the number of values: showing the same one twice as often changes
    nothing. A half-life of 0 keeps the newest value alone; one from the past is not taken in.
    """
    if before is None:
        return Smoothed(value, now_s, FIRST_WEIGHT)
    passed_s = now_s - before.at_s
    if passed_s < 0:
        return before
    kept = 0.0 if half_life_s <= 0 else 2.0 ** -(passed_s / half_life_s)
    weight = kept * before.weight + 1.0 - kept
    mixed = value if not weight else before.value + (1.0 - kept) / weight * (value - before.value)
    # Rounding may step outside by a hair.
    low, high = sorted((before.value, value))
    return Smoothed(min(max(mixed, low), high), now_s, weight)
