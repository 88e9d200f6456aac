"""How many nodes of each role `slo` finds needed, with the numbers it found them from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pd_autoscaler.core.forecast import Track
from pd_autoscaler.core.queueing import deviations_for, staffed
from pd_autoscaler.core.sizing import (
    DecodeLoad,
    PromptLoad,
    prompt_nodes,
    whole,
)
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.slo_nodes import DecoderNode, arrivals_s, lead_s
from pd_autoscaler.policies.slo_params import SloParams
from pd_autoscaler.policies.slo_seen import Seen

NEED_MAX = 10_000
"""Nodes beyond which a need is not counted: no limit is as high, and only the ratio matters."""
ALONE_MAX = 0.02
"""Share of prompts that may be late by their length before a late p95 says little of waits."""
FIRST_EXCESS = 0.10
"""Share by which demand is taken to exceed forecasts before any came due."""
BEYOND_HIGHEST = 0.10
"""Share beyond the highest demand of late that a margin is kept for."""
SPARED = 0.92
"""Part of its capacity that fewer nodes may be loaded to with all their margin: a gap between what
calls for a node and what lets one go."""


@dataclass(frozen=True, slots=True)
class Size:
    """Nodes that are needed, nodes that would be enough to shrink to, and the numbers in words.

    `keep_s` is how long the latter must have been enough. Where the target is not `is_attainable`
    no number of nodes keeps it.
    """

    need: int
    enough: int
    why: str
    keep_s: float
    is_attainable: bool = True


@dataclass(frozen=True, slots=True)
class Tracks:
    """What was seen so far of uncached prompt tokens and output tokens a second."""

    prompt: Track
    decoder: Track

    @classmethod
    def begun(cls, params: SloParams) -> "Tracks":
        """Return tracks that have seen nothing."""
        track = Track(window_s=params.window_s, trend_s=params.trend_s)
        return cls(track, track)

    def seen(self, seen: Seen, *, now_s: float, lead: float) -> "Tracks":
        """Return the tracks with one cycle, and what they promise for the end of the lead time."""
        prompt = _noted(self.prompt, seen.prompt_tokens_per_s, now_s=now_s, lead=lead)
        decoder = _noted(self.decoder, seen.output_tokens_per_s, now_s=now_s, lead=lead)
        return Tracks(prompt, decoder)


@dataclass(frozen=True, slots=True)
class Moment:
    """One cycle: what is shown, what was read from it and from those before."""

    snapshot: Snapshot
    seen: Seen
    tracks: Tracks
    params: SloParams

    @property
    def lead_s(self) -> float:
        """Seconds until a node that is asked for now serves."""
        return lead_s(self.snapshot, self.params)

    def ahead(self, track: Track) -> float | None:
        """Return what a track makes expect at the end of the lead time, None if it saw nothing.

        A falling trend is not believed: to shrink there is time.
        """
        level = track.level()
        if level is None or not self.params.looks_ahead:
            return level
        return max(level, track.ahead(self.lead_s, now_s=self.snapshot.now_s) or 0.0)

    def excess(self, track: Track) -> float:
        """Return the share by which demand was beyond its forecasts, at the newsvendor's quantile.

        The quantile is that at which one more node costs as much as it is likely to save. What was
        missed at the foot of a burst says nothing of its top: beyond the highest demand of late
        only so much is added as noise may explain.
        """
        expected = self.ahead(track)
        if not self.params.has_quantile or not expected:
            return 0.0
        cost = self.params.shortage_cost
        share = track.excess(cost / (1.0 + cost), first=FIRST_EXCESS, horizon_s=self.lead_s)
        return min(share, max(track.highest / expected - 1.0, BEYOND_HIGHEST))


def prompt_size(at: Moment, *, rate: float, share: float) -> Size | None:
    """Return the prompt nodes that are needed; None while nobody tells what is asked for.

    `rate` is the tokens a second that a node was seen to compute, `share` the part believed.
    """
    params, seen = at.params, at.seen
    ahead, level = at.ahead(at.tracks.prompt), at.tracks.prompt.level()
    if ahead is None or level is None or (ahead > 0 and not seen.prompt_tokens):
        return None
    asked = ahead * (1.0 + at.excess(at.tracks.prompt))
    believed = rate * share * params.rate_share
    tokens = seen.prompt_tokens or 0.0
    ttft_s = max(params.ttft_s - seen.pull_s, params.ttft_s / 2)
    load = PromptLoad(
        tokens_per_s=asked,
        tokens=tokens,
        length_variability=seen.prompt_variability,
        backlog=_backlog(at, level=level, rate=believed, ttft_s=ttft_s),
    )
    need, enough = (
        _prompts(replace(load, backlog=backlog), rate=usable, ttft_s=ttft_s, params=params)
        for usable, backlog in ((believed, load.backlog), (believed * params.headroom, 0.0))
    )
    backlog = f", {load.backlog:,.0f} queued" if load.backlog else ""
    why = (
        f"{asked:,.0f} uncached tokens/s expected in {at.lead_s:.0f} s (now {level:,.0f}{backlog}),"
        f" {rate:,.0f} a node at {params.rate_share:g}{_corrected(share)}"
    )
    alone = load.late_alone(rate=rate, ttft_s=ttft_s)
    if alone > ALONE_MAX:
        why += f"; {alone:.0%} of prompts alone take longer than {ttft_s:.3g} s"
    return Size(need, enough, why, at.lead_s, is_attainable=alone <= ALONE_MAX)


def decoder_size(at: Moment, *, node: DecoderNode, share: float) -> Size | None:
    """Return the decoders that are needed; None while nobody tells what they hold or get."""
    params, seen = at.params, at.seen
    if seen.running is None:
        return None
    load = DecodeLoad(
        held=seen.running,
        waiting=seen.waiting,
        step_s=node.step_now_s,
        tokens_per_s=at.tracks.decoder.level() or 0.0,
    )
    wanted = _staffed(at, load.held_slots(node.step_s))
    # None goes, and a full budget is shared, by what will be held as well: what decoders hold now
    # falls when prompt nodes fall behind. To grow by it cost more nodes than it kept targets.
    lasting = (load.slots if params.has_offered_load else load.held_slots)(node.step_s)
    roomy = max(_staffed(at, lasting) / SPARED, lasting / params.headroom)
    need, enough = (whole(slots / (node.batch * share), NEED_MAX) for slots in (wanted, roomy))
    why = (
        f"{wanted:,.0f} requests at once expected in {at.lead_s:.0f} s "
        f"(now {seen.running + seen.waiting:,.0f}), {node.batch:,.0f} a node at "
        f"{node.step_s * 1000:.0f} ms a token (bound by {node.bound}){_corrected(share)}"
    )
    if not node.is_attainable:
        why += f"; no batch keeps {params.tpot_s:g} s a token"
    keep_s = max(at.lead_s, seen.decode_residual * node.step_s)
    return Size(need, enough, why, keep_s, is_attainable=node.is_attainable)


def _staffed(at: Moment, slots: float) -> float:
    """Return the requests at once to be ready for, where so many are expected.

    Each of the two margins holds a part of the other: what is held at once swings as arrivals do,
    which is a part of what forecasts miss.
    """
    staffing = staffed(slots, deviations=deviations_for(at.params.attainment))
    return max(staffing, slots * (1.0 + at.excess(at.tracks.decoder)))


def _noted(track: Track, value: float | None, *, now_s: float, lead: float) -> Track:
    if value is None:
        return track
    track = track.seen(value, now_s=now_s)
    ahead = track.ahead(lead, now_s=now_s)
    level = track.level()
    if ahead is None or level is None:
        return track
    return track.promised(max(level, ahead), at_s=now_s + lead)


def _prompts(load: PromptLoad, *, rate: float, ttft_s: float, params: SloParams) -> int:
    return prompt_nodes(
        load,
        rate=rate,
        ttft_s=ttft_s,
        late_share=1.0 - params.attainment if params.has_wait_tail else 1.0,
        drain_s=params.drain_s,
        nodes_max=NEED_MAX,
    )


def _backlog(at: Moment, *, level: float, rate: float, ttft_s: float) -> float:
    """Return the queued tokens that will be left when a node that is asked for now serves.

    Those that are in time are no backlog, nor is a queue that decoders or links make.
    """
    seen, snapshot = at.seen, at.snapshot
    if snapshot.is_fault_elsewhere(Role.PROMPT) or not seen.prompt_tokens:
        return 0.0
    in_time = (seen.requests_per_s or 0.0) * ttft_s
    queued = max(0.0, seen.prompt_queue - in_time) * seen.prompt_tokens
    return left_over(
        queued,
        asked=level,
        served=rate * snapshot.serving(Role.PROMPT),
        more=rate,
        arrivals=arrivals_s(snapshot, Role.PROMPT),
        until_s=at.lead_s,
    )


def left_over(
    queued: float,
    *,
    asked: float,
    served: float,
    more: float,
    arrivals: Sequence[float],
    until_s: float,
) -> float:
    """Return what is left of a queue after a while in which nodes arrive, each serving `more`."""
    at_s = 0.0
    for arrival_s in (*(s for s in arrivals if s < until_s), until_s):
        queued = max(0.0, queued + (asked - served) * (arrival_s - at_s))
        at_s, served = arrival_s, served + more
    return queued if math.isfinite(queued) else 0.0


def _corrected(share: float) -> str:
    return f" of which {share:.0%} are believed" if share < 0.995 else ""
