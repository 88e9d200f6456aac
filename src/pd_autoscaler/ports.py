"""Everything outside the controller, as Protocols: adapters implement them, the loop knows these.

Every method may raise TransientError (did not happen, try again), PermanentError (will not
happen) or OutcomeUnknownError (a deadline passed; the effect is possible), and nothing else.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from pd_autoscaler.model.advice import Advice
from pd_autoscaler.model.decision import Mode, Target
from pd_autoscaler.model.facts import AgentState, ProvidedNode, Scraped
from pd_autoscaler.model.link import Verdict
from pd_autoscaler.model.node import Node, Role
from pd_autoscaler.model.plan import Action, Peer
from pd_autoscaler.model.report import Outcome, Report
from pd_autoscaler.model.signals import Reading

T = TypeVar("T")


class MetricsSource(Protocol):
    """Where engine pages come from."""

    async def read(self, nodes: Sequence[Node]) -> Mapping[str, Reading]:
        """Return one reading per node that answered with a readable page; others are absent."""
        ...

    @property
    def errors(self) -> Mapping[str, str]:
        """Say by node id why it could not be read the last time it was asked."""
        ...

    @property
    def scraped(self) -> Scraped:
        """Return what has been read so far."""
        ...


class NodeProvider(Protocol):
    """Where nodes come from; it names them, and its answers may be lost or late."""

    async def nodes(self) -> tuple[ProvidedNode, ...]:
        """List the nodes that exist."""
        ...

    async def grow(self, role: Role, request_id: str) -> None:
        """Ask for one more node; a repeated request id asks for nothing more."""
        ...

    async def remove(self, node_id: str) -> None:
        """Remove a node; one that is already gone is a success."""
        ...


@dataclass(frozen=True, slots=True)
class ClusterResult:
    """How one endpoint's link or unlink ended, with the native status code and what it means.

    `rank` is that of the calling node's endpoint.
    """

    cluster_id: int
    code: str
    verdict: Verdict
    is_unknown: bool = False
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Fence:
    """Who calls, and since when: agents refuse a lower epoch, or an equal one of another holder."""

    epoch: int
    holder: str


class NodeAgent(Protocol):
    """The agents inside the nodes' engine processes, one a rank; every mutating call is fenced.

    `key` makes a call idempotent: a repeat returns the first call's current outcome.
    """

    async def state(self, node: Node) -> AgentState:
        """Read a node's state."""
        ...

    async def claim(self, node: Node, *, fence: Fence) -> None:
        """Have a node obey this controller from now on; nothing else changes."""
        ...

    async def init(self, node: Node, role: Role, *, fence: Fence, key: str) -> None:
        """Initialise the node's library object; one that is ready in this role is a success."""
        ...

    def links(
        self, node: Node, peers: Sequence[Peer], *, fence: Fence, key: str
    ) -> AsyncIterator[ClusterResult]:
        """Make every call of these peers, yielding each as it ends."""
        ...

    def unlinks(
        self, node: Node, peers: Sequence[Peer], *, force: bool, fence: Fence, key: str
    ) -> AsyncIterator[ClusterResult]:
        """Unlink as every call of these peers says, yielding each as it ends."""
        ...

    async def switch_role(self, node: Node, role: Role, *, fence: Fence, key: str) -> None:
        """Have an unlinked node take a role without a restart; one that has it is a success.

        While links are left it raises TransientError; PermanentError where the engine cannot.
        """
        ...

    async def finalize(self, node: Node, *, fence: Fence, key: str) -> None:
        """Finalise the node's library object; refused while a native call hangs."""
        ...


class LinkProbe(Protocol):
    """A look from here at the ports that decoders link to."""

    async def unreachable(self, nodes: Iterable[Node]) -> Mapping[str, str]:
        """Say by id why a node's link port takes no connection; the others are absent.

        The answer may be that of an earlier look. It never raises.
        """
        ...


class Advisor(Protocol):
    """A service outside that is asked between cycles what it would do."""

    @property
    def advice(self) -> Advice | None:
        """Return its newest answer with its age, None where it has given none."""
        ...

    @property
    def trouble(self) -> str:
        """Say why it gave no answer, or a wrong one, when it was last asked; empty if it did."""
        ...


class Router(Protocol):
    """What sends requests to nodes."""

    @property
    def is_pair_aware(self) -> bool:
        """Whether it only pairs nodes that are linked."""
        ...

    async def published(self) -> frozenset[str]:
        """Return the ids of the nodes that may get new requests."""
        ...

    async def publish(self, node: Node) -> None:
        """Let a node get new requests; one that already may is a success."""
        ...

    async def withdraw(self, node_id: str) -> None:
        """Send a node nothing new; an unknown one is a success."""
        ...

    async def in_flight(self) -> Mapping[str, int]:
        """Return requests in flight by node id; an absent node is unknown."""
        ...


