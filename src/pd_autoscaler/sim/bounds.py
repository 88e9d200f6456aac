"""Bounds: how few nodes a fluid of tokens needs, and what fixed splits of them cost.

Throughput matching (DistServe; MindIE-Motor's roofline does the same): a role's need is its work
over what one node does at the latency target. Nothing queues and nothing is discrete but the node,
so that real fleets need more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pd_autoscaler.engine_model.profile import EngineProfile
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.decision import Target
from pd_autoscaler.sim.records import Floats, Slo
from pd_autoscaler.sim.staffing import SLOT_S, Staffing
from pd_autoscaler.workload.arrivals import Arrivals

RATIO_STEPS = 121
"""Ratios that the search for a fixed one tries, evenly in their logarithm."""
RATIO_MAX = 200.0
"""No slot with next to nothing in it makes the search look beyond this ratio, either way."""
_NOTHING = 1e-6
"""Nodes, or tokens, that are only what rounding left."""


@dataclass(frozen=True, slots=True)
class Need:
    """Fully used nodes that each slot of `slot_s` seconds asks for, by role."""

    slot_s: float
    prompt: Floats
    decoder: Floats


def prompt_tokens_per_s(profile: EngineProfile, prompt_tokens: float = 0.0) -> float:
    """Return the most tokens a second that one node computes, at its best batch.

    The longer prompts are, the slower are their tokens; without a length that is left out.
    """
    most = profile.prefill_tokens_max
    sizes = {most, *(int(tokens) for tokens, _ in profile.prefill_points if 1 <= tokens <= most)}
    times = ((size, profile.prefill_s(size)) for size in sizes)
    least_s = min(seconds / size for size, seconds in times if seconds > 0)
    return 1 / (least_s + profile.prefill_attention_s * prompt_tokens)


def decoder_batch(profile: EngineProfile, context_tokens: float, tpot_s: float) -> int:
    """Return the largest batch of such requests whose step takes `tpot_s` at most and fits the KV.

    It is 1 where not even one request is as quick as that.
    """
    most = min(profile.batch_max, int(profile.kv_tokens / max(context_tokens, 1.0)))
    low, high = 1, max(most, 1)
    while low < high:
        batch = (low + high + 1) // 2
        if profile.decode_step_s(batch, round(batch * context_tokens)) <= tpot_s:
            low = batch
        else:
            high = batch - 1
    return low


def decoder_tokens_per_s(profile: EngineProfile, context_tokens: float, tpot_s: float) -> float:
    """Return the most output tokens a second of one decoder within the target."""
    batch = decoder_batch(profile, context_tokens, tpot_s)
    return batch / profile.decode_step_s(batch, round(batch * context_tokens))


def fluid_need(
    arrivals: Arrivals,
    profile: EngineProfile,
    slo: Slo,
    *,
    slot_s: float = SLOT_S,
    until_s: float | None = None,
) -> Need:
    """Return the nodes that realised tokens keep fully busy, slot by slot up to `until_s`.

    A prompt is work where it arrives; its output is spread evenly over the time that it takes at
    the TPOT target. A decoder's batch is that of the slot's mean context, long outputs weighing
    more: they are in the batch for longer. Raises ConfigError where there is no time to cover.
    """
    until_s = arrivals.span_s if until_s is None else until_s
    slots = math.ceil(until_s / slot_s)
    if slots < 1:
        raise ConfigError("bounds: there is no time in which requests could arrive")
    edges: Floats = np.arange(slots + 1, dtype=np.float64) * np.float64(slot_s)
    squares = arrivals.input_tokens.astype(np.float64) ** 2 - arrivals.cached_tokens**2.0
    computed_s = arrivals.uncached_tokens / prompt_tokens_per_s(profile)
    computed_s += profile.prefill_attention_s * squares
    busy_s, _ = np.histogram(arrivals.at_s, bins=edges, weights=computed_s)
    prompt = busy_s / slot_s
    output = arrivals.output_tokens.astype(np.float64)
    lasts_s = output * slo.tpot_s
    context = output * (arrivals.input_tokens + output / 2)
    made = _spread(arrivals.at_s, lasts_s, output, edges)
    held = _spread(arrivals.at_s, lasts_s, context, edges)
    decoder = np.zeros(slots)
    for slot in np.flatnonzero(made > _NOTHING):
        rate = decoder_tokens_per_s(profile, float(held[slot] / made[slot]), slo.tpot_s)
        decoder[slot] = made[slot] / (rate * slot_s)
    return Need(slot_s, prompt, decoder)


def _spread(at_s: Floats, lasts_s: Floats, work: Floats, edges: Floats) -> Floats:
    """Sum work by slot, each request's spread evenly from its arrival for as long as it lasts."""
    rate = work / lasts_s
    ends_s = at_s + lasts_s
    order = np.argsort(ends_s)
    done = _begun(at_s, rate, edges) - _begun(ends_s[order], rate[order], edges)
    # Differences of large sums: rounding must not leave work below nothing.
    return np.maximum(np.diff(done), 0.0)


