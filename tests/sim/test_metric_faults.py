"""What may be wrong with the engines' pages, and what the loop then holds back.

The production loop in virtual time: bytes of pages go through the real scraper, parser and profile.
A policy that always wants fewer nodes would shrink the fleet in calm; no fault may let it.
"""

import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import anyio
import pytest

from pd_autoscaler.adapters.metrics.profiles import ProfileBook, shipped_profiles
from pd_autoscaler.adapters.metrics.scrape import Scraper
from pd_autoscaler.core.rules import GuardRules, Rules
from pd_autoscaler.embedded.engine_metrics import EngineMetrics
from pd_autoscaler.engine_model.profile import DEMO
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.facts import EngineLoad
from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.model.report import Report
from pd_autoscaler.model.snapshot import Limits, Snapshot
from tests.support.ports_fakes import (
    RULES,
    FakeWorld,
    Rig,
    virtually,
)

NAMES = [f"{role}{number}" for role in "pd" for number in range(1, 5)]
REQUESTS_PER_S = 2.0
SIGHT_S = 30.0
"""How old a page may be, by default."""
EAGER = replace(
    RULES,
    guard=GuardRules(
        limits=Limits(prompt_max=6, decoder_max=6, nodes_max=12),
        up_window_s=0,
        down_window_s=20,
        cooldown_s=40,
    ),
)
FAULT_S = 150.0


class Engine:
    """An engine at work, steadily, with time as the only input."""

    running, waiting_capacity, waiting_deferred, kv_used = 3, 0, 0, 0.3

    def __init__(self, role: Role) -> None:
        self._role = role
        self.restart()

    def restart(self) -> None:
        """Begin every counter at zero again."""
        self._metrics = EngineMetrics(DEMO, model="tiny", length_max=4096)
        self._metrics.watch(self)
        self._at_s = anyio.current_time()

    def page(self) -> bytes:
        """Do the work since the last page and write one."""
        metrics, now_s = self._metrics, anyio.current_time()
        requests, self._at_s = REQUESTS_PER_S * (now_s - self._at_s), now_s
        metrics.requests_ended["length"].inc(requests)
        if self._role is Role.PROMPT:
            metrics.prompt_tokens.inc(500 * requests)
            metrics.prompt_tokens_by_source["local_compute"].inc(500 * requests)
            metrics.first_token_s.observe(0.2)
            metrics.tokens_in.observe(500)
        else:
            metrics.generation_tokens.inc(100 * requests)
            metrics.token_s.observe(0.02)
            metrics.tokens_out.observe(100)
        return metrics.page()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node's page server sends, and how long it takes."""

    body: bytes
    status: int = 200
    delay_s: float = 0.0


Server = Callable[[bytes], Answer]
"""What becomes of a page on its way."""


class Pages:
    """In the place of a session: every node's page, through the servers that the test has put."""

    auto_decompress = False

    def __init__(self) -> None:
        self.engines = {
            name: Engine(Role.PROMPT if name[0] == "p" else Role.DECODER) for name in NAMES
        }
        self.servers: dict[str, Server] = {}

    @asynccontextmanager
    async def get(self, url: Any, **_: Any) -> AsyncIterator[object]:
        """Answer as a node's server does."""
        page = self.engines[url.host].page()
        answer = self.servers.get(url.host, Answer)(page)
        await anyio.sleep(answer.delay_s)
        yield SimpleNamespace(
            status=answer.status,
            headers={},
            content_type="text/plain",
            content=SimpleNamespace(iter_any=lambda: _pieces(answer.body)),
        )


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 4096):
        yield body[start : start + 4096]


class Stepping:
    """Wants `step` nodes more of each role, always."""

    step = 0

    def decide(self, snapshot: Snapshot) -> Decision:
        counts = (snapshot.target.prompt, snapshot.target.decoder)
        prompt, decoder = (max(1, count + self.step) for count in counts)
        return Target(prompt, decoder, "it always does")


