"""What the decoders' own tables say of links, taken into the fleet.

Only a decoder's table says what it linked; a prompt node cannot know who linked it (V2 of
LLM-DataDist has no such query), so decoder ids that may have an entry there are remembered, per
incarnation of the prompt node.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pd_autoscaler.core.fleet import Fleet
from pd_autoscaler.core.ranks import RankMapping, rank_pairs
from pd_autoscaler.core.rules import LinkRules, backoff_s
from pd_autoscaler.model.facts import EntryState, LinkEntry
from pd_autoscaler.model.link import LINK_MOVES, Link, LinkState, Pair
from pd_autoscaler.model.node import MESHED, Node, NodeState, Role

KNOWN = MESHED | {NodeState.UNLINKING, NodeState.SWITCHING, NodeState.FAILED}
"""States of nodes whose links are known: wanted, in use, or still to be undone."""

_FAILING = "transfers or calls over it ended with"

RowKey = tuple[int, int]
"""(the decoder's own rank, the far endpoint's cluster id)"""


def observed(fleet: Fleet, answered: frozenset[str], rules: LinkRules, *, now_s: float) -> Fleet:
    """Return the fleet with its links as the decoders' own tables tell them.

    `answered` names the nodes whose agents answered this time; pairs of silent decoders keep
    what was last known of them.
    """
    links: dict[Pair, Link] = {}
    found: dict[str, set[int]] = {}
    prompts = [p for p in fleet.of(Role.PROMPT, KNOWN) if p.endpoints]
    living = frozenset(p.incarnation for p in prompts)
    keys_of: dict[int, list[tuple[RowKey, ...]]] = {}
    for decoder in fleet.of(Role.DECODER, KNOWN):
        agent = fleet.agents.get(decoder.id)
        if agent is None:
            continue
        is_new = decoder.id in answered and agent.incarnation == decoder.incarnation
        rows = {(entry.rank, entry.cluster_id): entry for entry in agent.links}
        ranks = len(decoder.endpoints)
        if ranks not in keys_of:
            keys_of[ranks] = [row_keys(rules.ranks, ranks, prompt) for prompt in prompts]
        for prompt, keys in zip(prompts, keys_of[ranks], strict=True):
            before = fleet.links.get((decoder.id, prompt.id))
            if before is not None and is_new and _is_as_it_was(before, decoder, prompt, rows, keys):
                # Nearly always: nothing is new, nor is there anything to forget.
                links[before.pair] = before
                continue
            link = _same_or_new(before, decoder, prompt, now_s)
            if is_new:
                told = _told_by(link, rows, keys, living, now_s)
                held = fleet.linked.get(prompt.incarnation, frozenset())
                if _is_half_open(link, told, decoder, held):
                    told = link
                link = _followed(link, told, rules, now_s)
                may_be_held = link.endpoints_up or link.state is LinkState.SUSPECT
                if link is not before and may_be_held:
                    # One that was found, not made, or made later than anybody waited for, has an
                    # entry at its prompt node all the same.
                    found.setdefault(prompt.incarnation, set()).update(decoder.cluster_ids)
            links[decoder.id, prompt.id] = link
    fleet = replace(fleet, links=links)
    for incarnation, cluster_ids in found.items():
        fleet = fleet.remember_linked(incarnation, cluster_ids)
    return fleet


def row_keys(mapping: RankMapping, decoder_ranks: int, prompt: Node) -> tuple[RowKey, ...]:
    """Name the rows that a decoder's table holds once it is linked to a prompt node."""
    ids = prompt.cluster_ids
    return tuple((d, ids[p]) for d, p in rank_pairs(mapping, decoder_ranks, len(ids)))


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


def _is_as_it_was(
    link: Link,
    decoder: Node,
    prompt: Node,
    rows: Mapping[RowKey, LinkEntry],
    keys: Sequence[RowKey],
) -> bool:
    """Whether a link was up between these very processes, never failed of late, and still is."""
    return (
        link.state is LinkState.LINKED
        and not link.attempts
        and link.decoder_incarnation == decoder.incarnation
        and link.prompt_incarnation == prompt.incarnation
        and _is_up(rows, keys, link.prompt_incarnation, link.code)
    )


