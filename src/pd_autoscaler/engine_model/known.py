"""Known profiles by name, and profiles from files."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from pd_autoscaler.engine_model import deepseek, llama, opt
from pd_autoscaler.engine_model.profile import DEMO, EngineProfile, profile_of
from pd_autoscaler.engine_model.published import Published
from pd_autoscaler.errors import ConfigError

_DEMO = Published(
    DEMO,
    "A small model on small nodes, for demonstrations",
    {
        field.name: "chosen for demonstrations: splitwise-sim's shapes, scaled down"
        for field in fields(EngineProfile)
        if field.name not in {"name", "kv_bytes_per_token", "pull_bytes_per_s"}
    }
    | {
        "kv_bytes_per_token": "Llama-3-70B and Qwen2.5-72B in 16 bits (Mooncake: 320 KB)",
        "pull_bytes_per_s": "one RoCE NIC (hicann/hixl)",
    },
)

KNOWN: Mapping[str, Published] = MappingProxyType(
    {
        published.profile.name: published
        for published in (
            _DEMO,
            llama.H100,
            llama.A100,
            deepseek.R1_910C,
            opt.OPT_13B,
            opt.OPT_66B,
        )
    }
)
"""Every profile that comes with the program, by its name."""

_REQUIRED = frozenset(field.name for field in fields(EngineProfile) if field.default is MISSING) - {
    "name"
}


def engine_profile(name_or_path: str | Path) -> EngineProfile:
    """Return a known profile by its name, or the one in a YAML or JSON file.

    A file holds the fields of EngineProfile; with `base: NAME` it may leave out those of that known
    profile, and without `name` it is named after itself. Raises ConfigError for a name that is not
    known (it lists those that are) and for a file that cannot be read or makes no sense.
    """
    known = KNOWN.get(str(name_or_path))
    if known is not None:
        return known.profile
    path = Path(name_or_path)
    if not path.suffix and not path.exists():
        raise ConfigError(
            f"engine profile {str(name_or_path)!r} is not known: give one of {', '.join(KNOWN)}, "
            "or the path of a YAML or JSON file"
        )
    try:
        return _profile_in(_values(path), path)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def known_profile(name: str) -> EngineProfile:
    """Return a known profile; raises ConfigError that lists them for any other name."""
    if name not in KNOWN:
        raise ConfigError(f"there is no known profile {name!r}: give one of {', '.join(KNOWN)}")
    return KNOWN[name].profile


def profile_text(profile: EngineProfile) -> str:
    """Return a profile as YAML that `engine_profile` reads back the same."""
    values = asdict(profile)
    values["prefill_points"] = [list(point) for point in profile.prefill_points]
    return yaml.safe_dump(values, sort_keys=False)


def _profile_in(values: Mapping[str, Any], path: Path) -> EngineProfile:
    given = {name: _number(value) for name, value in values.items() if name != "base"}
    given["name"] = str(values.get("name", path.stem))
    if "base" in values:
        return profile_of(given, known_profile(str(values["base"])))
    missing = sorted(_REQUIRED - set(given))
    if missing:
        raise ConfigError(
            f"engine profile lacks {', '.join(missing)}: give them, or a known profile that has "
            f"them, such as 'base: {DEMO.name}'"
        )
    return profile_of(given)


def _values(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"cannot be read ({error.strerror}): check the path and its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError("is not a text file: give YAML or JSON") from error
    try:
        values = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"is neither YAML nor JSON: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ConfigError("holds no engine profile: give its fields, one a line (name: value)")
    return values


def _number(value: Any) -> Any:
    """Return a value as it was meant: YAML 1.1 takes 5e-10, without a dot, for a text."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value