class FaultRig(Rig):
    """The production loop and scraper; agents know nothing of their engines."""

    def __init__(self, rules: Rules = EAGER) -> None:
        world = FakeWorld(*NAMES)
        world.mesh()
        for node in world.nodes.values():
            node.engine = EngineLoad()
        self.pages = Pages()
        self.stepping = Stepping()
        session = cast("aiohttp.ClientSession", self.pages)
        super().__init__(
            world,
            rules=rules,
            policy=self.stepping,
            metrics=Scraper(session, ProfileBook(shipped_profiles())),
            metrics_period_s=5.0,
            deadline_s=5.0,
        )

    def strike(self, make: Callable[[], Server], count: int) -> None:
        """Put servers before so many nodes of each role that serve."""
        nodes = self.seen[-1].snapshot.nodes
        for role in Role:
            serving = [n.id for n in nodes if n.role is role and n.state is NodeState.SERVING]
            self.pages.servers |= {name: make() for name in serving[:count]}

    async def eager(self, step: int = -1) -> Sequence[Report]:
        """Have the policy want to move once all that was seen is too old; return what follows."""
        since_s = anyio.current_time()
        await self.until(lambda r: r.snapshot.now_s > since_s + SIGHT_S + 10)
        self.stepping.step = step
        first = len(self.seen)
        since_s = anyio.current_time()
        await self.until(lambda r: r.snapshot.now_s > since_s + FAULT_S)
        return self.seen[first:]


def reasons(report: Report) -> set[HoldReason]:
    return {gate.reason for gate in report.gates}


def refused(_: bytes) -> Answer:
    raise aiohttp.ClientConnectionError("connection refused")


def failing(_: bytes) -> Answer:
    return Answer(b"oh no", status=500)


def late(page: bytes) -> Answer:
    return Answer(page, delay_s=30.0)


def cut_short(page: bytes) -> Answer:
    return Answer(page[: page.index(b"vllm:kv_cache_usage_perc{") + 30])


def of_another_exporter(_: bytes) -> Answer:
    return Answer(b"# TYPE node_load1 gauge\nnode_load1 0.4\nprocess_start_time_seconds 1.7e9\n")


def all_not_a_number(page: bytes) -> Answer:
    return Answer(re.sub(rb"(?m)^(vllm:.*) \S+$", rb"\1 NaN", page))


def twice(page: bytes) -> Answer:
    """Send two copies that differ, as two servers behind one address do."""
    return Answer(page + re.sub(rb"(?m)^(vllm:.*) \S+$", rb"\1 77.0", page))


def all_below_zero(page: bytes) -> Answer:
    return Answer(re.sub(rb"(?m)^(vllm:.*) \S+$", rb"\1 -1.0", page))


def without_a_queue(page: bytes) -> Answer:
    return Answer(page.replace(b"vllm:num_requests_waiting", b"vllm:num_requests_pending"))


def without_kv_use(page: bytes) -> Answer:
    return Answer(page.replace(b"vllm:kv_cache_usage_perc", b"vllm:kv_cache_usage"))


def a_frozen_one() -> Server:
    """Make a server that sends its first page for ever."""
    first: list[bytes] = []

    def again(page: bytes) -> Answer:
        first.append(page)
        return Answer(first[0])

    return again


ALL, MOST, HALF, ONE = 4, 3, 2, 1
"""How many of the four nodes of each role are struck."""

Case = tuple[str, Callable[[], Server], int, HoldReason]
FAULTS: Sequence[Case] = [
    ("no page: refused", lambda: refused, ALL, HoldReason.STALE_METRICS),
    ("no page: HTTP 500", lambda: failing, ALL, HoldReason.STALE_METRICS),
    ("30 s late", lambda: late, ALL, HoldReason.STALE_METRICS),
    ("cut short", lambda: cut_short, ALL, HoldReason.STALE_METRICS),
    ("another exporter's page", lambda: of_another_exporter, ALL, HoldReason.STALE_METRICS),
    ("frozen with work inside", a_frozen_one, ALL, HoldReason.STALE_METRICS),
    ("no number at all", lambda: all_not_a_number, ALL, HoldReason.STALE_METRICS),
    ("below zero", lambda: all_below_zero, ALL, HoldReason.STALE_METRICS),
    ("the queue was renamed", lambda: without_a_queue, ALL, HoldReason.STALE_METRICS),
    ("KV use was renamed", lambda: without_kv_use, ALL, HoldReason.BOTTLENECK_UNKNOWN),
    ("most are silent", lambda: refused, MOST, HoldReason.STALE_METRICS),
    ("half are silent", lambda: refused, HALF, HoldReason.PARTIAL_METRICS),
    ("every series twice, with two values", lambda: twice, ALL, HoldReason.STALE_METRICS),
    ("one of each is silent", lambda: refused, ONE, HoldReason.PARTIAL_METRICS),
    ("one of each is frozen", a_frozen_one, ONE, HoldReason.PARTIAL_METRICS),
    ("half send no number", lambda: all_not_a_number, HALF, HoldReason.PARTIAL_METRICS),
    ("one queue was renamed", lambda: without_a_queue, ONE, HoldReason.PARTIAL_METRICS),
    ("one is 30 s late", lambda: late, ONE, HoldReason.PARTIAL_METRICS),
    ("one is cut short", lambda: cut_short, ONE, HoldReason.PARTIAL_METRICS),
]


