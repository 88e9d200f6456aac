"""The mesh: links wanted against links known, and the calls that repair the difference."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

from pd_autoscaler.core import unlinking
from pd_autoscaler.core.fleet import Fleet, link_thing, unlink_thing
from pd_autoscaler.core.link_limits import UNMADE, Slots, shared_ids
from pd_autoscaler.core.link_tables import KNOWN
from pd_autoscaler.core.peers import answers, prompt_of
from pd_autoscaler.core.ranks import RankMapping, rank_pairs
from pd_autoscaler.core.rules import LinkRules, backoff_s
from pd_autoscaler.model.link import LINK_MOVES, Link, LinkState, Pair, Verdict, Wait
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.plan import Action, LinkNodes, Peer

_WANTED = frozenset({NodeState.LINKING, NodeState.SERVING})


def links_of(fleet: Fleet, node: Node) -> Iterator[Link]:
    """Yield a node's links, in the order in which its peers were found."""
    for other in fleet.nodes.values():
        pair = (node.id, other.id) if node.role is Role.DECODER else (other.id, node.id)
        link = fleet.links.get(pair)
        if link is not None:
            yield link


def unlinked_from(fleet: Fleet, node: Node) -> bool:
    """Whether nothing is left of a node's links, on either side, as far as can be known."""
    if any(link.state not in UNMADE or link.endpoints_up for link in links_of(fleet, node)):
        return False
    if node.role is Role.PROMPT:
        return not fleet.linked.get(node.incarnation)
    mine = frozenset(node.cluster_ids)
    return not any(
        mine & fleet.linked.get(prompt.incarnation, frozenset())
        for prompt in fleet.of(Role.PROMPT, KNOWN - {NodeState.FAILED})
    )


def unlinked(link: Link, *, now_s: float) -> Link:
    """Return the link after its decoder's end was dropped."""
    link = replace(link, endpoints_up=0)
    if link.state is LinkState.ABSENT:
        return link
    return link.moved_to(LinkState.ABSENT, now_s=now_s, why="unlinked")


def failed(
    link: Link, *, code: str, verdict: Verdict, why: str, now_s: float, rules: LinkRules
) -> Link:
    """Return the link after a failed call: one more attempt, and when the next one is due.

    A code that says that a node is past help counts as many: its pairs tell which to replace.
    """
    attempts = link.attempts + 1
    if verdict is Verdict.REPLACE:
        attempts = max(attempts, rules.attempts_max)
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


def postponed(link: Link, *, code: str, why: str, now_s: float, rules: LinkRules) -> Link:
    """Return the link, in the state it has, after a call that is worth trying again later."""
    attempts = link.attempts + 1
    salt = f"{link.decoder} {link.prompt}"
    wait_s = backoff_s(attempts, rules.backoff_s, rules.backoff_max_s, salt=salt)
    return replace(link, attempts=attempts, code=code, why=why, retry_at_s=now_s + wait_s)


def planned(fleet: Fleet, busy: frozenset[str], rules: LinkRules, *, now_s: float) -> list[Action]:
    """Return the link and unlink calls that bring the known mesh nearer to the wanted one."""
    if not fleet.is_synced or not rules.is_meshed:
        # Ids of nodes that have not answered yet would look like nobody's.
        return []
    actions: list[Action] = []
    batches: dict[str, list[Peer]] = defaultdict(list)
    barred: set[Pair] = set()
    for link, wait in _considered(fleet, busy, rules, now_s):
        if wait is None:
            batches[link.decoder].append(prompt_of(fleet, link, rules.ranks))
        elif wait.is_barred:
            barred.add(link.pair)
    actions += [LinkNodes(decoder, tuple(peers)) for decoder, peers in batches.items()]
    actions += unlinking.planned(fleet, busy, barred, rules, now_s=now_s)
    return actions


def waits(
    fleet: Fleet, busy: frozenset[str], rules: LinkRules, *, now_s: float, most: int = 1000
) -> tuple[Wait, ...]:
    """Say why wanted pairs that are not up are not linked now; the first `most` of them.

    `busy` names what was under way when the plan was made: it answers for that same plan.
    """
    if not rules.is_meshed:
        return ()
    if not fleet.is_synced:
        why = "not every node found at the start has answered yet"
        links = [link for link in fleet.links.values() if _is_wanted(fleet, link)]
        return tuple(Wait(k.decoder, k.prompt, why) for k in links if k.state in UNMADE)[:most]
    found = (wait for _, wait in _considered(fleet, busy, rules, now_s) if wait is not None)
    return tuple(wait for wait, _ in zip(found, range(most), strict=False))


