"""The loop's laws, in virtual time, over a world in memory."""

from dataclasses import replace
from itertools import pairwise

import anyio
import pytest

from pd_autoscaler.core.rules import Rules
from pd_autoscaler.errors import OutcomeUnknownError, PermanentError, TransientError
from pd_autoscaler.model.decision import Hold, HoldReason, Mode, Target
from pd_autoscaler.model.facts import AgentPhase
from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.model.plan import DrainNode, PublishNode, StopNode, UnlinkNodes
from pd_autoscaler.model.report import Failed, Unknown
from pd_autoscaler.model.snapshot import Limits
from pd_autoscaler.ports import Remembered
from tests.support.ports_fakes import (
    RULES,
    FakeJournal,
    FakeWorld,
    Rig,
    asked,
    hang,
    pass_time,
    starts,
    virtually,
)


def meshed(*names: str) -> FakeWorld:
    world = FakeWorld(*names)
    world.mesh()
    return world


def limited(**limits: int) -> Rules:
    found = Limits(**{"prompt_max": 6, "decoder_max": 6, "nodes_max": 8, **limits})
    return replace(RULES, guard=replace(RULES.guard, limits=found))


@virtually
async def test_a_fleet_grows_to_its_target_and_then_nothing_is_planned() -> None:
    rig = Rig(FakeWorld("p1", "d1"))
    rig.policy.answer = asked(2, 3)
    async with rig.running():
        report = await rig.at_target(2, 3)
    assert rig.world.published == {"p1", "p2", "d1", "d2", "d3"}
    assert report.target == Target(2, 3)
    assert report.links
    assert all(link.state == "linked" for link in report.links)


@virtually
async def test_a_fleet_shrinks_to_its_target_and_each_node_leaves_by_the_book() -> None:
    rig = Rig(meshed("p1", "p2", "d1", "d2"))
    rig.policy.answer = asked(1, 2)
    async with rig.running():
        await rig.at_target(1, 2)
    left = [call for call in rig.world.changes() if call not in {"unlinks d1", "unlinks d2"}]
    assert [call.split(" ")[0] for call in left] == ["withdraw", "finalize", "remove"]
    assert {call for call in rig.world.calls if call.startswith("unlink ")} == {
        "unlink d1-p1",
        "unlink d2-p1",
    }


@virtually
async def test_cycles_follow_each_other_at_the_period_and_never_two_at_once() -> None:
    rig = Rig(meshed("p1", "d1"))
    async with rig.running():
        await rig.report(4)
    moments = [r.snapshot.now_s for r in rig.seen]
    assert [later - sooner for sooner, later in pairwise(moments)] == (
        pytest.approx([10, 10, 10], abs=0.01)
    )


@virtually
async def test_a_slow_cycle_delays_the_next_which_then_begins_at_once() -> None:
    rig = Rig(meshed("p1", "d1"))
    asking = 0

    async def thinking() -> None:
        nonlocal asking
        asking += 1
        assert asking == 1
        await pass_time(25)
        asking -= 1

    rig.workers.fault = thinking
    async with rig.running():
        await rig.report(3)
    moments = [r.snapshot.now_s for r in rig.seen]
    assert moments[1] - moments[0] == pytest.approx(25.1, abs=0.01)


@virtually
async def test_pokes_run_one_cycle_early_which_waits_a_gap_for_more_of_them() -> None:
    rig = Rig(meshed("p1", "d1"), gap_min_s=0.5)
    async with rig.running():
        first = await rig.report()
        await pass_time(3)
        for _ in range(5):
            rig.loop.poke()
        second = await rig.report()
        rig.loop.poke()
        third = await rig.report()
        fourth = await rig.report()
    assert second.snapshot.now_s - first.snapshot.now_s == pytest.approx(3.5, abs=0.01)
    assert third.snapshot.now_s - second.snapshot.now_s == pytest.approx(0.5, abs=0.01)
    assert fourth.snapshot.now_s - third.snapshot.now_s == pytest.approx(10, abs=0.01)


@virtually
async def test_an_action_that_lasts_keeps_its_node_busy_and_the_loop_running() -> None:
    world = meshed("p1", "d1")
    rig = Rig(world)
    rig.policy.answer = asked(2, 1)
    world.faults["init"] = hang
    async with rig.running():
        await rig.until(lambda r: r.snapshot.coming(Role.PROMPT) == 1)
        await rig.report(6)
        assert world.calls.count("init p2 prompt") == 1
        report = await rig.until(lambda r: any(isinstance(o, Unknown) for o in r.outcomes))
    [outcome] = [o for o in report.outcomes if isinstance(o, Unknown)]
    assert "120 s" in outcome.why


