"""What linking may not exceed: calls in flight at an endpoint, links on a card, one owner an id.

A node's busiest endpoint is that of its rank 0: every mapping of ranks loads it the most.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from pd_autoscaler.core.fleet import Fleet
from pd_autoscaler.core.link_tables import KNOWN
from pd_autoscaler.core.ranks import RankMapping, rank_pairs
from pd_autoscaler.model.facts import EntryState
from pd_autoscaler.model.link import Link, LinkState
from pd_autoscaler.model.node import COMING, Node, NodeState, Role

UNMADE = frozenset({LinkState.ABSENT, LinkState.FAILED})
"""States of a pair of which neither end holds anything, or only part of its endpoint links."""


_STAYING = COMING | {NodeState.SERVING}


def load_of(mapping: RankMapping, node: Node, other_ranks: int) -> int:
    """Return how many endpoint links a node's busiest card has with one node of so many ranks."""
    return _load(mapping, len(node.endpoints), other_ranks)


@lru_cache(maxsize=256)
def _load(mapping: RankMapping, own_ranks: int, other_ranks: int) -> int:
    # The mappings are the same seen from either side.
    return sum(own == 0 for own, _ in rank_pairs(mapping, own_ranks, other_ranks))


def links_max(node: Node) -> int | None:
    """Return how many links the node's most limited card may hold, None where there is no limit."""
    return min((e.links_max for e in node.endpoints if e.links_max is not None), default=None)


def shared_ids(fleet: Fleet) -> Mapping[str, str]:
    """Say of each node with a cluster id that is not its alone which id and whose.

    The library neither refuses nor notices a second owner: it silently replaces the first one's
    link (hicann/hixl docs/zh/api/python/LLMDataDist.md asks for unique ids). A node that is lost
    may still be alive.
    """
    owners: dict[int, list[str]] = {}
    count = 0
    for node in fleet.nodes.values():
        for cluster_id in node.cluster_ids:
            owners.setdefault(cluster_id, []).append(node.id)
            count += 1
    if count == len(owners):
        return {}
    return {
        node_id: f"cluster id {cluster_id} is reported by {', '.join(dict.fromkeys(ids))}"
        for cluster_id, ids in owners.items()
        if len(ids) > 1
        for node_id in ids
    }


def card_links(fleet: Fleet, mapping: RankMapping) -> Counter[str]:
    """Count, for each node, the endpoint links on its busiest card that are up or in the making."""
    loads = _Loads(fleet, mapping)
    used: Counter[str] = Counter()
    for link in fleet.links.values():
        if link.state not in UNMADE or link.endpoints_up:
            decoder, prompt = loads.of(link)
            used[link.decoder] += decoder
            used[link.prompt] += prompt
    return used


@dataclass(slots=True)
class Slots:
    """What is in flight at each node's busiest endpoint, and what its busiest card holds."""

    fleet: Fleet
    mapping: RankMapping
    in_flight_max: int
    calls: Counter[str] = field(default_factory=Counter)
    links: Counter[str] = field(default_factory=Counter)

    @classmethod
    def under_way(
        cls, fleet: Fleet, busy: Iterable[str], mapping: RankMapping, in_flight_max: int
    ) -> "Slots":
        """Count what is under way now, calls that an earlier controller began among them."""
        slots = cls(fleet, mapping, in_flight_max, links=card_links(fleet, mapping))
        loads = _Loads(fleet, mapping)
        begun = {(d, p) for kind, d, p in (t.split(" ") for t in busy if t.startswith("link "))}
        for pair, link in fleet.links.items():
            if link.state is LinkState.LINKING or pair in begun:
                decoder, prompt = loads.of(link)
                slots.calls[link.decoder] += decoder
                slots.calls[link.prompt] += prompt
        for decoder_id, making, holding in _to_strangers(fleet):
            slots.calls[decoder_id] += making
            slots.links[decoder_id] += holding
        slots.links.update(_of_strangers(fleet))
        return slots

    def no_card(self, link: Link) -> str:
        """Say whose card has no room for a pair's links, or return nothing."""
        for node_id, load in self._more(link).items():
            limit = links_max(self.fleet.nodes[node_id])
            if limit is not None and self.links[node_id] + load > limit:
                return f"{node_id}'s card has {self.links[node_id]} of {limit} links"
        return ""

    def taken(self, link: Link) -> str:
        """Say whose calls leave no slot for a pair, or return nothing and count it as begun."""
        loads = self._loads(link)
        for node_id, load in loads.items():
            # A pair with more calls than slots goes alone: its agents make them in waves.
            is_alone = not self.calls[node_id]
            if self.calls[node_id] + load > self.in_flight_max and not is_alone:
                return f"{self.in_flight_max} calls at a time at {node_id}"
        self.links.update(self._more(link))
        self.calls.update(loads)
        return ""

    def _loads(self, link: Link) -> Mapping[str, int]:
        decoder, prompt = self.fleet.nodes[link.decoder], self.fleet.nodes[link.prompt]
        return {
            decoder.id: load_of(self.mapping, decoder, len(prompt.endpoints)),
            prompt.id: load_of(self.mapping, prompt, len(decoder.endpoints)),
        }

    def _more(self, link: Link) -> Mapping[str, int]:
        """Return what a pair adds to its cards: one that is up in part is counted as a whole."""
        loads = self._loads(link)
        return dict.fromkeys(loads, 0) if link.endpoints_up else loads


