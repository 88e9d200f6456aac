"""A tree of winners: the least of many keys, found at once and renewed in O(log n)."""

import math
from typing import Any

import numpy as np

from pd_autoscaler.sim.fleet.requests.jit import jitted, plain

Records = np.recarray[Any, Any]

KNOT = np.dtype([("key", "f8"), ("tie", "i8"), ("slot", "i8")])
"""The winner of what is below; the leaves are the second half, knot 1 is the root."""


def tree(slots: int) -> Records:
    """Return a tree over so many slots, none of which has a key."""
    width = 1 << max(slots - 1, 1).bit_length()
    made = np.zeros(2 * width, KNOT).view(np.recarray)
    made.key = math.inf
    made.slot[width:] = np.arange(width)
    return made


@jitted
def put(tree: Records, slot: int, key: float, tie: int) -> None:
    """Give a slot a key; among equal keys the least `tie` wins."""
    at = len(tree) // 2 + slot
    tree[at].key = key
    tree[at].tie = tie
    while at > 1:
        at //= 2
        left, right, knot = tree[2 * at], tree[2 * at + 1], tree[at]
        best = left
        if right.key < left.key or (right.key == left.key and right.tie < left.tie):
            best = right
        if knot.slot == best.slot and knot.key == best.key and knot.tie == best.tie:
            return
        knot.slot = best.slot
        knot.key = best.key
        knot.tie = best.tie


def grown(before: Records, slots: int) -> Records:
    """Return a tree with the same keys, over more slots."""
    after, renewed = tree(slots), plain(put)
    for leaf in before[len(before) // 2 :]:
        if leaf.key < math.inf:
            renewed(after, int(leaf.slot), leaf.key, leaf.tie)
    return after
