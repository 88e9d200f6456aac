"""One experiment: a scenario, a policy and a seed through the production loop in virtual time."""

import gc
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import anyio
import numpy as np

from pd_autoscaler.core.attribution import Thresholds
from pd_autoscaler.core.capacity import Priors
from pd_autoscaler.core.rules import GuardRules, NodeRules, Rules
from pd_autoscaler.core.snapshots import SignalRules
from pd_autoscaler.engine_model.profile import EngineProfile
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.decision import Hold, Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.plan import StartNode, StopNode, SwitchRole
from pd_autoscaler.model.report import Report
from pd_autoscaler.model.snapshot import Limits
from pd_autoscaler.policies.contract import Policy
from pd_autoscaler.runtime.loop import LoopSettings
from pd_autoscaler.sim.adapters import SimLease, Step
from pd_autoscaler.sim.controller import START_UNIX_S, controller
from pd_autoscaler.sim.faults import Faults, WorldFault
from pd_autoscaler.sim.fleet.delays import Delays, LogNormal
from pd_autoscaler.sim.fleet.engines import Engines
from pd_autoscaler.sim.fleet.node import SimNode
from pd_autoscaler.sim.fleet.traffic import Recorded
from pd_autoscaler.sim.fleet.world import World
from pd_autoscaler.sim.journal import Memory
from pd_autoscaler.sim.loop import run
from pd_autoscaler.sim.node_faults import befall_node
from pd_autoscaler.sim.records import SLOS, Change, RequestLog, Run, Sample, Slo
from pd_autoscaler.workload.arrivals import Arrivals

TAIL_S = 3600.0
"""After the last arrival the fleet stays as it is, unpaid, until what is inside it has ended."""


def delays_of(lead_s: float, link_s: float = 1.0, *, cv: float = 0.3) -> Delays:
    """Return delays by the mean seconds from asking for a node until it may link, and of a link.

    Nine tenths of the lead are its start and the rest its initialisation (Ascend: pod, engine and
    weights against `init` and the registration of memory).
    """
    return Delays(
        start=LogNormal(0.9 * lead_s, cv),
        init=LogNormal(0.1 * lead_s, cv),
        link=LogNormal(link_s, cv),
        switch=LogNormal(5.0, cv),
        stop=LogNormal(5.0, cv),
    )


@dataclass(frozen=True, slots=True)
class Strike:
    """Nodes of a role die at a moment: a share of those that serve, one at least."""

    at_s: float
    role: Role
    share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything of an experiment but its policy and its seed.

    `initial` is the fleet that serves at the beginning. `faults` are levels by name: the chance of
    a call fault, how often an hour a world fault strikes (`sim.faults`). `partitioned` pairs of
    initial nodes can never be linked; `links_max` is what a card may hold. Users leave after
    `patience_s` without being looked at. `knows_profile` says whether the controller is told what
    nodes can do (the settings `capacity.*`), or has to learn it. `loop` are a daemon's own settings
    and are used as they are: period, limits, guard, windows, thresholds and priors.
    """

    name: str
    arrivals: Arrivals
    profile: EngineProfile
    initial: Target
    slo: Slo = SLOS[0]
    limits: Limits = field(default_factory=Limits)
    delays: Delays = field(default_factory=lambda: delays_of(155.0))
    period_s: float = 10.0
    faults: Mapping[str, float] = field(default_factory=dict)
    strikes: tuple[Strike, ...] = ()
    partitioned: int = 0
    links_max: int | None = None
    can_switch_roles: bool = False
    patience_s: float = 120.0
    is_chunked: bool = False
    knows_profile: bool = True
    loop: LoopSettings | None = None


FREE = GuardRules(
    up_window_s=0.0,
    down_window_s=0.0,
    cooldown_s=0.0,
    step_up_max=1000,
    step_down_max=1000,
    pay_back_max_s=0.0,
    heeds_bottleneck=False,
)
"""A guard that keeps limits only, for rules that bring windows and steps of their own."""


def run_experiment(
    scenario: Scenario,
    policy: Policy,
    *,
    name: str,
    params: Mapping[str, object] | None = None,
    seed: int = 0,
    guard: GuardRules | None = None,
) -> Run:
    """Run a policy over a scenario and return what came of it.

    `name` and `params` are how the policy is called in the result; `guard` is the one of
    production unless another is given, always within the scenario's limits; a scenario that has
    settings of a loop has its guard in them.
    """
    began_s = time.process_time()
    experiment = _Experiment(scenario, policy, seed, guard or GuardRules())
    with _undisturbed():
        run(experiment.main)
    experiment.check()
    return experiment.result(
        name=name, params=dict(params or {}), cpu_s=time.process_time() - began_s
    )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Log nothing, for what the loop warns of is what scenarios are for, and collect no garbage."""
    logger = logging.getLogger("pd_autoscaler")
    level, is_collecting = logger.level, gc.isenabled()
    logger.setLevel(logging.CRITICAL)
    # Snapshots are trees without cycles: looking for some costs a fifth of a run.
    gc.disable()
    try:
        yield
    finally:
        logger.setLevel(level)
        if is_collecting:
            gc.enable()


