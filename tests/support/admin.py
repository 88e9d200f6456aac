"""An admin API to ask: a stand-in for the loop and the journal, and a rich report to show."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge

from pd_autoscaler.admin.app import build_app
from pd_autoscaler.admin.serve import serve
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.capacity import Demand, NodeCapacity
from pd_autoscaler.model.decision import Gate, Hold, HoldReason, Mode, Target
from pd_autoscaler.model.facts import EngineLoad
from pd_autoscaler.model.link import Link, LinkState
from pd_autoscaler.model.node import Endpoint, Node, NodeState, Role
from pd_autoscaler.model.plan import Action, InitNode, LinkNodes, Peer, StartNode, in_waves
from pd_autoscaler.model.report import Done, Failed, Move, Outcome, Report, Shadow, Unknown
from pd_autoscaler.model.signals import NodeSignals, RoleSignals, Signal
from pd_autoscaler.model.snapshot import Attribution, Bottleneck, LeadTime, Limits, Snapshot
from pd_autoscaler.ports import Remembered
from tests.support.reports import START_UNIX_S, newest_until

NOW_S = 1000.0
TOKEN = "correct horse"
COOLING = "the target moved 48 s ago; may shrink in 72 s"


class StandInControl:
    """Does what it is told to the mode, and keeps a list of what it was told."""

    def __init__(self, latest: Report | None = None) -> None:
        self.latest = latest
        self.told: list[str] = []
        self.refusal: Exception | None = None

    async def pause(self, *, everything: bool) -> Mode:
        """Pause."""
        self._take(f"pause everything={everything}")
        return Mode.STOPPED if everything else Mode.PAUSED

    async def resume(self) -> Mode:
        """Resume."""
        self._take("resume")
        return Mode.ACTIVE

    async def scale(self, prompt: int, decoder: int) -> Target:
        """Set the target; four nodes a role are the limit."""
        if prompt > 4:
            raise ConfigError(f"prompt={prompt} is above guard.prompt_max=4; ask for 4 or fewer")
        self._take(f"scale {prompt}P:{decoder}D")
        return Target(prompt, decoder, "an operator asked for it")

    async def drain(self, node_id: str) -> None:
        """Drain a node that is known."""
        if self.latest and node_id not in {node.id for node in self.latest.snapshot.nodes}:
            raise ConfigError(f"there is no node {node_id!r}; 'pd-autoscaler status' lists them")
        self._take(f"drain {node_id}")

    def _take(self, order: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.told.append(order)


class StandInJournal:
    """Has these entries, newest first, and refuses every write: the admin API only reads."""

    def __init__(
        self,
        entries: Sequence[dict[str, object]] = (),
        attempts: Sequence[dict[str, object]] = (),
        reports: Sequence[Report] = (),
    ) -> None:
        self.entries = list(entries)
        self.attempts = list(attempts)
        self.reports = list(reports)
        self.failure: Exception | None = None

    async def history(self, *, limit: int) -> list[dict[str, object]]:
        """Return the newest entries."""
        if self.failure is not None:
            raise self.failure
        return self.entries[:limit]

    async def report_at(self, at_unix_s: float | None) -> Report | None:
        """Return the newest report of then."""
        if self.failure is not None:
            raise self.failure
        return newest_until(self.reports, at_unix_s)

    async def kept_since(self) -> float | None:
        """Return the wall time of the oldest report."""
        return min((r.snapshot.now_unix_s for r in self.reports), default=None)

    async def link_events(
        self, decoder: str, prompt: str, *, limit: int
    ) -> list[dict[str, object]]:
        """Return the newest attempts at a pair."""
        if self.failure is not None:
            raise self.failure
        pair = {decoder, prompt}
        return [a for a in self.attempts if {a["node"], a["peer"]} == pair][:limit]

    async def remembered(self) -> Remembered:
        """Refuse."""
        raise AssertionError("the API only reads the journal")

    async def set_epoch(self, epoch: int) -> None:
        """Refuse."""
        raise AssertionError("the API only reads the journal")

    async def set_mode(self, mode: str) -> None:
        """Refuse."""
        raise AssertionError("the API only reads the journal")

    async def set_drains(self, node_ids: Iterable[str]) -> None:
        """Refuse."""
        raise AssertionError("the API only reads the journal")

    async def set_target(self, prompt: int, decoder: int, why: str) -> None:
        """Refuse."""
        raise AssertionError("the API only reads the journal")

    async def intend(
        self, actions: Sequence[Action], *, decoder_clusters: Mapping[str, Sequence[int]] = {}
    ) -> tuple[int, ...]:
        """Refuse."""
        raise AssertionError("the API only reads the journal")

    async def ended(self, intent_id: int, outcome: Outcome) -> None:
        """Refuse."""
        raise AssertionError("the API only reads the journal")

    async def remember_linked(self, prompt_incarnation: str, cluster_ids: Iterable[int]) -> None:
        """Refuse."""
        raise AssertionError("the API only reads the journal")

    async def forget_linked(self, prompt_incarnation: str, cluster_ids: Iterable[int]) -> None:
        """Refuse."""
        raise AssertionError("the API only reads the journal")

    async def append(self, report: Report) -> None:
        """Refuse."""
        raise AssertionError("the API only reads the journal")


@dataclass
class AdminParts:
    """What an admin API is built of; change a part, then ask."""

    control: StandInControl = field(default_factory=StandInControl)
    journal: StandInJournal = field(default_factory=StandInJournal)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    token: str | None = None
    ready: tuple[bool, str] = (True, "")
    healthy: tuple[bool, str] = (True, "")
    now_s: float = NOW_S
    limits: dict[str, Any] = field(default_factory=dict)

    def app(self) -> web.Application:
        """Build the app over these parts."""
        return build_app(
            self.control,
            self.journal,
            self.registry,
            version="1.2.3",
            token=self.token,
            ready=lambda: self.ready,
            healthy=lambda: self.healthy,
            clock=lambda: self.now_s,
            **self.limits,
        )


@asynccontextmanager
async def served(parts: AdminParts) -> AsyncIterator[str]:
    """Serve the parts on a free loopback port and yield the URL."""
    async with serve(parts.app(), port=0) as url:
        yield url


def a_registry() -> CollectorRegistry:
    """Return a registry with one gauge."""
    registry = CollectorRegistry()
    Gauge("pd_autoscaler_nodes", "Nodes.", registry=registry).set(8)
    return registry


def a_rich_report(*, mode: Mode = Mode.PAUSED, cycle: int = 1234, now_s: float = NOW_S) -> Report:
    """Return eight nodes in the midst of a rebalance: one pair hangs, one failed, one node leaves.

    The report was made three seconds before `now_s`.
    """
    at_s = now_s - 3.0
    nodes = _nodes(at_s)
    peer = Peer("prompt-3", "prompt-3-i1", nodes[3].endpoints)
    start, link = StartNode(Role.PROMPT, "run7-12"), LinkNodes("decoder-2", (peer,))
    return Report(
        cycle=cycle,
        snapshot=_snapshot(nodes, at_s),
        decision=Target(4, 3, "prompt queue 6.2 per node is above 4; 3 decoders can carry it"),
        guarded=Hold(HoldReason.COOLDOWN, f"{COOLING}; the policy wants 4P:3D"),
        gates=(
            Gate(HoldReason.STEP, Role.PROMPT, "6 asked for, at most 4 at once"),
            Gate(HoldReason.COOLDOWN, Role.DECODER, COOLING),
        ),
        target=Target(4, 4, "an operator asked for it"),
        mode=mode,
        plan=in_waves([link], ("decoder-3 waits: prompt-3 does not serve yet",)),
        outcomes=(
            Done(start, took_s=0.25),
            Failed(InitNode("prompt-3", Role.PROMPT), "HTTP 503", took_s=5.0, code="LLM_FAILED"),
            Unknown(link, "no answer within 10s", took_s=10.0),
        ),
        moves=(Move("prompt-3", Role.PROMPT, NodeState.INITIALISING, NodeState.LINKING, "", 12.5),),
        links=_links(at_s),
        alarms=("link decoder-1 - prompt-3 has hung for 95 s: LLM-DataDist does not answer",),
        phase_s={"observe": 0.41, "decide": 0.002},
        hung_calls={"decoder-1": 1, "decoder-0": 0},
        epoch=7,
        engine_load={"decoder-3": EngineLoad(waiting=0, running=3)},
        shadows=_shadows(),
    )


def _shadows() -> tuple[Shadow, ...]:
    """Return one that would be elsewhere, and one that does not answer."""
    asked = Target(5, 4, "9,100 prompt tokens/s expected, 2,000 a node")
    hung = Hold(HoldReason.POLICY_FAILED, "no answer within 5 s")
    return (
        Shadow("throughput", asked, asked, asked),
        Shadow("hung", hung, hung, Target(4, 4), (Gate(hung.reason, detail=hung.detail),)),
    )


def a_rich_history(newest_unix_s: float = START_UNIX_S) -> list[dict[str, object]]:
    """Return the journal's entries that lead to `a_rich_report`, newest first."""
    linking: dict[str, object] = {"role": "prompt", "before": "initialising", "after": "linking"}
    draining: dict[str, object] = {"role": "decoder", "before": "serving", "after": "draining"}
    told: list[tuple[float, str, str, dict[str, object]]] = [
        (3, "move", "prompt-3 initialising -> linking: ready, 1 endpoint", linking),
        (16, "done", "start one prompt node (run7-12): done after 0.25 s", {}),
        (17, "target", "4P:4D: an operator asked for it", {"prompt": 4, "decoder": 4}),
        (48, "move", "decoder-3 serving -> draining: one decoder less", draining),
        (49, "target", "3P:3D: decoders at 31% of their KV cache", {"prompt": 3, "decoder": 3}),
        (49, "hold", "cooldown: the last removal was 48 s ago", {"reason": "cooldown"}),
        (60, "alarm", "link decoder-1 - prompt-3 has hung for 38 s", {}),
        (300, "target", "3P:4D: the start", {"prompt": 3, "decoder": 4}),
    ]
    return [
        {"at_unix_s": newest_unix_s - ago_s, "kind": kind, "text": text, **data}
        for ago_s, kind, text, data in told
    ]


