"""What one plan is made from: the fleet, the target, the rules, and what has been noted so far."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pd_autoscaler.core import link_limits
from pd_autoscaler.core.fleet import Fleet, node_thing
from pd_autoscaler.core.rules import Rules
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.link import LinkState, Pair
from pd_autoscaler.model.node import COMING, LEAVING, Node, NodeState, Role

_S = NodeState
_STAYING = COMING | {_S.SERVING}


@dataclass(frozen=True, slots=True)
class Leave:
    """What the planner may do beyond repairing: remove nodes, and of which roles.

    `spare` names the roles whose load the rest of their nodes could carry.
    """

    may_remove: bool = True
    spare: frozenset[Role] = frozenset(Role)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """All that one plan is made from.

    `notes` collects what was wanted but not planned, `published` the nodes that are, or with this
    plan will be, in the router's list.
    """

    fleet: Fleet
    target: Target
    rules: Rules
    busy: frozenset[str]
    leave: Leave
    now_s: float
    notes: list[str] = field(default_factory=list)
    published: dict[str, Node] = field(default_factory=dict)
    _missing: dict[Role, int] = field(default_factory=dict)

    def is_free(self, node: Node) -> bool:
        """Whether an action may begin on a node: none is under way or unknown, its wait is over."""
        thing = node_thing(node.id)
        is_idle = thing not in self.busy and thing not in self.fleet.blocked
        return is_idle and node.retry_at_s <= self.now_s

    def missing(self, role: Role) -> int:
        """How many nodes of a role the target asks for beyond those that serve or come."""
        found = self._missing.get(role)
        if found is None:
            found = self._missing[role] = self.target.of(role) - len(self._staying(role))
        return found

    def _staying(self, role: Role) -> list[Node]:
        return [
            n
            for n in self.fleet.nodes.values()
            if n.future_role is role
            # One that switches roles counts for the role that it takes, from its drain on.
            and (n.state in _STAYING or (n.next_role and n.state in LEAVING))
            and n.id not in self.fleet.drains
        ]

    def room(self) -> int:
        """How many more nodes the budget allows."""
        total = sum(n.state is not _S.STANDBY for n in self.fleet.nodes.values())
        return self.rules.guard.limits.nodes_max - total

    def unlinked_from(self, node: Node) -> list[Node]:
        """List the published nodes of the other role that a node has no link to."""
        if not self.rules.link.is_meshed:
            return []
        others = [n for n in self.published.values() if n.role is not node.role]
        states = {n.id: self.fleet.links.get(pair_of(node, n)) for n in others}
        return [
            n
            for n in others
            if (link := states[n.id]) is None or link.state is not LinkState.LINKED
        ]

    def unlinkable(
        self, role: Role, coming: Mapping[Role, int], *, without: Node | None = None
    ) -> str:
        """Say why one more node of a role, beside those coming, could not be linked, or nothing.

        `without` is a node that makes room for it.
        """
        rules = self.rules.link
        if not rules.is_meshed:
            return ""
        fleet = self.fleet if without is None else self.fleet.without_node(without.id)
        return link_limits.no_room(fleet, role, coming, rules.ranks)

    def is_stuck(self, node: Node) -> bool:
        """Whether a node has tried to join, or to stop, for longer than it should take."""
        waited_s = self.now_s - node.since_s
        if node.state is _S.STOPPING:
            return waited_s > self.rules.node.stop_timeout_s
        if node.state is _S.SWITCHING:
            return waited_s > self.rules.node.switch_timeout_s
        return node.state is _S.LINKING and waited_s > self.rules.link.join_deadline_s


def pair_of(one: Node, other: Node) -> Pair:
    """Return the pair of two nodes of different roles."""
    return (one.id, other.id) if one.role is Role.DECODER else (other.id, one.id)
