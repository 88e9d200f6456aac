"""What the controller's own actions do to what it knows: when they begin, and when they end."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import assert_never

from pd_autoscaler.core import mesh
from pd_autoscaler.core.fleet import Contact, Fleet, OwnedLinks, things, unlink_thing
from pd_autoscaler.core.lifecycle import start_failed
from pd_autoscaler.core.rules import Rules, backoff_s
from pd_autoscaler.model.link import LinkState, Pair, Verdict
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.plan import (
    Action,
    DrainNode,
    FinalizeNode,
    InitNode,
    LinkNodes,
    PublishNode,
    StartNode,
    StopNode,
    SwitchRole,
    UnlinkNodes,
    WithdrawNode,
)
from pd_autoscaler.model.report import Done, Failed, Move, Outcome, Unknown

_S = NodeState


def all_begun(fleet: Fleet, actions: Iterable[Action], *, now_s: float) -> tuple[Fleet, list[Move]]:
    """Return the fleet after the beginnings of all these actions, and the moves made."""
    moves: list[Move] = []
    fleet = replace(fleet, links=OwnedLinks(fleet.links))
    for action in actions:
        fleet, more = begun(fleet, action, now_s=now_s)
        moves += more
    return replace(fleet, links=dict(fleet.links)), moves


def all_ended(fleet: Fleet, outcomes: Sequence[Outcome], rules: Rules, *, now_s: float) -> Fleet:
    """Return the fleet after all these ends, in their order."""
    if not outcomes:
        return fleet
    fleet = replace(fleet, links=OwnedLinks(fleet.links))
    for outcome in outcomes:
        fleet = ended(fleet, outcome, rules, now_s=now_s)
    return replace(fleet, links=dict(fleet.links))


def doubted(fleet: Fleet, outcomes: Iterable[Outcome], *, now_s: float) -> Fleet:
    """Return the fleet with everything these outcomes touched to be observed first."""
    touched = {thing: now_s for outcome in outcomes for thing in things(outcome.action)}
    return replace(fleet, blocked={**fleet.blocked, **touched})


def begun(fleet: Fleet, action: Action, *, now_s: float) -> tuple[Fleet, list[Move]]:
    """Return the fleet with the states that an action's beginning gives, and the moves made."""
    match action:
        case StartNode(role=role, request_id=request_id):
            return _asked_for(fleet, role, request_id, now_s), []
        case LinkNodes(decoder_id=decoder_id, prompts=prompts):
            ids = fleet.nodes[decoder_id].cluster_ids
            for peer in prompts:
                fleet = fleet.remember_linked(peer.incarnation, ids)
                fleet = _link_begun(fleet, decoder_id, peer.node_id, now_s)
            return fleet, []
        case DrainNode() | PublishNode() | StopNode() | InitNode():
            return _node_begun(fleet, action, now_s)
        case _:
            return fleet, []


def _node_begun(
    fleet: Fleet, action: DrainNode | PublishNode | StopNode | InitNode, now_s: float
) -> tuple[Fleet, list[Move]]:
    node = fleet.nodes[action.node_id]
    match action, node.state:
        case DrainNode(why=why, next_role=next_role), _:
            node = replace(node, next_role=next_role)
            counts = {k: v for k, v in fleet.idle_counts.items() if k != node.id}
            fleet = replace(fleet, leaving=fleet.leaving | {node.id}, idle_counts=counts)
            after = _S.DRAINING if node.state is _S.SERVING else _S.UNLINKING
            return _moved(fleet, node, after, why, now_s)
        case PublishNode(), state:
            fleet = replace(fleet, publishing=fleet.publishing | {node.id})
            if state is not _S.DRAINING:
                return fleet, []
            fleet = replace(fleet, leaving=fleet.leaving - {node.id})
            node = replace(node, next_role=None)
            return _moved(fleet, node, _S.SERVING, "its removal was taken back", now_s)
        case StopNode(), _S.STARTING | _S.INITIALISING | _S.FAILED:
            return _moved(fleet, node, _S.STOPPING, node.why, now_s)
        case InitNode(), _S.STANDBY:
            return _moved(fleet, node, _S.INITIALISING, "taken from the pool", now_s)
        case _:
            return fleet, []


def _asked_for(fleet: Fleet, role: Role, request_id: str, now_s: float) -> Fleet:
    if request_id in fleet.nodes:
        return fleet
    node = Node(
        id=request_id,
        role=role,
        state=_S.STARTING,
        since_s=now_s,
        why="asked for",
        request_id=request_id,
        began_s=now_s,
    )
    contacts = {**fleet.contacts, request_id: Contact(now_s, now_s)}
    count = max(fleet.request_count, int(request_id.rpartition("-")[2]))
    return replace(fleet.with_node(node), contacts=contacts, request_count=count)


def _link_begun(fleet: Fleet, decoder_id: str, prompt_id: str, now_s: float) -> Fleet:
    link = fleet.links.get((decoder_id, prompt_id))
    if link is None:
        return fleet
    return fleet.with_link(link.moved_to(LinkState.LINKING, now_s=now_s))


