"""The life of nodes: facts move states before anything is decided, and no state lasts for ever."""

from dataclasses import replace

from pd_autoscaler.core import adoption, link_tables, mesh
from pd_autoscaler.core.fleet import Contact, Fleet, is_unmet
from pd_autoscaler.core.passage import Passage
from pd_autoscaler.core.rules import NodeRules, Rules
from pd_autoscaler.model.facts import AgentPhase, AgentState, Facts
from pd_autoscaler.model.node import LEAVING, RANK_SEPARATOR, Node, NodeState, Role
from pd_autoscaler.model.report import Move

_S = NodeState
_IDLE_COUNT = 2
"""Observations in a row that must find a withdrawn node idle: a request may be on its way."""


def observed(fleet: Fleet, facts: Facts, rules: Rules) -> tuple[Fleet, list[Move], list[str]]:
    """Return the fleet after these facts, the moves they made, and alarms in words."""
    passage = Passage(fleet, facts, [], [])
    adoption.provided(passage, rules.node)
    _remember(passage)
    is_blind = _is_blind(passage.fleet, facts, rules.node, passage.alarms)
    if is_blind is not passage.fleet.is_blind:
        passage.fleet = replace(passage.fleet, is_blind=is_blind)
    for node in list(passage.fleet.nodes.values()):
        agent = facts.agents.get(node.id)
        if agent is not None:
            _told_by_agent(passage, node, agent)
        elif not passage.fleet.is_blind:
            _silent(passage, node, rules.node)
    passage.fleet = _held_by_the_living(passage.fleet)
    for node in list(passage.fleet.nodes.values()):
        _publication(passage, node)
    if rules.link.is_meshed:
        passage.fleet = link_tables.observed(
            passage.fleet, frozenset(facts.agents), rules.link, now_s=facts.now_s
        )
    for node in list(passage.fleet.nodes.values()):
        _left(passage, node, rules.node)
        _overdue(passage, passage.fleet.nodes[node.id], rules)
    passage.alarms += [
        f"prompt node {node_id} takes no connection from decoders: {why}"
        for node_id, why in sorted(facts.unreachable.items())
    ]
    passage.fleet = _synced(passage.fleet, facts, rules.node)
    return passage.fleet, passage.moves, passage.alarms


def _remember(passage: Passage) -> None:
    """Take in what answered, and unblock what was observed after its unknown outcome."""
    fleet, facts = passage.fleet, passage.facts
    contacts = dict(fleet.contacts)
    for node_id in fleet.nodes:
        old = contacts.get(node_id, Contact(facts.now_s, facts.now_s))
        reading = facts.readings.get(node_id)
        agent = facts.agents.get(node_id)
        # A page may come from a cache, older than one that was seen: no contact is unmade by it.
        contacts[node_id] = Contact(
            agent.at_s if agent is not None else old.agent_at_s,
            max(reading.at_s, old.metrics_at_s) if reading is not None else old.metrics_at_s,
        )
    passage.fleet = replace(
        fleet,
        contacts=contacts,
        agents={**fleet.agents, **{k: v for k, v in facts.agents.items() if k in fleet.nodes}},
        published=facts.published,
        in_flight=facts.in_flight,
        unreachable=facts.unreachable,
        blocked={k: v for k, v in fleet.blocked.items() if not _is_observed(k, v, fleet, facts)},
    )


def _is_observed(thing: str, since_s: float, fleet: Fleet, facts: Facts) -> bool:
    """Whether the state of a thing was read after its outcome became unknown."""
    kind, node_id, *_ = thing.split(" ")
    if node_id not in fleet.nodes:
        return True
    if kind == "node":
        return facts.provided is not None and facts.published is not None
    agent = facts.agents.get(node_id)
    return agent is not None and agent.at_s > since_s


