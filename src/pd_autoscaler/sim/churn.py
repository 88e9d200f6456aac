"""Churn: how restless a target was, and how far the fleet was from what was needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.sim.records import Change, Sample
from pd_autoscaler.sim.staffing import Staffing

REVERSAL_S = 600.0
"""A role's target that turns within this many seconds has reversed."""
_UNBILLED = {NodeState.STANDBY, NodeState.GONE}


def reversals(changes: Sequence[Change], *, within_s: float = REVERSAL_S) -> int:
    """Count the moves of one role's target that undo the move before, soon after it."""
    found = 0
    for role in Role:
        moves = [
            (change.at_s, change.after.of(role) - change.before.of(role))
            for change in changes
            if change.after.of(role) != change.before.of(role)
        ]
        found += sum(
            (before > 0) is not (after > 0) and at_s - before_s <= within_s
            for (before_s, before), (at_s, after) in pairwise(moves)
        )
    return found


@dataclass(frozen=True, slots=True)
class Distance:
    """How a run's nodes compared with what was needed, over its samples.

    `overshoot_max` and `overshoot_mean` are nodes too many as a part of those needed (0 where there
    were fewer), `short_share` the part of samples with too few serving nodes of either role, and
    `imbalance` the mean of |prompt nodes / needed - decoders / needed|.
    """

    overshoot_max: float
    overshoot_mean: float
    short_share: float
    imbalance: float


def distance(samples: Sequence[Sample], needed: Staffing, *, warmup_s: float) -> Distance | None:
    """Compare billed and serving nodes with those needed; None without a sample to compare."""
    seen = [sample for sample in samples if sample.at_s >= warmup_s]
    if not seen:
        return None
    over, short, apart = [], 0, 0.0
    for sample in seen:
        wanted = needed.at(sample.at_s)
        billed = sum(n for (_, state), n in sample.nodes.items() if state not in _UNBILLED)
        over.append(max(billed / max(wanted.total, 1) - 1, 0.0))
        parts = [sample.count(role, NodeState.SERVING) / max(wanted.of(role), 1) for role in Role]
        short += any(sample.count(role, NodeState.SERVING) < wanted.of(role) for role in Role)
        apart += abs(parts[0] - parts[1])
    count = len(seen)
    return Distance(max(over), sum(over) / count, short / count, apart / count)
