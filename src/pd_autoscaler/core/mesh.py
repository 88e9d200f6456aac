"""The mesh: links wanted against links known, and the calls that repair the difference.

Only a decoder's own table says what it linked; a prompt node cannot know who linked it (V2 of
LLM-DataDist has no such query), so decoder ids that may have an entry there are remembered, per
incarnation of the prompt node.
"""

from collections.abc import Iterator
from dataclasses import replace

from pd_autoscaler.core.fleet import Fleet, link_thing, unlink_thing
from pd_autoscaler.core.rules import LinkRules, backoff_s
from pd_autoscaler.model.facts import EntryState, LinkEntry
from pd_autoscaler.model.link import LINK_MOVES, Link, LinkState, Pair, Verdict
from pd_autoscaler.model.node import MESHED, Endpoint, Node, NodeState, Role
from pd_autoscaler.model.plan import Action, LinkNodes, Peer, UnlinkNodes

_KNOWN = MESHED | {NodeState.UNLINKING, NodeState.FAILED}
_WANTED = frozenset({NodeState.LINKING, NodeState.SERVING})
_UNMADE = frozenset({LinkState.ABSENT, LinkState.FAILED})


def peer_of(node: Node) -> Peer:
    """Describe a node as the far end of a link call."""
    return Peer(node.id, node.incarnation, node.endpoints)


def observed(fleet: Fleet, answered: frozenset[str], *, now_s: float) -> Fleet:
    """Return the fleet with its links as the decoders' own tables tell them.

    `answered` names the nodes whose agents answered this time; pairs of silent decoders keep
    what was last known of them.
    """
    links: dict[Pair, Link] = {}
    found: dict[str, set[int]] = {}
    prompts = [(p, p.cluster_ids) for p in fleet.of(Role.PROMPT, _KNOWN) if p.endpoints]
    for decoder in fleet.of(Role.DECODER, _KNOWN):
        agent = fleet.agents.get(decoder.id)
        if agent is None:
            continue
        is_new = decoder.id in answered and agent.incarnation == decoder.incarnation
        rows = {entry.cluster_id: entry for entry in agent.links}
        for prompt, ids in prompts:
            before = fleet.links.get((decoder.id, prompt.id))
            link = _same_or_new(before, decoder, prompt, now_s)
            if is_new:
                entries = [rows.get(cluster_id) for cluster_id in ids]
                link = _told_by(link, entries, prompt.incarnation, now_s)
                if link is not before and link.state is LinkState.LINKED:
                    # One that was found, not made, has an entry at its prompt node all the same.
                    found.setdefault(prompt.incarnation, set()).update(decoder.cluster_ids)
            links[decoder.id, prompt.id] = link
    fleet = replace(fleet, links=links)
    for incarnation, cluster_ids in found.items():
        fleet = fleet.remember_linked(incarnation, cluster_ids)
    return fleet


def _same_or_new(link: Link | None, decoder: Node, prompt: Node, now_s: float) -> Link:
    """Return the known link, its failures forgotten if either end is a new process."""
    if link is None:
        return Link(
            decoder=decoder.id,
            prompt=prompt.id,
            state=LinkState.ABSENT,
            since_s=now_s,
            decoder_incarnation=decoder.incarnation,
            prompt_incarnation=prompt.incarnation,
        )
    if (
        link.decoder_incarnation == decoder.incarnation
        and link.prompt_incarnation == prompt.incarnation
    ):
        return link
    return replace(
        link,
        attempts=0,
        retry_at_s=now_s,
        decoder_incarnation=decoder.incarnation,
        prompt_incarnation=prompt.incarnation,
    )


