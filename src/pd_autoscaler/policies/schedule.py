"""schedule: another policy, within floors, ceilings or counts that hang on the time of the week.

The first window of the list that holds counts, outside of all the other policy's answer is given as
it is. A window holds on a day without metrics, too: where the other policy refuses, the standing
target is brought within the window's bounds. Limits of the fleet come afterwards and are stronger.
"""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from pd_autoscaler.model.decision import Decision, Hold, Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.contract import Params, Policy, PolicySpec
from pd_autoscaler.policies.registry import load_policy
from pd_autoscaler.policies.time_windows import Window, shown, time_of_week


class Inner(Params):
    """The policy that decides within the windows."""

    policy: str = Field(default="queue-pressure", min_length=1)
    """Its name, as in the settings."""
    params: Mapping[str, Any] = Field(default_factory=dict)
    """Its parameters."""


class ScheduleParams(Params):
    """The windows, the clock they are read by, and the policy within them."""

    inner: Inner = Inner()
    """The policy that decides, and its parameters."""
    windows: tuple[Window, ...] = ()
    """Parts of the week; of several that hold the first counts."""
    utc_offset_min: int = Field(default=0, ge=-12 * 60, le=14 * 60)
    """Minutes by which the windows' clock is ahead of UTC: 480 in China."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [window.name for window in self.windows]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"windows: the name {twice[0]!r} is there twice; a decision must say which one held"
            )
        return self


class Schedule:
    """Asks the other policy every cycle, so that it goes on to learn, and bounds its answer."""

    def __init__(self, params: ScheduleParams, inner: Policy) -> None:
        self._params = params
        self._inner = inner

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return the other policy's answer within the bounds of the window that holds now."""
        decision = self._inner.decide(snapshot)
        offset_min = self._params.utc_offset_min
        day, minute = time_of_week(snapshot.now_unix_s, utc_offset_min=offset_min)
        now = shown(day, minute)
        window = next((w for w in self._params.windows if w.holds(day, minute)), None)
        if window is None:
            return _told(decision, f"no window at {now}")
        asked = snapshot.target if isinstance(decision, Hold) else decision
        prompt, decoder = (window.allowed(role, asked.of(role)) for role in Role)
        holds = f"{window} at {now}"
        if (prompt, decoder) == (asked.prompt, asked.decoder):
            return _told(decision, holds)
        wanted = f"{Target(prompt, decoder)} instead of {asked}"
        return Target(prompt, decoder, f"{holds}: {wanted}; {_reason(decision)}")


def _told(decision: Decision, when: str) -> Decision:
    """Return the decision with the window beside its reason."""
    reason = _reason(decision)
    told = f"{reason}; {when}" if reason else when
    if isinstance(decision, Hold):
        return Hold(decision.reason, f"{decision.detail}; {when}" if decision.detail else when)
    return Target(decision.prompt, decision.decoder, told)


def _reason(decision: Decision) -> str:
    return str(decision) if isinstance(decision, Hold) else decision.why


def _built(params: ScheduleParams) -> Schedule:
    return Schedule(params, load_policy(params.inner.policy, params.inner.params))


SPEC = PolicySpec(params=ScheduleParams, build=_built)
