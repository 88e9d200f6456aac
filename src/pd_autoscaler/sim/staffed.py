"""Staffed: requests through a fleet that follows a staffing at once, for the oracle."""

import math

import numpy as np

from pd_autoscaler.engine_model.profile import EngineProfile
from pd_autoscaler.model.node import Role
from pd_autoscaler.sim.attainment import verdicts
from pd_autoscaler.sim.fleet.requests.fleet import RequestFleet
from pd_autoscaler.sim.oracle import Served, Simulated
from pd_autoscaler.sim.records import RequestLog, Slo
from pd_autoscaler.sim.staffing import Staffing
from pd_autoscaler.workload.arrivals import Arrivals


def staffed(
    arrivals: Arrivals,
    profile: EngineProfile,
    slo: Slo,
    *,
    patience_s: float = math.inf,
    is_chunked: bool = False,
) -> Simulated:
    """Return a simulation of staffings in which nodes come at once and leave at no cost.

    A node that is not wanted any more gets nothing new and ends what it has, unpaid; the idlest one
    goes first, and is the first to come back.
    """

    def served(staffing: Staffing) -> Served:
        fleet = RequestFleet(profile, patience_s=patience_s, is_chunked=is_chunked)
        fleet.offer(arrivals)
        pools = {role: _Pool(fleet, role) for role in Role}
        for at_s, target in staffing.changes():
            fleet.advance(at_s)
            for role, pool in pools.items():
                pool.resize(target.of(role))
        log = _ended(fleet, arrivals, slo)
        judged = verdicts(log, slo, lasted_s=math.inf)
        slots = len(staffing)
        slot = np.minimum(arrivals.at_s // staffing.slot_s, slots - 1).astype(np.int64)
        in_time = slot[judged.both]
        return Served(
            *(np.bincount(of, minlength=slots).astype(np.float64) for of in (slot, in_time))
        )

    return served


def lasting_slots(arrivals: Arrivals, slo: Slo, slot_s: float) -> int:
    """Return the slots that nine of ten requests last at most when they are just in time."""
    if not len(arrivals):
        return 1
    output = float(np.quantile(arrivals.output_tokens, 0.9))
    return max(1, math.ceil((slo.ttft_s + output * slo.tpot_s) / slot_s))


def _ended(fleet: RequestFleet, arrivals: Arrivals, slo: Slo) -> RequestLog:
    """Let the fleet run until all that could be in time is."""
    due_s = arrivals.at_s + slo.ttft_s + slo.tpot_s * arrivals.output_tokens
    fleet.advance(float(due_s.max(initial=0.0)) + 1.0)
    return RequestLog(arrivals, fleet.first_token_s, fleet.done_s)


class _Pool:
    """The nodes of one role, published or waiting to be again."""

    def __init__(self, fleet: RequestFleet, role: Role) -> None:
        self._fleet = fleet
        self._role = role
        self._published: list[int] = []
        self._spare: list[int] = []

    def resize(self, count: int) -> None:
        """Publish or withdraw nodes at once until so many are published."""
        while len(self._published) < count:
            slot = self._spare.pop() if self._spare else self._fleet.add(self._role)
            self._fleet.publish(slot)
            self._published.append(slot)
        if len(self._published) > count:
            busy = {slot: self._fleet.load(slot).in_flight for slot in self._published}
            self._published.sort(key=lambda slot: (-busy[slot], slot))
            leaving = self._published[count:]
            del self._published[count:]
            for slot in leaving:
                self._fleet.withdraw(slot)
            self._spare += leaving