def _told_by(
    link: Link,
    rows: Mapping[RowKey, LinkEntry],
    keys: Sequence[RowKey],
    living: frozenset[str],
    now_s: float,
) -> Link:
    """Return the link in the state that the decoder's table shows; the same one if nothing is new.

    `living` holds the incarnations of all prompt nodes: a row that was made with another of them
    is not this one's, whatever id it reports. A fleet of 1,000 nodes has 250,000 pairs, nearly all
    of them unchanged in any one cycle.
    """
    incarnation = link.prompt_incarnation
    if link.state is LinkState.LINKED and _is_up(rows, keys, incarnation, link.code):
        return link
    others = living - {incarnation}
    entries = [e if e and e.peer_incarnation not in others else None for e in map(rows.get, keys)]
    up = sum(entry is not None and entry.state is EntryState.LINKED for entry in entries)
    if up != link.endpoints_up:
        link = replace(link, endpoints_up=up)
    state, why, code = _state_of(entries, incarnation)
    if state is link.state and why in {"", link.why} and code in {"", link.code}:
        return link
    if link.state is LinkState.SUSPECT and state in {LinkState.ABSENT, LinkState.FAILED}:
        # The library may hold what the table does not show; only a forced unlink ends this.
        return link
    if link.state is LinkState.FAILED and state is LinkState.ABSENT:
        # A failed call leaves no row; what the call said is worth more than its silence.
        return link
    if state is not link.state and state not in LINK_MOVES[link.state]:
        link = link.moved_to(LinkState.ABSENT, now_s=now_s, why="seen to be gone")
    return link.moved_to(state, now_s=now_s, why=why, code=code)


def _is_half_open(before: Link, told: Link, decoder: Node, held: frozenset[int]) -> bool:
    """Whether a pair in doubt is said to be up by a decoder whose id its prompt node dropped.

    A late success, told after the cure of the other end: only a forced unlink of this one is left.
    `held` are the decoder ids that the prompt node may hold an entry for.
    """
    is_told_up = told.state in {LinkState.LINKED, LinkState.LINKING}
    is_dropped = not held.issuperset(decoder.cluster_ids)
    return before.state is LinkState.SUSPECT and is_told_up and is_dropped


def _followed(before: Link, link: Link, rules: LinkRules, now_s: float) -> Link:
    """Return the link with its failures forgotten once it was up for long, or one more counted.

    A link whose transfers fail is cured at once the first time. If they fail again soon it is given
    longer and longer before it is cut: transfers that time out on a busy network are no reason to
    cut, again and again, what other requests use.
    """
    if link.state is LinkState.LINKED:
        is_settled = link.attempts and now_s - link.since_s > rules.backoff_max_s
        return replace(link, attempts=0) if is_settled else link
    if link.state is not LinkState.SUSPECT or before.state is LinkState.SUSPECT:
        return link
    salt = f"{link.decoder} {link.prompt}"
    patience_s = backoff_s(before.attempts, rules.backoff_s, rules.backoff_max_s, salt=salt)
    is_failing = link.why.startswith(_FAILING)
    if before.state is not LinkState.LINKED:
        # It came up and failed between two looks: the next try waits instead.
        wait_s = patience_s if before.attempts else 0.0
        later = replace(link, attempts=before.attempts + 1, retry_at_s=now_s + wait_s)
        return later if is_failing else link
    if is_failing and before.attempts and now_s - before.since_s < patience_s:
        return before if before.why == link.why else replace(before, why=link.why)
    return replace(link, attempts=before.attempts + 1, retry_at_s=now_s)


def _state_of(entries: list[LinkEntry | None], incarnation: str) -> tuple[LinkState, str, str]:
    rows = [entry for entry in entries if entry is not None]
    if not rows:
        return LinkState.ABSENT, "", ""
    states = {entry.state for entry in rows}
    code = next((entry.code for entry in rows if entry.code), "")
    if any(row.peer_incarnation not in {"", incarnation} for row in rows):
        return LinkState.SUSPECT, "the prompt node restarted", code
    if EntryState.UNKNOWN in states:
        return LinkState.SUSPECT, _doubt(rows), code
    if EntryState.UNLINKING in states:
        return LinkState.UNLINKING, "", code
    if EntryState.LINKING in states:
        return LinkState.LINKING, "", code
    if states == {EntryState.LINKED} and len(rows) == len(entries):
        return LinkState.LINKED, "", code
    if EntryState.FAILED in states:
        failed = next(row.code for row in rows if row.state is EntryState.FAILED)
        return LinkState.FAILED, "", failed
    return LinkState.ABSENT, "", code


def _doubt(rows: list[LinkEntry]) -> str:
    """Say why it is not known what the library holds: a late call, or transfers that failed."""
    code = next(row.code for row in rows if row.state is EntryState.UNKNOWN)
    if code.startswith("LLM_"):
        return f"{_FAILING} {code}"
    return "a call is past its deadline"


def _is_up(
    rows: Mapping[RowKey, LinkEntry], keys: Sequence[RowKey], incarnation: str, code: str
) -> bool:
    """Whether the rows say no more than that each endpoint link to this process is up."""
    for key in keys:
        entry = rows.get(key)
        if (
            entry is None
            or entry.state is not EntryState.LINKED
            or entry.code not in {"", code}
            or entry.peer_incarnation not in {"", incarnation}
        ):
            return False
    return bool(keys)
