"""The control loop: observe, decide, plan, act, report; one cycle at a time."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import anyio

from pd_autoscaler.core import (
    gates,
    guard,
    lead_times,
    lifecycle,
    link_limits,
    mesh,
    outcomes,
    planner,
    snapshots,
)
from pd_autoscaler.core.fleet import Fleet
from pd_autoscaler.core.rules import Rules
from pd_autoscaler.core.sight import Leave
from pd_autoscaler.core.signal_alarms import signal_alarms
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Mode, Target
from pd_autoscaler.model.facts import Facts
from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.model.plan import Action, Plan, StartNode
from pd_autoscaler.model.report import Done, Failed, Move, Outcome, Report, Shadow
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.model.wording import sentence
from pd_autoscaler.ports import Journal, Lease, NodeAgent, NodeProvider, ReportSink, Router
from pd_autoscaler.runtime.actuator import Actuator, Deadlines
from pd_autoscaler.runtime.fencing import Fencing
from pd_autoscaler.runtime.linked_ids import LinkedIds
from pd_autoscaler.runtime.observer import Observer
from pd_autoscaler.runtime.phases import Phases
from pd_autoscaler.runtime.policy_runner import PolicyRunner
from pd_autoscaler.runtime.scribe import Scribe
from pd_autoscaler.runtime.shadow import Follower, Shadows
from pd_autoscaler.runtime.standing import Standing

log = logging.getLogger(__name__)

_BLIND = Hold(HoldReason.MASS_FAILURE, "too much of the fleet is silent")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """How the loop runs; times in seconds.

    `gap_min_s` keeps pokes from making cycles follow each other without a breath. A cycle that
    fails unexpectedly is given up and the next one tried, `faults_in_a_row_max` times; then the
    error ends the loop, so that a supervisor begins it afresh from what is there.
    """

    period_s: float = 10.0
    gap_min_s: float = 0.1
    faults_in_a_row_max: int = 0
    is_advisory: bool = False
    rules: Rules = field(default_factory=Rules)
    signals: snapshots.SignalRules = field(default_factory=snapshots.SignalRules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """The ports that the loop acts through."""

    provider: NodeProvider
    router: Router
    agents: NodeAgent
    journal: Journal
    lease: Lease


class ControlLoop:
    """Brings the fleet to the target that the policy asks for and the guard allows.

    `control` is what operators ask through; `run` ends by cancellation, or with the error of the
    last of too many cycles that failed in a row.
    """

    def __init__(
        self,
        settings: LoopSettings,
        outside: Outside,
        *,
        observer: Observer,
        policy: PolicyRunner,
        deadlines: Deadlines,
        sinks: Sequence[ReportSink] = (),
        shadows: Sequence[Follower] = (),
    ) -> None:
        self._settings = settings
        self._outside = outside
        self._observer = observer
        self._policy = policy
        self._shadows = Shadows(shadows)
        self._deadlines = deadlines
        self._sinks = sinks
        self._poked = anyio.Event()
        self._scribe = Scribe()
        self._fleet = Fleet()
        self._memory = settings.signals.begun()
        self._leads = lead_times.LeadTimes()
        self._guard: gates.GuardMemory | None = None
        self._moves: list[Move] = []
        self._linked_ids = LinkedIds(outside.journal, self._scribe, {})
        self._faults: list[str] = []
        self._cycle = 0
        self._fencing = Fencing(
            outside.lease,
            outside.agents,
            outside.journal,
            self._scribe,
            claim_s=deadlines.router_s,
        )
        self._began_s = 0.0
        self.control = Standing(
            outside.journal,
            settings.rules.guard.limits,
            is_advisory=settings.is_advisory,
            poke=self.poke,
        )

    @property
    def epoch(self) -> int:
        """The fencing epoch; 0 before the first cycle."""
        return self._fencing.epoch

    @property
    def is_policy_hung(self) -> bool:
        """Whether a policy call is past its deadline and has not returned."""
        return self._policy.is_hung

    def poke(self) -> None:
        """Have the next cycle begin at once instead of at its period."""
        self._poked.set()

    async def run(self) -> None:
        """Take up what the journal remembers and run cycles until cancelled."""
        await self._take_up()
        async with anyio.create_task_group() as group:
            actuator = Actuator(
                group,
                provider=self._outside.provider,
                router=self._outside.router,
                agents=self._outside.agents,
                journal=self._outside.journal,
                deadlines=self._deadlines,
                fence=lambda: self._fencing.fence,
                poke=self.poke,
            )
            while True:
                began_s = anyio.current_time()
                await self._try_cycle(actuator)
                await self._wait_until(began_s + self._settings.period_s)

    async def _wait_until(self, next_s: float) -> None:
        """Wait for the next period or a poke, and always for the smallest gap.

        The gap comes last: calls end in groups, and one cycle takes in what ends soon after.
        """
        gap_s = self._settings.gap_min_s
        await self._due(next_s - gap_s)
        await anyio.sleep(gap_s)
        self._poked = anyio.Event()

    async def _due(self, at_s: float) -> None:
        with anyio.move_on_after(max(0.0, at_s - anyio.current_time())):
            await self._poked.wait()

    async def _take_up(self) -> None:
        remembered = await self._outside.journal.remembered()
        self._began_s = anyio.current_time()
        self._cycle = remembered.cycle
        self._fencing.take_up(remembered.epoch)
        self.control.take_up(remembered)
        self._fleet = replace(
            self._fleet,
            request_count=remembered.request_count,
            linked=dict(remembered.linked),
            leaving=remembered.draining,
            inherited=remembered.draining,
            former=remembered.nodes,
            next_roles=dict(remembered.switching),
        )
        for request_id, role in sorted(remembered.pending.items()):
            # Asked for and not named yet: asking again under the same id asks for nothing more.
            start = StartNode(role, request_id)
            self._fleet, _ = outcomes.begun(self._fleet, start, now_s=self._began_s)
        self._linked_ids = LinkedIds(self._outside.journal, self._scribe, self._fleet.linked)
        if remembered.cycle:
            log.info(
                "taken up from the journal: mode %s, target %s",
                self.control.mode,
                self.control.target or "unset",
            )
        for intent in remembered.open_intents:
            log.warning("found an open intent, its outcome is unknown: %s", intent)

    async def _try_cycle(self, actuator: Actuator) -> None:
        """Run one cycle; a fault of our own ends it, and only too many in a row end the loop."""
        try:
            await self._run_cycle(actuator)
        except Exception as error:
            self._faults.append(f"a cycle failed: {type(error).__name__}: {error}")
            if len(self._faults) > self._settings.faults_in_a_row_max:
                raise
            log.exception("a cycle failed unexpectedly, the next one goes on from there")
        else:
            self._faults = []

    async def _run_cycle(self, actuator: Actuator) -> None:
        """Observe, decide, plan, act, report."""
        phases, rules = Phases(anyio.current_time()), self._settings.rules
        ended = actuator.ended()
        self._take_in(ended)
        facts = await self._observer.observe(self._fleet.nodes.values())
        phases.end("observe")

        snapshot, moves, alarms = await self._concluded(facts)
        # Before anything is planned: links to be made are kept with their intents.
        await self._linked_ids.follow(self._fleet)
        if self._may_act():
            known = self._fleet.nodes
            await self._fencing.claim([known[i] for i in facts.agents if i in known])
        decision = await self._decide(snapshot)
        phases.end("decide")

        memory = self._guard or gates.GuardMemory(began_s=self._began_s)
        answer = guard.guarded(decision, snapshot, rules.guard, memory)
        target = await self._stand(snapshot.target, answer.decision)
        # A change that was not made starts no cooldown.
        changed_at_s = (answer.memory if target == answer.decision else memory).changed_at_s
        self._guard = answer.memory._replace(changed_at_s=changed_at_s)
        busy = actuator.busy
        plan = await self._planned(snapshot, target, busy)
        waits = mesh.waits(self._fleet, busy, rules.link, now_s=snapshot.now_s)
        phases.end("plan")

        await self._act(actuator, plan)
        phases.end("act")
        shadows = await self._shadowed(snapshot, phases)
        self._cycle += 1
        alarms += [*signal_alarms(snapshot, rules.guard), *_unread(facts), *self._faults]
        alarms += [self._scribe.alarm] if self._scribe.alarm else []
        agents = self._fleet.agents
        await self._report(
            Report(
                cycle=self._cycle,
                snapshot=snapshot,
                decision=decision,
                guarded=answer.decision,
                gates=answer.gates,
                target=target,
                mode=self.control.mode,
                plan=plan,
                outcomes=ended,
                moves=tuple(moves),
                links=tuple(self._fleet.links.values()),
                waits=waits,
                is_meshed=rules.link.is_meshed,
                card_links=link_limits.card_links(self._fleet, rules.link.ranks),
                alarms=tuple(alarms),
                hung_calls={k: v.calls_hung for k, v in agents.items() if v.calls_hung},
                engine_load={k: v.engine for k, v in facts.agents.items()},
                scraped=facts.scraped,
                epoch=self._fencing.epoch,
                is_acting=self._may_act(),
                phase_s=phases.spent_s,
                shadows=shadows,
            )
        )

    def _take_in(self, ended: Sequence[Outcome]) -> None:
        """Let the outcomes change the fleet; what fails to be taken in counts as unknown."""
        now_s = anyio.current_time()
        try:
            self._fleet = outcomes.all_ended(self._fleet, ended, self._settings.rules, now_s=now_s)
        except Exception:
            self._fleet = outcomes.doubted(self._fleet, ended, now_s=now_s)
            raise

    async def _concluded(self, facts: Facts) -> tuple[Snapshot, list[Move], list[str]]:
        """Let the facts move the fleet, and take the snapshot."""
        rules, control = self._settings.rules, self.control
        was_synced = self._fleet.is_synced
        self._fleet, moves, alarms = lifecycle.observed(self._fleet, facts, rules)
        await self._drained()
        moves, self._moves = [*self._moves, *moves], []
        self._leads = lead_times.measured(self._leads, moves)
        alarms += await self._fencing.observed(
            facts.agents, nodes=len(self._fleet.nodes), was_synced=was_synced
        )
        if control.target is None and self._fleet.is_synced:
            await self._scribe.write(
                control.move(snapshots.found_target(self._fleet, rules.guard.limits))
            )
        snapshot, self._memory = snapshots.taken(
            self._fleet,
            facts,
            control.target or snapshots.found_target(self._fleet, rules.guard.limits),
            memory=self._memory,
            leads=self._leads.percentiles(),
            rules=self._settings.signals,
            limits=rules.guard.limits,
        )
        return snapshot, moves, alarms

    async def _drained(self) -> None:
        """Forget what operators asked of nodes that are gone, or back in their pool."""
        asked, nodes = self.control.drains, self._fleet.nodes.values()
        left = asked & {n.id for n in nodes if n.state is not NodeState.STANDBY}
        is_new = left != asked and self._fleet.is_synced
        if is_new and await self._scribe.write(self._outside.journal.set_drains(left)):
            self.control.drains = left
        if left != self._fleet.drains:
            self._fleet = replace(self._fleet, drains=left)

    async def _decide(self, snapshot: Snapshot) -> Decision:
        if self.control.mode in {Mode.PAUSED, Mode.STOPPED}:
            return Hold(HoldReason.PAUSED, "an operator paused the policy")
        if self._scribe.alarm:
            return Hold(HoldReason.JOURNAL_FAILED, self._scribe.alarm)
        return _BLIND if self._fleet.is_blind else await self._policy.decide(snapshot)

    async def _shadowed(self, snapshot: Snapshot, phases: Phases) -> tuple[Shadow, ...]:
        """Ask the shadows last, when all that acts has begun, and not beyond the next cycle."""
        held, settings = _BLIND if self._fleet.is_blind else None, self._settings

        async def enough() -> None:
            await self._due(phases.began_s + settings.period_s - 2 * settings.gap_min_s)
            await anyio.sleep(settings.gap_min_s)

        shadows = await self._shadows.follow(snapshot, held=held, enough=enough)
        if shadows:
            phases.end("shadow")
        return shadows

    async def _stand(self, standing: Target, decision: Decision) -> Target:
        """Move the standing target to the guard's answer, once the journal has it."""
        control = self.control
        was_overruled = control.mode in {Mode.PAUSED, Mode.STOPPED} or (
            control.target is not None and control.target != standing
        )
        if isinstance(decision, Hold) or decision == standing or was_overruled:
            # An operator who spoke while the policy thought has the last word.
            return control.target or standing
        await self._scribe.write(self.control.move(decision))
        return self.control.target or standing

    async def _planned(self, snapshot: Snapshot, target: Target, busy: frozenset[str]) -> Plan:
        rules, now_s = self._settings.rules, snapshot.now_s
        leave = Leave(
            may_remove=now_s - self._began_s >= rules.guard.down_window_s,
            spare=frozenset(role for role in Role if guard.can_spare(snapshot, role)),
        )
        plan = planner.planned(self._fleet, target, rules, busy=busy, leave=leave, now_s=now_s)
        removes = any(isinstance(action, planner.REMOVALS) for action in plan.actions)
        if removes and self._may_act():
            # Validated again: the policy may have thought for seconds since the snapshot.
            published = await self._observer.published()
            return planner.revalidated(plan, self._fleet, published, rules)
        return plan

    def _may_act(self) -> bool:
        is_idle = self.control.mode in {Mode.STOPPED, Mode.ADVISORY}
        return self._fencing.may_act and not is_idle

    async def _act(self, actuator: Actuator, plan: Plan) -> None:
        """Begin the plan's actions; what cannot be written ahead is not begun."""
        if not self._may_act() or not plan.actions:
            return
        begun: list[Action] = []

        async def begin() -> None:
            begun.extend(await actuator.begin(plan, self._fleet, may_begin=self._may_act))

        await self._scribe.write(begin())
        self._fleet, moves = outcomes.all_begun(self._fleet, begun, now_s=anyio.current_time())
        self._moves += moves
        self._linked_ids.begun(begun, self._fleet)

    async def _report(self, report: Report) -> None:
        self.control.latest = report
        await self._scribe.write(self._outside.journal.append(report))
        for sink in self._sinks:
            sink.append(report)
        for move in report.moves:
            log.info("%s %s -> %s: %s", move.node_id, move.before, move.after, move.why)
        for outcome in report.outcomes:
            if not isinstance(outcome, Done):
                ending = "failed" if isinstance(outcome, Failed) else "has an unknown outcome"
                log.warning("%s %s: %s", sentence(outcome.action), ending, outcome.why)


def _unread(facts: Facts) -> list[str]:
    """Say which of the sources that everything waits for did not answer."""
    errors, names = facts.errors, ("provider", "router", "advisor")
    return [f"the {name} cannot be read: {errors[name]}" for name in names if name in errors]
