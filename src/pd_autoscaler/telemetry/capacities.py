"""Metrics of demand and capacity: what users ask for, and what one node was seen to do."""

from dataclasses import fields

from prometheus_client import CollectorRegistry, Gauge

from pd_autoscaler.model.capacity import Demand, NodeCapacity
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.report import Report
from pd_autoscaler.model.signals import Signal
from pd_autoscaler.telemetry.series import set_or_remove

DEMANDS = tuple(field.name for field in fields(Demand))
QUANTITIES = (
    "prefill_tokens_per_s",
    "step_base_s",
    "step_per_request_s",
    "step_per_token_s",
    "error",
)

CLASSES_MAX = 16
"""Of each role; beyond so many classes of nodes none more has series of its own."""


class Capacities:
    """Demand and capacity; what is unknown has no series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        name = "pd_autoscaler_"
        self._demand = Gauge(
            f"{name}demand",
            "What users ask for, smoothed: units are in the quantity's name.",
            ["quantity"],
            registry=registry,
        )
        self._capacity = Gauge(
            f"{name}node_capacity",
            "What one node of a class was seen to do: units are in the quantity's name.",
            ["role", "node_class", "quantity"],
            registry=registry,
        )
        self._samples = Gauge(
            f"{name}node_capacity_samples",
            "Samples that the capacity of a class of nodes was learnt from.",
            ["role", "node_class"],
            registry=registry,
        )
        self._told: set[tuple[str, str]] = set()

    def take(self, report: Report) -> None:
        """Take in one report."""
        for name in DEMANDS:
            signal: Signal | None = getattr(report.snapshot.demand, name)
            set_or_remove(self._demand, (name,), None if signal is None else signal.value)
        told = {
            (role.value, c.node_class): c
            for role in Role
            for c in [c for c in report.snapshot.capacity if c.role is role][:CLASSES_MAX]
        }
        for key in self._told - told.keys():
            self._samples.remove(*key)
            for quantity in QUANTITIES:
                set_or_remove(self._capacity, (*key, quantity), None)
        for key, capacity in told.items():
            self._take_class(key, capacity)
        self._told = set(told)

    def _take_class(self, key: tuple[str, str], capacity: NodeCapacity) -> None:
        self._samples.labels(*key).set(capacity.samples)
        for quantity in QUANTITIES:
            value: float | None = getattr(capacity, quantity)
            set_or_remove(self._capacity, (*key, quantity), value)
