"""Actions and outcomes in an operator's words: one wording for journal, metrics and pages."""

from typing import assert_never

from pd_autoscaler.model.plan import (
    Action,
    DrainNode,
    FinalizeNode,
    InitNode,
    LinkNodes,
    Peer,
    PublishNode,
    StartNode,
    StopNode,
    SwitchRole,
    UnlinkNodes,
    WithdrawNode,
)
from pd_autoscaler.model.report import Done, Outcome

VERBS: dict[type[Action], str] = {
    StartNode: "start",
    InitNode: "init",
    LinkNodes: "link",
    PublishNode: "publish",
    WithdrawNode: "withdraw",
    DrainNode: "drain",
    UnlinkNodes: "unlink",
    SwitchRole: "switch",
    FinalizeNode: "finalize",
    StopNode: "stop",
}
"""One word for each action, a closed set."""


def thing(action: Action) -> str:
    """Name the node an action is done to; a start has only its request yet."""
    match action:
        case StartNode(request_id=request_id):
            return request_id
        case LinkNodes(decoder_id=decoder_id):
            return decoder_id
        case _:
            return action.node_id


def sentence(action: Action) -> str:
    """Say what an action does, in a few words that name its nodes."""
    match action:
        case StartNode(role=role, request_id=request_id):
            return f"start one {role} node ({request_id})"
        case InitNode(node_id=node_id, role=role):
            return f"initialise {node_id} as {role}"
        case LinkNodes(decoder_id=decoder_id, prompts=prompts):
            return f"link {decoder_id} to {_names(prompts)}"
        case UnlinkNodes(node_id=node_id, peers=peers, force=force):
            return f"{'force-unlink' if force else 'unlink'} {node_id} from {_names(peers)}"
        case SwitchRole(node_id=node_id, role=role):
            return f"switch {node_id} to {role}"
        case DrainNode(node_id=node_id, why=why):
            return f"drain {node_id}: {why}"
        case PublishNode() | WithdrawNode() | FinalizeNode() | StopNode():
            return f"{VERBS[type(action)]} {action.node_id}"
        case _:
            assert_never(action)


def ending(outcome: Outcome) -> str:
    """Say how an action ended: done, failed or unknown, and why."""
    word = type(outcome).__name__.lower()
    why = outcome.code if isinstance(outcome, Done) else outcome.why
    return f"{word} after {outcome.took_s:.3g} s{f' ({why})' if why else ''}"


def _names(peers: tuple[Peer, ...]) -> str:
    return ", ".join(peer.node_id for peer in peers)
