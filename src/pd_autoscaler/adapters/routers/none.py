"""No router: engines find each other some other way, and publishing is only remembered."""

from collections.abc import Mapping

from pd_autoscaler.model.node import Node


class NoRouter:
    """`ports.Router` for clusters whose traffic this controller does not steer."""

    def __init__(self) -> None:
        self._published: set[str] = set()

    @property
    def is_pair_aware(self) -> bool:
        """False: nothing is known of pairs."""
        return False

    async def published(self) -> frozenset[str]:
        """Return what was published and not withdrawn."""
        return frozenset(self._published)

    async def publish(self, node: Node) -> None:
        """Remember a node as published."""
        self._published.add(node.id)

    async def withdraw(self, node_id: str) -> None:
        """Remember a node as withdrawn."""
        self._published.discard(node_id)

    async def in_flight(self) -> Mapping[str, int]:
        """Return nothing: requests in flight are unknown."""
        return {}
