"""Node rates: what one node of each role can take, from learnt capacities and lengths of requests.

Of several classes of a role at work the weakest counts: no signal says which node is of which, and
who plans with the weakest is never short. Numbers that no engine can have are unknown.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pd_autoscaler.model.capacity import Demand, NodeCapacity
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import Signal
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.premises import fresh_signals

KV_USED_MIN = 0.01
"""KV use below which it does not tell how many tokens fit: what is rounded is too large a part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Mean lengths of requests in tokens; None is unknown.

    `computed` is the part of an input that no prefix cache had, `context` the KV that a request in
    a decoder's batch holds.
    """

    computed: float | None = None
    context: float | None = None
    output: float | None = None


@dataclass(frozen=True, slots=True)
class FullBatch:
    """The batch at which a decoder is full: requests, seconds of a step, and what bounds it."""

    requests: float
    step_s: float
    bound: str

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second that a decoder generates when it is full."""
        return self.requests / self.step_s


@dataclass(frozen=True, slots=True)
class RequestRates:
    """Requests a second that one node of each role can take."""

    prompt: float
    decoder: float


def lengths(demand: Demand) -> Lengths:
    """Return today's lengths.

    Long outputs are in more of the batches: the mean output of a request found in one is
    E[O^2] / E[O], and half of it is there on average.
    """
    asked, output = positive(demand.input_len), positive(demand.output_len)
    uncached = positive(demand.uncached_share)
    squares = positive(demand.output_len_sq)
    met = squares / output if squares is not None and output is not None else output
    return Lengths(
        computed=None if asked is None else asked * (1.0 if uncached is None else min(uncached, 1)),
        context=None if asked is None or met is None else asked + met / 2,
        output=output,
    )


def prompt_tokens_per_s(snapshot: Snapshot) -> float | None:
    """Return the prompt tokens a second that one prompt node computes, None if not learnt."""
    rates = (_usable(c.prefill_tokens_per_s) for c in _at_work(snapshot, Role.PROMPT))
    return min((rate for rate in rates if rate is not None), default=None)


def full_batch(snapshot: Snapshot, told: Lengths, *, tpot_s: float) -> FullBatch | None:
    """Return the batch with which one decoder takes `tpot_s` a token, or less if its KV is full.

    None if its steps are not learnt, or the lengths are needed and unknown. Beyond the largest
    batch that was seen it is extrapolated; the engine's own bound on a batch is not known here.
    """
    room = _kv_tokens(snapshot)
    found = (
        _filled(capacity, told.context, room, tpot_s)
        for capacity in _at_work(snapshot, Role.DECODER)
    )
    known = [batch for batch in found if batch is not None]
    return min(known, key=lambda batch: batch.tokens_per_s, default=None)


def request_rates(snapshot: Snapshot, told: Lengths, *, tpot_s: float) -> RequestRates | None:
    """Return what one node of each role can take of such requests, None if that is not known."""
    tokens_per_s = prompt_tokens_per_s(snapshot)
    batch = full_batch(snapshot, told, tpot_s=tpot_s)
    if tokens_per_s is None or batch is None or told.computed is None or told.output is None:
        return None
    return RequestRates(tokens_per_s / told.computed, batch.tokens_per_s / told.output)


def positive(signal: Signal | None) -> float | None:
    """Return the value of a signal that is a number above zero, else None."""
    return _usable(signal.value) if signal is not None else None


def _usable(value: float | None) -> float | None:
    # What is so large or small that products of two are no numbers is no rate and no length.
    return value if value is not None and 1e-9 < value < 1e12 else None


def _at_work(snapshot: Snapshot, role: Role) -> Iterable[NodeCapacity]:
    engines = {s.engine or "unknown" for s in fresh_signals(snapshot, role)}
    return [
        capacity
        for capacity in snapshot.capacity
        if capacity.role is role and capacity.node_class.partition("/")[0] in engines
    ]


def _filled(
    capacity: NodeCapacity, context: float | None, room: float | None, tpot_s: float
) -> FullBatch | None:
    base_s, request_s = capacity.step_base_s, capacity.step_per_request_s
    token_s = capacity.step_per_token_s
    if base_s is None or request_s is None or token_s is None:
        return None
    if token_s and context is None:
        return None
    each_s = request_s + token_s * (context or 0.0)
    # Written so that a NaN is not known either.
    if not 0 < base_s < tpot_s or _usable(each_s) is None:
        return None
    requests, bound = (tpot_s - base_s) / each_s, f"{tpot_s * 1000:.3g} ms a token"
    if room is not None and context is not None and room / context < requests:
        requests, bound = room / context, "its KV"
    if requests < 1:
        requests, bound = 1.0, "one request"
    return FullBatch(requests, base_s + each_s * requests, bound)


def _kv_tokens(snapshot: Snapshot) -> float | None:
    """Return how many tokens of KV fit on a decoder, None where the load does not tell."""
    held, used = positive(snapshot.demand.decode_tokens), positive(snapshot.decoder.kv_used_mean)
    serving = snapshot.decoder.fresh
    if held is None or used is None or not serving or not KV_USED_MIN <= used <= 1:
        return None
    return held / serving / used if math.isfinite(held) else None
