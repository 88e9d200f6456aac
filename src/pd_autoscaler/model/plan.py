"""Plans: actions in waves, additions before removals."""

from dataclasses import dataclass

from pd_autoscaler.model.node import Endpoint, Role


@dataclass(frozen=True, slots=True)
class Peer:
    """The far end of a link call: enough to make the call without looking anything up.

    `ranks` names, for each endpoint, the rank of the caller that calls it (empty: rank 0 calls
    all); an endpoint that several of the caller's ranks call is listed once for each of them.
    """

    node_id: str
    incarnation: str
    endpoints: tuple[Endpoint, ...]
    ranks: tuple[int, ...] = ()

    @property
    def calls(self) -> tuple[tuple[int, Endpoint], ...]:
        """Each native call that this peer stands for: the caller's rank and the far endpoint."""
        ranks = self.ranks or (0,) * len(self.endpoints)
        return tuple(zip(ranks, self.endpoints, strict=True))


@dataclass(frozen=True, slots=True)
class StartNode:
    """Ask the provider for one more node; the request id recognises it and makes retries safe."""

    role: Role
    request_id: str


@dataclass(frozen=True, slots=True)
class InitNode:
    """Have a node's agent initialise its library object in this role."""

    node_id: str
    role: Role


@dataclass(frozen=True, slots=True)
class LinkNodes:
    """Have one decoder link prompt nodes; each pair has an outcome of its own."""

    decoder_id: str
    prompts: tuple[Peer, ...]


@dataclass(frozen=True, slots=True)
class PublishNode:
    """Tell the router that it may send requests to this node."""

    node_id: str


@dataclass(frozen=True, slots=True)
class WithdrawNode:
    """Tell the router to send this node nothing new."""

    node_id: str


@dataclass(frozen=True, slots=True)
class DrainNode:
    """Withdraw a serving node for good: it leaves once it is idle or the drain deadline passes.

    With `next_role` it then takes that role instead of being stopped.
    """

    node_id: str
    why: str
    next_role: Role | None = None


@dataclass(frozen=True, slots=True)
class UnlinkNodes:
    """Have one node's agent drop its links to these peers; `force` drops the local end alone."""

    node_id: str
    peers: tuple[Peer, ...]
    force: bool


@dataclass(frozen=True, slots=True)
class SwitchRole:
    """Have an unlinked node take the other role without a restart."""

    node_id: str
    role: Role


@dataclass(frozen=True, slots=True)
class FinalizeNode:
    """Have a node's agent finalise its library object."""

    node_id: str


@dataclass(frozen=True, slots=True)
class StopNode:
    """Ask the provider to remove a node."""

    node_id: str


Action = (
    StartNode
    | InitNode
    | LinkNodes
    | PublishNode
    | WithdrawNode
    | DrainNode
    | UnlinkNodes
    | SwitchRole
    | FinalizeNode
    | StopNode
)

WAVES: tuple[type[Action], ...] = (
    StartNode,
    InitNode,
    LinkNodes,
    PublishNode,
    WithdrawNode,
    DrainNode,
    UnlinkNodes,
    SwitchRole,
    FinalizeNode,
    StopNode,
)
"""The order of verbs in a plan: what adds comes before what removes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in waves; `notes` says what was wanted but not planned, and why."""

    waves: tuple[tuple[Action, ...], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def actions(self) -> tuple[Action, ...]:
        """Every action, in wave order."""
        return tuple(action for wave in self.waves for action in wave)


def in_waves(actions: list[Action], notes: tuple[str, ...] = ()) -> Plan:
    """Order actions by verb, keeping the given order within a verb."""
    waves = (tuple(a for a in actions if type(a) is verb) for verb in WAVES)
    return Plan(tuple(wave for wave in waves if wave), notes)
