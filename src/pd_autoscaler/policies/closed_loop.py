"""Asking a policy: one answer at a time, and in closed loop with the fluid fleet."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.contract import Policy
from pd_autoscaler.policies.fluid import FluidFleet

RIPPLE = 0.03
"""Part by which the load goes up and down beside its swing."""
RIPPLE_S = 97.0


class UnansweredError(Exception):
    """A policy did not answer; the message says where, and what it did instead."""


def step_of_load(cycle: int) -> float:
    """Return the requests a second of a cycle: fifteen times as many for a while."""
    return 30.0 if 20 <= cycle < 40 else 2.0


def swinging(middle: float, part: float = 0.0, *, ripple: float = 0.0) -> Callable[[float], float]:
    """Make a load of requests a second, by the seconds since it began."""

    def load(seconds: float) -> float:
        swing = part * math.sin(2 * math.pi * seconds / 3600.0)
        return middle * (1 + swing + ripple * math.sin(2 * math.pi * seconds / RIPPLE_S))

    return load


def followed(
    policy: Policy, fleet: FluidFleet, load: Callable[[float], float], cycles: int
) -> list[Target]:
    """Close the loop around a policy and return the targets that it went through."""
    targets: list[Target] = []
    for cycle in range(cycles):
        fleet.requests_per_s = load(cycle * fleet.period_s)
        where = f"at {fleet.requests_per_s:.3g} requests/s and {fleet.target}, cycle {cycle}"
        fleet.advance(asked(policy, fleet.snapshot(), where))
        targets.append(fleet.target)
    return targets


def turns(counts: Sequence[int]) -> list[int]:
    """List the cycles in which a count moves the other way than it last did."""
    steps = [(cycle, b - a) for cycle, (a, b) in enumerate(pairwise(counts), 1) if b != a]
    return [cycle for (_, a), (cycle, b) in pairwise(steps) if (a > 0) is not (b > 0)]


def asked(policy: Policy, snapshot: Snapshot, where: str) -> Decision:
    """Return a policy's answer, or raise UnansweredError saying where it was none and why."""
    try:
        decision = policy.decide(snapshot)
    except (Exception, SystemExit) as error:  # Whatever a plug-in raises is the finding.
        told = f"raised {type(error).__name__}: {error}"
        raise UnansweredError(f"{where}: {told}; a Hold with its reason would be right") from error
    if wrong := _wrong_answer(decision):
        raise UnansweredError(f"{where}: {wrong}")
    return decision


def _wrong_answer(decision: object) -> str:
    """Say what is wrong with an answer, empty if nothing is."""
    match decision:
        case Hold():
            reason: object = decision.reason
            return "" if isinstance(reason, HoldReason) else f"held for {reason!r}, no HoldReason"
        case Target(prompt=prompt, decoder=decoder):
            # A bool or a float would be counted with, and break only much later.
            if type(prompt) is not int or type(decoder) is not int:
                return f"counts are not whole: {prompt!r}, {decoder!r}"
            if min(prompt, decoder) < 0:
                return f"asked for {decision}; counts of 0 or more would be right"
            return ""
        case _:
            return f"answered a {type(decision).__name__}, neither Target nor Hold"
