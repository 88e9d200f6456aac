"""Writing to the journal from the loop: a failed write is an alarm, never a crash."""

import logging
from collections.abc import Awaitable

from pd_autoscaler.errors import OutcomeUnknownError, TransientError

log = logging.getLogger(__name__)


class Scribe:
    """Awaits journal writes; `alarm` says why the last one failed, empty once one succeeds."""

    def __init__(self) -> None:
        self.alarm = ""

    async def write(self, writing: Awaitable[object]) -> bool:
        """Return whether the write succeeded; what depends on it must not be done otherwise."""
        try:
            await writing
        except (TransientError, OutcomeUnknownError) as error:
            if not self.alarm:
                log.error("the journal cannot be written, nothing new is begun: %s", error)
            self.alarm = f"the journal cannot be written: {error}"
            return False
        if self.alarm:
            log.info("the journal can be written again")
        self.alarm = ""
        return True
