"""Traffic: where a simulated world's requests come from."""

import math
from typing import Protocol

from pd_autoscaler.engine_model.profile import EngineProfile
from pd_autoscaler.model.node import Role
from pd_autoscaler.workload.arrivals import Arrivals, arrivals_of
from pd_autoscaler.workload.request import Request

PROMPT_TOKENS = 2000
TOKEN_S = 0.03
PLAIN = EngineProfile(
    name="plain",
    prefill_points=((1.0, 0.001), (float(PROMPT_TOKENS), 0.5)),
    prefill_tokens_max=PROMPT_TOKENS,
    decode_base_s=TOKEN_S,
    decode_per_request_s=0.0,
    decode_per_token_s=0.0,
    batch_max=32,
    kv_tokens=160_000,
    kv_block_tokens=16,
    kv_bytes_per_token=1,
    kv_hold_s=120.0,
    pull_bytes_per_s=1e9,
    start_s=4.0,
    flip_s=0.5,
)
"""Engines of round numbers: a prompt node does two usual requests a second, a decoder gives each of
up to 32 requests a token in 30 ms, however many they are."""
PATIENCE_S = 60.0
"""After so long without being looked at a request's user has gone."""


class Traffic(Protocol):
    """Requests that arrive as time goes on."""

    def until(self, now_s: float) -> Arrivals:
        """Return the requests that were not handed over yet, up to now at least."""
        ...


class Steady:
    """Requests one after the other, evenly, at a rate and with answers that may change at any time.

    `rate` is in requests a second; a decoder of PLAIN engines works `answer_s` on each of them.
    Whoever changes them has the world flow up to the present first. Nothing of it is left to
    chance, so that a fleet under a load that holds has no reason to move.
    """

    def __init__(self, *, rate: float, answer_s: float = 16.0) -> None:
        self._now_s = 0.0
        self._progress = 0.0
        self.rate = rate
        self.answer_s = answer_s

    @property
    def nodes_needed(self) -> float:
        """How many PLAIN nodes of both roles this load would use up, not rounded to whole ones."""
        return self.nodes_of(Role.PROMPT) + self.nodes_of(Role.DECODER)

    def nodes_of(self, role: Role) -> float:
        """How many PLAIN nodes of a role this load would use up."""
        each_s = PLAIN.prefill_s(PROMPT_TOKENS)
        return self.rate * (each_s if role is Role.PROMPT else self.answer_s / PLAIN.batch_max)

    def until(self, now_s: float) -> Arrivals:
        """Return the requests that arrived since it was last asked, up to now."""
        before_s, before = self._now_s, self._progress
        self._now_s = max(self._now_s, now_s)
        # `progress` counts requests: each time it passes a whole number one more arrives.
        self._progress += self.rate * (self._now_s - before_s)
        tokens = max(1, round(self.answer_s / TOKEN_S))
        return arrivals_of(
            Request(before_s + max(number - before, 0.0) / self.rate, PROMPT_TOKENS, tokens)
            for number in range(math.floor(before) + 1, math.floor(self._progress) + 1)
        )


_NOBODY = arrivals_of(())


class Recorded:
    """The requests of a trace, at their own times; they are handed over at once."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._left = arrivals

    def until(self, now_s: float) -> Arrivals:
        """Return all requests the first time, those of the future as well."""
        del now_s
        left, self._left = self._left, _NOBODY
        return left
