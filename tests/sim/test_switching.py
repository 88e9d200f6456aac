"""Role switches under their own faults: a full budget goes to and fro, and no rule is broken."""

from collections import Counter

import pytest

from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.sim import faults
from pd_autoscaler.sim.faults import CallFault, Faults, WorldFault
from pd_autoscaler.sim.fleet.engines import Engines
from pd_autoscaler.sim.fleet.traffic import PLAIN, Steady
from pd_autoscaler.sim.fleet.world import World
from pd_autoscaler.sim.perils import EDGE, Perils, step_off_the_edge
from pd_autoscaler.sim.run import run_seed
from pd_autoscaler.sim.shape import RULES, SWITCHING_NODES_MAX, rules_of

SWITCH_FAULTS = frozenset(
    {
        CallFault.SWITCH_SLOW,
        CallFault.SWITCH_FAILS,
        CallFault.SWITCH_KILLS,
        CallFault.SWITCH_ANSWER_LOST,
        CallFault.AGENT_ANSWER_LOST,
    }
)
SEEDS = (12, 13, 17, 19)
TURN_S = 400.0


class _Shifting:
    """Wants more of one role, then of the other, always with the whole budget; then rests."""

    def decide(self, snapshot: Snapshot) -> Target:
        nodes, is_odd = snapshot.limits.nodes_max, int(snapshot.now_s // TURN_S) % 2
        prompt = nodes // 2 + (1 if is_odd and snapshot.now_s < 3600.0 else 0)
        return Target(prompt, nodes - prompt)


def can_switch(seed: int) -> bool:
    return World(Faults(seed), Engines(PLAIN, Steady(rate=1.0))).can_switch_roles


def test_nodes_that_switch_roles_for_an_hour_of_faults_break_no_rule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Few switches fit into an hour: a fault must be frequent to strike one.
    monkeypatch.setattr(faults, "CALL_RANGE", (0.05, 0.4))

    results = [run_seed(seed, only=SWITCH_FAULTS, policy=_Shifting) for seed in SEEDS]

    for result in results:
        assert result.is_ok, f"{result.violation}\n" + "\n".join(result.lines[-10:])
    assert all(can_switch(seed) for seed in SEEDS)
    assert sum(result.switches for result in results) >= len(SEEDS)


def test_nodes_that_cannot_switch_never_do() -> None:
    seed = next(seed for seed in range(100) if not can_switch(seed))

    result = run_seed(seed, only=SWITCH_FAULTS, policy=_Shifting)

    assert result.is_ok, result.violation
    assert result.switches == 0


def test_worlds_that_can_switch_roles_have_smaller_budgets_than_the_others() -> None:
    worlds = [World(Faults(seed), Engines(PLAIN, Steady(rate=1.0))) for seed in range(100)]
    budgets = {is_able: Counter[int]() for is_able in (False, True)}
    for world in worlds:
        budgets[world.can_switch_roles][rules_of(world).guard.limits.nodes_max] += 1

    assert set(budgets[False]) == {RULES.guard.limits.nodes_max}
    assert set(budgets[True]) == set(range(SWITCHING_NODES_MAX[0], SWITCHING_NODES_MAX[1] + 1))
    assert SWITCHING_NODES_MAX[1] < RULES.guard.limits.nodes_max


def test_a_shift_of_the_load_needs_as_many_nodes_in_another_mix() -> None:
    traffic = Steady(rate=2.0)
    faults = Faults(1, only=frozenset({WorldFault.LOAD_SHIFT}))
    world = World(faults, Engines(PLAIN, traffic))
    needed, answer_s = traffic.nodes_needed, traffic.answer_s
    Perils(world, traffic, lambda fault: None, rate_max=7.0)

    world.advance(4 * 3600.0)

    assert traffic.answer_s != answer_s
    assert traffic.nodes_needed == pytest.approx(needed)


@pytest.mark.parametrize("rate", [0.7, 2.0, 3.97, 4.03, 6.0])
def test_a_load_that_holds_leaves_no_role_just_full(rate: float) -> None:
    traffic = Steady(rate=rate, answer_s=16.0)

    step_off_the_edge(traffic)

    assert 0.75 * rate <= traffic.rate <= rate
    for need in (traffic.nodes_of(role) for role in Role):
        assert need <= 0.5 or abs(need - round(need)) >= EDGE * need
