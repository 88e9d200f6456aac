"""The static provider: named nodes whose agents already run, some of them a standby pool."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from pd_autoscaler.errors import ConfigError, TransientError
from pd_autoscaler.model.facts import ProvidedNode
from pd_autoscaler.model.node import Role
from pd_autoscaler.settings.sections import StaticNode


def named(nodes: Iterable[StaticNode]) -> tuple[ProvidedNode, ...]:
    """Return the nodes that the settings name."""
    return tuple(
        ProvidedNode(
            id=node.id,
            role=node.role,
            agent_urls=node.agent_urls,
            metrics_url=node.metrics_url,
            engine_url=node.engine_url or "",
            is_standby=node.is_standby,
            profile=node.profile or "",
        )
        for node in nodes
    )


class StaticProvider:
    """Takes nodes from a pool and gives them back; starts and stops no process.

    `nodes` are listed for ever, in this order; those with `is_standby` are the pool at first.
    The spare that was given back last is taken last, since it may have been given up as dead.
    What was taken is remembered in this process only: a controller that restarts finds the pool
    as it was given. Raises ConfigError when two nodes share an id.
    """

    def __init__(self, nodes: Iterable[ProvidedNode]) -> None:
        given = tuple(nodes)
        twice = [node_id for node_id, n in Counter(node.id for node in given).items() if n > 1]
        if twice:
            raise ConfigError(f"node id {twice[0]!r} is given twice: give each node its own")
        self._nodes = {node.id: node for node in given}
        self._pool = [node.id for node in given if node.is_standby]

    async def nodes(self) -> tuple[ProvidedNode, ...]:
        """List all nodes; those in the pool say so."""
        return tuple(self._nodes.values())

    async def grow(self, role: Role, request_id: str) -> None:
        """Take a node of this role from the pool; a repeated request id takes nothing more.

        Raises TransientError while the pool has none of this role.
        """
        if any(node.request_id == request_id for node in self._nodes.values()):
            return
        for node_id in self._pool:
            node = self._nodes[node_id]
            if node.role is role:
                self._pool.remove(node_id)
                self._nodes[node_id] = replace(node, is_standby=False, request_id=request_id)
                return
        raise TransientError(f"no {role} node is left in the pool: remove one first, or name more")

    async def remove(self, node_id: str) -> None:
        """Give a node back to the pool; one that is there or unknown is a success."""
        node = self._nodes.get(node_id)
        if node is not None and not node.is_standby:
            self._pool.append(node_id)
            self._nodes[node_id] = replace(node, is_standby=True, request_id="")
