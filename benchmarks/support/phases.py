"""The phases of one linking, read from the loop's own reports."""

import math
from dataclasses import dataclass, field

import anyio

from pd_autoscaler.model.link import LinkState
from pd_autoscaler.model.node import NodeState
from pd_autoscaler.model.plan import LinkNodes
from pd_autoscaler.model.report import Done, Report


@dataclass(slots=True)
class Phases:
    """What the loop's reports say since the clock began; times are monotonic seconds.

    `cut_s` is when the first link was dropped, `early` counts link calls begun by a cycle that
    looked before the last one was.
    """

    links: int
    nodes: int
    cut_s: float = math.inf
    began_s: float = math.inf
    noticed_s: float = math.inf
    called_s: float = math.inf
    linked_s: float = math.inf
    ended_s: float = math.inf
    cycles: int = 0
    failed: int = 0
    early: int = 0
    spent_s: dict[str, float] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    changed: anyio.Event = field(default_factory=anyio.Event)
    latest: Report | None = None

    def append(self, report: Report) -> None:
        """Take in one report."""
        now_s = anyio.current_time()
        self.latest = report
        self.changed.set()
        self.changed = anyio.Event()
        calls = sum(isinstance(action, LinkNodes) for action in report.plan.actions)
        looked_s = report.snapshot.now_s - report.phase_s.get("observe", 0.0)
        if self.cut_s < report.snapshot.now_s and looked_s < self.began_s:
            self.early += calls
        if report.snapshot.now_s < self.began_s:
            return
        self.cycles += 1
        for phase, spent_s in report.phase_s.items():
            self.spent_s[phase] = self.spent_s.get(phase, 0.0) + spent_s
        for outcome in report.outcomes:
            if isinstance(outcome.action, LinkNodes) and not isinstance(outcome, Done):
                self.failed += 1
                self.codes[outcome.why] = self.codes.get(outcome.why, 0) + 1
        if not self.is_whole:
            self.noticed_s = min(self.noticed_s, report.snapshot.now_s)
        if calls:
            self.called_s = min(self.called_s, now_s)
        is_whole = self.is_whole and self.noticed_s < math.inf
        if is_whole:
            self.linked_s = min(self.linked_s, report.snapshot.now_s)
        if is_whole and self.serves(self.nodes):
            self.ended_s = min(self.ended_s, report.snapshot.now_s)

    @property
    def is_whole(self) -> bool:
        """Whether the newest report says that every link is up."""
        if self.latest is None:
            return False
        return self.latest.snapshot.links.get(LinkState.LINKED, 0) == self.links

    def serves(self, nodes: int) -> bool:
        """Whether the newest report says that every node is known and so many serve."""
        if self.latest is None or not self.latest.snapshot.is_synced:
            return False
        return sum(n.state is NodeState.SERVING for n in self.latest.snapshot.nodes) == nodes

    async def cycle(self) -> None:
        """Wait for the end of a cycle."""
        await self.changed.wait()

    async def ended(self) -> None:
        """Wait until every link is up and every node serves."""
        while self.ended_s == math.inf:
            await self.cycle()
