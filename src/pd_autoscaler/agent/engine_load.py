"""Asks the engine for its load without ever waiting long for it."""

import logging

from pd_autoscaler.agent.hooks import EngineHooks, NoHooks
from pd_autoscaler.agent.wire import EngineWire
from pd_autoscaler.threads import Threads

DEADLINE_S = 1.0

log = logging.getLogger(__name__)


class LoadReader:
    """Calls `EngineHooks.load` in one thread; one that fails or hangs is unknown, not idle."""

    def __init__(self, hooks: EngineHooks) -> None:
        self._hooks = hooks
        # An engine may take NoHooks as its base and tell something all the same.
        self._tells_nothing = type(hooks).load is NoHooks.load
        self._threads = Threads("engine-load", 1)
        self._is_failing = False

    async def read(self) -> EngineWire:
        """Return the engine's load, all unknown if it fails or has not answered within a second.

        While a call hangs, no other is made.
        """
        if self._tells_nothing or self._threads.is_exhausted:
            return EngineWire()
        try:
            load = await self._threads.run(self._hooks.load, deadline_s=DEADLINE_S)
        except Exception as error:
            if not self._is_failing:
                self._is_failing = True
                log.warning("the engine's load is unknown: %r", error)
            return EngineWire()
        if self._is_failing:
            self._is_failing = False
            log.info("the engine's load is known again")
        return load
