"""Intervals: what a few runs say of the mean, and of the difference between two policies."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

_T_975 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)
"""Student's t at 0.975, by degrees of freedom from 1."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean of `count` values and half the width of its 95 % interval, None for one value."""

    mean: float
    half_width: float | None
    count: int

    @property
    def low(self) -> float:
        """Lower end; the mean itself where one value is all there is."""
        return self.mean - (self.half_width or 0.0)

    @property
    def high(self) -> float:
        """Upper end; the mean itself where one value is all there is."""
        return self.mean + (self.half_width or 0.0)

    def to_dict(self) -> dict[str, float | int | None]:
        """Return what JSON can hold: None for what is no number."""
        finite = self.mean if math.isfinite(self.mean) else None
        return {"mean": finite, "half_width": self.half_width, "count": self.count}

    def __str__(self) -> str:
        return f"{self.mean:.4g}" + (f" ± {self.half_width:.2g}" if self.half_width else "")


def interval(values: Sequence[float]) -> Interval | None:
    """Return the mean with its interval by Student's t, None without a value.

    Where a value is infinite so is the mean, and nothing is said of its width.
    """
    if not values:
        return None
    mean, count = fmean(values), len(values)
    if count < 2 or not math.isfinite(mean):
        return Interval(mean, None, count)
    return Interval(mean, t_975(count - 1) * stdev(values) / math.sqrt(count), count)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Interval | None:
    """Return the mean of ours minus theirs, seed by seed; seeds that only one has are left out."""
    both = sorted(ours.keys() & theirs.keys())
    return interval([ours[seed] - theirs[seed] for seed in both])


def t_975(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t."""
    if freedom <= len(_T_975):
        return _T_975[freedom - 1]
    # Cornish and Fisher's series: right to four digits beyond 30 degrees of freedom.
    z = NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2
