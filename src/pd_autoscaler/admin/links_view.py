"""The links as JSON: decoders by prompts, and what is known of each pair."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pd_autoscaler.admin.numbers import age, seconds
from pd_autoscaler.model.link import Link, LinkState, Pair, Wait
from pd_autoscaler.model.node import MESHED, Node, Role
from pd_autoscaler.model.report import Report


def link_counts(report: Report) -> dict[str, int]:
    """Count pairs by state; every state is there."""
    seen = Counter(link.state for link in report.links)
    return {state.value: seen[state] for state in LinkState}


def links_view(report: Report, *, now_s: float, pairs_max: int) -> dict[str, Any]:
    """Return the answer of GET /v1/links; ages are seconds at `now_s`.

    A pair has `wait`, why no call is made for it now, only where there is such a reason besides
    its failed tries. Where `is_meshed` is false engines connect by themselves and there are none.
    Above `pairs_max` pairs those that are linked are left out first and `is_complete` is false.
    """
    links = sorted(report.links, key=lambda link: link.pair)
    # A wait that ends by itself is what `attempts` and `next_try_s` say already.
    waits = {(w.decoder, w.prompt): w for w in report.waits if w.until_s is None}
    present = [link for link in links if link.state is not LinkState.ABSENT]
    shown = links
    if len(links) > pairs_max:
        shown = [link for link in links if link.state is not LinkState.LINKED][:pairs_max]
    return {
        "cycle": report.cycle,
        "age_s": age(report.snapshot.now_s, now_s),
        "decoders": _ids(report.snapshot.nodes, Role.DECODER, (link.decoder for link in present)),
        "prompts": _ids(report.snapshot.nodes, Role.PROMPT, (link.prompt for link in present)),
        "counts": link_counts(report),
        "hung_calls": {node_id: n for node_id, n in sorted(report.hung_calls.items()) if n},
        "is_complete": len(shown) == len(links),
        "is_meshed": report.is_meshed,
        "pairs": [_pair(link, now_s, waits) for link in shown],
    }


def _pair(link: Link, now_s: float, waits: Mapping[Pair, Wait]) -> dict[str, Any]:
    is_due = link.state is not LinkState.LINKED and link.retry_at_s > 0
    said: dict[str, Any] = {
        "decoder": link.decoder,
        "prompt": link.prompt,
        "state": link.state.value,
        "age_s": age(link.since_s, now_s),
        "attempts": link.attempts,
        "code": link.code,
        "why": link.why,
        "next_try_s": seconds(max(0.0, link.retry_at_s - now_s)) if is_due else None,
    }
    wait = waits.get(link.pair)
    return said if wait is None else {**said, "wait": wait.why}


def _ids(nodes: tuple[Node, ...], role: Role, linked: Iterable[str]) -> list[str]:
    """Name a role's nodes that want links, and those that only a link still names."""
    wanting = {node.id for node in nodes if node.role is role and node.state in MESHED}
    return sorted(wanting.union(linked))
