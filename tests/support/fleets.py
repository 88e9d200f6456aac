"""Small fleets for tests of the pure half."""

from dataclasses import replace

from pd_autoscaler.core.fleet import Contact, Fleet
from pd_autoscaler.model.facts import (
    AgentPhase,
    AgentState,
    EngineLoad,
    EntryState,
    Facts,
    LinkEntry,
    ProvidedNode,
)
from pd_autoscaler.model.link import Link, LinkState
from pd_autoscaler.model.node import MESHED, Endpoint, Node, NodeState, Role
from pd_autoscaler.model.plan import Peer

NOW_S = 1000.0
IDLE = EngineLoad(waiting=0, running=0, kv_unpulled=0)


def cluster_id(node_id: str) -> int:
    """Give a node the number in its name; decoders count from 100."""
    return int(node_id[1:]) + (100 if node_id[0] == "d" else 0)


def node(node_id: str, state: NodeState = NodeState.SERVING, *, since_s: float = 0.0) -> Node:
    """Make `p1` a prompt node and `d1` a decoder."""
    role = Role.PROMPT if node_id[0] == "p" else Role.DECODER
    port = 26000 + cluster_id(node_id) if role is Role.PROMPT else None
    return Node(
        id=node_id,
        role=role,
        state=state,
        since_s=since_s,
        incarnation=f"{node_id}/1",
        endpoints=(Endpoint(0, cluster_id(node_id), "127.0.0.1", port),),
        agent_urls=(f"http://{node_id}",),
        metrics_url=f"http://{node_id}/metrics",
        served_at_s=since_s if state is NodeState.SERVING else None,
    )


def agent(of: Node, *, rows: tuple[LinkEntry, ...] = (), engine: EngineLoad = IDLE) -> AgentState:
    """Make a node's agent answer now, initialised, with these link rows."""
    return AgentState(
        node_id=of.id,
        at_s=NOW_S,
        incarnation=of.incarnation,
        role=of.role,
        phase=AgentPhase.READY,
        endpoints=of.endpoints,
        links=rows,
        engine=engine,
    )


def row(prompt: Node, state: EntryState = EntryState.LINKED) -> LinkEntry:
    """Make the row that a decoder's table has of a prompt node."""
    return LinkEntry(
        cluster_id=prompt.cluster_ids[0], state=state, peer_incarnation=prompt.incarnation
    )


def link(decoder: Node, prompt: Node, state: LinkState = LinkState.LINKED) -> Link:
    """Make a link between two nodes."""
    return Link(
        decoder=decoder.id,
        prompt=prompt.id,
        state=state,
        since_s=0.0,
        decoder_incarnation=decoder.incarnation,
        prompt_incarnation=prompt.incarnation,
    )


def fleet(*nodes: Node, published: frozenset[str] | None = None) -> Fleet:
    """Make a synced fleet whose meshed nodes are all linked; serving ones are published."""
    prompts = [n for n in nodes if n.role is Role.PROMPT]
    decoders = [n for n in nodes if n.role is Role.DECODER]
    pairs = [
        (d, p)
        for d in decoders
        for p in prompts
        if {d.state, p.state} <= MESHED | {NodeState.UNLINKING}
    ]
    serving = frozenset(n.id for n in nodes if n.state is NodeState.SERVING)
    linked: dict[str, frozenset[int]] = {}
    for d, p in pairs:
        linked[p.incarnation] = linked.get(p.incarnation, frozenset()) | set(d.cluster_ids)
    rows = {d.id: tuple(row(p) for x, p in pairs if x is d) for d in decoders}
    return Fleet(
        nodes={n.id: n for n in nodes},
        links={(d.id, p.id): link(d, p) for d, p in pairs},
        agents={n.id: agent(n, rows=rows.get(n.id, ())) for n in nodes},
        contacts={n.id: Contact(NOW_S, NOW_S) for n in nodes},
        linked=linked,
        published=serving if published is None else published,
        is_synced=True,
    )


def facts(of: Fleet, *, now_s: float = NOW_S, silent: tuple[str, ...] = ()) -> Facts:
    """Make an observation in which everything answers as the fleet already thinks."""
    return Facts(
        now_s=now_s,
        now_unix_s=now_s,
        provided=tuple(provided(n) for n in of.nodes.values()),
        published=of.published,
        in_flight=dict.fromkeys(of.nodes, 0),
        agents={
            node_id: replace(state, at_s=now_s)
            for node_id, state in of.agents.items()
            if node_id not in silent
        },
    )


def peer_of(of: Node) -> Peer:
    """Describe a node of one rank as the far end of a call."""
    return Peer(of.id, of.incarnation, of.endpoints, (0,) * len(of.endpoints))


def provided(of: Node) -> ProvidedNode:
    """Make the provider's line of a node."""
    return ProvidedNode(
        id=of.id, role=of.role, agent_urls=of.agent_urls, metrics_url=of.metrics_url
    )
