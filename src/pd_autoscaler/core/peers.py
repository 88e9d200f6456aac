"""The far ends of link calls: whom a node calls, at which of its ranks."""

from collections.abc import Iterable

from pd_autoscaler.core.fleet import Fleet
from pd_autoscaler.core.ranks import RankMapping, rank_pairs
from pd_autoscaler.model.link import Link
from pd_autoscaler.model.node import Endpoint, Node, NodeState
from pd_autoscaler.model.plan import Peer


def answers(node: Node) -> bool:
    """Whether a node's agents can be asked to make calls."""
    return not node.is_suspect and node.state is not NodeState.FAILED


def prompt_of(fleet: Fleet, link: Link, mapping: RankMapping) -> Peer:
    """Describe a pair's prompt node as the far end of its decoder's calls."""
    decoder, prompt = fleet.nodes[link.decoder], fleet.nodes[link.prompt]
    pairs = rank_pairs(mapping, len(decoder.endpoints), len(prompt.endpoints))
    return Peer(
        prompt.id,
        prompt.incarnation,
        tuple(prompt.endpoints[p] for _, p in pairs),
        tuple(d for d, _ in pairs),
    )


def held_by(prompt: Node, decoder: Node, ids: Iterable[int], mapping: RankMapping) -> Peer:
    """Describe a decoder whose ids a prompt node holds, at each rank that its decoder linked."""
    held = frozenset(ids)
    far = {e.rank: e for e in decoder.endpoints if e.cluster_id in held}
    pairs = rank_pairs(mapping, len(decoder.endpoints), len(prompt.endpoints))
    calls = [(p, far[d]) for d, p in pairs if d in far]
    return Peer(decoder.id, "", tuple(e for _, e in calls), tuple(p for p, _ in calls))


def stranger(cluster_id: int, ranks: Iterable[int]) -> Peer:
    """Describe somebody of whom only an id is left, held at these ranks of the caller."""
    calling = tuple(ranks)
    ends = (Endpoint(0, cluster_id, ""),) * len(calling)
    return Peer(f"cluster {cluster_id}", "", ends, calling)
