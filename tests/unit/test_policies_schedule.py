"""schedule, minute by minute."""

import sys
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.contract import Params, PolicySpec
from pd_autoscaler.policies.registry import load_policy
from pd_autoscaler.policies.schedule import Schedule, ScheduleParams
from pd_autoscaler.policies.time_windows import Window, time_of_week

STANDING = Target(2, 2)
BUSY = Target(3, 3, "busy")
HOLDING = Hold(HoldReason.STALE_METRICS, "90 s old")


class Wanting:
    """A policy that wants one thing, and counts how often it was asked."""

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        self.times_asked = 0

    def decide(self, _: Snapshot) -> Decision:
        self.times_asked += 1
        return self.decision


def at(moment: str, standing: Target = STANDING) -> Snapshot:
    """Show nothing but the time, as UTC."""
    unix_s = datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()
    return Snapshot(now_s=5.0, now_unix_s=unix_s, target=standing)


def decided(
    snapshot: Snapshot,
    *windows: dict[str, Any],
    inner: Decision = BUSY,
    offset: int = 0,
) -> Decision:
    params = {"windows": windows, "utc_offset_min": offset}
    return Schedule(ScheduleParams.model_validate(params), Wanting(inner)).decide(snapshot)


OFFICE = {
    "name": "office",
    "days": ["mon", "tue", "wed", "thu", "fri"],
    "begins": "08:30",
    "ends": "18:00",
    "prompt_min": 6,
    "decoder_min": 4,
}
NIGHT = {"name": "night", "days": ["fri"], "begins": "22:00", "ends": "06:00", "prompt_max": 1}


@given(st.integers(min_value=-(10**9), max_value=4 * 10**9), st.integers(-720, 840))
def test_the_time_of_the_week_is_that_of_the_calendar(unix_s: int, offset_min: int) -> None:
    calendar = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=unix_s, minutes=offset_min)

    day, minute = time_of_week(unix_s, utc_offset_min=offset_min)

    assert (day, minute) == (calendar.weekday(), calendar.hour * 60 + calendar.minute)


@pytest.mark.parametrize(
    ("moment", "target"),
    [
        ("2025-01-06T08:29:59", Target(3, 3)),  # A Monday.
        ("2025-01-06T08:30", Target(6, 4)),
        ("2025-01-10T17:59:59", Target(6, 4)),
        ("2025-01-10T18:00", Target(3, 3)),
        ("2025-01-11T12:00", Target(3, 3)),
    ],
)
def test_a_window_raises_to_its_floors_while_it_holds(moment: str, target: Target) -> None:
    assert decided(at(moment), OFFICE) == target


@pytest.mark.parametrize(
    ("moment", "prompts"),
    [
        ("2025-01-10T21:59", 3),  # A Friday.
        ("2025-01-10T22:00", 1),
        ("2025-01-11T05:59", 1),
        ("2025-01-11T06:00", 3),
        ("2025-01-11T22:00", 3),
        ("2025-01-10T05:00", 3),
    ],
)
def test_a_window_across_midnight_belongs_to_the_day_it_begins_on(
    moment: str, prompts: int
) -> None:
    assert decided(at(moment), NIGHT) == Target(prompts, 3)


def test_a_window_of_a_whole_week_always_holds_and_one_from_six_to_six_a_day_long() -> None:
    always = {"name": "always", "decoder": 7}
    day_long = {
        "name": "tuesday's",
        "days": ["tue"],
        "begins": "06:00",
        "ends": "06:00",
        "prompt": 9,
    }

    assert decided(at("2025-01-12T23:59"), always) == Target(3, 7)
    assert decided(at("2025-01-07T06:00"), day_long) == Target(9, 3)
    assert decided(at("2025-01-08T05:59"), day_long) == Target(9, 3)
    assert decided(at("2025-01-08T06:00"), day_long) == Target(3, 3)


def test_the_clock_may_be_ahead_of_utc() -> None:
    # 08:30 on a Monday in China is half past midnight in UTC; on a Saturday it is the weekend.
    assert decided(at("2025-01-06T00:30"), OFFICE, offset=480) == Target(6, 4)
    assert decided(at("2025-01-10T17:00"), OFFICE, offset=480) == Target(3, 3)
    assert decided(at("2025-01-06T12:30"), OFFICE, offset=-240) == Target(6, 4)


def test_of_windows_that_overlap_the_first_counts() -> None:
    event = {"name": "launch", "days": ["mon"], "prompt": 20, "decoder": 10}

    assert decided(at("2025-01-06T12:00"), event, OFFICE) == Target(20, 10)
    assert decided(at("2025-01-06T12:00"), OFFICE, event) == Target(6, 4)


