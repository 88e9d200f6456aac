"""A stop-watch over the phases of a cycle."""

import anyio


class Phases:
    """Notes in `spent_s` how many seconds each phase has taken, by its name."""

    def __init__(self, began_s: float) -> None:
        self.began_s = began_s
        self._last_s = began_s
        self.spent_s: dict[str, float] = {}

    def end(self, phase: str) -> None:
        """Note how long the phase that ends now has taken."""
        now_s = anyio.current_time()
        self.spent_s[phase] = now_s - self._last_s
        self._last_s = now_s
