"""Dispersion: how bursty arrivals are."""

import numpy as np

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.workload.arrivals import Arrivals


def dispersion(arrivals: Arrivals, bin_s: float) -> float:
    """Return variance over mean of the counts in bins of so many seconds: 1 for Poisson.

    The last bin is left out where it is not whole. Raises ConfigError for less than two bins.
    """
    bins = int(arrivals.span_s // bin_s) if bin_s > 0 else 0
    if bins < 2:
        raise ConfigError(f"bins of {bin_s} s: give a part of the {arrivals.span_s:g} s there are")
    counts = np.bincount((arrivals.at_s // bin_s).astype(np.int64))[:bins]
    return float(counts.var() / counts.mean())
