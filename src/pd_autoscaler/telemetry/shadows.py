"""Metrics of the shadow policies: where each would be, what held it, how often it failed."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from pd_autoscaler.model.decision import Hold, HoldReason
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.report import Report, Shadow
from pd_autoscaler.telemetry.cycles import DIRECTIONS, direction


class Shadows:
    """The shadow policies of these names; a report's others are left out."""

    def __init__(self, registry: CollectorRegistry, names: Sequence[str]) -> None:
        start = "pd_autoscaler_shadow_"
        self._targets = Gauge(
            f"{start}target_nodes",
            "Where a shadow policy's own guarded decisions have led it; nothing is done about it.",
            ["policy", "role"],
            registry=registry,
        )
        self._holds = Counter(
            f"{start}holds_total",
            "Cycles in which a shadow policy kept its own target, by reason.",
            ["policy", "reason"],
            registry=registry,
        )
        self._changes = Counter(
            f"{start}target_changes_total",
            "Moves of a shadow policy's own target: in total larger, smaller, or shifted.",
            ["policy", "direction"],
            registry=registry,
        )
        self._errors = Counter(
            f"{start}policy_errors_total",
            "Calls of a shadow policy that raised, answered nonsense or missed the deadline.",
            ["policy"],
            registry=registry,
        )
        self._last: dict[str, Shadow | None] = dict.fromkeys(names)
        for name in names:
            self._errors.labels(name)
            for role in Role:
                self._targets.labels(name, role.value)
            for reason in HoldReason:
                self._holds.labels(name, reason.value)
            for way in DIRECTIONS:
                self._changes.labels(name, way)

    def take(self, report: Report) -> None:
        """Take in one report."""
        for shadow in report.shadows:
            if shadow.name in self._last:
                self._take(shadow)

    def _take(self, shadow: Shadow) -> None:
        for role in Role:
            self._targets.labels(shadow.name, role.value).set(shadow.target.of(role))
        if isinstance(shadow.guarded, Hold):
            self._holds.labels(shadow.name, shadow.guarded.reason.value).inc()
        decision = shadow.decision
        if isinstance(decision, Hold) and decision.reason is HoldReason.POLICY_FAILED:
            self._errors.labels(shadow.name).inc()
        before = self._last[shadow.name]
        if before is not None and before.target != shadow.target:
            way = direction(before.target, shadow.target)
            self._changes.labels(shadow.name, way).inc()
        self._last[shadow.name] = shadow
