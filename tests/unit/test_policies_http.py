"""The policy that an advisor decides: what it makes of an answer, of an old one and of none."""

import json
from dataclasses import replace
from typing import Any

import pytest

from pd_autoscaler.model.advice import Advice
from pd_autoscaler.model.codec import to_json
from pd_autoscaler.model.decision import Hold, HoldReason, Target
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.advisor_wire import API_VERSION, Request, answer_from, schemas
from pd_autoscaler.policies.awkward import awkward_snapshots
from pd_autoscaler.policies.conformance import violations
from pd_autoscaler.policies.contract import Policy
from pd_autoscaler.policies.registry import load_policy

SNAPSHOT = Snapshot(now_s=100.0, now_unix_s=0.0, target=Target(2, 3))


def http() -> Policy:
    return load_policy("http", {})


def test_it_asks_for_what_the_advisor_answered_in_its_words() -> None:
    advised = replace(SNAPSHOT, advice=Advice(4, 5, "a busy hour comes", age_s=10.0))
    decision = http().decide(advised)

    assert isinstance(decision, Target)
    assert (decision, decision.why) == (Target(4, 5), "a busy hour comes")


def test_without_an_answer_or_with_an_old_one_it_holds_and_names_the_setting() -> None:
    old = Advice(4, 5, age_s=95.2, is_fresh=False)

    assert http().decide(SNAPSHOT) == Hold(
        HoldReason.POLICY_HELD, "the advisor (advisor.url) has given no answer"
    )
    assert http().decide(replace(SNAPSHOT, advice=old)) == Hold(
        HoldReason.POLICY_HELD, "the advisor's newest answer is 95 s old (advisor.age_max_s)"
    )


def test_it_keeps_the_contract_and_holds_through_all_of_it() -> None:
    assert violations(http) == ()


def test_advice_is_followed_whatever_else_the_snapshot_says() -> None:
    for name, snapshot in awkward_snapshots().items():
        decision = http().decide(replace(snapshot, advice=Advice(3, 2)))
        assert decision == Target(3, 2), name
        assert type(decision) is Target


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"prompt": 3, "decoder": 2}', ""),
        (b'{"prompt": 0, "decoder": 0, "why": "night"}', ""),
        (b'{"prompt": NaN, "decoder": 2}', "the answer is not JSON: NaN is no number"),
        (b'{"prompt": 1e999, "decoder": 2}', "the answer's prompt is inf: "),
        (b'{"prompt": -1, "decoder": 2}', "the answer's prompt is -1: "),
        (b'{"prompt": 1000001, "decoder": 2}', "the answer's prompt is 1000001: "),
        (b'{"prompt": 2.5, "decoder": 2}', "the answer's prompt is 2.5: "),
        (b'{"prompt": 2.0, "decoder": 2}', "the answer's prompt is 2.0: "),
        (b'{"prompt": true, "decoder": 2}', "the answer's prompt is True: "),
        (b'{"prompt": "3", "decoder": 2}', "the answer's prompt is '3': "),
        (b'{"prompt": 3}', "the answer lacks 'decoder'"),
        (
            b'{"prompt": 3, "decoder": 2, "reason": "x"}',
            "the answer has 'reason', which is none of prompt, decoder, why",
        ),
        (b'{"prompt": 3, "decoder": 2, "why": null}', "the answer's why is None: "),
        (b"[]", "it answers []"),
        (b"null", "it answers None"),
        (b"3P:2D", "the answer is not JSON: "),
        (b"", "the answer is not JSON: "),
        (b"\xff\xfe", "the answer is not JSON: "),
        (b"[" * 100_000, "the answer is not JSON: "),
        (b'{"prompt": 1' + b"0" * 5000 + b"}", "the answer is not JSON: "),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_wrong_answer_is_told_in_one_sentence(body: bytes, said: str) -> None:
    if not said:
        answer = answer_from(body)
        assert type(answer.prompt) is int
        return
    with pytest.raises(ValueError, match=r"^[^\n]+$") as refusal:
        answer_from(body)
    assert str(refusal.value).startswith(said)


def misfits(schema: dict[str, Any], value: Any, whole: dict[str, Any], at: str = "$") -> list[str]:
    """Say where a value is not what its schema says; the few keywords that are used here."""
    if "$ref" in schema:
        schema = whole["$defs"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        tried = [misfits(option, value, whole, at) for option in schema["anyOf"]]
        return [] if [] in tried else [problem for problems in tried for problem in problems]
    kinds: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "null": type(None),
    }
    known = {"type", "properties", "required", "items", "enum", "additionalProperties", "const"}
    known |= {"title", "description", "default", "uniqueItems", "propertyNames", "$defs", "$schema"}
    assert schema.keys() <= known, schema.keys() - known
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{at}: {value!r} is none of {schema['enum']}")
    if "type" in schema and not isinstance(value, kinds[schema["type"]]):
        return [f"{at}: {value!r} is no {schema['type']}"]
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties")
        found += [f"{at}: lacks {name}" for name in schema.get("required", ()) if name not in value]
        for name, part in value.items():
            inner = properties.get(name, others)
            found += (
                [f"{at}: has {name}"]
                if inner is None
                else misfits(inner, part, whole, f"{at}.{name}")
            )
    if isinstance(value, list):
        for number, part in enumerate(value):
            found += misfits(schema["items"], part, whole, f"{at}[{number}]")
    return found


def test_the_schema_of_the_request_is_what_is_sent_on_every_kind_of_day() -> None:
    schema = schemas()["request"]
    assert schema["$schema"].startswith("https://json-schema.org/")
    for name, snapshot in awkward_snapshots().items():
        sent = json.loads(json.dumps(to_json(Request(API_VERSION, 7, snapshot)), allow_nan=False))
        assert misfits(schema, sent, schema) == [], name
    assert misfits(schema, {"api_version": 1, "cycle": 1}, schema) == ["$: lacks snapshot"]
    assert misfits(schema, sent | {"cycle": "7"}, schema) == ["$.cycle: '7' is no integer"]


def test_the_schema_of_the_answer_bounds_what_is_taken() -> None:
    schema = schemas()["answer"]
    assert schema["required"] == ["prompt", "decoder"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["prompt"] == {
        "title": "Prompt",
        "type": "integer",
        "minimum": 0,
        "maximum": 1_000_000,
    }
