"""Reading the settings: a YAML file, the environment over it, and files that hold secrets."""

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource
from pydantic_settings.exceptions import SettingsError

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.settings.problems import Loc, sentences, unknown
from pd_autoscaler.settings.sections import (
    AdminSettings,
    AdvisorSettings,
    AgentSettings,
    PromqlSettings,
    ScrapeSettings,
)
from pd_autoscaler.settings.tree import Settings

ENV_PREFIX = "PD_AUTOSCALER_"
ENV_DELIMITER = "__"
TOKEN_LENGTH_MIN = 8

_Tokened = TypeVar(
    "_Tokened", AgentSettings, AdminSettings, AdvisorSettings, ScrapeSettings, PromqlSettings
)


class _Environment(Settings, BaseSettings):  # type: ignore[misc]  # both configs are plain dicts
    """The settings as pydantic-settings looks for them in the environment."""


def load(path: Path | None = None) -> Settings:
    """Return the file's settings with the environment's over them; without a file, defaults.

    A file that is missing, unreadable or not YAML, an unknown name, a wrong value and values that
    do not fit one another raise ConfigError: one line per problem, each with its place.
    """
    data, lines = ({}, {}) if path is None else _of_file(path)
    problems = _misspelt_variables()
    merged = _merged(data, _of_environment())
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            place = _place(error["loc"], path, lines)
            problems += [place + sentence for sentence in sentences(Settings, error)]
    if problems:
        # From None: pydantic's own error would show what secrets hold.
        raise ConfigError("\n".join(problems)) from None
    return _with_secrets(settings)


def _of_file(path: Path) -> tuple[dict[str, Any], dict[Loc, int]]:
    """Return what the file holds, and the line of each name in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: byte {error.start} is wrong") from error
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            data = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{path}{_marked(error)}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = (str(error) or "nested too deeply").splitlines()[0]
        raise ConfigError(f"{path} is not YAML: {first}") from error
    if data is None:
        return {}, {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}:1: the file must hold sections such as `loop:`, not {data!r}")
    lines: dict[Loc, int] = {}
    twice = _find_lines(node, (), lines, set())
    if twice:
        raise ConfigError("\n".join(f"{path}:{problem}" for problem in twice))
    # A section with all of its lines commented out is an empty one.
    return {name: {} if value is None else value for name, value in data.items()}, lines


def _marked(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    at = "" if mark is None else f":{mark.line + 1}:{mark.column + 1}"
    return f"{at}: not YAML: {error.problem or error.context}"


def _find_lines(
    node: yaml.Node | None, at: Loc, lines: dict[Loc, int], seen: set[int]
) -> list[str]:
    """Note the line of every name below a node, once; return the names given twice."""
    twice: list[str] = []
    if id(node) in seen:
        return twice
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            loc = (*at, str(key.value))
            line = key.start_mark.line + 1
            if loc in lines and key.tag != "tag:yaml.org,2002:merge":
                twice.append(f"{line}: {'.'.join(map(str, loc))} is here again (line {lines[loc]})")
            lines[loc] = line
            twice += _find_lines(value, loc, lines, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*at, index)] = value.start_mark.line + 1
            twice += _find_lines(value, (*at, index), lines, seen)
    return twice


def _of_environment() -> dict[str, Any]:
    source = EnvSettingsSource(
        _Environment, env_prefix=ENV_PREFIX, env_nested_delimiter=ENV_DELIMITER
    )
    try:
        return source()
    except SettingsError as error:
        cause = error.__cause__ or error
        raise ConfigError(f"environment {_unparsed(str(error))}: not JSON: {cause}") from error


def _unparsed(message: str) -> str:
    """Return the variables that pydantic-settings may mean: it names the section alone."""
    sections = [name for name in Settings.model_fields if f'"{name}"' in message]
    starts = tuple(f"{ENV_PREFIX}{name}".upper() for name in sections)
    return ", ".join(sorted(n for n in os.environ if n.upper().startswith(starts)))


def _misspelt_variables() -> list[str]:
    """Return a sentence for each variable that looks like a setting and is none."""
    problems = []
    for name, value in sorted(os.environ.items()):
        if not name.upper().startswith(ENV_PREFIX):
            continue
        rest = name[len(ENV_PREFIX) :].lower()
        section, delimiter, _ = rest.partition(ENV_DELIMITER)
        if delimiter and section not in Settings.model_fields:
            problems.append(f"environment {name}: {unknown((section,), Settings.model_fields)}")
        elif not delimiter and (meant := _meant(rest)) and "://" not in value:
            # Kubernetes itself sets such names to addresses, for a Service pd-autoscaler-admin.
            problems.append(f"environment {name} is not a setting; did you mean {meant}?")
    return problems


def _meant(rest: str) -> str:
    """Return the variable that was meant by one with a single underscore, if there is one."""
    for section, field in Settings.model_fields.items():
        kind = field.annotation
        names = kind.model_fields if isinstance(kind, type) else {}
        if rest.startswith(f"{section}_") and rest.removeprefix(f"{section}_") in names:
            return f"{ENV_PREFIX}{section}{ENV_DELIMITER}{rest[len(section) + 1 :]}".upper()
    return ""


def _merged(below: Any, above: Mapping[str, Any]) -> Any:
    """Lay one tree of values over another."""
    if not isinstance(below, dict):
        return above
    merged: dict[Hashable, Any] = dict(below)
    for name, value in above.items():
        is_tree = isinstance(value, Mapping) and name in merged
        merged[name] = _merged(merged[name], value) if is_tree else value
    return merged


def _place(loc: Loc, path: Path | None, lines: Mapping[Loc, int]) -> str:
    """Say where a value came from: the variable, or the line of the file."""
    variables = {name.upper(): name for name in os.environ}
    for length in range(len(loc), 0, -1):
        part = loc[:length]
        variable = (ENV_PREFIX + ENV_DELIMITER.join(map(str, part))).upper()
        if variable in variables:
            return f"environment {variables[variable]}: "
        if part in lines:
            return f"{path}:{lines[part]}: "
    return ""


def _with_secrets(settings: Settings) -> Settings:
    """Read the files that hold tokens."""
    scrape = _with_token("scrape", settings.scrape, length_min=1)
    if scrape.promql is not None:
        promql = _with_token("scrape.promql", scrape.promql, length_min=1)
        scrape = scrape.model_copy(update={"promql": promql})
    return settings.model_copy(
        update={
            "advisor": _with_token("advisor", settings.advisor, length_min=1),
            "scrape": scrape,
            "agent": _with_token("agent", settings.agent),
            "admin": _with_token("admin", settings.admin),
        }
    )


def _with_token(name: str, section: _Tokened, *, length_min: int = TOKEN_LENGTH_MIN) -> _Tokened:
    """Return a section with the token of its file; those that others give may be any length."""
    if section.token_file is None:
        return section
    token = _secret(f"{name}.token_file", section.token_file, length_min)
    return section.model_copy(update={"token": token, "token_file": None})


def _secret(name: str, path: Path, length_min: int) -> SecretStr:
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{name}: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: {path} is not UTF-8 text") from error
    if len(secret) < length_min:
        least = f"{length_min} characters" if length_min > 1 else "one character"
        raise ConfigError(f"{name}: {path} must hold at least {least}")
    return SecretStr(secret)
