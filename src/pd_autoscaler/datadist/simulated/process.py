"""What the library keeps once per operating-system process, made explicit."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pd_autoscaler.datadist.api import DataDistError


class SimulatedProcess:
    """The state that the real library keeps per process: tests may hold several in one.

    At most one initialised object per process (hicann/hixl `v2/llm_datadist.py`); calls are
    shared and init and finalize exclusive (`src/python/llm_wrapper/llm_wrapper_v2.cc` from CANN
    9.1); `comm_init` is the lock under which communicators are initialised one at a time
    (`src/llm_datadist/link_mgr/comm_entity.cc`).
    """

    def __init__(self) -> None:
        self.comm_init = threading.Lock()
        self._changed = threading.Condition()
        self._owner: object | None = None
        self._calls = 0
        self._exclusive_waiting = 0
        self._is_exclusive = False

    def claim(self, owner: object) -> None:
        """Make `owner` the process's library object, or raise DataDistError if it has another."""
        with self._changed:
            if self._owner is not None and self._owner is not owner:
                raise DataDistError("Cannot init multiple LLMDataDists", code="LLM_FAILED")
            self._owner = owner

    def disclaim(self, owner: object) -> None:
        """Let another object be initialised."""
        with self._changed:
            if self._owner is owner:
                self._owner = None

    @property
    def calls(self) -> int:
        """How many shared calls are inside."""
        with self._changed:
            return self._calls

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Be one of many calls; waits while an exclusive one runs or waits."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_exclusive and not self._exclusive_waiting)
            self._calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Be the only call: waits, without bound, for those in flight."""
        with self._changed:
            self._exclusive_waiting += 1
            try:
                self._changed.wait_for(lambda: not self._is_exclusive and not self._calls)
            finally:
                self._exclusive_waiting -= 1
            self._is_exclusive = True
        try:
            yield
        finally:
            with self._changed:
                self._is_exclusive = False
                self._changed.notify_all()
