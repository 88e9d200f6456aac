"""How many nodes of each role `slo` finds needed, with the numbers it found them from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pd_autoscaler.core.queueing import deviations_for, staffed
from pd_autoscaler.core.sizing import (
    DecodeLoad,
    PromptLoad,
    prompt_nodes,
    whole,
)
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.slo_nodes import DecoderNode, arrivals_s
from pd_autoscaler.policies.slo_outlook import Outlook
from pd_autoscaler.policies.slo_params import SloParams
from pd_autoscaler.policies.slo_seen import Seen

NEED_MAX = 10_000
"""Nodes beyond which a need is not counted: no limit is as high, and only the ratio matters."""
ALONE_MAX = 0.02
"""Share of prompts that may be late by their length before a late p95 says little of waits."""
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


class Moment(NamedTuple):
    """One cycle: what is shown, what was read from it, and what is expected of each role's demand.

    `lead_s` is how many seconds pass until a node that is asked for now serves.
    """

    snapshot: Snapshot
    seen: Seen
    prompt: Outlook | None
    decoder: Outlook | None
    lead_s: float
    params: SloParams


def prompt_size(at: Moment, *, rate: float, share: float) -> Size | None:
    """Return the prompt nodes that are needed; None while nobody tells what is asked for.

    `rate` is the tokens a second that a node was seen to compute, `share` the part believed.
    """
    params, seen, expected = at.params, at.seen, at.prompt
    if expected is None or (expected.ahead > 0 and not seen.prompt_tokens):
        return None
    asked, level = expected.ahead * (1.0 + expected.excess), expected.level
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
        _prompts(load._replace(backlog=backlog), rate=usable, ttft_s=ttft_s, params=params)
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
        tokens_per_s=at.decoder.level if at.decoder else 0.0,
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
    return max(staffing, slots * (1.0 + (at.decoder.excess if at.decoder else 0.0)))


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
