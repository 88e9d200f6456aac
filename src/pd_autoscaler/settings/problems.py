"""What is wrong with a value, where it stands and what would be right, in one sentence."""

from collections.abc import Iterable
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

Loc = tuple[str | int, ...]

_KINDS: dict[object, str] = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "text",
    SecretStr: "quoted text",
    Path: "a path",
    dict: "a mapping of names to values",
    tuple: "a list",
}
_BOUNDS = ((Gt, "gt", "above"), (Ge, "ge", "at least"), (Lt, "lt", "below"), (Le, "le", "at most"))


def dotted(loc: Loc) -> str:
    """Return a setting's name as people write it, such as `provider.nodes[0].role`."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in loc).removeprefix(".")


def sentences(tree: type[BaseModel], error: ErrorDetails) -> list[str]:
    """Return what one validation error says; relations may have several sentences in one."""
    loc = error["loc"]
    reason = str(error["ctx"]["error"]) if error["type"] == "value_error" else ""
    if not loc:
        return (reason or error["msg"]).splitlines()
    if error["type"] == "extra_forbidden":
        return [unknown(loc, _known(tree, loc[:-1]))]
    name = dotted(loc)
    if error["type"] == "missing":
        return [f"{name} is missing"]
    value = "set" if _is_secret(loc) else _shown(error["input"])
    field = _field(tree, loc)
    if not reason:
        reason = f"must be {allowed(field)}" if field is not None else error["msg"]
    return [f"{name} is {value}, and {reason}"]


def unknown(loc: Loc, known: Iterable[str]) -> str:
    """Say that there is no such setting, which one may be meant, and which there are."""
    names = list(known)
    close = get_close_matches(str(loc[-1]), names, n=1)
    meant = f"; did you mean {dotted((*loc[:-1], close[0]))}?" if close else ""
    place = f"in {dotted(loc[:-1])}" if len(loc) > 1 else "at the top"
    return f"{dotted(loc)} is not a setting{meant} (known {place}: {', '.join(names)})"


def allowed(field: FieldInfo) -> str:
    """Describe what a field takes, bounds included."""
    kinds = [k for k in get_args(field.annotation) or (field.annotation,) if k is not NoneType]
    if get_origin(field.annotation) is Literal:
        return f"one of {', '.join(map(str, kinds))}"
    kind = get_origin(field.annotation) or kinds[0]
    if kind not in _KINDS and len(kinds) == 1:
        kind = get_origin(kinds[0]) or kinds[0]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(str(member.value) for member in kind)}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "a section of settings"
    kind = kind if kind in _KINDS else kinds[0]
    bounds = [
        f"{word} {getattr(m, attribute):g}"
        for m in field.metadata
        for bound, attribute, word in _BOUNDS
        if isinstance(m, bound)
    ]
    bounds += [
        f"of at least {m.min_length} character{'s' if m.min_length > 1 else ''}"
        for m in field.metadata
        if isinstance(m, MinLen)
    ]
    return " ".join([_KINDS.get(kind, "another kind of value"), " and ".join(bounds)]).strip()


def _is_secret(loc: Loc) -> bool:
    return "token" in loc


def _shown(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _section(tree: type[BaseModel], loc: Loc) -> type[BaseModel] | None:
    """Return the section at a place, through lists of sections."""
    section: type[BaseModel] = tree
    for part in loc:
        if isinstance(part, int):
            continue
        field = section.model_fields.get(part)
        found = _model_in(field.annotation) if field is not None else None
        if found is None:
            return None
        section = found
    return section


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _field(tree: type[BaseModel], loc: Loc) -> FieldInfo | None:
    section = _section(tree, loc[:-1])
    return section.model_fields.get(str(loc[-1])) if section is not None else None


def _known(tree: type[BaseModel], loc: Loc) -> list[str]:
    section = _section(tree, loc)
    return list(section.model_fields) if section is not None else []