@virtually
async def test_nothing_is_begun_that_the_journal_cannot_write_ahead() -> None:
    rig = Rig(meshed("p1", "d1"))
    rig.policy.answer = asked(2, 1)
    rig.journal.faults["intend"] = TransientError("disk full")
    async with rig.running():
        report = await rig.until(lambda r: bool(r.plan.actions))
        assert any("disk full" in alarm for alarm in report.alarms)
        await rig.report(3)
        assert rig.world.changes() == []
        rig.journal.faults.clear()
        await rig.at_target(2, 1)


@virtually
async def test_a_journal_that_fails_holds_the_target_and_lets_go_once_it_is_back() -> None:
    rig = Rig(meshed("p1", "d1"))
    rig.journal.faults["*"] = OutcomeUnknownError("no answer from the disk")
    rig.policy.answer = asked(2, 1)
    async with rig.running():
        await rig.report(2)
        held = await rig.report()
        assert isinstance(held.decision, Hold)
        assert held.decision.reason is HoldReason.JOURNAL_FAILED
        assert rig.world.changes() == []
        rig.journal.faults.clear()
        await rig.at_target(2, 1)


@virtually
async def test_a_target_that_cannot_be_written_does_not_stand_and_starts_no_cooldown() -> None:
    rig = Rig(meshed("p1", "d1", "d2"))
    async with rig.running():
        await rig.report(3)
        rig.journal.faults["set_target"] = rig.journal.faults["target"] = TransientError("full")
        rig.policy.answer = asked(1, 1)
        await rig.report()
        assert rig.control.target == Target(1, 2)
        rig.journal.faults.clear()
        moved = await rig.until(lambda r: r.target == Target(1, 1), within_s=25)
    assert moved.gates == ()


@pytest.mark.parametrize("is_advisory", [True, False])
def test_advisory_and_stopped_decide_and_plan_but_change_nothing(*, is_advisory: bool) -> None:
    @virtually
    async def test() -> None:
        world = meshed("p1", "p2", "p3", "d1")
        world.nodes["d1"].rows.clear()
        world.add("d2", phase=AgentPhase.NEW)
        journal = FakeJournal(
            Remembered(target=(1, 4), mode="active" if is_advisory else "stopped")
        )
        rig = Rig(world, is_advisory=is_advisory, journal=journal)
        rig.policy.answer = asked(1, 5)
        async with rig.running():
            report = await rig.report(12)
        assert world.changes() == []
        assert report.plan.actions
        assert report.mode is (Mode.ADVISORY if is_advisory else Mode.STOPPED)
        assert rig.policy.count == (12 if is_advisory else 0)
        assert not [line for line in rig.journal.lines if line.startswith("intend")]

    test()


@virtually
async def test_paused_keeps_the_target_and_repairs_what_breaks() -> None:
    rig = Rig(meshed("p1", "d1", "d2"))
    rig.policy.answer = asked(1, 4)
    async with rig.running():
        await rig.report()
        await rig.control.pause(everything=False)
        target = rig.control.target
        rig.world.nodes["d2"].rows.clear()
        await rig.until(lambda r: r.links[-1].state != "linked")
        report = await rig.until(lambda r: all(link.state == "linked" for link in r.links))
        assert report.target == target
        rig.world.nodes.pop("d1")
        await rig.until(lambda r: r.snapshot.serving(Role.DECODER) == target.decoder)


@virtually
async def test_an_operator_who_scales_while_the_policy_thinks_has_the_last_word() -> None:
    rig = Rig(meshed("p1", "d1"))
    async with rig.running():
        await rig.report()
        rig.policy.answer = asked(2, 2)

        async def scaling() -> None:
            rig.workers.fault = None
            await rig.control.scale(1, 3)

        rig.workers.fault = scaling
        report = await rig.report()
        assert report.target == Target(1, 3)
        await rig.at_target(1, 3)
    assert rig.control.mode is Mode.PAUSED


