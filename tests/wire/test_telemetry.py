"""The metrics page: its names and labels are a promise, its numbers are the reports'."""

import math
import re
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pd_autoscaler.datadist.status import STATUS_CODES
from pd_autoscaler.model.capacity import Demand, NodeCapacity
from pd_autoscaler.model.decision import Gate, Hold, HoldReason, Mode, Target
from pd_autoscaler.model.link import LinkState
from pd_autoscaler.model.node import Endpoint, Node, NodeState, Role
from pd_autoscaler.model.plan import (
    Action,
    LinkNodes,
    Peer,
    StartNode,
    StopNode,
    UnlinkNodes,
    in_waves,
)
from pd_autoscaler.model.report import Done, Failed, Outcome, Report, Shadow, Unknown
from pd_autoscaler.model.signals import NodeSignals, RoleSignals, Signal
from pd_autoscaler.model.snapshot import Attribution, Bottleneck
from pd_autoscaler.ports import ReportSink
from pd_autoscaler.telemetry import Telemetry
from tests.support.reports import a_busy_report, a_link, a_node, a_report, a_snapshot, holding

GOLDEN = [
    "counter pd_autoscaler_actions_total{action,outcome}",
    "counter pd_autoscaler_advisor_errors_total",
    "counter pd_autoscaler_cycles_total",
    "counter pd_autoscaler_gates_total{gate}",
    "counter pd_autoscaler_holds_total{reason}",
    "counter pd_autoscaler_journal_errors_total",
    "counter pd_autoscaler_link_attempts_total{code,verb}",
    "counter pd_autoscaler_link_batches_total{verb}",
    "counter pd_autoscaler_policy_errors_total",
    "counter pd_autoscaler_scrape_failures_total",
    "counter pd_autoscaler_scraped_bytes_total",
    "counter pd_autoscaler_scraped_pages_total",
    "counter pd_autoscaler_shadow_holds_total{policy,reason}",
    "counter pd_autoscaler_shadow_policy_errors_total{policy}",
    "counter pd_autoscaler_shadow_target_changes_total{direction,policy}",
    "counter pd_autoscaler_target_changes_total{direction}",
    "gauge pd_autoscaler_alarms",
    "gauge pd_autoscaler_bottleneck{side}",
    "gauge pd_autoscaler_build_info{version}",
    "gauge pd_autoscaler_card_links_capped",
    "gauge pd_autoscaler_card_links_limit{role}",
    "gauge pd_autoscaler_card_links_max{role}",
    "gauge pd_autoscaler_card_links{node}",
    "gauge pd_autoscaler_demand{quantity}",
    "gauge pd_autoscaler_doubtful_nodes{role}",
    "gauge pd_autoscaler_engine_nodes{engine,role}",
    "gauge pd_autoscaler_epoch",
    "gauge pd_autoscaler_fresh_nodes{role}",
    "gauge pd_autoscaler_hung_calls",
    "gauge pd_autoscaler_last_cycle_timestamp_seconds",
    "gauge pd_autoscaler_link_state{decoder,prompt}",
    "gauge pd_autoscaler_link_up_capped",
    "gauge pd_autoscaler_link_up{decoder,prompt}",
    "gauge pd_autoscaler_link_waves",
    "gauge pd_autoscaler_links_wanted",
    "gauge pd_autoscaler_links_wanted_up",
    "gauge pd_autoscaler_links{state}",
    "gauge pd_autoscaler_mode{mode}",
    "gauge pd_autoscaler_node_capacity_samples{node_class,role}",
    "gauge pd_autoscaler_node_capacity{node_class,quantity,role}",
    "gauge pd_autoscaler_node_state_age_max_seconds{role,state}",
    "gauge pd_autoscaler_nodes{role,state}",
    "gauge pd_autoscaler_scrape_age_max_seconds{role}",
    "gauge pd_autoscaler_serving_ratio",
    "gauge pd_autoscaler_shadow_target_nodes{policy,role}",
    "gauge pd_autoscaler_signal_age_seconds{role,signal}",
    "gauge pd_autoscaler_signals{role,signal}",
    "gauge pd_autoscaler_suspect_nodes{role}",
    "gauge pd_autoscaler_target_nodes{role}",
    "histogram pd_autoscaler_action_duration_seconds{action}",
    "histogram pd_autoscaler_cycle_duration_seconds",
    "histogram pd_autoscaler_link_batch_pairs",
    "histogram pd_autoscaler_link_duration_seconds",
    "histogram pd_autoscaler_node_state_duration_seconds{role,state}",
    "histogram pd_autoscaler_phase_duration_seconds{phase}",
    "histogram pd_autoscaler_policy_duration_seconds",
]

