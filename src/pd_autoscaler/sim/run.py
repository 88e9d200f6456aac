"""One seed: hours of faults around the production loop, then calm, checks all the way."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import anyio

from pd_autoscaler.core.rules import Rules
from pd_autoscaler.errors import PdAutoscalerError
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.plan import Plan
from pd_autoscaler.model.report import Report
from pd_autoscaler.policies.contract import Policy
from pd_autoscaler.policies.queue_pressure import QueuePressure, QueuePressureParams
from pd_autoscaler.ports import Control
from pd_autoscaler.runtime.loop import ControlLoop, LoopSettings
from pd_autoscaler.sim import liveness, shape
from pd_autoscaler.sim.adapters import SimLease, Step
from pd_autoscaler.sim.checks import Checks, Violation
from pd_autoscaler.sim.controller import controller
from pd_autoscaler.sim.faults import Faults, WorldFault
from pd_autoscaler.sim.fleet.engines import Engines
from pd_autoscaler.sim.fleet.traffic import PATIENCE_S, PLAIN, Steady
from pd_autoscaler.sim.fleet.world import World
from pd_autoscaler.sim.journal import Memory
from pd_autoscaler.sim.loop import run
from pd_autoscaler.sim.perils import ANSWER_RANGE_S, RATE_RANGE, Perils
from pd_autoscaler.sim.policy import Faulty

HOURS = 1.0
"""Simulated hours of faults in a usual run."""
SETTLE_S = 1800.0
"""Calm after the faults in which the fleet must reach its target."""
QUIET_S = 900.0
"""Calm after that, in which nothing may be planned any more."""


def queue_pressure() -> Policy:
    """Return the policy of a usual run, as it is shipped."""
    return QueuePressure(QueuePressureParams())


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one seed went; `lines` are the last ones of the world's journal before a violation.

    `switches` counts the nodes that took the other role, each time they did.
    """

    seed: int
    digest: str
    cycles: int
    controllers: int
    simulated_s: float
    switches: int
    faults: tuple[str, ...]
    violation: Violation | None = None
    lines: tuple[str, ...] = ()

    @property
    def is_ok(self) -> bool:
        """Whether nothing was violated."""
        return self.violation is None


@dataclass(slots=True)
class _Run:
    """One run: the world, and one controller after the other."""

    world: World
    rules: Rules
    checks: Checks
    policy: Callable[[], Policy]
    memory: Memory = field(default_factory=Memory)
    perils: Perils | None = None
    step: Step | None = None
    lease: SimLease | None = None
    loop: ControlLoop | None = None
    controllers: int = 0
    cycles: int = 0
    on_violation: Callable[[], None] | None = None
    targets: list[Target] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    def append(self, report: Report) -> None:
        """Check a report, and end the run at the first violation."""
        self.cycles += 1
        self.checks.append(report)
        if self.world.faults.is_calm:
            self.targets.append(report.target)
            self.notes = report.plan.notes
            if report.plan.actions:
                self.plans.append(report.plan)
        if self.checks.violations and self.on_violation is not None:
            self.on_violation()

    async def control(self) -> None:
        """Run one controller after the other; each begins where the killed one left the world."""
        while True:
            with anyio.CancelScope() as scope:
                await self._life(scope)
            self.checks.restarted()
            await anyio.sleep(self.world.faults.draw_s("reboot", 0.5, 60.0))

    async def _life(self, scope: anyio.CancelScope) -> None:
        self.controllers += 1
        self.world.note(f"controller {self.controllers}")
        step = self.step = Step(self.world, self.checks, scope.cancel)
        lease = self.lease = SimLease(f"controller-{self.controllers}")
        self.loop = controller(
            step,
            self.memory,
            lease,
            settings=LoopSettings(rules=self.rules),
            policy=Faulty(self.policy(), self.world.faults),
            sinks=[self],
            metrics_period_s=5.0,
        )
        try:
            await self.loop.run()
        except Exception as error:  # The daemon must not end, whatever it met.
            if not step.is_dead:
                self.checks.violated(f"the loop ended: {_told(error)}")
                raise

    def calm(self) -> None:
        """End every fault, those that befell the controller as well."""
        if self.perils is not None:
            self.perils.calm()
        if self.lease is not None:
            self.lease.is_leader = True
        if self.step is not None and not self.step.is_dead:
            self.step.kill_in = None

    def befall(self, fault: WorldFault) -> None:
        """Let a world fault hit the controller that runs now."""
        step, lease, faults = self.step, self.lease, self.world.faults
        match fault:
            case WorldFault.CONTROLLER_KILLED if step is not None:
                step.kill_in = faults.stream("kill").randint(1, 60)
            case WorldFault.LEASE_LOST if lease is not None:
                lease.is_leader = False

                def back() -> None:
                    lease.is_leader = True

                self.world.events.after(faults.draw_s(fault, 5.0, 120.0), back)
            case _:
                pass


