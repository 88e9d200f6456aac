"""The JSON of GET /v1/explain: why it scales or not, why pairs and nodes are not up, in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from pd_autoscaler.admin.access import RefusedError
from pd_autoscaler.admin.numbers import age, seconds
from pd_autoscaler.admin.scaling_view import scaling_view
from pd_autoscaler.core.attempts import KEPT_MAX, Attempt
from pd_autoscaler.core.explanation import pair_explained, troubled
from pd_autoscaler.core.node_explanation import node_lines
from pd_autoscaler.core.scene import Scene
from pd_autoscaler.datadist.status import STATUS_CODES
from pd_autoscaler.errors import PermanentError, TransientError
from pd_autoscaler.model.link import Pair
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.report import Report
from pd_autoscaler.ports import Journal

Json = dict[str, Any]

MEANINGS: Final[Mapping[str, str]] = MappingProxyType(
    {name: code.meaning for name, code in STATUS_CODES.items()}
)
ATTEMPTS_OF_ONE = 10
"""Past attempts told of a pair that was asked for."""

ATTEMPTS_OF_MANY = 3
"""Past attempts told of each pair in a list."""

NAMES_MAX = 50
"""Most nodes that a refusal names."""

AT = "at_unix_s"
"""The query that asks for a past cycle."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What to explain: one pair, one node, or the scaling and whatever is not up."""

    pair: Pair | None = None
    node: str | None = None


async def past_report(query: Mapping[str, str], journal: Journal) -> Report | None:
    """Return the newest kept report of the time that a query asks for, None if it asks for none.

    Raises RefusedError: 400 for what is no time, 404 where nothing is kept from then, 409 for a
    report that this version cannot read.
    """
    if AT not in query:
        return None
    at_unix_s = _moment(query[AT])
    try:
        report = await journal.report_at(at_unix_s)
    except PermanentError as error:
        raise RefusedError(
            409, f"the report of then cannot be read by this version: {error}"
        ) from error
    if report is not None:
        return report
    since = await journal.kept_since()
    there_is = "nothing at all" if since is None else f"something from {_told(since)} on"
    raise RefusedError(
        404, f"no cycle is kept from {_told(at_unix_s)} or before; there is {there_is}"
    )


def _moment(given: str) -> float:
    try:
        at_unix_s = float(given)
    except ValueError:
        at_unix_s = math.nan
    if not math.isfinite(at_unix_s):
        raise RefusedError(400, f"{AT}={given!r} is not a time; give seconds since 1970")
    return at_unix_s


def _told(at_unix_s: float) -> str:
    try:
        return datetime.fromtimestamp(at_unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):
        return f"{at_unix_s:g} s since 1970"


def asked_of(query: Mapping[str, str], report: Report) -> Asked:
    """Return what a query asks for.

    Raises RefusedError: 400 for a query that is neither a pair nor a node, 404 for a node that
    neither the snapshot nor a link names.
    """
    given = {name: value for name, value in query.items() if name != AT}
    if not given:
        return Asked()
    if given.keys() == {"node"}:
        _require_known(given["node"], report)
        return Asked(node=given["node"])
    if given.keys() != {"decoder", "prompt"}:
        raise RefusedError(
            400,
            f"/v1/explain was asked with {', '.join(sorted(given))}; "
            f"it takes decoder and prompt, or node, or nothing, and {AT} with each",
        )
    roles = {node.id: node.role for node in report.snapshot.nodes}
    for role in (Role.DECODER, Role.PROMPT):
        name = given[role.value]
        _require_known(name, report)
        if roles.get(name, role) is not role:
            raise RefusedError(
                400, f"{name!r} is a {role.other} node; give the decoder first, then the prompt"
            )
    return Asked(pair=(given["decoder"], given["prompt"]))


async def explain_view(
    asked: Asked,
    report: Report,
    journal: Journal,
    *,
    now_s: float,
    pairs_max: int,
    until_unix_s: float = math.inf,
) -> Json:
    """Return the answer of GET /v1/explain; `more` counts the pairs beyond `pairs_max`.

    Worst first. Keys that end in `_s` are seconds; every explanation is `lines`, one sentence each.
    `scaling` is None where a pair or a node was asked for. Calls that ended after `until_unix_s`
    are not told.
    """
    scene = Scene(report=report, now_s=now_s, meanings=MEANINGS)
    is_general = asked == Asked()
    pairs = [asked.pair] if asked.pair else troubled(scene, node_id=asked.node)
    limit = ATTEMPTS_OF_ONE if asked.pair else ATTEMPTS_OF_MANY
    shown = []
    for pair in pairs[:pairs_max]:
        attempts = await _attempts(journal, pair, until_unix_s=until_unix_s)
        shown.append(_pair(scene, pair, attempts, limit))
    return {
        "cycle": report.cycle,
        "at_unix_s": seconds(report.snapshot.now_unix_s),
        "age_s": age(report.snapshot.now_s, now_s),
        "scaling": await scaling_view(report, journal, now_s=now_s) if is_general else None,
        "is_meshed": report.is_meshed,
        "node": None if asked.node is None else _node(scene, asked.node),
        "pairs": shown,
        "more": max(0, len(pairs) - pairs_max),
    }


async def _attempts(journal: Journal, pair: Pair, *, until_unix_s: float) -> list[Attempt] | None:
    """Ask the journal for all that it keeps; the rest of an explanation does not need it."""
    try:
        found: Sequence[dict[str, Any]] = await journal.link_events(*pair, limit=KEPT_MAX)
    except TransientError:
        return None
    attempts = (Attempt(**event) for event in found)
    return [attempt for attempt in attempts if attempt.at_unix_s <= until_unix_s]


def _pair(scene: Scene, pair: Pair, attempts: list[Attempt] | None, limit: int) -> Json:
    said = pair_explained(scene, pair, attempts, told_max=limit)
    return {
        "decoder": said.decoder,
        "prompt": said.prompt,
        "state": said.state.value,
        "age_s": seconds(said.age_s),
        "is_wanted": said.is_wanted,
        "next_s": seconds(said.next_s),
        "attempts": None if attempts is None else [_attempt(a) for a in attempts[:limit]],
        "lines": list(said.lines),
    }


def _attempt(attempt: Attempt) -> Json:
    meaning = MEANINGS.get(attempt.code, "")
    return {**asdict(attempt), "took_s": seconds(attempt.took_s), "meaning": meaning}


def _node(scene: Scene, node_id: str) -> Json:
    node = scene.nodes.get(node_id)
    if node is None:
        lines = ["it is not there any more: only links still name it"]
        return {"id": node_id, "role": None, "state": None, "age_s": None, "lines": lines}
    return {
        "id": node_id,
        "role": node.role.value,
        "state": node.state.value,
        "age_s": age(node.since_s, scene.now_s),
        "lines": list(node_lines(scene, node)),
    }


def _require_known(name: str, report: Report) -> None:
    known = {node.id for node in report.snapshot.nodes}
    if name in known or any(name in link.pair for link in report.links):
        return
    names = sorted(known)
    more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
    there = f"there are {', '.join(names[:NAMES_MAX])}{more}" if names else "there are no nodes"
    raise RefusedError(404, f"there is no node {name!r}; {there}")
