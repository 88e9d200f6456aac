"""Windows: a run's requests and samples as series of equal steps, few enough to draw."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pd_autoscaler.sim.records import Floats

WIDTHS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
"""Widths that a reader can name; past the last one, whole days."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Equal windows from the start of a run: their width in seconds, and how many."""

    width_s: float
    count: int

    @property
    def starts_s(self) -> Floats:
        """The start of each window."""
        return self.width_s * np.arange(self.count, dtype=np.float64)

    def rates(self, at_s: Floats, amounts: NDArray[np.generic] | None = None) -> Floats:
        """Return how much came per second in each window; each counts 1 without amounts."""
        weights = None if amounts is None else amounts.astype(np.float64)
        per_s: Floats = (
            np.bincount(self._numbers(at_s), weights, minlength=self.count) / self.width_s
        )
        return per_s

    def shares(self, at_s: Floats, is_met: NDArray[np.bool_]) -> Floats:
        """Return the share of what came in each window for which it is true; NaN for none."""
        numbers = self._numbers(at_s)
        of = np.bincount(numbers, minlength=self.count).astype(np.float64)
        met = np.bincount(numbers, is_met.astype(np.float64), minlength=self.count)
        shares: Floats = np.divide(met, of, out=np.full(self.count, np.nan), where=of > 0)
        return shares

    def quantiles(self, at_s: Floats, values: Floats, levels: Iterable[float]) -> list[Floats]:
        """Return a series per level; a value that never came (NaN) counts as endless.

        NaN where the window is empty or the quantile itself never came.
        """
        wanted = np.array(list(levels))
        found = np.full((len(wanted), self.count), np.nan)
        numbers = self._numbers(at_s)
        order = np.argsort(numbers, kind="stable")
        endless = np.where(np.isnan(values), np.inf, values)[order]
        bounds = np.searchsorted(numbers[order], np.arange(self.count + 1))
        for number in np.flatnonzero(np.diff(bounds)):
            part = endless[bounds[number] : bounds[number + 1]]
            # No interpolation: between a number and endless there is nothing.
            found[:, number] = np.quantile(part, wanted, method="higher")
        return list(np.where(np.isinf(found), np.nan, found))

    def last(self, at_s: Floats, values: Floats) -> Floats:
        """Return what held at the end of each window; NaN before the first value."""
        ends = self.starts_s + self.width_s
        # What is seen at the very end belongs to the next window.
        found = np.searchsorted(at_s, ends, side="left") - 1
        return np.where(found >= 0, np.append(values, np.nan)[found], np.nan)

    def highest(self, at_s: Floats, values: Floats) -> Floats:
        """Return the highest value of each window, or what held where none was seen."""
        peaks = np.full(self.count, -np.inf)
        np.maximum.at(peaks, self._numbers(at_s), values)
        return np.where(np.isinf(peaks), self.last(at_s, values), peaks)

    def _numbers(self, at_s: Floats) -> NDArray[np.intp]:
        return np.minimum((at_s / self.width_s).astype(np.intp), self.count - 1)


def windows_over(lasted_s: float, *, points_max: int) -> Windows:
    """Return the narrowest windows of a nameable width that cover this time in so many points."""
    least_s = max(lasted_s, 1.0) / points_max
    day_s = WIDTHS_S[-1]
    fallback = day_s * int(np.ceil(least_s / day_s))
    width_s = next((width for width in WIDTHS_S if width >= least_s), fallback)
    return Windows(float(width_s), max(1, int(np.ceil(lasted_s / width_s))))
