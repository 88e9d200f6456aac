"""Bounds: the buckets of a node's histograms, by the canonical names of `model.signals.Reading`."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from pd_autoscaler.errors import ConfigError

NAMES = ("ttft_s", "queue_time_s", "tpot_s", "input_len", "output_len")
"""In the order of `state.TTFT` and those after it."""

_LENGTHS = tuple(float(m * 10**e) for e in range(6) for m in (1, 2, 5))

BOUNDS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "ttft_s": (
            *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
            *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
        ),
        "queue_time_s": (
            *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
            *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
        ),
        "tpot_s": (
            *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
            *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
        ),
        "input_len": _LENGTHS,
        "output_len": _LENGTHS,
    }
)
"""Upper bounds without +Inf, those of vLLM v1 (`v1/metrics/loggers.py`)."""


def table_of(bounds: Mapping[str, tuple[float, ...]]) -> NDArray[np.float64]:
    """Return a row of bounds for each name; shorter rows go on with infinity.

    Raises ConfigError if a name is missing or its bounds do not rise.
    """
    missing = [name for name in NAMES if name not in bounds]
    if missing:
        raise ConfigError(f"bounds: {missing[0]} is missing")
    table = np.full((len(NAMES), max(len(bounds[name]) for name in NAMES)), np.inf)
    for row, name in enumerate(NAMES):
        if list(bounds[name]) != sorted(set(bounds[name])):
            raise ConfigError(f"bounds: those of {name} must rise")
        table[row, : len(bounds[name])] = bounds[name]
    return table
