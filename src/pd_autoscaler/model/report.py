"""Outcomes and reports: what telemetry, journal and admin read, and the only thing they read."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pd_autoscaler.model.decision import Decision, Gate, Mode, Target
from pd_autoscaler.model.facts import EngineLoad, Scraped
from pd_autoscaler.model.link import Link, Verdict, Wait
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
    """The action took no effect; `code` and `verdict` are the native status and its meaning."""

    action: Action
    why: str
    retryable: bool = True
    verdict: Verdict | None = None
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


@dataclass(frozen=True, slots=True)
class Shadow:
    """What a shadow policy would have done in this cycle; nothing of it is ever done.

    `decision` is its answer, `guarded` what a guard of its own left of it, `gates` the gates that
    fired. `target` is where its own guarded decisions have led it since the controller's start.
    """

    name: str
    decision: Decision
    guarded: Decision
    target: Target
    gates: tuple[Gate, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One cycle, complete: what was seen, decided, planned, and what ended since the last one.

    `decision` is the policy's answer, `guarded` what the guard left of it, `gates` the gates that
    fired, `snapshot.target` the standing target before and `target` the one after. `phase_s` holds
    seconds spent by phase, `hung_calls` counts native calls past their deadline by node id,
    `scraped` is what was read of metrics since the start, `engine_load` what each agent that
    answered said is inside its engine, `epoch` the fencing epoch (0 before one is taken),
    `is_acting` whether the plan may be begun, `waits` why pairs that are wanted and not up are not
    being linked now, `card_links` the links up or being made on the busiest card of each node.
    Without `is_meshed` engines connect by themselves: there are no links. `shadows` are in the
    settings' order.
    """

    cycle: int
    snapshot: Snapshot
    decision: Decision
    guarded: Decision
    gates: tuple[Gate, ...]
    target: Target
    mode: Mode
    plan: Plan
    outcomes: tuple[Outcome, ...] = ()
    moves: tuple[Move, ...] = ()
    links: tuple[Link, ...] = ()
    waits: tuple[Wait, ...] = ()
    is_meshed: bool = True
    card_links: Mapping[str, int] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    phase_s: Mapping[str, float] = field(default_factory=dict)
    hung_calls: Mapping[str, int] = field(default_factory=dict)
    engine_load: Mapping[str, EngineLoad] = field(default_factory=dict)
    scraped: Scraped = field(default_factory=Scraped)
    epoch: int = 0
    is_acting: bool = True
    shadows: tuple[Shadow, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What a replay needs of a stored report; the names mean what they mean there."""

    cycle: int
    snapshot: Snapshot
    decision: Decision
    guarded: Decision
    target: Target
    epoch: int = 0
