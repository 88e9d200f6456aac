"""A journal in memory that outlives the controllers of a run."""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from types import MappingProxyType

from pd_autoscaler.core.attempts import KEPT_MAX, Attempt, attempts_of
from pd_autoscaler.errors import TransientError
from pd_autoscaler.model.node import OUTWARD, Role
from pd_autoscaler.model.plan import Action, DrainNode, LinkNodes, StartNode
from pd_autoscaler.model.report import Failed, Outcome, Report
from pd_autoscaler.ports import Remembered
from pd_autoscaler.sim.adapters import Step
from pd_autoscaler.sim.faults import CallFault

REPORTS_KEPT_MAX = 32
"""Newest reports kept: a run has thousands, and nobody looks further back."""

_NONE: Mapping[str, Sequence[int]] = MappingProxyType({})


@dataclass(slots=True)
class Memory:
    """What was written; it stays when a controller is killed."""

    epoch: int = 0
    cycle: int = 0
    mode: str = "active"
    target: tuple[int, int] | None = None
    request_count: int = 0
    intents: int = 0
    open: dict[int, Action] = field(default_factory=dict)
    linked: dict[str, set[int]] = field(default_factory=dict)
    nodes: frozenset[str] = frozenset()
    draining: frozenset[str] = frozenset()
    switching: dict[str, Role] = field(default_factory=dict)
    drains: frozenset[str] = frozenset()
    pending: dict[str, Role] = field(default_factory=dict)
    young_starts: dict[int, StartNode] = field(default_factory=dict)
    """Starts that the last report may not show yet, by intent id."""
    young_drains: dict[int, DrainNode] = field(default_factory=dict)
    """Drains that the last report may not show yet, by intent id."""
    attempts: defaultdict[frozenset[str], deque[Attempt]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=KEPT_MAX))
    )
    """Ends of link and unlink calls by the two nodes they touched, oldest first."""
    reports: deque[Report] = field(default_factory=lambda: deque(maxlen=REPORTS_KEPT_MAX))


