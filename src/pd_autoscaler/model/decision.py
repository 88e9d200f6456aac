"""Decisions: the counts that are wanted, or a refusal that says why."""

from dataclasses import dataclass, field
from enum import StrEnum

from pd_autoscaler.model.node import Role


@dataclass(frozen=True, slots=True)
class Target:
    """Absolute node counts; the reasons belong to the answer but not to its equality."""

    prompt: int
    decoder: int
    why: str = field(default="", compare=False)

    def of(self, role: Role) -> int:
        """Return the count of one role."""
        return self.prompt if role is Role.PROMPT else self.decoder

    @property
    def total(self) -> int:
        """Nodes of both roles."""
        return self.prompt + self.decoder

    def __str__(self) -> str:
        return f"{self.prompt}P:{self.decoder}D"


class HoldReason(StrEnum):
    """Why the standing target stays as it is."""

    NO_METRICS = "no_metrics"
    STALE_METRICS = "stale_metrics"
    PARTIAL_METRICS = "partial_metrics"
    NOT_SYNCED = "not_synced"
    POLICY_FAILED = "policy_failed"
    POLICY_HELD = "policy_held"
    COOLDOWN = "cooldown"
    UP_WINDOW = "up_window"
    DOWN_WINDOW = "down_window"
    WARM_UP = "warm_up"
    BOTTLENECK_ELSEWHERE = "bottleneck_elsewhere"
    BOTTLENECK_UNKNOWN = "bottleneck_unknown"
    TRANSFERS_FAIL = "transfers_fail"
    BUDGET = "budget"
    STEP = "step"
    PAY_BACK = "pay_back"
    MASS_FAILURE = "mass_failure"
    JOURNAL_FAILED = "journal_failed"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Hold:
    """A refusal to move the standing target, with its reason."""

    reason: HoldReason
    detail: str = ""

    def __str__(self) -> str:
        return f"hold ({self.reason}{': ' + self.detail if self.detail else ''})"


Decision = Target | Hold


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate of the guard that fired: on which role (None: on both), and why, in numbers."""

    reason: HoldReason
    role: Role | None = None
    detail: str = ""

    def __str__(self) -> str:
        where = f" ({self.role})" if self.role else ""
        return f"{self.reason}{where}{f': {self.detail}' if self.detail else ''}"


class Mode(StrEnum):
    """How far the loop goes: it always observes and reports.

    `paused` keeps the target and still repairs; `stopped` (pause --all) takes no action at all;
    `advisory` decides and reports but never acts.
    """

    ACTIVE = "active"
    PAUSED = "paused"
    STOPPED = "stopped"
    ADVISORY = "advisory"
