"""A policy that goes wrong now and then, around one that does not."""

from typing import Any, cast

from pd_autoscaler.model.decision import Decision, Target
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.contract import Policy
from pd_autoscaler.sim.faults import CallFault, Faults


class Faulty:
    """Raises, or answers with what no policy may answer, when a fault strikes."""

    def __init__(self, inner: Policy, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return the inner policy's decision, or something worse."""
        if self._faults.strikes(CallFault.POLICY_RAISES):
            raise ZeroDivisionError("a fault of the policy")
        if self._faults.strikes(CallFault.POLICY_NONSENSE):
            nonsense: list[Any] = [
                None,
                "4P:2D",
                Target(-3, 0),
                Target(10**9, 10**9),
                Target(cast("int", 2.5), 1),
                Target(0, 0),
            ]
            return cast("Decision", self._faults.stream("nonsense").choice(nonsense))
        return self._inner.decide(snapshot)
