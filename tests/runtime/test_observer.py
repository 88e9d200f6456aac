"""The observer: one source that is slow, failing or broken never spoils the others."""

from collections.abc import Iterable, Mapping, Sequence

import anyio
import pytest

from pd_autoscaler.errors import OutcomeUnknownError, PermanentError, TransientError
from pd_autoscaler.model.facts import Facts, Scraped
from pd_autoscaler.model.node import Node, NodeState
from pd_autoscaler.model.signals import Reading
from pd_autoscaler.runtime.observer import Observer
from tests.support.fleets import node
from tests.support.ports_fakes import (
    FakeAgents,
    FakeMetrics,
    FakeProvider,
    FakeRouter,
    FakeWorld,
    Fault,
    hang,
    pass_time,
    virtually,
)

FAULTS: tuple[Fault, ...] = (
    hang,
    TransientError("HTTP 503"),
    PermanentError("HTTP 404"),
    OutcomeUnknownError("reset"),
    KeyError("a fault of the adapter"),
)


class FakeProbe:
    """Finds every node that it is asked about closed, or does what the test says."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.asked: list[str] = []
        self._fault = fault

    async def unreachable(self, nodes: Iterable[Node]) -> Mapping[str, str]:
        self.asked = [node.id for node in nodes]
        if isinstance(self._fault, Exception):
            raise self._fault
        if self._fault is not None:
            await self._fault()
        return dict.fromkeys(self.asked, "closed")


def observer_of(
    world: FakeWorld, *, concurrency_max: int = 128, probe: FakeProbe | None = None
) -> Observer:
    return Observer(
        provider=FakeProvider(world),
        router=FakeRouter(world),
        agents=FakeAgents(world),
        metrics=FakeMetrics(world),
        probe=probe,
        deadline_s=2.0,
        metrics_period_s=9.0,
        concurrency_max=concurrency_max,
        now_unix_s=lambda: 1_700_000_000.0,
    )


def world_of_three() -> FakeWorld:
    world = FakeWorld("p1", "p2", "d1")
    world.mesh()
    return world


def read(facts: Facts) -> dict[str, bool]:
    """Tell which sources were read."""
    return {
        "nodes": facts.provided is not None,
        "published": facts.published is not None,
        "in_flight": bool(facts.in_flight),
        "metrics": bool(facts.readings),
        "state p1": "p1" in facts.agents,
        "state p2": "p2" in facts.agents,
        "state d1": "d1" in facts.agents,
    }


@virtually
async def test_everything_is_read_in_one_observation() -> None:
    facts = await observer_of(world_of_three()).observe(())
    assert all(read(facts).values())
    assert facts.errors == {}
    assert (facts.now_s, facts.now_unix_s) == (1000.0, 1_700_000_000.0)


def _named(fault: object) -> str:
    """Name a fault; a function's address would differ from one process to the next."""
    return getattr(fault, "__name__", repr(fault))


@pytest.mark.parametrize("fault", FAULTS, ids=_named)
@pytest.mark.parametrize(
    ("call", "lost"),
    [
        ("published", {"published", "in_flight"}),
        ("in_flight", {"in_flight"}),
        ("metrics", {"metrics"}),
        ("state p1", {"state p1"}),
        ("nodes", {"nodes"}),
    ],
)
def test_a_source_that_does_not_answer_spoils_no_other(
    call: str, lost: set[str], fault: Fault
) -> None:
    @virtually
    async def test() -> None:
        world = world_of_three()
        known = [node(name) for name in ("p1", "p2", "d1")]
        world.faults[call] = fault
        observer = observer_of(world)
        facts = await observer.observe(known)
        assert {name for name, is_read in read(facts).items() if not is_read} == lost
        assert len(facts.errors) == 1
        assert anyio.current_time() - 1000 <= 2.001

    test()


@virtually
async def test_metrics_are_read_once_a_period_even_if_they_failed() -> None:
    world = world_of_three()
    observer = observer_of(world)
    for fault in (None, TransientError("HTTP 500")):
        world.calls.clear()
        world.faults = {} if fault is None else {"metrics": fault}
        for _ in range(5):
            await observer.observe(())
            await pass_time(1)
        assert world.calls.count("metrics") == 1
        await pass_time(5)


