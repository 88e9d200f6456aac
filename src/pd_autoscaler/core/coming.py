"""What comes next for a pair: a call that was begun, a try that is due, or why there is none."""

from pd_autoscaler.core.scene import WANTED, Scene, spoken
from pd_autoscaler.model.decision import Hold, HoldReason, Mode
from pd_autoscaler.model.link import Link, LinkState, Pair
from pd_autoscaler.model.node import COMING, NodeState
from pd_autoscaler.model.plan import Action, LinkNodes, UnlinkNodes
from pd_autoscaler.model.wording import VERBS


def coming(scene: Scene, pair: Pair) -> tuple[str, float | None]:
    """Say what is done for a pair and when (in seconds), or why nothing is."""
    link = scene.links.get(pair)
    if begun := [a for a in scene.report.plan.actions if scene.acts and touches(a, pair)]:
        ago = spoken(scene.now_s - scene.report.snapshot.now_s)
        verbs = " and ".join(sorted({VERBS[type(action)] for action in begun}))
        return f"a call to {verbs} it was begun {ago} ago", 0.0
    if link is not None and link.state in {LinkState.LINKING, LinkState.UNLINKING}:
        return f"a call is under way, begun {spoken(scene.now_s - link.since_s)} ago", 0.0
    if held := _held(scene):
        return f"nothing, {held}", None
    if not scene.is_wanted(pair):
        return _unwanted(scene, pair), None
    if scene.state(pair) is LinkState.LINKED:
        return "nothing, it is up", None
    return _awaited(scene, pair, link)


def _held(scene: Scene) -> str:
    """Say why nothing at all is done."""
    report = scene.report
    if report.mode in {Mode.STOPPED, Mode.ADVISORY}:
        return f"no action is taken while the loop is {report.mode}"
    if not report.epoch:
        return "this controller does not lead or has not taken an epoch yet"
    if not report.is_acting:
        return "most agents obey another controller"
    if isinstance(report.guarded, Hold) and report.guarded.reason is HoldReason.MASS_FAILURE:
        return report.guarded.detail or "too much of the fleet is silent"
    return ""


def _unwanted(scene: Scene, pair: Pair) -> str:
    state = scene.state(pair)
    if state is LinkState.SUSPECT:
        return "what is left of it is dropped by force"
    nodes = [scene.nodes.get(name) for name in pair]
    if state is LinkState.LINKED:
        is_draining = any(node and node.state is NodeState.DRAINING for node in nodes)
        return "it is unlinked once the drain is over" if is_draining else "it is unlinked"
    awaited = [node.id for node in nodes if node and node.state in COMING - WANTED]
    return f"nothing before {' and '.join(awaited)} links" if awaited else "nothing"


def _awaited(scene: Scene, pair: Pair, link: Link | None) -> tuple[str, float | None]:
    """Say what a wanted pair waits for."""
    if wait := scene.waits.get(pair):
        if wait.until_s is None:
            return f"no call now, {wait.why}", None
        left_s = max(0.0, wait.until_s - scene.now_s)
        due = f"in {spoken(left_s)}" if left_s else "now"
        return f"no call now, {wait.why}; the next is due {due}", left_s
    if link is not None and link.retry_at_s > scene.now_s:
        left_s = link.retry_at_s - scene.now_s
        return f"the next try is due in {spoken(left_s)}", left_s
    suspects = [name for name in pair if scene.nodes[name].is_suspect]
    if suspects:
        return f"nothing while {' and '.join(suspects)} is suspect: its agent is silent", None
    if scene.state(pair) is LinkState.SUSPECT:
        return "both ends are dropped by force, then it is linked again", 0.0
    return "a call is due in one of the next cycles", 0.0


def touches(action: Action, pair: Pair) -> bool:
    """Whether an action makes or drops the link of a pair, from either end."""
    match action:
        case LinkNodes(decoder_id=node, prompts=peers) | UnlinkNodes(node_id=node, peers=peers):
            return node in pair and any({node, peer.node_id} == set(pair) for peer in peers)
        case _:
            return False
