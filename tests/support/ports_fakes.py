"""A world in memory behind every port, for tests of the loop: what it does wrong, the test says."""

import asyncio
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import wraps
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

import anyio
from anyio import lowlevel

from pd_autoscaler.core.rules import GuardRules, LinkRules, NodeRules, Rules
from pd_autoscaler.errors import TransientError
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.facts import (
    AgentPhase,
    AgentState,
    EngineLoad,
    EntryState,
    LinkEntry,
    ProvidedNode,
    Scraped,
)
from pd_autoscaler.model.link import Verdict
from pd_autoscaler.model.node import Endpoint, Node, Role
from pd_autoscaler.model.plan import Action, LinkNodes, Peer, StartNode
from pd_autoscaler.model.report import Outcome, Report
from pd_autoscaler.model.signals import Reading
from pd_autoscaler.model.snapshot import Limits, Snapshot
from pd_autoscaler.policies.contract import Policy
from pd_autoscaler.ports import Advisor, ClusterResult, Fence, MetricsSource, Remembered
from pd_autoscaler.runtime.actuator import Deadlines
from pd_autoscaler.runtime.loop import ControlLoop, LoopSettings, Outside
from pd_autoscaler.runtime.observer import Observer
from pd_autoscaler.runtime.policy_runner import PolicyRunner
from pd_autoscaler.runtime.shadow import Follower
from pd_autoscaler.sim.loop import VirtualTimeLoop, run
from tests.support.reports import newest_until

T = TypeVar("T")
P = ParamSpec("P")

Fault = Exception | Callable[[], Awaitable[object]]
hang: Fault = anyio.sleep_forever
"""A fault that never answers."""

MUTATING = frozenset(
    {"grow", "remove", "init", "links", "unlinks", "switch", "finalize", "publish", "withdraw"}
)
"""The calls that change something outside."""

RULES = Rules(
    node=NodeRules(start_timeout_s=100, lost_after_s=30, stop_timeout_s=20, drain_deadline_s=60),
    link=LinkRules(join_deadline_s=60),
    guard=GuardRules(
        limits=Limits(prompt_max=6, decoder_max=6, nodes_max=8),
        up_window_s=0,
        down_window_s=20,
        cooldown_s=10,
    ),
)
IDLE = EngineLoad(waiting=0, running=0, kv_unpulled=0)
_NO_CLUSTERS: Mapping[str, Sequence[int]] = MappingProxyType({})


