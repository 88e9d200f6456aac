"""Shadow policies: seen in every report, never acted on, never in anybody's way."""

import ast
import threading
from dataclasses import replace
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

from pd_autoscaler import app
from pd_autoscaler.adapters.workers import ThreadWorkers
from pd_autoscaler.core.rules import GuardRules
from pd_autoscaler.errors import ConfigError, TransientError
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.report import Report, Shadow
from pd_autoscaler.model.snapshot import Limits, Snapshot
from pd_autoscaler.policies.contract import Policy
from pd_autoscaler.ports import Workers
from pd_autoscaler.runtime import shadow
from pd_autoscaler.runtime.policy_runner import PolicyRunner
from pd_autoscaler.runtime.shadow import Follower, Shadows
from pd_autoscaler.settings import Settings
from tests.support.ports_fakes import (
    FakeWorld,
    InlineWorkers,
    Rig,
    ToldPolicy,
    asked,
    hang,
    pass_time,
    virtually,
)

WIDE = Limits(prompt_max=60, decoder_max=60, nodes_max=100)
OPEN = GuardRules(limits=WIDE, up_window_s=0, down_window_s=0, cooldown_s=0, step_up_max=60)


class Greedy:
    """Wants one node more of each role than where it stands, up to fifty; notes what it saw."""

    def __init__(self) -> None:
        self.seen: list[Snapshot] = []

    def decide(self, snapshot: Snapshot) -> Decision:
        self.seen.append(snapshot)
        standing = snapshot.target
        return Target(min(50, standing.prompt + 1), min(50, standing.decoder + 1), "ever more")


class Spoiler:
    """Empties what it is shown."""

    def decide(self, snapshot: Snapshot) -> Decision:
        for shown in (snapshot.node_signals, snapshot.lead_times, snapshot.links):
            spoilt: Any = shown
            spoilt.clear()
        return snapshot.target


def follower(
    policy: Policy,
    name: str = "other",
    *,
    workers: Workers | None = None,
    rules: GuardRules = OPEN,
) -> Follower:
    runner = PolicyRunner(policy, workers or InlineWorkers(), deadline_s=5.0, name=name)
    return Follower(name, runner, rules)


def meshed(*names: str) -> FakeWorld:
    world = FakeWorld(*names)
    world.mesh()
    return world


def shadow_of(report: Report, name: str = "other") -> Shadow:
    return next(s for s in report.shadows if s.name == name)


@virtually
async def test_a_shadow_that_wants_fifty_nodes_moves_nothing_but_its_own_target() -> None:
    greedy = Greedy()
    rig = Rig(meshed("p1", "d1"), shadows=[follower(greedy)])
    rig.policy.answer = asked(1, 1)
    async with rig.running():
        report = await rig.report(60)
    assert shadow_of(report).target == Target(50, 50)
    assert report.target == Target(1, 1)
    assert not any(r.plan.actions for r in rig.seen)
    assert rig.world.changes() == []
    targets = [line for line in rig.journal.lines if line.startswith("target")]
    assert targets == ["target 1:1"]
    # Where its own decisions led it, step by step, on otherwise the same snapshots.
    assert [s.target for s in greedy.seen[:3]] == [Target(1, 1), Target(2, 2), Target(3, 3)]
    unmoved = [
        replace(s, target=r.snapshot.target) for s, r in zip(greedy.seen, rig.seen, strict=True)
    ]
    assert unmoved == [r.snapshot for r in rig.seen]


def test_the_code_of_shadows_is_handed_no_way_to_act() -> None:
    tree = ast.parse(Path(shadow.__file__).read_text())
    ours = {
        f"{node.module}.{name.name}".removeprefix("pd_autoscaler.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pd_autoscaler")
        for name in node.names
    }
    assert {name for name in ours if not name.startswith("model.")} == {
        "core.gates",
        "core.guard",
        "core.rules.GuardRules",
        "runtime.policy_runner.PolicyRunner",
    }
    taken = {
        name: list(signature(made).parameters)
        for name, made in {"Follower": Follower, "Shadows": Shadows}.items()
    }
    assert taken == {
        "Follower": ["name", "policy", "rules", "target", "is_anchored"],
        "Shadows": ["followers"],
    }


@virtually
async def test_each_shadow_has_a_guard_and_a_target_of_its_own() -> None:
    patient = replace(OPEN, up_window_s=30.0, step_up_max=2)
    greedy, other = Greedy(), ToldPolicy()
    other.answer = asked(9, 1)
    rig = Rig(
        meshed("p1", "d1"),
        shadows=[follower(greedy, "greedy"), follower(other, "patient", rules=patient)],
    )
    async with rig.running():
        early = await rig.report(2)
        late = await rig.report(4)
    assert [s.name for s in late.shadows] == ["greedy", "patient"]
    assert isinstance(shadow_of(early, "patient").guarded, Hold)
    assert shadow_of(early, "patient").gates[0].reason is HoldReason.UP_WINDOW
    assert shadow_of(late, "patient").target.prompt > 1
    assert shadow_of(late, "patient").gates[0].reason is HoldReason.STEP
    assert shadow_of(late, "greedy").target == Target(7, 7)


