"""aibrix-apa: AIBrix's pod autoscaler, two of them that know nothing of each other.

Source: vllm-project/aibrix `apa`: r = metric / target; above 1 + tolerance the count becomes
ceil(N * r), at most twice as many; below 1 - tolerance ceil(N * r), at least half as many; a role
shrinks 300 s after its last need at the soonest. As TokenScale sets it up, prompt nodes are scaled
by concurrency and decoders by KV use.

Deviation: of the recommendations in the scale-down window the most counts, as in Kubernetes.
"""

from collections import deque

from pydantic import Field

from pd_autoscaler.model.decision import Decision, Hold, HoldReason
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.contract import Params, PolicySpec
from pd_autoscaler.sim.baselines.seen import count, fitted, value


class ApaParams(Params):
    """Targets a node, and AIBrix's defaults."""

    concurrency: float = Field(default=4.0, gt=0)
    """Requests, queued or running, that a prompt node should have."""
    kv_used: float = Field(default=0.7, gt=0, le=1)
    """KV use that a decoder should have."""
    tolerance_up: float = Field(default=0.1, ge=0)
    """Excess over the target that is borne."""
    tolerance_down: float = Field(default=0.1, ge=0, lt=1)
    """Shortfall that is borne."""
    factor_max: float = Field(default=2.0, gt=1)
    """Most times as many, or as few, nodes at once."""
    down_window_s: float = Field(default=300.0, ge=0)
    """Seconds whose most counts when a role shrinks."""


class Apa:
    """Scales each role in proportion to its metric."""

    def __init__(self, params: ApaParams) -> None:
        self._params = params
        self._asked: dict[Role, deque[tuple[float, int]]] = {role: deque() for role in Role}

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return the counts that the metrics of both roles ask for."""
        params = self._params
        queue, running = value(snapshot.prompt.queue), value(snapshot.prompt.running)
        kv_used = value(snapshot.decoder.kv_used_mean)
        if queue is None or running is None or kv_used is None:
            return Hold(HoldReason.NO_METRICS, "concurrency or KV use is unknown")
        if not snapshot.prompt.serving or not snapshot.decoder.serving:
            return Hold(HoldReason.NO_METRICS, "a role does not serve")
        ratios = {
            Role.PROMPT: (queue + running) / snapshot.prompt.serving / params.concurrency,
            Role.DECODER: kv_used / params.kv_used,
        }
        prompt, decoder = (self._count(snapshot, role, ratio) for role, ratio in ratios.items())
        why = ", ".join(f"{role} at {ratio:.2f} of its target" for role, ratio in ratios.items())
        return fitted(snapshot, prompt, decoder, why)

    def _count(self, snapshot: Snapshot, role: Role, ratio: float) -> int:
        params, now_s = self._params, snapshot.now_s
        # A metric of the nodes that serve says nothing of those that are coming.
        nodes, standing = snapshot.of(role).serving, snapshot.target.of(role)
        wanted: float = standing
        if ratio > 1 + params.tolerance_up:
            wanted = min(nodes * ratio, nodes * params.factor_max)
        elif ratio < 1 - params.tolerance_down:
            wanted = max(nodes * ratio, nodes // params.factor_max)
        asked = self._asked[role]
        asked.append((now_s, count(snapshot, role, wanted)))
        while asked and not now_s - params.down_window_s <= asked[0][0] <= now_s:
            asked.popleft()
        newest = asked[-1][1]
        most = max(rows for _, rows in asked)
        return newest if newest >= standing else min(most, standing)


SPEC = PolicySpec(params=ApaParams, build=Apa)
