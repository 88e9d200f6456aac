"""As many nodes of each role as the rate of requests asks for, at a known rate per node.

It suits a service whose requests are much alike: measure what one node of each role carries, and
say so in the parameters.
"""

from math import ceil, isfinite

from pydantic import Field

from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.contract import Params, PolicySpec


class RequestRateParams(Params):
    """What one node carries; a misspelt name or a value out of bounds is refused at the start."""

    prompt_per_s: float = Field(default=2.0, gt=0)
    """Requests a second that one prompt node computes within its latency."""
    decoder_per_s: float = Field(default=1.5, gt=0)
    """Requests a second that one decoder answers within its latency."""
    spare: float = Field(default=0.2, ge=0, lt=1)
    """Part of each node that is kept free."""
    slack_down: float = Field(default=0.15, ge=0)
    """By so much more the rate must still fit before a node goes, so that ripples move nothing."""


class RequestRate:
    """Sizes both roles for the rate at which requests enter."""

    def __init__(self, params: RequestRateParams) -> None:
        self._per_s = {Role.PROMPT: params.prompt_per_s, Role.DECODER: params.decoder_per_s}
        self._full = 1 - params.spare
        self._slack_down = params.slack_down

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return the counts that carry the rate of now, or say why nobody knows them."""
        rate = snapshot.prompt.arrival_rate
        if rate is None or not isfinite(rate.value) or rate.value < 0:
            # Unknown is not zero: refusing with a reason is an answer.
            return Hold(HoldReason.NO_METRICS, "no prompt node says how many requests arrive")
        counts = {role: self._count(role, rate.value, snapshot) for role in Role}
        why = f"{rate.value:.3g} requests/s arrive"
        return Target(counts[Role.PROMPT], counts[Role.DECODER], why)

    def _count(self, role: Role, per_s: float, snapshot: Snapshot) -> int:
        # From the standing target, not from what serves: a node that starts is not asked for twice.
        standing = snapshot.target.of(role)
        needed = self._nodes(role, per_s, snapshot)
        if needed >= standing:
            return needed
        return min(standing, self._nodes(role, per_s * (1 + self._slack_down), snapshot))

    def _nodes(self, role: Role, per_s: float, snapshot: Snapshot) -> int:
        most = snapshot.limits.max_of(role)
        needed = per_s / (self._per_s[role] * self._full)
        # Bounded before it is rounded: a rate may be absurd.
        return max(1, ceil(min(needed, float(most))))


SPEC = PolicySpec(params=RequestRateParams, build=RequestRate)
