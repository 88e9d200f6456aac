"""The registry: the one policy that was asked for, loaded and checked at start."""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points

from pydantic import ValidationError

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.policies.contract import API_VERSION, Params, Policy, PolicySpec

GROUP = "pd_autoscaler.policies"


@dataclass(frozen=True, slots=True)
class Installed:
    """A policy that can be named: `origin` is the distribution it came with, and its version."""

    name: str
    origin: str
    points_at: str


def installed() -> tuple[Installed, ...]:
    """List the policies that are installed, by name; none of them is loaded."""
    found = (Installed(point.name, _origin(point), point.value) for point in _points())
    return tuple(sorted(found, key=lambda policy: (policy.name, policy.origin)))


def load_policy(name: str, params: Mapping[str, object]) -> Policy:
    """Build the named policy; no other plug-in is imported.

    `name` is an entry point's, or `module:object` for a PolicySpec that no distribution declares.
    Raises ConfigError naming what is wrong and the fix: an unknown name, a plug-in that does not
    import, another API version, a misspelt or out-of-range parameter.
    """
    spec = load_spec(name)
    try:
        checked = spec.params.model_validate(dict(params))
    except ValidationError as error:
        raise ConfigError(_parameter_message(name, spec.params, error)) from error
    try:
        policy = spec.build(checked)
    except Exception as error:
        raise ConfigError(f"policy {name!r} could not be built: {_told(error)}") from error
    decide = getattr(policy, "decide", None)
    if not callable(decide) or inspect.iscoroutinefunction(decide):
        raise ConfigError(
            f"policy {name!r} built a {type(policy).__name__}, which has no plain method decide()"
        )
    return policy


def load_spec(name: str) -> PolicySpec:
    """Load what a policy's name points at; raises ConfigError as `load_policy` does."""
    try:
        spec = _imported(name) if ":" in name else _point(name).load()
    except ConfigError:
        raise
    # A plug-in's module may raise anything, SystemExit included, and must not end the daemon so.
    except (Exception, SystemExit) as error:
        raise ConfigError(f"policy {name!r} cannot be loaded: {_told(error)}") from error
    if not isinstance(spec, PolicySpec):
        raise ConfigError(
            f"policy {name!r} points at a {type(spec).__name__}; it must be a "
            f"pd_autoscaler.policies.contract.PolicySpec"
        )
    if spec.api_version != API_VERSION:
        raise ConfigError(
            f"policy {name!r} was written for policy API {spec.api_version}, this is "
            f"{API_VERSION}; install a version of it that fits"
        )
    declared: object = spec.params
    if not (isinstance(declared, type) and issubclass(declared, Params)):
        raise ConfigError(f"policy {name!r}: its params are not a subclass of contract.Params")
    return spec


def _points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "unknown distribution"


def _point(name: str) -> EntryPoint:
    points = [point for point in _points() if point.name == name]
    if len({point.value for point in points}) > 1:
        origins = ", ".join(sorted(f"{_origin(p)} ({p.value})" for p in points))
        raise ConfigError(
            f"policy {name!r} is declared more than once: {origins}; name the one that is meant "
            f"as module:object"
        )
    if points:
        return points[0]
    names = sorted({point.name for point in _points()})
    raise ConfigError(
        f"no policy {name!r}{_meant(name, names)}; installed: {', '.join(names) or 'none'}"
    )


def _imported(name: str) -> object:
    module, _, attribute = name.partition(":")
    found: object = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def _parameter_message(name: str, params: type[Params], error: ValidationError) -> str:
    known = list(params.model_fields)
    told = []
    for problem in error.errors(include_url=False):
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            offer = _meant(where, known) or f" (there are: {', '.join(known) or 'none'})"
            told.append(f"no parameter {where!r}{offer}")
        elif where:
            told.append(f"{where} = {problem['input']!r}: {problem['msg']}")
        else:
            told.append(problem["msg"])
    return f"policy {name!r}: {'; '.join(told)}"


def _meant(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
