"""What is said of scaling: what was decided, from what, what held it and what must change."""

from dataclasses import replace
from typing import Any

import pytest

from pd_autoscaler.core.input_explanation import ROLE_INPUTS
from pd_autoscaler.core.scaling_explanation import MODES, NEEDS, Change, scaling_explained
from pd_autoscaler.model.decision import Decision, Gate, Hold, HoldReason, Mode, Target
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.plan import StartNode, in_waves
from pd_autoscaler.model.report import Report, Shadow
from pd_autoscaler.model.signals import RoleSignals, Signal
from pd_autoscaler.model.snapshot import Attribution, LeadTime
from tests.support.reports import a_node, a_report, a_snapshot

NOW_S = 100.0
STANDING = Target(2, 2, "the standing one")
SHRINK = Target(1, 2, "queues are empty")
COOLING = Gate(HoldReason.COOLDOWN, Role.PROMPT, "the target moved 77 s ago; may shrink in 43 s")


def report_of(
    decision: Decision, guarded: Decision | None = None, *gates: Gate, **changes: Any
) -> Report:
    """Return a report over 2P:2D, three seconds old."""
    snapshot = replace(a_snapshot(), now_s=NOW_S - 3.0, target=STANDING)
    parts: dict[str, Any] = {"target": STANDING, "snapshot": snapshot, "epoch": 7, "gates": gates}
    guarded = decision if guarded is None else guarded
    return a_report(decision=decision, guarded=guarded, **(parts | changes))


def told(report: Report, change: Change | None = None) -> dict[str, list[str]]:
    parts = scaling_explained(report, now_s=NOW_S, change=change)
    assert len({part.about for part in parts}) == len(parts)
    return {part.about: list(part.lines) for part in parts}


def test_the_parts_come_from_the_target_to_the_mode() -> None:
    plan = in_waves([StartNode(Role.PROMPT, "run-1")], ("p1 waits",))
    report = report_of(
        SHRINK,
        Hold(HoldReason.COOLDOWN, COOLING.detail),
        COOLING,
        plan=plan,
        alarms=("d1 is silent",),
        mode=Mode.ADVISORY,
    )

    assert list(told(report)) == [
        *("target", "policy", "guard", "bottleneck", "prompt", "decoder", "demand", "capacity"),
        *("coming", "to move", "doing", "not done", "alarm", "mode"),
    ]


def test_a_target_that_changed_says_from_what_and_why() -> None:
    report = report_of(Target(3, 2), target=Target(3, 2, "queue 6 a node"))

    assert told(report, Change(0.0))["target"] == [
        "3P:2D, changed in this cycle from 2P:2D: queue 6 a node",
        "1 of 3 prompt nodes serve; 1 of 2 decoder nodes serve",
    ]


def test_a_target_that_stands_says_since_when_only_where_that_is_known() -> None:
    report = report_of(STANDING, target=Target(2, 2))
    set_at = report.snapshot.now_unix_s - 297.0

    known = told(report, Change(set_at, "an operator asked for it"))["target"][0]
    unknown = told(report)["target"][0]

    assert known == "2P:2D, set 5 min 0 s ago: an operator asked for it"
    assert unknown == "2P:2D, as before this cycle"


@pytest.mark.parametrize(
    ("decision", "said"),
    [
        (SHRINK, "asks for 1P:2D: queues are empty"),
        (Target(1, 2), "asks for 1P:2D"),
        (Hold(HoldReason.NO_METRICS), "holds (no metrics)"),
        (Hold(HoldReason.POLICY_FAILED, "boom"), "holds (policy failed): boom"),
        (Hold(HoldReason.PAUSED, "by hand"), "was not asked (paused): by hand"),
    ],
)
def test_the_policys_answer_is_told_with_its_reason(decision: Decision, said: str) -> None:
    assert told(report_of(decision))["policy"] == [said]


def test_where_nothing_was_asked_for_the_guard_has_nothing_to_say() -> None:
    hold = Hold(HoldReason.POLICY_HELD, "unsure")
    said = told(report_of(hold, hold, Gate(HoldReason.POLICY_HELD, detail="unsure")))

    assert said["guard"] == ["has nothing to let through: 2P:2D stays"]
    assert said["to move"] == [f"policy held: {NEEDS[HoldReason.POLICY_HELD]}"]