@virtually
async def test_a_stop_while_intents_are_written_begins_nothing() -> None:
    rig = Rig(meshed("p1", "d1"))

    async def stopping() -> None:
        rig.journal.faults.clear()
        await rig.control.pause(everything=True)

    async with rig.running():
        await rig.report()
        rig.journal.faults["intend"] = stopping
        rig.policy.answer = asked(2, 1)
        await rig.report(4)
    assert rig.world.changes() == []
    assert rig.control.mode is Mode.STOPPED
    assert [type(o) for o in rig.journal.outcomes.values()] == [Failed]


@virtually
async def test_the_premise_of_a_removal_is_read_again_just_before_it() -> None:
    world = meshed("p1", "p2", "d1")
    at_once = replace(RULES, guard=replace(RULES.guard, up_window_s=0, down_window_s=0))
    rig = Rig(world, rules=at_once)
    async with rig.running():
        await rig.report(4)

        async def unlisting() -> None:
            # After the observation of this cycle, and before its plan.
            world.published.discard("p2")

        rig.workers.fault = unlisting
        rig.policy.answer = asked(1, 1)
        report = await rig.report()
    assert report.target == Target(1, 1)
    assert "too few others serve" in " ".join(report.plan.notes)
    assert "withdraw p1" not in world.calls


@virtually
async def test_two_removals_of_one_plan_do_not_each_count_on_the_other() -> None:
    world = meshed("p1", "p2", "p3", "d1")
    journal = FakeJournal(Remembered(target=(1, 1), mode="paused"))
    rig = Rig(world, journal=journal)
    async with rig.running():
        await rig.report(2)
        # From now on the router lacks one at each second reading: the one before a removal.
        reads = 0

        async def every_second() -> None:
            nonlocal reads
            reads += 1
            if reads % 2:
                world.published.add("p3")
            else:
                world.published.discard("p3")

        world.faults["published"] = every_second
        report = await rig.report()
    drains = [a for a in report.plan.actions if isinstance(a, DrainNode)]
    assert len(drains) == 1
    assert world.published & {"p1", "p2"}


@virtually
async def test_no_removal_while_the_router_does_not_answer() -> None:
    world = meshed("p1", "p2", "d1")
    rig = Rig(world)
    async with rig.running():
        await rig.report(4)
        world.faults["published"] = hang
        rig.policy.answer = asked(1, 1)
        await rig.report(3)
    assert world.changes() == []


@pytest.mark.parametrize(("call", "source"), [("nodes", "provider"), ("published", "router")])
def test_a_provider_or_router_that_does_not_answer_is_an_alarm(call: str, source: str) -> None:
    @virtually
    async def test() -> None:
        rig = Rig(meshed("p1", "d1"))
        async with rig.running():
            assert (await rig.report()).alarms == ()
            rig.world.faults[call] = TransientError("HTTP 503")
            report = await rig.report(2)
            assert report.alarms == (f"the {source} cannot be read: HTTP 503",)
            rig.world.faults.clear()
            assert (await rig.report(2)).alarms == ()

    test()


@virtually
async def test_the_epoch_is_above_every_one_seen_in_the_journal_and_at_the_agents() -> None:
    world = FakeWorld("p1", "d1")
    world.nodes["d1"].epoch, world.nodes["d1"].holder = 7, "another"
    rig = Rig(world, journal=FakeJournal(Remembered(epoch=4)))
    async with rig.running():
        await rig.until(lambda _: bool(world.fences))
    assert {fence.epoch for fence in world.fences} == {8}
    assert "epoch 8" in rig.journal.lines


@virtually
async def test_an_agent_that_answers_late_with_a_higher_epoch_raises_it_before_anything() -> None:
    world = FakeWorld("p1", "d1")
    world.nodes["d1"].epoch, world.nodes["d1"].holder = 7, "another"
    world.faults["state d1"] = TransientError("not yet")
    rig = Rig(world)
    async with rig.running():
        first = await rig.report()
        assert first.epoch == 1
        world.faults.clear()
        report = await rig.report()
        assert report.epoch == 8
        # Later, whoever has a higher one is a controller that took over.
        world.nodes["d1"].epoch, world.nodes["d1"].holder = 9, "another"
        report = await rig.report()
    assert report.epoch == 8
    assert any("obey another controller" in alarm for alarm in report.alarms)