def _begun(at_s: Floats, rate: Floats, edges: Floats) -> Floats:
    """Work done by each edge if all that began went on for ever."""
    rates = np.concatenate(([0.0], np.cumsum(rate)))
    moments = np.concatenate(([0.0], np.cumsum(rate * at_s)))
    begun = np.searchsorted(at_s, edges, side="right")
    return rates[begun] * edges - moments[begun]


def fluid_bound(need: Need, *, utilisation: float = 0.8, least: int = 1) -> Staffing:
    """Return the fewest whole nodes of each role that keep every slot at this utilisation."""
    return _staffed(need.slot_s, need.prompt / utilisation, need.decoder / utilisation, least)


def fixed_ratio_bound(
    need: Need, *, utilisation: float = 0.8, least: int = 1
) -> tuple[float, Staffing]:
    """Return the fixed prompt/decoder ratio that is cheapest if totals are known beforehand.

    In each slot the total is the least at which, split by the ratio, both roles have enough.
    """
    prompt, decoder = need.prompt / utilisation, need.decoder / utilisation
    busy = (prompt > _NOTHING) & (decoder > _NOTHING)
    if not busy.any():
        return 1.0, _staffed(need.slot_s, prompt, decoder, least)
    seen = np.clip(prompt[busy] / decoder[busy], 1 / RATIO_MAX, RATIO_MAX)
    ratios = np.geomspace(seen.min(), seen.max(), RATIO_STEPS)

    def at(ratio: float) -> Staffing:
        together = np.maximum(decoder, prompt / ratio)
        return _staffed(need.slot_s, together * ratio, together, least)

    best = min((float(ratio) for ratio in ratios), key=lambda ratio: (at(ratio).node_hours, ratio))
    return best, at(best)


def static_bound(
    need: Need, *, utilisation: float = 0.8, covered: float = 0.99, least: int = 1
) -> Target:
    """Return the fewest nodes that, never changed, are enough for this part of each role's work."""
    prompt, decoder = (
        max(least, math.ceil(_covering(work, covered) / utilisation - 1e-9))
        for work in (need.prompt, need.decoder)
    )
    return Target(prompt, decoder)


def static_split(need: Need, total: int) -> Target:
    """Return the split of so many nodes that leaves the least work undone, slot by slot."""
    if total < 2:
        raise ConfigError("bounds: a split needs one node of each role")

    def undone(prompt: int) -> float:
        short = np.maximum(need.prompt - prompt, 0) + np.maximum(need.decoder - (total - prompt), 0)
        return float(short.sum())

    def fullest(prompt: int) -> float:
        return max(float(need.prompt.max()) / prompt, float(need.decoder.max()) / (total - prompt))

    prompt = min(range(1, total), key=lambda prompt: (undone(prompt), fullest(prompt), prompt))
    return Target(prompt, total - prompt)


def _covering(work: Floats, covered: float) -> float:
    """Return the count that is enough in slots with this part of all work."""
    ordered = np.sort(work)
    total = np.cumsum(ordered)
    if not len(total) or total[-1] <= 0:
        return 0.0
    slot = int(np.searchsorted(total, covered * total[-1]))
    return float(ordered[min(slot, len(ordered) - 1)])


def _staffed(slot_s: float, prompt: Floats, decoder: Floats, least: int) -> Staffing:
    return Staffing(slot_s, _whole(prompt, least), _whole(decoder, least))


def _whole(nodes: Sequence[float] | Floats, least: int) -> tuple[int, ...]:
    # What is whole but for rounding is not one more.
    return tuple(max(least, math.ceil(count - 1e-9)) for count in nodes)
