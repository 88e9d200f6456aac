"""A policy that an external service decides: what it answered comes with the snapshot, aged.

An adapter shows the advisor each cycle's snapshot and keeps its newest answer (settings `advisor`);
here nobody waits for it.
"""

from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.contract import Params, PolicySpec


class HttpParams(Params):
    """It has none: where the advisor is, and how old its answer may be, are settings."""


class Http:
    """Asks for what the advisor answered, and holds where there is no answer or an old one."""

    def __init__(self, params: HttpParams) -> None:
        del params

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return the advisor's target, or a refusal that says why there is none."""
        advice = snapshot.advice
        if advice is None:
            return Hold(HoldReason.POLICY_HELD, "the advisor (advisor.url) has given no answer")
        if not advice.is_fresh:
            told = f"the advisor's newest answer is {advice.age_s:.0f} s old (advisor.age_max_s)"
            return Hold(HoldReason.POLICY_HELD, told)
        return Target(advice.prompt, advice.decoder, advice.why or "the advisor asks for it")


SPEC = PolicySpec(params=HttpParams, build=Http)
