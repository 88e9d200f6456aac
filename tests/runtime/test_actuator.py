"""The actuator: every action ends as done, failed or unknown, and each pair on its own."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from pd_autoscaler.core.fleet import link_thing, node_thing, things
from pd_autoscaler.errors import OutcomeUnknownError, PermanentError, TransientError
from pd_autoscaler.model.link import Verdict
from pd_autoscaler.model.node import Endpoint, Node, Role
from pd_autoscaler.model.plan import (
    Action,
    DrainNode,
    FinalizeNode,
    InitNode,
    LinkNodes,
    Peer,
    PublishNode,
    StartNode,
    StopNode,
    SwitchRole,
    UnlinkNodes,
    WithdrawNode,
    in_waves,
)
from pd_autoscaler.model.report import Done, Failed, Outcome, Unknown
from pd_autoscaler.ports import ClusterResult, Fence
from pd_autoscaler.runtime.actuator import Actuator, Deadlines
from tests.support.fleets import fleet, node, peer_of
from tests.support.ports_fakes import (
    FakeAgents,
    FakeJournal,
    FakeProvider,
    FakeRouter,
    FakeWorld,
    hang,
    pass_time,
    success,
    virtually,
)

FLEET = fleet(node("p1"), node("p2"), node("d1"))
NODES = FLEET.nodes
P1, P2 = peer_of(NODES["p1"]), peer_of(NODES["p2"])
LINK = LinkNodes("d1", (P1, P2))
MANY = Peer("p1", P1.incarnation, tuple(Endpoint(i, i, "127.0.0.1", 26000) for i in range(17)))
"""More calls than one rank makes at once."""
DEADLINES = Deadlines(provider_s=30, router_s=5, init_s=120, link_s=12, finalize_s=40)
EVERY = (
    (StartNode(Role.PROMPT, "start-1"), "grow", 30),
    (InitNode("p1", Role.PROMPT), "init", 120),
    (LinkNodes("d1", (P1,)), "links", 12),
    (PublishNode("p1"), "publish", 5),
    (WithdrawNode("p1"), "withdraw", 5),
    (DrainNode("p1", "surplus"), "withdraw", 5),
    (UnlinkNodes("d1", (P1,), force=True), "unlinks", 12),
    (FinalizeNode("p1"), "finalize", 40),
    (StopNode("p1"), "remove", 30),
)


class ScriptedAgents(FakeAgents):
    """Link calls whose results the test scripts: a pause, a result, or an error."""

    def __init__(self, world: FakeWorld, script: Sequence[float | ClusterResult | Exception]):
        super().__init__(world)
        self._script = script

    async def links(
        self, node: Node, peers: Sequence[Peer], *, fence: Fence, key: str
    ) -> AsyncIterator[ClusterResult]:
        for step in self._script:
            if isinstance(step, ClusterResult):
                yield step
            elif isinstance(step, Exception):
                raise step
            else:
                await pass_time(step)


class Pokes:
    """Notes when the actuator said that an action has ended, and lets a test wait for the next."""

    def __init__(self) -> None:
        self.moments: list[float] = []
        self._next = anyio.Event()

    def __call__(self) -> None:
        self.moments.append(anyio.current_time())
        self._next.set()

    async def another(self) -> None:
        """Return once there has been one since the last call."""
        await self._next.wait()
        self._next = anyio.Event()


@dataclass
class Stage:
    """An actuator, and what it told."""

    actuator: Actuator
    journal: FakeJournal
    pokes: Pokes

    async def ended(self, action: Action) -> list[Outcome]:
        """Do one action and return its outcomes once nothing is busy any more."""
        await self.actuator.begin(in_waves([action]), FLEET)
        outcomes: list[Outcome] = []
        while self.actuator.busy:
            await self.pokes.another()
            outcomes += self.actuator.ended()
        # The journal is told last.
        await anyio.wait_all_tasks_blocked()
        return outcomes


@asynccontextmanager
async def staged(world: FakeWorld | None = None, *, agents: Any = None) -> AsyncIterator[Stage]:
    world = world or FakeWorld("p1", "p2", "d1")
    journal, pokes = FakeJournal(), Pokes()
    async with anyio.create_task_group() as group:
        actuator = Actuator(
            group,
            provider=FakeProvider(world),
            router=FakeRouter(world),
            agents=agents or FakeAgents(world),
            journal=journal,
            deadlines=DEADLINES,
            fence=lambda: Fence(3, "me"),
            poke=pokes,
        )
        yield Stage(actuator, journal, pokes)
        group.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("action", "call", "deadline_s"), [*EVERY, (LinkNodes("d1", (MANY,)), "links", 24)]
)
def test_every_action_has_a_deadline_and_is_unknown_after_it(
    action: Action, call: str, deadline_s: float
) -> None:
    @virtually
    async def test() -> None:
        world = FakeWorld("p1", "p2", "d1")
        world.faults[call] = hang
        async with staged(world) as stage:
            [outcome] = await stage.ended(action)
            assert isinstance(outcome, Unknown)
            assert outcome.action == action
            assert outcome.took_s == pytest.approx(deadline_s)
            assert [type(o) for o in stage.journal.outcomes.values()] == [Unknown]

    test()


@pytest.mark.parametrize(("action", "call", "deadline_s"), EVERY)
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, "done"),
        (TransientError("busy"), "failed, retryable"),
        (PermanentError("never"), "failed"),
        (OutcomeUnknownError("late"), "unknown"),
        (ZeroDivisionError("a fault of ours"), "unknown"),
    ],
)
def test_every_action_ends_as_what_its_call_said(
    action: Action, call: str, deadline_s: float, error: Exception | None, expected: str
) -> None:
    @virtually
    async def test() -> None:
        world = FakeWorld("p1", "p2", "d1")
        if error is not None:
            world.faults[call] = error
        async with staged(world) as stage:
            [outcome] = await stage.ended(action)
            assert outcome.took_s < deadline_s
        told = type(outcome).__name__.lower()
        is_retryable = isinstance(outcome, Failed) and outcome.retryable
        assert (told + (", retryable" if is_retryable else "")) == expected

    test()


@virtually
async def test_a_node_is_told_to_switch_its_role() -> None:
    async with staged() as stage:
        [outcome] = await stage.ended(SwitchRole("p1", Role.DECODER))
    assert isinstance(outcome, Done)


@virtually
async def test_what_is_acted_on_stays_busy_until_its_outcome_is_taken() -> None:
    async with staged() as stage:
        await stage.actuator.begin(in_waves([PublishNode("p1")]), FLEET)
        assert stage.actuator.busy == {node_thing("p1")}
        await anyio.wait_all_tasks_blocked()
        assert stage.pokes.moments
        assert stage.actuator.busy == {node_thing("p1")}
        assert [type(o) for o in stage.actuator.ended()] == [Done]
        assert stage.actuator.busy == frozenset()
        assert stage.actuator.ended() == ()


@virtually
async def test_intents_are_written_before_the_first_call_and_ends_after_the_last() -> None:
    world = FakeWorld("p1", "p2", "d1")
    seen: list[list[str]] = []

    async with staged(world) as stage:

        async def looking() -> None:
            seen.append(list(stage.journal.lines))

        world.faults["publish"] = looking
        await stage.ended(PublishNode("p1"))
        assert seen == [["intend PublishNode"]]
        assert stage.journal.lines == ["intend PublishNode", "ended 1 Done"]


@virtually
async def test_nothing_begins_if_the_intents_cannot_be_written() -> None:
    world = FakeWorld("p1", "p2", "d1")
    async with staged(world) as stage:
        stage.journal.faults["intend"] = TransientError("disk full")
        with pytest.raises(TransientError):
            await stage.actuator.begin(in_waves([PublishNode("p1"), LINK]), FLEET)
        await anyio.wait_all_tasks_blocked()
        assert stage.actuator.busy == frozenset()
    assert world.calls == []


@virtually
async def test_a_link_intent_names_the_decoders_cluster_ids_at_each_prompt_incarnation() -> None:
    async with staged() as stage:
        await stage.ended(LINK)
        assert stage.journal.linked == {"p1/1": {101}, "p2/1": {101}}


@virtually
async def test_an_end_that_cannot_be_written_is_still_told_to_the_loop() -> None:
    for error in (TransientError("full"), OutcomeUnknownError("late"), KeyError("ours")):
        async with staged() as stage:
            stage.journal.faults["ended"] = error
            [outcome] = await stage.ended(PublishNode("p1"))
            await anyio.wait_all_tasks_blocked()
            assert isinstance(outcome, Done)


@virtually
async def test_pairs_are_told_one_by_one_and_a_hung_one_delays_no_other() -> None:
    script = (1.0, success(2), 1000.0, success(1))
    async with staged(agents=ScriptedAgents(FakeWorld(), script)) as stage:
        await stage.actuator.begin(in_waves([LINK]), FLEET)
        await pass_time(2)
        [first] = stage.actuator.ended()
        assert isinstance(first, Done)
        assert things(first.action) == (link_thing("d1", "p2"),)
        assert stage.actuator.busy == {link_thing("d1", "p1")}
        await pass_time(11)
        [second] = stage.actuator.ended()
        assert isinstance(second, Unknown)
        assert things(second.action) == (link_thing("d1", "p1"),)
        assert stage.actuator.busy == frozenset()
        assert [type(o) for o in stage.journal.outcomes.values()] == [Unknown]


@pytest.mark.parametrize("broken", [None, OutcomeUnknownError("reset"), ValueError("not JSON")])
def test_a_stream_that_breaks_leaves_the_rest_unknown(broken: Exception | None) -> None:
    @virtually
    async def test() -> None:
        script: list[ClusterResult | Exception] = [success(1)]
        if broken is not None:
            script.append(broken)
        async with staged(agents=ScriptedAgents(FakeWorld(), script)) as stage:
            outcomes = await stage.ended(LINK)
        assert [(type(o), things(o.action)) for o in outcomes] == [
            (Done, (link_thing("d1", "p1"),)),
            (Unknown, (link_thing("d1", "p2"),)),
        ]

    test()


@virtually
async def test_each_pair_keeps_its_own_code_and_verdict() -> None:
    script = (
        ClusterResult(1, "LLM_LINK_FAILED", Verdict.RETRY),
        ClusterResult(2, "LLM_TIMEOUT", Verdict.FORCE, is_unknown=True),
    )
    async with staged(agents=ScriptedAgents(FakeWorld(), script)) as stage:
        failed, unknown = await stage.ended(LINK)
    assert isinstance(failed, Failed)
    assert (failed.code, failed.verdict) == ("LLM_LINK_FAILED", Verdict.RETRY)
    assert isinstance(unknown, Unknown)
    assert unknown.why == "LLM_TIMEOUT"


@virtually
async def test_a_pair_of_several_ranks_ends_once_with_the_worst_of_them() -> None:
    ranks = (Endpoint(0, 1, "h", 1), Endpoint(1, 2, "h", 2))
    script = (ClusterResult(1, "LLM_LINK_FAILED", Verdict.RETRY), 1.0, success(2))
    async with staged(agents=ScriptedAgents(FakeWorld(), script)) as stage:
        [outcome] = await stage.ended(LinkNodes("d1", (Peer("p1", "p1/1", ranks),)))
    assert isinstance(outcome, Failed)
    assert outcome.code == "LLM_LINK_FAILED"


@virtually
async def test_results_of_clusters_nobody_asked_for_and_repeated_ones_are_ignored() -> None:
    script = (success(9), success(1), success(1), success(2))
    async with staged(agents=ScriptedAgents(FakeWorld(), script)) as stage:
        outcomes = await stage.ended(LINK)
    assert [type(o) for o in outcomes] == [Done, Done]


@virtually
async def test_what_a_stop_overtook_is_not_begun_and_its_intents_are_ended() -> None:
    world = FakeWorld("p1", "p2", "d1")
    async with staged(world) as stage:
        plan = in_waves([PublishNode("p1"), LINK])
        assert await stage.actuator.begin(plan, FLEET, may_begin=lambda: False) == ()
        assert [type(o) for o in stage.journal.outcomes.values()] == [Failed, Failed]
        assert stage.actuator.busy == frozenset()
    assert world.calls == []


@virtually
async def test_an_end_that_could_not_be_written_is_written_before_the_next_intents() -> None:
    async with staged() as stage:
        stage.journal.faults["ended"] = TransientError("disk full")
        await stage.ended(DrainNode("p1", "surplus"))
        with pytest.raises(TransientError, match="disk full"):
            await stage.actuator.begin(in_waves([StopNode("p2")]), FLEET)
        assert not stage.actuator.busy
        assert stage.journal.lines == ["intend DrainNode"]

        stage.journal.faults.clear()
        await stage.ended(StopNode("p2"))
        assert stage.journal.lines == [
            "intend DrainNode",
            "ended 1 Done",
            "intend StopNode",
            "ended 2 Done",
        ]
