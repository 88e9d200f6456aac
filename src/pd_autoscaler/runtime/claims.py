"""Claims: a controller that begins to act makes its epoch known to every agent at once.

Without it the agents learn of a new controller with its first real call, and until then two
controllers would undo each other's starts.
"""

import logging
from collections.abc import Iterable

import anyio

from pd_autoscaler.errors import OutcomeUnknownError, PermanentError, TransientError
from pd_autoscaler.model.node import Node
from pd_autoscaler.ports import Fence, NodeAgent

log = logging.getLogger(__name__)


async def claim(
    agents: NodeAgent, nodes: Iterable[Node], fence: Fence, *, deadline_s: float
) -> None:
    """Claim these nodes; one that does not answer, or refuses, learns with its next call."""

    async def one(node: Node) -> None:
        try:
            await agents.claim(node, fence=fence)
        except (TransientError, PermanentError, OutcomeUnknownError) as error:
            log.info("%s could not be claimed: %s", node.id, error)

    with anyio.move_on_after(deadline_s):
        async with anyio.create_task_group() as group:
            for node in nodes:
                group.start_soon(one, node)