@virtually
async def test_a_controller_claims_every_agent_before_it_acts_and_an_adviser_none() -> None:
    for is_advisory, claims in ((False, ["claim d1", "claim p1"]), (True, [])):
        rig = Rig(meshed("p1", "d1"), is_advisory=is_advisory)
        async with rig.running():
            await rig.report(3)
        assert [c for c in rig.world.calls if c.startswith("claim")] == claims


@virtually
async def test_an_agent_that_cannot_be_claimed_keeps_nobody_from_acting() -> None:
    world = meshed("p1", "d1")
    world.faults["claim d1"] = TransientError("not now")
    rig = Rig(world)
    rig.policy.answer = asked(1, 2)
    async with rig.running():
        await rig.at_target(1, 2)


@virtually
async def test_a_controller_whose_agents_obey_another_one_does_nothing_more() -> None:
    world = meshed("p1", "d1", "d2")
    rig = Rig(world)
    async with rig.running():
        await rig.at_target(1, 2)
        for fake in world.nodes.values():
            fake.epoch, fake.holder = 9, "another"
        rig.policy.answer = asked(3, 3)
        world.calls.clear()
        await rig.report(5)
        report = await rig.report()
    assert world.changes() == []
    assert any("3 of 3 agents obey another controller" in alarm for alarm in report.alarms)


@virtually
async def test_a_report_says_whether_engines_connect_by_themselves() -> None:
    rules = replace(RULES, link=replace(RULES.link, is_meshed=False))
    rig = Rig(FakeWorld("p1", "d1"), rules=rules)
    async with rig.running():
        report = await rig.at_target(1, 1)
    assert (report.is_meshed, report.links) == (False, ())
    assert not [call for call in rig.world.changes() if call.startswith("link")]


@virtually
async def test_one_agent_that_obeys_another_controller_does_not_stop_the_rest() -> None:
    world = meshed("p1", "p2", "d1", "d2")
    rig = Rig(world)
    async with rig.running():
        await rig.at_target(2, 2)
        world.nodes["p2"].epoch, world.nodes["p2"].holder = 9, "long gone"
        rig.policy.answer = asked(2, 3)
        await rig.until(lambda _: any(call.startswith("grow") for call in world.calls))


@virtually
async def test_a_follower_watches_and_takes_a_new_epoch_when_it_leads() -> None:
    world = FakeWorld("p1", "d1")
    world.leads = False
    rig = Rig(world, journal=FakeJournal(Remembered(target=(1, 1))))
    async with rig.running():
        await rig.report(3)
        assert world.changes() == []
        world.nodes["p1"].epoch, world.nodes["p1"].holder = 5, "the leader"
        await rig.report()
        world.leads = True
        await rig.at_target(1, 1)
    assert {fence.epoch for fence in world.fences} == {6}


@virtually
async def test_a_restart_takes_up_target_mode_links_and_those_on_their_way_out() -> None:
    world = meshed("p1", "p2", "d1")
    world.published.discard("p2")
    journal = FakeJournal(
        Remembered(
            epoch=3,
            cycle=40,
            target=(1, 1),
            mode="paused",
            request_count=9,
            linked={"p1/1": frozenset({101, 177}), "p2/1": frozenset({101})},
            nodes=frozenset({"p1", "p2", "d1", "gone"}),
            draining=frozenset({"p2"}),
        )
    )
    world.published.add("gone")
    rig = Rig(world, journal=journal)
    async with rig.running():
        first = await rig.report()
        assert (first.cycle, first.epoch, first.mode) == (41, 4, Mode.PAUSED)
        assert first.target == Target(1, 1)
        assert {n.id: n.state for n in first.snapshot.nodes}["p2"] is NodeState.DRAINING
        await rig.at_target(1, 1)
    assert "unlink p1-cluster 177" in world.calls
    assert "withdraw gone" in world.calls
    assert journal.linked["p1/1"] == {101}


@virtually
async def test_a_restart_that_cannot_read_the_provider_starts_no_second_fleet() -> None:
    world = meshed("p1", "p2", "d1", "d2")
    world.faults["nodes"] = TransientError("HTTP 503")
    rig = Rig(world, journal=FakeJournal(Remembered(target=(2, 2))))
    async with rig.running():
        for _ in range(3):
            assert starts(await rig.report()) == []
        world.faults.clear()
        await rig.at_target(2, 2)
    assert world.changes() == []


