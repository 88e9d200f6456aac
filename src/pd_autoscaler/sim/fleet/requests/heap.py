"""A heap per decoder: which request of its batch has its last token first."""

import numpy as np
from numpy.typing import NDArray

from pd_autoscaler.sim.fleet.requests.jit import jitted

# A key is the number of the step, then that of the request: one integer to compare.
_ROW_BITS = 32
_ROWS = (1 << _ROW_BITS) - 1


@jitted
def push(heaps: NDArray[np.int64], slot: int, size: int, step: int, row: int) -> None:
    """Add a request to a heap of this size."""
    _up(heaps, slot, size, (int(step) << _ROW_BITS) | row)


@jitted
def first_step(heaps: NDArray[np.int64], slot: int) -> int:
    """Return the least step of a heap that is not empty."""
    return int(heaps[slot, 0] >> _ROW_BITS)


@jitted
def first_row(heaps: NDArray[np.int64], slot: int) -> int:
    """Return the request of the least step; of several the one that arrived first."""
    return int(heaps[slot, 0] & _ROWS)


@jitted
def drop(heaps: NDArray[np.int64], slot: int, size: int, at: int) -> None:
    """Take the entry at a place out of a heap of this size; place 0 is the first."""
    last = heaps[slot, size - 1]
    if at == size - 1:
        return
    while True:
        child = 2 * at + 1
        if child >= size - 1:
            break
        if child + 1 < size - 1 and heaps[slot, child + 1] < heaps[slot, child]:
            child += 1
        heaps[slot, at] = heaps[slot, child]
        at = child
    _up(heaps, slot, at, last)


@jitted
def place_of(heaps: NDArray[np.int64], slot: int, size: int, row: int) -> int:
    """Return where a request is in a heap of this size; it must be there."""
    at = 0
    while at < size - 1 and (heaps[slot, at] & _ROWS) != row:
        at += 1
    return at


@jitted
def _up(heaps: NDArray[np.int64], slot: int, at: int, key: int) -> None:
    while at > 0 and heaps[slot, (at - 1) // 2] > key:
        heaps[slot, at] = heaps[slot, (at - 1) // 2]
        at = (at - 1) // 2
    heaps[slot, at] = key
