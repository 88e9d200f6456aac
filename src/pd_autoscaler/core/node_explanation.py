"""Explanations of a node: where it is in its life, what it waits for, which links it lacks."""

from collections import Counter
from collections.abc import Iterator

from pd_autoscaler.core.scene import UNMESHED, WANTED, Scene, spoken, tries
from pd_autoscaler.model.link import LinkState
from pd_autoscaler.model.node import COMING, LEAVING, Node, NodeState
from pd_autoscaler.model.wording import sentence, thing

_S = NodeState

NEEDS = {
    _S.STANDBY: "it is in the pool, and comes when the target asks for one more",
    _S.STARTING: "its agent has not answered yet",
    _S.INITIALISING: "its agent has not reported its library object ready yet",
    _S.LINKING: "it needs links to every published node of the other role, and the router's word",
    _S.DRAINING: "it is unlinked once the router has withdrawn it and it is idle",
    _S.UNLINKING: "it goes on once nothing is left of its links on either end",
    _S.SWITCHING: "its engine takes the other role",
    _S.STOPPING: "the provider still lists it",
    _S.FAILED: "it is withdrawn, then stopped; a new process under its name begins again",
    _S.GONE: "the provider lists it no more",
}
"""What keeps a node of each state from the next."""


def node_lines(scene: Scene, node: Node) -> tuple[str, ...]:
    """Say of a node its state and for how long, what it waits for, and what was done to it."""
    return tuple(
        line for part in (_state, _obstacles, _load, _links, _doing) for line in part(scene, node)
    )


def _state(scene: Scene, node: Node) -> Iterator[str]:
    why = f": {node.why}" if node.why else ""
    yield f"{node.role} node, {node.state} for {spoken(scene.now_s - node.since_s)}{why}"
    if node.state in NEEDS:
        is_alone = node.state is _S.LINKING and not scene.is_meshed
        needed = f"it needs the router's word; {UNMESHED}" if is_alone else NEEDS[node.state]
        yield f"{'does not serve' if node.state in COMING else node.state}: {needed}"
    if node.next_role is not None:
        yield f"then it takes the {node.next_role} role"
    if node.state in COMING and node.ready_at_s is not None:
        left_s = node.ready_at_s - scene.now_s
        # No deadline has passed: half of all nodes take longer than the median.
        due = "is expected to serve in about {}" if left_s > 0 else "is {} later than usual"
        yield f"{due.format(spoken(abs(left_s)))}, by measured lead times"


def _obstacles(scene: Scene, node: Node) -> Iterator[str]:
    if node.attempts:
        left_s = node.retry_at_s - scene.now_s
        due = f"the next is due in {spoken(left_s)}" if left_s > 0 else "the next is due"
        yield f"{tries(node.attempts)} in this state: {due}"
    if node.is_suspect and node.state not in {_S.FAILED, _S.STOPPING}:
        yield "suspect: its agent is silent, so nothing is done to it"
    if hung := scene.report.hung_calls.get(node.id):
        yield f"native calls past their deadline: {hung}"
    published = scene.report.snapshot.published
    if published is None:
        yield "the router does not say whom it sends requests"
    elif (node.id in published) is not (node.state is _S.SERVING):
        word = "may still send" if node.id in published else "does not send"
        yield f"the router {word} it new requests"


def _load(scene: Scene, node: Node) -> Iterator[str]:
    """Say what is inside an engine that must become idle."""
    load = scene.report.engine_load.get(node.id)
    if node.state is not _S.DRAINING:
        return
    if load is None:
        yield "its agent does not say what is inside its engine"
        return
    counts = {"waiting": load.waiting, "running": load.running, "KV not pulled": load.kv_unpulled}
    said = ", ".join(f"{'?' if n is None else n} {what}" for what, n in counts.items())
    yield f"requests inside: {said}"


def _links(scene: Scene, node: Node) -> Iterator[str]:
    counts: Counter[LinkState] = Counter()
    if node.state in WANTED:
        pairs = [pair for pair in scene.links if node.id in pair and scene.is_wanted(pair)]
        counts.update(scene.state(pair) for pair in pairs)
        up, wanted = counts.pop(LinkState.LINKED, 0), len(pairs)
        down = f", {_counted(counts)}" if counts else ""
        if wanted:
            yield f"links: {up} of {wanted} wanted are up{down}"
        return
    counts.update(link.state for link in scene.report.links if node.id in link.pair)
    del counts[LinkState.ABSENT]
    if counts or node.state in LEAVING:
        yield f"links left: {_counted(counts) or 'none'}"


def _counted(counts: Counter[LinkState]) -> str:
    return ", ".join(f"{counts[state]} {state}" for state in LinkState if counts[state])


def _doing(scene: Scene, node: Node) -> Iterator[str]:
    report = scene.report
    for move in report.moves:
        if move.node_id == node.id:
            why = f": {move.why}" if move.why else ""
            yield f"moved from {move.before} to {move.after} in the newest cycle{why}"
    for action in report.plan.actions:
        if scene.acts and thing(action) == node.id:
            yield f"begun in the newest cycle: {sentence(action)}"
    yield from (f"alarm: {text}" for text in scene.naming(report.alarms, node.id))
    yield from (f"not done: {text}" for text in scene.naming(report.plan.notes, node.id))
