"""What will happen in the simulated world, in the order of its times."""

import heapq
from collections.abc import Callable

SLACK_S = 1e-6
"""A sleeper may wake this much before its moment, by rounding; what is due then has happened."""


class Events:
    """A queue of events; those of one moment happen in the order they were added."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.now_s = 0.0

    def at(self, when_s: float, act: Callable[[], None]) -> None:
        """Have `act` called once the world is advanced to `when_s`."""
        self._count += 1
        heapq.heappush(self._heap, (max(when_s, self.now_s), self._count, act))

    def after(self, delay_s: float, act: Callable[[], None]) -> None:
        """Have `act` called `delay_s` seconds from the world's present."""
        self.at(self.now_s + delay_s, act)

    def advance(self, now_s: float) -> None:
        """Let everything due by `now_s` happen, each at its own time."""
        while self._heap and self._heap[0][0] <= now_s + SLACK_S:
            when_s, _, act = heapq.heappop(self._heap)
            self.now_s = max(self.now_s, when_s)
            act()
        self.now_s = max(self.now_s, now_s)
