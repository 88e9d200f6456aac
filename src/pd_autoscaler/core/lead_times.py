"""Lead times: how long nodes took to come and to go, measured from their moves."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from pd_autoscaler.model.node import NodeState
from pd_autoscaler.model.report import Move
from pd_autoscaler.model.snapshot import LeadTime

_S = NodeState

# Only a phase that ended as it should is measured: a failure's length is a time-out's.
_ENDS: Mapping[NodeState, tuple[str, frozenset[NodeState]]] = {
    _S.STARTING: ("start", frozenset({_S.INITIALISING, _S.LINKING})),
    _S.INITIALISING: ("init", frozenset({_S.LINKING})),
    _S.LINKING: ("link", frozenset({_S.SERVING})),
    _S.DRAINING: ("drain", frozenset({_S.UNLINKING})),
    _S.UNLINKING: ("unlink", frozenset({_S.STOPPING, _S.STANDBY, _S.SWITCHING})),
    _S.SWITCHING: ("switch", frozenset({_S.LINKING})),
}

SAMPLES_MAX = 50
"""Newest durations kept per phase: enough for a 95th percentile, few enough to follow a change."""


@dataclass(frozen=True, slots=True)
class LeadTimes:
    """Measured seconds per phase (`start`, `init`, `link`, `drain`, `unlink`, `switch`).

    `_returning` are nodes on a way to serving that is not a new one's.
    """

    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    _returning: frozenset[str] = frozenset()

    def percentiles(self) -> dict[str, LeadTime]:
        """Return median and 95th percentile of each phase that was ever measured."""
        return {phase: _lead_time(taken) for phase, taken in self.samples.items()}


def measured(memory: LeadTimes, moves: Iterable[Move]) -> LeadTimes:
    """Return the memory with the phases that these moves ended."""
    samples = dict(memory.samples)
    returning = set(memory._returning)  # noqa: SLF001  # The memory's other half.
    for move in moves:
        # A serving node that lost a link is repaired, and one that was found running when the
        # controller began passes its first states at once: neither is how long a new one takes.
        is_found = move.before is _S.STARTING and move.before_s <= 0
        if is_found or (move.before, move.after) == (_S.SERVING, _S.LINKING):
            returning.add(move.node_id)
        phase, ends = _ENDS.get(move.before, ("", frozenset[NodeState]()))
        if move.after in ends and move.node_id not in returning:
            samples[phase] = (*samples.get(phase, ()), move.before_s)[-SAMPLES_MAX:]
        if move.after not in {_S.INITIALISING, _S.LINKING}:
            returning.discard(move.node_id)
    return LeadTimes(samples, frozenset(returning))


@lru_cache(maxsize=64)
def _lead_time(taken: tuple[float, ...]) -> LeadTime:
    return LeadTime(_percentile(taken, 0.50), _percentile(taken, 0.95), len(taken))


def _percentile(taken: tuple[float, ...], q: float) -> float:
    return sorted(taken)[math.ceil(q * len(taken)) - 1]