@pytest.mark.parametrize("answer", [ValueError("bad"), SystemExit(1), "4P:2D", Target(-1, 1)])
def test_a_shadow_that_goes_wrong_is_a_hold_of_its_own(answer: object) -> None:
    @virtually
    async def test() -> None:
        wrong = ToldPolicy()
        wrong.answer = answer
        rig = Rig(meshed("p1", "d1"), shadows=[follower(wrong)])
        rig.policy.answer = asked(2, 1)
        async with rig.running():
            report = await rig.at_target(2, 1)
        held = shadow_of(report)
        assert isinstance(held.decision, Hold)
        assert held.decision.reason is HoldReason.POLICY_FAILED
        assert held.target == Target(1, 1)
        assert not report.alarms

    test()


@virtually
async def test_a_shadow_that_hangs_delays_neither_a_decision_nor_an_action_nor_a_cycle() -> None:
    hung = InlineWorkers()
    hung.fault = hang
    rig = Rig(meshed("p1", "d1"), shadows=[follower(ToldPolicy(), workers=hung)])
    beside = Rig(meshed("p1", "d1"))
    for each in (rig, beside):
        each.policy.answer = asked(2, 2)
    ended: dict[str, tuple[Report, float]] = {}

    async def watch(name: str, watched: Rig) -> None:
        async with watched.running():
            report = await watched.at_target(2, 2)
            ended[name] = report, report.snapshot.now_s - watched.seen[0].snapshot.now_s
            await pass_time(60)

    async with anyio.create_task_group() as group:
        group.start_soon(watch, "hung", rig)
        group.start_soon(watch, "beside", beside)
    assert rig.world.changes() == beside.world.changes()
    assert ended["hung"][0].target == ended["beside"][0].target == Target(2, 2)
    # One gap for each early cycle, in which a shadow may still answer.
    assert ended["hung"][1] - ended["beside"][1] <= 0.1 * len(rig.seen) + 0.01
    moments = [report.snapshot.now_s for report in rig.seen]
    steady = [b - a for a, b in pairwise(moments[-5:])]
    assert steady == pytest.approx([10.0] * 4, abs=0.01)
    for report in rig.seen:
        decision = shadow_of(report).decision
        assert isinstance(decision, Hold)
        assert decision.reason is HoldReason.POLICY_FAILED
        assert decision.detail == "it had not answered when the cycle ended"


async def test_a_real_call_that_hangs_is_left_alone_and_told_of_until_it_returns() -> None:
    release, entered = threading.Event(), threading.Event()

    class Stuck:
        def decide(self, snapshot: Snapshot) -> Decision:
            entered.set()
            release.wait(60)
            return snapshot.target

    workers = ThreadWorkers(slots=1)
    shadows = Shadows([follower(Stuck(), workers=workers), follower(Greedy(), "greedy")])
    snapshot = Snapshot(now_s=0.0, now_unix_s=0.0, target=Target(1, 1), is_synced=True)

    async def entered_it() -> None:
        while not entered.is_set():
            await anyio.lowlevel.checkpoint()

    try:
        first = await shadows.follow(snapshot, held=None, enough=entered_it)
        again = await shadows.follow(snapshot, held=None, enough=anyio.sleep_forever)
        assert workers.hung == 1
    finally:
        release.set()
    told = [s[0].decision for s in (first, again)]
    assert [d.detail for d in told if isinstance(d, Hold)] == [
        "it had not answered when the cycle ended",
        "its last call has still not returned",
    ]
    assert isinstance(again[1].decision, Target)


@virtually
async def test_what_a_shadow_does_to_its_snapshot_nobody_else_sees() -> None:
    rig = Rig(meshed("p1", "d1"), shadows=[follower(Spoiler())])
    async with rig.running():
        report = await rig.report(3)
    assert report.snapshot.node_signals
    assert report.snapshot.links
    assert shadow_of(report).decision == Target(1, 1)


@virtually
async def test_shadows_go_on_while_the_policy_is_paused_and_hold_when_the_fleet_is_silent() -> None:
    rig = Rig(meshed("p1", "p2", "p3", "d1", "d2", "d3"), shadows=[follower(Greedy())])
    async with rig.running():
        await rig.report()
        await rig.control.pause(everything=False)
        paused = await rig.report(2)
        assert isinstance(paused.decision, Hold)
        assert shadow_of(paused).target.prompt > 3
        for name in ("p1", "p2", "d1", "d2"):
            rig.world.faults[f"state {name}"] = TransientError("silent")
        rig.world.faults["metrics"] = TransientError("silent")
        silent = await rig.until(_is_blind)
    assert isinstance(silent.decision, Hold)
    assert shadow_of(silent).decision == Hold(
        HoldReason.MASS_FAILURE, "too much of the fleet is silent"
    )


def _is_blind(report: Report) -> bool:
    decision = shadow_of(report).decision
    return isinstance(decision, Hold) and decision.reason is HoldReason.MASS_FAILURE


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"policy": "qeue-pressure"}, "no policy"),
        ({"policy": "fixed-ratio", "params": {"x": 1}}, "'x'"),
    ],
)
def test_a_shadow_that_cannot_be_built_is_told_of_at_the_start(
    wrong: dict[str, object], said: str
) -> None:
    settings = Settings.model_validate({"loop": {"shadow_policies": [wrong]}})
    with pytest.raises(ConfigError, match=said):
        app.check(settings)
