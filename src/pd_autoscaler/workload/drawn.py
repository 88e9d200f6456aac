"""Requests drawn from rates: the same generator state gives the same requests."""

import math

import numpy as np

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.workload.arrivals import Arrivals, Counts, Floats
from pd_autoscaler.workload.rates import Lengths, Rates

REQUESTS_MAX = 50_000_000
"""More than this do not fit into the memory of a small machine (32 bytes each, and their draws)."""

LENGTH_SIGMA = 0.83
"""Spread of log-normal lengths of which the mean alone is known: a squared coefficient of variation
of 1, as that of the prompts of Azure's traces (0.9)."""

_LENGTH_MAX = 2.0**53
"""A tail that is steeper than any prompt is long must still be a count."""

_TAIL_Z = 4.0
"""Where the normal law is cut when the mean of lengths is computed: 1 in 30,000 is beyond."""

_MEAN_STEPS = 801


def drawn(rates: Rates, generator: np.random.Generator) -> Arrivals:
    """Draw the requests of a load: renewal arrivals, and input and output lengths of their own.

    Gaps are gamma distributed with the stretch's burstiness. Lengths are log-normal, or where
    quantiles are known, log-normal between each two of them, scaled to the mean. Raises ConfigError
    for a load of more than `REQUESTS_MAX` requests.
    """
    if rates.requests > REQUESTS_MAX:
        raise ConfigError(
            f"the load has {rates.requests:,.0f} requests, and {REQUESTS_MAX:,} is the most: keep "
            "a share of them (requests_max), or a part of the time"
        )
    counts, at_s = _arrivals(rates, generator)
    stretch = np.repeat(np.arange(len(rates)), counts)
    return Arrivals(
        at_s,
        _lengths(rates.inputs, stretch, generator),
        _lengths(rates.outputs, stretch, generator),
        np.zeros(len(at_s), np.int64),
    )


def _arrivals(rates: Rates, generator: np.random.Generator) -> tuple[Counts, Floats]:
    """Return how many requests come in each stretch, and when.

    Time is counted in expected requests, in which gaps have the mean 1 whatever the rate.
    """
    expected = rates.request_per_s * rates.for_s
    counts = np.zeros(len(rates), np.int64)
    times = []
    # The first gap is what is left of one that began before: of all gaps a moment falls into long
    # ones more often, by their length.
    left = _gaps(generator, 1, rates.burstiness[0], shape_more=1)[0] * generator.random()
    for number, wanted in enumerate(expected):
        passed, left = _passed(generator, left, float(wanted), float(rates.burstiness[number]))
        counts[number] = len(passed)
        scale = rates.for_s[number] / wanted if wanted else 0.0
        times.append(rates.begin_s[number] + passed * scale)
    at_s = np.concatenate(times)
    # Rounding may put the last of a stretch after the first of the next.
    return counts, np.maximum.accumulate(at_s) if len(at_s) else at_s


def _passed(
    generator: np.random.Generator, left: float, wanted: float, burstiness: float
) -> tuple[Floats, float]:
    """Return the arrivals before `wanted`, from `left` on, and what is left of the last gap."""
    if left >= wanted:
        return np.empty(0), left - wanted
    pieces = [np.array([left])]
    end = left
    while end < wanted:
        # Enough for most streams at once; what is too much is thrown away.
        size = math.ceil((wanted - end) * 1.1 + 4 * burstiness * math.sqrt(wanted - end)) + 8
        pieces.append(end + np.cumsum(_gaps(generator, size, burstiness)))
        end = float(pieces[-1][-1])
    at = np.concatenate(pieces)
    cut = int(np.searchsorted(at, wanted))
    return at[:cut], float(at[cut]) - wanted


def _gaps(
    generator: np.random.Generator, size: int, burstiness: float, *, shape_more: int = 0
) -> Floats:
    """Return gaps of mean 1; `shape_more` 1 weighs each with its length."""
    if burstiness < _REGULAR:
        return np.ones(size)
    variance = burstiness**2
    return generator.gamma(1 / variance + shape_more, variance, size)


_REGULAR = 1e-3
"""Below it gaps are equal."""


def _lengths(lengths: Lengths, stretch: Counts, generator: np.random.Generator) -> Counts:
    """Return a token count for each request, of the law of its stretch."""
    z = generator.standard_normal(len(stretch))
    if lengths.quantiles is None:
        logs = np.log(lengths.means) - LENGTH_SIGMA**2 / 2
        drawn_lengths = np.exp(logs[stretch] + LENGTH_SIGMA * z)
    else:
        drawn_lengths = np.empty(len(stretch))
        edges = np.searchsorted(stretch, np.arange(len(lengths.means) + 1))
        for number, (mean, quantiles) in enumerate(
            zip(lengths.means, lengths.quantiles, strict=True)
        ):
            of = slice(edges[number], edges[number + 1])
            if of.start < of.stop:
                law = _Law(lengths.quantiles_z, quantiles)
                drawn_lengths[of] = law.at(z[of]) * (mean / law.mean)
    return np.clip(np.rint(drawn_lengths), 1, _LENGTH_MAX).astype(np.int64)


class _Law:
    """A law that is log-normal between each two of its quantiles, and beyond them as beside."""

    def __init__(self, quantiles_z: tuple[float, ...], quantiles: Floats) -> None:
        logs = np.log(quantiles)
        slopes = np.diff(logs) / np.diff(quantiles_z)
        below = logs[0] - slopes[0] * (quantiles_z[0] + _FAR_Z)
        above = logs[-1] + slopes[-1] * (_FAR_Z - quantiles_z[-1])
        self._z = np.concatenate(([-_FAR_Z], quantiles_z, [_FAR_Z]))
        self._logs = np.concatenate(([below], logs, [above]))

    def at(self, z: Floats) -> Floats:
        """Return the lengths at these standard normal quantiles."""
        result: Floats = np.exp(np.interp(z, self._z, self._logs))
        return result

    @property
    def mean(self) -> float:
        """The mean length."""
        z = np.linspace(-_TAIL_Z, _TAIL_Z, _MEAN_STEPS)
        weights = np.exp(-(z**2) / 2)
        return float((self.at(z) * weights).sum() / weights.sum())


_FAR_Z = 8.0
"""No draw is further out."""
