"""The fleet as the controller knows it: what it concluded from facts and from its own actions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from pd_autoscaler.model.facts import AgentState
from pd_autoscaler.model.link import Link, Pair
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.plan import Action, LinkNodes, StartNode, UnlinkNodes

K = TypeVar("K")
V = TypeVar("V")


class OwnedLinks(dict[Pair, Link]):
    """Links that one function owns and changes in place: a copy a pair is too dear at 250,000."""


@dataclass(frozen=True, slots=True)
class Contact:
    """When a node's agent and its metrics page last answered (monotonic seconds)."""

    agent_at_s: float
    metrics_at_s: float

    @property
    def latest_s(self) -> float:
        """The newer of the two."""
        return max(self.agent_at_s, self.metrics_at_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Nodes, links and what is remembered about them between cycles.

    `linked` holds, per prompt incarnation, every decoder cluster id that may have an entry there:
    a listening side cannot say who linked it. `blocked` holds things whose last outcome is
    unknown, with the time after which they must be observed. `leaving` names nodes on their way
    out, `inherited` those of them whose removal an earlier controller began (it may have cut a
    link at one end already, so that removal is not taken back), `drains` those an operator asked
    to go, `withdrawing` those that the router must let go of before they may be published again,
    `publishing` those it was told of and does not list yet, `withdrawn_at_s` since when it lists
    others no more, `former` those that it must not list again: known before this controller
    restarted, or gone since. `next_roles` holds the role that nodes which were leaving before a
    restart take next, `unreachable` why probed prompt nodes take no connection. `unlisted` says
    since when the provider has not listed a node that answers, `unlink_waits` how often in a row
    unlinking one end failed, and when it may be tried again. `is_synced` is true once every node
    found at the start has answered or is known to be lost; `has_unmet` while some node that was
    found has never answered, so that its cluster ids are unknown; `is_blind` while too much is
    silent.
    """

    nodes: Mapping[str, Node] = field(default_factory=dict)
    links: Mapping[Pair, Link] = field(default_factory=dict)
    agents: Mapping[str, AgentState] = field(default_factory=dict)
    contacts: Mapping[str, Contact] = field(default_factory=dict)
    linked: Mapping[str, frozenset[int]] = field(default_factory=dict)
    blocked: Mapping[str, float] = field(default_factory=dict)
    published: frozenset[str] | None = None
    in_flight: Mapping[str, int] = field(default_factory=dict)
    leaving: frozenset[str] = frozenset()
    inherited: frozenset[str] = frozenset()
    drains: frozenset[str] = frozenset()
    withdrawing: frozenset[str] = frozenset()
    publishing: frozenset[str] = frozenset()
    withdrawn_at_s: Mapping[str, float] = field(default_factory=dict)
    former: frozenset[str] = frozenset()
    next_roles: Mapping[str, Role] = field(default_factory=dict)
    unreachable: Mapping[str, str] = field(default_factory=dict)
    unlisted: Mapping[str, float] = field(default_factory=dict)
    unlink_waits: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    idle_counts: Mapping[str, int] = field(default_factory=dict)
    start_failures: Mapping[Role, int] = field(default_factory=dict)
    start_retry_at_s: Mapping[Role, float] = field(default_factory=dict)
    request_count: int = 0
    is_synced: bool = False
    has_unmet: bool = False
    is_blind: bool = False

    def with_node(self, node: Node) -> "Fleet":
        """Return this fleet with one node added or replaced; itself where nothing is new."""
        if self.nodes.get(node.id) is node:
            return self
        return replace(self, nodes={**self.nodes, node.id: node})

    def with_link(self, link: Link) -> "Fleet":
        """Return this fleet with one link added or replaced."""
        if isinstance(self.links, OwnedLinks):
            self.links[link.pair] = link
            return self
        return replace(self, links={**self.links, link.pair: link})

    def without_node(self, node_id: str) -> "Fleet":
        """Return this fleet without a node and without what was remembered of it."""
        node = self.nodes.get(node_id)
        was_met = node is not None and bool(node.incarnation)
        return replace(
            self,
            nodes=_without(self.nodes, node_id),
            agents=_without(self.agents, node_id),
            contacts=_without(self.contacts, node_id),
            idle_counts=_without(self.idle_counts, node_id),
            unlisted=_without(self.unlisted, node_id),
            unlink_waits={
                thing: wait
                for thing, wait in self.unlink_waits.items()
                if node_id not in thing.split(" ")[1:]
            },
            links={pair: link for pair, link in self.links.items() if node_id not in pair},
            leaving=self.leaving - {node_id},
            inherited=self.inherited - {node_id},
            drains=self.drains - {node_id},
            withdrawing=self.withdrawing - {node_id},
            publishing=self.publishing - {node_id},
            # The router may still come to list it, or list it again.
            former=self.former | ({node_id} if was_met else frozenset()),
            withdrawn_at_s=_without(self.withdrawn_at_s, node_id),
        )

    def of(self, role: Role, states: Iterable[NodeState]) -> list[Node]:
        """List the nodes of a role in these states, in the order they were found."""
        wanted = frozenset(states)
        return [n for n in self.nodes.values() if n.role is role and n.state in wanted]

    def forget_linked(self, incarnation: str, cluster_ids: Iterable[int]) -> "Fleet":
        """Return this fleet without these decoder ids at one prompt incarnation."""
        left = self.linked.get(incarnation, frozenset()) - frozenset(cluster_ids)
        rest = _without(self.linked, incarnation)
        return replace(self, linked={**rest, incarnation: left} if left else rest)

    def remember_linked(self, incarnation: str, cluster_ids: Iterable[int]) -> "Fleet":
        """Return this fleet with decoder ids that may now have an entry at a prompt incarnation."""
        known, new = self.linked.get(incarnation, frozenset()), frozenset(cluster_ids)
        if new <= known:
            return self
        ids = known | new
        return replace(self, linked={**self.linked, incarnation: ids})


def _without(mapping: Mapping[K, V], key: K) -> dict[K, V]:
    return {k: v for k, v in mapping.items() if k != key}


def is_unmet(node: Node) -> bool:
    """Whether a node was found, not asked for, and its agent has never answered."""
    is_found = bool(node.agent_urls) and not node.request_id
    return node.state is NodeState.STARTING and is_found and not node.incarnation


def node_thing(node_id: str) -> str:
    """Name a node as a thing that is acted on."""
    return f"node {node_id}"


def link_thing(decoder_id: str, prompt_id: str) -> str:
    """Name a pair as a thing that is acted on."""
    return f"link {decoder_id} {prompt_id}"


def unlink_thing(node_id: str, peer: str) -> str:
    """Name one end of a pair as a thing that is acted on: unlinking it at `node_id`."""
    return f"unlink {node_id} {peer}"


def things(action: Action) -> tuple[str, ...]:
    """Name what an action acts on; nothing else may act on it at the same time."""
    match action:
        case StartNode(request_id=request_id):
            return (node_thing(request_id),)
        case LinkNodes(decoder_id=decoder_id, prompts=prompts):
            return tuple(link_thing(decoder_id, peer.node_id) for peer in prompts)
        case UnlinkNodes(node_id=node_id, peers=peers):
            return tuple(unlink_thing(node_id, peer.node_id) for peer in peers)
        case _:
            return (node_thing(action.node_id),)
