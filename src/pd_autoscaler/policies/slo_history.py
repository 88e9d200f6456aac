"""What `slo` remembers of each role beside its demand: what was needed, and what was too little."""

import math
from collections import deque
from collections.abc import Callable

ROWS_MAX = 4000
"""Over an hour of cycles a second."""
_SHARE_MIN = 0.25
"""Least part of the learnt capacity that a correction leaves: beyond it something else is wrong."""
_HALVINGS = 7
"""To within a hundredth."""
LEAST_BREACHES = 5
"""Times the seconds of a breach for which a count that was seen to be too small is ruled out."""


class Needs:
    """How many nodes a role needed of late, to shrink only to what was enough all the time."""

    def __init__(self) -> None:
        self._rows: deque[tuple[float, int]] = deque(maxlen=ROWS_MAX)

    def saw(self, need: int, *, now_s: float) -> None:
        """Take in one cycle's need."""
        self._rows.append((now_s, need))

    def most(self, *, since_s: float) -> int | None:
        """Return the most that was needed since a moment, None if it was not watched from there."""
        if not self._rows or self._rows[0][0] > since_s:
            return None
        # What held when the window began counts, too.
        while len(self._rows) > 1 and self._rows[1][0] <= since_s:
            self._rows.popleft()
        return max(need for _, need in self._rows)


class Correction:
    """The part of its learnt capacity that a role was seen to have; heals with time."""

    def __init__(self, *, breach_s: float, heal_s: float) -> None:
        self._breach_s = breach_s
        self._heal_s = heal_s
        self._share = 1.0
        self._at_s = -math.inf
        self._since_s: float | None = None
        self._least = 0
        self._least_until_s = -math.inf

    def share(self, *, now_s: float) -> float:
        """Return the part of the learnt capacity that is believed."""
        passed_s = max(0.0, now_s - self._at_s)
        return 1.0 - (1.0 - self._share) * math.exp2(-passed_s / self._heal_s)

    def least(self, *, now_s: float) -> int:
        """Return the count below which the role was seen to miss its target a short while ago."""
        return self._least if now_s < self._least_until_s else 0

    def saw(
        self, *, is_missed: bool, nodes: int, need_at: Callable[[float], int], now_s: float
    ) -> None:
        """Take in whether a role that has enough nodes by the model misses its target.

        Once it was so for `breach_s` as much of the capacity is believed as calls for one node more
        than there are, and for a while no fewer are asked for: a correction that heals must not
        undo it at once. `need_at` is the need at a part of the learnt capacity.
        """
        if not is_missed:
            self._since_s = None
            return
        if self._since_s is None:
            self._since_s = now_s
        if now_s - self._since_s < self._breach_s:
            return
        self._share = _largest_share(need_at, nodes + 1, below=self.share(now_s=now_s))
        self._at_s, self._since_s = now_s, now_s
        self._least, self._least_until_s = nodes + 1, now_s + LEAST_BREACHES * self._breach_s


def _largest_share(need_at: Callable[[float], int], nodes: int, *, below: float) -> float:
    """Return the largest share at which so many nodes are needed, or the least allowed."""
    low, high = min(_SHARE_MIN, below), below
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if need_at(middle) >= nodes else (low, middle)
    return low
