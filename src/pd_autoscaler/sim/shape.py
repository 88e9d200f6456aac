"""The shape of a run: its rules, its first load, and the fleet that the first controller finds."""

from dataclasses import replace
from random import Random

from pd_autoscaler.core.rules import GuardRules, LinkRules, NodeRules, Rules
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.snapshot import Limits
from pd_autoscaler.sim.fleet.traffic import Steady
from pd_autoscaler.sim.fleet.world import World

RULES = Rules(
    node=NodeRules(start_timeout_s=150.0, drain_deadline_s=60.0),
    link=LinkRules(join_deadline_s=60.0),
    guard=GuardRules(
        limits=Limits(prompt_max=5, decoder_max=5, nodes_max=8),
        down_window_s=120.0,
        cooldown_s=60.0,
    ),
)
"""Small limits and short windows, so that an hour holds many changes and a full budget."""
SWITCHING_NODES_MAX = (3, 6)
"""Least and greatest budget of a world whose nodes can switch roles: it must be full for that."""
FILLED = (0.5, 0.95)
"""Share of such a budget that the first load needs; beyond it neither role could give a node."""


def rules_of(world: World) -> Rules:
    """Return the rules of a run, with a smaller budget where nodes can switch roles."""
    if not world.can_switch_roles:
        return RULES
    nodes_max = world.faults.stream("budget").randint(*SWITCHING_NODES_MAX)
    limits = replace(RULES.guard.limits, nodes_max=nodes_max)
    return replace(RULES, guard=replace(RULES.guard, limits=limits))


def fill(world: World, traffic: Steady, nodes_max: int) -> None:
    """Let the load of a world that can switch roles nearly need its budget."""
    if world.can_switch_roles:
        needed = nodes_max * world.faults.draw_s("budget", *FILLED)
        traffic.rate *= needed / traffic.nodes_needed


def found(world: World, shape: Random) -> None:
    """Make the fleet that the first controller finds: nothing, idle nodes, or a serving mesh."""
    kind = shape.choice(["none", "idle", "serving", "serving"])
    if kind == "none":
        return
    for role in Role:
        for _ in range(shape.randint(1, 3)):
            world.found(role)
    if kind == "serving":
        world.link_all()