def virtually(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test in virtual time: what takes a day takes no time."""

    @wraps(test)
    def in_virtual_time(*args: P.args, **kwargs: P.kwargs) -> None:
        run(lambda: test(*args, **kwargs), start_s=1000.0)

    return in_virtual_time


async def pass_time(seconds: float) -> None:
    """Let virtual time pass; refuses to wait in real time."""
    assert isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
    await anyio.sleep(seconds)


@dataclass(slots=True)
class FakeNode:
    """One process: its agent, its links, its engine."""

    id: str
    role: Role
    cluster: int
    phase: AgentPhase = AgentPhase.READY
    life: int = 1
    request_id: str = ""
    epoch: int = 0
    holder: str = ""
    rows: dict[int, LinkEntry] = field(default_factory=dict)
    engine: EngineLoad = IDLE

    @property
    def incarnation(self) -> str:
        return f"{self.id}/{self.life}"

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        port = 26000 if self.role is Role.PROMPT else None
        return (Endpoint(0, self.cluster, "127.0.0.1", port),)


class FakeWorld:
    """Nodes, a provider, agents, a router and metrics; `faults` says which calls go wrong.

    A fault is looked up by `"call about"`, then by `"call"`. `calls` tells every call in order,
    `under_way` how many of a kind are inside at once, at most.
    """

    def __init__(self, *names: str) -> None:
        self.nodes: dict[str, FakeNode] = {}
        self.listed: set[str] | None = None
        self.published: set[str] = set()
        self.faults: dict[str, Fault] = {}
        self.calls: list[str] = []
        self.fences: list[Fence] = []
        self.requests: set[str] = set()
        self.leads = True
        self.can_switch_role = False
        for name in names:
            self.add(name)

    def add(self, name: str, *, phase: AgentPhase = AgentPhase.READY, request: str = "") -> None:
        """Add `p1`, a prompt node, or `d1`, a decoder, linked to nobody and not published."""
        role = Role.PROMPT if name[0] == "p" else Role.DECODER
        cluster = int(name[1:]) + (0 if role is Role.PROMPT else 100)
        self.nodes[name] = FakeNode(name, role, cluster, phase, request_id=request)

    def mesh(self) -> None:
        """Link every pair and publish every node, as a fleet that has run for long."""
        for decoder in self.of(Role.DECODER):
            for prompt in self.of(Role.PROMPT):
                self.link(decoder, prompt)
        self.published = set(self.nodes)

    def link(self, decoder: FakeNode, prompt: FakeNode) -> None:
        """Let a decoder's table show a link."""
        decoder.rows[prompt.cluster] = LinkEntry(
            cluster_id=prompt.cluster,
            state=EntryState.LINKED,
            peer_incarnation=prompt.incarnation,
        )

    def of(self, role: Role) -> list[FakeNode]:
        """List the nodes of a role."""
        return [node for node in self.nodes.values() if node.role is role]

    def changes(self) -> list[str]:
        """List the calls that change something."""
        return [call for call in self.calls if call.split(" ")[0] in MUTATING]

    async def called(self, name: str, *about: str) -> None:
        """Note a call and let its fault strike."""
        self.calls.append(" ".join((name, *about)))
        await lowlevel.checkpoint()
        fault = self.faults.get(" ".join((name, *about[:1])), self.faults.get(name))
        if isinstance(fault, Exception):
            raise fault
        if fault is not None:
            await fault()


class FakeProvider:
    """Lists the world's nodes, and makes and removes them."""

    def __init__(self, world: FakeWorld) -> None:
        self._world = world

    async def nodes(self) -> tuple[ProvidedNode, ...]:
        await self._world.called("nodes")
        listed = self._world.listed
        return tuple(
            ProvidedNode(
                id=node.id,
                role=node.role,
                agent_urls=(f"http://{node.id}",),
                metrics_url=f"http://{node.id}/metrics",
                request_id=node.request_id,
            )
            for node in self._world.nodes.values()
            if listed is None or node.id in listed
        )

    async def grow(self, role: Role, request_id: str) -> None:
        await self._world.called("grow", request_id, role)
        if request_id in self._world.requests:
            return
        self._world.requests.add(request_id)
        taken = [int(node.id[1:]) for node in self._world.of(role)]
        name = f"{role.value[0]}{max(taken, default=0) + 1}"
        self._world.add(name, phase=AgentPhase.NEW, request=request_id)

    async def remove(self, node_id: str) -> None:
        await self._world.called("remove", node_id)
        self._world.nodes.pop(node_id, None)


class FakeAgents:
    """The agents in the world's nodes."""

    def __init__(self, world: FakeWorld) -> None:
        self._world = world

    def _node(self, node: Node) -> FakeNode:
        try:
            return self._world.nodes[node.id]
        except KeyError:
            raise TransientError(f"{node.id} is not there") from None

    async def state(self, node: Node) -> AgentState:
        await self._world.called("state", node.id)
        fake = self._node(node)
        return AgentState(
            node_id=node.id,
            at_s=anyio.current_time(),
            incarnation=fake.incarnation,
            role=fake.role if fake.phase is AgentPhase.READY else None,
            phase=fake.phase,
            endpoints=fake.endpoints,
            links=tuple(fake.rows.values()),
            engine=fake.engine,
            epoch=fake.epoch,
            holder=fake.holder,
            can_switch_role=self._world.can_switch_role,
        )

    async def claim(self, node: Node, *, fence: Fence) -> None:
        await self._world.called("claim", node.id)
        fake = self._node(node)
        fake.epoch, fake.holder = fence.epoch, fence.holder

    async def init(self, node: Node, role: Role, *, fence: Fence, key: str) -> None:
        self._world.fences.append(fence)
        await self._world.called("init", node.id, role)
        self._node(node).phase = AgentPhase.READY

    async def links(
        self, node: Node, peers: Sequence[Peer], *, fence: Fence, key: str
    ) -> AsyncIterator[ClusterResult]:
        self._world.fences.append(fence)
        await self._world.called("links", node.id)
        decoder = self._node(node)
        for peer in peers:
            await self._world.called("link", f"{node.id}-{peer.node_id}")
            self._world.link(decoder, self._world.nodes[peer.node_id])
            yield success(peer.endpoints[0].cluster_id)

    async def unlinks(
        self, node: Node, peers: Sequence[Peer], *, force: bool, fence: Fence, key: str
    ) -> AsyncIterator[ClusterResult]:
        self._world.fences.append(fence)
        await self._world.called("unlinks", node.id)
        for peer in peers:
            await self._world.called("unlink", f"{node.id}-{peer.node_id}")
            self._node(node).rows.pop(peer.endpoints[0].cluster_id, None)
            yield success(peer.endpoints[0].cluster_id)

    async def switch_role(self, node: Node, role: Role, *, fence: Fence, key: str) -> None:
        self._world.fences.append(fence)
        await self._world.called("switch", node.id)
        self._node(node).role = role

    async def finalize(self, node: Node, *, fence: Fence, key: str) -> None:
        self._world.fences.append(fence)
        await self._world.called("finalize", node.id)
        self._node(node).phase = AgentPhase.FINALISED


def success(cluster_id: int) -> ClusterResult:
    """Tell that one endpoint's call went well."""
    return ClusterResult(cluster_id, "LLM_SUCCESS", Verdict.SUCCESS)


class FakeRouter:
    """A router that publishes what it is told."""

    is_pair_aware = False

    def __init__(self, world: FakeWorld) -> None:
        self._world = world

    async def published(self) -> frozenset[str]:
        await self._world.called("published")
        return frozenset(self._world.published)

    async def publish(self, node: Node) -> None:
        await self._world.called("publish", node.id)
        self._world.published.add(node.id)

    async def withdraw(self, node_id: str) -> None:
        await self._world.called("withdraw", node_id)
        self._world.published.discard(node_id)

    async def in_flight(self) -> Mapping[str, int]:
        await self._world.called("in_flight")
        return dict.fromkeys(self._world.nodes, 0)


class FakeMetrics:
    """Pages of engines that have nothing to do."""

    def __init__(self, world: FakeWorld) -> None:
        self._world = world
        self.errors: Mapping[str, str] = {}
        self.scraped = Scraped()

    async def read(self, nodes: Sequence[Node]) -> Mapping[str, Reading]:
        await self._world.called("metrics")
        gauges = {"waiting": 0.0, "running": 0.0, "kv_used": 0.0}
        return {
            node.id: Reading(node_id=node.id, at_s=anyio.current_time(), gauges=gauges)
            for node in nodes
            if node.id in self._world.nodes
        }


class FakeLease:
    """Who leads is what the world says."""

    def __init__(self, world: FakeWorld, holder: str = "me") -> None:
        self._world = world
        self.holder = holder

    @property
    def is_leader(self) -> bool:
        return self._world.leads


@dataclass(slots=True)
class FakeJournal:
    """Keeps everything in order in `lines`; `faults` by the name of a method."""

    start: Remembered = field(default_factory=Remembered)
    faults: dict[str, Fault] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    linked: dict[str, set[int]] = field(default_factory=dict)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    reports: list[Report] = field(default_factory=list)
    intents: int = 0

    async def _write(self, name: str, line: str) -> None:
        await lowlevel.checkpoint()
        fault = self.faults.get(name, self.faults.get("*"))
        if isinstance(fault, Exception):
            raise fault
        if fault is not None:
            await fault()
        self.lines.append(f"{name} {line}".strip())

    async def remembered(self) -> Remembered:
        for incarnation, ids in self.start.linked.items():
            self.linked[incarnation] = set(ids)
        return self.start

    async def set_epoch(self, epoch: int) -> None:
        await self._write("epoch", str(epoch))

    async def set_mode(self, mode: str) -> None:
        await self._write("mode", mode)

    async def set_drains(self, node_ids: Iterable[str]) -> None:
        await self._write("drains", " ".join(sorted(node_ids)))

    async def set_target(self, prompt: int, decoder: int, why: str) -> None:
        await self._write("target", f"{prompt}:{decoder}")

    async def intend(
        self,
        actions: Sequence[Action],
        *,
        decoder_clusters: Mapping[str, Sequence[int]] = _NO_CLUSTERS,
    ) -> tuple[int, ...]:
        await self._write("intend", ", ".join(type(action).__name__ for action in actions))
        for action in actions:
            if isinstance(action, LinkNodes):
                for peer in action.prompts:
                    known = self.linked.setdefault(peer.incarnation, set())
                    known.update(decoder_clusters[action.decoder_id])
        first = self.intents + 1
        self.intents += len(actions)
        return tuple(range(first, self.intents + 1))

    async def ended(self, intent_id: int, outcome: Outcome) -> None:
        await self._write("ended", f"{intent_id} {type(outcome).__name__}")
        self.outcomes[intent_id] = outcome

    async def remember_linked(self, prompt_incarnation: str, cluster_ids: Iterable[int]) -> None:
        await self._write("remember", prompt_incarnation)
        self.linked.setdefault(prompt_incarnation, set()).update(cluster_ids)

    async def forget_linked(self, prompt_incarnation: str, cluster_ids: Iterable[int]) -> None:
        await self._write("forget", prompt_incarnation)
        self.linked.get(prompt_incarnation, set()).difference_update(cluster_ids)

    async def append(self, report: Report) -> None:
        await self._write("append", "")
        self.reports.append(report)

    async def report_at(self, at_unix_s: float | None) -> Report | None:
        return newest_until(self.reports, at_unix_s)

    async def kept_since(self) -> float | None:
        return min((r.snapshot.now_unix_s for r in self.reports), default=None)

    async def history(self, *, limit: int) -> list[dict[str, object]]:
        return []

    async def link_events(
        self, decoder: str, prompt: str, *, limit: int
    ) -> list[dict[str, object]]:
        return []


class InlineWorkers:
    """Runs work where it is called; `fault` strikes before it begins."""

    def __init__(self) -> None:
        self.fault: Fault | None = None

    async def run(self, work: Callable[[], T], *, deadline_s: float) -> T:
        await lowlevel.checkpoint()
        if isinstance(self.fault, Exception):
            raise self.fault
        if self.fault is not None:
            await self.fault()
        return work()


class ToldPolicy:
    """Answers what the test says: a decision, an error, or anything at all."""

    def __init__(self) -> None:
        self.answer: object = Hold(HoldReason.POLICY_HELD)
        self.count = 0

    def decide(self, snapshot: Snapshot) -> Decision:
        self.count += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[return-value]  # A policy may return anything.


class Rig:
    """The production loop over a world in memory."""

    def __init__(
        self,
        world: FakeWorld,
        *,
        journal: FakeJournal | None = None,
        rules: Rules = RULES,
        is_advisory: bool = False,
        faults_in_a_row_max: int = 0,
        gap_min_s: float = 0.1,
        policy: Policy | None = None,
        metrics: MetricsSource | None = None,
        metrics_period_s: float = 9.0,
        deadline_s: float = 2.0,
        shadows: Sequence[Follower] = (),
        advisor: Advisor | None = None,
    ) -> None:
        self.world = world
        self.journal = journal or FakeJournal()
        self.policy = ToldPolicy()
        self.workers = InlineWorkers()
        self.seen: list[Report] = []
        self._changed = anyio.Event()
        provider, router, agents = FakeProvider(world), FakeRouter(world), FakeAgents(world)
        self.loop = ControlLoop(
            LoopSettings(
                rules=rules,
                is_advisory=is_advisory,
                faults_in_a_row_max=faults_in_a_row_max,
                gap_min_s=gap_min_s,
            ),
            Outside(
                provider=provider,
                router=router,
                agents=agents,
                journal=self.journal,
                lease=FakeLease(world),
            ),
            observer=Observer(
                provider=provider,
                router=router,
                agents=agents,
                metrics=metrics or FakeMetrics(world),
                advisor=advisor,
                deadline_s=deadline_s,
                metrics_period_s=metrics_period_s,
                now_unix_s=lambda: 0.0,
            ),
            policy=PolicyRunner(policy or self.policy, self.workers, deadline_s=5.0),
            deadlines=Deadlines(),
            sinks=[self],
            shadows=shadows,
        )

    @property
    def control(self) -> Any:
        """What operators ask through."""
        return self.loop.control

    def append(self, report: Report) -> None:
        """Take in a report and wake whoever waits for one."""
        self.seen.append(report)
        self._changed.set()
        self._changed = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the loop until the block ends."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.loop.run)
            yield
            group.cancel_scope.cancel()

    async def report(self, count: int = 1) -> Report:
        """Wait for so many more reports and return the last."""
        wanted = len(self.seen) + count
        await self.until(lambda _: len(self.seen) >= wanted)
        return self.seen[-1]

    async def until(self, is_so: Callable[[Report], bool], *, within_s: float = 3600.0) -> Report:
        """Wait for the first report of which something is so."""
        with anyio.fail_after(within_s):
            while not self.seen or not is_so(self.seen[-1]):
                await self._changed.wait()
        return self.seen[-1]

    async def at_target(self, prompt: int, decoder: int) -> Report:
        """Wait until exactly so many nodes of each role serve and no action is planned."""
        return await self.until(
            lambda r: (
                r.snapshot.serving(Role.PROMPT) == prompt
                and r.snapshot.serving(Role.DECODER) == decoder
                and len(r.snapshot.nodes) == prompt + decoder
                and not r.plan.actions
            )
        )


def starts(report: Report) -> list[StartNode]:
    """List the starts of a report's plan."""
    return [action for action in report.plan.actions if isinstance(action, StartNode)]


def asked(prompt: int, decoder: int) -> Target:
    """Make a policy's target."""
    return Target(prompt, decoder, why="the test asks for it")
