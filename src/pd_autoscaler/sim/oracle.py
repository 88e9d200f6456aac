"""The oracle: the cheapest staffing found with perfect knowledge and nodes that come at once.

Iterative staffing (Feldman, Mandelbaum, Massey and Whitt, "Staffing of time-varying queues to
achieve time-stable performance", 2008): simulate, raise what is short and lower what is not, slot
by slot, until every window meets the target and no role of any slot can spare a node. What comes of
it is a local optimum: nothing says that no cheaper staffing exists.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pd_autoscaler.model.node import Role
from pd_autoscaler.sim.attainment import Bools
from pd_autoscaler.sim.bounds import Need, fluid_bound
from pd_autoscaler.sim.records import Floats
from pd_autoscaler.sim.score import TARGET
from pd_autoscaler.sim.staffing import Staffing

Counts = NDArray[np.int64]

JUDGED_SLOTS = 5
"""Slots whose requests are judged together: the 5 minutes of the worst window."""
AMPLE_UTILISATION = 0.25
PLENTY_UTILISATION = 0.5
"""Ample nodes are four times the fluid's need, and more; plenty of them twice, and more."""
SPARE_NODES = 2
"""The more: nodes of each role beside that."""
PASSES = ((0.4, True), (0.2, True), (0.1, True), (0.0, False), (0.0, False), (0.0, False))
"""Parts of a count by which it is lowered, one node at the least, and whether stretches of slots
are, or single ones far from each other.
"""
RAISES_MAX = 10
"""Rounds in which nodes are added where they are short."""
REPAIRS_MAX = 3
"""Times that what a step broke is put back before the whole step is."""


@dataclass(frozen=True, slots=True)
class Served:
    """Requests by the slot in which they arrived: offered, and in time for both targets."""

    offered: Floats
    in_time: Floats


Simulated = Callable[[Staffing], Served]
"""Plays a staffing and says how the requests of each slot fared."""


@dataclass(frozen=True, slots=True)
class Oracle:
    """A staffing with its attainment, and how many runs it took to find.

    `is_at_target` says whether ample nodes met the target in every window. Where they do not, as
    with prompts that take longer to compute than the target, what plenty of nodes attain is wanted,
    less half of the misses that the target allows: past that, nodes by the dozen gain little.
    """

    staffing: Staffing
    attainment: float
    is_at_target: bool
    runs: int


def oracle(
    simulated: Simulated,
    need: Need,
    *,
    target: float = TARGET,
    lasting_slots: int = 1,
    runs_max: int = 120,
) -> Oracle:
    """Search the cheapest staffing, beginning at the fluid's need at 0.8 utilisation.

    `lasting_slots` is for how many slots after its arrival a request is still being served. The
    same simulation gives the same oracle. It stops at `runs_max` with the best so far.
    """
    search = _Search(simulated, need, target, lasting_slots, runs_max)
    search.raise_up()
    for step in search.steps():
        search.lower(*step)
    return search.found()