def _told_by(link: Link, entries: list[LinkEntry | None], incarnation: str, now_s: float) -> Link:
    """Return the link in the state that the decoder's table shows; the same one if nothing is new.

    A fleet of 1,000 nodes has 250,000 pairs, nearly all of them unchanged in any one cycle.
    """
    if link.state is LinkState.LINKED and all(_is_whole(entry, incarnation) for entry in entries):
        return link
    state, why, code = _state_of(entries, incarnation)
    if state is link.state and why in {"", link.why} and code in {"", link.code}:
        return link
    is_row_gone = state in {LinkState.ABSENT, LinkState.FAILED}
    if link.state is LinkState.SUSPECT and is_row_gone:
        # The library may hold what the table does not show; only a forced unlink ends this.
        return link
    if link.state is LinkState.FAILED and state is LinkState.ABSENT:
        # A failed call leaves no row; what the call said is worth more than its silence.
        return link
    if state is not link.state and state not in LINK_MOVES[link.state]:
        link = link.moved_to(LinkState.ABSENT, now_s=now_s, why="seen to be gone")
    moved = link.moved_to(state, now_s=now_s, why=why, code=code)
    if state is LinkState.LINKED and link.state is not LinkState.LINKED:
        return replace(moved, attempts=0)
    return moved


def _state_of(entries: list[LinkEntry | None], incarnation: str) -> tuple[LinkState, str, str]:
    rows = [entry for entry in entries if entry is not None]
    if not rows:
        return LinkState.ABSENT, "", ""
    states = {entry.state for entry in rows}
    code = next((entry.code for entry in rows if entry.code), "")
    if any(row.peer_incarnation not in {"", incarnation} for row in rows):
        return LinkState.SUSPECT, "the prompt node restarted", code
    if EntryState.UNKNOWN in states:
        return LinkState.SUSPECT, "a call is past its deadline", code
    if EntryState.UNLINKING in states:
        return LinkState.UNLINKING, "", code
    if EntryState.LINKING in states:
        return LinkState.LINKING, "", code
    if states == {EntryState.LINKED} and len(rows) == len(entries):
        return LinkState.LINKED, "", code
    if EntryState.FAILED in states:
        return LinkState.FAILED, "", code
    return LinkState.ABSENT, "", code


def _is_whole(entry: LinkEntry | None, incarnation: str) -> bool:
    """Whether a row says no more than that its link to this process is up, as most rows do."""
    return (
        entry is not None
        and entry.state is EntryState.LINKED
        and not entry.code
        and (entry.peer_incarnation == incarnation or not entry.peer_incarnation)
    )


def links_of(fleet: Fleet, node: Node) -> Iterator[Link]:
    """Yield a node's links, in the order in which its peers were found."""
    for other in fleet.nodes.values():
        pair = (node.id, other.id) if node.role is Role.DECODER else (other.id, node.id)
        link = fleet.links.get(pair)
        if link is not None:
            yield link


def unlinked_from(fleet: Fleet, node: Node) -> bool:
    """Whether nothing is left of a node's links, on either side, as far as can be known."""
    if any(link.state not in _UNMADE for link in links_of(fleet, node)):
        return False
    if node.role is Role.PROMPT:
        return not fleet.linked.get(node.incarnation)
    mine = frozenset(node.cluster_ids)
    return not any(
        mine & fleet.linked.get(prompt.incarnation, frozenset())
        for prompt in fleet.of(Role.PROMPT, _KNOWN - {NodeState.FAILED})
    )


def unlinked(link: Link, *, now_s: float) -> Link:
    """Return the link after its decoder's end was dropped."""
    if link.state is LinkState.ABSENT:
        return link
    return link.moved_to(LinkState.ABSENT, now_s=now_s, why="unlinked")


def failed(
    link: Link, *, code: str, verdict: Verdict, why: str, now_s: float, rules: LinkRules
) -> Link:
    """Return the link after a failed call: one more attempt, and when the next one is due."""
    attempts = link.attempts + 1
    wait_s = backoff_s(
        attempts, rules.backoff_s, rules.backoff_max_s, salt=f"{link.decoder} {link.prompt}"
    )
    if verdict is Verdict.CONFIG or attempts >= rules.attempts_max:
        wait_s = max(wait_s, rules.backoff_max_s)
    state = LinkState.SUSPECT if verdict is Verdict.FORCE else LinkState.FAILED
    if state is not link.state and state not in LINK_MOVES[link.state]:
        link = link.moved_to(LinkState.ABSENT, now_s=now_s)
    moved = link.moved_to(state, now_s=now_s, why=why, code=code)
    return replace(moved, attempts=attempts, retry_at_s=now_s + wait_s)


