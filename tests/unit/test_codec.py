"""The codec: whatever the model can hold comes back as it was, through strict JSON."""

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings

from pd_autoscaler.errors import PermanentError
from pd_autoscaler.model.codec import (
    action_from,
    action_text,
    from_json,
    report_from,
    report_text,
    to_json,
)
from pd_autoscaler.model.decision import Decision, Hold, HoldReason
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.plan import Action, StartNode
from pd_autoscaler.model.report import Report
from pd_autoscaler.model.signals import Signal
from tests.support import reports as given_reports


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(given_reports.reports())
def test_any_report_comes_back_as_it_was(report: Report) -> None:
    text = report_text(report)

    again = report_from(text)

    assert again == report
    assert report_text(again) == text, "fields that equality leaves out (a target's why) differ"


@settings(max_examples=100)
@given(given_reports.actions())
def test_any_action_comes_back_as_the_same_class(action: Action) -> None:
    again = action_from(action_text(action))

    assert again == action
    assert type(again) is type(action)


def test_a_report_written_out_by_hand_comes_back_with_its_reasons() -> None:
    again = report_from(report_text(given_reports.a_busy_report()))

    assert again == given_reports.a_busy_report()
    assert isinstance(again.decision, type(given_reports.a_busy_report().target))
    assert again.decision.why == "queue 3.0 per prompt node"


def test_a_union_member_is_told_by_its_class_name() -> None:
    hold: Decision = Hold(HoldReason.COOLDOWN, "3 s left")

    assert to_json(hold, Decision) == {"type": "Hold", "reason": "cooldown", "detail": "3 s left"}
    assert to_json(StartNode(Role.PROMPT, "run-1"), Action) == {
        "type": "StartNode",
        "role": "prompt",
        "request_id": "run-1",
    }


def test_infinities_and_not_a_number_are_strict_json() -> None:
    text = json.dumps(to_json(Signal(math.inf, -math.inf)), allow_nan=False)

    assert from_json(Signal, json.loads(text)) == Signal(math.inf, -math.inf)
    assert math.isnan(from_json(Signal, to_json(Signal(math.nan, 0.0))).value)


def test_a_field_that_a_later_version_added_is_ignored_and_one_it_lacks_takes_its_default() -> None:
    data = {"value": 1, "age_s": 2, "added_later": [1]}

    assert from_json(Signal, data) == Signal(1.0, 2.0, is_lower_bound=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a stored Action: Expecting property name"),
        ('{"type":"Explode"}', "not a stored StartNode or InitNode"),
        ('{"type":"StartNode","role":"cook","request_id":"r"}', "'cook' is not a valid Role"),
        ('{"type":"StartNode","role":"prompt","request_id":7}', "7 is not of type str"),
        ('{"type":"StartNode","role":"prompt"}', "request_id"),
        ("[]", "not a stored"),
    ],
)
def test_what_is_no_action_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(PermanentError) as refusal:
        action_from(text)

    assert message in str(refusal.value)