PEERS = tuple(Peer(f"p{n}", f"p{n}-i1", (Endpoint(0, n, "10.0.0.1", 26000),)) for n in (1, 2))


def limited(node_id: str, links_max: int | None, role: Role = Role.DECODER) -> Node:
    """Return a serving node whose card may hold so many links."""
    node = a_node(node_id, role)
    return replace(node, endpoints=tuple(replace(e, links_max=links_max) for e in node.endpoints))


class Page:
    """A telemetry on a registry of its own, and what its page says."""

    def __init__(
        self,
        *,
        pairs_max: int = 4096,
        nodes_max: int = 1024,
        shadows: tuple[str, ...] = ("slo",),
    ) -> None:
        self.registry = CollectorRegistry()
        self.telemetry = Telemetry(
            self.registry,
            version="1.2.3",
            pairs_max=pairs_max,
            nodes_max=nodes_max,
            shadows=shadows,
        )
        self.sink: ReportSink = self.telemetry

    def after(self, *reports: Report) -> "Page":
        for report in reports:
            self.sink.append(report)
        return self

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"pd_autoscaler_{name}", labels)

    def series(self, name: str) -> dict[tuple[str, ...], float]:
        """Return the values of a metric by its label values, in the page's order."""
        return {
            tuple(sample.labels.values()): sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == f"pd_autoscaler_{name}"
        }

    def promises(self) -> list[str]:
        """Return each metric's type, name and label names."""
        lines = set()
        for family in text_string_to_metric_families(generate_latest(self.registry).decode()):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = sorted({k for s in family.samples for k in s.labels} - {"le"})
            lines.add(f"{family.type} {name}{'{' + ','.join(labels) + '}' if labels else ''}")
        return sorted(lines)


def test_the_page_has_these_names_and_labels_and_no_others() -> None:
    report = replace(
        a_busy_report(),
        snapshot=a_snapshot(nodes=(a_node("p1", Role.PROMPT), limited("d1", 512))),
        card_links={"d1": 1},
    )
    snapshot = replace(
        report.snapshot,
        node_signals={"d1": NodeSignals(node_id="d1", engine="vllm", age_s=1.0)},
        demand=Demand(requests_per_s=Signal(2.0, 1.0)),
        capacity=(NodeCapacity(role=Role.DECODER, node_class="vllm/100", step_base_s=0.01),),
        decoder=replace(report.snapshot.decoder, queue=Signal(1.0, 2.0)),
    )

    assert Page().after(replace(report, snapshot=snapshot)).promises() == GOLDEN


def test_every_name_ends_in_what_is_counted_or_in_its_unit() -> None:
    whole = {"epoch", "mode", "bottleneck", "link_state", "link_up", "serving_ratio"}
    # Their units are in the label that names the quantity.
    whole |= {"demand", "node_capacity", "node_capacity_samples"}
    units = ("_total", "_seconds", "_info", "nodes", "links", "calls", "signals", "alarms")
    parts = ("pairs", "waves", "links_wanted", "links_wanted_up", "_capped", "_max", "_limit")

    names = [re.sub(r"^\w+ pd_autoscaler_|\{.*", "", line) for line in GOLDEN]

    assert [n for n in names if n not in whole and not n.endswith((*units, *parts))] == []


