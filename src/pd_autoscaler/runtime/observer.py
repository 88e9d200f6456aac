"""The observer: one reading of everything outside, side by side, each under its own deadline."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio

from pd_autoscaler.errors import OutcomeUnknownError, PermanentError, TransientError
from pd_autoscaler.model.advice import Advice
from pd_autoscaler.model.facts import AgentState, Facts, ProvidedNode
from pd_autoscaler.model.node import MESHED, Node, NodeState, Role
from pd_autoscaler.model.signals import Reading
from pd_autoscaler.ports import Advisor, LinkProbe, MetricsSource, NodeAgent, NodeProvider, Router

_SOURCES = ("provider", "router", "metrics", "link probe", "advisor")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Notes:
    """What one observation has collected so far."""

    provided: tuple[ProvidedNode, ...] | None = None
    published: frozenset[str] | None = None
    in_flight: Mapping[str, int] = field(default_factory=dict)
    agents: dict[str, AgentState] = field(default_factory=dict)
    readings: Mapping[str, Reading] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    unreachable: Mapping[str, str] = field(default_factory=dict)
    advice: Advice | None = None


class Observer:
    """Reads provider, agents, router and metrics; what does not answer in time is absent.

    With a `probe` it also looks at the ports that decoders link to, with an `advisor` it takes in
    what that has answered.

    Metrics are read at most once each `metrics_period_s`, however often `observe` is called;
    `now_unix_s` is where wall time enters. `at_hand` tells a node's state where that takes no call:
    a task and a deadline for each node are most of the cost of an observation that never waits. One
    failing source never spoils the others.
    """

    def __init__(
        self,
        *,
        provider: NodeProvider,
        router: Router,
        agents: NodeAgent,
        metrics: MetricsSource,
        probe: LinkProbe | None = None,
        advisor: Advisor | None = None,
        deadline_s: float,
        metrics_period_s: float,
        concurrency_max: int = 128,
        now_unix_s: Callable[[], float],
        at_hand: Callable[[Node], AgentState | None] | None = None,
    ) -> None:
        self._provider = provider
        self._router = router
        self._agents = agents
        self._metrics = metrics
        self._probe = probe
        self._advisor = advisor
        self._deadline_s = deadline_s
        self._metrics_period_s = metrics_period_s
        self._metrics_at_s = float("-inf")
        self._slots = anyio.Semaphore(concurrency_max, fast_acquire=True)
        self._now_unix_s = now_unix_s
        self._at_hand = at_hand
        self._failing: set[str] = set()
        self._stopping: frozenset[str] = frozenset()

    async def observe(self, known: Iterable[Node]) -> Facts:
        """Read everything once and return it as facts."""
        notes = _Notes()
        await self._read("provider", notes, self._read_provider(notes))
        nodes = _with_found(known, notes.provided)
        self._stopping = frozenset(_agent_of(n) for n in nodes if n.state is NodeState.STOPPING)
        # A node that is gone fails no more; one of the same name is a new source.
        self._failing &= {*_SOURCES, *(_agent_of(n) for n in nodes)}
        async with anyio.create_task_group() as group:
            group.start_soon(self._read, "router", notes, self._read_router(notes))
            group.start_soon(self._read_metrics, notes, nodes)
            if self._probe is not None:
                group.start_soon(self._read_probe, notes, nodes, self._probe)
            if self._advisor is not None:
                group.start_soon(self._read_advisor, notes, self._advisor)
            for node in nodes:
                if not node.agent_urls:
                    continue
                state = self._seen_at_hand(node)
                if state is None:
                    group.start_soon(self._read_agent, notes, node)
                else:
                    notes.agents[node.id] = state
                    self._told(_agent_of(node), notes)
        return Facts(
            now_s=anyio.current_time(),
            now_unix_s=self._now_unix_s(),
            provided=notes.provided,
            published=notes.published,
            in_flight=notes.in_flight,
            agents=dict(sorted(notes.agents.items())),
            readings=notes.readings,
            errors=notes.errors,
            unread=dict(self._metrics.errors),
            scraped=self._metrics.scraped,
            unreachable=notes.unreachable,
            advice=notes.advice,
        )

    async def published(self) -> frozenset[str] | None:
        """Read the router's published set alone; None if it does not answer."""
        notes = _Notes()
        await self._read("router", notes, self._read_router(notes))
        return notes.published

    async def _read(self, name: str, notes: _Notes, reading: Awaitable[None]) -> None:
        """Await one source under the deadline, and note why it did not answer."""
        try:
            with anyio.fail_after(self._deadline_s):
                await reading
        except TimeoutError:
            notes.errors[name] = f"no answer within {self._deadline_s:g} s"
        except (TransientError, PermanentError, OutcomeUnknownError) as error:
            notes.errors[name] = str(error)
        except Exception as error:
            # A fault of our own in one adapter must not take the others' answers with it.
            notes.errors[name] = f"{type(error).__name__}: {error}"
            if name not in self._failing:
                log.exception("%s failed unexpectedly", name)
        self._told(name, notes)

    def _seen_at_hand(self, node: Node) -> AgentState | None:
        """Return a state that takes no call; None where it has to be asked for."""
        if self._at_hand is None:
            return None
        try:
            return self._at_hand(node)
        except Exception:
            # Asking, under its deadline, will say what is wrong.
            return None

    def _told(self, name: str, notes: _Notes) -> None:
        """Say once that a source fails, and once that it is back."""
        if name in notes.errors and name not in self._failing:
            self._failing.add(name)
            # A node that is being stopped is expected to fall silent.
            level = logging.DEBUG if name in self._stopping else logging.WARNING
            log.log(level, "%s cannot be read: %s", name, notes.errors[name])
        elif name not in notes.errors and name in self._failing:
            self._failing.discard(name)
            log.info("%s answers again", name)

    async def _read_provider(self, notes: _Notes) -> None:
        notes.provided = await self._provider.nodes()

    async def _read_router(self, notes: _Notes) -> None:
        # In this order: a request that is in flight when the count is read was routed before.
        notes.published = await self._router.published()
        notes.in_flight = await self._router.in_flight()

    async def _read_agent(self, notes: _Notes, node: Node) -> None:
        async def state() -> None:
            notes.agents[node.id] = await self._agents.state(node)

        async with self._slots:
            await self._read(_agent_of(node), notes, state())

    async def _read_metrics(self, notes: _Notes, nodes: Sequence[Node]) -> None:
        now_s = anyio.current_time()
        if now_s - self._metrics_at_s < self._metrics_period_s:
            return
        self._metrics_at_s = now_s
        wanted = [n for n in nodes if n.metrics_url and n.state is not NodeState.STANDBY]

        async def read() -> None:
            notes.readings = await self._metrics.read(wanted)

        await self._read("metrics", notes, read())

    async def _read_probe(self, notes: _Notes, nodes: Sequence[Node], probe: LinkProbe) -> None:
        listening = [n for n in nodes if n.role is Role.PROMPT and n.state in MESHED]

        async def look() -> None:
            notes.unreachable = await probe.unreachable(listening)

        await self._read("link probe", notes, look())

    async def _read_advisor(self, notes: _Notes, advisor: Advisor) -> None:
        async def look() -> None:
            # What it said before it failed holds until it is too old.
            notes.advice = advisor.advice
            if advisor.trouble:
                raise TransientError(advisor.trouble)

        await self._read("advisor", notes, look())


def _agent_of(node: Node) -> str:
    return f"agent of {node.id}"


def _with_found(known: Iterable[Node], provided: tuple[ProvidedNode, ...] | None) -> list[Node]:
    """List the nodes to read: those known, at the addresses just given, and those just found."""
    nodes = {node.id: node for node in known}
    for p in provided or ():
        node = nodes.get(p.id) or Node(id=p.id, role=p.role, state=NodeState.STARTING, since_s=0.0)
        nodes[p.id] = p.addressed(node)
    return list(nodes.values())