def _moved(
    fleet: Fleet, node: Node, after: NodeState, why: str, now_s: float
) -> tuple[Fleet, list[Move]]:
    move = Move(node.id, node.role, node.state, after, why, now_s - node.since_s)
    return fleet.with_node(node.moved_to(after, now_s=now_s, why=why)), [move]


def ended(fleet: Fleet, outcome: Outcome, rules: Rules, *, now_s: float) -> Fleet:
    """Return the fleet with what an action's end says of the thing it acted on."""
    match outcome:
        case Done(action=action):
            return _done(fleet, action, rules, now_s)
        case Failed(action=action):
            return _failed(fleet, outcome, rules, now_s)
        case Unknown(action=action):
            fleet = _unknown(fleet, action, outcome.why, rules, now_s=now_s)
            blocked = dict.fromkeys(things(action), now_s)
            return replace(fleet, blocked={**fleet.blocked, **blocked})
        case _:
            assert_never(outcome)


def _done(fleet: Fleet, action: Action, rules: Rules, now_s: float) -> Fleet:
    match action:
        case StartNode(request_id=node_id):
            return _not_before(fleet, node_id, now_s + rules.node.start_timeout_s)
        case StopNode(node_id=node_id):
            return _not_before(fleet, node_id, now_s + rules.node.stop_timeout_s)
        case PublishNode(node_id=node_id) | WithdrawNode(node_id=node_id):
            return _not_before(fleet, node_id, now_s + rules.node.retry_s)
        case UnlinkNodes():
            return _unlinks_done(fleet, action, now_s)
        case _:
            return fleet


def _not_before(fleet: Fleet, node_id: str, retry_at_s: float) -> Fleet:
    """Accepted is not done: wait for it to be seen before asking again."""
    node = fleet.nodes.get(node_id)
    return fleet if node is None else fleet.with_node(replace(node, retry_at_s=retry_at_s))


def _unlinks_done(fleet: Fleet, action: UnlinkNodes, now_s: float) -> Fleet:
    waits = dict(fleet.unlink_waits)
    for thing in things(action):
        waits.pop(thing, None)
    fleet = replace(fleet, unlink_waits=waits)
    for peer in action.peers:
        fleet = _unlinked(fleet, action, peer.node_id, peer.incarnation, now_s)
        if fleet.nodes.get(action.node_id) is None:
            continue
        prompt = fleet.nodes[action.node_id]
        if prompt.role is Role.PROMPT:
            ids = [endpoint.cluster_id for endpoint in peer.endpoints]
            fleet = fleet.forget_linked(prompt.incarnation, ids)
            fleet = _half_unlinked(fleet, (peer.node_id, prompt.id), now_s)
    return fleet


def _half_unlinked(fleet: Fleet, pair: Pair, now_s: float) -> Fleet:
    """Doubt a pair whose decoder told, meanwhile, that it is up: the prompt's end is dropped."""
    link = fleet.links.get(pair)
    if link is None or link.state is not LinkState.LINKED:
        return fleet
    why = "its prompt node dropped its end"
    return fleet.with_link(link.moved_to(LinkState.SUSPECT, now_s=now_s, why=why))


def _unlinked(
    fleet: Fleet, action: UnlinkNodes, prompt_id: str, incarnation: str, now_s: float
) -> Fleet:
    """Take in that a decoder dropped its end; a normal unlink dropped the prompt's end, too."""
    link = fleet.links.get((action.node_id, prompt_id))
    decoder = fleet.nodes.get(action.node_id)
    if link is None or decoder is None or decoder.role is not Role.DECODER:
        return fleet
    fleet = fleet.with_link(mesh.unlinked(link, now_s=now_s))
    return fleet if action.force else fleet.forget_linked(incarnation, decoder.cluster_ids)


def _failed(fleet: Fleet, outcome: Failed, rules: Rules, now_s: float) -> Fleet:
    action = outcome.action
    verdict = outcome.verdict or (Verdict.RETRY if outcome.retryable else Verdict.CONFIG)
    match action:
        case LinkNodes(decoder_id=decoder_id, prompts=prompts):
            for peer in prompts:
                fleet = _link_failed(
                    fleet, (decoder_id, peer.node_id), outcome, verdict, rules, now_s=now_s
                )
            return fleet
        case PublishNode(node_id=node_id):
            fleet = replace(fleet, publishing=fleet.publishing - {node_id})
            return _node_failed(fleet, node_id, rules, now_s)
        case UnlinkNodes():
            return _unlinks_failed(fleet, action, outcome, verdict, rules, now_s=now_s)
        case StartNode(role=role, request_id=request_id) if not outcome.retryable:
            return start_failed(fleet, role, now_s=now_s).without_node(request_id)
        case StartNode(request_id=node_id):
            return _node_failed(fleet, node_id, rules, now_s)
        case InitNode(node_id=node_id):
            return _init_failed(fleet, node_id, outcome, rules, now_s)
        case SwitchRole(node_id=node_id) if not outcome.retryable:
            return _switch_failed(fleet, node_id, outcome)
        case _:
            return _node_failed(fleet, action.node_id, rules, now_s)


