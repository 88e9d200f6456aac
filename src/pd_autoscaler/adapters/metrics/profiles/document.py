"""Documents: a YAML file as data, with the line of every value in it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pd_autoscaler.errors import ConfigError

Place = tuple[str | int, ...]

SIZE_MAX_BYTES = 1_000_000
DEPTH_MAX = 20
PLACES_MAX = 20_000


class Document(NamedTuple):
    """What a file holds, and where."""

    path: Path
    data: dict[str, Any]
    lines: Mapping[Place, int]

    def at(self, place: Sequence[str | int]) -> str:
        """Return the file and line of the innermost part of a place that stands in the file."""
        for length in range(len(place), 0, -1):
            if tuple(place[:length]) in self.lines:
                return f"{self.path}:{self.lines[tuple(place[:length])]}"
        return str(self.path)


def document(path: Path) -> Document:
    """Read a file; raises ConfigError if it is missing, not YAML, or names a thing twice."""
    try:
        with path.open("rb") as file:
            raw = file.read(SIZE_MAX_BYTES + 1)
        if len(raw) > SIZE_MAX_BYTES:
            raise ConfigError(f"{path} is larger than {SIZE_MAX_BYTES} bytes")
        node = yaml.compose(raw.decode("utf-8"), Loader=yaml.SafeLoader)
        lines: dict[Place, int] = {}
        data = None if node is None else _plain(node, (), lines, path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: byte {error.start} is wrong") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = "" if mark is None else f":{mark.line + 1}"
        raise ConfigError(f"{path}{at}: not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = (str(error) or "nested too deeply").splitlines()[0]
        raise ConfigError(f"{path} is not YAML: {first}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}:1: must hold names such as `name:` and `prompt:`, not {data!r}")
    return Document(path, data, lines)


def _plain(node: yaml.Node, place: Place, lines: dict[Place, int], path: Path) -> Any:
    """Return a node's value; notes the line of everything in it."""
    line = node.start_mark.line + 1
    lines.setdefault(place, line)
    # Aliases let a short file be a deep or a wide one.
    if len(place) > DEPTH_MAX or len(lines) > PLACES_MAX:
        raise ConfigError(f"{path}:{line}: more than {DEPTH_MAX} deep, or {PLACES_MAX} values")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*place, at), lines, path) for at, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        plain: dict[str, Any] = {}
        for key, item in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in plain:
                raise ConfigError(
                    f"{path}:{line}: {name} is here again (line {lines[(*place, name)]})"
                )
            lines[(*place, name)] = line
            plain[name] = _plain(item, (*place, name), lines, path)
        return plain
    return yaml.SafeLoader("").construct_object(node)