@virtually
async def test_a_remembered_target_outside_the_present_limits_is_brought_inside() -> None:
    rig = Rig(
        meshed("p1", "p2", "p3", "d1", "d2"),
        journal=FakeJournal(Remembered(target=(6, 9), mode="paused")),
        rules=limited(prompt_max=3, nodes_max=5),
    )
    async with rig.running():
        report = await rig.report(3)
    assert report.target == Target(2, 3)
    assert not any(starts(r) for r in rig.seen)


@virtually
async def test_a_fleet_found_above_the_budget_is_brought_down_to_it() -> None:
    rig = Rig(meshed("p1", "p2", "p3", "d1", "d2", "d3"), rules=limited(nodes_max=4))
    async with rig.running():
        report = await rig.report()
        assert report.target.total == 4
        await rig.at_target(report.target.prompt, report.target.decoder)


@virtually
async def test_links_are_in_the_journal_before_the_call_and_forgotten_after_they_are_gone() -> None:
    world = FakeWorld("p1", "p2", "d1", "d2")
    rig = Rig(world)
    known: list[set[int]] = []

    async def looking() -> None:
        known.append(set(rig.journal.linked.get("p1/1", set())))

    world.faults["link d1-p1"] = looking
    async with rig.running():
        await rig.at_target(2, 2)
        assert known in ([{101, 102}], [{101}])
        assert rig.journal.linked == {"p1/1": {101, 102}, "p2/1": {101, 102}}
        rig.policy.answer = asked(2, 1)
        await rig.at_target(2, 1)
        await rig.report()
    assert [ids for ids in rig.journal.linked.values() if ids] == [{101}, {101}] or [
        ids for ids in rig.journal.linked.values() if ids
    ] == [{102}, {102}]


@virtually
async def test_what_the_journal_has_forgotten_of_a_prompt_node_takes_no_memory() -> None:
    rig = Rig(FakeWorld("p1", "p2", "d1"))
    async with rig.running():
        await rig.at_target(2, 1)
        rig.policy.answer = asked(1, 1)
        report = await rig.at_target(1, 1)
        [left] = [n.incarnation for n in report.snapshot.nodes if n.role is Role.PROMPT]
        assert set(rig.loop._linked_ids._kept) == {left}  # Nobody else can see it.


@virtually
async def test_an_unexpected_fault_in_one_cycle_is_told_and_the_next_cycle_runs() -> None:
    rig = Rig(meshed("p1", "d1"), faults_in_a_row_max=2)
    async with rig.running():
        await rig.report(2)
        rig.journal.faults["append"] = KeyError("a fault of our own")
        await pass_time(15)
        rig.journal.faults.clear()
        report = await rig.report()
    assert any("a fault of our own" in alarm for alarm in report.alarms)


@virtually
async def test_too_many_faulty_cycles_in_a_row_end_the_loop_with_their_error() -> None:
    rig = Rig(meshed("p1", "d1"), faults_in_a_row_max=2)
    rig.journal.faults["append"] = KeyError("a fault of our own")
    with pytest.raises(ExceptionGroup) as raised:
        await rig.loop.run()
    assert raised.group_contains(KeyError, match="a fault of our own")


@virtually
async def test_a_fault_inside_an_adapter_neither_ends_the_loop_nor_passes_for_success() -> None:
    world = meshed("p1", "d1")
    rig = Rig(world)
    rig.policy.answer = asked(2, 1)
    world.faults["grow"] = RuntimeError("a fault of the adapter")
    async with rig.running():
        report = await rig.until(lambda r: bool(r.outcomes))
        [outcome] = report.outcomes
        assert isinstance(outcome, Unknown)
        assert "a fault of the adapter" in outcome.why
        world.faults.clear()
        await rig.at_target(2, 1)
    assert world.requests == {"start-1"}


@virtually
async def test_an_end_that_the_journal_cannot_write_does_not_end_the_loop() -> None:
    rig = Rig(meshed("p1", "d1"))
    rig.journal.faults["ended"] = PermanentError("corrupt")
    rig.policy.answer = asked(2, 1)
    async with rig.running():
        await rig.at_target(2, 1)


@virtually
async def test_a_start_the_provider_refuses_for_good_is_tried_again_later() -> None:
    world = meshed("p1", "d1")
    rig = Rig(world)
    rig.policy.answer = asked(2, 1)
    world.faults["grow"] = PermanentError("quota")
    async with rig.running():
        report = await rig.until(lambda r: bool(r.outcomes))
        assert isinstance(report.outcomes[0], Failed)
        await rig.until(lambda r: r.snapshot.coming(Role.PROMPT) == 0)
        world.faults.clear()
        await rig.at_target(2, 1)