def test_before_the_first_report_every_closed_series_is_there_at_zero() -> None:
    page = Page()

    assert page.series("nodes") == {(r.value, s.value): 0 for r in Role for s in NodeState}
    assert page.series("target_nodes") == {("prompt",): 0, ("decoder",): 0}
    assert page.series("holds_total") == {(reason.value,): 0 for reason in HoldReason}
    assert page.series("gates_total") == {(reason.value,): 0 for reason in HoldReason}
    assert page.series("links") == {(state.value,): 0 for state in LinkState}
    assert page.series("mode") == {(mode.value,): 0 for mode in Mode}
    assert page.series("bottleneck") == {(side.value,): 0 for side in Bottleneck}
    assert page.series("link_attempts_total") == {
        (code, verb): 0
        for code in (*STATUS_CODES, "none", "unknown", "other")
        for verb in ("link", "unlink", "force_unlink")
    }
    assert page.series("link_batches_total") == {("link",): 0, ("unlink",): 0, ("force_unlink",): 0}
    assert [page.value(name) for name in ("links_wanted", "links_wanted_up", "link_waves")] == [
        0
    ] * 3
    assert page.value("link_batch_pairs_count") == 0
    assert len(page.series("actions_total")) == 10 * 3
    assert set(page.series("actions_total").values()) == {0}
    assert page.series("build_info") == {("1.2.3",): 1}


def test_shadow_policies_have_series_of_their_own_under_the_names_of_the_settings() -> None:
    page = Page(shadows=("slo", "hung"))
    assert page.series("shadow_target_nodes") == {
        (name, role): 0 for name in ("slo", "hung") for role in ("prompt", "decoder")
    }
    assert page.value("shadow_policy_errors_total", policy="hung") == 0

    hung = Hold(HoldReason.POLICY_FAILED, "no answer within 5 s")
    lost = Shadow("hung", hung, hung, Target(1, 1))
    for target in (Target(1, 1), Target(3, 1), Target(2, 2)):
        shadows = (Shadow("slo", target, target, target), lost, replace(lost, name="stranger"))
        page.after(a_report(shadows=shadows))

    assert page.series("shadow_target_nodes") == {
        ("slo", "prompt"): 2,
        ("slo", "decoder"): 2,
        ("hung", "prompt"): 1,
        ("hung", "decoder"): 1,
    }
    assert page.value("shadow_holds_total", policy="hung", reason="policy_failed") == 3
    assert page.value("shadow_policy_errors_total", policy="hung") == 3
    assert page.value("shadow_target_changes_total", policy="slo", direction="grow") == 1
    assert page.value("shadow_target_changes_total", policy="slo", direction="shift") == 1
    # The one that acts is told of apart.
    assert page.value("policy_errors_total") == 0
    assert page.series("target_nodes") == {("prompt",): 1, ("decoder",): 1}


def test_what_is_unknown_is_absent_or_not_a_number_and_never_zero() -> None:
    page = Page().after(a_report())

    assert page.series("signals") == {("prompt", "queue"): 3.0, ("decoder", "kv_used_mean"): 0.25}
    assert page.series("scrape_age_max_seconds") == {("prompt",): 0.5, ("decoder",): 1.5}
    assert page.value("serving_ratio") == 1.0

    page.after(a_report(snapshot=a_snapshot(nodes=(a_node("p9", Role.PROMPT),))))
    assert page.series("scrape_age_max_seconds") == {}
    assert math.isnan(page.value("serving_ratio") or 0.0)


def test_a_signal_that_is_lost_leaves_the_page() -> None:
    blind = replace(a_snapshot(), prompt=RoleSignals(), decoder=RoleSignals())

    page = Page().after(a_report(), a_report(snapshot=blind))

    assert page.series("signals") == {}
    assert page.series("fresh_nodes") == {("prompt",): 0, ("decoder",): 0}


def test_nodes_are_counted_by_role_and_state() -> None:
    nodes = (
        a_node("p1", Role.PROMPT),
        a_node("p2", Role.PROMPT, is_suspect=True),
        a_node("p3", Role.PROMPT, NodeState.STARTING),
        a_node("d1", Role.DECODER),
    )
    report = a_report(snapshot=a_snapshot(nodes=nodes), target=Target(3, 1), hung_calls={"d1": 2})

    page = Page().after(report)

    assert {k: v for k, v in page.series("nodes").items() if v} == {
        ("prompt", "serving"): 2,
        ("prompt", "starting"): 1,
        ("decoder", "serving"): 1,
    }
    assert page.series("target_nodes") == {("prompt",): 3, ("decoder",): 1}
    assert page.value("serving_ratio") == 2.0
    assert page.series("suspect_nodes") == {("prompt",): 1, ("decoder",): 0}
    assert page.value("hung_calls") == 2


