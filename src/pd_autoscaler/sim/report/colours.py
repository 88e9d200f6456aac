"""Colours of a report: one look per policy, one hue per role, told apart by colour-blind eyes too.

The colours of policies are Paul Tol's muted scheme (personal.sr.on.nl/~pault, version 3.2 of its
note); the roles have the blue and the orange of Okabe and Ito, which no policy has.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pd_autoscaler.model.node import NodeState, Role

_MUTED = (
    "#332288",
    "#CC6677",
    "#117733",
    "#AA4499",
    "#44AA99",
    "#882255",
    "#999933",
    "#88CCEE",
    "#DDCC77",
)
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")

TEXT = "#1c2330"
DIM = "#5b6472"
LINE = "#d9dee5"
TARGET = "#111111"
LIMIT = "#b3261e"

ROLES = {Role.PROMPT: "#0072B2", Role.DECODER: "#D55E00"}


@dataclass(frozen=True, slots=True)
class Look:
    """How a policy is drawn wherever it appears."""

    colour: str
    symbol: str


def looks(policies: Iterable[str]) -> dict[str, Look]:
    """Return a look of its own for each policy, in order of appearance."""
    names = list(dict.fromkeys(policies))
    return {
        name: Look(_MUTED[number % len(_MUTED)], _SYMBOLS[number // len(_MUTED) % len(_SYMBOLS)])
        for number, name in enumerate(names)
    }


@dataclass(frozen=True, slots=True)
class Layer:
    """One area of the nodes of a role: the states it sums, and its fill."""

    name: str
    states: tuple[NodeState, ...]
    opacity: float
    pattern: str = ""


LAYERS = (
    Layer("serving", (NodeState.SERVING,), 0.75),
    Layer("linking", (NodeState.LINKING, NodeState.SWITCHING), 0.45),
    Layer("starting", (NodeState.STARTING, NodeState.INITIALISING), 0.2),
    Layer("leaving", (NodeState.DRAINING, NodeState.UNLINKING, NodeState.STOPPING), 0.45, "/"),
    Layer("standby", (NodeState.STANDBY,), 0.15, "."),
    Layer("failed", (NodeState.FAILED,), 0.9, "x"),
)
"""From the bottom up; a node that is gone is not drawn."""


def faded(colour: str, opacity: float) -> str:
    """Return a colour of six hexadecimal digits over white, as if it let light through."""
    parts = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(255 - (255 - part) * opacity):02x}" for part in parts)
