"""Sizing: how many nodes of each role a demand needs at its latency targets; pure numbers.

Formulas for prefill as GI/G/k and for decoding as an infinite pool of slots that is cut into nodes
are in `queueing`; here they meet what one node can do.
"""

import math
from dataclasses import replace
from statistics import NormalDist
from typing import NamedTuple

from pd_autoscaler.core.queueing import servers_for_wait
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.snapshot import Limits

WAIT_SHARE_MIN = 0.25
"""Part of the TTFT target that is left for waiting where prompts take all of it: no number of nodes
makes one prompt faster, and none would make waits of nothing."""

BESIDE_ALONE = 0.25
"""What waits may make late, as a part of what is late by its own length: where a third of prompts
are, to spare the rest every wait would buy little for many nodes."""
_NORMAL = NormalDist()


class PromptLoad(NamedTuple):
    """What arrives at prompt nodes: uncached tokens a second, in prompts of this many tokens.

    They arrive as Poisson's within the TTFT target, whatever they do over minutes.
    `length_variability` is the squared coefficient of variation of their lengths; `backlog` are
    tokens that are too many in the queue already.
    """

    tokens_per_s: float
    tokens: float
    length_variability: float = 1.0
    backlog: float = 0.0

    def late_alone(self, *, rate: float, ttft_s: float) -> float:
        """Return the share of prompts that take longer than the target without any wait.

        Lengths are taken for log-normal, as those of chats nearly are.
        """
        if not self.tokens > 0:
            return 0.0
        spread = math.sqrt(math.log1p(self.length_variability))
        off = math.log(ttft_s * rate / self.tokens) + spread**2 / 2
        if spread <= 0:
            return 0.0 if off >= 0 else 1.0
        return 1.0 - _NORMAL.cdf(off / spread)


def prompt_nodes(
    load: PromptLoad,
    *,
    rate: float,
    ttft_s: float,
    late_share: float,
    drain_s: float,
    nodes_max: int,
) -> int:
    """Return the fewest prompt nodes at which waits make no more than `late_share` late.

    Or no more than a part of those that are late alone, where that is more.
    `rate` is the tokens a second of one node. They must also clear the backlog within `drain_s`.
    """
    if not rate > 0:
        return nodes_max
    service_s = load.tokens / rate
    # The middle prompt of log-normal lengths: long ones are late by themselves, and would leave no
    # wait to the others.
    own_s = service_s / math.sqrt(1.0 + load.length_variability)
    wait_s = max(ttft_s - own_s, WAIT_SHARE_MIN * ttft_s)
    busy = load.tokens_per_s / rate
    waits = servers_for_wait(
        busy,
        wait_s=wait_s,
        service_s=service_s,
        variability=(1.0 + load.length_variability) / 2,
        late_share=max(late_share, BESIDE_ALONE * load.late_alone(rate=rate, ttft_s=ttft_s)),
        servers_max=nodes_max,
    )
    clears = busy + load.backlog / rate / drain_s if drain_s > 0 else busy
    return max(waits, whole(clears, nodes_max))


class DecodeStep(NamedTuple):
    """Seconds of a decode step: base, for each request in the batch, for each token of its KV."""

    base_s: float
    per_request_s: float
    per_token_s: float

    def seconds(self, batch: float, context: float) -> float:
        """Return the seconds of a step of requests with this many tokens of KV each."""
        return self.base_s + (self.per_request_s + self.per_token_s * context) * batch

    def batch_within(self, step_s: float, context: float) -> float:
        """Return the largest batch whose step takes no longer; 0 if none does."""
        slope = self.per_request_s + self.per_token_s * context
        spare_s = step_s - self.base_s
        if not spare_s > 0:
            return 0.0
        return spare_s / slope if slope > 0 else math.inf


class DecodeLoad(NamedTuple):
    """What decoders hold and get: requests in their batches or about to be, and tokens a second.

    `held` are requests, with those that wait for room or for KV; `step_s` is the step in which the
    running ones are decoded now; `tokens_per_s` the output tokens that arriving requests will need.
    """

    held: float
    waiting: float
    step_s: float
    tokens_per_s: float

    def held_slots(self, step_s: float) -> float:
        """Return the requests that are in batches at once where a step takes so long.

        Requests in short steps stay longer in long ones.
        """
        stretched = step_s / self.step_s if self.step_s > 0 else 1.0
        return self.held * max(1.0, stretched) + self.waiting

    def slots(self, step_s: float) -> float:
        """Return the larger of what is held and of what is on its way.

        What was admitted is known, and what arrives now is held for a while.
        """
        return max(self.held_slots(step_s), self.tokens_per_s * step_s)


def whole(nodes: float, nodes_max: int) -> int:
    """Round a need up to nodes, at least 1 and at most `nodes_max`; what is no number needs all."""
    if not nodes < nodes_max:
        return max(1, nodes_max)
    # A hair above a whole number is rounding, not a node.
    return max(1, math.ceil(nodes - 1e-9))


def split(needs: Target, limits: Limits, standing: Target, *, gain_min: float = 0.1) -> Target:
    """Share a budget that is too small for both roles so that the worse served one gets the most.

    What each gets is compared with what it needs; the standing split is kept unless another gives
    the worse one `gain_min` more of it.
    """
    low, high = limits.min_of(Role.PROMPT), limits.max_of(Role.PROMPT)
    options = [
        Target(prompt, limits.nodes_max - prompt)
        for prompt in range(max(1, low), min(high, limits.nodes_max - 1) + 1)
        if limits.decoder_min <= limits.nodes_max - prompt <= limits.decoder_max
    ]
    if not options:
        return standing

    def served(counts: Target) -> float:
        return min(counts.of(role) / max(1, needs.of(role)) for role in Role)

    best = max(options, key=served)
    is_full = standing.total >= limits.nodes_max
    if is_full and served(best) < served(standing) * (1.0 + gain_min):
        return standing
    return replace(best, why="")