class _Search:
    """The staffing so far, which meets the target, and what is known of its slots."""

    def __init__(
        self, simulated: Simulated, need: Need, target: float, lasting_slots: int, runs_max: int
    ) -> None:
        self._simulated = simulated
        self._slot_s = need.slot_s
        self._ahead = {Role.PROMPT: 1, Role.DECODER: max(lasting_slots, 1)}
        self._runs_left = self._runs_max = runs_max
        self._counts = _columns(fluid_bound(need))
        self._ample = _more(need, AMPLE_UTILISATION)
        self._most = self._served = self._run(self._ample)
        plenty = self._run(_more(need, PLENTY_UTILISATION))
        self._tight = np.zeros(len(need.prompt), bool)
        offered = _windows(self._most.offered)
        can = _windows(self._most.in_time) >= target * offered - 1e-6
        self._is_at_target = bool(can.all())
        reached = _windows(np.minimum(plenty.in_time, self._most.in_time))
        least = np.minimum(reached - (1 - target) / 2 * offered, target * offered)
        self._wanted: Floats = np.where(can, target * offered, least)

    def found(self) -> Oracle:
        """Return the staffing as it is now."""
        served, offered = self._served.in_time.sum(), self._served.offered.sum()
        return Oracle(
            self._staffing(self._counts),
            float(served / offered) if offered else 1.0,
            self._is_at_target,
            self._runs_max - self._runs_left,
        )

    def raise_up(self) -> None:
        """Add nodes of both roles where windows are short, until none is; then give ample ones."""
        for reach in range(RAISES_MAX):
            self._served = self._run(self._counts)
            short = self._short(self._served)
            if not short.any():
                return
            lost = short & (self._served.in_time < self._most.in_time)
            # What is still short after some rounds may be short of what came before it.
            blamed = _widened(lost, before=2 + reach, after=self._ahead[Role.DECODER])
            for role in Role:
                counts, most = self._counts[role], self._ample[role]
                more = np.minimum(counts + 1 + counts // 5, np.maximum(most, counts))
                counts[blamed] = more[blamed]
        self._counts, self._served = self._ample, self._most

    def steps(self) -> Iterator[tuple[Role, Bools, float]]:
        """Yield which role to lower, in which slots, and by what part, until no runs are left.

        Slots between those lowered at once stay as they are, so that what breaks can be told apart.
        """
        slots = np.arange(len(self._tight))
        for share, is_wide in PASSES:
            for role in (Role.DECODER, Role.PROMPT):
                apart = self._ahead[role] + JUDGED_SLOTS
                groups = (slots // apart) % 2 if is_wide else slots % apart
                for group in range(groups.max(initial=0) + 1):
                    self._tight[:] = False
                    while self._runs_left:
                        chosen = (groups == group) & ~self._tight & (self._counts[role] > 1)
                        if not chosen.any():
                            break
                        yield role, chosen, share

    def lower(self, role: Role, chosen: Bools, share: float) -> None:
        """Lower a role in these slots, and put back, for good in this pass, where that is short."""
        before = self._counts[role]
        lowered = before.copy()
        step = np.maximum((before * share).astype(np.int64), 1)
        lowered[chosen] = np.maximum(before - step, 1)[chosen]
        for _ in range(REPAIRS_MAX + 1):
            if not self._runs_left or np.array_equal(lowered, before):
                break
            served = self._run({**self._counts, role: lowered})
            short = self._short(served)
            if not short.any():
                self._counts = {**self._counts, role: lowered}
                self._served = served
                return
            lost = short & (served.in_time < self._served.in_time)
            blamed = _widened(lost, before=2, after=self._ahead[role])
            self._tight |= blamed & chosen
            lowered = np.where(blamed, before, lowered)
        self._tight |= chosen

    def _short(self, served: Served) -> Bools:
        """Whether the window around each slot has too few requests in time."""
        short: Bools = _windows(served.in_time) < self._wanted - 1e-6
        return short

    def _run(self, counts: dict[Role, Counts]) -> Served:
        self._runs_left -= 1
        return self._simulated(self._staffing(counts))

    def _staffing(self, counts: dict[Role, Counts]) -> Staffing:
        prompt, decoder = (tuple(int(count) for count in counts[role]) for role in Role)
        return Staffing(self._slot_s, prompt, decoder)


def _more(need: Need, utilisation: float) -> dict[Role, Counts]:
    columns = _columns(fluid_bound(need, utilisation=utilisation))
    return {role: counts + SPARE_NODES for role, counts in columns.items()}


def _columns(staffing: Staffing) -> dict[Role, Counts]:
    return {
        Role.PROMPT: np.array(staffing.prompt, np.int64),
        Role.DECODER: np.array(staffing.decoder, np.int64),
    }


def _windows(values: Floats) -> Floats:
    """Sum the slots around each slot."""
    half = JUDGED_SLOTS // 2
    sums = np.concatenate(([0.0], np.cumsum(values)))
    slots = np.arange(len(values))
    last = np.minimum(slots + half + 1, len(values))
    found: Floats = sums[last] - sums[np.maximum(slots - half, 0)]
    return found


def _widened(marked: Bools, *, before: int, after: int) -> Bools:
    """Mark slots from so many before a marked one to so many after it."""
    edges = np.zeros(len(marked) + 1, np.int64)
    at = np.flatnonzero(marked)
    np.add.at(edges, np.maximum(at - before, 0), 1)
    np.add.at(edges, np.minimum(at + after + 1, len(marked)), -1)
    wide: Bools = np.cumsum(edges[:-1]) > 0
    return wide
