"""Unlinking: what is no longer wanted, is in doubt, or is left of nodes that are no more."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from pd_autoscaler.core.fleet import Fleet, link_thing, unlink_thing
from pd_autoscaler.core.link_limits import UNMADE, load_of, shared_ids
from pd_autoscaler.core.link_tables import RowKey, row_keys
from pd_autoscaler.core.peers import answers, held_by, prompt_of, stranger
from pd_autoscaler.core.ranks import RankMapping
from pd_autoscaler.core.rules import LinkRules
from pd_autoscaler.model.facts import EntryState
from pd_autoscaler.model.link import Link, LinkState, Pair
from pd_autoscaler.model.node import MESHED, Node, NodeState, Role
from pd_autoscaler.model.plan import Peer, UnlinkNodes

_S = NodeState
_CALLING = MESHED | {_S.UNLINKING, _S.SWITCHING}
"""States of nodes whose agents are asked to drop what is left of links."""
_PAST = frozenset({_S.UNLINKING, _S.FAILED})


def planned(
    fleet: Fleet, busy: frozenset[str], barred: set[Pair], rules: LinkRules, *, now_s: float
) -> Iterator[UnlinkNodes]:
    """Yield the unlink calls that are due; `barred` pairs are wanted and cannot be linked now.

    Normal ones hold a thread at the prompt node, as links do, so only so many go there at a time.
    """
    mapping, most = rules.ranks, rules.in_flight_max

    def may_unlink(node_id: str, peer: str) -> bool:
        """Whether one end may be unlinked: no call is under way there, its wait is over."""
        thing = unlink_thing(node_id, peer)
        return thing not in busy and fleet.unlink_waits.get(thing, (0, now_s))[1] <= now_s

    calls: dict[tuple[str, bool], list[Peer]] = defaultdict(list)
    at_prompts = _normal_under_way(fleet, busy, mapping)
    for link, is_forced in _of_decoders(fleet, barred, now_s):
        if is_forced and _is_calling(fleet, link, mapping):
            continue
        load = 0 if is_forced else _load(fleet, link, mapping)
        # As with links, a pair with more calls than that goes alone.
        is_full = load and at_prompts[link.prompt] and at_prompts[link.prompt] + load > most
        if is_full or not may_unlink(link.decoder, link.prompt):
            continue
        at_prompts[link.prompt] += load
        calls[link.decoder, is_forced].append(prompt_of(fleet, link, mapping))
    for decoder, rows in _strange_rows(fleet, mapping):
        calls[decoder.id, True] += [stranger(i, ranks) for i, ranks in rows.items()]
    for prompt, peer in _of_prompts(fleet, busy, barred, mapping):
        calls[prompt.id, True].append(peer)
    for (node_id, is_forced), peers in calls.items():
        due = tuple(p for p in peers if p.endpoints and may_unlink(node_id, p.node_id))
        if due:
            yield UnlinkNodes(node_id, due, force=is_forced)


def _is_calling(fleet: Fleet, link: Link, mapping: RankMapping) -> bool:
    """Whether a rank's link call is still in time: it would come up behind a cure."""
    agent = fleet.agents.get(link.decoder)
    ranks = len(fleet.nodes[link.decoder].endpoints)
    keys = row_keys(mapping, ranks, fleet.nodes[link.prompt])
    return agent is not None and any(
        row.state is EntryState.LINKING and (row.rank, row.cluster_id) in keys
        for row in agent.links
    )


def _normal_under_way(fleet: Fleet, busy: frozenset[str], mapping: RankMapping) -> Counter[str]:
    """Count the calls under way at each prompt node, those of an earlier controller among them."""
    things = (tuple(thing.split(" ")) for thing in busy if thing.startswith("unlink "))
    begun = {thing[1:] for thing in things if len(thing) == 3}
    calls: Counter[str] = Counter()
    for pair, link in fleet.links.items():
        if link.state is LinkState.UNLINKING or pair in begun:
            calls[link.prompt] += _load(fleet, link, mapping)
    return calls


def _load(fleet: Fleet, link: Link, mapping: RankMapping) -> int:
    """Return how many calls a pair makes at its prompt node's busiest rank."""
    decoder, prompt = fleet.nodes[link.decoder], fleet.nodes[link.prompt]
    return load_of(mapping, prompt, len(decoder.endpoints))


def _of_decoders(fleet: Fleet, barred: set[Pair], now_s: float) -> Iterator[tuple[Link, bool]]:
    """Yield the pairs that their decoder unlinks, and whether by force."""
    past = {n.id for n in fleet.nodes.values() if n.state in _PAST}
    shared = shared_ids(fleet)
    for link in fleet.links.values():
        is_over = link.decoder in past or link.prompt in past or (barred and link.pair in barred)
        if not is_over and link.state is not LinkState.SUSPECT:
            continue
        decoder = fleet.nodes[link.decoder]
        if decoder.state not in _CALLING or not answers(decoder):
            continue
        if link.prompt in shared and _is_anothers(fleet, link):
            continue
        way = _way_out(fleet, link, now_s, is_barred=link.pair in barred)
        if way is not None:
            yield link, way


