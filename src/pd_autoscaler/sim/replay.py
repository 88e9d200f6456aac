"""Replay: what another policy and guard decide on recorded snapshots.

It is an open loop: what was recorded does not react to what is decided now. `simulate` closes it.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from pd_autoscaler.core.rules import GuardRules
from pd_autoscaler.core.target_limits import within
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.report import Recorded, Shadow
from pd_autoscaler.model.snapshot import Limits
from pd_autoscaler.policies.contract import Policy
from pd_autoscaler.runtime.policy_runner import PolicyRunner
from pd_autoscaler.runtime.shadow import Follower

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Compared:
    """One recorded cycle, and what was decided on it now."""

    recorded: Recorded
    replayed: Shadow
    is_first_of_run: bool = False

    @property
    def differs(self) -> bool:
        """Whether the two targets after this cycle are not the same."""
        return self.recorded.target != self.replayed.target


class Replay:
    """Puts recorded cycles, in their order, through policies that `build` makes and a guard.

    Each cycle begins at the target it has reached by itself, or with `is_anchored` at the recorded
    one. With `keeps_limits` the limits are those that were recorded, else those of `rules`, which
    the policy then sees as well. Where a controller had started anew (another epoch, or a clock
    that went back), policy and guard begin anew as they did then, at the target they had reached.
    """

    def __init__(
        self,
        name: str,
        build: Callable[[], Policy],
        rules: GuardRules,
        *,
        keeps_limits: bool,
        is_anchored: bool = False,
    ) -> None:
        self._name = name
        self._build = build
        self._rules = rules
        self._keeps_limits = keeps_limits
        self._is_anchored = is_anchored
        self._last: Compared | None = None
        self._follower = self._begun(rules.limits)

    async def take(self, recorded: Recorded) -> Compared:
        """Decide on the next recorded cycle."""
        limits = recorded.snapshot.limits if self._keeps_limits else self._rules.limits
        is_new = self._last is None or _is_new_run(self._last.recorded, recorded)
        if is_new:
            self._follower = self._begun(limits)
        # A fleet that was silent as a whole was nobody's to decide on, then as now.
        decision = recorded.decision
        is_silent = isinstance(decision, Hold) and decision.reason is HoldReason.MASS_FAILURE
        held = decision if isinstance(decision, Hold) and is_silent else None
        shown = replace(recorded.snapshot, limits=limits)
        self._last = Compared(recorded, await self._follower.follow(shown, held=held), is_new)
        return self._last

    def _begun(self, limits: Limits) -> Follower:
        reached = None if self._last is None else within(self._last.replayed.target, limits)
        runner = PolicyRunner(self._build(), _Inline(), deadline_s=1.0)
        return Follower(
            self._name,
            runner,
            replace(self._rules, limits=limits),
            target=reached,
            is_anchored=self._is_anchored,
        )


def _is_new_run(last: Recorded, now: Recorded) -> bool:
    went_back = now.snapshot.now_s < last.snapshot.now_s
    # A controller's first reports may be from before it took its epoch.
    is_other = last.epoch not in {0, now.epoch}
    return went_back or is_other or now.snapshot.limits != last.snapshot.limits


class _Inline:
    """Calls the policy where it stands: a replay waits for it, however long it takes."""

    async def run(self, work: Callable[[], T], *, deadline_s: float) -> T:
        del deadline_s
        return work()


@dataclass(slots=True)
class Span:
    """Cycles in a row in which the same two targets differed; `first` says how it came to that."""

    first: Compared
    cycles: int = 1
    until_unix_s: float = 0.0


@dataclass(slots=True)
class Side:
    """What one of the two did: its moves, what held it, and the hours of nodes that it asked for.

    `trajectory` has each target from when it stood, in wall time.
    """

    moves: int = 0
    holds: Counter[HoldReason] = field(default_factory=Counter)
    node_hours: dict[Role, float] = field(default_factory=lambda: dict.fromkeys(Role, 0.0))
    trajectory: list[tuple[float, Target]] = field(default_factory=list)

    def take(self, at_unix_s: float, decision: Decision, target: Target, passed_s: float) -> None:
        """Take in one cycle; `passed_s` is how long the target before it stood."""
        if isinstance(decision, Hold):
            self.holds[decision.reason] += 1
        last = self.trajectory[-1][1] if self.trajectory else None
        if last is not None:
            for role in Role:
                self.node_hours[role] += last.of(role) * passed_s / 3600.0
        if last != target:
            self.moves += last is not None
            self.trajectory.append((at_unix_s, target))


@dataclass(slots=True)
class Tally:
    """What a replay comes to; `runs` counts the controllers' starts that it went through."""

    cycles: int = 0
    differing: int = 0
    runs: int = 0
    failures: int = 0
    failure: str = ""
    from_unix_s: float = 0.0
    until_unix_s: float = 0.0
    recorded: Side = field(default_factory=Side)
    replayed: Side = field(default_factory=Side)
    spans: list[Span] = field(default_factory=list)
    _last: Compared | None = None

    def take(self, compared: Compared) -> None:
        """Take in one cycle."""
        recorded, replayed, last = compared.recorded, compared.replayed, self._last
        at_unix_s = recorded.snapshot.now_unix_s
        if last is None:
            self.from_unix_s = at_unix_s
        self.until_unix_s = at_unix_s
        self.cycles += 1
        self.runs += compared.is_first_of_run
        passed_s = _passed_s(last, compared)
        self.recorded.take(at_unix_s, recorded.guarded, recorded.target, passed_s)
        self.replayed.take(at_unix_s, replayed.guarded, replayed.target, passed_s)
        match replayed.decision:
            case Hold(reason=HoldReason.POLICY_FAILED, detail=detail):
                self.failures += 1
                self.failure = self.failure or detail
            case _:
                pass
        if compared.differs:
            self._differing(compared, at_unix_s)
        self._last = compared

    def _differing(self, compared: Compared, at_unix_s: float) -> None:
        self.differing += 1
        last = self._last
        if (
            self.spans
            and last is not None
            and last.differs
            and _targets(last) == _targets(compared)
        ):
            self.spans[-1].cycles += 1
        else:
            self.spans.append(Span(compared))
        self.spans[-1].until_unix_s = at_unix_s


def _passed_s(last: Compared | None, now: Compared) -> float:
    """Return the seconds between two cycles of one controller, 0 from one to the next."""
    if last is None or now.is_first_of_run:
        return 0.0
    return now.recorded.snapshot.now_s - last.recorded.snapshot.now_s


def _targets(compared: Compared) -> tuple[Target, Target]:
    return compared.recorded.target, compared.replayed.target
