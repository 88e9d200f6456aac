"""Steps: when a decoder whose batch stays the same is where, without taking each step."""

import math
from typing import Any

from pd_autoscaler.sim.fleet.requests.jit import jitted


@jitted
def ends_s(node: Any, steps: int) -> float:
    """Return when so many steps of this batch are over: each is longer than the one before."""
    return float(node.begun_s + steps * node.step_s + node.growth_s * (0.5 * steps * (steps - 1)))


@jitted
def taken(node: Any, now_s: float) -> int:
    """Return how many whole steps this batch has taken by now, the end of a step included."""
    passed_s = now_s - node.begun_s
    if passed_s < node.step_s:
        # The clock's own rounding is not to take a step back.
        return 1 if ends_s(node, 1) <= now_s else 0
    half_s = node.step_s - 0.5 * node.growth_s
    steps = int(
        2.0 * passed_s / (half_s + math.sqrt(half_s * half_s + 2.0 * node.growth_s * passed_s))
    )
    while ends_s(node, steps) > now_s:
        steps -= 1
    while ends_s(node, steps + 1) <= now_s:
        steps += 1
    return steps


@jitted
def boundary(node: Any, now_s: float) -> int:
    """Return how many steps this batch will have taken at its next end of a step, now included."""
    steps = taken(node, now_s)
    return max(steps if ends_s(node, steps) == now_s else steps + 1, 1)
