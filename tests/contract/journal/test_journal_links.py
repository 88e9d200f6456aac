"""What every journal says of link calls and of role changes, that of the simulation included."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pd_autoscaler.core.attempts import KEPT_MAX
from pd_autoscaler.model.link import Verdict
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.plan import DrainNode, LinkNodes, Peer, StopNode, UnlinkNodes, in_waves
from pd_autoscaler.model.report import Done, Failed, Outcome, Report, Unknown
from pd_autoscaler.ports import Journal
from pd_autoscaler.sim.journal import Memory, SimJournal
from pd_autoscaler.sim.loop import run
from tests.support.journals import Place, in_a_file, in_memory
from tests.support.reports import START_UNIX_S, a_node, a_report, a_snapshot
from tests.support.sim import step_of, world_of

Story = Callable[[Journal], Coroutine[Any, Any, None]]
Told = Callable[[Story], None]

P1, P2, D1 = (Peer(name, f"{name}-i1", ()) for name in ("p1", "p2", "d1"))


@pytest.fixture(params=["file", "memory", "simulation"])
def told(request: pytest.FixtureRequest, tmp_path: Path) -> Told:
    """Run a story with a journal of each kind, each on the clock it is made for."""

    def simulated(story: Story) -> None:
        run(lambda: story(SimJournal(step_of(world_of(prompts=0, decoders=0)), Memory())))

    def real(story: Story) -> None:
        async def main(place: Place) -> None:
            async with place.open() as journal:
                await story(journal)

        is_file = request.param == "file"
        # A factory of its own: the runner then leaves alone the loops of other tests.
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(main(in_a_file(tmp_path / "journal.db") if is_file else in_memory()))

    return simulated if request.param == "simulation" else real


def ending(*outcomes: Outcome, cycle: int = 1) -> Report:
    return a_report(cycle=cycle, outcomes=outcomes)


def test_each_pair_of_a_batch_has_its_own_end_with_its_own_code(told: Told) -> None:
    refused = Failed(
        LinkNodes("d1", (P1,)),
        "LLM_LINK_FAILED",
        verdict=Verdict.RETRY,
        took_s=5.0,
        code="LLM_LINK_FAILED",
    )
    made = Done(LinkNodes("d1", (P2,)), took_s=0.5, code="LLM_SUCCESS")

    async def story(journal: Journal) -> None:
        await journal.append(ending(refused, made, Done(StopNode("d1"))))

        assert await journal.link_events("d1", "p1", limit=9) == [
            {
                "at_unix_s": START_UNIX_S + 10.0,
                "node": "d1",
                "peer": "p1",
                "verb": "link",
                "outcome": "failed",
                "code": "LLM_LINK_FAILED",
                "why": "LLM_LINK_FAILED",
                "took_s": 5.0,
            }
        ]
        (event,) = await journal.link_events("d1", "p2", limit=9)
        assert (event["outcome"], event["code"], event["took_s"]) == ("done", "LLM_SUCCESS", 0.5)
        assert await journal.link_events("d2", "p1", limit=9) == []

    told(story)


def test_a_call_that_ended_as_a_whole_is_told_of_each_of_its_pairs(told: Told) -> None:
    silent = Unknown(LinkNodes("d1", (P1, P2)), "no answer within 12 s", took_s=12.0)

    async def story(journal: Journal) -> None:
        await journal.append(ending(silent))
        for prompt in ("p1", "p2"):
            (event,) = await journal.link_events("d1", prompt, limit=9)
            assert (event["outcome"], event["code"]) == ("unknown", "")
            assert event["why"] == "no answer within 12 s"

    told(story)


def test_the_calls_of_both_ends_are_found_newest_first(told: Told) -> None:
    async def story(journal: Journal) -> None:
        await journal.append(ending(Failed(LinkNodes("d1", (P1,)), "refused"), cycle=1))
        forced = Done(UnlinkNodes("p1", (D1,), force=True))
        await journal.append(ending(Done(UnlinkNodes("d1", (P1,), force=False)), forced, cycle=2))

        events = await journal.link_events("d1", "p1", limit=9)
        assert [(e["node"], e["verb"]) for e in events] == [
            ("p1", "force-unlink"),
            ("d1", "unlink"),
            ("d1", "link"),
        ]
        assert await journal.link_events("d1", "p1", limit=2) == events[:2]

    told(story)


def test_one_restless_pair_crowds_out_only_its_own_past(told: Told) -> None:
    async def story(journal: Journal) -> None:
        await journal.append(ending(Done(LinkNodes("d1", (P2,))), cycle=1))
        for cycle in range(2, KEPT_MAX + 12):
            await journal.append(ending(Failed(LinkNodes("d1", (P1,)), str(cycle)), cycle=cycle))

        events = await journal.link_events("d1", "p1", limit=1000)
        newest = KEPT_MAX + 11
        assert [e["why"] for e in events] == [str(newest - n) for n in range(KEPT_MAX)]
        assert len(await journal.link_events("d1", "p2", limit=9)) == 1

    told(story)


def leaving(name: str, state: NodeState, next_role: Role | None) -> Node:
    return replace(a_node(name, Role.PROMPT, state), next_role=next_role)


def test_the_last_report_tells_which_role_a_node_on_its_way_out_takes(told: Told) -> None:
    nodes = (
        leaving("p1", NodeState.DRAINING, Role.DECODER),
        leaving("p2", NodeState.UNLINKING, Role.DECODER),
        leaving("p3", NodeState.DRAINING, None),
        leaving("p4", NodeState.SERVING, Role.DECODER),
    )

    async def story(journal: Journal) -> None:
        await journal.append(a_report(cycle=1, snapshot=a_snapshot(nodes=nodes)))
        assert (await journal.remembered()).switching == dict.fromkeys(("p1", "p2"), Role.DECODER)
        await journal.append(a_report(cycle=2, snapshot=a_snapshot(nodes=nodes[1:])))
        assert (await journal.remembered()).switching == {"p2": Role.DECODER}

    told(story)


@pytest.mark.parametrize(("outcome", "is_switching"), [(None, True), (Done, True), (Failed, False)])
def test_a_drain_for_another_role_is_remembered_before_a_report_shows_it(
    told: Told, outcome: Callable[..., Outcome] | None, is_switching: bool
) -> None:
    drain = DrainNode("p1", "one prompt node too many", Role.DECODER)
    gone = DrainNode("p2", "not wanted", None)

    async def story(journal: Journal) -> None:
        await journal.append(a_report(cycle=1))
        intent, _ = await journal.intend([drain, gone])
        if outcome is Failed:
            await journal.ended(intent, Failed(drain, "no"))
        elif outcome is not None:
            await journal.ended(intent, outcome(drain))
        # The report of the very cycle that began the drains was made before they began.
        await journal.append(a_report(cycle=2, plan=in_waves([drain, gone])))

        remembered = await journal.remembered()
        assert remembered.switching == ({"p1": Role.DECODER} if is_switching else {})
        assert "p2" in remembered.draining

    told(story)


def test_a_role_change_that_later_reports_do_not_show_is_over(told: Told) -> None:
    drain = DrainNode("p1", "one prompt node too many", Role.DECODER)

    async def story(journal: Journal) -> None:
        (intent,) = await journal.intend([drain])
        await journal.ended(intent, Done(drain))
        await journal.append(a_report(cycle=1, plan=in_waves([drain])))
        for cycle in (2, 3):
            await journal.append(a_report(cycle=cycle))

        assert (await journal.remembered()).switching == {}

    told(story)
