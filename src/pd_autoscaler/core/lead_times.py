"""Lead times: how long nodes took to come and to go, measured from their moves."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

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
    """Measured seconds per phase (`start`, `init`, `link`, `drain`, `unlink`, `switch`)."""

    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    _relinking: frozenset[str] = frozenset()

    def percentiles(self) -> dict[str, LeadTime]:
        """Return median and 95th percentile of each phase that was ever measured."""
        return {
            phase: LeadTime(_percentile(taken, 0.50), _percentile(taken, 0.95), len(taken))
            for phase, taken in self.samples.items()
        }


def measured(memory: LeadTimes, moves: Iterable[Move]) -> LeadTimes:
    """Return the memory with the phases that these moves ended."""
    samples = dict(memory.samples)
    relinking = set(memory._relinking)  # noqa: SLF001  # The memory's other half.
    for move in moves:
        # A serving node that lost a link is repaired, which is not how long a new one takes.
        is_repair = move.before is _S.LINKING and move.node_id in relinking
        relinking.discard(move.node_id)
        if (move.before, move.after) == (_S.SERVING, _S.LINKING):
            relinking.add(move.node_id)
        phase, ends = _ENDS.get(move.before, ("", frozenset[NodeState]()))
        if move.after in ends and not is_repair:
            samples[phase] = (*samples.get(phase, ()), move.before_s)[-SAMPLES_MAX:]
    return LeadTimes(samples, frozenset(relinking))


def _percentile(taken: tuple[float, ...], q: float) -> float:
    return sorted(taken)[math.ceil(q * len(taken)) - 1]