@virtually
async def test_a_standby_node_has_no_metrics_to_read_and_one_without_an_agent_no_state() -> None:
    asked: list[str] = []
    world = FakeWorld()

    class Metrics(FakeMetrics):
        async def read(self, nodes: Sequence[Node]) -> Mapping[str, Reading]:
            asked.extend(n.id for n in nodes)
            return {}

    observer = Observer(
        provider=FakeProvider(world),
        router=FakeRouter(world),
        agents=FakeAgents(world),
        metrics=Metrics(world),
        deadline_s=2.0,
        metrics_period_s=9.0,
        now_unix_s=lambda: 0.0,
    )
    coming = Node(id="start-1", role=node("p1").role, state=NodeState.STARTING, since_s=0.0)
    await observer.observe([node("p1"), node("p2", NodeState.STANDBY), coming])
    assert asked == ["p1"]
    assert [c for c in world.calls if c.startswith("state")] == ["state p1", "state p2"]


@virtually
async def test_why_a_page_could_not_be_read_is_told_with_the_facts() -> None:
    world = FakeWorld()
    metrics = FakeMetrics(world)
    metrics.errors, metrics.scraped = {"p1": "HTTP 500"}, Scraped(pages=7, failures=1)
    observer = Observer(
        provider=FakeProvider(world),
        router=FakeRouter(world),
        agents=FakeAgents(world),
        metrics=metrics,
        deadline_s=2.0,
        metrics_period_s=9.0,
        now_unix_s=lambda: 0.0,
    )
    facts = await observer.observe([node("p1")])
    assert (facts.unread, facts.scraped.pages) == ({"p1": "HTTP 500"}, 7)


@virtually
async def test_prompt_nodes_that_may_be_linked_are_probed() -> None:
    probe = FakeProbe()
    known = [node("p1"), node("p2", NodeState.LINKING), node("p3", NodeState.STOPPING), node("d1")]
    facts = await observer_of(world_of_three(), probe=probe).observe(known)
    assert probe.asked == ["p1", "p2"]
    assert facts.unreachable == {"p1": "closed", "p2": "closed"}


@pytest.mark.parametrize("fault", FAULTS, ids=_named)
def test_a_probe_that_fails_finds_nothing_and_spoils_nothing(fault: Fault) -> None:
    @virtually
    async def test() -> None:
        facts = await observer_of(world_of_three(), probe=FakeProbe(fault)).observe([node("p1")])
        assert all(read(facts).values())
        assert facts.unreachable == {}
        assert facts.errors.keys() == {"link probe"}

    test()


@virtually
async def test_no_more_agents_are_read_at_once_than_allowed() -> None:
    world = FakeWorld(*[f"p{i}" for i in range(1, 21)])
    inside, most = 0, 0

    async def counting() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await pass_time(1)
        inside -= 1

    world.faults["state"] = counting
    facts = await observer_of(world, concurrency_max=7).observe(())
    assert len(facts.agents) == 20
    assert most == 7


@virtually
async def test_a_failing_source_is_logged_when_it_fails_and_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = world_of_three()
    observer = observer_of(world)
    with caplog.at_level("INFO", logger="pd_autoscaler.runtime.observer"):
        for faults in ({}, {"published": TransientError("x")}, {"published": hang}, {}, {}):
            world.faults = dict(faults)
            await observer.observe(())
    assert [r.message for r in caplog.records] == [
        "router cannot be read: x",
        "router answers again",
    ]


@virtually
async def test_a_node_that_is_gone_is_forgotten_and_its_namesake_told_anew(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = world_of_three()
    observer = observer_of(world)
    world.faults["state p1"] = TransientError("x")
    gone = world.nodes["p1"]
    for _ in range(2):
        await observer.observe(())
        await observer.observe(())
        del world.nodes["p1"]
        await observer.observe(())
        world.nodes["p1"] = gone
    assert [r.message for r in caplog.records] == ["agent of p1 cannot be read: x"] * 2


@virtually
async def test_the_published_set_alone_is_none_when_the_router_does_not_answer() -> None:
    world = world_of_three()
    observer = observer_of(world)
    assert await observer.published() == frozenset({"p1", "p2", "d1"})
    for fault in FAULTS:
        world.faults["published"] = fault
        assert await observer.published() is None