def _told_by_agent(passage: Passage, node: Node, agent: AgentState) -> None:
    """Move a node to where its own agent says it is."""
    has_restarted = node.incarnation and agent.incarnation != node.incarnation
    # A spare that restarts is still a spare.
    if has_restarted and node.state is not _S.STANDBY:
        node = _restarted(passage, node, agent)
    role = agent.role if agent.phase is AgentPhase.READY and agent.role else node.role
    endpoints = agent.endpoints or node.endpoints
    told = (agent.incarnation, endpoints, role)
    if node.is_suspect or told != (node.incarnation, node.endpoints, node.role):
        node = replace(
            node, incarnation=agent.incarnation, endpoints=endpoints, role=role, is_suspect=False
        )
    passage.fleet = passage.fleet.with_node(node)
    if agent.phase is AgentPhase.READY and agent.role is node.next_role is not None:
        node = _took_role(passage, node)
    match node.state, agent.phase:
        case _S.LINKING | _S.SERVING, AgentPhase.READY if agent.has_mixed_roles:
            passage.move(node, _S.FAILED, "its ranks have different roles")
        case _S.STARTING | _S.INITIALISING, AgentPhase.READY if agent.has_mixed_roles:
            node = replace(node, next_role=node.next_role or node.role)
            passage.move(node, _S.SWITCHING, "found between two roles")
        case _S.STARTING, AgentPhase.READY:
            passage.move(node, _S.LINKING, "found initialised")
        case _S.STARTING | _S.INITIALISING | _S.LINKING | _S.SERVING, AgentPhase.FINALISED:
            # The library knows no way back: only another process can serve.
            passage.move(node, _S.FAILED, "its library object was finalised")
        case _S.STARTING, _:
            passage.move(node, _S.INITIALISING, "its agent answers")
        case _S.INITIALISING, AgentPhase.READY:
            passage.move(node, _S.LINKING, "initialised")
        case _:
            pass


def _took_role(passage: Passage, node: Node) -> Node:
    """A node that has taken its next role is not leaving any more: it joins anew."""
    fleet = passage.fleet
    node = replace(node, next_role=None, served_at_s=None)
    passage.fleet = replace(
        fleet.with_node(node),
        leaving=fleet.leaving - {node.id},
        inherited=fleet.inherited - {node.id},
        next_roles={k: v for k, v in fleet.next_roles.items() if k != node.id},
        # A router that still lists it, or lists it again, has it in its old role.
        withdrawing=fleet.withdrawing | {node.id},
    )
    if node.state is _S.SWITCHING:
        return passage.move(node, _S.LINKING, f"took the role of {node.role}")
    return node


def _restarted(passage: Passage, node: Node, agent: AgentState) -> Node:
    """A new process under an old name begins again; one on its way out is only stopped."""
    passage.alarms.append(f"{node.role} node {node.id} restarted while {node.state}")
    was_leaving = node.state in LEAVING or node.state is _S.FAILED
    if node.state is not _S.FAILED:
        node = passage.move(node, _S.FAILED, "restarted: its agent has a new incarnation")
    # Its predecessor may have switched roles; this process begins with the one it was started in.
    node = replace(node, endpoints=(), role=agent.role or node.role, served_at_s=None)
    fleet = passage.fleet
    passage.fleet = replace(fleet, withdrawing=fleet.withdrawing | {node.id}).with_node(node)
    if was_leaving:
        return node
    # One that was to switch roles does not leave any more: it begins anew in its own.
    passage.fleet = replace(
        passage.fleet, leaving=fleet.leaving - {node.id}, inherited=fleet.inherited - {node.id}
    )
    return passage.move(node, _S.STARTING, "came back as a new process")


def _held_by_the_living(fleet: Fleet) -> Fleet:
    """Return the fleet with what prompt nodes hold under their present incarnations.

    When a rank restarts its node has a new incarnation, and the other ranks hold what they held.
    What is left is of nodes that are no more, once every node has been met.
    """
    living = {node.incarnation for node in fleet.nodes.values()}
    if fleet.linked.keys() <= living:
        return fleet
    linked = {k: v for k, v in fleet.linked.items() if k in living}
    for old in fleet.linked.keys() - living:
        ranks = set(old.split(RANK_SEPARATOR))
        heirs = [new for new in living if ranks & set(new.split(RANK_SEPARATOR))]
        is_waited_for = not fleet.is_synced or fleet.has_unmet
        for key in heirs or ([old] if is_waited_for else []):
            linked[key] = linked.get(key, frozenset()) | fleet.linked[old]
    return replace(fleet, linked=linked)


def _silent(passage: Passage, node: Node, rules: NodeRules) -> None:
    """Silence of the agent makes a node suspect; silence of agent and metrics loses it."""
    was_serving = is_unmet(node) and node.id in (passage.facts.published or ())
    if node.state in {_S.STARTING, _S.STANDBY, _S.STOPPING, _S.FAILED} and not was_serving:
        return
    if not node.is_suspect:
        passage.fleet = passage.fleet.with_node(replace(node, is_suspect=True))
    contact = passage.fleet.contacts[node.id]
    agent_silent_s = passage.now_s - contact.agent_at_s
    silent_s = passage.now_s - contact.latest_s
    if silent_s <= rules.lost_after_s < agent_silent_s:
        passage.alarms.append(
            f"{node.role} node {node.id}: an agent is silent for {agent_silent_s:.0f} s while its "
            "metrics answer; nothing is done to it until somebody looks"
        )
    if silent_s > rules.lost_after_s:
        passage.alarms.append(f"{node.role} node {node.id} was lost: silent for {silent_s:.0f} s")
        passage.move(
            passage.fleet.nodes[node.id],
            _S.FAILED,
            f"lost: agent and metrics silent for {silent_s:.0f} s",
        )


