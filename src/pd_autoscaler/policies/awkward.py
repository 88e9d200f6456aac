"""Awkward snapshots: what a policy meets on bad days, each by what is wrong with it.

Fields are taken from the model by their types, so that a signal added later is left out and
flooded here without a change.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from pd_autoscaler.model.capacity import Demand, NodeCapacity
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.link import LinkState
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.signals import NodeSignals, RoleSignals, Signal
from pd_autoscaler.model.snapshot import Attribution, Bottleneck, LeadTime, Limits, Snapshot
from pd_autoscaler.policies.fluid import FluidFleet

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

ABSURD = (0.0, -1.0, 1e308, math.inf, math.nan)
"""Values that no signal should have; each is put into every one of them."""


def awkward_snapshots() -> Mapping[str, Snapshot]:
    """Return the snapshots by what is wrong with them; "usual" is what they were made from."""
    usual = FluidFleet(requests_per_s=10.0, target=Target(3, 2)).snapshot()
    return dict(
        (
            ("empty", Snapshot(now_s=0.0, now_unix_s=0.0, target=Target(1, 1))),
            ("usual", usual),
            ("clock at zero", replace(usual, now_s=0.0, now_unix_s=0.0)),
            *_badly_seen(usual),
            *_fleets(usual),
            *_bounds(usual),
            *((f"the bottleneck is {b}", _held_up(usual, b)) for b in Bottleneck),
            ("both sides are short", _held_up(usual, Bottleneck.DECODER, Bottleneck.PROMPT)),
            *((f"every link is {s}", replace(usual, links={s: 6})) for s in LinkState),
            *_lacking(usual),
            *((f"every signal {value:g}", flooded(usual, value)) for value in ABSURD),
        )
    )


def _badly_seen(usual: Snapshot) -> Iterator[tuple[str, Snapshot]]:
    """Yield snapshots of nodes whose pages are missing, old, or say nothing."""
    fresh = usual.node_signals
    old = {i: replace(NodeSignals(node_id=i), age_s=900.0, doubt="too old") for i in fresh}
    partial = {i: signals for i, signals in fresh.items() if not i.endswith("-0")}
    unseen = RoleSignals()
    yield "blind", replace(usual, node_signals={}, prompt=unseen, decoder=unseen)
    yield (
        "stale",
        replace(
            usual,
            node_signals=old,
            prompt=RoleSignals(serving=3),
            decoder=RoleSignals(serving=2),
        ),
    )
    yield "partial", replace(usual, node_signals=partial, prompt=replace(usual.prompt, fresh=2))
    yield (
        "fresh but silent",
        replace(
            usual,
            node_signals={i: NodeSignals(node_id=i, age_s=0.0, is_fresh=True) for i in fresh},
            prompt=RoleSignals(serving=3, fresh=3),
            decoder=RoleSignals(serving=2, fresh=2),
        ),
    )
    strangers = {f"other-{i}": replace(s, node_id=f"other-{i}") for i, s in fresh.items()}
    yield "signals of other nodes", replace(usual, node_signals=strangers)
    yield "not synced", replace(usual, is_synced=False, published=None)


def _fleets(usual: Snapshot) -> Iterator[tuple[str, Snapshot]]:
    """Yield snapshots of fleets with nodes missing, or in every state of a node's life."""
    nodes = usual.nodes
    yield "one node", replace(usual, nodes=nodes[:1], target=Target(1, 0))
    for role in Role:
        rest = tuple(node for node in nodes if node.role is role)
        yield f"{role} nodes alone", replace(usual, nodes=rest)
    yield "one of each", FluidFleet(requests_per_s=1.0, target=Target(1, 1)).snapshot()
    for state in NodeState:
        yield f"every node is {state}", replace(usual, nodes=_in_state(nodes, state))
        one = (*_in_state(nodes[:1], state), *nodes[1:])
        yield f"one node is {state}", replace(usual, nodes=one)
    switching = tuple(
        replace(node, state=NodeState.SWITCHING, next_role=node.role.other) for node in nodes
    )
    yield "every node switches its role", replace(usual, nodes=switching)
    yield "nobody is published", replace(usual, published=frozenset())


