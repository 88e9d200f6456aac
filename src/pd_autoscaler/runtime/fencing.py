"""Fencing: this controller's epoch, how the agents learn of it, and whether another took over."""

import logging
from collections.abc import Collection, Mapping

import anyio

from pd_autoscaler.errors import OutcomeUnknownError, PermanentError, TransientError
from pd_autoscaler.model.facts import AgentState
from pd_autoscaler.model.node import Node
from pd_autoscaler.ports import Fence, Journal, Lease, NodeAgent
from pd_autoscaler.runtime.scribe import Scribe

log = logging.getLogger(__name__)


class Fencing:
    """Takes an epoch above every one seen, claims the agents, and steps back when replaced.

    `claim_s` bounds how long a cycle waits for agents to be claimed.
    """

    def __init__(
        self, lease: Lease, agents: NodeAgent, journal: Journal, scribe: Scribe, *, claim_s: float
    ) -> None:
        self.epoch = 0
        self._lease = lease
        self._agents = agents
        self._journal = journal
        self._scribe = scribe
        self._claim_s = claim_s
        self._remembered = 0
        self._claimed = 0
        self._is_superseded = False

    @property
    def fence(self) -> Fence:
        """What every call to an agent carries."""
        return Fence(self.epoch, self._lease.holder)

    @property
    def may_act(self) -> bool:
        """Whether this controller leads, has an epoch, and was not replaced by another."""
        return self._lease.is_leader and bool(self.epoch) and not self._is_superseded

    def take_up(self, epoch: int) -> None:
        """Remember the epoch that the journal holds."""
        self._remembered = epoch

    async def observed(
        self, agents: Mapping[str, AgentState], *, nodes: int, was_synced: bool
    ) -> list[str]:
        """Take an epoch where one is needed; return an alarm where agents obey somebody else.

        `nodes` is how many nodes there are, `was_synced` whether all had answered once before.
        """
        if not self._lease.is_leader:
            # Whoever leads meanwhile takes a higher one; so does this one when it leads again.
            self.epoch = 0
            return []
        others = [
            a.holder
            for a in agents.values()
            if a.epoch >= self.epoch and a.holder not in {"", self._lease.holder}
        ]
        # Until all have answered once, a higher epoch may be that of a controller long gone.
        if not self.epoch or (others and not was_synced):
            await self._take_epoch(max((a.epoch for a in agents.values()), default=0))
            return []
        if not others:
            has_seen_most = 2 * len(agents) >= nodes
            self._is_superseded = self._is_superseded and not has_seen_most
            return []
        # One straggler may obey a controller that is long gone; half of them obey one that acts.
        self._is_superseded = self._is_superseded or 2 * len(others) >= len(agents)
        what = (
            "this one does nothing more" if self._is_superseded else "it refuses this one's calls"
        )
        count = f"{len(others)} of {len(agents)} agents obey another controller"
        return [f"{count} ({min(others)}): {what}; end one of the two, then restart this one"]

    async def _take_epoch(self, seen: int) -> None:
        epoch = 1 + max(seen, self._remembered)
        if await self._scribe.write(self._journal.set_epoch(epoch)):
            self.epoch = self._remembered = epoch

    async def claim(self, nodes: Collection[Node]) -> None:
        """Once in an epoch, and before the first act in it, make it known to these nodes' agents.

        Without it they learn of a new controller with its first real call, and until then two
        controllers would undo each other's starts. An agent that does not answer, or refuses,
        learns with its next call.
        """
        if self._claimed == self.epoch:
            return
        with anyio.move_on_after(self._claim_s):
            async with anyio.create_task_group() as group:
                for node in nodes:
                    group.start_soon(self._claim_one, node)
        self._claimed = self.epoch

    async def _claim_one(self, node: Node) -> None:
        try:
            await self._agents.claim(node, fence=self.fence)
        except (TransientError, PermanentError, OutcomeUnknownError) as error:
            log.info("%s could not be claimed: %s", node.id, error)
