"""The snapshot: everything the pure half may know, taken once a cycle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from pd_autoscaler.model.advice import Advice
from pd_autoscaler.model.capacity import Demand, NodeCapacity
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.link import LinkState
from pd_autoscaler.model.node import COMING, Node, NodeState, Role
from pd_autoscaler.model.signals import NodeSignals, RoleSignals


class Bottleneck(StrEnum):
    """Which side holds requests up."""

    PROMPT = "prompt"
    DECODER = "decoder"
    LINK = "link"
    IDLE = "idle"
    NONE = "none"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Attribution:
    """The bottleneck and the evidence it was read from; `also` is a side that is short besides."""

    bottleneck: Bottleneck = Bottleneck.UNKNOWN
    evidence: str = ""
    also: Bottleneck | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What no target may leave: counts of nodes, and prompt/decoder ratio bounds.

    `fresh_quorum` is the share of a role's serving nodes that must be fresh for a decision.
    """

    prompt_min: int = 1
    prompt_max: int = 100
    decoder_min: int = 1
    decoder_max: int = 100
    nodes_max: int = 200
    ratio_min: float | None = None
    ratio_max: float | None = None
    fresh_quorum: float = 0.5

    def min_of(self, role: Role) -> int:
        """Fewest nodes of a role."""
        return self.prompt_min if role is Role.PROMPT else self.decoder_min

    def max_of(self, role: Role) -> int:
        """Most nodes of a role."""
        return self.prompt_max if role is Role.PROMPT else self.decoder_max


@dataclass(frozen=True, slots=True)
class LeadTime:
    """Measured seconds of one phase of a node's life."""

    p50_s: float
    p95_s: float
    count: int


# Without slots, so that it can keep what is asked of it many times in a cycle.
@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a policy decides from; `now_s` is monotonic, `now_unix_s` is wall time.

    `advice` is None where no advisor has answered.
    """

    now_s: float
    now_unix_s: float
    target: Target
    nodes: tuple[Node, ...] = ()
    prompt: RoleSignals = field(default_factory=RoleSignals)
    decoder: RoleSignals = field(default_factory=RoleSignals)
    node_signals: Mapping[str, NodeSignals] = field(default_factory=dict)
    attribution: Attribution = field(default_factory=Attribution)
    limits: Limits = field(default_factory=Limits)
    demand: Demand = field(default_factory=Demand)
    capacity: tuple[NodeCapacity, ...] = ()
    lead_times: Mapping[str, LeadTime] = field(default_factory=dict)
    published: frozenset[str] | None = None
    links: Mapping[LinkState, int] = field(default_factory=dict)
    is_synced: bool = True
    advice: Advice | None = None

    def of(self, role: Role) -> RoleSignals:
        """Return the signals of one role."""
        return self.prompt if role is Role.PROMPT else self.decoder

    def count(self, role: Role, *states: NodeState) -> int:
        """Count nodes of a role in these states."""
        return sum([len(self.nodes_in(role, state)) for state in states])

    def nodes_in(self, role: Role, state: NodeState) -> Sequence[Node]:
        """Return the nodes of a role in one state, in the order of `nodes`."""
        return self._placed.get((role, state), ())

    @cached_property
    def _placed(self) -> Mapping[tuple[Role, NodeState], Sequence[Node]]:
        placed: dict[tuple[Role, NodeState], list[Node]] = {}
        for node in self.nodes:
            placed.setdefault((node.role, node.state), []).append(node)
        return placed

    def is_fault_elsewhere(self, role: Role) -> bool:
        """Whether more nodes of a role would not help: links are at fault, or decoders for prompts.

        Where both sides are short decoders come first; once one is asked for, or none may be,
        prompt nodes help, too.
        """
        seen = self.attribution
        if seen.bottleneck is not Bottleneck.DECODER or role is Role.DECODER:
            return seen.bottleneck is Bottleneck.LINK
        wanted = self.target.decoder
        is_asked = self.serving(Role.DECODER) < wanted or wanted >= self.limits.decoder_max
        return not (seen.also is Bottleneck.PROMPT and is_asked)

    def coming(self, role: Role) -> int:
        """Count nodes of a role that are on their way to serve."""
        return self.count(role, *COMING)

    def serving(self, role: Role) -> int:
        """Count nodes of a role that serve."""
        return self.count(role, NodeState.SERVING)