class Lease(Protocol):
    """Who may act, and with which fencing epoch."""

    @property
    def is_leader(self) -> bool:
        """Whether this controller may act now."""
        ...

    @property
    def holder(self) -> str:
        """This controller's name, unlike any other's."""
        ...


class Workers(Protocol):
    """The only way to blocking code."""

    async def run(self, work: Callable[[], T], *, deadline_s: float) -> T:
        """Run `work` off the event loop and return its result, or raise what it raised.

        Raises TransientError if it had not begun by the deadline, OutcomeUnknownError if it had
        begun and not ended; its slot is then given back when it ends, not before.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What a journal hands to a controller that starts.

    `linked` holds, per prompt incarnation, the decoder cluster ids that ever linked it and were
    not forgotten since; `nodes` the nodes of the last report, `draining` those of them that were
    on their way out, `switching` the roles that some of these take instead of being stopped,
    `drains` those an operator asked to go; `pending` the roles of start requests that no node
    answers to yet; `open_intents` the actions begun and never ended.
    """

    epoch: int = 0
    cycle: int = 0
    target: tuple[int, int] | None = None
    mode: str = "active"
    request_count: int = 0
    linked: Mapping[str, frozenset[int]] = field(default_factory=dict)
    nodes: frozenset[str] = frozenset()
    draining: frozenset[str] = frozenset()
    switching: Mapping[str, Role] = field(default_factory=dict)
    drains: frozenset[str] = frozenset()
    pending: Mapping[str, Role] = field(default_factory=dict)
    open_intents: tuple[str, ...] = ()


class Journal(Protocol):
    """What survives the controller; a write that fails raises TransientError."""

    async def remembered(self) -> Remembered:
        """Read what a starting controller needs, and end the open intents as unknown."""
        ...

    async def set_epoch(self, epoch: int) -> None:
        """Remember the fencing epoch."""
        ...

    async def set_mode(self, mode: str) -> None:
        """Remember the loop's mode."""
        ...

    async def set_drains(self, node_ids: Iterable[str]) -> None:
        """Remember which nodes an operator asked to go."""
        ...

    async def set_target(self, prompt: int, decoder: int, why: str) -> None:
        """Remember the standing target."""
        ...

    async def intend(
        self, actions: Sequence[Action], *, decoder_clusters: Mapping[str, Sequence[int]] = ...
    ) -> tuple[int, ...]:
        """Write actions ahead of doing them, all or none, and return an intent id for each.

        A LinkNodes action also records its decoder's cluster ids (looked up by node id in
        `decoder_clusters`, by default empty) under each prompt incarnation it names.
        """
        ...

    async def ended(self, intent_id: int, outcome: Outcome) -> None:
        """Write how an intended action ended."""
        ...

    async def remember_linked(self, prompt_incarnation: str, cluster_ids: Iterable[int]) -> None:
        """Keep decoder ids whose link to a prompt incarnation was found, not made."""
        ...

    async def forget_linked(self, prompt_incarnation: str, cluster_ids: Iterable[int]) -> None:
        """Drop decoder ids that a prompt incarnation no longer holds."""
        ...

    async def append(self, report: Report) -> None:
        """Keep a report."""
        ...

    async def report_at(self, at_unix_s: float | None) -> Report | None:
        """Return the newest kept report that is not later than a moment; None is the newest.

        Raises PermanentError for one that this version cannot read.
        """
        ...

    async def kept_since(self) -> float | None:
        """Return the wall time of the oldest kept report, None where there is none."""
        ...

    async def history(self, *, limit: int) -> list[dict[str, object]]:
        """Return the newest decisions, moves and outcomes that changed something, newest first."""
        ...

    async def link_events(
        self, decoder: str, prompt: str, *, limit: int
    ) -> list[dict[str, object]]:
        """Return the newest ends of link and unlink calls that touched a pair, newest first.

        Each has the fields of `core.attempts.Attempt`; calls of either node are among them.
        """
        ...


class Control(Protocol):
    """What an operator may ask of the running loop; a refusal raises ConfigError with the fix."""

    @property
    def latest(self) -> Report | None:
        """The newest report, None before the first cycle."""
        ...

    async def pause(self, *, everything: bool) -> Mode:
        """Keep the target (repairs go on), or with `everything` take no action at all."""
        ...

    async def resume(self) -> Mode:
        """Let the policy decide again."""
        ...

    async def scale(self, prompt: int, decoder: int) -> Target:
        """Set the standing target and pause the policy; refused outside the limits."""
        ...

    async def drain(self, node_id: str) -> None:
        """Take a serving node out, its replacement first; refused for a node unknown or leaving."""
        ...


class ReportSink(Protocol):
    """Whoever wants to see each report: telemetry, the admin API, a progress line."""

    def append(self, report: Report) -> None:
        """Take in one report."""
        ...