def test_lead_times_are_measured_from_moves() -> None:
    page = Page().after(a_busy_report())

    name, labels = "node_state_duration_seconds", {"role": "prompt", "state": "linking"}
    assert page.value(f"{name}_count", **labels) == 1
    assert page.value(f"{name}_sum", **labels) == 4.0


def test_cycles_phases_holds_and_gates_are_counted() -> None:
    failed = Hold(HoldReason.POLICY_FAILED, "boom")
    cooldown = Gate(HoldReason.COOLDOWN, Role.DECODER, "43 s are left")
    gates = (cooldown, Gate(HoldReason.UP_WINDOW, Role.PROMPT), cooldown)
    page = Page().after(
        holding(HoldReason.COOLDOWN, cycle=1),
        a_report(cycle=2, decision=failed, gates=gates),
        a_report(cycle=3, mode=Mode.PAUSED, alarms=("a", "b"), epoch=7, phase_s={"dream": 1.0}),
    )

    assert page.value("cycles_total") == 3
    assert page.value("cycle_duration_seconds_count") == 3
    assert page.value("phase_duration_seconds_count", phase="observe") == 2
    assert page.value("phase_duration_seconds_sum", phase="other") == 1.0
    assert page.value("policy_duration_seconds_sum") == pytest.approx(0.002)
    assert page.value("policy_errors_total") == 1
    assert {k: v for k, v in page.series("holds_total").items() if v} == {
        ("cooldown",): 1,
        ("policy_failed",): 1,
    }
    assert {k: v for k, v in page.series("gates_total").items() if v} == {
        ("cooldown",): 2,
        ("up_window",): 1,
    }
    assert page.series("mode") == {
        ("active",): 0,
        ("paused",): 1,
        ("stopped",): 0,
        ("advisory",): 0,
    }
    assert page.value("epoch") == 7
    assert page.value("alarms") == 2
    assert page.value("last_cycle_timestamp_seconds") == a_snapshot(cycle=3).now_unix_s


@pytest.mark.parametrize(
    ("target", "direction"),
    [
        (Target(2, 1), "grow"),
        (Target(0, 1), "shrink"),
        (Target(0, 2), "shift"),
        (Target(1, 1, "for another reason"), None),
    ],
)
def test_a_change_of_the_target_is_counted_by_its_direction(
    target: Target, direction: str | None
) -> None:
    page = Page().after(a_report(target=target))

    counted = {k[0]: v for k, v in page.series("target_changes_total").items() if v}

    assert counted == ({} if direction is None else {direction: 1})


def test_the_bottleneck_is_one_side_at_a_time() -> None:
    linked = replace(a_snapshot(), attribution=Attribution(Bottleneck.LINK, "transfers wait"))
    page = Page().after(a_report())
    assert {k[0] for k, v in page.series("bottleneck").items() if v} == {"prompt"}

    page.after(a_report(snapshot=linked))
    assert {k[0] for k, v in page.series("bottleneck").items() if v} == {"link"}


def test_link_tries_are_counted_per_pair_by_verb_and_known_code() -> None:
    link = LinkNodes("d1", PEERS[:1])
    cut = UnlinkNodes("d1", PEERS, force=True)
    outcomes: tuple[Outcome, ...] = (
        Done(link, took_s=0.004, code="LLM_SUCCESS"),
        Failed(link, "refused", code="LLM_LINK_FAILED"),
        Failed(link, "new", code="LLM_NEVER_HEARD_OF"),
        Failed(UnlinkNodes("d1", PEERS[:1], force=False), "HTTP 503"),
        Unknown(LinkNodes("d2", PEERS), "late"),
        Done(cut, code="LLM_SUCCESS"),
        Done(StopNode("p9")),
    )

    page = Page().after(a_report(outcomes=outcomes))

    assert {k: v for k, v in page.series("link_attempts_total").items() if v} == {
        ("LLM_SUCCESS", "link"): 1,
        ("LLM_LINK_FAILED", "link"): 1,
        ("other", "link"): 1,
        ("none", "unlink"): 1,
        ("unknown", "link"): 2,
        ("LLM_SUCCESS", "force_unlink"): 2,
    }
    assert page.value("link_duration_seconds_count") == 1
    assert page.value("link_duration_seconds_sum") == 0.004


