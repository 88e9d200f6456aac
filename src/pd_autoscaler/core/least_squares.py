"""Least squares that go on: a few coefficients fitted to samples as they come, never negative.

Recursive least squares in information form. Forgetting is a generalised one (Lai and Bernstein,
arXiv 2308.04259): what is forgotten decays to the confidence of the start, not to none, so that
hours at one operating point cannot blow the covariance up. Plain Python: with three coefficients a
matrix library would be the larger cost.
"""

import math
import operator
from dataclasses import dataclass, replace
from typing import NamedTuple

from pd_autoscaler.core.matrices import Matrix, Vector, dot, identity, solved


class Sample(NamedTuple):
    """Regressors and the y that was seen there, or less than it if that `is_bound`."""

    regressors: Vector
    y: float
    at_s: float = 0.0
    is_bound: bool = False


GATE = 4.0
"""A sample further off than so many standard deviations of its innovation is an outlier."""

STREAK = 8
"""So many outliers in a row, and over `PATIENCE` windows, are a change of the world.

One in ten at random comes to eight in a row once in 1e8; nodes that stumble together for one window
come to any number in a row, hence the windows."""

PATIENCE = 3.0

REACH = 64.0
"""Outliers so many windows ago are of no streak any more.

A node alone shows eight in eight windows, and may have nothing to show in seven of eight; what goes
wrong for a moment every ten minutes does not pile up."""

LEAP = 10.0
"""Bounds do not carry a fit so many times up, however many: engines do not become as fast as that,
and pages on which a lifetime's work came at once look like it."""

MEMORY_S = 900.0
"""After so long at work a sample counts 1/e: long enough for a range of loads, and shorter than the
hours over which an engine's mix of requests drifts."""

GUESS_SAMPLES = 5
"""So many samples turn a guess into a fit: their median survives two that are garbage."""

_UNSTREAK = 2
_NOISE_MEMORY = 32
_NOISE_MAX = 0.5

_LEAST, _MOST = 1e-12, 1e12
"""No clock or counter says less or more; within them nothing overflows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Coefficients of y = values · regressors, and how sure of them the samples make us.

    `spreads` are the standard deviations (in the units of `values`) at the start, together about
    `spread` of y, and the unit in which `information` (inverse covariance) is kept, which also
    keeps it well conditioned. `noise` is the relative variance of y of late, taken for at least
    `noise_min` squared. `streak` holds the newest outliers in a row, which began at `streak_s`;
    `highest` each regressor at its highest among the samples since values and spreads were set.
    While `is_guess`, values and spreads are right but for a common factor.
    """

    values: Vector
    spreads: Vector
    spread: float
    floors: Vector
    noise_min: float
    information: Matrix
    noise: float = 0.0
    at_s: float = -math.inf
    samples: int = 0
    rejected: int = 0
    streak: tuple[Sample, ...] = ()
    streak_s: float = 0.0
    highest: Vector = ()
    is_guess: bool = False

    @classmethod
    def begun(
        cls,
        values: Vector,
        *,
        sizes: Vector,
        spread: float,
        floors: Vector,
        noise_min: float,
        is_guess: bool = False,
    ) -> "Fit":
        """Begin with what is believed before any sample; no value goes below its floor.

        Each value may be off by about `spread` times its size. A guess is scaled to the first
        `GUESS_SAMPLES`, which count once they are there.
        """
        return cls(
            values=tuple(map(max, values, floors)),
            spreads=tuple(spread * size for size in sizes),
            spread=spread,
            floors=floors,
            noise_min=noise_min,
            information=identity(len(values)),
            highest=(0.0,) * len(values),
            is_guess=is_guess,
        )

    @property
    def error(self) -> float | None:
        """Typical relative error of a sample of late, None before the first."""
        return math.sqrt(self.noise) if self.samples else None

    def expected(self, regressors: Vector) -> float:
        """Return y as the coefficients have it."""
        return dot(self.values, regressors)

    def taught(
        self, regressors: Vector, y: float, *, at_s: float, window_s: float, is_bound: bool = False
    ) -> "Fit":
        """Return the fit with one more sample, taken over a window of `window_s` seconds.

        An outlier changes the counts only, until `STREAK` in a row say that the world changed: then
        the fit is scaled to them and open to correction again. If y `is_bound`, it may be any less
        than the truth: below the fit it moves nothing, nor does it make a guess a fit. Samples that
        are not finite and positive are ignored.
        """
        expected = self.expected(regressors)
        if not (_is_usable(y) and _is_usable(expected) and all(map(_is_bounded, regressors))):
            return self
        sample = Sample(regressors, y, at_s, is_bound)
        if self.is_guess:
            return self if is_bound else _guessed(self, sample)
        if is_bound and y <= expected:
            return _calmed(self, sample)
        if is_bound and y > LEAP * expected:
            return replace(self, rejected=self.rejected + 1)
        new = _corrected(self, sample, at_s=at_s, window_s=window_s)
        return _rejected(self, sample, window_s) if new is None else new


def _guessed(fit: Fit, sample: Sample) -> Fit:
    """Return the guess with one more sample, a fit once there are `GUESS_SAMPLES`."""
    begun = replace(fit, streak=(*fit.streak, sample))
    return begun if len(begun.streak) < GUESS_SAMPLES else _opened(begun, sample.at_s)


