"""Tallies: the histograms of a node."""

from pd_autoscaler.sim.fleet.requests.jit import jitted
from pd_autoscaler.sim.fleet.requests.state import State


@jitted
def observe(state: State, slot: int, histogram: int, value: float) -> None:
    """Count a value in the bucket of the least bound that it does not exceed."""
    bounds = state.bounds
    low, high = 0, bounds.shape[1]
    while low < high:
        middle = (low + high) // 2
        if value <= bounds[histogram, middle]:
            high = middle
        else:
            low = middle + 1
    state.counts[slot, histogram, low] += 1
    state.sums[slot, histogram] += value
