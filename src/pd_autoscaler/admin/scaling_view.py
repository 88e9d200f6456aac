"""The scaling of one cycle as JSON: why it moved the target or did not, in words and as data."""

from typing import Any

from pd_autoscaler.admin.decision_view import decision_view, gate_view, target_view
from pd_autoscaler.admin.numbers import seconds
from pd_autoscaler.admin.signals_view import capacity_view, demand_view, role_signals_view
from pd_autoscaler.core.scaling_explanation import Change, scaling_explained
from pd_autoscaler.errors import TransientError
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.report import Report
from pd_autoscaler.ports import Journal

Json = dict[str, Any]

HISTORY_SEARCHED = 1000
"""Newest changes among which the last one of the target is looked for."""


async def scaling_view(report: Report, journal: Journal, *, now_s: float) -> Json:
    """Return the explanation as `lines`, one sentence each, as `parts`, and what it was made of."""
    snapshot = report.snapshot
    change = await _last_change(report, journal)
    parts = scaling_explained(report, now_s=now_s, change=change)
    passed_s = max(0.0, now_s - snapshot.now_s)
    return {
        "mode": report.mode.value,
        "target": target_view(report.target),
        "before": target_view(snapshot.target),
        "set_unix_s": None if change is None else seconds(change.at_unix_s),
        "decision": decision_view(report.decision),
        "guarded": decision_view(report.guarded),
        "gates": [gate_view(gate) for gate in report.gates],
        "attribution": {
            "bottleneck": snapshot.attribution.bottleneck.value,
            "evidence": snapshot.attribution.evidence,
        },
        "signals": {role.value: role_signals_view(snapshot.of(role), passed_s) for role in Role},
        "demand": demand_view(snapshot.demand, passed_s),
        "capacity": [capacity_view(capacity) for capacity in snapshot.capacity],
        "parts": [{"about": part.about, "lines": list(part.lines)} for part in parts],
        "lines": [f"{part.about}: {line}" for part in parts for line in part.lines],
    }


async def _last_change(report: Report, journal: Journal) -> Change | None:
    """Find when the target was set that stands in a report; the rest does not need it."""
    try:
        entries = await journal.history(limit=HISTORY_SEARCHED)
    except TransientError:
        return None
    now_unix_s = report.snapshot.now_unix_s
    for entry in entries:
        at_unix_s = entry["at_unix_s"]
        if entry["kind"] != "target" or not isinstance(at_unix_s, float) or at_unix_s > now_unix_s:
            continue
        counts = (entry.get("prompt"), entry.get("decoder"))
        is_it = counts == (report.target.prompt, report.target.decoder)
        return Change(at_unix_s, str(entry.get("why", ""))) if is_it else None
    return None
