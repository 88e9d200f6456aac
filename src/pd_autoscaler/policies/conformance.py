"""The conformance kit: what every policy must do, for authors to run in their own tests.

def test_mine_conforms() -> None:
    assert violations(lambda: MyPolicy(MyParams())) == ()

`pd-autoscaler policies check` runs the same on an installed policy, and what needs a process.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, cast

from pd_autoscaler.model.codec import from_json, to_json
from pd_autoscaler.model.decision import Decision, Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.snapshot import Limits
from pd_autoscaler.policies.awkward import awkward_snapshots
from pd_autoscaler.policies.closed_loop import (
    RIPPLE,
    UnansweredError,
    asked,
    followed,
    step_of_load,
    swinging,
    turns,
)
from pd_autoscaler.policies.contract import Policy
from pd_autoscaler.policies.fluid import FluidFleet

Factory = Callable[[], Policy]
Check = Callable[[Factory], Iterator[str]]
"""Yields what is wrong, in words; its docstring is the promise that is checked."""

SETTLE_CYCLES = 150
"""Cycles of constant load after which a policy must have come to rest."""
REST_CYCLES = 100
"""Cycles of rest that are then watched."""
TURNS_PER_HOUR_MAX = 5
"""Most changes of direction of one role's target in an hour of a load that swings once an hour.

Two follow the swing, at its top and its bottom, and more is not needed; the rest allow for growth
that now and then goes too far and is trimmed. Who follows the ripple as well turns some 74 times.
"""
WATCHED_HOURS = 2

_LOADS: tuple[tuple[float, Target, int], ...] = (
    # requests a second, first target, most nodes
    (0.0, Target(2, 3), 20),
    (1.0, Target(1, 1), 20),
    (3.0, Target(2, 1), 3),
    (5.0, Target(1, 2), 3),
    (11.0, Target(1, 1), 20),
    (30.0, Target(12, 8), 20),
    (40.0, Target(2, 2), 40),
    (500.0, Target(2, 2), 10),
)
_SWINGS: tuple[tuple[float, float], ...] = (
    # requests a second in the middle, part by which they swing
    (6.0, 0.0),
    (12.0, 0.3),
    (25.0, 0.5),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one check ended; `violations` is empty if the promise was kept."""

    check: str
    promise: str
    violations: tuple[str, ...]


def checks() -> Mapping[str, Check]:
    """Return the checks by name, in the order in which they are run.

    "answers" comes first: the others ask nothing of a policy that does not pass it.
    """
    return MappingProxyType(
        {
            "answers": answers,
            "spares the snapshot": spares_the_snapshot,
            "can be stored": can_be_stored,
            "repeats itself": repeats_itself,
            "comes to rest": comes_to_rest,
            "does not flap": does_not_flap,
        }
    )


def verdicts(factory: Factory) -> Iterator[Verdict]:
    """Run the checks on fresh policies, one after another; one without answers ends the list."""
    for name, check in checks().items():
        verdict = verdict_of(name, check, factory)
        yield verdict
        if check is answers and verdict.violations:
            return


def _found(check: Check, factory: Factory) -> Iterator[str]:
    try:
        yield from check(factory)
    except UnansweredError as error:
        yield str(error)


def violations(factory: Factory) -> tuple[str, ...]:
    """Return what is wrong with the policies of a factory, in words; nothing is good."""
    return tuple(f"{v.check}: {wrong}" for v in verdicts(factory) for wrong in v.violations)


def verdict_of(name: str, check: Check, factory: Factory) -> Verdict:
    """Run one check on fresh policies; what it promises is the first line of its docstring."""
    promise = (check.__doc__ or "").strip().partition("\n")[0]
    return Verdict(name, promise, tuple(_found(check, factory)))


def answers(factory: Factory) -> Iterator[str]:
    """Answers every snapshot with a Target or a Hold, however little the snapshot says.

    A target has whole counts, none below zero. Each awkward snapshot is shown to a fresh policy and
    to one that has seen those before it, twice at the same time; then a fleet in closed loop.
    """
    together = factory()
    for name, snapshot in awkward_snapshots().items():
        for policy, when in (
            (factory(), "at first sight"),
            (together, "after others"),
            (together, "shown again"),
        ):
            try:
                asked(policy, snapshot, f"{name}, {when}")
            except UnansweredError as error:
                yield str(error)
                break
    recorded(factory)


