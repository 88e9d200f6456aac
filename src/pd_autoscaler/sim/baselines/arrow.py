"""arrow: nodes change their role at a fixed total, as in Arrow and in JD's xLLM service.

Source: jd-opensource/xllm-service `instance_mgr`. A decoder with no request left becomes a prompt
node while another decoder remains; a prompt node becomes a decoder when no decoder meets the TPOT
target and either prompts take less than TTFT * (P - 1) / P on average or there are fewer decoders
than prompt nodes. Arrow lets a prompt node flip only after a cooldown, a decoder at once.

Deviations: decided once a cycle, not with each request; a flip takes as long as the fleet's role
switch does, not an instant; the mean prefill is read by Little's law, a decoder's next TPOT from
its batch and KV use with one request more.
"""

from pydantic import Field

from pd_autoscaler.engine_model.profile import DEMO, EngineProfile
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import NodeSignals
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.contract import Params, PolicySpec
from pd_autoscaler.policies.premises import fresh_signals
from pd_autoscaler.sim.baselines.seen import is_moving, value


class ArrowParams(Params):
    """Targets and the profiled engine."""

    engine: EngineProfile = DEMO
    """What one node does."""
    ttft_s: float = Field(default=1.0, gt=0)
    """Target of the first token."""
    tpot_s: float = Field(default=0.050, gt=0)
    """Target of each later token."""
    cooldown_s: float = Field(default=0.0, ge=0)
    """Seconds after a flip in which no prompt node becomes a decoder; xLLM has none."""


class Arrow:
    """Flips one node a cycle; the total never changes."""

    def __init__(self, params: ArrowParams) -> None:
        self._params = params
        self._flipped_at_s: float | None = None

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return the standing counts, or those after a flip."""
        standing = snapshot.target
        if is_moving(snapshot):
            return Hold(HoldReason.POLICY_HELD, "a node is on its way")
        decoders = fresh_signals(snapshot, Role.DECODER)
        if not decoders:
            return Hold(HoldReason.NO_METRICS, "no decoder is seen")
        if standing.decoder > 1 and any(_is_idle(decoder) for decoder in decoders):
            return self._flip(snapshot, -1, "a decoder has no requests")
        steps_s = [self._step_s(decoder) for decoder in decoders]
        known = [seconds for seconds in steps_s if seconds is not None]
        if not known:
            return Hold(HoldReason.NO_METRICS, "no decoder says its batch and KV use")
        if standing.prompt > 1 and min(known) > self._params.tpot_s:
            return self._more_decoders(snapshot, min(known))
        return Target(standing.prompt, standing.decoder, f"TPOT {1000 * min(known):.0f} ms")

    def _more_decoders(self, snapshot: Snapshot, step_s: float) -> Decision:
        params, standing = self._params, snapshot.target
        shown = f"no decoder is below {1000 * step_s:.0f} ms"
        if self._is_cooling(snapshot.now_s):
            return Hold(HoldReason.COOLDOWN, shown)
        prefill_s = _mean_prefill_s(snapshot)
        spare_s = params.ttft_s * (standing.prompt - 1) / standing.prompt
        if standing.decoder < standing.prompt or (prefill_s is not None and prefill_s < spare_s):
            return self._flip(snapshot, +1, shown)
        return Target(standing.prompt, standing.decoder, f"{shown}; prompts have no time to spare")

    def _flip(self, snapshot: Snapshot, decoders: int, why: str) -> Target:
        self._flipped_at_s = snapshot.now_s
        standing = snapshot.target
        return Target(standing.prompt - decoders, standing.decoder + decoders, why)

    def _is_cooling(self, now_s: float) -> bool:
        last_s = self._flipped_at_s
        return last_s is not None and last_s <= now_s < last_s + self._params.cooldown_s

    def _step_s(self, decoder: NodeSignals) -> float | None:
        """Return a decoder's step with one request more, infinite where that would have to wait."""
        engine = self._params.engine
        running, kv_used = value(decoder.running), value(decoder.kv_used)
        if running is None or kv_used is None:
            return None
        if value(decoder.queue):
            return float("inf")
        each = min(kv_used, 1.0) * engine.kv_tokens / max(running, 1.0)
        return engine.decode_step_s(int(running) + 1, int(each * (running + 1)))


def _is_idle(decoder: NodeSignals) -> bool:
    waits = (value(decoder.queue), value(decoder.transfer_wait))
    return value(decoder.running) == 0 and not any(waits)


def _mean_prefill_s(snapshot: Snapshot) -> float | None:
    queue, running = value(snapshot.prompt.queue), value(snapshot.prompt.running)
    rate = value(snapshot.prompt.arrival_rate, snapshot.demand.requests_per_s)
    if queue is None or running is None or rate is None:
        return None
    return (queue + running) / rate if rate else 0.0


SPEC = PolicySpec(params=ArrowParams, build=Arrow)