def planned(fleet: Fleet, busy: frozenset[str], rules: LinkRules, *, now_s: float) -> list[Action]:
    """Return the link and unlink calls that bring the known mesh nearer to the wanted one."""
    if not fleet.is_synced:
        # Ids of nodes that have not answered yet would look like nobody's.
        return []
    actions: list[Action] = []
    actions += _links(fleet, busy, rules, now_s)
    actions += _unlinks_at_decoders(fleet, busy, now_s)
    actions += _unlinks_at_prompts(fleet, busy, now_s)
    return actions


def _answers(node: Node | None) -> bool:
    return node is not None and not node.is_suspect and node.state is not NodeState.FAILED


def _links(fleet: Fleet, busy: frozenset[str], rules: LinkRules, now_s: float) -> Iterator[Action]:
    calls = _calls_under_way(busy)
    for decoder in fleet.of(Role.DECODER, _WANTED):
        if not _answers(decoder):
            continue
        batch: list[Peer] = []
        for prompt in fleet.of(Role.PROMPT, _WANTED):
            link = fleet.links.get((decoder.id, prompt.id))
            if link is None or link.state not in _UNMADE:
                continue
            if not _answers(prompt) or not _is_due(link, busy, fleet, now_s):
                continue
            if max(calls.get(decoder.id, 0), calls.get(prompt.id, 0)) >= rules.in_flight_max:
                continue
            calls[decoder.id] = calls.get(decoder.id, 0) + 1
            calls[prompt.id] = calls.get(prompt.id, 0) + 1
            batch.append(peer_of(prompt))
        if batch:
            yield LinkNodes(decoder.id, tuple(batch))


def _calls_under_way(busy: frozenset[str]) -> dict[str, int]:
    """Count link calls in flight per node, at either end."""
    calls: dict[str, int] = {}
    for thing in busy:
        if thing.startswith("link "):
            for node_id in thing.split(" ")[1:]:
                calls[node_id] = calls.get(node_id, 0) + 1
    return calls


def _is_due(link: Link, busy: frozenset[str], fleet: Fleet, now_s: float) -> bool:
    """Whether a link call may begin: nothing is under way on the pair, and its wait is over."""
    if link.state not in _UNMADE or link.retry_at_s > now_s:
        return False
    here = {
        link_thing(link.decoder, link.prompt),
        unlink_thing(link.decoder, link.prompt),
        unlink_thing(link.prompt, link.decoder),
    }
    return not here & busy and not here & fleet.blocked.keys()


def _may_unlink(fleet: Fleet, node_id: str, peer: str, busy: frozenset[str], now_s: float) -> bool:
    """Whether one end may be unlinked: no call is under way there, its wait is over."""
    thing = unlink_thing(node_id, peer)
    return thing not in busy and fleet.unlink_waits.get(thing, (0, now_s))[1] <= now_s


def _unlinks_at_decoders(fleet: Fleet, busy: frozenset[str], now_s: float) -> Iterator[Action]:
    known_ids = _known_ids(fleet, Role.PROMPT)
    by_decoder: dict[str, list[Link]] = {}
    for link in fleet.links.values():
        by_decoder.setdefault(link.decoder, []).append(link)
    for decoder in fleet.of(Role.DECODER, MESHED | {NodeState.UNLINKING}):
        if not _answers(decoder):
            continue
        normal: list[Peer] = []
        forced = _strangers(fleet, decoder, known_ids, busy, now_s)
        for link in by_decoder.get(decoder.id, ()):
            prompt = fleet.nodes[link.prompt]
            way = _way_out(link, decoder, prompt, now_s)
            if way is None or not _may_unlink(fleet, decoder.id, prompt.id, busy, now_s):
                continue
            (forced if way else normal).append(peer_of(prompt))
        if normal:
            yield UnlinkNodes(decoder.id, tuple(normal), force=False)
        if forced:
            yield UnlinkNodes(decoder.id, tuple(forced), force=True)