def _is_blind(fleet: Fleet, facts: Facts, rules: NodeRules, alarms: list[str]) -> bool:
    """Whether so much fell silent in one window that the fault is taken to be ours."""
    past = {_S.FAILED, _S.STOPPING}
    met = [n for n in fleet.nodes.values() if n.incarnation and n.state not in past]
    ages = [facts.now_s - fleet.contacts[n.id].latest_s for n in met if n.id in fleet.contacts]
    # Those that fell silent a little later belong to the same window as the first.
    silent = sum(age > rules.lost_after_s / 3 for age in ages)
    if not silent or (max(ages) <= rules.lost_after_s and not fleet.is_blind):
        return False
    if silent < 2 or silent <= rules.lost_share_max * len(met):
        return False
    alarms.append(
        f"{silent} of {len(met)} nodes are silent: the fault may be on this side, nothing is done"
    )
    return True


def _publication(passage: Passage, node: Node) -> None:
    """Serving is what the router says it is."""
    published = passage.fleet.published
    if published is None:
        return
    is_published = node.id in published
    _noted(passage, node, is_published=is_published)
    if node.id in passage.fleet.withdrawing:
        return
    if node.state is _S.LINKING and node.id in passage.fleet.leaving:
        # Found on its way out after a restart of this controller.
        node = passage.move(node, _S.SERVING, "found withdrawn")
        passage.move(node, _S.DRAINING, "its removal goes on")
    elif node.state is _S.LINKING and is_published:
        node = passage.move(node, _S.SERVING, "published")
        failures = {**passage.fleet.start_failures, node.role: 0}
        passage.fleet = replace(passage.fleet, start_failures=failures)
        if node.id in passage.fleet.leaving:
            passage.move(node, _S.DRAINING, "its removal goes on")
    elif node.state is _S.SERVING and not is_published:
        passage.move(node, _S.LINKING, "the router no longer lists it")


def _noted(passage: Passage, node: Node, *, is_published: bool) -> None:
    """Note what the router now shows of what it was told."""
    fleet, this = passage.fleet, {node.id}
    was_withdrawn = node.id in fleet.withdrawn_at_s
    if is_published and (was_withdrawn or node.id in fleet.publishing):
        withdrawn = {k: v for k, v in fleet.withdrawn_at_s.items() if k != node.id}
        passage.fleet = replace(fleet, publishing=fleet.publishing - this, withdrawn_at_s=withdrawn)
    elif not is_published and (not was_withdrawn or node.id in fleet.withdrawing):
        withdrawn = {node.id: passage.now_s, **fleet.withdrawn_at_s}
        passage.fleet = replace(
            fleet, withdrawing=fleet.withdrawing - this, withdrawn_at_s=withdrawn
        )


def _left(passage: Passage, node: Node, rules: NodeRules) -> None:
    """Move a leaving node on: once idle it is unlinked, once unlinked it is stopped."""
    node = passage.fleet.nodes[node.id]
    aged_s = passage.now_s - node.since_s
    if node.state is _S.DRAINING:
        count, is_idle = passage.fleet.idle_counts.get(node.id, 0), _is_idle(passage, node)
        if is_idle is not None:
            count = count + 1 if is_idle else 0
        counts = {**passage.fleet.idle_counts, node.id: count}
        passage.fleet = replace(passage.fleet, idle_counts=counts)
        # Until the router lets go of it new requests may still come: the deadline begins then.
        withdrawn_s = passage.now_s - passage.fleet.withdrawn_at_s.get(node.id, passage.now_s)
        if count >= _IDLE_COUNT:
            passage.move(node, _S.UNLINKING, "idle")
        elif aged_s > rules.drain_deadline_s and not _is_withdrawn(passage.fleet, node):
            passage.alarms.append(f"{node.role} node {node.id} is not seen withdrawn: it waits")
        elif min(aged_s, withdrawn_s) > rules.drain_deadline_s:
            passage.alarms.append(f"{node.role} node {node.id} still had requests at its deadline")
            passage.move(node, _S.UNLINKING, f"drain deadline of {rules.drain_deadline_s:.0f} s")
    elif node.state is _S.UNLINKING:
        if mesh.unlinked_from(passage.fleet, node):
            passage.move(node, _S.SWITCHING if node.next_role else _S.STOPPING, "unlinked")
        elif aged_s > rules.unlink_deadline_s:
            passage.alarms.append(f"{node.role} node {node.id} was not unlinked in time")
            passage.move(node, _S.STOPPING, f"unlink deadline of {rules.unlink_deadline_s:.0f} s")