def spares_the_snapshot(factory: Factory) -> Iterator[str]:
    """Leaves what it was shown as it was: telemetry, journal and admin read it afterwards."""
    for name, snapshot in awkward_snapshots().items():
        before = to_json(snapshot)
        asked(factory(), snapshot, name)
        # Not compared as objects: a number that is none differs from itself.
        after = to_json(snapshot)
        changed = [field for field in before if before[field] != after[field]]
        if changed:
            yield f"{name}: it changed the snapshot's {', '.join(changed)}"


def can_be_stored(factory: Factory) -> Iterator[str]:
    """Gives decisions that the journal can write and read back: text for reasons, no subclasses."""
    for name, snapshot in awkward_snapshots().items():
        decision = asked(factory(), snapshot, name)
        if wrong := _unstorable(decision):
            yield f"{name}: {wrong}"


def repeats_itself(factory: Factory) -> Iterator[str]:
    """Answers the same snapshots with the same decisions, whatever else was decided before."""
    first = recorded(factory)
    for (where, before), (_, now) in zip(first, recorded(factory), strict=True):
        if now != before:
            yield f"{where}: first {before}, then {now}"
            return


def comes_to_rest(factory: Factory) -> Iterator[str]:
    """Comes to rest under a constant load: its target moves no more after 150 cycles."""
    for requests_per_s, target, nodes_max in _LOADS:
        limits = Limits(prompt_max=nodes_max, decoder_max=nodes_max, nodes_max=nodes_max)
        fleet = FluidFleet(requests_per_s=requests_per_s, target=target, limits=limits)
        targets = followed(factory(), fleet, swinging(requests_per_s), SETTLE_CYCLES + REST_CYCLES)
        rest = targets[SETTLE_CYCLES:]
        moves = sum(a != b for a, b in pairwise(rest))
        if moves:
            seen = ", ".join(sorted({str(t) for t in rest}))
            yield (
                f"{requests_per_s:g} requests/s from {target}, at most {nodes_max} nodes: still "
                f"{moves} moves in {REST_CYCLES} cycles ({seen}); none would be right"
            )


def does_not_flap(factory: Factory) -> Iterator[str]:
    """Turns at most 5 times an hour where a load swings slowly, with a ripple on it.

    A turn is a change of direction of one role's target. The load swings once an hour and ripples
    by 3 % every 97 s, two hours are watched after half an hour to settle, at one cycle every 10 s.
    """
    for middle, part in _SWINGS:
        fleet = FluidFleet(requests_per_s=middle, target=Target(4, 2))
        hour = round(3600 / fleet.period_s)
        load = swinging(middle, part, ripple=RIPPLE)
        targets = followed(factory(), fleet, load, hour // 2 + WATCHED_HOURS * hour)
        for role in Role:
            counts = [target.of(role) for target in targets[hour // 2 :]]
            most = TURNS_PER_HOUR_MAX * WATCHED_HOURS
            turned = turns(counts)
            if len(turned) > most:
                cycles = ", ".join(str(hour // 2 + cycle) for cycle in turned[:4])
                yield (
                    f"{middle:g} requests/s swinging by {part:.0%}: the {role} target turned "
                    f"{len(turned)} times in {WATCHED_HOURS} hours between {min(counts)} and "
                    f"{max(counts)} (cycles {cycles}, …); at most {most} would be right"
                )


def recorded(factory: Factory) -> Sequence[tuple[str, Decision]]:
    """Return what is decided on every awkward snapshot and then under a step of load, and where.

    Raises UnansweredError where an answer is none.
    """
    policy, rows = factory(), list[tuple[str, Decision]]()
    for name, snapshot in awkward_snapshots().items():
        rows.append((name, asked(policy, snapshot, name)))
    policy, fleet = factory(), FluidFleet(requests_per_s=2.0, target=Target(2, 2))
    for cycle in range(90):
        fleet.requests_per_s = step_of_load(cycle)
        where = f"under a step of load, cycle {cycle}"
        rows.append((where, asked(policy, fleet.snapshot(), where)))
        fleet.advance(rows[-1][1])
    return rows


def _unstorable(decision: Decision) -> str:
    """Say why a decision cannot be stored, empty if it can."""
    text: object = decision.why if isinstance(decision, Target) else decision.detail
    if type(text) is not str:
        return f"its reason is {text!r}; text would be right"
    kind: Any = Decision
    try:
        stored = json.dumps(to_json(decision, kind), allow_nan=False)
        again = cast("Decision", from_json(kind, json.loads(stored)))
    except Exception as error:  # Whatever keeps it from being stored is the finding.
        return (
            f"a {type(decision).__name__} cannot be stored ({type(error).__name__}: {error}); a "
            f"plain Target or Hold would be right"
        )
    return "" if again == decision else f"{decision} was stored and came back as {again}"