async def _operator(run_: _Run) -> None:
    """Pause and resume by hand, at drawn times."""
    faults = run_.world.faults
    while (wait_s := faults.wait_s(WorldFault.PAUSED)) is not None:
        await anyio.sleep(wait_s)
        if faults.is_calm:
            return
        everything = bool(faults.stream("pause").getrandbits(1))
        await _asked(run_, partial(_pause, everything=everything))
        await anyio.sleep(faults.draw_s("pause", 5.0, 300.0))
        await _asked(run_, lambda control: control.resume())


async def _pause(control: Control, *, everything: bool) -> None:
    await control.pause(everything=everything)


async def _asked(run_: _Run, ask: Callable[[Control], Awaitable[object]]) -> None:
    """Ask until a controller is there and has written it down."""
    while True:
        try:
            if run_.loop is not None and run_.step is not None and not run_.step.is_dead:
                await ask(run_.loop.control)
                return
        except PdAutoscalerError:
            pass  # Refused by a journal that fails or a controller that was killed: asked again.
        await anyio.sleep(5.0)


async def _watched(run_: _Run, hours: float) -> None:
    """Let faults strike, then calm, and check that everything settles and rests."""
    faults, world, checks = run_.world.faults, run_.world, run_.checks
    await anyio.sleep(hours * 3600.0)
    run_.calm()
    await anyio.sleep(SETTLE_S)
    run_.plans.clear()
    await anyio.sleep(QUIET_S)
    world.advance(anyio.current_time())
    target = run_.targets[-1] if run_.targets else None
    for what in liveness.unsettled(world, target, run_.notes):
        checks.violated(f"not settled after {SETTLE_S + QUIET_S:.0f} s of calm: {what}")
    if run_.plans:
        checks.violated(f"still planning after {SETTLE_S:.0f} s of calm: {run_.plans[-1]}")
    turns_max = liveness.TURNS_PER_HOUR_MAX * (SETTLE_S + QUIET_S) / 3600.0
    for role in Role:
        turns = liveness.turns(run_.targets, role)
        if turns > turns_max:
            checks.violated(f"the {role} target turned {turns} times under constant load")
    faults.is_calm = True


def run_seed(
    seed: int,
    *,
    hours: float = HOURS,
    only: frozenset[str] | None = None,
    policy: Callable[[], Policy] = queue_pressure,
) -> Result:
    """Run one seed in virtual time and return how it went; the first violation ends it.

    `only` puts exactly these faults on instead of the seed's own choice; `policy` makes the
    policy of each controller.
    """
    faults = Faults(seed, only=only)
    draws = faults.stream("shape")
    traffic = Steady(rate=draws.uniform(*RATE_RANGE), answer_s=draws.uniform(*ANSWER_RANGE_S))
    world = World(faults, Engines(PLAIN, traffic, patience_s=PATIENCE_S))
    rules = shape.rules_of(world)
    limits = rules.guard.limits
    shape.fill(world, traffic, limits.nodes_max)
    checks = Checks(world, rules, signal_age_max_s=LoopSettings().signals.age_max_s)
    run_ = _Run(world, rules, checks, policy)
    shape.found(world, draws)

    rate_max = RATE_RANGE[1] * limits.nodes_max / shape.RULES.guard.limits.nodes_max

    async def main() -> None:
        async with anyio.create_task_group() as group:
            run_.on_violation = group.cancel_scope.cancel
            run_.perils = Perils(world, traffic, run_.befall, rate_max=rate_max)
            group.start_soon(run_.control)
            group.start_soon(_operator, run_)
            await _watched(run_, hours)
            group.cancel_scope.cancel()

    run(main)
    if world.error is not None:
        raise world.error
    violation = checks.violations[0] if checks.violations else None
    return Result(
        seed=seed,
        digest=world.digest(),
        cycles=run_.cycles,
        controllers=run_.controllers,
        simulated_s=world.now_s,
        switches=world.switches,
        faults=tuple(faults.on()),
        violation=violation,
        lines=tuple(world.lines),
    )


def _told(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