START = Target(4, 4)


@virtually
async def test_in_calm_the_policy_shrinks_the_fleet_as_far_as_it_goes() -> None:
    rig = FaultRig()
    async with rig.running():
        await rig.report()
        seen = await rig.eager()
    assert seen[-1].target == Target(1, 1)
    doubts = {HoldReason.STALE_METRICS, HoldReason.PARTIAL_METRICS, HoldReason.BOTTLENECK_UNKNOWN}
    assert not any(reasons(report) & doubts for report in seen)


@pytest.mark.parametrize(
    ("make", "struck", "reason"),
    [case[1:] for case in FAULTS],
    ids=[case[0] for case in FAULTS],
)
@virtually
async def test_nothing_shrinks_on_pages_that_are_not_whole(
    make: Callable[[], Server], struck: int, reason: HoldReason
) -> None:
    rig = FaultRig()
    async with rig.running():
        await rig.report()
        rig.strike(make, struck)
        seen = await rig.eager()

        assert {report.target for report in seen} == {START}
        for report in seen:
            assert reason in reasons(report)
            assert isinstance(report.guarded, Hold)
        assert len(rig.world.nodes) == START.total

        rig.pages.servers = {}
        after = await rig.until(lambda r: r.target != START, within_s=60.0)
        assert after.target == Target(3, 3)
    assert_rates_are_sane(rig.seen)


@virtually
async def test_engines_that_restart_are_a_reset_and_no_reason_to_hold() -> None:
    rig = FaultRig()
    async with rig.running():
        await rig.report(3)
        for engine in rig.pages.engines.values():
            engine.restart()
        seen = await rig.eager()
    assert seen[-1].target == Target(1, 1)
    assert_rates_are_sane(rig.seen)


@virtually
async def test_pages_that_come_and_go_never_make_a_rate_negative_or_too_high() -> None:
    rig = FaultRig()
    async with rig.running():
        await rig.report(3)
        for server in (all_not_a_number, refused, cut_short):
            rig.strike(lambda server=server: server, ALL)  # type: ignore[misc]  # Bound here.
            await rig.report(6)
            rig.pages.servers = {}
            await rig.report(6)
    assert_rates_are_sane(rig.seen)
    assert {report.target for report in rig.seen} == {START}


@pytest.mark.parametrize(
    ("struck", "is_grown"), [(ONE, True), (HALF, True), (MOST, False), (ALL, False)]
)
@virtually
async def test_from_half_of_the_pages_on_a_fleet_may_grow(*, struck: int, is_grown: bool) -> None:
    rig = FaultRig()
    async with rig.running():
        await rig.report()
        rig.strike(lambda: refused, struck)
        seen = await rig.eager(+1)
    assert (seen[-1].target.total > START.total) is is_grown
    if not is_grown:
        assert all(HoldReason.STALE_METRICS in reasons(report) for report in seen)


@virtually
async def test_where_pages_are_read_an_agents_word_does_not_stand_in_for_them() -> None:
    rig = FaultRig()
    for node in rig.world.nodes.values():
        node.engine = EngineLoad(waiting=0, running=3, kv_unpulled=0, kv_used=0.3)
    async with rig.running():
        await rig.report()
        rig.strike(lambda: refused, ALL)
        seen = await rig.eager()
    assert {report.target for report in seen} == {START}
    assert all(HoldReason.STALE_METRICS in reasons(report) for report in seen)


def assert_rates_are_sane(reports: Sequence[Report]) -> None:
    """Check that no rate is below zero, and none above what the engines do."""
    for report in reports:
        for role in Role:
            signals = report.snapshot.of(role)
            tokens_per_s = (500 if role is Role.PROMPT else 100) * REQUESTS_PER_S * signals.serving
            most = tokens_per_s * 1.01
            for rate in (signals.token_rate, signals.arrival_rate, signals.preempt_rate):
                assert rate is None or 0 <= rate.value <= most
