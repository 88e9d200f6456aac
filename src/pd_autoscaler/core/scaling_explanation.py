"""Explanations of scaling: why the target moved or did not, in an operator's words, from a report.

Every line is one sentence under what it is about; nothing is said that the report does not show.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pd_autoscaler.core.input_explanation import (
    NODES_TOLD,
    capacity_lines,
    capped,
    demand_lines,
    doubtful_lines,
    role_lines,
)
from pd_autoscaler.core.scene import spoken
from pd_autoscaler.model.decision import Gate, Hold, HoldReason, Mode, Target
from pd_autoscaler.model.node import COMING, LEAVING, Node, Role
from pd_autoscaler.model.report import Report, Shadow
from pd_autoscaler.model.wording import sentence

TOLD_MAX = 4
"""Most actions, notes and alarms told of each kind."""

_R = HoldReason

NEEDS: Mapping[HoldReason, str] = MappingProxyType(
    {
        _R.NO_METRICS: "pages of the engines must be read",
        _R.STALE_METRICS: "more nodes must have fresh pages (guard.fresh_quorum)",
        _R.PARTIAL_METRICS: "every serving node of the role must have a fresh page",
        _R.NOT_SYNCED: "every node found at the start must answer",
        _R.POLICY_FAILED: "the policy must answer; the log says what went wrong",
        _R.POLICY_HELD: "what the policy waits for, said above",
        _R.COOLDOWN: "it ends by itself (guard.cooldown_s)",
        _R.UP_WINDOW: "more must be asked for throughout the window (guard.up_window_s)",
        _R.DOWN_WINDOW: "less must be asked for throughout the window (guard.down_window_s)",
        _R.WARM_UP: "it ends by itself (guard.down_window_s after the start)",
        _R.BOTTLENECK_ELSEWHERE: "the bottleneck must go first",
        _R.BOTTLENECK_UNKNOWN: "the bottleneck must be known; its evidence says what is not clear",
        _R.TRANSFERS_FAIL: "KV transfers must stop failing",
        _R.BUDGET: "the limits must be wider (guard.*_min, *_max, nodes_max, ratio_*)",
        _R.STEP: "the rest follows step by step (guard.step_up_max, step_down_max)",
        _R.PAY_BACK: "it must be asked for as long as the move costs (guard.pay_back_max_s)",
        _R.MASS_FAILURE: "the silent nodes must answer (node.lost_share_max)",
        _R.JOURNAL_FAILED: "the journal must be writable (journal.path)",
        _R.PAUSED: "'pd-autoscaler resume' ends it",
    }
)
"""What must be so before a gate or a hold of each kind lets the target move."""

MODES: Mapping[Mode, str] = MappingProxyType(
    {
        Mode.PAUSED: "paused: the policy does not move the target, repairs go on",
        Mode.STOPPED: "stopped: no action is taken at all; 'pd-autoscaler resume' ends it",
        Mode.ADVISORY: "advisory: it decides and reports, and never acts (loop.advisory)",
    }
)

_NOT_ASKED = frozenset({_R.PAUSED, _R.JOURNAL_FAILED, _R.MASS_FAILURE})
"""Holds of the loop, which then does not ask the policy."""


@dataclass(frozen=True, slots=True)
class Change:
    """When the standing target was last set (wall time), and why, as it was written down."""

    at_unix_s: float
    why: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """What is said about one thing."""

    about: str
    lines: tuple[str, ...]


def scaling_explained(
    report: Report, *, now_s: float, change: Change | None = None
) -> tuple[Part, ...]:
    """Explain the scaling of one cycle as it is looked at `now_s`.

    Parts that have nothing to say are left out. `change` is the last change of the target up to
    this report, None where that is not known.
    """
    snapshot = report.snapshot
    passed_s = max(0.0, now_s - snapshot.now_s)
    now_unix_s = snapshot.now_unix_s + passed_s
    seen = snapshot.attribution
    evidence = f": {seen.evidence}" if seen.evidence else ""
    parts = (
        ("target", _target(report, change, now_unix_s)),
        ("policy", _policy(report)),
        ("guard", _guard(report)),
        ("bottleneck", [f"{seen.bottleneck}{evidence}"]),
        *((str(role), role_lines(snapshot, role, passed_s=passed_s)) for role in Role),
        ("not fresh", doubtful_lines(snapshot)),
        ("demand", demand_lines(snapshot.demand, passed_s=passed_s)),
        ("capacity", capacity_lines(snapshot.capacity)),
        ("coming", _coming(report, now_s)),
        ("to move", _needs(report)),
        ("shadow", [_shadow(shadow) for shadow in report.shadows]),
        ("doing" if report.is_acting else "not begun", _doing(report)),
        ("not done", capped(report.plan.notes, TOLD_MAX)),
        ("alarm", capped(report.alarms, TOLD_MAX)),
        ("mode", _mode(report)),
    )
    told = ((about, tuple(lines)) for about, lines in parts)
    return tuple(Part(about, lines) for about, lines in told if lines)


def _target(report: Report, change: Change | None, now_unix_s: float) -> Iterator[str]:
    before, target = report.snapshot.target, report.target
    why = target.why or (change.why if change else "")
    if target != before:
        said = f"{target}, changed in this cycle from {before}"
    elif change is not None:
        said = f"{target}, set {spoken(now_unix_s - change.at_unix_s)} ago"
    else:
        said = f"{target}, as before this cycle"
    yield f"{said}{f': {why}' if why else ''}"
    snapshot = report.snapshot
    counts = (
        f"{snapshot.serving(role)} of {target.of(role)} {role} nodes serve"
        f"{f', {coming} on the way' if (coming := snapshot.coming(role)) else ''}"
        for role in Role
    )
    yield "; ".join(counts)


def _policy(report: Report) -> Iterator[str]:
    match report.decision:
        case Hold(reason=reason, detail=detail):
            verb = "was not asked" if reason in _NOT_ASKED else "holds"
            yield f"{verb} ({_words(reason)}){f': {detail}' if detail else ''}"
        case target:
            yield f"asks for {target}{f': {target.why}' if target.why else ''}"


def _guard(report: Report) -> Iterator[str]:
    """Say what was left of the policy's answer, and each gate that fired."""
    if isinstance(report.decision, Hold):
        yield f"has nothing to let through: {report.target} stays"
        return
    yield _left(report, report.decision)
    if isinstance(report.guarded, Target) and report.guarded != report.target:
        yield (
            f"it was not taken over: an operator spoke meanwhile, or the journal did not take it; "
            f"{report.target} stays"
        )
    evidence = report.snapshot.attribution.evidence
    for gate in report.gates:
        # The evidence is long, and told once.
        detail = gate.detail.replace(evidence, "see the bottleneck") if evidence else gate.detail
        yield f"{_named(gate)}{f': {detail}' if detail else ''}"