def _link_failed(
    fleet: Fleet,
    pair: tuple[str, str],
    outcome: Failed,
    verdict: Verdict,
    rules: Rules,
    *,
    now_s: float,
) -> Fleet:
    link = fleet.links.get(pair)
    if link is None or link.state is LinkState.LINKED:
        return fleet
    failed = mesh.failed(
        link, code=outcome.code, verdict=verdict, why=outcome.why, now_s=now_s, rules=rules.link
    )
    return fleet.with_link(failed)


def _unlinks_failed(
    fleet: Fleet,
    action: UnlinkNodes,
    outcome: Failed,
    verdict: Verdict,
    rules: Rules,
    *,
    now_s: float,
) -> Fleet:
    is_later = verdict is Verdict.RETRY and not action.force
    for peer in action.peers:
        pair = (action.node_id, peer.node_id)
        step = _unlink_later if is_later else _unlink_failed
        fleet = step(fleet, pair, outcome, rules, now_s=now_s)
    return fleet


def _unlink_later(
    fleet: Fleet, pair: tuple[str, str], outcome: Failed, rules: Rules, *, now_s: float
) -> Fleet:
    """Have a normal unlink tried again: a pull that runs (LLM_LINK_BUSY) is not to be cut."""
    link = fleet.links.get(pair)
    if link is None:
        return fleet
    later = mesh.postponed(link, code=outcome.code, why=outcome.why, now_s=now_s, rules=rules.link)
    return fleet.with_link(later)


def _unlink_failed(
    fleet: Fleet, pair: tuple[str, str], outcome: Failed, rules: Rules, *, now_s: float
) -> Fleet:
    fleet = _unlinked_later(fleet, unlink_thing(*pair), rules, now_s)
    link = fleet.links.get(pair)
    if link is None:
        return fleet
    worse = replace(
        link, attempts=link.attempts + 1, code=outcome.code, why=outcome.why, retry_at_s=now_s
    )
    return fleet.with_link(worse)


def _unlinked_later(fleet: Fleet, thing: str, rules: Rules, now_s: float) -> Fleet:
    """Return the fleet with a wait before one end is unlinked again, longer each time."""
    attempts = fleet.unlink_waits.get(thing, (0, 0.0))[0] + 1
    wait_s = backoff_s(attempts, rules.link.backoff_s, rules.link.backoff_max_s, salt=thing)
    # The first retry comes at once: it is the forced one, which cures what a normal one could not.
    due_s = now_s + (wait_s if attempts > 1 else 0.0)
    return replace(fleet, unlink_waits={**fleet.unlink_waits, thing: (attempts, due_s)})


def _node_failed(fleet: Fleet, node_id: str, rules: Rules, now_s: float) -> Fleet:
    node = fleet.nodes.get(node_id)
    if node is None:
        return fleet
    attempts = node.attempts + 1
    wait_s = backoff_s(attempts, rules.node.retry_s, rules.node.retry_max_s, salt=node_id)
    return fleet.with_node(replace(node, attempts=attempts, retry_at_s=now_s + wait_s))


def _init_failed(fleet: Fleet, node_id: str, outcome: Failed, rules: Rules, now_s: float) -> Fleet:
    """Count a failed initialisation; where it is hopeless, as many as the life cycle allows."""
    fleet = _node_failed(fleet, node_id, rules, now_s)
    node = fleet.nodes.get(node_id)
    if node is None or node.state is not _S.INITIALISING:
        return fleet
    attempts = node.attempts if outcome.retryable else rules.node.start_attempts_max
    why = f"cannot be initialised: {outcome.why}"
    return fleet.with_node(replace(node, attempts=attempts, why=why))


def _switch_failed(fleet: Fleet, node_id: str, outcome: Failed) -> Fleet:
    """Leave a node that cannot take its next role without one: the life cycle ends it."""
    node = fleet.nodes.get(node_id)
    if node is None or node.state is not _S.SWITCHING:
        return fleet
    why = f"cannot become {node.next_role}: {outcome.why}"
    return fleet.with_node(replace(node, next_role=None, why=why))


def _unknown(fleet: Fleet, action: Action, why: str, rules: Rules, *, now_s: float) -> Fleet:
    """A link call past its deadline leaves a pair that only a forced unlink cures."""
    if isinstance(action, FinalizeNode):
        # Not a second time: a process that hangs in it can only be stopped.
        return _node_failed(fleet, action.node_id, rules, now_s)
    if isinstance(action, UnlinkNodes):
        for thing in things(action):
            fleet = _unlinked_later(fleet, thing, rules, now_s)
    if not isinstance(action, LinkNodes):
        return fleet
    for peer in action.prompts:
        link = fleet.links.get((action.decoder_id, peer.node_id))
        if link is not None:
            suspect = mesh.failed(
                link,
                code="",
                verdict=Verdict.FORCE,
                why=why,
                now_s=now_s,
                rules=rules.link,
            )
            fleet = fleet.with_link(suspect)
    return fleet
