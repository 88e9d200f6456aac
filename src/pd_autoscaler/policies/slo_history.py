"""What `slo` remembers of each role beside its demand: what was needed, and what was too little."""

import math
from collections import deque

ROWS_MAX = 4000
"""Over an hour of cycles a second."""
_SHARE_MIN = 0.25
"""Least part of the learnt capacity that a correction leaves: beyond it something else is wrong."""


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

    def saw(self, *, is_missed: bool, needed: int, nodes: int, now_s: float) -> None:
        """Take in whether a role that has enough nodes by the model misses its target.

        Once it was so for `breach_s` the model is scaled to need one node more than there are, and
        for a while no fewer are asked for: a little more capacity believed in must not undo it.
        """
        if not is_missed:
            self._since_s = None
            return
        if self._since_s is None:
            self._since_s = now_s
        if now_s - self._since_s < self._breach_s:
            return
        share = self.share(now_s=now_s) * min(1.0, needed / (nodes + 1))
        self._share = max(_SHARE_MIN, share)
        self._at_s, self._since_s = now_s, now_s
        self._least, self._least_until_s = nodes + 1, now_s + 5 * self._breach_s
