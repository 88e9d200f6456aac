"""What `slo` believes of nodes: what one can do, how long one takes, and which are overdue."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pd_autoscaler.core.sizing import DecodeStep
from pd_autoscaler.model.capacity import NodeCapacity
from pd_autoscaler.model.node import COMING, Role
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.premises import fresh_signals
from pd_autoscaler.policies.slo_params import SloParams
from pd_autoscaler.policies.slo_seen import VALUE_MAX, Seen

EXPLORED = 3.0
"""Times the largest batch that was seen up to which the learnt step is believed."""
_PHASES = ("start", "init", "link")
_CONTEXT_MIN = 1.0


@dataclass(frozen=True, slots=True)
class DecoderNode:
    """The batch that one decoder is sized for, the step that takes, and what bounds the batch.

    `step_now_s` is the step of the batches that there are.
    """

    batch: float
    step_s: float
    step_now_s: float
    bound: str
    is_attainable: bool


def prefill_rate(snapshot: Snapshot) -> float | None:
    """Return the uncached tokens a second of a prompt node, None where that was not learnt."""
    rows = [
        (float(known.samples or 1), rate)
        for known in _of_engines(snapshot, Role.PROMPT)
        if (rate := known.prefill_tokens_per_s) is not None and 0 < rate <= VALUE_MAX
    ]
    return _mean(rows)


def decoder_node(
    snapshot: Snapshot, seen: Seen, params: SloParams, *, kv_room: float | None
) -> DecoderNode | None:
    """Return what a decoder is sized for, None where its step or its requests are not known."""
    running = (seen.running or 0.0) / max(1, snapshot.decoder.fresh)
    context = seen.context
    if context is None:
        return None
    nodes = [
        (
            float(known.samples or 1),
            _sized(step, known, params, context=context, running=running, kv_room=kv_room),
        )
        for known in _of_engines(snapshot, Role.DECODER)
        if (step := _step(known)) is not None
    ]
    if not nodes:
        return None
    # Which node is of which class is not told: of several the average one is taken.
    batch = _mean([(weight, node.batch) for weight, node in nodes])
    step_s = _mean([(weight, node.step_s) for weight, node in nodes])
    now_s = _mean([(weight, node.step_now_s) for weight, node in nodes])
    if not (batch and step_s and now_s):
        return None
    likely = max(nodes, key=lambda row: row[0])[1]
    return DecoderNode(batch, step_s, now_s, likely.bound, likely.is_attainable)


def lead_s(snapshot: Snapshot, params: SloParams) -> float:
    """Return the seconds from an answer until a node that it asks for serves."""
    times = [snapshot.lead_times[phase] for phase in _PHASES if phase in snapshot.lead_times]
    measured_s = math.fsum([max(0.0, time.p50_s) for time in times])
    # Before any phase was measured the setting has to do.
    lead = measured_s if times and math.isfinite(measured_s) else params.lead_s
    return min(params.react_s + lead, params.lead_max_s)


def arrivals_s(snapshot: Snapshot, role: Role) -> list[float]:
    """List in how many seconds the coming nodes of a role are expected, where that is known."""
    return sorted(
        max(0.0, node.ready_at_s - snapshot.now_s)
        for node in snapshot.nodes
        if node.role is role and node.state in COMING and node.ready_at_s is not None
    )


def _of_engines(snapshot: Snapshot, role: Role) -> list[NodeCapacity]:
    engines = {s.engine or "unknown" for s in fresh_signals(snapshot, role)}
    return [
        known
        for known in snapshot.capacity
        if known.role is role and known.node_class.partition("/")[0] in engines
    ]


def _step(known: NodeCapacity) -> DecodeStep | None:
    base, request, token = known.step_base_s, known.step_per_request_s, known.step_per_token_s
    if base is None or request is None or token is None:
        return None
    is_sane = 0 < base < VALUE_MAX and 0 <= request < VALUE_MAX and 0 <= token < VALUE_MAX
    return DecodeStep(base_s=base, per_request_s=request, per_token_s=token) if is_sane else None


def _sized(
    step: DecodeStep,
    known: NodeCapacity,
    params: SloParams,
    *,
    context: float,
    running: float,
    kv_room: float | None,
) -> DecoderNode:
    within = step.batch_within(params.tpot_s, context)
    is_attainable = within >= 1.0
    if not is_attainable:
        # No number of nodes keeps the target; twice the shortest step is where more requests in a
        # batch stop being cheap.
        within = step.batch_within(2 * step.base_s, context)
    bounds = {f"{params.tpot_s:g} s a token": params.batch_share * within}
    is_told = known.kv_tokens is not None and 0 < known.kv_tokens <= VALUE_MAX
    room = known.kv_tokens if is_told else kv_room
    if room is not None:
        bounds["KV"] = params.kv_share * room / max(context, _CONTEXT_MIN)
    if known.samples and known.batch_max is not None and 0 < known.batch_max <= VALUE_MAX:
        bounds["what was seen"] = EXPLORED * max(known.batch_max, running)
    bound = min(bounds, key=lambda name: bounds[name])
    batch = min(max(1.0, bounds[bound]), VALUE_MAX)
    now_s = step.seconds(running, context)
    return DecoderNode(batch, step.seconds(batch, context), now_s, bound, is_attainable)


def _mean(rows: Sequence[tuple[float, float]]) -> float | None:
    """Return the mean of (weight, value) rows, None without any."""
    weights = math.fsum(weight for weight, _ in rows)
    return math.fsum(weight * value for weight, value in rows) / weights if weights > 0 else None
