"""A profile of the engines that a controller watched, from the snapshots its journal kept.

Decode steps are what the controller learnt; a busy prompt node's rate scales the base's table.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from pd_autoscaler.engine_model.fitting import DECODE, fitted
from pd_autoscaler.engine_model.measured import (
    Batch,
    Fitted,
    Measured,
    Step,
    compared,
    qualities,
)
from pd_autoscaler.engine_model.profile import EngineProfile
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.capacity import NodeCapacity
from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.model.signals import NodeSignals
from pd_autoscaler.model.snapshot import LeadTime, Snapshot

SETTLED_S = 120.0
"""Rates of a node that serves for less are in part of the time before."""

_UNITS = {"": 1.0, "k": 1e3, "M": 1e6}


@dataclass(slots=True)
class _Seen:
    """What snapshots told: rows of decoders (requests, share of KV, seconds) and prompt nodes."""

    capacities: dict[Role, NodeCapacity] = field(default_factory=dict)
    lead_times: dict[str, LeadTime] = field(default_factory=dict)
    steps: list[tuple[float, float, float]] = field(default_factory=list)
    rates: list[tuple[float, float]] = field(default_factory=list)


def observed(snapshots: Iterable[Snapshot], base: EngineProfile, *, name: str) -> Fitted:
    """Return the profile of the engines in these snapshots, oldest first; the rest is the base's.

    Where nothing of decode steps was learnt they are fitted to what each node's page showed. Raises
    ConfigError where no node was ever seen at work.
    """
    seen = _Seen()
    for snapshot in snapshots:
        _take(seen, snapshot)
    decoder, prompt = seen.capacities.get(Role.DECODER), seen.capacities.get(Role.PROMPT)
    kv_tokens = _kv_tokens(decoder)
    held = kv_tokens or base.kv_tokens
    steps = [Step(requests, used * held, seconds) for requests, used, seconds in sorted(seen.steps)]
    tokens = float(base.prefill_tokens_max)
    batches = [
        Batch(tokens, tokens * (length or tokens), tokens / rate) for length, rate in seen.rates
    ]
    if not (steps or batches or decoder or prompt):
        raise ConfigError("no node was ever seen at work: give a journal with load in it")
    rows = Measured(tuple(batches), tuple(steps), len(batches), len(steps))
    made = fitted(_taught(rows, prompt, tokens), base, name=name)
    taken = dict(made.taken)
    profile = _learnt(made.profile, decoder, taken)
    if kv_tokens:
        del taken["kv_tokens"]
        profile = replace(profile, kv_tokens=kv_tokens)
    if "start" in seen.lead_times:
        del taken["start_s"]
        profile = replace(profile, start_s=seen.lead_times["start"].p50_s)
    if "switch" in seen.lead_times:
        del taken["flip_s"]
        profile = replace(profile, flip_s=seen.lead_times["switch"].p50_s)
    beside = compared(profile, rows)
    return Fitted(profile, beside, qualities(beside, rows), taken)


def _take(seen: _Seen, snapshot: Snapshot) -> None:
    """Add one snapshot's; of capacities the one with the most samples stays."""
    for capacity in snapshot.capacity:
        best = seen.capacities.get(capacity.role)
        if capacity.samples and (best is None or capacity.samples >= best.samples):
            seen.capacities[capacity.role] = capacity
    seen.lead_times.update(snapshot.lead_times)
    length = _prompt_length(snapshot)
    for node in snapshot.nodes:
        signals = snapshot.node_signals.get(node.id)
        is_settled = snapshot.now_s - node.since_s >= SETTLED_S
        if node.state is not NodeState.SERVING or not is_settled or signals is None:
            continue
        rate = _value(signals, "token_rate")
        if not signals.is_fresh or not rate > 0:
            continue
        running, used = _value(signals, "running"), _value(signals, "kv_used")
        if node.role is Role.DECODER and running > 0 and used >= 0:
            # Each request in the batch gets one token a step.
            seen.steps.append((running, used, running / rate))
        elif node.role is Role.PROMPT and _value(signals, "queue") > 0:
            seen.rates.append((length, rate))


def _prompt_length(snapshot: Snapshot) -> float:
    """Return how long the prompt of an average token is, 0 where that is not known."""
    first, square = snapshot.demand.input_len, snapshot.demand.input_len_sq
    return square.value / first.value if first and square and first.value > 0 else 0.0


def _value(signals: NodeSignals, name: str) -> float:
    signal = getattr(signals, name)
    return -1.0 if signal is None else float(signal.value)


def _taught(rows: Measured, prompt: NodeCapacity | None, tokens: float) -> Measured:
    """Return the rows with what was learnt of prompt nodes in place of what each page showed."""
    rate = prompt.prefill_tokens_per_s if prompt is not None else None
    if not rate:
        return rows
    lengths = sorted(batch.squares for batch in rows.batches)
    squares = lengths[len(lengths) // 2] if lengths else tokens
    return replace(rows, batches=(Batch(tokens, squares, tokens / rate),))


def _learnt(
    profile: EngineProfile, decoder: NodeCapacity | None, taken: dict[str, str]
) -> EngineProfile:
    """Return the profile with the decode step that was learnt, where one was."""
    base_s = decoder.step_base_s if decoder else None
    request_s = decoder.step_per_request_s if decoder else None
    token_s = decoder.step_per_token_s if decoder else None
    if base_s is None or request_s is None or token_s is None:
        return profile
    for named in DECODE:
        taken.pop(named, None)
    return replace(
        profile,
        decode_base_s=base_s,
        decode_per_request_s=request_s,
        decode_per_token_s=token_s,
    )


def _kv_tokens(decoder: NodeCapacity | None) -> int:
    """Return the KV of a class such as `vllm/49k`, to its two digits; 0 where it is unknown."""
    match = re.search(r"/([\d.]+)([kM]?)$", decoder.node_class if decoder else "")
    return round(float(match[1]) * _UNITS[match[2]]) if match else 0