def _rejected(fit: Fit, sample: Sample, window_s: float) -> Fit:
    """Return the fit after an outlier: opened if that ends a streak."""
    recent = tuple(old for old in fit.streak if sample.at_s - old.at_s < REACH * window_s)
    rejected = replace(
        fit,
        rejected=fit.rejected + 1,
        streak=(*recent, sample)[-STREAK:],
        streak_s=fit.streak_s if recent else sample.at_s,
    )
    if len(rejected.streak) < STREAK or sample.at_s - rejected.streak_s < PATIENCE * window_s:
        return rejected
    return _opened(rejected, sample.at_s)


def _calmed(fit: Fit, bound: Sample) -> Fit:
    """Return the fit after a bound below it, which shortens a streak as a sample that fits does.

    It says nothing against samples that were no bounds, unless it is above them or they leap: a
    node that is at work now and then shows a change by those alone.
    """
    least = _ratio(fit, bound) / (1 + GATE * fit.noise_min)
    refuted = [
        index
        for index, sample in enumerate(fit.streak)
        if sample.is_bound or not least <= _ratio(fit, sample) <= LEAP
    ][:_UNSTREAK]
    kept = (sample for index, sample in enumerate(fit.streak) if index not in refuted)
    return replace(fit, streak=tuple(kept)) if refuted else fit


def _opened(fit: Fit, at_s: float) -> Fit:
    """Return the fit scaled to the samples of its streak, and taught by them.

    Most of what makes an engine slower or faster does so by a factor; what is left is learnt from
    there, those nearest to it first, so that the gate is narrow again when garbage comes to it.
    """

    def ratio(sample: Sample) -> float:
        return _ratio(fit, sample)

    middle = sorted(fit.streak, key=ratio)[len(fit.streak) // 2]
    factor = ratio(middle)
    unsure = fit.spread * middle.y / dot(fit.spreads, middle.regressors)
    opened = replace(
        fit,
        values=tuple(map(max, (value * factor for value in fit.values), fit.floors)),
        spreads=tuple(spread * unsure for spread in fit.spreads),
        information=identity(len(fit.values)),
        at_s=at_s,
        streak=(),
        highest=(0.0,) * len(fit.values),
        is_guess=False,
    )
    for sample in sorted(fit.streak, key=lambda sample: abs(math.log(ratio(sample) / factor))):
        opened = _corrected(opened, sample, at_s=at_s, window_s=0.0) or opened
    return opened


def _corrected(fit: Fit, sample: Sample, *, at_s: float, window_s: float) -> Fit | None:
    """Return the fit corrected by a sample, None if that is an outlier."""
    expected = fit.expected(sample.regressors)
    innovation = sample.y - expected
    weights = tuple(map(operator.mul, fit.spreads, sample.regressors))
    # Samples are weighed by the least noise, whatever it is of late: a noise that rose because the
    # engine changed would otherwise make the old samples the better ones.
    noise = (fit.noise_min * expected) ** 2
    # What nobody measured did not change: silence forgets no more than two windows do.
    kept = _kept(fit.information, min(max(0.0, at_s - fit.at_s), 2 * window_s))
    gain = solved(kept, weights)
    variance = dot(weights, gain) + noise
    surprise = innovation**2 / variance
    if surprise > GATE**2 * max(1.0, fit.noise / fit.noise_min**2):
        return None
    moved = tuple(
        value + spread * step * innovation / variance
        for value, spread, step in zip(fit.values, fit.spreads, gain, strict=True)
    )
    information = tuple(
        tuple(cell + left * right / noise for cell, right in zip(row, weights, strict=True))
        for row, left in zip(kept, weights, strict=True)
    )
    # Innovation times what is left of it after the correction has the noise as its mean, however
    # unsure the coefficients still are.
    step = (surprise * fit.noise_min**2 - fit.noise) / min(fit.samples + 1, _NOISE_MEMORY)
    return replace(
        fit,
        values=_raised(moved, fit.floors, fit.spreads, information),
        information=information,
        noise=min(fit.noise + step, _NOISE_MAX**2),
        at_s=at_s,
        samples=fit.samples + 1,
        # One that fits by chance does not end a streak, two do so or more.
        streak=fit.streak[_UNSTREAK:],
        highest=tuple(map(max, fit.highest, sample.regressors)),
    )


def _kept(information: Matrix, passed_s: float) -> Matrix:
    """Return the information without what so many seconds forget."""
    share = math.exp(-passed_s / MEMORY_S)
    return tuple(
        tuple(share * cell + (1.0 - share if i == j else 0.0) for j, cell in enumerate(row))
        for i, row in enumerate(information)
    )


def _raised(values: Vector, floors: Vector, spreads: Vector, information: Matrix) -> Vector:
    """Return the nearest values above their floors, near as the information measures it.

    A value that is raised takes the others along, so that y at what was sampled stays.
    """
    if all(map(operator.ge, values, floors)):
        return values
    size = len(values)
    covariance = [list(solved(information, unit)) for unit in identity(size)]
    at = list(values)
    for _ in range(size):
        lacking = [(floors[i] - at[i]) / spreads[i] for i in range(size)]
        worst = max(range(size), key=lacking.__getitem__)
        row, own = tuple(covariance[worst]), covariance[worst][worst]
        if lacking[worst] <= 0 or own <= 0:
            break
        for i in range(size):
            at[i] += spreads[i] * row[i] / own * lacking[worst]
            for j in range(size):
                covariance[i][j] -= row[i] * row[j] / own
        at[worst] = floors[worst]
    return tuple(map(max, at, floors))


def _ratio(fit: Fit, sample: Sample) -> float:
    return sample.y / fit.expected(sample.regressors)


def _is_usable(value: float) -> bool:
    return _LEAST < value < _MOST


def _is_bounded(value: float) -> bool:
    return 0 <= value < _MOST