def _left(report: Report, asked: Target) -> str:
    standing = report.snapshot.target
    match report.guarded:
        case Hold(reason=reason, detail=detail):
            # The gates below say the same with their numbers.
            is_told = any(gate.detail and gate.detail in detail for gate in report.gates)
            why = "" if is_told or not detail else f": {detail}"
            return f"keeps {standing} ({_words(reason)}){why}"
        case target if target == standing:
            same = "which is what stands" if target == asked else f"{asked} was asked for"
            return f"keeps {standing}, {same}"
        case target if target == asked:
            return f"lets {target} through"
        case target:
            return f"lets {target} through instead of {asked}"


def _needs(report: Report) -> Iterator[str]:
    """Say what must be so before the target moves, once for each reason that stands in the way."""
    reasons = [gate.reason for gate in report.gates]
    if isinstance(report.guarded, Hold):
        reasons.append(report.guarded.reason)
    for reason in dict.fromkeys(reasons):
        if reason in NEEDS:
            yield f"{_words(reason)}: {NEEDS[reason]}"
    if not reasons and report.guarded == report.snapshot.target:
        yield "the policy must ask for something else"


def _coming(report: Report, now_s: float) -> Iterator[str]:
    nodes = report.snapshot.nodes
    coming = sorted((n for n in nodes if n.state in COMING), key=_lateness)
    yield from capped([_expected(node, now_s) for node in coming], NODES_TOLD)
    leaving = [f"{n.id} ({n.state})" for n in nodes if n.state in LEAVING]
    if leaving:
        yield f"leaving: {', '.join(capped(leaving, NODES_TOLD))}"
    if not coming and not leaving:
        yield "no node is on its way"
    leads = report.snapshot.lead_times
    told = [
        f"{phase} {spoken(lead.p50_s)} (p95 {spoken(lead.p95_s)}, {lead.count} seen)"
        for phase, lead in leads.items()
    ]
    yield f"measured lead times: {', '.join(told) or 'none yet'}"


def _lateness(node: Node) -> tuple[bool, float, str]:
    return (node.ready_at_s is not None, node.ready_at_s or 0.0, node.id)


def _expected(node: Node, now_s: float) -> str:
    said = f"{node.id} ({node.role}): {node.state} for {spoken(now_s - node.since_s)}"
    if node.ready_at_s is None:
        return f"{said}, nobody knows until when: no lead time was measured"
    left_s = node.ready_at_s - now_s
    due = "expected to serve in about {}" if left_s > 0 else "{} later than usual"
    return f"{said}, {due.format(spoken(abs(left_s)))}"


def _doing(report: Report) -> list[str]:
    return capped([sentence(action) for action in report.plan.actions], TOLD_MAX)


def _shadow(shadow: Shadow) -> str:
    """Say where a shadow policy would be, what it asks for there, and what its guard kept back."""
    match shadow.decision:
        case Hold(reason=reason, detail=detail):
            said = f"holds ({_words(reason)}){f': {detail}' if detail else ''}"
        case asked:
            said = f"asks for {asked}{f': {asked.why}' if asked.why else ''}"
            if isinstance(shadow.guarded, Hold):
                said += f"; its guard keeps it ({_words(shadow.guarded.reason)})"
    return f"{shadow.name} would be at {shadow.target}; {said}"


def _mode(report: Report) -> Iterator[str]:
    if report.mode in MODES:
        yield MODES[report.mode]
    if not report.is_acting and report.mode in {Mode.ACTIVE, Mode.PAUSED}:
        yield "this controller does not act: it does not lead, or most agents obey another"


def _named(gate: Gate) -> str:
    return f"{_words(gate.reason)}{f' ({gate.role})' if gate.role else ''}"


def _words(reason: HoldReason) -> str:
    return reason.value.replace("_", " ")