def test_a_decision_says_which_window_held_and_what_it_changed() -> None:
    raised = decided(at("2025-01-06T09:05"), OFFICE)
    within = decided(at("2025-01-06T09:05"), OFFICE, inner=Target(8, 8, "busy"))
    outside = decided(at("2025-01-05T09:05"), OFFICE)

    window = (
        "window 'office' (mon,tue,wed,thu,fri 08:30-18:00: at least 6 prompt, at least 4 decoder)"
    )
    assert [isinstance(d, Target) and d.why for d in (raised, within, outside)] == [
        f"{window} at mon 09:05: 6P:4D instead of 3P:3D; busy",
        f"busy; {window} at mon 09:05",
        "busy; no window at sun 09:05",
    ]


def test_a_window_holds_where_the_other_policy_refuses() -> None:
    raised = decided(at("2025-01-06T09:05"), OFFICE, inner=HOLDING)
    within = decided(at("2025-01-06T09:05", Target(7, 4)), OFFICE, inner=HOLDING)
    outside = decided(at("2025-01-05T09:05"), OFFICE, inner=HOLDING)

    assert raised == Target(6, 4)
    assert isinstance(raised, Target)
    assert raised.why.endswith("6P:4D instead of 2P:2D; hold (stale_metrics: 90 s old)")
    assert isinstance(within, Hold)
    assert within.reason is HoldReason.STALE_METRICS
    assert within.detail.startswith("90 s old; window 'office' ")
    assert outside == Hold(HoldReason.STALE_METRICS, "90 s old; no window at sun 09:05")


def test_the_other_policy_is_asked_every_cycle_even_where_counts_are_fixed() -> None:
    inner = Wanting(Target(3, 3))
    window = Window(name="fixed", prompt=1, decoder=1)
    policy = Schedule(ScheduleParams(windows=(window,)), inner)

    assert [policy.decide(at("2025-01-06T09:05")) for _ in range(3)] == [Target(1, 1)] * 3
    assert inner.times_asked == 3


@given(st.integers(0, 7 * 86400), st.integers(0, 50), st.integers(0, 50))
def test_an_answer_is_within_the_bounds_that_hold(unix_s: int, prompt: int, decoder: int) -> None:
    window = {"name": "a", "begins": "20:00", "ends": "08:00", "prompt_min": 3, "prompt_max": 5}
    snapshot = Snapshot(now_s=0.0, now_unix_s=float(unix_s), target=Target(1, 1))
    minute = unix_s // 60 % 1440

    answer = decided(snapshot, window, inner=Target(prompt, decoder))

    does_hold = minute >= 20 * 60 or minute < 8 * 60
    assert answer == Target(min(max(prompt, 3), 5) if does_hold else prompt, decoder)


def test_the_other_policy_comes_by_name_with_its_parameters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Counts(Params):
        prompt: int

    module = ModuleType("steady_policy")
    vars(module)["SPEC"] = PolicySpec(Counts, lambda params: Wanting(Target(params.prompt, 2)))
    monkeypatch.setitem(sys.modules, "steady_policy", module)
    inner = {"policy": "steady_policy:SPEC", "params": {"prompt": 9}}

    policy = load_policy("schedule", {"inner": inner})

    assert policy.decide(at("2025-01-06T09:05")) == Target(9, 2)


@pytest.mark.parametrize(
    ("inner", "told"),
    [
        ({"policy": "queue-presure"}, "did you mean 'queue-pressure'"),
        ({"params": {"settle": 3}}, "no parameter 'settle', did you mean 'settle_s'"),
    ],
)
def test_what_is_wrong_with_the_other_policy_is_said_at_the_start(
    inner: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        load_policy("schedule", {"inner": inner})


@pytest.mark.parametrize(
    ("windows", "told"),
    [
        ([OFFICE, OFFICE], "the name 'office' is there twice"),
        ([{"name": "a", "prompt": 3, "prompt_min": 2}], "prompt says exactly how many"),
        ([{"name": "a", "decoder_min": 3, "decoder_max": 2}], r"decoder_min \(3\) must not be"),
        ([{"name": "a", "begins": "24:00"}], "begins must be below 24:00"),
        ([{"name": "a", "begins": "8:30"}], "String should match pattern"),
        ([{"name": "a", "days": ["monday"]}], "Input should be 'mon'"),
        ([{"name": "a", "days": []}], "at least 1 item"),
    ],
)
def test_windows_that_contradict_are_refused(windows: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        ScheduleParams.model_validate({"windows": windows})
