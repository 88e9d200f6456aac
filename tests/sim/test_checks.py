"""The checks can fail: each rule, broken on purpose, is told."""

from dataclasses import replace

import pytest

from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Mode, Target
from pd_autoscaler.model.facts import EntryState
from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.model.plan import Plan
from pd_autoscaler.model.report import Move, Report
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.sim import liveness
from pd_autoscaler.sim.checks import BROKEN_PAIR_S, EXCUSE_S, Checks
from pd_autoscaler.sim.fleet.process import Row, link, unlink
from pd_autoscaler.sim.fleet.world import World
from pd_autoscaler.sim.shape import RULES
from tests.support.sim import known, of_role, process_of, world_of

LATER_S = 1000.0
STANDING = Target(2, 2)


def watched(world: World) -> Checks:
    checks = Checks(world, RULES, signal_age_max_s=30.0)
    for node in world.nodes.values():
        process_of(node)
    world.advance(LATER_S)
    return checks


def mesh(world: World) -> None:
    for decoder in of_role(world, Role.DECODER):
        for prompt in of_role(world, Role.PROMPT):
            server = process_of(prompt)
            link(process_of(decoder), server.cluster_id, server)
    for node in world.nodes.values():
        world.publish(node.id)
    world.advance(world.now_s + 60.0)
    world.flow()
    for node in world.nodes.values():
        node.agent_seen_s = node.metrics_seen_s = world.now_s


def told(checks: Checks) -> list[str]:
    return [violation.what for violation in checks.violations]


def report_of(
    world: World,
    *,
    before: Target = STANDING,
    after: Target = STANDING,
    guarded: Decision = STANDING,
    moves: tuple[Move, ...] = (),
) -> Report:
    return Report(
        cycle=1,
        snapshot=Snapshot(now_s=world.now_s, now_unix_s=0.0, target=before),
        decision=guarded,
        guarded=guarded,
        gates=(),
        target=after,
        mode=Mode.ACTIVE,
        plan=Plan(),
        moves=moves,
    )


def test_a_linked_mesh_breaks_no_rule() -> None:
    world = world_of(prompts=2, decoders=2)
    checks = watched(world)

    mesh(world)
    checks.append(report_of(world))

    assert told(checks) == []


def test_publishing_an_unlinked_node_is_told() -> None:
    world = world_of(prompts=1, decoders=1)
    checks = watched(world)

    for node in world.nodes.values():
        world.publish(node.id)

    assert told(checks) == ["decoder-3 was published and is not linked to prompt-1"]


def test_publishing_beside_a_node_that_died_just_now_is_excused() -> None:
    world = world_of(prompts=1, decoders=1)
    checks = watched(world)
    prompt = of_role(world, Role.PROMPT)[0]
    world.publish(prompt.id)
    prompt.broke(world.now_s)

    world.publish(of_role(world, Role.DECODER)[0].id)

    assert told(checks) == []


def test_withdrawing_below_the_target_is_told() -> None:
    world = world_of(prompts=2, decoders=1)
    checks = watched(world)
    mesh(world)
    checks.append(report_of(world))

    world.withdraw(of_role(world, Role.PROMPT)[0].id)

    assert told(checks) == ["prompt-1 was withdrawn: 1 prompt node(s) are left, 2 are wanted"]


def test_withdrawing_down_to_the_target_is_allowed() -> None:
    world = world_of(prompts=3, decoders=1)
    checks = watched(world)
    mesh(world)
    checks.append(report_of(world))

    world.withdraw(of_role(world, Role.PROMPT)[0].id)

    assert told(checks) == []


def test_a_node_whose_page_answers_again_counts_as_capacity_though_its_agent_is_silent() -> None:
    world = world_of(prompts=3, decoders=1)
    checks = watched(world)
    mesh(world)
    silent, leaving, staying = of_role(world, Role.PROMPT)
    silent.broke(world.now_s)
    world.advance(world.now_s + EXCUSE_S + 1.0)
    silent.metrics_seen_s = leaving.agent_seen_s = staying.agent_seen_s = world.now_s
    report = report_of(world)
    nodes = tuple(replace(known(n), state=NodeState.SERVING) for n in of_role(world, Role.PROMPT))
    checks.append(replace(report, snapshot=replace(report.snapshot, nodes=nodes)))

    world.withdraw(leaving.id)

    assert told(checks) == []


