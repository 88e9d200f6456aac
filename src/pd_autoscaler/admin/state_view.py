"""The newest report as the JSON of GET /v1/state; ages are counted up to the moment of asking."""

from typing import Any

from pd_autoscaler.admin.actions import action_view, outcome_view
from pd_autoscaler.admin.decision_view import (
    decision_view,
    gate_view,
    hold_view,
    shadow_view,
    target_view,
)
from pd_autoscaler.admin.links_view import link_counts
from pd_autoscaler.admin.numbers import number, seconds
from pd_autoscaler.admin.signals_view import (
    capacity_view,
    demand_view,
    node_signals_view,
    role_signals_view,
)
from pd_autoscaler.model.codec import to_json
from pd_autoscaler.model.node import COMING, LEAVING, Node, NodeState, Role
from pd_autoscaler.model.report import Move, Report
from pd_autoscaler.model.snapshot import LeadTime, Snapshot

Json = dict[str, Any]


def state_view(report: Report, *, now_s: float, version: str) -> Json:
    """Return the answer of GET /v1/state.

    Keys that end in `_s` are seconds; `*_unix_s` are wall time. None is unknown, never zero.
    `hold` is why the standing target stays, null where it was free to move. Where `is_meshed` is
    false engines connect by themselves: there are no links.
    """
    snapshot = report.snapshot
    passed_s = max(0.0, now_s - snapshot.now_s)
    return {
        "version": version,
        "mode": report.mode.value,
        "cycle": report.cycle,
        "at_unix_s": seconds(snapshot.now_unix_s),
        "age_s": seconds(passed_s),
        "is_synced": snapshot.is_synced,
        "target": target_view(report.target),
        "actual": {role.value: _actual(snapshot, role) for role in Role},
        "decision": decision_view(report.decision),
        "guarded": decision_view(report.guarded),
        "hold": hold_view(report.guarded),
        "gates": [gate_view(gate) for gate in report.gates],
        "shadows": [shadow_view(shadow) for shadow in report.shadows],
        "attribution": {
            "bottleneck": snapshot.attribution.bottleneck.value,
            "evidence": snapshot.attribution.evidence,
        },
        "alarms": list(report.alarms),
        "signals": {role.value: role_signals_view(snapshot.of(role), passed_s) for role in Role},
        "demand": demand_view(snapshot.demand, passed_s),
        "capacity": [capacity_view(capacity) for capacity in snapshot.capacity],
        "nodes": [_node(node, report, now_s) for node in snapshot.nodes],
        "is_meshed": report.is_meshed,
        "links": link_counts(report),
        "hung_calls": {node_id: n for node_id, n in sorted(report.hung_calls.items()) if n},
        "plan": {
            "waves": [[action_view(action) for action in wave] for wave in report.plan.waves],
            "notes": list(report.plan.notes),
        },
        "outcomes": [outcome_view(outcome) for outcome in report.outcomes],
        "moves": [_move(move) for move in report.moves],
        "limits": to_json(snapshot.limits),
        "lead_times": {phase: _lead(lead) for phase, lead in snapshot.lead_times.items()},
        "phase_s": {phase: number(spent) for phase, spent in report.phase_s.items()},
    }


def _actual(snapshot: Snapshot, role: Role) -> Json:
    nodes = [node for node in snapshot.nodes if node.role is role]
    published = snapshot.published
    return {
        "serving": snapshot.serving(role),
        "coming": snapshot.coming(role),
        "leaving": snapshot.count(role, *LEAVING),
        "standby": snapshot.count(role, NodeState.STANDBY),
        "failed": snapshot.count(role, NodeState.FAILED),
        "published": None if published is None else sum(node.id in published for node in nodes),
    }


def _node(node: Node, report: Report, now_s: float) -> Json:
    snapshot = report.snapshot
    age_s = max(0.0, now_s - node.since_s)
    coming = node.state in COMING and node.ready_at_s is not None
    load = report.engine_load.get(node.id)
    signals = snapshot.node_signals.get(node.id)
    return {
        "id": node.id,
        "role": node.role.value,
        "state": node.state.value,
        "age_s": seconds(age_s),
        "since_unix_s": seconds(snapshot.now_unix_s - (snapshot.now_s - node.since_s)),
        "why": node.why,
        "ready_in_s": seconds(max(0.0, (node.ready_at_s or 0.0) - now_s)) if coming else None,
        "is_published": None if snapshot.published is None else node.id in snapshot.published,
        "is_suspect": node.is_suspect,
        "attempts": node.attempts,
        "incarnation": node.incarnation,
        "agent_urls": list(node.agent_urls),
        "metrics_url": node.metrics_url,
        "endpoints": [
            # A uint64 as text: most JSON readers would lose its last digits.
            {"rank": e.rank, "cluster_id": str(e.cluster_id), "ip": e.ip, "port": e.port}
            for e in node.endpoints
        ],
        "signals": node_signals_view(signals, max(0.0, now_s - snapshot.now_s)),
        "engine": None if load is None else to_json(load),
        "hung_calls": report.hung_calls.get(node.id, 0),
    }


def _move(move: Move) -> Json:
    return {
        "node": move.node_id,
        "role": move.role.value,
        "before": move.before.value,
        "after": move.after.value,
        "why": move.why,
        "before_s": seconds(move.before_s),
    }


def _lead(lead: LeadTime) -> Json:
    return {"p50_s": seconds(lead.p50_s), "p95_s": seconds(lead.p95_s), "count": lead.count}
