"""Explanations: why a pair is not linked, in an operator's words, from a report and past attempts.

Every line is one sentence that stands for itself; what a status code means is handed in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from pd_autoscaler.core.attempts import KEPT_MAX, Attempt
from pd_autoscaler.core.coming import coming
from pd_autoscaler.core.scene import UNMESHED, WANTED, Scene, spoken, tries
from pd_autoscaler.model.link import Link, LinkState, Pair
from pd_autoscaler.model.node import COMING

_WORST_FIRST = (
    LinkState.SUSPECT,
    LinkState.FAILED,
    LinkState.UNLINKING,
    LinkState.ABSENT,
    LinkState.LINKING,
    LinkState.LINKED,
)
SUSPICION = (
    "suspect means that one end may hold an entry which the other lacks: "
    "only a forced unlink on both ends leads out of it"
)
"""What a suspect pair is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairExplanation:
    """What is to be said of a pair; `age_s` and `next_s` are seconds, None where there is none.

    `next_s` is how long it takes until something is done for it by itself: 0 is now.
    """

    decoder: str
    prompt: str
    state: LinkState
    age_s: float | None
    is_wanted: bool
    next_s: float | None
    lines: tuple[str, ...]


def troubled(scene: Scene, *, node_id: str | None = None) -> list[Pair]:
    """Return the pairs that are wanted and not up, worst first; of one node where it is given."""
    down = [
        link.pair
        for link in scene.links.values()
        if link.state is not LinkState.LINKED
        and scene.is_wanted(link.pair)
        and node_id in {None, *link.pair}
    ]
    return sorted(down, key=lambda pair: _badness(scene, pair))


def _badness(scene: Scene, pair: Pair) -> tuple[int, int, float, Pair]:
    link = scene.links[pair]
    return (_WORST_FIRST.index(link.state), -link.attempts, link.since_s, pair)


def pair_explained(
    scene: Scene, pair: Pair, attempts: Sequence[Attempt] | None, *, told_max: int = KEPT_MAX
) -> PairExplanation:
    """Explain one pair; `attempts` are its newest first, None where they cannot be read.

    At most `told_max` of them are told; all of them say since when the pair has been down.
    """
    link = scene.links.get(pair)
    state, is_wanted = scene.state(pair), scene.is_wanted(pair)
    comes, next_s = coming(scene, pair)
    lines = [_now(scene, link, attempts or ())]
    if state is LinkState.SUSPECT:
        lines.append(SUSPICION)
    lines.append(_wanted(scene, pair))
    lines += _tried(scene, attempts, told_max)
    hung = {name: scene.report.hung_calls.get(name, 0) for name in pair}
    lines += [f"native calls past their deadline at {name}: {n}" for name, n in hung.items() if n]
    lines.append(f"next: {comes}")
    lines += [f"alarm: {text}" for text in scene.naming(scene.report.alarms, *pair)]
    lines += [f"not done: {text}" for text in scene.naming(scene.report.plan.notes, *pair)]
    return PairExplanation(
        decoder=pair[0],
        prompt=pair[1],
        state=state,
        age_s=None if link is None else max(0.0, scene.now_s - link.since_s),
        is_wanted=is_wanted,
        next_s=next_s,
        lines=tuple(lines),
    )


def _now(scene: Scene, link: Link | None, attempts: Sequence[Attempt]) -> str:
    if link is None:
        return "absent: the controller keeps no such pair"
    said = f"{link.state} for {spoken(scene.now_s - link.since_s)}"
    if link.state is not LinkState.LINKED:
        said += _down(scene, link, attempts)
    if link.attempts:
        said += f", {tries(link.attempts)} since it was last up"
    if link.state is not LinkState.LINKED and link.endpoints_up:
        said += f", {link.endpoints_up} of its endpoint links are up"
    cause = _cause(scene, link.code, link.why)
    return f"{said}: {cause}" if cause else said


def _down(scene: Scene, link: Link, attempts: Sequence[Attempt]) -> str:
    """Say for how long a pair has been down where that is longer than it has been in its state.

    A pair changes its state with every try. Only so many failures are its own as the controller
    counts since it was last up: a link that came up after its call was given up leaves no trace.
    """
    story = list(takewhile(lambda a: a.outcome != "done" or a.verb == "force-unlink", attempts))
    failures = [attempt for attempt in story if attempt.verb == "link"]
    mine = failures[: link.attempts]
    if not mine:
        return ""
    down_s = scene.now_unix_s - mine[-1].at_unix_s
    if down_s - (scene.now_s - link.since_s) < 1.0:
        return ""
    is_cut = len(mine) < len(failures) or len(story) == len(attempts) >= KEPT_MAX
    return f", down for {'at least ' if is_cut else ''}{spoken(down_s)}"


def _wanted(scene: Scene, pair: Pair) -> str:
    if not scene.is_meshed:
        return f"not wanted: {UNMESHED}"
    others = [_unfit(scene, name) for name in pair]
    reasons = [reason for reason in others if reason]
    if not reasons and pair not in scene.links:
        return "not wanted yet: its nodes have just been found"
    if not reasons:
        states = [scene.nodes[name] for name in pair]
        return f"wanted: {' and '.join(f'{node.id} is {node.state}' for node in states)}"
    is_coming = all(
        name in scene.nodes and scene.nodes[name].state in WANTED | COMING for name in pair
    )
    return f"not wanted{' yet' if is_coming else ''}: {' and '.join(reasons)}"


def _unfit(scene: Scene, name: str) -> str:
    """Say why a node wants no links; nothing where it does."""
    node = scene.nodes.get(name)
    if node is None:
        return f"there is no node {name} any more"
    if node.state in WANTED:
        return ""
    return f"{name} is {node.state}{f' ({node.why})' if node.why else ''}"


def _tried(scene: Scene, attempts: Sequence[Attempt] | None, told_max: int) -> list[str]:
    if attempts is None:
        return ["tried: the journal does not answer, so it is not known"]
    return [_attempt(scene, attempt) for attempt in attempts[:told_max]] or [
        "tried: no call that the journal remembers"
    ]


def _attempt(scene: Scene, attempt: Attempt) -> str:
    """Say how one call ended; who called is told where it is not plain."""
    by = "" if attempt.verb == "link" else f" at {attempt.node}"
    ago = spoken(scene.now_unix_s - attempt.at_unix_s)
    ending = {"done": "done", "failed": "failed"}.get(attempt.outcome, "ended unknown")
    said = f"tried {ago} ago: {attempt.verb}{by} {ending} after {spoken(attempt.took_s)}"
    cause = _cause(scene, attempt.code, attempt.why)
    return f"{said}: {cause}" if cause else said


def _cause(scene: Scene, code: str, why: str) -> str:
    """Name a status code with its meaning, and what else is known."""
    parts = [code] if code else []
    if why and why != code:
        parts.append(why)
    explained = [f"{p} ({scene.meanings[p]})" if p in scene.meanings else p for p in parts]
    return ", ".join(explained)
