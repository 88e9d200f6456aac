"""The snapshot of one cycle, made from the fleet, the signals and what is remembered."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pd_autoscaler.core import attribution, guard, signals
from pd_autoscaler.core.fleet import Fleet
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.facts import Facts
from pd_autoscaler.model.link import LinkState
from pd_autoscaler.model.node import COMING, Node, NodeState, Role
from pd_autoscaler.model.snapshot import LeadTime, Limits, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalRules:
    """How signals are read: the window of rates and quantiles, and when a page is too old."""

    window_s: float = 30.0
    age_max_s: float = 30.0
    thresholds: attribution.Thresholds = field(default_factory=attribution.Thresholds)


def found_target(fleet: Fleet, limits: Limits) -> Target:
    """Take the fleet that is found as the first standing target, within the limits."""
    counts = {role: len(fleet.of(role, COMING | {NodeState.SERVING})) for role in Role}
    found = Target(counts[Role.PROMPT], counts[Role.DECODER], why="the fleet that was found")
    return guard.within(found, limits)


def taken(
    fleet: Fleet,
    facts: Facts,
    target: Target,
    *,
    memory: signals.Signals,
    leads: Mapping[str, LeadTime],
    rules: SignalRules,
    limits: Limits,
) -> Snapshot:
    """Return everything the pure half may know in this cycle."""
    nodes = tuple(_with_ready_time(node, leads) for node in fleet.nodes.values())
    now_s, age_max_s = facts.now_s, rules.age_max_s
    prompt, decoder = (
        signals.role_signals(
            memory, nodes, role, now_s=now_s, window_s=rules.window_s, age_max_s=age_max_s
        )
        for role in Role
    )
    links = dict.fromkeys(LinkState, 0)
    for link in fleet.links.values():
        links[link.state] += 1
    return Snapshot(
        now_s=now_s,
        now_unix_s=facts.now_unix_s,
        target=target,
        nodes=nodes,
        prompt=prompt,
        decoder=decoder,
        node_signals=signals.node_signals(memory, nodes, now_s=now_s, age_max_s=age_max_s),
        attribution=attribution.attributed(prompt, decoder, links, rules.thresholds),
        limits=limits,
        lead_times=leads,
        published=fleet.published,
        links=links,
        is_synced=fleet.is_synced,
    )


_AHEAD: Mapping[NodeState, tuple[str, ...]] = {
    NodeState.STARTING: ("start", "init", "link"),
    NodeState.INITIALISING: ("init", "link"),
    NodeState.LINKING: ("link",),
}


def _with_ready_time(node: Node, leads: Mapping[str, LeadTime]) -> Node:
    """Say when a coming node should serve: the usual time of each phase that is still ahead."""
    known = [leads[phase].p50_s for phase in _AHEAD.get(node.state, ()) if phase in leads]
    return replace(node, ready_at_s=node.since_s + sum(known)) if known else node