def _bounds(usual: Snapshot) -> Iterator[tuple[str, Snapshot]]:
    """Yield snapshots whose target, limits or measured times leave no room to move."""
    narrow = Limits(prompt_max=1, decoder_max=1, nodes_max=2)
    fixed = Limits(prompt_min=3, prompt_max=3, decoder_min=2, decoder_max=2, nodes_max=5)
    ratio = replace(usual.limits, ratio_min=1.5, ratio_max=1.5)
    yield "no room at all", replace(usual, limits=narrow)
    yield "limits that allow one target", replace(usual, limits=fixed)
    yield "one ratio allowed", replace(usual, limits=ratio)
    yield "a target of nothing", replace(usual, target=Target(0, 0))
    yield "a target far from what serves", replace(usual, target=Target(90, 1))
    times = {name: LeadTime(1e6, 1e6, 1) for name in ("start", "init", "link", "drain")}
    yield "starts take for ever", replace(usual, lead_times=times)


def _held_up(usual: Snapshot, by: Bottleneck, also: Bottleneck | None = None) -> Snapshot:
    return replace(usual, attribution=Attribution(by, "for the sake of the check", also))


def _lacking(usual: Snapshot) -> Iterator[tuple[str, Snapshot]]:
    """Yield snapshots in which one thing is unknown, or no number, for each that may be."""
    for field in fields(Snapshot):
        for default in _defaults(field):
            unsaid: dict[str, Any] = {field.name: default}
            yield f"nothing is said of {field.name}", replace(usual, **unsaid)
    absences: tuple[tuple[str, Signal | None], ...] = (
        ("unknown", None),
        ("no number", Signal(math.nan, 0.0)),
    )
    for said, signal in absences:
        for role in Role:
            for name in _optional(RoleSignals):
                without: dict[str, Any] = {role.value: _with(usual.of(role), name, signal)}
                yield f"{role} {name} is {said}", replace(usual, **without)
        for name in _optional(NodeSignals):
            each = {i: _with(s, name, signal) for i, s in usual.node_signals.items()}
            yield f"every node's {name} is {said}", replace(usual, node_signals=each)
            [first, *others] = usual.node_signals.values()
            but_one = {s.node_id: s for s in (_with(first, name, signal), *others)}
            yield f"one node's {name} is {said}", replace(usual, node_signals=but_one)
        for name in _optional(Demand):
            demand = _with(usual.demand, name, signal)
            yield f"demand {name} is {said}", replace(usual, demand=demand)
    unlearnt = tuple(
        NodeCapacity(role=known.role, node_class=known.node_class) for known in usual.capacity
    )
    yield "capacities without a number", replace(usual, capacity=unlearnt)
    other = tuple(replace(known, node_class="of no node here") for known in usual.capacity)
    yield "capacities of other nodes", replace(usual, capacity=other)


def _defaults(field: "Field[Any]") -> Iterator[object]:
    if field.default is not MISSING:
        yield field.default
    elif field.default_factory is not MISSING:
        yield field.default_factory()


def _with(thing: T, name: str, signal: Signal | None) -> T:
    changed: dict[str, Any] = {name: signal}
    return replace(thing, **changed)


def flooded(snapshot: Snapshot, value: float) -> Snapshot:
    """Return the snapshot with one value in every signal, demand and learnt number."""
    return replace(
        snapshot,
        prompt=_filled(snapshot.prompt, value),
        decoder=_filled(snapshot.decoder, value),
        node_signals={i: _filled(s, value) for i, s in snapshot.node_signals.items()},
        demand=_filled(snapshot.demand, value),
        capacity=tuple(_filled(known, value) for known in snapshot.capacity),
    )


def _filled(thing: T, value: float) -> T:
    kind = type(thing)
    filled: dict[str, Any] = dict.fromkeys(_optional(kind), Signal(value, 0.0))
    if kind is NodeCapacity:
        filled |= dict.fromkeys(_optional(kind, float), value)
    return replace(thing, **filled)


@cache
def _optional(kind: type[Any], of: type = Signal) -> tuple[str, ...]:
    """Name the fields of a class that hold such a thing, or None."""
    hints = get_type_hints(kind)
    return tuple(field.name for field in fields(kind) if hints[field.name] == of | None)


def _in_state(nodes: tuple[Node, ...], state: NodeState) -> tuple[Node, ...]:
    return tuple(replace(node, state=state) for node in nodes)