def test_actions_are_counted_by_verb_and_end() -> None:
    start = StartNode(Role.PROMPT, "run-1")
    outcomes: tuple[Outcome, ...] = (
        Done(start, took_s=2.0),
        Failed(start, "no room", took_s=1.0),
        Unknown(StopNode("p1"), "late", took_s=30.0),
    )

    page = Page().after(a_report(outcomes=outcomes))

    assert {k: v for k, v in page.series("actions_total").items() if v} == {
        ("start", "done"): 1,
        ("start", "failed"): 1,
        ("stop", "unknown"): 1,
    }
    assert page.value("action_duration_seconds_sum", action="start") == 3.0


def test_link_requests_are_counted_with_their_pairs_where_the_plan_was_acted_on() -> None:
    asked: list[Action] = [
        LinkNodes("d1", PEERS),
        LinkNodes("d2", PEERS[:1]),
        UnlinkNodes("d3", PEERS, force=True),
        StopNode("p9"),
    ]
    planned = a_report(plan=in_waves(asked), epoch=7)

    page = Page().after(planned, replace(planned, mode=Mode.PAUSED))

    assert page.series("link_batches_total") == {
        ("link",): 4,
        ("unlink",): 0,
        ("force_unlink",): 2,
    }
    assert page.value("link_batch_pairs_count") == 4
    assert page.value("link_batch_pairs_sum") == 6


@pytest.mark.parametrize(
    "changed",
    [
        {"mode": Mode.ADVISORY},
        {"mode": Mode.STOPPED},
        {"epoch": 0},
        {"decision": Hold(HoldReason.JOURNAL_FAILED)},
    ],
)
def test_what_was_planned_but_not_acted_on_is_no_link_request(changed: dict[str, Any]) -> None:
    plan = in_waves([LinkNodes("d1", PEERS)])

    page = Page().after(a_report(**{"plan": plan, "epoch": 7, **changed}))

    assert page.value("link_batches_total", verb="link") == 0
    assert page.value("link_batch_pairs_count") == 0


def test_each_pair_has_a_state_while_it_exists_and_is_up_or_not_while_it_is_wanted() -> None:
    nodes = (
        a_node("d1", Role.DECODER),
        a_node("p1", Role.PROMPT),
        a_node("p2", Role.PROMPT, NodeState.LINKING),
        a_node("p3", Role.PROMPT, NodeState.DRAINING),
    )
    links = (
        a_link("d1", "p1"),
        a_link("d1", "p2", LinkState.FAILED),
        a_link("d1", "p3", LinkState.UNLINKING),
    )
    page = Page().after(a_report(snapshot=a_snapshot(nodes=nodes), links=links))
    assert page.series("link_up") == {("d1", "p1"): 1, ("d1", "p2"): 0}
    assert page.series("link_state") == {("d1", "p1"): 2, ("d1", "p2"): 4, ("d1", "p3"): 3}
    assert page.value("links", state="failed") == 1
    assert (page.value("links_wanted"), page.value("links_wanted_up")) == (2, 1)

    page.after(a_report(links=(a_link("d1", "p1", LinkState.SUSPECT),)))
    assert page.series("link_up") == {("d1", "p1"): 0}
    assert page.series("link_state") == {("d1", "p1"): 5}

    page.after(a_report(links=()))
    assert page.series("link_up") == page.series("link_state") == {}
    assert (page.value("links_wanted"), page.value("links_wanted_up")) == (0, 0)