def test_a_hold_of_the_guard_is_told_by_its_gates_with_their_numbers() -> None:
    hold = Hold(HoldReason.COOLDOWN, f"{COOLING.detail}; the policy wants 1P:2D")
    said = told(report_of(SHRINK, hold, Gate(HoldReason.BUDGET), COOLING))

    assert said["guard"] == [
        "keeps 2P:2D (cooldown)",
        "budget",
        "cooldown (prompt): the target moved 77 s ago; may shrink in 43 s",
    ]
    assert said["to move"] == [
        f"budget: {NEEDS[HoldReason.BUDGET]}",
        "cooldown: it ends by itself (guard.cooldown_s)",
    ]


def test_a_shadow_policy_says_where_it_would_be_what_it_asks_for_and_what_its_guard_keeps() -> None:
    asked, held = Target(4, 2, "more is coming"), Hold(HoldReason.NO_METRICS, "no page")
    kept = Hold(HoldReason.UP_WINDOW, "not for long enough")
    shadows = (
        Shadow("slo", asked, asked, asked),
        Shadow("slow", asked, kept, STANDING, (Gate(kept.reason, detail=kept.detail),)),
        Shadow("blind", held, held, STANDING),
    )

    assert told(report_of(STANDING, shadows=shadows))["shadow"] == [
        "slo would be at 4P:2D; asks for 4P:2D: more is coming",
        "slow would be at 2P:2D; asks for 4P:2D: more is coming; its guard keeps it (up window)",
        "blind would be at 2P:2D; holds (no metrics): no page",
    ]


def test_the_evidence_is_told_once_where_a_gate_repeats_it() -> None:
    gate = Gate(HoldReason.BOTTLENECK_ELSEWHERE, Role.PROMPT, "D is at fault: queue 3 on prompt")
    said = told(report_of(SHRINK, STANDING, gate))

    assert said["guard"][1] == "bottleneck elsewhere (prompt): D is at fault: see the bottleneck"
    assert said["bottleneck"] == ["prompt: queue 3 on prompt"]


def test_a_hold_whose_gates_have_no_numbers_tells_its_own() -> None:
    hold = Hold(HoldReason.COOLDOWN, "48 s of 120 s")
    said = told(report_of(SHRINK, hold, Gate(HoldReason.COOLDOWN)))

    assert said["guard"] == ["keeps 2P:2D (cooldown): 48 s of 120 s", "cooldown"]


@pytest.mark.parametrize(
    ("asked", "left", "standing", "said"),
    [
        (STANDING, STANDING, STANDING, "keeps 2P:2D, which is what stands"),
        (SHRINK, STANDING, STANDING, "keeps 2P:2D, 1P:2D was asked for"),
        (SHRINK, SHRINK, SHRINK, "lets 1P:2D through"),
        (Target(9, 2), Target(6, 2), Target(6, 2), "lets 6P:2D through instead of 9P:2D"),
    ],
)
def test_what_the_guard_left_is_told(
    asked: Target, left: Target, standing: Target, said: str
) -> None:
    assert told(report_of(asked, left, target=standing))["guard"] == [said]


def test_a_target_that_was_let_through_and_does_not_stand_is_told() -> None:
    said = told(report_of(SHRINK, SHRINK))

    assert said["guard"][1] == (
        "it was not taken over: an operator spoke meanwhile, or the journal did not take it; "
        "2P:2D stays"
    )


def test_where_no_gate_fired_only_the_policy_can_move_it() -> None:
    assert told(report_of(STANDING))["to move"] == ["the policy must ask for something else"]
    assert "to move" not in told(report_of(SHRINK, SHRINK, target=SHRINK))


def test_every_reason_says_what_it_needs_and_every_odd_mode_what_it_means() -> None:
    assert set(NEEDS) == set(HoldReason)
    assert set(MODES) == set(Mode) - {Mode.ACTIVE}


def test_the_bottleneck_is_told_with_its_evidence() -> None:
    blind = replace(a_snapshot(), attribution=Attribution())

    assert told(report_of(STANDING))["bottleneck"] == ["prompt: queue 3 on prompt"]
    assert told(a_report(snapshot=blind))["bottleneck"] == ["unknown"]