class _Experiment:
    """A world, its controller, and what is written down of both."""

    def __init__(self, scenario: Scenario, policy: Policy, seed: int, guard: GuardRules) -> None:
        self._scenario, self._policy, self._seed = scenario, policy, seed
        faults = Faults(seed, only=frozenset())
        unknown = sorted(scenario.faults.keys() - faults.chance.keys() - faults.per_hour.keys())
        if unknown:
            raise ConfigError(f"scenario {scenario.name}: there is no fault {', '.join(unknown)}")
        for kind, level in scenario.faults.items():
            (faults.per_hour if kind in faults.per_hour else faults.chance)[kind] = level
        engines = Engines(
            scenario.profile,
            Recorded(scenario.arrivals),
            patience_s=scenario.patience_s,
            is_chunked=scenario.is_chunked,
        )
        self._world = world = World(faults, engines, delays=scenario.delays)
        world.can_switch_roles, world.tells_kv = scenario.can_switch_roles, True
        world.links_max = scenario.links_max
        for role in Role:
            for _ in range(scenario.initial.of(role)):
                world.found(role)
        self._partition(scenario.partitioned)
        world.link_all()
        for strike in scenario.strikes:
            world.events.at(strike.at_s, partial(self._strike, strike))
        for fault in WorldFault:
            self._arm(fault)
        self._settings = scenario.loop or _settings_of(scenario, guard)
        self._samples: list[Sample] = []
        self._changes: list[Change] = []
        self._verbs: Counter[type] = Counter()
        self._holds: Counter[str] = Counter()

    def _partition(self, count: int) -> None:
        nodes = list(self._world.nodes.values())
        prompts = [node.id for node in nodes if node.role is Role.PROMPT]
        decoders = [node.id for node in nodes if node.role is Role.DECODER]
        pairs = zip(prompts[:count], decoders[:count], strict=False)
        self._world.partitioned |= {frozenset(pair) for pair in pairs}

    def _strike(self, strike: Strike) -> None:
        serving = self._world.serving(strike.role)
        for node in serving[: max(1, round(strike.share * len(serving)))]:
            befall_node(self._world, WorldFault.NODE_DIES, node)

    def _arm(self, fault: WorldFault) -> None:
        wait_s = self._world.faults.wait_s(fault)
        if wait_s is not None:
            self._world.events.after(wait_s, partial(self._befall, fault))

    def _befall(self, fault: WorldFault) -> None:
        nodes = [node for node in self._world.nodes.values() if node.is_up]
        if nodes:
            befall_node(self._world, fault, self._world.faults.stream(fault).choice(nodes))
        self._arm(fault)

    async def main(self) -> None:
        """Run the controller for as long as requests arrive."""
        span_s = self._scenario.arrivals.span_s
        async with anyio.create_task_group() as group:
            step = Step(self._world, _Nobody(), group.cancel_scope.cancel, is_instant=True)
            loop = controller(
                step,
                Memory(),
                SimLease("controller"),
                settings=self._settings,
                policy=self._policy,
                sinks=[self],
                metrics_period_s=0.9 * self._settings.period_s,
                start_unix_s=START_UNIX_S,
            )
            group.start_soon(loop.run)
            await anyio.sleep(span_s)
            group.cancel_scope.cancel()
        self._world.advance(span_s)
        self._world.engines.flow(span_s + TAIL_S)

    def append(self, report: Report) -> None:
        """Write down one cycle."""
        snapshot, engines = report.snapshot, self._world.engines
        ids: dict[Role, list[str]] = {role: [] for role in Role}
        for node in snapshot.nodes:
            ids[node.role].append(node.id)
        queues = {role: engines.totals(ids[role]) for role in Role}
        is_held = isinstance(report.guarded, Hold)
        self._samples.append(
            Sample(
                at_s=snapshot.now_s,
                target=report.target,
                nodes=Counter((node.role, node.state) for node in snapshot.nodes),
                queue_prompt=queues[Role.PROMPT][0],
                queue_decoder=queues[Role.DECODER][0],
                running_prompt=queues[Role.PROMPT][1],
                running_decoder=queues[Role.DECODER][1],
                decision=str(report.decision),
                held=report.guarded.reason if isinstance(report.guarded, Hold) else "",
            )
        )
        if report.target != snapshot.target:
            self._changes.append(Change(snapshot.now_s, snapshot.target, report.target))
        self._verbs.update(type(action) for action in report.plan.actions)
        if is_held:
            self._holds[self._samples[-1].held] += 1

    def check(self) -> None:
        """Raise what went wrong in the world itself, which its controller took for an outage."""
        if self._world.error is not None:
            raise self._world.error

    def result(self, *, name: str, params: Mapping[str, object], cpu_s: float) -> Run:
        """Return the record of the run."""
        scenario, requests = self._scenario, self._world.engines.requests
        span_s = scenario.arrivals.span_s
        return Run(
            scenario=scenario.name,
            policy=name,
            params=params,
            seed=self._seed,
            requests=RequestLog(scenario.arrivals, requests.first_token_s, requests.done_s),
            samples=tuple(self._samples),
            changes=tuple(self._changes),
            node_seconds=_billed(self._world.nodes.values(), span_s),
            lasted_s=span_s,
            starts=self._verbs[StartNode],
            stops=self._verbs[StopNode],
            switches=self._verbs[SwitchRole],
            link_calls=self._world.link_calls,
            preemptions=requests.totals.preemptions,
            holds=dict(self._holds),
            cpu_s=cpu_s,
        )