def a_rich_past(newest_unix_s: float = START_UNIX_S) -> list[dict[str, object]]:
    """Return what a journal knows of the pair that failed in `a_rich_report`, newest first."""
    pair: dict[str, object] = {"node": "decoder-2", "peer": "prompt-3", "verb": "link"}
    code = "LLM_LINK_FAILED"
    refused = {"outcome": "failed", "code": code, "why": code, "took_s": 5.0}
    hung = {"outcome": "unknown", "code": "", "why": "no answer within 12 s", "took_s": 12.0}
    return [
        {"at_unix_s": newest_unix_s - 12.0, **pair, **refused},
        {"at_unix_s": newest_unix_s - 37.0, **pair, **hung},
    ]


def _nodes(at_s: float) -> tuple[Node, ...]:
    def node(role: Role, number: int, state: NodeState, age_s: float, why: str = "") -> Node:
        name = f"{role}-{number}"
        endpoint = Endpoint(0, 2**63 + number, f"10.0.0.{number}", 26000)
        return Node(
            id=name,
            role=role,
            state=state,
            since_s=at_s - age_s,
            why=why,
            incarnation=f"{name}-i1",
            endpoints=(endpoint,),
            agent_urls=(f"http://10.0.0.{number}:9000",),
            metrics_url=f"http://10.0.0.{number}:9000/metrics",
            ready_at_s=at_s + 23.0 if state is NodeState.LINKING else None,
            is_suspect=name == "decoder-1",
        )

    serving, prompt, decoder = NodeState.SERVING, Role.PROMPT, Role.DECODER
    return (
        *(node(prompt, n, serving, 7000.0 - n, "all links are up") for n in range(3)),
        node(prompt, 3, NodeState.LINKING, 98.0, "2 of 4 links are up"),
        *(node(decoder, n, serving, 86500.0 - n, "all links are up") for n in range(3)),
        node(decoder, 3, NodeState.DRAINING, 45.0, "3P:4D asks for one decoder less"),
    )


