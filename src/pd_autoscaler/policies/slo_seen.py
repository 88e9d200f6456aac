"""What `slo` reads from a snapshot: plain numbers, None where no sane one is told."""

import math
from dataclasses import dataclass

from pd_autoscaler.model.signals import Signal
from pd_autoscaler.model.snapshot import Snapshot

VALUE_MAX = 1e12
"""No service counts so far; what is above is no number."""
_VARIABILITY_MAX = 25.0
"""Squared coefficient of variation of lengths; DeepSeek-R1's inputs have 10 (alibaba/ServeGen)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One cycle's demand: rates a second, lengths and KV in tokens, counts in requests.

    `prompt_tokens` are those of one prompt that no cache has. `context` is the KV of one request in
    a decoder's batch, where long answers weigh more, `decode_residual` the tokens that one which is
    running has still to go.
    """

    requests_per_s: float | None
    prompt_tokens_per_s: float | None
    prompt_tokens: float | None
    prompt_variability: float
    output_tokens_per_s: float | None
    context: float | None
    decode_residual: float
    running: float | None
    waiting: float
    prompt_queue: float
    pull_s: float
    kv_room: float | None


def number(signal: Signal | None) -> float | None:
    """Return a signal's value, None where it is unknown or no engine can mean it."""
    return None if signal is None or not 0 <= signal.value <= VALUE_MAX else signal.value


def seen(snapshot: Snapshot) -> Seen:
    """Read one cycle's demand."""
    demand, prompt, decoder = snapshot.demand, snapshot.prompt, snapshot.decoder
    requests = _whole(prompt.arrival_rate, demand.requests_per_s)
    length = _first(demand.input_len, prompt.input_len)
    share = min(1.0, _or(_first(demand.uncached_share, prompt.uncached_share), 1.0))
    uncached = None if length is None else length * share
    prompt_rate = _times(requests, uncached)
    if prompt_rate is None:
        # What is computed is what is asked for, until the role is full.
        prompt_rate = number(prompt.token_rate)
        uncached = prompt_rate / requests if prompt_rate and requests else None
    output = _first(demand.output_len, decoder.output_len)
    output_rate = _times(requests, output)
    residual = _residual(output, _first(demand.output_len_sq, decoder.output_len_sq))
    running = _whole(decoder.running, demand.decode_running)
    pulled = _or(number(decoder.transfer_wait), 0.0)
    return Seen(
        requests_per_s=requests,
        prompt_tokens_per_s=prompt_rate,
        prompt_tokens=uncached,
        prompt_variability=_variability(length, _first(demand.input_len_sq, prompt.input_len_sq)),
        output_tokens_per_s=number(decoder.token_rate) if output_rate is None else output_rate,
        context=_held(snapshot) or _sum(length, residual),
        decode_residual=_or(residual, 0.0),
        running=running,
        # KV that nobody has pulled yet waits for the same decoders.
        waiting=max(
            _or(number(decoder.queue), 0.0) + pulled,
            _or(number(prompt.kv_export_backlog), 0.0),
        ),
        prompt_queue=_or(number(prompt.queue), 0.0),
        pull_s=pulled / requests if requests else 0.0,
        kv_room=_kv_room(snapshot),
    )


def _whole(now: Signal | None, smoothed: Signal | None) -> float | None:
    """Return a role's sum as it is now; where nodes are not seen the usual one if that is more."""
    value, usual = number(now), number(smoothed)
    if value is None or usual is None:
        return usual if value is None else value
    return max(value, usual) if now is not None and now.is_lower_bound else value


def _held(snapshot: Snapshot) -> float | None:
    """Return the KV of one running request as decoders hold it now."""
    tokens, running = snapshot.demand.decode_tokens, number(snapshot.demand.decode_running)
    held = number(tokens)
    if tokens is None or not held or not running or running < 1 or tokens.is_lower_bound:
        return None
    return held / running


def _kv_room(snapshot: Snapshot) -> float | None:
    """Guess how many tokens of KV one decoder has room for, from what part of it is used.

    For nodes that do not say. What is held is smoothed and the part is not, so that it is too
    little while the load grows.
    """
    held, used = snapshot.demand.decode_tokens, number(snapshot.decoder.kv_used_mean)
    tokens = number(held)
    if held is None or held.is_lower_bound or not tokens or not used or used < _USED_MIN:
        return None
    return tokens / min(1.0, used) / max(1, snapshot.decoder.fresh)


_USED_MIN = 0.05
"""Below it the rest is guessed from too little."""


def _residual(mean: float | None, square: float | None) -> float | None:
    """Return E[X²] / 2 E[X]: what is left, on average, of one that is under way."""
    if not mean:
        return None
    return mean / 2 * (1.0 + (1.0 if square is None else _variability(mean, square)))


def _variability(mean: float | None, square: float | None) -> float:
    if not mean or square is None:
        return 1.0
    found = square / mean / mean - 1.0
    return min(max(0.0, found), _VARIABILITY_MAX) if math.isfinite(found) else 1.0


def _first(*signals: Signal | None) -> float | None:
    return next((value for s in signals if (value := number(s)) is not None), None)


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _times(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else min(a * b, VALUE_MAX)


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None else a + (b or 0.0)