def _strangers(
    fleet: Fleet, decoder: Node, known_ids: frozenset[int], busy: frozenset[str], now_s: float
) -> list[Peer]:
    """List what a decoder's table holds of nodes that are no more."""
    agent = fleet.agents.get(decoder.id)
    if agent is None or fleet.has_unmet:
        return []
    ids = [row.cluster_id for row in agent.links]
    strangers = [(i, f"cluster {i}") for i in ids if i not in known_ids]
    return [
        Peer(name, "", (Endpoint(0, cluster_id, ""),))
        for cluster_id, name in strangers
        if _may_unlink(fleet, decoder.id, name, busy, now_s)
    ]


def _way_out(link: Link, decoder: Node, prompt: Node, now_s: float) -> bool | None:
    """Return True for a forced unlink, False for a normal one, None for neither."""
    if link.state is LinkState.SUSPECT:
        return True
    if link.state in _UNMADE or link.state is LinkState.LINKING:
        return None
    if prompt.state is NodeState.FAILED:
        return True
    if decoder.state is not NodeState.UNLINKING and prompt.state is not NodeState.UNLINKING:
        return None
    # A normal unlink tears both ends; once it has failed only force is left.
    if link.attempts or not _answers(prompt):
        return True
    return False if link.state is LinkState.LINKED and link.retry_at_s <= now_s else None


def _unlinks_at_prompts(fleet: Fleet, busy: frozenset[str], now_s: float) -> Iterator[Action]:
    """Have prompt nodes drop decoders that are gone or cannot do it themselves."""
    owners = {i: d for d in fleet.nodes.values() if d.role is Role.DECODER for i in d.cluster_ids}
    for prompt in fleet.of(Role.PROMPT, MESHED | {NodeState.UNLINKING}):
        if not _answers(prompt):
            continue
        # One peer for each decoder, with all of its ranks: a pair ends as one.
        stale: dict[str, list[int]] = {}
        for cluster_id in sorted(fleet.linked.get(prompt.incarnation, frozenset())):
            decoder = owners.get(cluster_id)
            if not _is_stale(fleet, decoder, prompt, busy):
                continue
            name = decoder.id if decoder is not None else f"cluster {cluster_id}"
            if _may_unlink(fleet, prompt.id, name, busy, now_s):
                stale.setdefault(name, []).append(cluster_id)
        forced = tuple(
            Peer(name, "", tuple(Endpoint(rank, i, "") for rank, i in enumerate(ids)))
            for name, ids in stale.items()
        )
        if forced:
            yield UnlinkNodes(prompt.id, forced, force=True)


def _is_stale(fleet: Fleet, decoder: Node | None, prompt: Node, busy: frozenset[str]) -> bool:
    """Whether a prompt node should drop its own end of what a decoder once linked."""
    if decoder is None:
        return not fleet.has_unmet
    if decoder.state in {NodeState.FAILED, NodeState.STOPPING}:
        return True
    link = fleet.links.get((decoder.id, prompt.id))
    if link is None or (link.state not in _UNMADE and link.state is not LinkState.SUSPECT):
        return False
    if link.state is LinkState.SUSPECT:
        return link_thing(decoder.id, prompt.id) not in busy
    # The decoder's end is gone while one of the two is leaving: nothing else clears this end.
    is_leaving = NodeState.UNLINKING in {decoder.state, prompt.state}
    here = {link_thing(decoder.id, prompt.id), unlink_thing(decoder.id, prompt.id)}
    return is_leaving and not here & busy


def _known_ids(fleet: Fleet, role: Role) -> frozenset[int]:
    return frozenset(i for n in fleet.nodes.values() if n.role is role for i in n.cluster_ids)
