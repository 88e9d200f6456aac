"""The snapshot of one cycle, made from the fleet, the signals and what is remembered."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pd_autoscaler.core import attribution, capacity, demand, signals, target_limits
from pd_autoscaler.core.capacity import CapacityMemory, Priors
from pd_autoscaler.core.demand import DemandMemory
from pd_autoscaler.core.fleet import Fleet
from pd_autoscaler.core.freshness import Source
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.facts import Facts
from pd_autoscaler.model.link import LinkState
from pd_autoscaler.model.node import COMING, Node, NodeState, Role
from pd_autoscaler.model.signals import NodeSignals, RoleSignals
from pd_autoscaler.model.snapshot import Bottleneck, LeadTime, Limits, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalRules:
    """How signals are read: the window of rates and quantiles, and when a page is too old.

    Without `pages_needed` what agents say of their engines is enough. `demand_half_life_s` is after
    how long half of the smoothed demand is new.
    """

    window_s: float = 30.0
    age_max_s: float = 30.0
    pages_needed: bool = True
    demand_half_life_s: float = 60.0
    thresholds: attribution.Thresholds = field(default_factory=attribution.Thresholds)
    priors: Priors = field(default_factory=Priors)

    def begun(self) -> "Memory":
        """Return the memory of a controller that has seen nothing yet."""
        keep_s = max(KEEP_MIN_S, 2 * self.window_s)
        return Memory(signals.Signals(keep_s=keep_s, pages_needed=self.pages_needed))


KEEP_MIN_S = 300.0
"""Pages are kept for so long at least: some engines count tokens only when a request ends."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered of the signals from cycle to cycle."""

    signals: signals.Signals
    demand: DemandMemory = field(default_factory=DemandMemory)
    capacity: CapacityMemory = field(default_factory=CapacityMemory)


def found_target(fleet: Fleet, limits: Limits) -> Target:
    """Take the fleet that is found as the first standing target, within the limits."""
    counts = {role: len(fleet.of(role, COMING | {NodeState.SERVING})) for role in Role}
    found = Target(counts[Role.PROMPT], counts[Role.DECODER], why="the fleet that was found")
    return target_limits.within(found, limits)


def taken(
    fleet: Fleet,
    facts: Facts,
    target: Target,
    *,
    memory: Memory,
    leads: Mapping[str, LeadTime],
    rules: SignalRules,
    limits: Limits,
) -> tuple[Snapshot, Memory]:
    """Return everything the pure half may know in this cycle, and what to remember of it."""
    nodes = tuple(_with_ready_time(node, leads) for node in fleet.nodes.values())
    known = signals.observed(memory.signals, facts, nodes)
    sources = known.sources(
        nodes, now_s=facts.now_s, age_max_s=rules.age_max_s, window_s=rules.window_s
    )
    at = _Moment(known, sources, facts.now_s, rules)
    prompt, decoder = at.role(Role.PROMPT), at.role(Role.DECODER)
    of_nodes = signals.node_signals(known, sources)
    seen = attribution.attributed(prompt, decoder, _used(fleet), rules.thresholds)
    memory = at.learnt(memory, prompt, decoder, of_nodes, bottleneck=seen.bottleneck)
    links = Counter(link.state for link in fleet.links.values())
    snapshot = Snapshot(
        now_s=facts.now_s,
        now_unix_s=facts.now_unix_s,
        target=target,
        nodes=nodes,
        prompt=prompt,
        decoder=decoder,
        node_signals=of_nodes,
        attribution=seen,
        limits=limits,
        demand=demand.demand(
            memory.demand, now_s=facts.now_s, age_max_s=max(rules.age_max_s, rules.window_s)
        ),
        capacity=capacity.capacities(memory.capacity),
        lead_times=leads,
        published=fleet.published,
        links={state: links[state] for state in LinkState},
        is_synced=fleet.is_synced,
        advice=facts.advice,
    )
    return snapshot, memory


@dataclass(frozen=True, slots=True)
class _Moment:
    """The signals of one cycle, by the rules."""

    known: signals.Signals
    sources: Sequence[Source]
    now_s: float
    rules: SignalRules

    def role(self, role: Role) -> RoleSignals:
        return signals.role_signals(self.known, self.sources, role)

    def learnt(
        self,
        memory: Memory,
        prompt: RoleSignals,
        decoder: RoleSignals,
        of_nodes: Mapping[str, NodeSignals],
        *,
        bottleneck: Bottleneck,
    ) -> Memory:
        """Return the memory with what these signals teach of demand and capacity."""
        held = signals.held_tokens(self.sources)
        asked = demand.observed(
            memory.demand,
            prompt,
            decoder,
            held,
            now_s=self.now_s,
            half_life_s=self.rules.demand_half_life_s,
        )
        learnt = capacity.learnt(
            memory.capacity,
            self.known.histories,
            [source.node for source in self.sources],
            of_nodes,
            now_s=self.now_s,
            window_s=self.rules.window_s,
            bottleneck=bottleneck,
            priors=self.rules.priors,
        )
        return Memory(self.known, asked, learnt)


def _used(fleet: Fleet) -> dict[LinkState, int]:
    """Count by state the links of nodes that have served: a newcomer's hold no request up."""
    used = {node.id for node in fleet.nodes.values() if _is_used(node)}
    links = fleet.links.values()
    return dict(Counter(k.state for k in links if k.decoder in used and k.prompt in used))


def _is_used(node: Node) -> bool:
    # A serving node whose link broke is linking again.
    return node.served_at_s is not None and node.state in {NodeState.SERVING, NodeState.LINKING}


_AHEAD: Mapping[NodeState, tuple[str, ...]] = {
    NodeState.STARTING: ("start", "init", "link"),
    NodeState.INITIALISING: ("init", "link"),
    NodeState.LINKING: ("link",),
}


def _with_ready_time(node: Node, leads: Mapping[str, LeadTime]) -> Node:
    """Say when a coming node should serve: the usual time of each phase that is still ahead."""
    known = [leads[phase].p50_s for phase in _AHEAD.get(node.state, ()) if phase in leads]
    return replace(node, ready_at_s=node.since_s + sum(known)) if known else node