@pytest.mark.parametrize(
    ("state", "is_told"), [(EntryState.LINKED, True), (EntryState.UNKNOWN, False)]
)
def test_a_node_whose_link_to_a_newcomer_is_in_doubt_may_give_way(
    state: EntryState, is_told: bool
) -> None:
    world = world_of(prompts=2, decoders=1)
    checks = watched(world)
    mesh(world)
    checks.append(report_of(world))
    prompt, newcomer = of_role(world, Role.PROMPT)[0], of_role(world, Role.DECODER)[0]
    server = process_of(prompt)
    row = Row(state, server.incarnation, world.now_s)
    process_of(newcomer).rows[server.cluster_id] = row

    world.withdraw(prompt.id)

    assert bool(told(checks)) is is_told


def test_cutting_a_link_between_published_nodes_is_told() -> None:
    world = world_of(prompts=1, decoders=1)
    checks = watched(world)
    mesh(world)
    decoder = of_role(world, Role.DECODER)[0]

    checks.unlinking(process_of(decoder), process_of(of_role(world, Role.PROMPT)[0]).cluster_id)

    assert told(checks) == ["decoder-3 cut its link to prompt-1 while both are published"]


@pytest.mark.parametrize(("waited_s", "is_told"), [(0.0, True), (61.0, False)])
def test_cutting_a_link_in_use_is_told_before_the_drain_deadline(
    waited_s: float, is_told: bool
) -> None:
    world = world_of(prompts=2, decoders=1)
    checks = watched(world)
    mesh(world)
    prompt, decoder = of_role(world, Role.PROMPT)[0], of_role(world, Role.DECODER)[0]
    world.withdraw(prompt.id)
    for node in (prompt, decoder):
        node.held_until_s = world.now_s + 600.0
    world.advance(world.now_s + waited_s)

    checks.unlinking(process_of(decoder), process_of(prompt).cluster_id)

    assert bool(told(checks)) is is_told


def test_stopping_a_published_node_is_told() -> None:
    world = world_of(prompts=1, decoders=0)
    checks = watched(world)
    (prompt,) = of_role(world, Role.PROMPT)
    world.publish(prompt.id)

    world.remove(prompt.id)

    assert told(checks) == ["prompt-1 was stopped while published"]


def test_stopping_a_node_with_requests_is_told() -> None:
    world = world_of(prompts=2, decoders=1)
    checks = watched(world)
    mesh(world)
    prompt = of_role(world, Role.PROMPT)[0]
    world.withdraw(prompt.id)

    world.remove(prompt.id)

    (what,) = told(checks)
    assert what.startswith("prompt-1 was stopped with ")


def test_a_published_node_that_switches_roles_is_told() -> None:
    world = world_of(prompts=1, decoders=1)
    checks = watched(world)
    mesh(world)

    checks.switching(of_role(world, Role.DECODER)[0], Role.PROMPT)

    assert told(checks) == ["decoder-3 was to become prompt while published"]


def test_a_node_that_switches_roles_with_a_link_or_requests_is_told() -> None:
    world = world_of(prompts=1, decoders=1)
    checks = watched(world)
    mesh(world)
    decoder = of_role(world, Role.DECODER)[0]
    world.withdraw(decoder.id)

    checks.switching(decoder, Role.PROMPT)

    linked, busy = [what for what in told(checks) if "was to become" in what]
    assert linked == "decoder-3 was to become prompt while linked to prompt-1"
    assert busy.endswith("in flight")


def test_a_switch_past_the_limit_of_a_role_is_told() -> None:
    world = world_of(prompts=RULES.guard.limits.prompt_max, decoders=1)
    checks = watched(world)
    for prompt in of_role(world, Role.PROMPT):
        world.publish(prompt.id)

    checks.switching(of_role(world, Role.DECODER)[0], Role.PROMPT)

    (what,) = [what for what in told(checks) if "was to become" in what]
    assert what.endswith("was to become prompt: 5 serve, 5 are allowed")


def test_a_node_past_the_limit_is_told() -> None:
    world = world_of(prompts=4, decoders=4)
    checks = watched(world)

    world.grow(Role.PROMPT, "start-1")

    assert told(checks) == ["9 nodes are there, 8 are allowed"]


def test_acting_on_what_is_in_doubt_is_told_until_it_was_read() -> None:
    world = world_of(prompts=1, decoders=1)
    checks = watched(world)

    checks.doubted("link decoder-3 prompt-1")
    checks.read("decoder-3")
    checks.acting("link decoder-3 prompt-1")
    assert told(checks) == []
    checks.doubted("request start-1")
    checks.read("decoder-3")
    checks.acting("request start-1")

    assert told(checks) == [
        "request start-1 was acted on, its state not read since an unknown outcome"
    ]