def _is_anothers(fleet: Fleet, link: Link) -> bool:
    """Whether the decoder's entry for this prompt node's id is of a link to another node."""
    ids = frozenset(fleet.nodes[link.prompt].cluster_ids)
    return any(
        other.id != link.prompt
        and not ids.isdisjoint(other.cluster_ids)
        and (held := fleet.links.get((link.decoder, other.id))) is not None
        and held.state in {LinkState.LINKED, LinkState.LINKING}
        for other in fleet.nodes.values()
    )


def _way_out(fleet: Fleet, link: Link, now_s: float, *, is_barred: bool) -> bool | None:
    """Return True for a forced unlink, False for a normal one, None for neither."""
    decoder, prompt = fleet.nodes[link.decoder], fleet.nodes[link.prompt]
    if link.state is LinkState.SUSPECT:
        return True
    if link.state is LinkState.LINKING or (link.state in UNMADE and not link.endpoints_up):
        return None
    if prompt.state is _S.FAILED:
        return True
    if _S.UNLINKING not in {decoder.state, prompt.state} and not is_barred:
        return None
    # A normal unlink tears both ends; once it has failed only force is left.
    if unlink_thing(*link.pair) in fleet.unlink_waits or not answers(prompt):
        return True
    is_due = link.state is not LinkState.UNLINKING and link.retry_at_s <= now_s
    return False if is_due else None


def _strange_rows(
    fleet: Fleet, mapping: RankMapping
) -> Iterator[tuple[Node, dict[int, list[int]]]]:
    """Yield decoders whose tables hold nodes that are no more, or ranks that are not theirs.

    With each come the strange cluster ids, and the decoder's ranks that hold them.
    """
    if fleet.has_unmet:
        return
    prompts = [n for n in fleet.nodes.values() if n.role is Role.PROMPT]
    known: dict[int, frozenset[RowKey]] = {}
    for decoder in fleet.of(Role.DECODER, _CALLING):
        agent = fleet.agents.get(decoder.id)
        if agent is None or not answers(decoder):
            continue
        count = len(decoder.endpoints)
        if count not in known:
            keys = (key for prompt in prompts for key in row_keys(mapping, count, prompt))
            known[count] = frozenset(keys)
        rows: dict[int, list[int]] = defaultdict(list)
        for row in agent.links:
            if (row.rank, row.cluster_id) not in known[count]:
                rows[row.cluster_id].append(row.rank)
        if rows:
            yield decoder, rows


def _of_prompts(
    fleet: Fleet, busy: frozenset[str], barred: set[Pair], mapping: RankMapping
) -> Iterator[tuple[Node, Peer]]:
    """Yield what prompt nodes drop: decoders that are gone or cannot do it themselves."""
    owners: dict[int, list[Node]] = defaultdict(list)
    for node in fleet.nodes.values():
        for cluster_id in node.cluster_ids if node.role is Role.DECODER else ():
            owners[cluster_id].append(node)
    staying = {i for d in fleet.of(Role.DECODER, MESHED) for i in d.cluster_ids}
    doubted = {k.prompt for k in fleet.links.values() if k.state is LinkState.SUSPECT}
    doubted |= {prompt for _, prompt in barred}
    for prompt in fleet.of(Role.PROMPT, _CALLING):
        if not answers(prompt):
            continue
        held = fleet.linked.get(prompt.incarnation, frozenset())
        if prompt.state in MESHED and prompt.id not in doubted:
            # Nearly always all of it: neither end of these pairs is leaving.
            held = held - staying
        # One peer for each decoder, with all of its ranks: a pair ends as one.
        stale: dict[str, list[int]] = defaultdict(list)
        for cluster_id in sorted(held):
            known = owners.get(cluster_id, [])
            # An id that two nodes report is dropped when neither needs it.
            if all(_is_stale(fleet, d, prompt, busy, barred) for d in known) and known:
                stale[known[0].id].append(cluster_id)
            elif not known and not fleet.has_unmet:
                # Nobody knows any more which ranks it linked; to drop what is not there is safe.
                yield prompt, stranger(cluster_id, range(len(prompt.endpoints)))
        for decoder_id, ids in stale.items():
            yield prompt, held_by(prompt, fleet.nodes[decoder_id], ids, mapping)


def _is_stale(
    fleet: Fleet, decoder: Node, prompt: Node, busy: frozenset[str], barred: set[Pair]
) -> bool:
    """Whether a prompt node should drop its own end of what a decoder once linked."""
    if decoder.state in {_S.FAILED, _S.STOPPING}:
        return True
    link = fleet.links.get((decoder.id, prompt.id))
    if link is None or (link.state not in UNMADE and link.state is not LinkState.SUSPECT):
        return False
    if link.state is LinkState.SUSPECT:
        return link_thing(decoder.id, prompt.id) not in busy
    # The decoder's end is gone while one of the two is leaving, or while they cannot be linked
    # again: nothing else clears this end.
    is_leaving = bool({_S.UNLINKING, _S.SWITCHING} & {decoder.state, prompt.state})
    here = {link_thing(decoder.id, prompt.id), unlink_thing(decoder.id, prompt.id)}
    is_over = is_leaving or link.pair in barred
    return is_over and not link.endpoints_up and not here & busy
