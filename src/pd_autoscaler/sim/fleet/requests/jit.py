"""Compiling: functions that run as machine code, and the same code as plain Python."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])

SOURCES = hashlib.blake2b(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))),
    digest_size=8,
).hexdigest()
"""Digest of this package's sources.

numba keeps machine code by the types of the arguments and does not notice that a function which
was called has changed; so a type carries this digest (`state.FLEET`).
"""

_OPTIONS: Any = {
    "error_model": "numpy",
    # Nothing here allocates: counting references to the arrays would take half of the time.
    "_nrt": False,
}


def jitted(function: F) -> F:
    """Compile a function together with whatever calls it."""
    compiled: F = njit(**_OPTIONS)(function)
    return compiled


def inlined(function: F) -> F:
    """Compile a function into its callers: on the way of every request a call costs too much.

    A `State` is a hundred words, which a call would copy.
    """
    compiled: F = njit(forceinline=True, **_OPTIONS)(function)
    return compiled


def entry(function: F) -> F:
    """Compile a function that Python calls, and keep its machine code for the next process.

    One of its arguments must be a `State`, so that other sources make other machine code.
    """
    compiled: F = njit(cache=True, **_OPTIONS)(function)
    return compiled


def plain(function: F) -> F:
    """Return a compiled function as Python that calls nothing compiled: its twin."""
    twin: F = _plain(function, {})
    return twin


def _plain(function: Any, made: dict[int, Any]) -> Any:
    if id(function) not in made:
        code = function.py_func
        names = dict(code.__globals__)
        made[id(function)] = FunctionType(code.__code__, names, code.__name__, code.__defaults__)
        for name in code.__code__.co_names:
            if hasattr(names.get(name), "py_func"):
                names[name] = _plain(names[name], made)
    return made[id(function)]
