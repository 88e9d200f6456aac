"""Whether a role misses its latency target in a way that more nodes would cure."""

from pd_autoscaler.model.node import Role
from pd_autoscaler.model.snapshot import Bottleneck, Snapshot
from pd_autoscaler.policies.slo_params import SloParams
from pd_autoscaler.policies.slo_seen import Seen, number

_WAIT_SHARE = 0.25
"""Part of the TTFT target that waits may take; above, a late first token is the queue's doing."""
_PREEMPTED_SHARE = 0.01
"""Part of requests that may be preempted for want of KV before decoders are short."""


def missed(snapshot: Snapshot, role: Role, params: SloParams, seen: Seen) -> str:
    """Say how a role misses its target for want of nodes; empty if it does not."""
    if snapshot.is_fault_elsewhere(role) or snapshot.attribution.bottleneck is Bottleneck.UNKNOWN:
        return ""
    requests_per_s = seen.requests_per_s or 0.0
    if role is Role.PROMPT:
        return _prompts_wait(snapshot, params, requests_per_s)
    return _decoders_full(snapshot, params, requests_per_s)


def _prompts_wait(snapshot: Snapshot, params: SloParams, requests_per_s: float) -> str:
    """A late first token that did not wait is a long prompt's: no node more would help it."""
    prompt = snapshot.prompt
    ttft_s = number(prompt.ttft_p95_s)
    if ttft_s is None or ttft_s <= params.ttft_s:
        return ""
    wait_s = number(prompt.queue_time_p95_s)
    if wait_s is None:
        # Little's law.
        wait_s = (number(prompt.queue) or 0.0) / requests_per_s if requests_per_s else 0.0
    if wait_s <= _WAIT_SHARE * params.ttft_s:
        return ""
    return f"TTFT p95 {ttft_s:.3g} s above {params.ttft_s:g} s"


def _decoders_full(snapshot: Snapshot, params: SloParams, requests_per_s: float) -> str:
    decoder = snapshot.decoder
    tpot_s = number(decoder.tpot_p95_s)
    if tpot_s is not None and tpot_s > params.tpot_s:
        return f"TPOT p95 {tpot_s:.3g} s above {params.tpot_s:g} s"
    preempted = number(decoder.preempt_rate) or 0.0
    if preempted > _PREEMPTED_SHARE * requests_per_s:
        return f"{preempted:.2g} requests preempted a second"
    queue = number(decoder.queue) or 0.0
    if queue > _WAIT_SHARE * params.ttft_s * requests_per_s and queue >= 1:
        return f"{queue:.0f} requests wait for room"
    return ""
