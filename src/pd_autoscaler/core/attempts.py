"""Attempts: how each call that made or dropped a link ended, pair by pair."""

from collections.abc import Iterable
from dataclasses import dataclass

from pd_autoscaler.model.plan import LinkNodes, UnlinkNodes
from pd_autoscaler.model.report import Outcome, Report, Unknown

KEPT_MAX = 20
"""Newest attempts a journal keeps of a pair at least; older ones make room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One end of a call that `node` made for its link to `peer`; `took_s` is seconds.

    `verb` is link, unlink or force-unlink, `outcome` done, failed or unknown. `at_unix_s` is the
    wall time of the cycle that took it in.
    """

    at_unix_s: float
    node: str
    peer: str
    verb: str
    outcome: str
    code: str
    why: str
    took_s: float


def attempts_of(report: Report) -> list[Attempt]:
    """Return an attempt for each pair that an outcome of this report names."""
    return list(_of_each(report.outcomes, report.snapshot.now_unix_s))


def _of_each(outcomes: Iterable[Outcome], at_unix_s: float) -> Iterable[Attempt]:
    for outcome in outcomes:
        action = outcome.action
        match action:
            case LinkNodes(decoder_id=node, prompts=peers):
                verb = "link"
            case UnlinkNodes(node_id=node, peers=peers, force=force):
                verb = "force-unlink" if force else "unlink"
            case _:
                continue
        for peer in peers:
            yield Attempt(
                at_unix_s=at_unix_s,
                node=node,
                peer=peer.node_id,
                verb=verb,
                outcome=type(outcome).__name__.lower(),
                code="" if isinstance(outcome, Unknown) else outcome.code,
                why=getattr(outcome, "why", ""),
                took_s=outcome.took_s,
            )
