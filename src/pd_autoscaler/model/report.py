"""Outcomes and reports: what telemetry, journal and admin read, and the only thing they read."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pd_autoscaler.model.decision import Decision, Mode, Target
from pd_autoscaler.model.link import Link
from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.model.plan import Action, Plan
from pd_autoscaler.model.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Done:
    """The action took effect; `code` is the native status where one was returned."""

    action: Action
    took_s: float = 0.0
    code: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """The action took no effect; `code` is the native status where one was returned."""

    action: Action
    why: str
    retryable: bool = True
    took_s: float = 0.0
    code: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """The deadline passed and the effect is possible; observe before touching the thing again."""

    action: Action
    why: str
    took_s: float = 0.0


Outcome = Done | Failed | Unknown


@dataclass(frozen=True, slots=True)
class Move:
    """One node's change of state, with its reason; `before_s` is how long the old state lasted."""

    node_id: str
    role: Role
    before: NodeState
    after: NodeState
    why: str
    before_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One cycle, complete: what was seen, decided, planned, and what ended since the last one.

    `decision` is the policy's answer, `guarded` what the guard left of it, `gates` the gates that
    fired, `snapshot.target` the standing target before and `target` the one after.
    `phase_s` holds seconds spent by phase.
    """

    cycle: int
    snapshot: Snapshot
    decision: Decision
    guarded: Decision
    gates: tuple[str, ...]
    target: Target
    mode: Mode
    plan: Plan
    outcomes: tuple[Outcome, ...] = ()
    moves: tuple[Move, ...] = ()
    links: tuple[Link, ...] = ()
    link_events: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    phase_s: Mapping[str, float] = field(default_factory=dict)
