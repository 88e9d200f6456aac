"""Shaping: making an hour of recorded requests pass faster, or for longer."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.workload.request import Request


def compressed(requests: Sequence[Request], speed: float) -> tuple[Request, ...]:
    """Let the trace pass `speed` times faster at its own request rate.

    Arrival times are divided by `speed` and one request in `speed` is kept (the first, then evenly
    through the trace), so that the same input gives the same output. Raises ConfigError for a
    speed below 1.
    """
    if not (math.isfinite(speed) and speed >= 1):
        raise ConfigError(f"speed is {speed}: give 1 or more")
    return tuple(
        replace(requests[number], at_s=requests[number].at_s / speed)
        for number in evenly(len(requests), speed)
    )


def evenly(count: int, every: float) -> Iterator[int]:
    """Yield which of `count` things are kept if one in `every` is: the first, then evenly."""
    kept = 0
    while (number := math.ceil(kept * every)) < count:
        yield number
        kept += 1


def gap_s(span_s: float, count: int) -> float:
    """Return the mean gap of so many requests, a second where all come in one moment."""
    return span_s / (count - 1) if span_s > 0 else 1.0


def looped(requests: Sequence[Request], for_s: float) -> Iterator[Request]:
    """Yield the trace again and again until `for_s` seconds (which may be infinite) are over.

    The next round begins one mean gap after the last request, so the mean rate stays. Raises
    ConfigError for a trace without requests.
    """
    if not requests:
        raise ConfigError("the workload has no request: give a trace with at least one")
    return _rounds(requests, for_s)


def _rounds(requests: Sequence[Request], for_s: float) -> Iterator[Request]:
    span_s = requests[-1].at_s
    round_s = span_s + gap_s(span_s, len(requests))
    number = 0
    while True:
        begin_s = number * round_s
        for request in requests:
            if begin_s + request.at_s >= for_s:
                return
            yield replace(request, at_s=begin_s + request.at_s)
        number += 1
