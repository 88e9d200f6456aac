"""The metrics page on the signals: how well engines are read, and what was learnt from them."""

from collections import Counter
from dataclasses import replace

from prometheus_client import CollectorRegistry

from pd_autoscaler.model.capacity import Demand, NodeCapacity
from pd_autoscaler.model.facts import Scraped
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.report import Report
from pd_autoscaler.model.signals import NodeSignals, RoleSignals, Signal
from pd_autoscaler.telemetry import Telemetry
from pd_autoscaler.telemetry.capacities import CLASSES_MAX
from tests.support.reports import a_node, a_report, a_snapshot


def seen(**changes: object) -> Report:
    """Return a report whose snapshot has these fields."""
    return replace(a_report(), snapshot=replace(a_snapshot(), **changes))  # type: ignore[arg-type]


def after(*reports: Report) -> CollectorRegistry:
    registry = CollectorRegistry()
    telemetry = Telemetry(registry, version="1")
    for report in reports:
        telemetry.append(report)
    return registry


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"pd_autoscaler_{name}", labels)


def test_pages_bytes_and_failures_are_counted_from_report_to_report() -> None:
    first = replace(a_report(), scraped=Scraped(pages=3, failures=1, page_bytes=900))
    then = replace(a_report(), scraped=Scraped(pages=5, failures=1, page_bytes=1500))
    registry = after(first, then)
    assert value(registry, "scraped_pages_total") == 5
    assert value(registry, "scrape_failures_total") == 1
    assert value(registry, "scraped_bytes_total") == 1500


def test_a_signal_has_its_age_and_an_unknown_one_has_none() -> None:
    known = seen(prompt=RoleSignals(queue=Signal(4.0, 12.5)))
    assert value(after(known), "signal_age_seconds", role="prompt", signal="queue") == 12.5
    lost = after(known, seen(prompt=RoleSignals()))
    assert value(lost, "signal_age_seconds", role="prompt", signal="queue") is None


def test_serving_nodes_that_are_not_fresh_are_counted_as_doubtful() -> None:
    registry = after(seen(decoder=RoleSignals(serving=4, fresh=1), prompt=RoleSignals()))
    assert value(registry, "doubtful_nodes", role="decoder") == 3
    assert value(registry, "doubtful_nodes", role="prompt") == 0


def test_nodes_are_counted_by_the_engine_they_are_read_as_and_forgotten_with_it() -> None:
    nodes = (a_node("p1", Role.PROMPT), a_node("d1", Role.DECODER), a_node("d2", Role.DECODER))

    def read_as(*engines: str) -> Report:
        pairs = zip(nodes, engines, strict=True)
        signals = {n.id: NodeSignals(node_id=n.id, engine=engine) for n, engine in pairs}
        return seen(nodes=nodes, node_signals=signals)

    registry = after(read_as("vllm", "vllm", "vllm"))
    assert value(registry, "engine_nodes", role="decoder", engine="vllm") == 2
    changed = after(read_as("vllm", "vllm", "vllm"), read_as("vllm", "sglang", ""))
    assert value(changed, "engine_nodes", role="decoder", engine="vllm") is None
    assert value(changed, "engine_nodes", role="decoder", engine="sglang") == 1


def test_demand_that_is_unknown_has_no_series() -> None:
    known = seen(demand=Demand(requests_per_s=Signal(3.5, 1.0)))
    assert value(after(known), "demand", quantity="requests_per_s") == 3.5
    assert value(after(known), "demand", quantity="input_len") is None
    assert value(after(known, seen(demand=Demand())), "demand", quantity="requests_per_s") is None


def test_capacity_is_told_by_class_and_a_class_that_is_gone_is_told_no_more() -> None:
    learnt = NodeCapacity(
        role=Role.PROMPT, node_class="vllm/9", prefill_tokens_per_s=8000.0, samples=7
    )
    where = {"role": "prompt", "node_class": "vllm/9"}
    registry = after(seen(capacity=(learnt,)))
    rate = value(registry, "node_capacity", quantity="prefill_tokens_per_s", **where)
    assert rate == 8000.0
    assert value(registry, "node_capacity", quantity="step_base_s", **where) is None
    assert value(registry, "node_capacity_samples", **where) == 7
    gone = after(seen(capacity=(learnt,)), seen(capacity=()))
    assert value(gone, "node_capacity", quantity="prefill_tokens_per_s", **where) is None
    assert value(gone, "node_capacity_samples", **where) is None


def test_there_are_series_for_so_many_classes_only() -> None:
    many = tuple(
        NodeCapacity(role=role, node_class=f"vllm/{n}")
        for role in (Role.DECODER, Role.PROMPT)
        for n in range(CLASSES_MAX + 5)
    )
    registry = after(seen(capacity=many))
    told = [s for m in registry.collect() for s in m.samples if s.name.endswith("capacity_samples")]
    # Many classes of one role hide none of the other.
    assert Counter(s.labels["role"] for s in told) == {r.value: CLASSES_MAX for r in Role}