def _is_wanted(fleet: Fleet, link: Link) -> bool:
    return fleet.nodes[link.decoder].state in _WANTED and fleet.nodes[link.prompt].state in _WANTED


def _considered(
    fleet: Fleet, busy: frozenset[str], rules: LinkRules, now_s: float
) -> Iterator[tuple[Link, Wait | None]]:
    """Go through the wanted pairs that are not up: each may be linked now, or waits."""
    links = fleet.links.values()
    unmade = [link for link in links if link.state in UNMADE and _is_wanted(fleet, link)]
    if not unmade:
        return
    slots = Slots.under_way(fleet, busy, rules.ranks, rules.in_flight_max)
    shared = shared_ids(fleet)
    for link in _spread(fleet, unmade):
        why, until_s = _obstacle(fleet, link, busy, now_s)
        bar = "" if why else _bar(fleet, link, shared, rules.ranks) or slots.no_card(link)
        # Slots come last: a pair that gets one is counted as begun.
        why = why or bar or slots.taken(link)
        yield link, Wait(link.decoder, link.prompt, why, until_s, bool(bar)) if why else None


def _bar(fleet: Fleet, link: Link, shared: Mapping[str, str], mapping: RankMapping) -> str:
    """Say why a pair can never be linked as its nodes are now, or return nothing."""
    for node_id in link.pair:
        if node_id in shared:
            return shared[node_id]
    decoder, prompt = fleet.nodes[link.decoder], fleet.nodes[link.prompt]
    counts = len(decoder.endpoints), len(prompt.endpoints)
    if rank_pairs(mapping, *counts):
        return ""
    return f"{mapping} needs equal ranks: {decoder.id} has {counts[0]}, {prompt.id} has {counts[1]}"


def is_barred(fleet: Fleet, link: Link, rules: LinkRules) -> bool:
    """Whether a limit, or an id that is not its owner's alone, keeps a pair from being linked."""
    slots = Slots.under_way(fleet, (), rules.ranks, rules.in_flight_max)
    return bool(_bar(fleet, link, shared_ids(fleet), rules.ranks) or slots.no_card(link))


def _spread(fleet: Fleet, links: list[Link]) -> list[Link]:
    """Order pairs so that decoders begin with different prompt nodes, and none serves all at once.

    Both ends initialise one link at a time (hicann/hixl src/llm_datadist/link_mgr/comm_entity.cc),
    so calls that meet at one prompt node wait for each other while others are idle.
    """
    prompts = {n.id: i for i, n in enumerate(fleet.of(Role.PROMPT, _WANTED))}
    decoders = {n.id: i for i, n in enumerate(fleet.of(Role.DECODER, _WANTED))}
    return sorted(links, key=lambda k: (prompts[k.prompt] - decoders[k.decoder]) % len(prompts))


def _obstacle(
    fleet: Fleet, link: Link, busy: frozenset[str], now_s: float
) -> tuple[str, float | None]:
    """Say what keeps one pair from being linked now, and until when; empty if nothing does."""
    decoder, prompt = fleet.nodes[link.decoder], fleet.nodes[link.prompt]
    for node in (decoder, prompt):
        if not answers(node):
            return f"the agent of {node.id} is silent", None
    here = {
        link_thing(link.decoder, link.prompt),
        unlink_thing(link.decoder, link.prompt),
        unlink_thing(link.prompt, link.decoder),
    }
    if here & busy:
        return "a call for this pair is under way", None
    if here & fleet.blocked.keys():
        return "its last call has an unknown outcome: its state is read first", None
    if link.retry_at_s > now_s:
        return f"{link.attempts} {'try' if link.attempts == 1 else 'tries'} failed", link.retry_at_s
    if prompt.id in fleet.unreachable:
        return f"{prompt.id} takes no connection: {fleet.unreachable[prompt.id]}", None
    return "", None
