"""Faults that can be switched on and off while a simulated library runs."""

import math
import threading
from typing import Literal

Verb = Literal["link", "unlink"]


class Faults:
    """What goes wrong, per verb and remote cluster id; safe to change from any thread.

    A fault strikes before the call touches the network and lasts until it is cleared. Forced
    unlinks never meet one: they are local.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._hanging: dict[tuple[Verb, int], float] = {}
        self._releases: dict[tuple[Verb, int], int] = {}
        self._codes: dict[tuple[Verb, int], str] = {}
        self._delays_s: dict[tuple[Verb, int], float] = {}
        self._held: dict[tuple[Verb, int], int] = {}

    def hang(self, verb: Verb, cluster_id: int, *, calls: float = math.inf) -> None:
        """Let the next so many calls to this id hang until they are released."""
        with self._changed:
            self._hanging[verb, cluster_id] = calls

    def fail(self, verb: Verb, cluster_id: int, code: str) -> None:
        """Let calls to this id return a code at once."""
        with self._changed:
            self._codes[verb, cluster_id] = code

    def delay(self, verb: Verb, cluster_id: int, delay_s: float) -> None:
        """Let calls to this id begin later."""
        with self._changed:
            self._delays_s[verb, cluster_id] = delay_s

    def release(self, cluster_id: int | None = None) -> None:
        """Let hanging calls to one id, or to all, go on, and no later one hang."""
        with self._changed:
            for key in [k for k in self._keys() if cluster_id in {None, k[1]}]:
                self._hanging.pop(key, None)
                self._releases[key] = self._releases.get(key, 0) + 1
            self._changed.notify_all()

    def clear(self, cluster_id: int | None = None) -> None:
        """Remove every fault of one id, or of all; hanging calls go on."""
        with self._changed:
            for faults in (self._codes, self._delays_s):
                for key in [key for key in faults if cluster_id in {None, key[1]}]:
                    del faults[key]
        self.release(cluster_id)

    def _keys(self) -> set[tuple[Verb, int]]:
        """Name what hangs or may hang."""
        return self._hanging.keys() | self._held.keys()

    def held(self, verb: Verb, cluster_id: int) -> int:
        """Return how many calls to this id hang now."""
        with self._changed:
            return self._held.get((verb, cluster_id), 0)

    def wait_held(self, verb: Verb, cluster_id: int, *, timeout_s: float) -> bool:
        """Wait until a call to this id hangs; False if none does in time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._held.get((verb, cluster_id), 0) > 0, timeout_s
            )

    def strike(self, verb: Verb, cluster_id: int) -> str | None:
        """Hang, delay, and return the code to fail with, as set; None lets the call go on."""
        key = (verb, cluster_id)
        with self._changed:
            if self._hanging.get(key, 0) > 0:
                self._hanging[key] -= 1
                self._held[key] = self._held.get(key, 0) + 1
                self._changed.notify_all()
                releases = self._releases.get(key, 0)
                self._changed.wait_for(lambda: self._releases.get(key, 0) > releases)
                self._held[key] -= 1
            code, delay_s = self._codes.get(key), self._delays_s.get(key, 0.0)
        if delay_s > 0:
            threading.Event().wait(delay_s)
        return code
