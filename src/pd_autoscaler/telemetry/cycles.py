"""Metrics of the loop itself: how often, how long, what it decided and what held it."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pd_autoscaler.model.decision import Hold, HoldReason, Mode, Target
from pd_autoscaler.model.report import Report
from pd_autoscaler.telemetry.series import OTHER, begin

PHASES = ("observe", "decide", "plan", "act", "shadow")
DIRECTIONS = ("grow", "shrink", "shift")

_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Cycles:
    """The loop itself: how often, how long, what it decided and what held it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        name = "pd_autoscaler_"
        self._total = Counter(f"{name}cycles_total", "Cycles that ended.", registry=registry)
        self._last = Gauge(
            f"{name}last_cycle_timestamp_seconds",
            "When the last cycle observed, in seconds since 1970.",
            registry=registry,
        )
        self._spent = Histogram(
            f"{name}cycle_duration_seconds",
            "How long a cycle took.",
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._phases = Histogram(
            f"{name}phase_duration_seconds",
            "How long each phase of a cycle took.",
            ["phase"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._policy_spent = Histogram(
            f"{name}policy_duration_seconds",
            "How long the policy took to answer.",
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._policy_errors = Counter(
            f"{name}policy_errors_total",
            "Policy calls that raised, answered nonsense or missed the deadline.",
            registry=registry,
        )
        self._holds = Counter(
            f"{name}holds_total",
            "Cycles that kept the standing target, by reason.",
            ["reason"],
            registry=registry,
        )
        self._gates = Counter(
            f"{name}gates_total",
            "Times a gate of the guard fired; a target may pass some and be cut by others.",
            ["gate"],
            registry=registry,
        )
        self._changes = Counter(
            f"{name}target_changes_total",
            "Moves of the standing target: in total larger, smaller, or shifted between roles.",
            ["direction"],
            registry=registry,
        )
        self._mode = Gauge(f"{name}mode", "1 for the loop's mode.", ["mode"], registry=registry)
        self._epoch = Gauge(
            f"{name}epoch", "The fencing epoch, which agents check.", registry=registry
        )
        self._alarms = Gauge(
            f"{name}alarms", "Alarms of the last cycle; the report has them.", registry=registry
        )
        begin(self._phases, (*PHASES, OTHER))
        begin(self._holds, HoldReason)
        begin(self._gates, HoldReason)
        begin(self._changes, DIRECTIONS)
        begin(self._mode, Mode)

    def take(self, report: Report) -> None:
        """Take in one report."""
        self._total.inc()
        self._last.set(report.snapshot.now_unix_s)
        self._spent.observe(sum(report.phase_s.values()))
        for phase, spent_s in report.phase_s.items():
            self._phases.labels(phase if phase in PHASES else OTHER).observe(spent_s)
        if "decide" in report.phase_s:
            self._policy_spent.observe(report.phase_s["decide"])
        if isinstance(report.decision, Hold) and report.decision.reason is HoldReason.POLICY_FAILED:
            self._policy_errors.inc()
        if isinstance(report.guarded, Hold):
            self._holds.labels(report.guarded.reason.value).inc()
        for gate in report.gates:
            self._gates.labels(gate.reason.value).inc()
        if report.target != report.snapshot.target:
            self._changes.labels(direction(report.snapshot.target, report.target)).inc()
        for mode in Mode:
            self._mode.labels(mode.value).set(mode is report.mode)
        self._epoch.set(report.epoch)
        self._alarms.set(len(report.alarms))


def direction(before: Target, after: Target) -> str:
    """Say which way a target moved: one of DIRECTIONS."""
    if after.total == before.total:
        return "shift"
    return "grow" if after.total > before.total else "shrink"
