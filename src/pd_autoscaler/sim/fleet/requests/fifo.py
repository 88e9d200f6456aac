"""Lists of requests, first in first out: heads and tails here, neighbours in the requests."""

from typing import Any

import numpy as np

from pd_autoscaler.sim.fleet.requests.jit import jitted

Records = np.recarray[Any, Any]

LIST = np.dtype([("head", "i4"), ("tail", "i4"), ("length", "i8")])

NONE = -1


def lists(count: int) -> Records:
    """Return so many empty lists."""
    made = np.zeros(count, LIST).view(np.recarray)
    made.head = made.tail = NONE
    return made


@jitted
def push(lists: Records, requests: Records, of: int, row: int) -> None:
    """Append a request to a list."""
    mine, request = lists[of], requests[row]
    request.following = NONE
    request.preceding = mine.tail
    if mine.tail == NONE:
        mine.head = row
    else:
        requests[mine.tail].following = row
    mine.tail = row
    mine.length += 1


@jitted
def push_front(lists: Records, requests: Records, of: int, row: int) -> None:
    """Put a request before all others of a list."""
    mine, request = lists[of], requests[row]
    request.preceding = NONE
    request.following = mine.head
    if mine.head == NONE:
        mine.tail = row
    else:
        requests[mine.head].preceding = row
    mine.head = row
    mine.length += 1


@jitted
def take(lists: Records, requests: Records, of: int, row: int) -> None:
    """Take a request out of a list, wherever it is in there."""
    mine, request = lists[of], requests[row]
    before, after = request.preceding, request.following
    if before == NONE:
        mine.head = after
    else:
        requests[before].following = after
    if after == NONE:
        mine.tail = before
    else:
        requests[after].preceding = before
    mine.length -= 1


@jitted
def pop(lists: Records, requests: Records, of: int) -> int:
    """Take the first request out of a list that has one."""
    row = int(lists[of].head)
    take(lists, requests, of, row)
    return row
