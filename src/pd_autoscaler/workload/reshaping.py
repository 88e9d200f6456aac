"""Reshaping arrivals: fewer, more, faster, shorter, from another moment, again and again."""

import math
from dataclasses import replace

import numpy as np

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.workload.arrivals import Arrivals, Counts, Floats
from pd_autoscaler.workload.shaping import evenly, gap_s

SPREAD_S = 30.0
"""Copies of a request come within so many seconds of it: in the same minute's load, not at once."""


def thinned(
    arrivals: Arrivals, share: float, generator: np.random.Generator | None = None
) -> Arrivals:
    """Keep a share of the requests where they are: each at random, or without a generator evenly.

    Evenly is the first, then one in 1/share. Raises ConfigError for a share outside 0 to 1.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share is {share}: give more than 0, and 1 at most")
    if generator is not None:
        return _picked(arrivals, np.flatnonzero(generator.random(len(arrivals)) < share))
    return _picked(arrivals, np.fromiter(evenly(len(arrivals), 1 / share), np.int64))


def scaled(arrivals: Arrivals, factor: float, generator: np.random.Generator) -> Arrivals:
    """Multiply the request rate, time and lengths as they are.

    Below 1 each request is kept at random; above it some come again as copies within `SPREAD_S`.
    Raises ConfigError for a factor that is not above 0 and finite.
    """
    _check_positive("factor", factor)
    if factor <= 1:
        return thinned(arrivals, factor, generator)
    whole = math.floor(factor)
    times = whole + (generator.random(len(arrivals)) < factor - whole)
    numbers = np.repeat(np.arange(len(arrivals)), times)
    # The original of each stays where it is.
    is_copy = np.concatenate(([False], numbers[1:] == numbers[:-1])) if len(numbers) else numbers
    late_s = np.where(is_copy, generator.uniform(0, SPREAD_S, len(numbers)), 0.0)
    at_s = arrivals.at_s[numbers] + late_s
    # What would come after the end comes as much before it.
    at_s = np.where(at_s > arrivals.span_s, np.maximum(2 * arrivals.span_s - at_s, 0.0), at_s)
    return ordered(at_s, _picked(arrivals, numbers))


def at_speed(arrivals: Arrivals, speed: float) -> Arrivals:
    """Let time pass `speed` times faster, the request rate with it.

    Raises ConfigError for a speed that is not above 0 and finite.
    """
    _check_positive("speed", speed)
    return replace(arrivals, at_s=arrivals.at_s / speed)


def started_at(arrivals: Arrivals, offset_s: float) -> Arrivals:
    """Begin in the middle, `offset_s` from the start; what was before it comes after the end.

    An offset beyond the end begins in a later round. Raises ConfigError for one that is below 0 or
    not finite.
    """
    if not 0 <= offset_s < math.inf:
        raise ConfigError(f"offset is {offset_s} s: give 0 or more")
    if not len(arrivals):
        return arrivals
    return ordered((arrivals.at_s - offset_s) % round_s(arrivals), arrivals)


def between(arrivals: Arrivals, from_s: float, to_s: float = math.inf) -> Arrivals:
    """Cut out the requests from one moment (included) to another (not), counted from the first.

    Raises ConfigError unless the first is 0 or more and before the second.
    """
    if not 0 <= from_s < to_s:
        raise ConfigError(f"from {from_s} to {to_s} s is no span: give 0 <= from < to")
    first, last = np.searchsorted(arrivals.at_s, (from_s, to_s))
    return _picked(arrivals, np.arange(first, last), arrivals.at_s[first:last] - from_s)


def clipped(
    arrivals: Arrivals,
    *,
    tokens_max: int | None = None,
    input_max: int | None = None,
    output_max: int | None = None,
) -> Arrivals:
    """Clip token counts to these, `tokens_max` being for inputs and outputs; None is no limit.

    Cached tokens stay less than the input. Raises ConfigError for a limit below 1.
    """
    limits = {"tokens_max": tokens_max, "input_max": input_max, "output_max": output_max}
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise ConfigError(f"{name} is {limit}: give 1 or more, or leave it out")
    inputs = _least(arrivals.input_tokens, input_max, tokens_max)
    outputs = _least(arrivals.output_tokens, output_max, tokens_max)
    cached = np.minimum(arrivals.cached_tokens, inputs - 1)
    return Arrivals(arrivals.at_s, inputs, outputs, cached)


def repeated(arrivals: Arrivals, for_s: float) -> Arrivals:
    """Come again and again until `for_s` seconds are over, at the same mean rate.

    Raises ConfigError for no request, and for a time that is below 0 or not finite.
    """
    if not len(arrivals):
        raise ConfigError("the workload has no request: give a trace with at least one")
    if not 0 <= for_s < math.inf:
        raise ConfigError(f"for_s is {for_s}: give 0 or more")
    period_s = round_s(arrivals)
    rounds = math.floor(for_s / period_s) + 1
    at_s = (np.arange(rounds)[:, None] * period_s + arrivals.at_s).ravel()
    numbers = np.tile(np.arange(len(arrivals)), rounds)[: np.searchsorted(at_s, for_s)]
    return _picked(arrivals, numbers, at_s[: len(numbers)])


def round_s(arrivals: Arrivals) -> float:
    """Return how long a load takes until it may begin again: a mean gap past its last request."""
    return arrivals.span_s + gap_s(arrivals.span_s, len(arrivals))


def ordered(at_s: Floats, *parts: Arrivals) -> Arrivals:
    """Return the requests of these parts, in this order, at other times, and sort them by those."""
    order = np.argsort(at_s, kind="stable")
    columns = (
        np.concatenate([getattr(part, name) for part in parts])[order]
        for name in ("input_tokens", "output_tokens", "cached_tokens")
    )
    return Arrivals(at_s[order], *columns)


def _least(counts: Counts, *limits: int | None) -> Counts:
    given = [limit for limit in limits if limit is not None]
    return np.minimum(counts, min(given)) if given else counts


def _picked(arrivals: Arrivals, numbers: Counts, at_s: Floats | None = None) -> Arrivals:
    """Return the requests of these numbers, in this order, at their times or at others."""
    return Arrivals(
        arrivals.at_s[numbers] if at_s is None else at_s,
        arrivals.input_tokens[numbers],
        arrivals.output_tokens[numbers],
        arrivals.cached_tokens[numbers],
    )


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ConfigError(f"{name} is {value}: give more than 0")