def test_the_number_of_each_link_state_is_its_own() -> None:
    links = tuple(a_link(f"d{n}", "p1", state) for n, state in enumerate(LinkState))

    numbers = Page().after(a_report(links=links)).series("link_state")

    assert len(set(numbers.values())) == len(LinkState)


@pytest.mark.parametrize(("down", "waves"), [(0, 0), (1, 1), (16, 1), (17, 2), (33, 3)])
def test_waves_are_what_the_busiest_node_has_still_to_link(down: int, waves: int) -> None:
    decoders = [f"d{n}" for n in range(40)]
    nodes = (a_node("p1", Role.PROMPT), *(a_node(d, Role.DECODER) for d in decoders))
    links = tuple(
        a_link(d, "p1", LinkState.ABSENT if n < down else LinkState.LINKED)
        for n, d in enumerate(decoders)
    )

    page = Page().after(a_report(snapshot=a_snapshot(nodes=nodes), links=links))

    assert page.value("link_waves") == waves


def test_above_the_cap_pairs_have_no_series_and_the_page_says_so() -> None:
    links = tuple(a_link("d1", f"p{n}") for n in range(3))
    prompts = (a_node(f"p{n}", Role.PROMPT) for n in range(3))
    calm = a_report(snapshot=a_snapshot(nodes=(a_node("d1", Role.DECODER), *prompts)))
    page = Page(pairs_max=2).after(replace(calm, links=links[:2]))
    assert (len(page.series("link_up")), page.value("link_up_capped")) == (2, 0)

    page.after(replace(calm, links=links))
    assert (len(page.series("link_up")), page.value("link_up_capped")) == (0, 1)
    assert page.series("link_state") == {}
    assert page.value("links", state="linked") == page.value("links_wanted_up") == 3

    page.after(replace(calm, links=links[1:]))
    assert page.series("link_up") == {("d1", "p1"): 1, ("d1", "p2"): 1}
    assert page.value("link_up_capped") == 0


def test_a_role_has_used_of_its_link_budget_what_its_busiest_card_holds() -> None:
    nodes = (
        limited("p1", 512, Role.PROMPT),
        limited("p2", 256, Role.PROMPT),
        limited("d1", None),
    )
    page = Page().after(
        a_report(snapshot=a_snapshot(nodes=nodes), card_links={"p1": 3, "p2": 5, "d1": 2})
    )
    assert page.series("card_links") == {("p1",): 3, ("p2",): 5, ("d1",): 2}
    assert page.series("card_links_max") == {("prompt",): 5, ("decoder",): 2}
    assert page.series("card_links_limit") == {("prompt",): 256}

    page.after(a_report(card_links={"d1": 2}))
    assert page.series("card_links") == {("d1",): 2}
    assert page.series("card_links_max") == {("decoder",): 2}
    assert page.series("card_links_limit") == {}


def test_above_the_cap_nodes_have_no_series_and_the_page_says_so() -> None:
    page = Page(nodes_max=1).after(a_report(card_links={"p1": 1}))
    assert (page.series("card_links"), page.value("card_links_capped")) == ({("p1",): 1}, 0)

    page.after(a_report(card_links={"p1": 1, "d1": 1}))
    assert (page.series("card_links"), page.value("card_links_capped")) == ({}, 1)
    assert page.series("card_links_max") == {("prompt",): 1, ("decoder",): 1}


def test_the_age_of_a_state_is_that_of_the_node_in_it_for_longest() -> None:
    nodes = (a_node("p1", Role.PROMPT), replace(a_node("p2", Role.PROMPT), since_s=4.0))
    page = Page().after(a_report(snapshot=a_snapshot(nodes=nodes)))
    assert page.series("node_state_age_max_seconds") == {("prompt", "serving"): 9.0}

    page.after(a_report(snapshot=a_snapshot(nodes=())))
    assert page.series("node_state_age_max_seconds") == {}


def test_journal_errors_are_counted_when_told() -> None:
    page = Page()
    page.telemetry.journal_failed()

    assert page.value("journal_errors_total") == 1


def test_two_telemetries_in_one_process_do_not_meet() -> None:
    first, second = Page().after(a_report()), Page()

    assert (first.value("cycles_total"), second.value("cycles_total")) == (1, 0)
