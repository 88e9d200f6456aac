"""Metrics of reading the engines' metrics: pages, bytes, failures, and how old each signal is."""

from collections import Counter as Tally

from prometheus_client import CollectorRegistry, Counter, Gauge

from pd_autoscaler.model.facts import Scraped
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.report import Report
from pd_autoscaler.model.signals import Signal
from pd_autoscaler.telemetry.fleet import SIGNALS
from pd_autoscaler.telemetry.series import begin, set_or_remove


class Scrapes:
    """How well the engines are read."""

    def __init__(self, registry: CollectorRegistry) -> None:
        name = "pd_autoscaler_"
        self._pages = Counter(
            f"{name}scraped_pages_total", "Engine pages that were read.", registry=registry
        )
        self._failures = Counter(
            f"{name}scrape_failures_total",
            "Engine pages that could not be read.",
            registry=registry,
        )
        self._bytes = Counter(
            f"{name}scraped_bytes_total", "Bytes of engine pages, decompressed.", registry=registry
        )
        self._ages = Gauge(
            f"{name}signal_age_seconds",
            "Age of the oldest page behind a signal; absent if it is unknown.",
            ["role", "signal"],
            registry=registry,
        )
        self._doubtful = Gauge(
            f"{name}doubtful_nodes",
            "Serving nodes whose metrics are not believed: `explain` says why.",
            ["role"],
            registry=registry,
        )
        self._engines = Gauge(
            f"{name}engine_nodes",
            "Nodes by the engine profile that their pages are read with.",
            ["role", "engine"],
            registry=registry,
        )
        begin(self._doubtful, Role)
        self._before = Scraped()
        self._told: set[tuple[str, str]] = set()

    def take(self, report: Report) -> None:
        """Take in one report."""
        self._take_totals(report.scraped)
        snapshot = report.snapshot
        engines = Tally[tuple[str, str]]()
        for node in snapshot.nodes:
            signals = snapshot.node_signals.get(node.id)
            if signals is not None and signals.engine:
                engines[(node.role.value, signals.engine)] += 1
        for key in self._told | set(engines):
            set_or_remove(self._engines, key, engines[key] or None)
        self._told = set(engines)
        for role in Role:
            of_role = snapshot.of(role)
            self._doubtful.labels(role.value).set(of_role.serving - of_role.fresh)
            for name in SIGNALS:
                signal: Signal | None = getattr(of_role, name)
                age_s = None if signal is None else signal.age_s
                set_or_remove(self._ages, (role.value, name), age_s)

    def _take_totals(self, now: Scraped) -> None:
        before, self._before = self._before, now
        for counter, grown in (
            (self._pages, now.pages - before.pages),
            (self._failures, now.failures - before.failures),
            (self._bytes, now.page_bytes - before.page_bytes),
        ):
            counter.inc(max(0, grown))
