"""Joining arrivals: several loads at once, or one after the other."""

import numpy as np

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.workload.arrivals import Arrivals
from pd_autoscaler.workload.reshaping import ordered, round_s


def superposed(*loads: Arrivals) -> Arrivals:
    """Return several loads at once, in order of arrival; raises ConfigError for none."""
    _check(loads)
    return ordered(np.concatenate([load.at_s for load in loads]), *loads)


def concatenated(*loads: Arrivals) -> Arrivals:
    """Return several loads one after the other, each a mean gap after the last request before.

    Raises ConfigError for none.
    """
    _check(loads)
    rounds_s = [round_s(load) if len(load) else 0.0 for load in loads]
    begins_s = np.cumsum([0.0, *rounds_s])
    moved = [load.at_s + begin_s for load, begin_s in zip(loads, begins_s[:-1], strict=True)]
    return ordered(np.concatenate(moved), *loads)


def _check(loads: tuple[Arrivals, ...]) -> None:
    if not loads:
        raise ConfigError("the workload has no part: give at least one")
