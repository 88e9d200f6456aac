"""Metrics of the nodes: how many, in which state, how well observed, what their pages say."""

import math
from dataclasses import fields

from prometheus_client import CollectorRegistry, Gauge, Histogram

from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.model.report import Report
from pd_autoscaler.model.signals import RoleSignals, Signal
from pd_autoscaler.model.snapshot import Bottleneck, Snapshot
from pd_autoscaler.telemetry.series import begin, set_or_remove

SIGNALS = tuple(
    field.name for field in fields(RoleSignals) if field.name not in {"serving", "fresh", "untold"}
)

_BUCKETS_S = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0)


class Fleet:
    """The nodes: how many, in which state, how well observed, and what their pages say."""

    def __init__(self, registry: CollectorRegistry) -> None:
        name = "pd_autoscaler_"
        self._nodes = Gauge(
            f"{name}nodes", "Nodes by role and state.", ["role", "state"], registry=registry
        )
        self._state_age = Gauge(
            f"{name}node_state_age_max_seconds",
            "How long the node that has been in a state for longest is in it; absent without one.",
            ["role", "state"],
            registry=registry,
        )
        self._target = Gauge(
            f"{name}target_nodes", "The standing target.", ["role"], registry=registry
        )
        self._ratio = Gauge(
            f"{name}serving_ratio",
            "Serving prompt nodes per serving decoder node; not a number without a decoder.",
            registry=registry,
        )
        self._suspect = Gauge(
            f"{name}suspect_nodes",
            "Nodes whose agent alone is silent: no action is taken on them.",
            ["role"],
            registry=registry,
        )
        self._fresh = Gauge(
            f"{name}fresh_nodes",
            "Serving nodes whose metrics are fresh.",
            ["role"],
            registry=registry,
        )
        self._age = Gauge(
            f"{name}scrape_age_max_seconds",
            "Age of the oldest of the nodes' newest pages; absent if no node has any.",
            ["role"],
            registry=registry,
        )
        self._signals = Gauge(
            f"{name}signals",
            "What the policy saw: units are in the signal's name; absent if unknown.",
            ["role", "signal"],
            registry=registry,
        )
        self._bottleneck = Gauge(
            f"{name}bottleneck",
            "1 for the side that holds requests up.",
            ["side"],
            registry=registry,
        )
        self._hung = Gauge(
            f"{name}hung_calls",
            "Native calls past their deadline that have not returned, over all agents.",
            registry=registry,
        )
        self._durations = Histogram(
            f"{name}node_state_duration_seconds",
            "How long nodes stayed in a state that they left: the lead times.",
            ["role", "state"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        for role in Role:
            for gauge in (self._target, self._suspect, self._fresh):
                gauge.labels(role.value)
            for state in NodeState:
                self._nodes.labels(role.value, state.value)
                self._durations.labels(role.value, state.value)
        self._ratio.set(math.nan)
        begin(self._bottleneck, Bottleneck)

    def take(self, report: Report) -> None:
        """Take in one report."""
        snapshot = report.snapshot
        for role in Role:
            self._take_role(role, snapshot)
            self._target.labels(role.value).set(report.target.of(role))
        decoders = snapshot.serving(Role.DECODER)
        self._ratio.set(snapshot.serving(Role.PROMPT) / decoders if decoders else math.nan)
        for side in Bottleneck:
            self._bottleneck.labels(side.value).set(side is snapshot.attribution.bottleneck)
        self._hung.set(sum(report.hung_calls.values()))
        for move in report.moves:
            self._durations.labels(move.role.value, move.before.value).observe(move.before_s)

    def _take_role(self, role: Role, snapshot: Snapshot) -> None:
        nodes = [node for node in snapshot.nodes if node.role is role]
        for state in NodeState:
            ages = [snapshot.now_s - node.since_s for node in nodes if node.state is state]
            self._nodes.labels(role.value, state.value).set(len(ages))
            oldest = max(ages, default=None)
            set_or_remove(self._state_age, (role.value, state.value), oldest)
        self._suspect.labels(role.value).set(sum(node.is_suspect for node in nodes))
        self._fresh.labels(role.value).set(snapshot.of(role).fresh)
        signals = (snapshot.node_signals.get(node.id) for node in nodes)
        ages = [known.age_s for known in signals if known is not None and known.age_s is not None]
        set_or_remove(self._age, (role.value,), max(ages, default=None))
        for name in SIGNALS:
            signal: Signal | None = getattr(snapshot.of(role), name)
            value = None if signal is None else signal.value
            set_or_remove(self._signals, (role.value, name), value)