class _Nobody:
    """A witness that forgets: an experiment has no rules to check."""

    def acting(self, thing: str) -> None:
        """Forget it."""

    def doubted(self, thing: str) -> None:
        """Forget it."""

    def read(self, place: str) -> None:
        """Forget it."""

    def asked(self, ids: Sequence[int]) -> None:
        """Forget it."""


def priors_of(profile: EngineProfile, prompt_tokens: float | None = None) -> Priors:
    """Return what an operator who measured these engines would set as `capacity.*`.

    A prompt node's rate is that of full batches of prompts of so many uncached tokens each.
    """
    each = float(prompt_tokens or profile.prefill_tokens_max)
    batch = max(1, int(profile.prefill_tokens_max / each)) * each
    return Priors(
        prefill_tokens_per_s=batch / profile.prefill_s(round(batch), batch * each),
        step_base_s=profile.decode_base_s,
        step_per_request_s=profile.decode_per_request_s,
        step_per_token_s=profile.decode_per_token_s,
    )


def window_of(period_s: float) -> float:
    """Return the seconds that signals look back over: three periods, and 30 s at least."""
    return max(30.0, 3 * period_s)


def _settings_of(scenario: Scenario, guard: GuardRules) -> LoopSettings:
    """Return the settings of a loop that a scenario stands for, with this guard in its limits."""
    slo = scenario.slo
    usual = float(np.mean(scenario.arrivals.uncached_tokens)) if len(scenario.arrivals) else None
    return LoopSettings(
        period_s=scenario.period_s,
        rules=Rules(node=NodeRules(), guard=replace(guard, limits=scenario.limits)),
        signals=SignalRules(
            window_s=window_of(scenario.period_s),
            age_max_s=window_of(scenario.period_s),
            thresholds=Thresholds(ttft_p95_s=slo.ttft_s, tpot_p95_s=slo.tpot_s),
            priors=priors_of(scenario.profile, usual) if scenario.knows_profile else Priors(),
        ),
    )


def _billed(nodes: Iterable[SimNode], until_s: float) -> dict[Role, float]:
    """Add up the seconds from asking for each node until it was gone, by its last role.

    A dead node that its provider no longer lists is gone, too: nobody can remove it any more.
    """
    billed = dict.fromkeys(Role, 0.0)
    for node in nodes:
        gone_at_s = min(node.gone_at_s, node.unlisted_at_s, until_s)
        billed[node.role] += max(0.0, gone_at_s - node.made_at_s)
    return billed
