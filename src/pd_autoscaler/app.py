"""The composition root: settings to adapters to the loop, in one task group; no logic."""

import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import aiohttp
import anyio
from prometheus_client import CollectorRegistry

from pd_autoscaler import __version__
from pd_autoscaler.adapters.advisor import HttpAdvisor
from pd_autoscaler.adapters.agent_client import AgentDeadlines
from pd_autoscaler.adapters.journal_sqlite import SqliteJournal
from pd_autoscaler.adapters.lease import SoleLease
from pd_autoscaler.adapters.link_probe import TcpLinkProbe
from pd_autoscaler.adapters.metrics.source import check_source, metrics_source
from pd_autoscaler.adapters.node_agents import NodeAgents
from pd_autoscaler.adapters.providers.process import ProcessProvider
from pd_autoscaler.adapters.providers.static import StaticProvider, named
from pd_autoscaler.adapters.routers.builtin import BuiltinRouter
from pd_autoscaler.adapters.routers.none import NoRouter
from pd_autoscaler.adapters.workers import ThreadWorkers
from pd_autoscaler.admin.app import build_app
from pd_autoscaler.admin.serve import serve
from pd_autoscaler.core import gates
from pd_autoscaler.core.rules import GuardRules
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.policies.registry import load_policy
from pd_autoscaler.ports import MetricsSource, NodeProvider, ReportSink, Router
from pd_autoscaler.runtime.actuator import Deadlines
from pd_autoscaler.runtime.loop import ControlLoop, LoopSettings, Outside
from pd_autoscaler.runtime.observer import Observer
from pd_autoscaler.runtime.policy_runner import PolicyRunner
from pd_autoscaler.runtime.shadow import Follower
from pd_autoscaler.settings import ADVISED, Settings
from pd_autoscaler.telemetry import Telemetry

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Controller:
    """A controller that listens and is ready to run: its loop and the URL of its admin API."""

    loop: ControlLoop
    url: str


def wall_clock() -> float:
    """Return wall time in seconds since the epoch: the one place where it enters."""
    return time.time()  # noqa: TID251  # Everything else is handed now_unix_s.


async def run(
    settings: Settings,
    *,
    sinks: Sequence[ReportSink] = (),
    on_ready: Callable[[Controller], None] = lambda _: None,
) -> None:
    """Run the controller until SIGTERM or SIGINT, or until cancelled.

    Raises ConfigError for what can only be seen at start: a port in use, an unknown policy, a
    journal that cannot be opened.
    """
    async with controller(settings, sinks) as running, anyio.create_task_group() as group:
        on_ready(running)
        group.start_soon(running.loop.run)
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                log.info("stopping on %s", number.name)
                break
        group.cancel_scope.cancel()


@asynccontextmanager
async def controller(
    settings: Settings, sinks: Sequence[ReportSink] = ()
) -> AsyncIterator[Controller]:
    """Open everything a controller needs and yield it, its admin API listening."""
    registry = CollectorRegistry()
    shadows = _shadows(settings)
    telemetry = Telemetry(registry, version=__version__, shadows=[s.name for s in shadows])
    policy = load_policy(settings.loop.policy, settings.loop.policy_params)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        journal = await stack.enter_async_context(
            SqliteJournal.open(
                settings.journal.path,
                ThreadWorkers(slots=1, name="journal"),
                now_unix_s=wall_clock,
                keep_s=settings.journal.keep_s,
                size_max_bytes=settings.journal.size_max_bytes,
                on_failure=telemetry.journal_failed,
            )
        )
        advisor = _advisor(settings, session, on_failure=telemetry.advisor_failed)
        if advisor is not None:
            await stack.enter_async_context(_running(advisor))
        metrics = await stack.enter_async_context(metrics_source(settings))
        outside = Outside(
            provider=_provider(settings, session),
            router=_router(settings, session),
            agents=_agents(settings, session),
            journal=journal,
            lease=SoleLease(f"{socket.gethostname()}-{os.getpid()}-{wall_clock():.0f}"),
        )
        loop = ControlLoop(
            _loop_settings(settings),
            outside,
            observer=_observer(settings, outside, metrics, advisor),
            policy=PolicyRunner(
                policy,
                ThreadWorkers(slots=1, name="policy"),
                deadline_s=settings.loop.policy_deadline_s,
            ),
            deadlines=_deadlines(settings),
            sinks=(telemetry, *([advisor] if advisor else []), *sinks),
            shadows=shadows,
        )
        health = _Health(
            loop, settings.loop.period_s, settings.rules().guard, began_s=anyio.current_time()
        )
        token = settings.admin.token
        app = build_app(
            loop.control,
            journal,
            registry,
            version=__version__,
            token=token.get_secret_value() if token is not None else None,
            ready=health.ready,
            healthy=health.healthy,
        )
        url = await stack.enter_async_context(serve(app, settings.admin.host, settings.admin.port))
        yield Controller(loop, url)