def _is_withdrawn(fleet: Fleet, node: Node) -> bool:
    return fleet.published is not None and node.id not in fleet.published


def _is_idle(passage: Passage, node: Node) -> bool | None:
    """Whether a node was seen withdrawn and nothing is inside it or on its way to it.

    None says that this observation adds nothing: metrics are not read in every cycle.
    """
    fleet = passage.fleet
    if not _is_withdrawn(fleet, node):
        return False
    in_flight = fleet.in_flight.get(node.id)
    agent = passage.facts.agents.get(node.id)
    if in_flight or agent is None:
        return False
    is_idle = agent.engine.is_idle
    if is_idle is not None:
        return is_idle
    # An engine that cannot say how much KV waits to be pulled is idle when its cache is empty
    # and the router has nothing on its way there.
    reading = passage.facts.readings.get(node.id)
    if in_flight is None:
        return False
    return None if reading is None else reading.gauges.get("kv_used") == 0


def _overdue(passage: Passage, node: Node, rules: Rules) -> None:
    """Give up on what lasted too long, or say so where giving up would help nobody."""
    aged_s = passage.now_s - node.since_s
    if node.state is _S.STARTING and aged_s > rules.node.start_timeout_s:
        _never_came(passage, node, f"did not start within {rules.node.start_timeout_s:.0f} s")
    elif node.state is _S.INITIALISING and node.attempts >= rules.node.start_attempts_max:
        _never_came(passage, node, node.why)
    elif node.state is _S.SWITCHING and node.next_role is None:
        passage.alarms.append(f"{node.role} node {node.id} {node.why}")
        passage.move(node, _S.FAILED, node.why)
    elif node.state is _S.INITIALISING and aged_s > rules.node.init_timeout_s:
        _never_came(passage, node, f"not initialised within {rules.node.init_timeout_s:.0f} s")
    elif node.state is _S.SWITCHING and aged_s > rules.node.switch_timeout_s:
        why = f"did not become {node.next_role} within {rules.node.switch_timeout_s:.0f} s"
        passage.alarms.append(f"{node.role} node {node.id} {why}")
        passage.move(node, _S.FAILED, why)
    elif node.state is _S.LINKING and aged_s > rules.link.join_deadline_s:
        down = [
            f"{link.decoder}-{link.prompt} {link.state}{' ' + link.code if link.code else ''}"
            for link in mesh.links_of(passage.fleet, node)
            if link.state != "linked"
        ]
        passage.alarms.append(
            f"{node.role} node {node.id} cannot join for {aged_s:.0f} s: {', '.join(down[:4])}"
        )
    elif node.state is _S.STOPPING and aged_s > rules.node.stop_timeout_s:
        passage.alarms.append(f"{node.role} node {node.id} does not stop for {aged_s:.0f} s")


def _never_came(passage: Passage, node: Node, why: str) -> None:
    passage.alarms.append(f"{node.role} node {node.id} {why}")
    passage.fleet = start_failed(passage.fleet, node.role, now_s=passage.now_s)
    passage.move(node, _S.FAILED, why)
    if node.id == node.request_id:
        # Nothing exists yet under this name; should it still come, it will be found.
        passage.fleet = passage.fleet.without_node(node.id)


def start_failed(fleet: Fleet, role: Role, *, now_s: float) -> Fleet:
    """Return the fleet with one more failed start of a role, and when the next may be tried."""
    count = fleet.start_failures.get(role, 0) + 1
    wait_s = min(60.0, 2.0**count)
    return replace(
        fleet,
        start_failures={**fleet.start_failures, role: count},
        start_retry_at_s={**fleet.start_retry_at_s, role: now_s + wait_s},
    )


def _synced(fleet: Fleet, facts: Facts, rules: NodeRules) -> Fleet:
    """Note which nodes were never met, and whether those found at the start have been."""
    unmet = [node for node in fleet.nodes.values() if is_unmet(node)]
    if bool(unmet) is not fleet.has_unmet:
        fleet = replace(fleet, has_unmet=bool(unmet))
    if fleet.is_synced or facts.provided is None:
        return fleet
    is_waited_for = any(facts.now_s - n.since_s <= rules.lost_after_s for n in unmet)
    return replace(fleet, is_synced=not is_waited_for)
