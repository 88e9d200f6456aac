"""Records: what a simulated run leaves behind, for scores, tables and reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.workload.arrivals import Arrivals

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Slo:
    """A pair of latency targets in seconds, under a name: first token, and each token after it."""

    name: str
    ttft_s: float
    tpot_s: float


SLOS = (
    Slo("chat", 1.0, 0.050),
    Slo("long", 5.0, 0.100),
    Slo("relaxed", 30.0, 0.100),
)
"""The pairs that every score is reported for; relaxed is Mooncake's (FAST '25)."""


def slo_named(name: str) -> Slo:
    """Return the pair of targets that is called so; raises ConfigError that lists them all."""
    for slo in SLOS:
        if slo.name == name:
            return slo
    raise ConfigError(f"--slo {name!r} is not known: give {', '.join(slo.name for slo in SLOS)}")


@dataclass(frozen=True, slots=True)
class RequestLog:
    """How each request of a run went, a row each, in order of arrival.

    Times are seconds since the run began: `first_token_s` and `done_s` are NaN for what never came.
    The first token is the one that the decoder made, as the user sees it.
    """

    arrivals: Arrivals
    first_token_s: Floats
    done_s: Floats

    @property
    def ttft_s(self) -> Floats:
        """Seconds from arrival to the first token; NaN where none came."""
        return self.first_token_s - self.arrivals.at_s

    @property
    def tpot_s(self) -> Floats:
        """Mean seconds between the tokens after the first; 0 for a request of one token."""
        after = np.maximum(self.arrivals.output_tokens - 1, 1)
        return (self.done_s - self.first_token_s) / after


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One cycle of a run: the standing target, nodes by role and state, requests by place.

    `decision` is what the policy answered, in words, and `held` the reason if the guard or the
    policy held.
    """

    at_s: float
    target: Target
    nodes: Mapping[tuple[Role, NodeState], int]
    queue_prompt: int
    queue_decoder: int
    running_prompt: int
    running_decoder: int
    decision: str = ""
    held: str = ""

    def count(self, role: Role, *states: NodeState) -> int:
        """Count the nodes of a role in these states; in any state without them."""
        return sum(
            count
            for (of_role, state), count in self.nodes.items()
            if of_role is role and (not states or state in states)
        )


@dataclass(frozen=True, slots=True)
class Change:
    """The standing target moved: when, from what to what, and why in the policy's words."""

    at_s: float
    before: Target
    after: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of one policy over one scenario with one seed.

    `node_seconds` bills every node from the moment it was asked for until it was gone, by its last
    role; `lasted_s` is the simulated time that was billed. `cpu_s` is the processor time of
    the run.
    """

    scenario: str
    policy: str
    params: Mapping[str, object] = field(default_factory=dict)
    seed: int
    requests: RequestLog
    samples: tuple[Sample, ...] = ()
    changes: tuple[Change, ...] = ()
    node_seconds: Mapping[Role, float]
    lasted_s: float
    starts: int = 0
    stops: int = 0
    switches: int = 0
    link_calls: int = 0
    preemptions: int = 0
    holds: Mapping[str, int] = field(default_factory=dict)
    cpu_s: float = 0.0

    @property
    def node_hours(self) -> float:
        """Node-hours of both roles."""
        return sum(self.node_seconds.values()) / 3600.0
