"""Metrics of the link budget: how many links the busiest cards hold, and how many they may."""

from prometheus_client import CollectorRegistry, Gauge

from pd_autoscaler.model.node import Role
from pd_autoscaler.model.report import Report
from pd_autoscaler.telemetry.series import set_or_remove


class Cards:
    """The link budget of accelerator cards: used, allowed, and, below a cap, used by each node."""

    def __init__(self, registry: CollectorRegistry, nodes_max: int) -> None:
        name = "pd_autoscaler_"
        self._nodes_max = nodes_max
        self._known: set[str] = set()
        self._used = Gauge(
            f"{name}card_links",
            "Links up or being made on a node's busiest card; absent if capped.",
            ["node"],
            registry=registry,
        )
        self._capped = Gauge(
            f"{name}card_links_capped",
            "1 while there are too many nodes for a series each.",
            registry=registry,
        )
        self._busiest = Gauge(
            f"{name}card_links_max",
            "Links up or being made on the busiest card of a role; absent if none is known.",
            ["role"],
            registry=registry,
        )
        self._limit = Gauge(
            f"{name}card_links_limit",
            "Links that the smallest card of a role may hold; absent if there is no limit.",
            ["role"],
            registry=registry,
        )

    def take(self, report: Report) -> None:
        """Take in one report."""
        used, nodes = report.card_links, report.snapshot.nodes
        for role in Role:
            mine = [node for node in nodes if node.role is role]
            busiest = max((used[n.id] for n in mine if n.id in used), default=None)
            set_or_remove(self._busiest, (role.value,), busiest)
            limits = (e.links_max for n in mine for e in n.endpoints if e.links_max is not None)
            set_or_remove(self._limit, (role.value,), min(limits, default=None))
        is_capped = len(used) > self._nodes_max
        self._capped.set(is_capped)
        shown = {} if is_capped else used
        for node_id in self._known - shown.keys():
            self._used.remove(node_id)
        for node_id, links in shown.items():
            self._used.labels(node_id).set(links)
        self._known = set(shown)
