"""What one node's window shows of its capacity: one decode step, or a rate of prompt tokens.

A window starts and ends at pages and is `window_s` long or a little more. None is a window that
says nothing.
"""

import math
from statistics import fmean
from typing import NamedTuple

from pd_autoscaler.core.windows import History, Span, View
from pd_autoscaler.model.snapshot import Bottleneck

KV_FULL = 0.95
"""A prompt node above this share may be waiting for room, not for its own steps."""

_OWN_QUEUE = 0.25
"""Least part of the queue that must show in first tokens; a queue that grows shows late in them."""

_FULL_S = 1.0
"""Seconds of its own work that wait at a full node: prompts that came during one batch wait for the
next one in every engine, and short ones by the dozen."""

_RAMP_FACTOR, _RAMP_REQUESTS = 2.0, 8.0
"""A batch that more than doubled (and by more than chance) in a window was no one batch, nor is it
the batch that made the tokens of twice as many."""


class DecodeStep(NamedTuple):
    """Mean seconds of a step over the tokens of a window, at these means of requests and KV."""

    seconds: float
    batch: float
    kv_tokens: float


class PrefillRate(NamedTuple):
    """Prompt tokens computed a second; unless it `is_full`, the node could do that or more."""

    tokens_per_s: float
    is_full: bool


def window_end_s(history: History, *, window_s: float) -> float | None:
    """Return when the newest whole window ended, None before there is one."""
    newest = history.newest
    if newest is None or not history.pages or newest.at_s - history.pages[0].at_s < window_s:
        return None
    return newest.at_s


def decode_step(
    history: History, *, end_s: float, window_s: float, cache_tokens: float
) -> DecodeStep | None:
    """Read a decoder's step from its window; `cache_tokens` 0 leaves KV tokens at 0.

    An inter-token latency is the length of a step, once for each request in it. So batch and KV are
    weighted with the requests there were: what is asked is what the average token saw.
    """
    seen = history.over(now_s=end_s, window_s=window_s)
    total = _grown(seen, "tpot_s_sum")
    count = _grown(seen, "tpot_s_count")
    preempted = _grown(seen, "preemptions")
    # The gap in a preempted request is no step.
    if total is None or count is None or count.delta <= 0 or (preempted and preempted.delta > 0):
        return None
    running = seen.gauges("running")
    used = seen.gauges("kv_used")
    if cache_tokens == 0:
        used = [0.0] * len(running)
    requests = sum(running)
    if len(running) < 2 or len(used) != len(running) or not requests > 0:
        return None
    if not 0 <= min(used) <= max(used) <= 1:
        return None
    if max(running) > _RAMP_FACTOR * min(running) + _RAMP_REQUESTS:
        return None
    # Little's law: seconds of latency a second are the requests in decoding. Far more of them are
    # the work of another time, such as that of a rank that was not on the page before.
    if total.delta / total.seconds > _RAMP_FACTOR * max(running) + _RAMP_REQUESTS:
        return None
    return DecodeStep(
        seconds=total.delta / count.delta,
        batch=sum(b * b for b in running) / requests,
        kv_tokens=sum(b * u for b, u in zip(running, used, strict=True)) / requests * cache_tokens,
    )


def prefill_rate(
    history: History, *, end_s: float, window_s: float, bottleneck: Bottleneck
) -> PrefillRate | None:
    """Read a prompt node's rate from its window.

    It is full where a second's prompts were waiting on every page, and for nothing but its steps:
    not while decoders or links hold KV back (then even the queue is no work of its own, and the
    window says nothing), nor while nobody can tell, nor while its KV is full. A queue must also
    show in the time to the first token: MindIE counts prompts that are finished but not pulled as
    waiting, and some gauges stay up in an idle engine (sgl-project/sglang#27028).
    """
    seen = history.over(now_s=end_s, window_s=window_s)
    tokens = _grown(seen, "prompt_tokens")
    if tokens is None or not 0 < tokens.delta < math.inf:
        return None
    if bottleneck in {Bottleneck.DECODER, Bottleneck.LINK}:
        return None
    waiting = seen.gauges("waiting")
    used = seen.gauges("kv_used")
    delay, served = _grown(seen, "ttft_s_sum"), _grown(seen, "ttft_s_count")
    batch = 0.0 if served is None else _FULL_S * served.delta / served.seconds
    is_full = (
        bottleneck is not Bottleneck.UNKNOWN
        and len(waiting) >= 2
        and min(waiting) > batch
        and max(used, default=0.0) < KV_FULL
        # Little's law: seconds of delay a second are the requests that are delayed.
        and (delay is None or delay.delta / delay.seconds >= _OWN_QUEUE * fmean(waiting))
    )
    return PrefillRate(tokens.delta / tokens.seconds, is_full)


def _grown(seen: View, name: str) -> Span | None:
    span = seen.grown(name)
    # Gauges are read in the window only: a counter that bridges a longer gap is of another time.
    if span is None or not seen.window_s <= span.seconds <= 2 * seen.window_s:
        return None
    return span