@virtually
async def test_an_operators_drain_is_replaced_first_and_is_over_once_the_node_is_gone() -> None:
    world = meshed("p1", "p2", "d1")
    rig = Rig(world)
    async with rig.running():
        await rig.report()
        await rig.control.drain("p1")
        report = await rig.until(lambda r: bool(starts(r)))
        assert "withdraw p1" not in world.calls
        report = await rig.until(lambda r: "p1" not in {n.id for n in r.snapshot.nodes})
        await rig.at_target(2, 1)
        assert rig.control.drains == frozenset()
        # A new node under the old name is nobody's to drain.
        assert report.target == Target(2, 1)


@virtually
async def test_a_node_that_vanishes_from_one_list_while_it_answers_is_not_lost() -> None:
    world = meshed("p1", "p2", "d1", "d2")
    rig = Rig(world)
    async with rig.running():
        await rig.report(3)
        world.listed = {"p1", "d1", "d2"}
        report = await rig.report(2)
        assert any("does not list p2" in alarm for alarm in report.alarms)
        world.listed = None
        report = await rig.report(2)
    assert world.changes() == []
    assert report.alarms == ()


@virtually
async def test_an_empty_list_of_a_provider_loses_no_fleet_that_answers() -> None:
    world = meshed("p1", "p2", "d1", "d2")
    rig = Rig(world)
    async with rig.running():
        await rig.report(3)
        world.listed = set()
        report = await rig.report(8)
        assert report.snapshot.serving(Role.PROMPT) == 2
    assert world.changes() == []


@virtually
async def test_a_node_that_its_provider_disowns_for_long_is_let_go() -> None:
    world = meshed("p1", "p2", "p3", "d1", "d2")
    rig = Rig(world)
    async with rig.running():
        await rig.report(3)
        world.listed = {"p1", "p3", "d1", "d2", "p4"}
        await rig.until(lambda r: "p2" not in {n.id for n in r.snapshot.nodes})
        await rig.at_target(3, 2)
    assert "withdraw p2" in world.calls


@virtually
async def test_metrics_are_read_once_a_period_however_often_a_cycle_is_poked() -> None:
    rig = Rig(meshed("p1", "d1"))
    async with rig.running():
        await rig.report()
        for _ in range(8):
            rig.loop.poke()
            await rig.report()
        assert rig.world.calls.count("metrics") == 1
        await rig.report()
    assert rig.world.calls.count("metrics") == 2


@virtually
async def test_a_forced_unlink_that_keeps_failing_does_not_turn_the_loop_hot() -> None:
    world = meshed("p1", "p2", "d1")
    rig = Rig(
        world,
        journal=FakeJournal(Remembered(target=(2, 1), linked={"p1/1": frozenset({101, 177})})),
    )
    world.faults["unlinks p1"] = TransientError("HTTP 500")
    async with rig.running():
        await rig.until(lambda r: any(isinstance(a, UnlinkNodes) for a in r.plan.actions))
        began_s, before = anyio.current_time(), len(rig.seen)
        await rig.until(lambda r: r.snapshot.now_s > began_s + 100)
        cycles = len(rig.seen) - before
    assert cycles < 30


@virtually
async def test_a_finalise_that_hangs_is_not_tried_for_ever() -> None:
    world = meshed("p1", "p2", "d1")
    rig = Rig(world)
    world.faults["finalize"] = hang
    rig.policy.answer = asked(1, 1)
    async with rig.running():
        await rig.at_target(1, 1)
    assert sum(call.startswith("finalize") for call in world.calls) == 1


@virtually
async def test_a_dead_node_the_router_relists_is_withdrawn_again() -> None:
    world = meshed("p1", "p2", "d1")
    rig = Rig(world)
    rig.policy.answer = asked(1, 1)

    async def relisting() -> None:
        world.faults.pop("remove")
        world.published.add("p1")

    world.faults["remove"] = relisting
    async with rig.running():
        await rig.at_target(1, 1)
        await rig.report()
    assert "p1" not in world.published
    assert world.calls.count("withdraw p1") == 2