@dataclass(frozen=True, slots=True)
class _Health:
    """What /healthz and /readyz answer."""

    loop: ControlLoop
    period_s: float
    rules: GuardRules
    began_s: float

    def healthy(self) -> tuple[bool, str]:
        latest = self.loop.control.latest
        last_s = self.began_s if latest is None else latest.snapshot.now_s
        late_s = anyio.current_time() - last_s
        # Ten periods: a cycle may wait for several deadlines, but not for ever.
        if late_s <= max(60.0, 10 * self.period_s):
            return True, ""
        if latest is None:
            return False, f"no cycle has ended since the start {late_s:.0f} s ago"
        return False, f"the last cycle was {late_s:.0f} s ago"

    def ready(self) -> tuple[bool, str]:
        latest = self.loop.control.latest
        if latest is None:
            return False, "no cycle has ended yet"
        if self.loop.is_policy_hung:
            return False, "a policy call hangs: the target is held"
        if not latest.snapshot.is_synced:
            return False, "not every node found at the start has answered yet"
        blind = gates.blind(latest.snapshot, self.rules)
        if blind is not None:
            return False, f"the target is held: {blind.detail}"
        return self.healthy()


def _shadows(settings: Settings) -> list[Follower]:
    """Build the shadow policies; each has a thread of its own, so that none waits for another."""
    return [
        Follower(
            shadow.label,
            PolicyRunner(
                load_policy(shadow.policy, shadow.params),
                ThreadWorkers(slots=1, name=f"shadow-{shadow.label}"),
                deadline_s=settings.loop.policy_deadline_s,
                name=f"shadow policy {shadow.label}",
            ),
            settings.rules().guard,
        )
        for shadow in settings.loop.shadow_policies
    ]


def _loop_settings(settings: Settings) -> LoopSettings:
    return LoopSettings(
        period_s=settings.loop.period_s,
        gap_min_s=settings.loop.cycle_gap_min_s,
        faults_in_a_row_max=10,
        is_advisory=settings.loop.advisory,
        rules=settings.rules(keeps_standby=settings.provider.kind == "static"),
        signals=settings.signal_rules(),
    )


def _observer(
    settings: Settings, outside: Outside, metrics: MetricsSource, advisor: HttpAdvisor | None
) -> Observer:
    scrape, period_s = settings.scrape, settings.links.probe_period_s
    return Observer(
        provider=outside.provider,
        router=outside.router,
        agents=outside.agents,
        metrics=metrics,
        probe=None if period_s is None else TcpLinkProbe(period_s=period_s),
        advisor=advisor,
        deadline_s=max(settings.agent.deadline_s, scrape.deadline_s + scrape.jitter_s) + 0.5,
        metrics_period_s=settings.loop.period_s * 0.9,
        now_unix_s=wall_clock,
    )


def _advisor(
    settings: Settings, session: aiohttp.ClientSession, *, on_failure: Callable[[], None]
) -> HttpAdvisor | None:
    advisor = settings.advisor
    if advisor.url is None and settings.loop.policy == ADVISED:
        # Settings that were read say so by themselves; the policy may have been given by hand.
        raise ConfigError(
            f"the policy is {ADVISED} and advisor.url is missing: give the address of the service "
            "that decides, in a settings file or as PD_AUTOSCALER_ADVISOR__URL"
        )
    if advisor.url is None:
        return None
    token = advisor.token
    return HttpAdvisor(
        advisor.url,
        session=session,
        workers=ThreadWorkers(slots=1, name="advisor"),
        deadline_s=advisor.deadline_s,
        age_max_s=advisor.age_max_s,
        token=token.get_secret_value() if token is not None else None,
        on_failure=on_failure,
    )


@asynccontextmanager
async def _running(advisor: HttpAdvisor) -> AsyncIterator[None]:
    """Have the advisor be asked for as long as the block runs."""
    async with anyio.create_task_group() as group:
        group.start_soon(advisor.run)
        try:
            yield
        finally:
            group.cancel_scope.cancel()


def _deadlines(settings: Settings) -> Deadlines:
    """Give link calls a little longer than the agent takes to tell how each of them ended."""
    node = settings.node
    return Deadlines(
        # A role switch has the same deadline here, and its own at the agent.
        init_s=max(node.init_timeout_s, node.switch_timeout_s),
        link_s=settings.links.deadline_s + 5.0,
    )


def _agents(settings: Settings, session: aiohttp.ClientSession) -> NodeAgents:
    token = settings.agent.token
    return NodeAgents(
        session,
        deadlines=AgentDeadlines(
            state_s=settings.agent.deadline_s,
            init_s=settings.node.init_timeout_s,
            switch_s=settings.node.switch_timeout_s,
            link_s=settings.links.deadline_s,
            link_timeout_ms=settings.links.timeout_ms,
        ),
        token=token.get_secret_value() if token is not None else None,
    )


def _provider(settings: Settings, session: aiohttp.ClientSession) -> NodeProvider:
    provider = settings.provider
    if provider.kind == "static":
        return StaticProvider(named(provider.nodes))
    return ProcessProvider(_url("provider", provider.url), session=session)


def _router(settings: Settings, session: aiohttp.ClientSession) -> Router:
    if settings.router.kind == "none":
        return NoRouter()
    return BuiltinRouter(_url("router", settings.router.url), session=session)


def check(settings: Settings) -> None:
    """Raise ConfigError for settings that are right in themselves and still cannot be run."""
    load_policy(settings.loop.policy, settings.loop.policy_params)
    for shadow in settings.loop.shadow_policies:
        load_policy(shadow.policy, shadow.params)
    check_source(settings)
    if settings.provider.kind == "process":
        _url("provider", settings.provider.url)
    if settings.router.kind == "builtin":
        _url("router", settings.router.url)


def _url(section: str, url: str | None) -> str:
    if url is None:
        raise ConfigError(
            f"{section}.url is missing: with --config it must name the {section}'s address "
            "(`pd-autoscaler cluster` writes a file that has it)"
        )
    return url