def a_coming(name: str, ready_at_s: float | None) -> Node:
    node = a_node(name, Role.PROMPT, NodeState.STARTING)
    return replace(node, since_s=NOW_S - 40.0, ready_at_s=ready_at_s)


def coming_of(*nodes: Node, leads: dict[str, LeadTime] | None = None) -> list[str]:
    snapshot = replace(a_snapshot(nodes=nodes), now_s=NOW_S, lead_times=leads or {})
    return told(a_report(snapshot=snapshot))["coming"]


def test_nodes_on_their_way_say_when_they_are_expected_the_latest_first() -> None:
    said = coming_of(
        a_coming("soon", NOW_S + 20.0),
        a_coming("late", NOW_S - 12.0),
        a_coming("unmeasured", None),
        a_node("d1", Role.DECODER, NodeState.DRAINING),
        leads={"start": LeadTime(31.0, 58.0, 12), "link": LeadTime(0.4, 1.1, 40)},
    )

    assert said == [
        (
            "unmeasured (prompt): starting for 40 s, "
            "nobody knows until when: no lead time was measured"
        ),
        "late (prompt): starting for 40 s, 12 s later than usual",
        "soon (prompt): starting for 40 s, expected to serve in about 20 s",
        "leaving: d1 (draining)",
        "measured lead times: start 31 s (p95 58 s, 12 seen), link 0.4 s (p95 1.1 s, 40 seen)",
    ]


def test_many_nodes_on_their_way_are_counted() -> None:
    said = coming_of(*(a_coming(f"p{n}", NOW_S + n) for n in range(1, 9)))

    assert (len(said), said[5]) == (7, "and 3 more")


def test_where_nothing_comes_that_is_said() -> None:
    assert coming_of() == ["no node is on its way", "measured lead times: none yet"]


def test_actions_notes_and_alarms_are_told_up_to_a_count() -> None:
    starts = [StartNode(Role.PROMPT, f"run-{n}") for n in range(6)]
    many = tuple(str(n) for n in range(6))
    said = told(report_of(STANDING, plan=in_waves([*starts], many), alarms=many))

    assert said["doing"] == [
        *(f"start one prompt node (run-{n})" for n in range(4)),
        "and 2 more",
    ]
    assert said["not done"] == said["alarm"] == ["0", "1", "2", "3", "and 2 more"]


def test_a_plan_that_is_not_begun_is_not_told_as_being_done() -> None:
    plan = in_waves([StartNode(Role.PROMPT, "run-1")])
    said = told(report_of(STANDING, plan=plan, is_acting=False))

    assert "doing" not in said
    assert said["not begun"] == ["start one prompt node (run-1)"]
    assert said["mode"] == [
        "this controller does not act: it does not lead, or most agents obey another"
    ]


@pytest.mark.parametrize("mode", list(Mode))
def test_a_mode_in_which_not_everything_is_done_is_told(mode: Mode) -> None:
    said = told(report_of(STANDING, mode=mode))

    assert said.get("mode") == ([MODES[mode]] if mode in MODES else None)


def test_even_a_large_fleet_in_trouble_takes_no_more_than_fifty_lines() -> None:
    nodes = tuple(
        a_node(f"{role}{n}", role, state)
        for role in Role
        for n, state in enumerate([NodeState.SERVING] * 60 + [NodeState.STARTING] * 20)
    )
    starts = [StartNode(Role.PROMPT, f"run-{n}") for n in range(20)]
    gates = tuple(Gate(reason) for reason in (HoldReason.STEP, HoldReason.BUDGET))
    known = {i.name: Signal(1.0, 0.0) for group in ROLE_INPUTS for i in group}
    signals = RoleSignals(serving=60, fresh=0, **known)  # type: ignore[arg-type]
    report = report_of(
        SHRINK,
        STANDING,
        *gates,
        snapshot=replace(a_snapshot(nodes=nodes), prompt=signals, decoder=signals),
        plan=in_waves([*starts], tuple(map(str, range(20)))),
        alarms=tuple(map(str, range(20))),
        mode=Mode.PAUSED,
    )

    assert sum(len(lines) for lines in told(report).values()) <= 50