def _links(at_s: float) -> tuple[Link, ...]:
    def link(decoder: int, prompt: int, state: LinkState, age_s: float) -> Link:
        names = f"decoder-{decoder}", f"prompt-{prompt}"
        return Link(decoder=names[0], prompt=names[1], state=state, since_s=at_s - age_s)

    hung = link(1, 3, LinkState.SUSPECT, 95.0)
    failed = link(2, 3, LinkState.FAILED, 12.0)
    why = "the peer did not answer"
    return (
        *(link(n // 3, n % 3, LinkState.LINKED, 6000.0) for n in range(12)),
        link(0, 3, LinkState.LINKED, 80.0),
        replace(hung, why="no answer within 10s", attempts=1),
        replace(failed, why=why, code="LLM_LINK_FAILED", attempts=3, retry_at_s=at_s + 9.0),
        link(3, 3, LinkState.LINKING, 0.5),
    )


def _snapshot(nodes: tuple[Node, ...], at_s: float) -> Snapshot:
    serving = [node for node in nodes if node.state is NodeState.SERVING]
    return Snapshot(
        now_s=at_s,
        now_unix_s=START_UNIX_S,
        target=Target(4, 4, "an operator asked for it"),
        nodes=nodes,
        prompt=RoleSignals(
            serving=3, fresh=3, queue=Signal(18.6, 0.4), ttft_p95_s=Signal(10.0, 0.4, True)
        ),
        decoder=RoleSignals(
            serving=3,
            fresh=2,
            running=Signal(96.0, 0.4),
            tpot_p95_s=Signal(0.031, 0.4),
            kv_used_mean=Signal(0.62, 0.4),
            token_rate=Signal(float("inf"), 0.4),
        ),
        node_signals={
            node.id: NodeSignals(
                node_id=node.id,
                age_s=0.4,
                engine="vllm",
                is_fresh=node.id != "decoder-1",
                doubt="frozen: no number moved for 41 s" if node.id == "decoder-1" else "",
                queue=Signal(6.2, 0.4) if node.role is Role.PROMPT else None,
                running=Signal(32.0, 0.4),
                kv_used=Signal(0.62, 0.4),
            )
            for node in serving
        },
        attribution=Attribution(
            Bottleneck.PROMPT, "queue 6.2 per prompt node, decoders at 62% of their KV cache"
        ),
        limits=Limits(prompt_max=4, decoder_max=6, nodes_max=9),
        demand=Demand(requests_per_s=Signal(12.4, 0.4), input_len=Signal(2048.0, 0.4)),
        capacity=(
            NodeCapacity(
                role=Role.PROMPT, node_class="vllm", prefill_tokens_per_s=11800.0, samples=50
            ),
            NodeCapacity(
                role=Role.DECODER,
                node_class="vllm",
                step_base_s=0.0082,
                step_per_request_s=0.00011,
                step_per_token_s=2.1e-8,
                samples=240,
                rejected=3,
                error=0.04,
            ),
        ),
        lead_times={"start": LeadTime(31.0, 58.0, 12), "link": LeadTime(0.4, 1.1, 40)},
        published=frozenset(node.id for node in serving),
    )
