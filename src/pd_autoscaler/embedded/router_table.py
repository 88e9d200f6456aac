"""Which nodes the embedded router may use, and how many requests are on each."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import anyio

from pd_autoscaler.model.node import Role

FORMER_NODES_MAX = 256
"""Withdrawn nodes whose count (zero) is still told; the oldest are forgotten."""


@dataclass(frozen=True, slots=True)
class RoutedNode:
    """A node that may get requests."""

    id: str
    role: Role
    url: str


class NodeTable:
    """Published nodes with their counts; blind to links, as real routers are."""

    def __init__(self) -> None:
        self._published: dict[str, RoutedNode] = {}
        self._in_flight: dict[str, int] = {}
        self._picked: dict[str, int] = {}
        self._turn = 0
        self._changed = anyio.Event()

    def publish(self, node: RoutedNode) -> None:
        """Let a node get requests; a known id takes the new role and address."""
        self._published[node.id] = node
        # The newest comes last, also after a withdrawal: forgetting goes by this order.
        self._in_flight[node.id] = self._in_flight.pop(node.id, 0)
        self._changed.set()
        self._changed = anyio.Event()

    def withdraw(self, node_id: str) -> None:
        """Send a node nothing new; what it has goes on."""
        self._published.pop(node_id, None)
        self._picked.pop(node_id, None)
        former = [i for i, n in self._in_flight.items() if not n and i not in self._published]
        for forgotten in former[: max(len(former) - FORMER_NODES_MAX, 0)]:
            del self._in_flight[forgotten]

    def ids(self, role: Role) -> list[str]:
        """Return the published nodes of a role, in order of publication."""
        return [node.id for node in self._published.values() if node.role is role]

    @property
    def in_flight(self) -> dict[str, int]:
        """Requests by node id; withdrawn nodes stay, so that their zero can be seen."""
        return dict(self._in_flight)

    def pick(self, role: Role, *, but: Collection[str] = ()) -> RoutedNode | None:
        """Return the published node of a role with the fewest requests; ties go in turn."""
        nodes = [n for n in self._published.values() if n.role is role and n.id not in but]
        if not nodes:
            return None
        best = min(nodes, key=lambda n: (self._in_flight[n.id], self._picked.get(n.id, 0)))
        self._turn += 1
        self._picked[best.id] = self._turn
        return best

    def enter(self, node: RoutedNode) -> Callable[[], None]:
        """Count a request on a node until the function returned is called; twice is once."""
        self._in_flight[node.id] = self._in_flight.get(node.id, 0) + 1
        is_on = True

        def leave() -> None:
            nonlocal is_on
            if is_on:
                is_on = False
                self._in_flight[node.id] -= 1

        return leave

    async def wait_for(self, *roles: Role, within_s: float) -> bool:
        """Wait until each of these roles has a published node; False when none came in time."""
        with anyio.move_on_after(within_s):
            while not all(self.ids(role) for role in roles):
                await self._changed.wait()
            return True
        return False
