"""One controller of a simulated world: the production loop between adapters that play its ports."""

from collections.abc import Callable, Sequence

import anyio

from pd_autoscaler.policies.contract import Policy
from pd_autoscaler.ports import ReportSink
from pd_autoscaler.runtime.actuator import Deadlines
from pd_autoscaler.runtime.loop import ControlLoop, LoopSettings, Outside
from pd_autoscaler.runtime.observer import Observer
from pd_autoscaler.runtime.policy_runner import PolicyRunner
from pd_autoscaler.sim.adapters import (
    SimLease,
    SimMetrics,
    SimProvider,
    SimRouter,
    SimWorkers,
    Step,
)
from pd_autoscaler.sim.agents import SimAgents
from pd_autoscaler.sim.journal import Memory, SimJournal

START_UNIX_S = 1_700_000_000.0
"""Wall time at which every simulation begins."""


def controller(
    step: Step,
    memory: Memory,
    lease: SimLease,
    *,
    settings: LoopSettings,
    policy: Policy,
    sinks: Sequence[ReportSink],
    metrics_period_s: float,
    start_unix_s: float = START_UNIX_S,
) -> ControlLoop:
    """Return the loop of a controller that reaches the world by this step."""
    provider, router, agents = SimProvider(step), SimRouter(step), SimAgents(step)
    observer = Observer(
        provider=provider,
        router=router,
        agents=agents,
        metrics=SimMetrics(step),
        deadline_s=5.0,
        metrics_period_s=metrics_period_s,
        now_unix_s=_clock(start_unix_s),
        at_hand=agents.at_hand,
    )
    outside = Outside(
        provider=provider,
        router=router,
        agents=agents,
        journal=SimJournal(step, memory),
        lease=lease,
    )
    return ControlLoop(
        settings,
        outside,
        observer=observer,
        policy=PolicyRunner(policy, SimWorkers(step), deadline_s=2.0),
        deadlines=Deadlines(),
        sinks=sinks,
    )


def _clock(start_unix_s: float) -> Callable[[], float]:
    return lambda: start_unix_s + anyio.current_time()
