"""Demand: what users ask for, smoothed over the cycles, so that one odd window moves nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pd_autoscaler.core.smoothing import Smoothed, smoothed
from pd_autoscaler.model.capacity import Demand
from pd_autoscaler.model.signals import RoleSignals, Signal


@dataclass(frozen=True, slots=True)
class _Trace:
    """One signal's average, and when the newest value in it was true."""

    average: Smoothed
    seen_at_s: float
    is_lower_bound: bool


@dataclass(frozen=True, slots=True)
class DemandMemory:
    """What the demand was so far, by the names of `Demand`."""

    traces: Mapping[str, _Trace] = field(default_factory=dict)


def observed(
    memory: DemandMemory,
    prompt: RoleSignals,
    decoder: RoleSignals,
    decode_tokens: Signal | None,
    *,
    now_s: float,
    half_life_s: float,
) -> DemandMemory:
    """Return the memory with one cycle's signals; `decode_tokens` is what all decoders hold.

    Any number of cycles between two pages weighs no more than one.
    """
    sums = {
        "requests_per_s": (prompt.arrival_rate, prompt),
        "decode_running": (decoder.running, decoder),
        "decode_tokens": (decode_tokens, decoder),
    }
    means = {
        "input_len": prompt.input_len,
        "input_len_sq": prompt.input_len_sq,
        "output_len": decoder.output_len,
        "output_len_sq": decoder.output_len_sq,
        "uncached_share": prompt.uncached_share,
    }
    known = {name: (signal, signal.value) for name, signal in means.items() if signal is not None}
    for name, (signal, role) in sums.items():
        if signal is not None:
            before = memory.traces.get(name)
            known[name] = (signal, _whole(signal, role, before))
    traces = dict(memory.traces)
    for name, (signal, value) in known.items():
        before = memory.traces.get(name)
        average = before.average if before else None
        traces[name] = _Trace(
            smoothed(average, value, now_s=now_s, half_life_s=half_life_s),
            now_s - signal.age_s,
            signal.is_lower_bound,
        )
    return DemandMemory(traces)


def demand(memory: DemandMemory, *, now_s: float, age_max_s: float) -> Demand:
    """Return the smoothed demand; what nobody has said for `age_max_s` is unknown."""
    known = {
        name: Signal(trace.average.value, max(0.0, now_s - trace.seen_at_s), trace.is_lower_bound)
        for name, trace in memory.traces.items()
        if now_s - trace.seen_at_s <= age_max_s
    }
    return Demand(**known)


def _whole(signal: Signal, role: RoleSignals, before: _Trace | None) -> float:
    """Return a role's sum, of which the nodes that are not seen have an unknown part.

    It lies between what is seen and that with a usual share for each silent node (a newcomer is
    silent too, and has none yet). An average inside these bounds stays: a node whose page fails
    must not look like users who left.
    """
    low = signal.value
    high = low * max(1.0, role.serving / role.fresh) if role.fresh else low
    if before is None:
        # At a start most are silent for a moment: what they have would be guessed many times over.
        return low
    if signal.is_lower_bound:
        return max(low, before.average.value)
    return min(max(before.average.value, low), high)
