"""A running loop's clock that a test moves on: a deadline passes when the test says so."""

import asyncio

import pytest


class Clock:
    """Real time plus what the test added; made inside the loop whose clock it is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        real = loop.time
        self._added_s = 0.0
        monkeypatch.setattr(loop, "time", lambda: real() + self._added_s)

    def advance(self, seconds: float) -> None:
        """Let this much time have passed when the loop next looks at its timers."""
        self._added_s += seconds
