"""What is said between the controller and an advisor, as JSON, and the schemas of both."""

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from pd_autoscaler.model.snapshot import Snapshot

API_VERSION = 1
"""Raised when a change would break existing advisors."""

COUNT_MAX = 1_000_000
"""More nodes of a role than any fleet has."""


@dataclass(frozen=True, slots=True)
class Request:
    """What an advisor is sent by POST: the cycle and everything that a policy may know of it.

    The snapshot's target is the standing one after that cycle. Seconds end in `_s`; `now_s` and all
    times without `unix` are on the controller's own clock, of which only differences mean anything.
    """

    api_version: int
    cycle: int
    snapshot: Snapshot


class Answer(BaseModel):
    """What an advisor answers, with HTTP 200: absolute counts of nodes, and why.

    With HTTP 204 and no body it takes back what it said before: the target is held.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    prompt: int = Field(ge=0, le=COUNT_MAX)
    decoder: int = Field(ge=0, le=COUNT_MAX)
    why: str = Field(default="", max_length=1000)


def answer_from(body: bytes) -> Answer:
    """Return an answer, or raise ValueError that says in one sentence what is wrong with it."""
    try:
        data = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the answer is not JSON: {error}") from error
    try:
        return Answer.model_validate(data)
    except ValidationError as error:
        raise ValueError("; ".join(_told(p) for p in error.errors(include_url=False))) from error


def schemas() -> dict[str, JsonSchemaValue]:
    """Return the JSON schemas of `request` and `answer`."""
    request = TypeAdapter(Request).json_schema(schema_generator=_AsWritten, mode="serialization")
    return {
        "request": {"$schema": GenerateJsonSchema.schema_dialect, **request},
        "answer": {"$schema": GenerateJsonSchema.schema_dialect, **Answer.model_json_schema()},
    }


class _AsWritten(GenerateJsonSchema):
    """Describes what `model.codec` writes: every field, and numbers that JSON lacks as text."""

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        return {"anyOf": [super().float_schema(schema), {"enum": ["inf", "-inf", "nan"]}]}

    def field_is_required(self, field: Any, total: bool) -> bool:
        del field, total
        return True


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _told(problem: Any) -> str:
    where = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        known = ", ".join(Answer.model_fields)
        return f"the answer has {where!r}, which is none of {known}"
    if problem["type"] == "missing":
        return f"the answer lacks {where!r}"
    value = repr(problem["input"])
    shown = value if len(value) <= 60 else f"{value[:57]}..."
    return f"the answer's {where} is {shown}: {problem['msg']}" if where else f"it answers {shown}"