class SimJournal:
    """One controller's way to the memory; every write may fail, and then nothing was written."""

    def __init__(self, step: Step, memory: Memory) -> None:
        self._step = step
        self._memory = memory

    async def remembered(self) -> Remembered:
        """Read what a starting controller needs, and end the open intents as unknown."""
        await self._step.take(self._step.short(0.001))
        memory = self._memory
        opened = tuple(f"{intent} {action}" for intent, action in memory.open.items())
        memory.open.clear()
        drains = memory.young_drains.values()
        switching = memory.switching | {d.node_id: d.next_role for d in drains}
        return Remembered(
            epoch=memory.epoch,
            cycle=memory.cycle,
            target=memory.target,
            mode=memory.mode,
            request_count=memory.request_count,
            linked={k: frozenset(v) for k, v in memory.linked.items()},
            nodes=memory.nodes,
            draining=memory.draining | {d.node_id for d in drains},
            switching={node_id: role for node_id, role in switching.items() if role},
            drains=memory.drains,
            pending=memory.pending | {a.request_id: a.role for a in memory.young_starts.values()},
            open_intents=opened,
        )

    async def set_epoch(self, epoch: int) -> None:
        """Remember the fencing epoch."""
        await self._write()
        self._memory.epoch = epoch

    async def set_mode(self, mode: str) -> None:
        """Remember the loop's mode."""
        await self._write()
        self._memory.mode = mode

    async def set_drains(self, node_ids: Iterable[str]) -> None:
        """Remember which nodes an operator asked to go."""
        await self._write()
        self._memory.drains = frozenset(node_ids)

    async def set_target(self, prompt: int, decoder: int, why: str) -> None:
        """Remember the standing target."""
        await self._write()
        self._memory.target = (prompt, decoder)
        self._step.world.note(f"target {prompt}P:{decoder}D ({why})")

    async def intend(
        self, actions: Sequence[Action], *, decoder_clusters: Mapping[str, Sequence[int]] = _NONE
    ) -> tuple[int, ...]:
        """Write actions ahead of doing them, all or none, and return an intent id for each."""
        await self._write()
        ids = []
        for action in actions:
            self._memory.intents += 1
            ids.append(self._memory.intents)
            self._memory.open[self._memory.intents] = action
            self._note(action, decoder_clusters)
        return tuple(ids)

    def _note(self, action: Action, decoder_clusters: Mapping[str, Sequence[int]]) -> None:
        memory = self._memory
        match action:
            case LinkNodes(decoder_id=decoder_id, prompts=prompts):
                for peer in prompts:
                    known = memory.linked.setdefault(peer.incarnation, set())
                    known.update(decoder_clusters.get(decoder_id, ()))
            case DrainNode():
                memory.young_drains[memory.intents] = action
            case StartNode(request_id=request_id):
                memory.young_starts[memory.intents] = action
                number = int(request_id.rpartition("-")[2])
                memory.request_count = max(memory.request_count, number)
            case _:
                pass

    async def ended(self, intent_id: int, outcome: Outcome) -> None:
        """Write how an intended action ended."""
        await self._write()
        self._memory.open.pop(intent_id, None)
        if isinstance(outcome, Failed):
            self._memory.young_drains.pop(intent_id, None)
            self._memory.young_starts.pop(intent_id, None)

    async def remember_linked(self, prompt_incarnation: str, cluster_ids: Iterable[int]) -> None:
        """Keep decoder ids whose link to a prompt incarnation was found, not made."""
        await self._write()
        self._memory.linked.setdefault(prompt_incarnation, set()).update(cluster_ids)

    async def forget_linked(self, prompt_incarnation: str, cluster_ids: Iterable[int]) -> None:
        """Drop decoder ids that a prompt incarnation no longer holds."""
        await self._write()
        known = self._memory.linked.get(prompt_incarnation, set())
        known.difference_update(cluster_ids)
        if not known:
            self._memory.linked.pop(prompt_incarnation, None)

    async def append(self, report: Report) -> None:
        """Keep what a restart needs of a report; the checks have read the rest."""
        shown = self._memory.intents
        await self._write()
        memory, nodes = self._memory, report.snapshot.nodes
        memory.reports.append(report)
        memory.cycle = report.cycle
        memory.nodes = frozenset(node.id for node in nodes)
        leaving = [node for node in nodes if node.state in OUTWARD]
        memory.draining = frozenset(node.id for node in leaving)
        memory.switching = {n.id: n.next_role for n in leaving if n.next_role is not None}
        for attempt in attempts_of(report):
            memory.attempts[frozenset({attempt.node, attempt.peer})].append(attempt)
        # The snapshot of a report is older than the actions its own plan began.
        begun = len(report.plan.actions)
        oldest = shown - begun
        memory.young_drains = {k: v for k, v in memory.young_drains.items() if k > oldest}
        memory.young_starts = {k: v for k, v in memory.young_starts.items() if k > oldest}
        memory.pending = {n.id: n.role for n in nodes if n.id == n.request_id}

    async def report_at(self, at_unix_s: float | None) -> Report | None:
        """Return the newest kept report that is not later than a moment; None is the newest."""
        until_unix_s = inf if at_unix_s is None else at_unix_s
        kept = [r for r in self._memory.reports if r.snapshot.now_unix_s <= until_unix_s]
        return max(kept, key=_moment, default=None)

    async def kept_since(self) -> float | None:
        """Return the wall time of the oldest kept report, None where there is none."""
        return min((r.snapshot.now_unix_s for r in self._memory.reports), default=None)

    async def history(self, *, limit: int) -> list[dict[str, object]]:
        """Return nothing: nobody asks in a simulation."""
        del limit
        return []

    async def link_events(
        self, decoder: str, prompt: str, *, limit: int
    ) -> list[dict[str, object]]:
        """Return the newest ends of link and unlink calls that touched a pair, newest first."""
        kept = self._memory.attempts.get(frozenset({decoder, prompt}), ())
        return [asdict(attempt) for attempt in reversed(kept)][:limit]

    async def _write(self) -> None:
        await self._step.take(self._step.short(0.001))
        if self._step.world.faults.strikes(CallFault.JOURNAL_FAILS):
            raise TransientError("the journal cannot be written")


def _moment(report: Report) -> tuple[float, int]:
    return report.snapshot.now_unix_s, report.cycle
