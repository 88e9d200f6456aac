"""Decisions, gates and targets as JSON."""

from typing import Any

from pd_autoscaler.model.decision import Decision, Gate, Hold, Target
from pd_autoscaler.model.report import Shadow

Json = dict[str, Any]


def target_view(target: Target) -> Json:
    """Return the counts and why."""
    return {"prompt": target.prompt, "decoder": target.decoder, "why": target.why}


def decision_view(decision: Decision) -> Json:
    """Return a target or a hold, told apart by `kind`."""
    match decision:
        case Hold():
            return {"kind": "hold", **_reason(decision)}
        case Target():
            return {"kind": "target", **target_view(decision)}


def hold_view(guarded: Decision) -> Json | None:
    """Return why the standing target stays, None where it was free to move."""
    return _reason(guarded) if isinstance(guarded, Hold) else None


def gate_view(gate: Gate) -> Json:
    """Return a gate that fired; a role of None is both."""
    return {
        "reason": gate.reason.value,
        "role": None if gate.role is None else gate.role.value,
        "detail": gate.detail,
    }


def shadow_view(shadow: Shadow) -> Json:
    """Return what a shadow policy would have done, and where it would be."""
    return {
        "name": shadow.name,
        "target": target_view(shadow.target),
        "decision": decision_view(shadow.decision),
        "guarded": decision_view(shadow.guarded),
        "gates": [gate_view(gate) for gate in shadow.gates],
    }


def _reason(hold: Hold) -> Json:
    return {"reason": hold.reason.value, "detail": hold.detail}
