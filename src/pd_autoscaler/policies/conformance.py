"""The conformance kit: what every policy must do, for authors to run in their own tests.

def test_mine_conforms() -> None:
    assert violations(lambda: MyPolicy(MyParams())) == ()
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.model.signals import NodeSignals, RoleSignals, Signal
from pd_autoscaler.model.snapshot import Limits, Snapshot
from pd_autoscaler.policies.contract import Policy
from pd_autoscaler.policies.fluid import FluidFleet

Factory = Callable[[], Policy]

SETTLE_CYCLES = 150
"""Cycles of constant load after which a policy must have come to rest."""
REST_CYCLES = 100
"""Cycles of rest that are then watched."""

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


def violations(
    factory: Factory, *, settle_cycles: int = SETTLE_CYCLES, rest_cycles: int = REST_CYCLES
) -> tuple[str, ...]:
    """Run every check on fresh policies and return what is wrong, in words; nothing is good.

    A policy answers every snapshot with a Target or a Hold, however little the snapshot says; asks
    for whole, positive counts; answers the same snapshots with the same decisions; and comes to
    rest within `settle_cycles` under a constant load.
    """
    # A loop cannot be closed around answers that are none.
    if found := tuple(_survives(factory)):
        return found
    return (
        *_repeats(factory),
        *_settles(factory, settle_cycles=settle_cycles, rest_cycles=rest_cycles),
    )


def awkward_snapshots() -> Mapping[str, Snapshot]:
    """Return snapshots that a policy meets on bad days, by what is wrong with them."""
    usual = FluidFleet(requests_per_s=10.0, target=Target(3, 2)).snapshot()
    fresh = usual.node_signals
    old = {i: replace(NodeSignals(node_id=i), age_s=900.0) for i in fresh}
    partial = {i: signals for i, signals in fresh.items() if not i.endswith("-0")}
    unseen = RoleSignals()
    starting = tuple(replace(node, state=NodeState.STARTING) for node in usual.nodes)
    return {
        "empty": Snapshot(now_s=0.0, now_unix_s=0.0, target=Target(1, 1)),
        "usual": usual,
        "blind": replace(usual, node_signals={}, prompt=unseen, decoder=unseen),
        "stale": replace(
            usual,
            node_signals=old,
            prompt=RoleSignals(serving=3),
            decoder=RoleSignals(serving=2),
        ),
        "partial": replace(usual, node_signals=partial, prompt=replace(usual.prompt, fresh=2)),
        "fresh but silent": replace(
            usual,
            node_signals={i: NodeSignals(node_id=i, age_s=0.0, is_fresh=True) for i in fresh},
            prompt=RoleSignals(serving=3, fresh=3),
            decoder=RoleSignals(serving=2, fresh=2),
        ),
        "no node serves": replace(usual, nodes=starting),
        "one node": replace(usual, nodes=usual.nodes[:1], target=Target(1, 0)),
        "one prompt node, no decoder": replace(
            usual, nodes=tuple(n for n in usual.nodes if n.role is Role.PROMPT)
        ),
        "one of each": FluidFleet(requests_per_s=1.0, target=Target(1, 1)).snapshot(),
        "clock at zero": replace(usual, now_s=0.0, now_unix_s=0.0),
        "no room at all": replace(
            usual, limits=Limits(prompt_max=1, decoder_max=1, nodes_max=2), target=Target(3, 2)
        ),
        **{
            f"every signal {value:g}": _flooded(usual, value)
            for value in (0.0, -1.0, 1e308, math.inf, math.nan)
        },
    }


def _flooded(snapshot: Snapshot, value: float) -> Snapshot:
    absurd = Signal(value, 0.0)
    names = [n for n in RoleSignals.__dataclass_fields__ if n not in {"serving", "fresh"}]
    # By name, so that a signal added later is flooded, too.
    flooded: dict[str, Any] = dict.fromkeys(names, absurd)
    roles = {role: replace(snapshot.of(role), **flooded) for role in Role}
    nodes = {
        i: replace(signals, queue=absurd, transfer_wait=absurd, running=absurd, kv_used=absurd)
        for i, signals in snapshot.node_signals.items()
    }
    return replace(
        snapshot, prompt=roles[Role.PROMPT], decoder=roles[Role.DECODER], node_signals=nodes
    )


def _survives(factory: Factory) -> Iterator[str]:
    together = factory()
    for name, snapshot in awkward_snapshots().items():
        for policy, when in ((factory(), "at first sight"), (together, "after others")):
            wrong = _wrong_answer(policy, snapshot)
            if wrong:
                yield f"{name}, {when}: {wrong}"


def _wrong_answer(policy: Policy, snapshot: Snapshot) -> str:
    """Say what is wrong with a policy's answer, empty if nothing is."""
    try:
        decision: object = policy.decide(snapshot)
    except Exception as error:  # Whatever a plug-in raises is the finding.
        return f"raised {type(error).__name__}: {error}"
    match decision:
        case Hold():
            reason: object = decision.reason
            return "" if isinstance(reason, HoldReason) else f"held for {reason!r}, no HoldReason"
        case Target(prompt=prompt, decoder=decoder):
            # A bool or a float would be counted with, and break only much later.
            if type(prompt) is not int or type(decoder) is not int:
                return f"counts are not whole: {prompt!r}, {decoder!r}"
            return "" if min(prompt, decoder) >= 0 else f"asked for {decision}"
        case _:
            return f"answered a {type(decision).__name__}, neither Target nor Hold"


def _repeats(factory: Factory) -> Iterator[str]:
    shown: list[Snapshot] = []
    first: list[Decision] = []
    leader = factory()
    fleet = FluidFleet(requests_per_s=2.0, target=Target(2, 2))
    for cycle in range(60):
        fleet.requests_per_s = 30.0 if 20 <= cycle < 40 else 2.0
        shown.append(fleet.snapshot())
        try:
            first.append(leader.decide(shown[-1]))
        except Exception as error:  # Whatever a plug-in raises is the finding.
            yield f"under a step of load, cycle {cycle}: raised {type(error).__name__}: {error}"
            return
        fleet.advance(first[-1])
    follower = factory()
    for cycle, (snapshot, before) in enumerate(zip(shown, first, strict=True)):
        now = follower.decide(snapshot)
        if now != before:
            yield f"the same snapshots, cycle {cycle}: first {before}, then {now}"
            return


def _settles(factory: Factory, *, settle_cycles: int, rest_cycles: int) -> Iterator[str]:
    for requests_per_s, target, nodes_max in _LOADS:
        policy = factory()
        limits = Limits(prompt_max=nodes_max, decoder_max=nodes_max, nodes_max=nodes_max)
        fleet = FluidFleet(requests_per_s=requests_per_s, target=target, limits=limits)
        targets: list[Target] = []
        where = f"{requests_per_s:g} requests/s from {target}, at most {nodes_max} nodes"
        try:
            for _ in range(settle_cycles + rest_cycles):
                fleet.advance(policy.decide(fleet.snapshot()))
                targets.append(fleet.target)
        except Exception as error:  # Whatever a plug-in raises is the finding.
            yield f"{where}: raised {type(error).__name__}: {error}"
            continue
        rest = targets[settle_cycles:]
        moves = sum(a != b for a, b in pairwise(rest))
        if moves:
            seen = ", ".join(sorted({str(t) for t in rest}))
            yield f"{where}: still {moves} moves in {rest_cycles} cycles ({seen})"
