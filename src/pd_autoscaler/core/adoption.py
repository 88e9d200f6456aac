"""What the provider lists: nodes it names are adopted, nodes it lists no more are let go."""

from dataclasses import replace

from pd_autoscaler.core.fleet import Contact
from pd_autoscaler.core.passage import Passage
from pd_autoscaler.core.rules import NodeRules
from pd_autoscaler.model.facts import ProvidedNode
from pd_autoscaler.model.node import Node, NodeState

_S = NodeState


def provided(passage: Passage, rules: NodeRules) -> None:
    """Adopt what the provider lists; what it no longer lists is gone, unless it still answers."""
    if passage.facts.provided is None:
        return
    listed = {p.id: p for p in passage.facts.provided}
    for line in listed.values():
        node = passage.fleet.nodes.get(line.id)
        if node is None:
            _adopt(passage, line)
        else:
            _listed(passage, node, line)
    unlisted = {
        node.id: passage.fleet.unlisted.get(node.id, passage.now_s)
        for node in passage.fleet.nodes.values()
        if node.id not in listed and node.id != node.request_id
    }
    if unlisted != passage.fleet.unlisted:
        passage.fleet = replace(passage.fleet, unlisted=unlisted)
    answering = [i for i in unlisted if _contradicts(passage, passage.fleet.nodes[i])]
    # A list that lacks much of what answers is wrong itself, however long.
    share_max = rules.lost_share_max * len(passage.fleet.nodes)
    is_wrong = len(answering) >= 2 and len(answering) > share_max
    for node_id, since_s in unlisted.items():
        is_late = passage.now_s - since_s > rules.lost_after_s and not is_wrong
        if node_id not in answering or is_late:
            _gone(passage, passage.fleet.nodes[node_id])
        else:
            passage.alarms.append(f"the provider does not list {node_id}, which answers: it stays")


def _contradicts(passage: Passage, node: Node) -> bool:
    """Whether a node that the provider does not list answered after the list was read."""
    agent = passage.facts.agents.get(node.id)
    is_in_use = node.state not in {_S.STOPPING, _S.FAILED, _S.STANDBY}
    return is_in_use and agent is not None and agent.incarnation == node.incarnation


def _listed(passage: Passage, node: Node, provided: ProvidedNode) -> None:
    """Take in what the provider says of a known node; a pool may have taken or given it."""
    node = provided.addressed(node)
    if node.request_id == node.id:
        # A provider may name a node after its request; from now on it can be lost.
        node = replace(node, request_id="")
    passage.fleet = passage.fleet.with_node(node)
    if provided.request_id != node.id and provided.request_id in passage.fleet.nodes:
        # The request was answered with this node: no other will come of it.
        passage.fleet = passage.fleet.without_node(provided.request_id)
    if provided.is_standby and node.state is _S.STOPPING:
        _gone(passage, node)
        if node.id not in passage.fleet.nodes:
            _adopt(passage, provided)
    elif node.state is _S.STANDBY and not provided.is_standby:
        node = replace(node, role=provided.role, request_id=provided.request_id)
        passage.move(node, _S.STARTING, "taken from the pool")
    elif node.state is _S.STANDBY and node.id in (passage.facts.published or ()):
        passage.move(node, _S.STARTING, "found in use")


def _gone(passage: Passage, node: Node) -> None:
    """Let go of a node that exists no more, and of what was remembered of it."""
    if node.state not in {_S.STOPPING, _S.FAILED, _S.STANDBY}:
        passage.alarms.append(f"{node.role} node {node.id} was lost while {node.state}")
        node = passage.move(node, _S.FAILED, "lost: the provider no longer lists it")
    published = passage.facts.published
    if published is None or node.id in published:
        # The router must let go of it first; until then somebody has to remember it.
        return
    if node.state is not _S.STANDBY:
        passage.move(node, _S.GONE, "the provider no longer lists it")
    passage.fleet = replace(
        passage.fleet.without_node(node.id),
        linked={k: v for k, v in passage.fleet.linked.items() if k != node.incarnation},
    )


def _adopt(passage: Passage, provided: ProvidedNode) -> None:
    """Take in a node: one that was asked for gets its name, any other is found."""
    fleet, now_s = passage.fleet, passage.now_s
    asked = fleet.nodes.get(provided.request_id) if provided.request_id else None
    began_s = asked.began_s if asked is not None else now_s
    # A provider that restarted with us may have forgotten that a spare was taken.
    is_in_use = provided.id in fleet.leaving | (passage.facts.published or frozenset())
    state = _S.STANDBY if provided.is_standby and not is_in_use else _S.STARTING
    node = Node(
        id=provided.id,
        role=provided.role,
        state=state,
        since_s=asked.since_s if asked is not None else now_s,
        why="asked for" if asked is not None else "found",
        request_id=provided.request_id if asked is not None else "",
        agent_urls=provided.agent_urls,
        metrics_url=provided.metrics_url,
        engine_url=provided.engine_url,
        profile=provided.profile,
        began_s=began_s,
        next_role=fleet.next_roles.get(provided.id),
    )
    if asked is not None:
        fleet = fleet.without_node(asked.id)
    contact = Contact(now_s, now_s)
    passage.fleet = replace(fleet.with_node(node), contacts={**fleet.contacts, node.id: contact})
