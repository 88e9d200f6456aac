"""Rates over time: how many requests come in each stretch of a load, and how long they are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.workload.arrivals import Floats
from pd_autoscaler.workload.generated import Phase

BURSTINESS_MAX = 1000.0
"""Of gaps with such a coefficient of variation a million requests come at once."""

_MOST = 1e12
"""No rate, length or time is above it; below it nothing overflows."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Token counts of each stretch: their means, and quantiles if they are known.

    `quantiles_z` are the standard normal quantiles (such as 1.28 for p90), ascending, `quantiles`
    has a row for each stretch and a column for each of them. Without them lengths are log-normal
    with the spread of `LENGTH_SIGMA`.
    """

    means: Floats
    quantiles_z: tuple[float, ...] = ()
    quantiles: Floats | None = None

    def of(self, kept: NDArray[np.bool_]) -> "Lengths":
        """Return those of some stretches."""
        quantiles = None if self.quantiles is None else self.quantiles[kept]
        return Lengths(self.means[kept], self.quantiles_z, quantiles)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """A load in stretches of constant rate: each begins at `begin_s` and ends where the next does.

    `burstiness` is the coefficient of variation of the gaps between arrivals: 1 for Poisson. It and
    `request_per_s` have a value for each stretch; the last one ends at `end_s`. Raises ConfigError
    for columns of different lengths or numbers that make no sense.
    """

    begin_s: Floats
    end_s: float
    request_per_s: Floats
    inputs: Lengths
    outputs: Lengths
    burstiness: Floats

    def __post_init__(self) -> None:
        columns = (self.request_per_s, self.burstiness, self.inputs.means, self.outputs.means)
        if not len(self.begin_s) or any(len(column) != len(self.begin_s) for column in columns):
            raise ConfigError("rates: give every column one value for each stretch, and a stretch")
        edges = np.append(self.begin_s, self.end_s)
        if edges[0] != 0 or not (edges[-1] < _MOST and (np.diff(edges) > 0).all()):
            raise ConfigError("rates: stretches must begin at 0 s, one after the other")
        _check("request_per_s", self.request_per_s, least=0.0, most=_MOST)
        _check("burstiness", self.burstiness, least=0.0, most=BURSTINESS_MAX)
        for name, lengths in (("input_tokens", self.inputs), ("output_tokens", self.outputs)):
            _check(name, lengths.means, least=1.0, most=_MOST)
            if lengths.quantiles is not None:
                _check(f"quantiles of {name}", lengths.quantiles.max(axis=1), least=1.0, most=_MOST)

    def __len__(self) -> int:
        return len(self.begin_s)

    @property
    def for_s(self) -> Floats:
        """Seconds that each stretch lasts."""
        return np.diff(np.append(self.begin_s, self.end_s))

    @property
    def requests(self) -> float:
        """Requests that are expected in all."""
        return float((self.request_per_s * self.for_s).sum())

    def thinned(self, share: float) -> "Rates":
        """Return the load of a share of its requests, picked at random.

        What is kept of a bursty stream is less bursty: of gaps with the squared coefficient c²,
        thinning leaves share * c² + 1 - share. Raises ConfigError for a share outside 0 to 1.
        """
        if not 0 < share <= 1:
            raise ConfigError(f"share is {share}: give more than 0, and 1 at most")
        return replace(
            self,
            request_per_s=self.request_per_s * share,
            burstiness=np.sqrt(share * self.burstiness**2 + 1 - share),
        )

    def between(self, from_s: float, to_s: float) -> "Rates":
        """Return the stretches that begin between two moments, counted from the first of them.

        Raises ConfigError where none does.
        """
        kept = (self.begin_s >= from_s) & (self.begin_s < to_s)
        if not kept.any():
            raise ConfigError(f"rates: nothing begins between {from_s:g} s and {to_s:g} s")
        first = int(np.flatnonzero(kept)[0])
        end_s = np.append(self.begin_s, self.end_s)[first + int(kept.sum())]
        return Rates(
            begin_s=self.begin_s[kept] - self.begin_s[first],
            end_s=float(end_s - self.begin_s[first]),
            request_per_s=self.request_per_s[kept],
            inputs=self.inputs.of(kept),
            outputs=self.outputs.of(kept),
            burstiness=self.burstiness[kept],
        )


def rates_of(phases: Sequence[Phase], *, burstiness: float = 1.0) -> Rates:
    """Return phases, one after the other, as rates; raises ConfigError where there is none."""
    lasts_s = np.array([phase.for_s for phase in phases], np.float64)
    ends_s = np.cumsum(lasts_s)
    if not len(phases):
        raise ConfigError("the workload has no phase: give at least one")
    return Rates(
        begin_s=ends_s - lasts_s,
        end_s=float(ends_s[-1]),
        request_per_s=np.array([phase.request_per_s for phase in phases], np.float64),
        inputs=Lengths(np.array([phase.input_tokens for phase in phases], np.float64)),
        outputs=Lengths(np.array([phase.output_tokens for phase in phases], np.float64)),
        burstiness=np.full(len(phases), burstiness, np.float64),
    )


def burstiness_of(dispersion: float) -> float:
    """Return the coefficient of variation of gaps whose counts have this variance over mean.

    It holds for spans of many arrivals; 1 is Poisson. Raises ConfigError for one below 0.
    """
    if not 0 <= dispersion < np.inf:
        raise ConfigError(f"an index of dispersion of {dispersion} is none: give 0 or more")
    return float(dispersion**0.5)


def _check(name: str, column: Floats, *, least: float, most: float) -> None:
    wrong = np.flatnonzero(~((column >= least) & (column <= most)))
    if len(wrong):
        value, number = column[wrong[0]], wrong[0] + 1
        raise ConfigError(
            f"rates: {name} {value:g} in stretch {number}: give {least:g} to {most:g}"
        )
