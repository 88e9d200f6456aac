"""The planner: (fleet, target) to a plan; it adds before it removes, one disruption at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from pd_autoscaler.core import mesh
from pd_autoscaler.core.fleet import Fleet, node_thing, things
from pd_autoscaler.core.rules import Rules
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.facts import AgentPhase
from pd_autoscaler.model.link import LinkState
from pd_autoscaler.model.node import COMING, LEAVING, Node, NodeState, Role
from pd_autoscaler.model.plan import (
    Action,
    DrainNode,
    FinalizeNode,
    InitNode,
    Plan,
    PublishNode,
    StartNode,
    StopNode,
    WithdrawNode,
    in_waves,
)

_S = NodeState
REMOVALS = (WithdrawNode, DrainNode)
"""Verbs that take capacity away; their premise is checked again just before they are done."""


@dataclass(frozen=True, slots=True)
class Leave:
    """What the planner may do beyond repairing: remove nodes, and of which roles.

    `spare` names the roles whose load the rest of their nodes could carry.
    """

    may_remove: bool = True
    spare: frozenset[Role] = frozenset(Role)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sight:
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

    def is_free(self, node: Node) -> bool:
        """Whether an action may begin on a node: none is under way or unknown, its wait is over."""
        thing = node_thing(node.id)
        is_idle = thing not in self.busy and thing not in self.fleet.blocked
        return is_idle and node.retry_at_s <= self.now_s

    def missing(self, role: Role) -> int:
        """How many nodes of a role the target asks for beyond those that serve or come."""
        nodes = self.fleet.of(role, COMING | {_S.SERVING})
        return self.target.of(role) - sum(n.id not in self.fleet.drains for n in nodes)

    def room(self) -> int:
        """How many more nodes the budget allows."""
        total = sum(n.state is not _S.STANDBY for n in self.fleet.nodes.values())
        return self.rules.guard.limits.nodes_max - total

    def unlinked_from(self, node: Node) -> list[Node]:
        """List the published nodes of the other role that a node has no link to."""
        others = [n for n in self.published.values() if n.role is not node.role]
        states = {n.id: self.fleet.links.get(_pair(node, n)) for n in others}
        return [
            n
            for n in others
            if (link := states[n.id]) is None or link.state is not LinkState.LINKED
        ]

    def is_stuck(self, node: Node) -> bool:
        """Whether a node has tried to join, or to stop, for longer than it should take."""
        waited_s = self.now_s - node.since_s
        if node.state is _S.STOPPING:
            return waited_s > self.rules.node.stop_timeout_s
        return node.state is _S.LINKING and waited_s > self.rules.link.join_deadline_s


def planned(
    fleet: Fleet,
    target: Target,
    rules: Rules,
    *,
    busy: frozenset[str],
    leave: Leave,
    now_s: float,
) -> Plan:
    """Return what to do now to bring the fleet nearer to the target; nothing when it is there.

    `busy` names things with an action under way. Nothing drains while a node of either role is
    coming; at a full budget one node is drained so that one of the other role can start.
    """
    if fleet.is_blind:
        return Plan(notes=("too much of the fleet is silent: nothing is done",))
    sight = _Sight(fleet=fleet, target=target, rules=rules, busy=busy, leave=leave, now_s=now_s)
    actions = list(_steps(sight))
    actions += mesh.planned(fleet, busy, rules.link, now_s=now_s)
    actions += _publications(sight)
    actions += _growth(sight)
    if leave.may_remove and fleet.is_synced:
        actions += _replacements(sight)
        actions += _removals(sight)
    return _one_each(in_waves(actions, tuple(sight.notes)))


def _one_each(plan: Plan) -> Plan:
    """Keep one action for each thing, the first in wave order: what adds beats what removes."""
    taken: set[str] = set()
    kept: list[Action] = []
    for action in plan.actions:
        if taken.isdisjoint(things(action)):
            taken.update(things(action))
            kept.append(action)
    return plan if len(kept) == len(plan.actions) else in_waves(kept, plan.notes)


def _steps(sight: _Sight) -> Iterator[Action]:
    """Yield the next step in the life of each node."""
    for node in sight.fleet.nodes.values():
        if sight.is_free(node):
            action = _step(sight.fleet, node, sight.rules)
            if action is not None:
                yield action
    if sight.fleet.published is not None and sight.fleet.is_synced:
        # Nodes that died while no controller ran are still in the router's list.
        for node_id in sorted(sight.fleet.former & sight.fleet.published):
            if node_id not in sight.fleet.nodes and node_thing(node_id) not in sight.busy:
                yield WithdrawNode(node_id)


def _step(fleet: Fleet, node: Node, rules: Rules) -> Action | None:
    is_published = fleet.published is not None and node.id in fleet.published
    agent = fleet.agents.get(node.id)
    if node.id in fleet.withdrawing and is_published and node.state in COMING:
        return WithdrawNode(node.id)
    match node.state:
        case _S.STARTING if node.id == node.request_id:
            return StartNode(node.role, node.request_id)
        case _S.INITIALISING if agent and agent.phase is AgentPhase.NEW and not node.is_suspect:
            return InitNode(node.id, node.role)
        case _S.DRAINING | _S.UNLINKING | _S.STOPPING | _S.FAILED if is_published:
            return WithdrawNode(node.id)
        case _S.STOPPING:
            return _stop(fleet, node, rules)
        case _S.FAILED if fleet.published is not None:
            return StopNode(node.id)
        case _:
            return None


def _stop(fleet: Fleet, node: Node, rules: Rules) -> Action:
    """Finalise first, where that is safe: not beside a hung call, and not a second time."""
    agent = fleet.agents.get(node.id)
    can_finalise = (
        agent is not None
        and agent.phase is AgentPhase.READY
        and not agent.calls_hung
        and not node.is_suspect
        and not node.attempts
        and not rules.node.keeps_standby
    )
    return FinalizeNode(node.id) if can_finalise else StopNode(node.id)


def _publications(sight: _Sight) -> Iterator[Action]:
    """Publish, one after the other, nodes whose links to all published ones are up."""
    fleet = sight.fleet
    if fleet.published is None or not fleet.is_synced:
        return
    joining = (*fleet.of(Role.PROMPT, {_S.LINKING}), *fleet.of(Role.DECODER, {_S.LINKING}))
    listed = [n for n in fleet.nodes.values() if n.id in fleet.published]
    # A node that the router still lists though it is dead, restarted or gone asks for no links; one
    # that was found and never answered does.
    past = {_S.FAILED, _S.UNLINKING, _S.STOPPING}
    usable = [n for n in listed if n.state not in past and n.id not in fleet.withdrawing]
    sight.published.update({n.id: n for n in usable})
    # The router may list what it was told of, or is being told of, at any moment.
    coming = [n for n in joining if n.id in fleet.publishing or not sight.is_free(n)]
    sight.published.update({n.id: n for n in coming})
    for node in joining:
        is_told = node.id in fleet.publishing and sight.is_free(node)
        if (node.id in sight.published and not is_told) or node.is_suspect:
            continue
        if node.id in fleet.withdrawing:
            continue
        down = sight.unlinked_from(node)
        if not down:
            sight.published[node.id] = node
            yield PublishNode(node.id)
        elif sight.is_stuck(node):
            yield from _give_way(sight, node, down)


def _give_way(sight: _Sight, newcomer: Node, down: list[Node]) -> Iterator[Action]:
    """Withdraw the one published node that cannot link a newcomer, if the rest carry its load."""
    blocker = down[0]
    others = sum(n.role is blocker.role for n in sight.published.values())
    link = sight.fleet.links.get(_pair(newcomer, blocker))
    is_failing = link is not None and link.state in {LinkState.FAILED, LinkState.SUSPECT}
    if not is_failing:
        return
    if len(down) == 1 and others > 2 and blocker.role in sight.leave.spare:
        if blocker.state is _S.SERVING and sight.is_free(blocker):
            sight.notes.append(f"{blocker.id} cannot link {newcomer.id}: it is withdrawn")
            yield WithdrawNode(blocker.id)
        return
    names = ", ".join(n.id for n in down[:4])
    sight.notes.append(f"{newcomer.id} waits: no link to {names}, and those cannot be spared")


def _pair(one: Node, other: Node) -> tuple[str, str]:
    return (one.id, other.id) if one.role is Role.DECODER else (other.id, one.id)


def _growth(sight: _Sight) -> Iterator[Action]:
    """Start what is missing, as far as the budget goes, the scarcer role first."""
    fleet, room = sight.fleet, sight.room()
    if not fleet.is_synced:
        # What is there has not been seen yet; it must not be started a second time.
        return
    count = fleet.request_count
    for role in sorted(Role, key=lambda r: -sight.missing(r)):
        if fleet.start_retry_at_s.get(role, 0.0) > sight.now_s:
            continue
        # After failed starts one attempt at a time shows whether they work again.
        wanted = sight.missing(role)
        for node in fleet.of(role, {_S.DRAINING}):
            can_stay = node.id not in fleet.drains and not sight.unlinked_from(node)
            if wanted > 0 and can_stay and sight.is_free(node):
                # It is still linked: taking its removal back is faster than any start.
                wanted -= 1
                sight.published[node.id] = node
                yield PublishNode(node.id)
        wanted = min(wanted, 1) if fleet.start_failures.get(role) else wanted
        for _ in range(min(wanted, room)):
            count += 1
            room -= 1
            yield StartNode(role, f"start-{count}")


def _replacements(sight: _Sight) -> Iterator[Action]:
    """Give up one node that cannot be linked to most of its peers, so that another can come.

    Where over a third of all pairs fail, the fault is not that node's.
    """
    fleet, rules = sight.fleet, sight.rules.link
    if any(not sight.is_stuck(n) for role in Role for n in fleet.of(role, COMING | LEAVING)):
        return
    failing = {
        pair
        for pair, link in fleet.links.items()
        if link.attempts >= rules.attempts_max and link.state is not LinkState.LINKED
    }
    if not failing or len(failing) > len(fleet.links) / 3:
        return
    for role in Role:
        for node in fleet.of(role, {_S.LINKING}):
            waited_s = sight.now_s - node.since_s
            pairs = [link.pair for link in mesh.links_of(fleet, node)]
            is_hopeless = 2 * sum(pair in failing for pair in pairs) > len(pairs)
            if is_hopeless and waited_s > 2 * rules.join_deadline_s and sight.is_free(node):
                yield DrainNode(node.id, "cannot be linked to most of its peers")
                return


def _removals(sight: _Sight) -> Iterator[Action]:
    """Take out what is too much, after everything missing has come."""
    fleet = sight.fleet
    for role in Role:
        coming = fleet.of(role, {_S.STARTING, _S.INITIALISING, _S.LINKING})
        named = [
            n
            for n in coming
            if n.id != n.request_id and n.id not in sight.published and sight.is_free(n)
        ]
        if sight.missing(role) < 0 and named:
            yield _cancel(named[-1])
            return
    if any(not sight.is_stuck(n) for role in Role for n in fleet.of(role, COMING | LEAVING)):
        return
    failures, attempts_max = fleet.start_failures, sight.rules.node.start_attempts_max
    # What was asked for too often in vain counts as not to be had.
    has_starved = any(sight.missing(r) > 0 and failures.get(r, 0) < attempts_max for r in Role)
    is_full = sight.room() <= 0
    if has_starved and not is_full:
        return
    for role in Role:
        asked = [n for n in fleet.of(role, {_S.SERVING}) if n.id in fleet.drains]
        count = max(-sight.missing(role), 0) + len(asked)
        if not count:
            continue
        if has_starved and role not in sight.leave.spare and not asked:
            sight.notes.append(f"no {role} node is given up: the rest could not carry its load")
            continue
        # With a full budget a rebalance is one node at a time.
        drains = _drains(sight, role, 1 if is_full else count)
        if drains:
            # A role of which none can leave does not keep the other from leaving.
            yield from drains
            return


def _cancel(node: Node) -> Action:
    if node.state is _S.LINKING:
        return DrainNode(node.id, "no longer wanted")
    return StopNode(node.id)


def _drains(sight: _Sight, role: Role, count: int) -> list[Action]:
    """List drains of the nodes whose leaving costs least, never the last that serve."""
    fleet = sight.fleet
    healthy = [n for n in fleet.of(role, {_S.SERVING}) if not n.is_suspect]
    floor = max(1, sight.rules.guard.limits.min_of(role))
    can_leave = max(0, len(healthy) - floor)
    if can_leave < count:
        sight.notes.append(f"{count - can_leave} {role} node(s) stay: {floor} must always serve")
    free = sorted((n for n in healthy if sight.is_free(n)), key=lambda n: _cost(fleet, n))
    return [
        DrainNode(n.id, "asked to drain" if n.id in fleet.drains else "more nodes than the target")
        for n in free[: min(count, can_leave)]
    ]


def _cost(fleet: Fleet, node: Node) -> tuple[bool, int, float]:
    """Order victims: those asked to go, then the fewest requests inside, then the youngest."""
    agent = fleet.agents.get(node.id)
    inside = fleet.in_flight.get(node.id, 0)
    if agent is not None:
        inside += (agent.engine.running or 0) + (agent.engine.kv_unpulled or 0)
    return (node.id not in fleet.drains, inside, -(node.served_at_s or 0.0))


def premise_holds(fleet: Fleet, action: Action, published: frozenset[str], rules: Rules) -> bool:
    """Whether a removal still leaves enough published nodes of its role, as just re-read."""
    if not isinstance(action, REMOVALS):
        return True
    node = fleet.nodes.get(action.node_id)
    if node is None or node.id not in published or node.state is not _S.SERVING:
        # It serves nobody that counts on it, or was counted out before.
        return True
    rest = [
        n
        for n in fleet.of(node.role, {_S.SERVING})
        if n.id in published and n.id != node.id and not n.is_suspect
    ]
    return len(rest) >= max(1, rules.guard.limits.min_of(node.role))