def test_a_cluster_named_twice_in_one_call_is_told() -> None:
    checks = watched(world_of(prompts=1, decoders=1))

    checks.asked([1, 2, 1])

    assert told(checks) == ["a call names a cluster twice: [1, 2, 1]"]


def test_a_hold_that_moves_the_target_is_told() -> None:
    world = world_of(prompts=0, decoders=0)
    checks = watched(world)
    hold = Hold(HoldReason.NO_METRICS)

    checks.append(report_of(world, after=Target(3, 2), guarded=hold))

    assert told(checks) == ["a hold moved the target from 2P:2D to 3P:2D"]


def test_a_target_outside_the_limits_is_told() -> None:
    world = world_of(prompts=0, decoders=0)
    checks = watched(world)

    checks.append(report_of(world, after=Target(5, 4), guarded=Target(5, 4)))

    assert told(checks) == ["the target 5P:4D is above 8 nodes"]


def test_a_target_moved_on_old_metrics_is_told() -> None:
    world = world_of(prompts=1, decoders=1)
    checks = watched(world)
    mesh(world)
    of_role(world, Role.PROMPT)[0].metrics_seen_s = world.now_s - 31.0

    checks.append(report_of(world, after=Target(3, 2), guarded=Target(3, 2)))

    assert told(checks) == ["the target moved to 3P:2D on stale prompt metrics: [31.0]"]


def test_a_move_that_is_not_in_the_table_is_told() -> None:
    world = world_of(prompts=0, decoders=0)
    checks = watched(world)
    move = Move("prompt-1", Role.PROMPT, NodeState.STARTING, NodeState.SERVING, "because")

    checks.append(report_of(world, moves=(move,)))

    assert told(checks) == ["prompt-1 moved starting -> serving"]


def test_a_move_that_does_not_begin_where_the_last_one_ended_is_told() -> None:
    world = world_of(prompts=0, decoders=0)
    checks = watched(world)
    first = Move("prompt-1", Role.PROMPT, NodeState.LINKING, NodeState.SERVING, "because")
    checks.append(report_of(world, moves=(first,)))

    checks.append(report_of(world, moves=(replace(first, after=NodeState.FAILED),)))

    assert told(checks) == ["prompt-1 was serving and moved from linking"]


def test_two_published_nodes_that_stay_unlinked_are_told() -> None:
    world = world_of(prompts=1, decoders=1)
    checks = watched(world)
    mesh(world)
    decoder, prompt = of_role(world, Role.DECODER)[0], of_role(world, Role.PROMPT)[0]
    unlink(process_of(decoder), process_of(prompt).cluster_id, None, force=True)

    for passed_s in (0.0, BROKEN_PAIR_S, 1.0):
        world.advance(world.now_s + passed_s)
        checks.append(report_of(world))

    assert told(checks) == ["decoder-3 and prompt-1 stay published and unlinked"]


def test_a_settled_world_lacks_nothing() -> None:
    world = world_of(prompts=2, decoders=1)
    watched(world)
    mesh(world)

    assert list(liveness.unsettled(world, Target(2, 1))) == []
    assert list(liveness.unsettled(world, None)) == ["there is no standing target"]
    kept = ("no decoder node is given up: the rest could not carry its load",)
    assert list(liveness.unsettled(world, Target(3, 1), kept)) == []
    assert list(liveness.unsettled(world, Target(3, 1))) == [
        "2 of 2 prompt nodes serve, the target is 3P:1D"
    ]


def test_an_entry_for_a_node_that_is_gone_is_stale() -> None:
    world = world_of(prompts=1, decoders=2)
    watched(world)
    mesh(world)
    gone = of_role(world, Role.DECODER)[0]
    incarnation = process_of(gone).incarnation
    world.withdraw(gone.id)

    world.remove(gone.id)
    world.advance(world.now_s + 20.0)

    assert list(liveness.unsettled(world, Target(1, 1))) == [
        f"prompt-1 holds a stale entry for cluster {process_of(gone).cluster_id} ({incarnation})"
    ]


def test_turns_count_changes_of_direction_and_not_of_pace() -> None:
    targets = [Target(n, 1) for n in (1, 2, 2, 3, 5, 4, 4, 3, 4)]

    assert liveness.turns(targets, Role.PROMPT) == 2
    assert liveness.turns(targets, Role.DECODER) == 0
