"""Metrics of what was done: how each verb ended, and how long it took."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from pd_autoscaler.model.report import Report
from pd_autoscaler.model.wording import VERBS

OUTCOMES = ("done", "failed", "unknown")

_BUCKETS_S = (0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Actions:
    """What was done: how each verb ended, and how long it took."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._total = Counter(
            "pd_autoscaler_actions_total",
            "Actions that ended; unknown means that a deadline passed.",
            ["action", "outcome"],
            registry=registry,
        )
        self._durations = Histogram(
            "pd_autoscaler_action_duration_seconds",
            "How long actions took, however they ended.",
            ["action"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        for verb in VERBS.values():
            self._durations.labels(verb)
            for word in OUTCOMES:
                self._total.labels(verb, word)

    def take(self, report: Report) -> None:
        """Take in one report."""
        for outcome in report.outcomes:
            verb = VERBS[type(outcome.action)]
            self._total.labels(verb, type(outcome).__name__.lower()).inc()
            self._durations.labels(verb).observe(outcome.took_s)
