"""The planner: (fleet, target) to a plan; it adds before it removes, one disruption at a time."""

from collections.abc import Iterator

from pd_autoscaler.core import joining, mesh
from pd_autoscaler.core.fleet import Fleet, node_thing, things
from pd_autoscaler.core.rules import Rules
from pd_autoscaler.core.sight import Leave, Sight
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.facts import AgentPhase
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
    SwitchRole,
    WithdrawNode,
    in_waves,
)

_S = NodeState
REMOVALS = (WithdrawNode, DrainNode)
"""Verbs that take capacity away; their premise is checked again just before they are done."""


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
    sight = Sight(fleet=fleet, target=target, rules=rules, busy=busy, leave=leave, now_s=now_s)
    actions = list(_steps(sight))
    actions += mesh.planned(fleet, busy, rules.link, now_s=now_s)
    actions += joining.publications(sight)
    actions += _growth(sight)
    if leave.may_remove and fleet.is_synced:
        actions += joining.replacements(sight)
        actions += joining.partings(sight)
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


def _steps(sight: Sight) -> Iterator[Action]:
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
    # The router may still list the predecessor of a restarted node. While it does not say, nothing
    # long begins on the node: an init under way would keep it from being withdrawn.
    may_be_published = is_published or fleet.published is None
    if node.id in fleet.withdrawing and node.state in COMING and may_be_published:
        return WithdrawNode(node.id) if is_published else None
    match node.state:
        case _S.STARTING if node.id == node.request_id:
            return StartNode(node.role, node.request_id)
        case _S.INITIALISING if agent and agent.phase is AgentPhase.NEW and not node.is_suspect:
            return InitNode(node.id, node.role)
        case _S.DRAINING | _S.UNLINKING | _S.SWITCHING | _S.STOPPING | _S.FAILED if is_published:
            return WithdrawNode(node.id)
        case _S.SWITCHING if node.next_role and agent and not node.is_suspect:
            return SwitchRole(node.id, node.next_role)
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


def _growth(sight: Sight) -> Iterator[Action]:
    """Start what is missing, as far as the budget goes, the scarcer role first."""
    fleet, room = sight.fleet, sight.room()
    if not fleet.is_synced:
        # What is there has not been seen yet; it must not be started a second time.
        return
    count = fleet.request_count
    coming = {r: sum(not n.endpoints for n in fleet.of(r, COMING)) for r in Role}
    for role in sorted(Role, key=lambda r: -sight.missing(r)):
        if fleet.start_retry_at_s.get(role, 0.0) > sight.now_s:
            continue
        # After failed starts one attempt at a time shows whether they work again.
        wanted = sight.missing(role)
        for node in fleet.of(role, {_S.DRAINING}):
            is_bound_to_go = node.id in fleet.drains | fleet.inherited
            can_stay = not is_bound_to_go and not sight.unlinked_from(node)
            if wanted > 0 and can_stay and sight.is_free(node):
                # It is still linked: taking its removal back is faster than any start.
                wanted -= 1
                sight.published[node.id] = node
                yield PublishNode(node.id)
        wanted = min(wanted, 1) if fleet.start_failures.get(role) else wanted
        for _ in range(min(wanted, room)):
            refusal = sight.unlinkable(role, coming)
            if refusal:
                sight.notes.append(f"no {role} node is started: {refusal}")
                break
            coming[role] += 1
            count += 1
            room -= 1
            yield StartNode(role, f"start-{count}")


def _removals(sight: Sight) -> Iterator[Action]:
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
        is_exchange = is_full or failures.get(role.other, 0) >= attempts_max
        takes = role.other if is_exchange and sight.missing(role.other) > 0 else None
        drains = _drains(sight, role, 1 if is_full or takes else count, takes)
        if drains:
            # A role of which none can leave does not keep the other from leaving.
            yield from drains
            return


def _cancel(node: Node) -> Action:
    if node.state is _S.LINKING:
        return DrainNode(node.id, "no longer wanted")
    return StopNode(node.id)


def _drains(sight: Sight, role: Role, count: int, takes: Role | None) -> list[Action]:
    """List drains of the nodes whose leaving costs least, never the last that serve.

    A node whose engine can take the role that is missing (`takes`) is not stopped but switched:
    its process, its weights and its registered memory stay.
    """
    fleet = sight.fleet
    healthy = [n for n in fleet.of(role, {_S.SERVING}) if not n.is_suspect]
    floor = max(1, sight.rules.guard.limits.min_of(role))
    can_leave = max(0, len(healthy) - floor)
    if can_leave < count:
        sight.notes.append(f"{count - can_leave} {role} node(s) stay: {floor} must always serve")
    free = sorted((n for n in healthy if sight.is_free(n)), key=lambda n: _cost(fleet, n, takes))
    leaving = free[: min(count, can_leave)]
    for node in leaving if takes else ():
        refusal = sight.unlinkable(takes, {}, without=node) if takes else ""
        if refusal:
            sight.notes.append(f"{node.id} does not make room for a {takes} node: {refusal}")
            return []
    return [_drain(fleet, n, takes) for n in leaving]


def _drain(fleet: Fleet, node: Node, takes: Role | None) -> DrainNode:
    if node.id in fleet.drains:
        return DrainNode(node.id, "asked to drain")
    if takes is not None and _can_switch(fleet, node):
        return DrainNode(node.id, f"becomes {takes}: no room for another node", takes)
    return DrainNode(node.id, "more nodes than the target")


def _can_switch(fleet: Fleet, node: Node) -> bool:
    agent = fleet.agents.get(node.id)
    return agent is not None and agent.can_switch_role and not agent.calls_hung


def _cost(fleet: Fleet, node: Node, takes: Role | None) -> tuple[bool, bool, int, float]:
    """Order victims: asked to go, able to switch, the fewest requests inside, the youngest."""
    agent = fleet.agents.get(node.id)
    cannot_take = takes is not None and not _can_switch(fleet, node)
    inside = fleet.in_flight.get(node.id, 0)
    if agent is not None:
        inside += (agent.engine.running or 0) + (agent.engine.kv_unpulled or 0)
    return (node.id not in fleet.drains, cannot_take, inside, -(node.served_at_s or 0.0))


def revalidated(plan: Plan, fleet: Fleet, published: frozenset[str] | None, rules: Rules) -> Plan:
    """Return the plan without the removals that would leave too few, by what was just re-read.

    `published` is what the router says now, None if it does not answer.
    """
    kept: list[Action] = []
    notes = list(plan.notes)
    for action in plan.actions:
        if not isinstance(action, REMOVALS):
            kept.append(action)
        elif published is None:
            notes.append(f"{action.node_id} is not withdrawn: the router does not answer")
        elif premise_holds(fleet, action, published, rules):
            kept.append(action)
            # The next removal must leave enough without this one.
            published -= {action.node_id}
        else:
            notes.append(f"{action.node_id} is not withdrawn: too few others serve")
    return in_waves(kept, tuple(notes))


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