def _to_strangers(fleet: Fleet) -> Iterator[tuple[str, int, int]]:
    """Yield, for each decoder, calls and links of its busiest rank to nodes that are no more."""
    prompts = fleet.of(Role.PROMPT, KNOWN)
    known = {cluster_id for prompt in prompts for cluster_id in prompt.cluster_ids}
    for decoder in fleet.of(Role.DECODER, KNOWN):
        agent = fleet.agents.get(decoder.id)
        rows = [row for row in agent.links if row.cluster_id not in known] if agent else []
        if rows:
            making = Counter(row.rank for row in rows if row.state is EntryState.LINKING)
            holding = Counter(row.rank for row in rows if row.state is not EntryState.FAILED)
            yield decoder.id, max(making.values(), default=0), max(holding.values(), default=0)


def _of_strangers(fleet: Fleet) -> Counter[str]:
    """Count what prompt nodes may hold of decoders that are no more, or have not come back yet.

    Which of a prompt node's ranks holds it is not known, so each counts as if it held all.
    """
    known = {i for decoder in fleet.of(Role.DECODER, KNOWN) for i in decoder.cluster_ids}
    prompts = fleet.of(Role.PROMPT, KNOWN)
    return Counter(
        {p.id: len(fleet.linked.get(p.incarnation, frozenset()) - known) for p in prompts}
    )


class _Loads:
    """Loads of pairs at both ends; a fleet has few shapes of nodes, each is worked out once."""

    def __init__(self, fleet: Fleet, mapping: RankMapping) -> None:
        self._fleet = fleet
        self._mapping = mapping
        self._known: dict[tuple[int, int], tuple[int, int]] = {}

    def of(self, link: Link) -> tuple[int, int]:
        """Return the load at the decoder's and at the prompt node's busiest endpoint."""
        decoder, prompt = self._fleet.nodes[link.decoder], self._fleet.nodes[link.prompt]
        shape = (len(decoder.endpoints), len(prompt.endpoints))
        if shape not in self._known:
            self._known[shape] = (
                load_of(self._mapping, decoder, shape[1]),
                load_of(self._mapping, prompt, shape[0]),
            )
        return self._known[shape]


def no_room(fleet: Fleet, role: Role, coming: Mapping[Role, int], mapping: RankMapping) -> str:
    """Say which card could not hold the links of one more node of a role, or return nothing.

    `coming` counts nodes of each role that have no endpoints yet. They, and the newcomer, are taken
    to be like the others of their role.
    """
    staying = [n for n in fleet.nodes.values() if n.state in _STAYING or n.next_role]
    met = {r: [n for n in staying if n.future_role is r and n.endpoints] for r in Role}
    ranks = {r: [len(n.endpoints) for n in met[r]] for r in Role}
    for r in Role:
        ranks[r] += ranks[r][:1] * (coming.get(r, 0) + (r is role))
    for other in met[role.other]:
        limit, needed = links_max(other), _needed(mapping, other, ranks[role] or [1])
        if limit is not None and needed > limit:
            return f"{other.id}'s card may hold {limit} links and would need {needed}"
    for alike in met[role][:1]:
        limit, needed = links_max(alike), _needed(mapping, alike, ranks[role.other])
        if limit is not None and needed > limit:
            return f"its card may hold {limit} links, as {alike.id}'s, and would need {needed}"
    return ""


def _needed(mapping: RankMapping, node: Node, others: Iterable[int]) -> int:
    shapes = Counter(others)
    return sum(load_of(mapping, node, ranks) * count for ranks, count in shapes.items())