@virtually
async def test_a_publication_that_takes_effect_after_its_node_is_gone_is_taken_back() -> None:
    world = meshed("p1", "p2", "d1")
    rig = Rig(world)
    async with rig.running():
        await rig.report(3)
        del world.nodes["p2"]
        await rig.until(lambda r: "p2" not in {n.id for n in r.snapshot.nodes})
        world.published.add("p2")
        await rig.report(3)
        assert "p2" not in world.published or "p2" in world.nodes


@virtually
async def test_a_draining_node_taken_back_is_not_withdrawn_by_the_same_plan() -> None:
    world = meshed("p1", "p2", "d1")
    rig = Rig(world)
    rig.policy.answer = asked(1, 1)
    world.faults["withdraw"] = TransientError("HTTP 503")
    async with rig.running():
        await rig.until(lambda r: r.snapshot.count(Role.PROMPT, NodeState.DRAINING) == 1)
        rig.policy.answer = asked(2, 1)
        world.faults.clear()
        report = await rig.until(lambda r: any(isinstance(a, PublishNode) for a in r.plan.actions))
        assert [type(action) for action in report.plan.actions] == [PublishNode]
        await rig.at_target(2, 1)


@virtually
async def test_a_newcomer_that_no_decoder_can_link_is_replaced_by_one_that_can_be() -> None:
    world = meshed("p1", "p2", "d1", "d2")
    rig = Rig(world)
    rig.policy.answer = asked(3, 2)
    for decoder in ("d1", "d2"):
        world.faults[f"link {decoder}-p3"] = TransientError("unreachable")
    async with rig.running():
        await rig.until(lambda _: "remove p3" in world.calls)
        await rig.until(lambda r: r.snapshot.serving(Role.PROMPT) == 3)
    assert world.published == {"p1", "p2", "p4", "d1", "d2"}


@virtually
async def test_a_node_that_never_stops_does_not_keep_others_from_leaving() -> None:
    world = meshed("p1", "p2", "p3", "d1")
    rig = Rig(world)
    world.faults["remove p1"] = PermanentError("protected")
    rig.policy.answer = asked(1, 1)
    async with rig.running():
        await rig.until(lambda r: r.snapshot.serving(Role.PROMPT) == 1)
        await rig.until(lambda _: "remove p2" in world.calls or "remove p3" in world.calls)
    assert "p1" in world.nodes
    assert StopNode("p1") in [a for r in rig.seen for a in r.plan.actions]


@virtually
async def test_at_a_full_budget_a_node_switches_its_role_and_joins_without_a_restart() -> None:
    world = meshed("p1", "p2", "d1", "d2", "d3")
    world.can_switch_role = True
    rig = Rig(world, rules=limited(nodes_max=5))
    rig.policy.answer = asked(3, 2)
    async with rig.running():
        report = await rig.at_target(3, 2)
    verbs = [call.split(" ")[0] for call in world.changes()]
    assert not {"grow", "remove", "init", "finalize"} & set(verbs)
    assert [v for v in verbs if v in {"withdraw", "switch", "publish"}] == [
        "withdraw",
        "switch",
        "publish",
    ]
    assert len(world.of(Role.PROMPT)) == 3
    assert all(link.state == "linked" for link in report.links)


@virtually
async def test_a_switch_that_is_refused_gives_way_to_a_node_that_is_started() -> None:
    world = meshed("p1", "p2", "d1", "d2", "d3")
    world.can_switch_role = True
    world.faults["switch"] = PermanentError("this engine cannot")
    rig = Rig(world, rules=limited(nodes_max=5))
    rig.policy.answer = asked(3, 2)
    async with rig.running():
        await rig.at_target(3, 2)
    verbs = {call.split(" ")[0] for call in world.changes()}
    assert {"switch", "remove", "grow", "init"} <= verbs


@virtually
async def test_a_restart_in_the_middle_of_a_switch_goes_on_with_it() -> None:
    world = meshed("p1", "p2", "d1", "d2", "d3")
    world.can_switch_role = True
    world.published -= {"d3"}
    start = Remembered(
        epoch=1, target=(3, 2), draining=frozenset({"d3"}), switching={"d3": Role.PROMPT}
    )
    rig = Rig(world, rules=limited(nodes_max=5), journal=FakeJournal(start))
    rig.policy.answer = asked(3, 2)
    async with rig.running():
        await rig.at_target(3, 2)
    assert "switch d3" in world.changes()
    assert not {"grow", "remove"} & {call.split(" ")[0] for call in world.changes()}
