"""One observation on its way through the fleet."""

from dataclasses import dataclass

from pd_autoscaler.core.fleet import Fleet
from pd_autoscaler.model.facts import Facts
from pd_autoscaler.model.node import Node, NodeState
from pd_autoscaler.model.report import Move


@dataclass(slots=True)
class Passage:
    """One observation on its way through the fleet: the fleet so far and what moved."""

    fleet: Fleet
    facts: Facts
    moves: list[Move]
    alarms: list[str]

    @property
    def now_s(self) -> float:
        """When the observation was complete."""
        return self.facts.now_s

    def move(self, node: Node, state: NodeState, why: str) -> Node:
        """Move a node and note it; raises TransitionError where the table has no such move."""
        moved = node.moved_to(state, now_s=self.now_s, why=why)
        lasted_s = self.now_s - node.since_s
        self.moves.append(Move(node.id, node.role, node.state, state, why, lasted_s))
        self.fleet = self.fleet.with_node(moved)
        return moved
