"""Profiles of one's own: an engine's names in a YAML file, alone or over another profile.

Every mistake is a ConfigError with file, line and fix.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pd_autoscaler.adapters.metrics.profiles.document import Document, Place, document
from pd_autoscaler.adapters.metrics.profiles.meaning import COUNTERS, GAUGES, HISTOGRAMS
from pd_autoscaler.adapters.metrics.profiles.mindie import MINDIE
from pd_autoscaler.adapters.metrics.profiles.profile import Profile
from pd_autoscaler.adapters.metrics.profiles.schema import (
    HistogramPart,
    MeaningsPart,
    ProfilePart,
    TermPart,
    ValuePart,
)
from pd_autoscaler.adapters.metrics.profiles.sglang import SGLANG
from pd_autoscaler.adapters.metrics.profiles.vllm import VLLM
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.node import Role

_CANONICAL = {"gauges": GAUGES, "counters": COUNTERS, "histograms": HISTOGRAMS}

_TERM = "must be a metric's name, or hold name, labels and so on"
_SECTION = "must hold gauges, counters or histograms"
_SHAPES = {
    "ProfilePart": "must hold names such as `name:` and `prompt:`",
    "MeaningsPart": _SECTION,
    "TermPart": _TERM,
    "ValuePart": f"{_TERM}, or a sum of such",
    "HistogramPart": "must be a histogram's name, or hold name, or total and count",
}
"""What each part of a file takes, in the place of what is none."""

_REASONS = {
    "dict_type": "must hold names with their values",
    "list_type": "must be a list",
    "string_type": "must be text; put it in quotes",
    "string_pattern_mismatch": "must match [a-z0-9][a-z0-9._-]*: small letters, digits, '.', '_' "
    "and '-', at most 63",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "too_short": "must not be an empty list; name one, or give no value at all",
}
"""What is right in place of each kind of mistake; the others are told well enough as they are."""


def loaded(paths: Iterable[Path]) -> list[Profile]:
    """Read profiles from YAML files, one in each, in their order.

    One may extend a shipped profile or one of a file before it. Raises ConfigError, a line for
    each mistake with its file, place, value and fix.
    """
    known = {
        name: profile
        for profile in (VLLM, SGLANG, MINDIE)
        for name in (profile.name, *profile.aliases)
    }
    profiles = []
    for path in paths:
        profile = _of(document(path), known)
        known[profile.name] = profile
        profiles.append(profile)
    return profiles


def _of(read: Document, known: Mapping[str, Profile]) -> Profile:
    problems = _misnamed(read)
    try:
        part = ProfilePart.model_validate(read.data)
    except ValidationError as invalid:
        found = {(error["loc"], error["msg"]): error for error in invalid.errors(include_url=False)}
        problems += [_sentence(read, error) for error in found.values()]
        raise ConfigError("\n".join(dict.fromkeys(problems))) from None
    if part.name in {*known, "auto"}:
        problems.append(
            f"{read.at(['name'])}: name is {part.name!r}, which is taken; choose another"
        )
    if part.extends and part.extends not in known:
        problems.append(
            f"{read.at(['extends'])}: extends is {part.extends!r}, which is no profile"
            f"{_meant(part.extends, known)} (there are: {', '.join(sorted(known))})"
        )
    if not problems:
        profile = part.profile(known.get(part.extends))
        if all(profile.wanted_by(role) for role in Role):
            return profile
        problems.append(
            f"{read.path}: nothing is read on one of the roles; name gauges under `both`, "
            f"`prompt` and `decoder`, or extend a profile"
        )
    raise ConfigError("\n".join(problems))


def _misnamed(read: Document) -> list[str]:
    """Return a sentence for each canonical name that there is not."""
    problems = []
    for section in ("both", "prompt", "decoder"):
        kinds = read.data.get(section)
        for kind, canonical in _CANONICAL.items():
            names = kinds.get(kind) if isinstance(kinds, dict) else None
            problems += [
                f"{read.at([section, kind, name])}: {section}.{kind}.{name} is not a canonical "
                f"name{_meant(name, canonical)} (known: {', '.join(sorted(canonical))})"
                for name in (names if isinstance(names, dict) else ())
                if name not in canonical
            ]
    return problems


def _sentence(read: Document, error: ErrorDetails) -> str:
    loc = error["loc"]
    place = _written(read, loc)
    name = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in place).removeprefix(".")
    if error["type"] == "extra_forbidden":
        fields = _fields(loc)
        return (
            f"{read.at(place)}: {name} is not a name here{_meant(str(loc[-1]), fields)} "
            f"(known: {', '.join(fields)})"
        )
    if error["type"] == "missing":
        return f"{read.at(place)}: {name} is missing"
    return f"{read.at(place)}: {name} is {str(error['input'])[:60]!r}, and {_reason(error)}"


def _reason(error: ErrorDetails) -> str:
    """Say what would be right, in words that a profile's file has."""
    kind = error["type"]
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind == "model_type":
        return _SHAPES[error["ctx"]["class_name"]]
    return _REASONS.get(kind) or error["msg"].replace("Input should be", "must be")


def _written(read: Document, loc: Place) -> Place:
    """Return a place as it stands in the file, without what its short forms were written out to."""
    place: Place = ()
    for part in loc:
        if (*place, part) in read.lines:
            place = (*place, part)
    is_absent = bool(loc) and isinstance(loc[-1], str) and place[-1:] != loc[-1:]
    return (*place, loc[-1]) if is_absent and loc[-1] != "sum" else place


def _fields(loc: Place) -> list[str]:
    """Return the names that are known at a place."""
    names = [part for part in loc[:-1] if isinstance(part, str)]
    if not names:
        return list(ProfilePart.model_fields)
    if len(names) == 1:
        return list(MeaningsPart.model_fields)
    if names[-1] == "sum":
        return list(TermPart.model_fields)
    part: type[BaseModel] = HistogramPart if names[1] == "histograms" else ValuePart
    return list(part.model_fields)


def _meant(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
