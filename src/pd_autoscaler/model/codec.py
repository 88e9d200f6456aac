"""The model as JSON and back: what a journal stores, a replay reads and the admin API shows.

The declared types drive both ways, so a new field or class needs no code here. Where a field may
hold one of several classes the object carries its class name as `type`. Numbers that JSON cannot
write (infinities, not-a-number) are strings.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pd_autoscaler.errors import PermanentError
from pd_autoscaler.model.plan import Action
from pd_autoscaler.model.report import Recorded, Report

T = TypeVar("T")
_Codec = tuple[Callable[[Any], Any], Callable[[Any], Any]]
_SCALARS = (str, int, bool, NoneType)


def to_json(value: object, kind: Any = None) -> Any:
    """Return `value` as JSON data; `kind` is its declared type, by default its class.

    Give `kind` for a union such as Action or Decision: its members are told apart by `type`.
    """
    declared: Any = type(value) if kind is None else kind
    return _codec(declared)[0](value)


def from_json(kind: type[T], data: object) -> T:
    """Rebuild what `to_json` wrote; fields that are missing take their defaults.

    Unknown fields are ignored, so that an older reader understands a newer writer. Raises
    PermanentError for data that is not of this kind.
    """
    declared: Any = kind
    try:
        return cast("T", _codec(declared)[1](data))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        name = " or ".join(member.__name__ for member in get_args(kind) or (kind,))
        raise PermanentError(f"not a stored {name}: {type(error).__name__}: {error}") from error


def report_text(report: Report) -> str:
    """Return a report as one line of JSON."""
    return json.dumps(to_json(report), allow_nan=False, separators=(",", ":"))


def report_from(text: str | bytes) -> Report:
    """Rebuild a report from its line of JSON, or raise PermanentError."""
    return from_json(Report, _report_data(text))


def recorded_from(text: str | bytes) -> Recorded:
    """Rebuild only what a replay needs of a report's line, or raise PermanentError."""
    return from_json(Recorded, _report_data(text))


def _report_data(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise PermanentError(f"not a stored Report: {error}") from error


def action_text(action: Action) -> str:
    """Return an action as one line of JSON."""
    return json.dumps(to_json(action, Action), allow_nan=False, separators=(",", ":"))


def action_from(text: str | bytes) -> Action:
    """Rebuild an action from its line of JSON, or raise PermanentError."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise PermanentError(f"not a stored Action: {error}") from error
    return cast("Action", from_json(cast("type[Any]", Action), data))


@cache
def _codec(kind: Any) -> _Codec:
    """Build the two directions for one declared type, once."""
    if kind in _SCALARS:
        return _same, _checked(kind)
    if kind is float:
        return _float_to_json, _float_from_json
    if isinstance(kind, type) and issubclass(kind, Enum):
        return (lambda member: member.value), kind
    if is_dataclass(kind):
        return _of_dataclass(cast("type[Any]", kind))
    return _of_container(kind)


def _of_container(kind: Any) -> _Codec:
    origin, args = get_origin(kind), get_args(kind)
    if origin in {Union, UnionType}:
        return _of_union(args)
    if origin is tuple and args[-1] is Ellipsis:
        to, back = _codec(args[0])
        return (lambda items: [to(i) for i in items]), (lambda data: tuple(back(d) for d in data))
    if origin is tuple:
        return _of_fixed_tuple(args)
    if origin is frozenset:
        to, back = _codec(args[0])
        # Sorted, because the order of a set differs between runs.
        return (
            lambda items: sorted(to(i) for i in items),
            lambda data: frozenset(back(d) for d in data),
        )
    if origin is Mapping:
        return _of_mapping(*args)
    raise TypeError(f"the model's codec does not know {kind!r}")


def _of_mapping(key: Any, value: Any) -> _Codec:
    key_to, key_back = _codec(key)
    to, back = _codec(value)
    return (
        lambda items: {key_to(k): to(v) for k, v in items.items()},
        lambda data: {key_back(k): back(v) for k, v in data.items()},
    )


def _of_fixed_tuple(args: tuple[Any, ...]) -> _Codec:
    codecs = [_codec(arg) for arg in args]
    return (
        lambda items: [to(i) for (to, _), i in zip(codecs, items, strict=True)],
        lambda data: tuple(back(d) for (_, back), d in zip(codecs, data, strict=True)),
    )


def _of_union(args: tuple[Any, ...]) -> _Codec:
    members = tuple(arg for arg in args if arg is not NoneType)
    if len(members) == 1:
        to, back = _codec(members[0])
        return (
            lambda value: None if value is None else to(value),
            lambda data: None if data is None else back(data),
        )
    by_name = {member.__name__: _codec(member) for member in members}

    def to_tagged(value: Any) -> Any:
        name = type(value).__name__
        return {"type": name, **by_name[name][0](value)}

    return to_tagged, lambda data: by_name[data["type"]][1](data)


def _of_dataclass(kind: type[Any]) -> _Codec:
    hints = get_type_hints(kind)
    codecs = {field.name: _codec(hints[field.name]) for field in fields(kind)}
    to_each = [(name, to) for name, (to, _) in codecs.items()]

    def back_from(data: Any) -> Any:
        return kind(**{n: back(data[n]) for n, (_, back) in codecs.items() if n in data})

    return (lambda value: {name: to(getattr(value, name)) for name, to in to_each}), back_from


def _same(value: Any) -> Any:
    return value


def _checked(kind: type) -> Callable[[Any], Any]:
    def check(data: Any) -> Any:
        if type(data) is not kind:
            raise TypeError(f"{data!r} is not of type {kind.__name__}")
        return data

    return check


def _float_to_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _float_from_json(data: Any) -> float:
    if isinstance(data, bool) or not isinstance(data, int | float | str):
        raise TypeError(f"{data!r} is not a number")
    return float(data)
