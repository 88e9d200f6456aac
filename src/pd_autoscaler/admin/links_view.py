"""The links as JSON: decoders by prompts, and what is known of each pair."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pd_autoscaler.admin.numbers import age, seconds
from pd_autoscaler.model.link import Link, LinkState
from pd_autoscaler.model.node import MESHED, Node, Role
from pd_autoscaler.model.report import Report


def link_counts(report: Report) -> dict[str, int]:
    """Count pairs by state; every state is there."""
    seen = Counter(link.state for link in report.links)
    return {state.value: seen[state] for state in LinkState}


def links_view(report: Report, *, now_s: float, pairs_max: int) -> dict[str, Any]:
    """Return the answer of GET /v1/links; ages are seconds at `now_s`.

    Above `pairs_max` pairs those that are linked are left out first and `is_complete` is false.
    """
    links = sorted(report.links, key=lambda link: link.pair)
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
        "pairs": [_pair(link, now_s) for link in shown],
    }


def _pair(link: Link, now_s: float) -> dict[str, Any]:
    waits = link.state is not LinkState.LINKED and link.retry_at_s > 0
    return {
        "decoder": link.decoder,
        "prompt": link.prompt,
        "state": link.state.value,
        "age_s": age(link.since_s, now_s),
        "attempts": link.attempts,
        "code": link.code,
        "why": link.why,
        "next_try_s": seconds(max(0.0, link.retry_at_s - now_s)) if waits else None,
    }


def _ids(nodes: tuple[Node, ...], role: Role, linked: Iterable[str]) -> list[str]:
    """Name a role's nodes that want links, and those that only a link still names."""
    wanting = {node.id for node in nodes if node.role is role and node.state in MESHED}
    return sorted(wanting.union(linked))
