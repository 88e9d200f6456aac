"""token-velocity: TokenScale's formulas, prompts by tokens that arrive, decoders by KV set free.

Source: TokenScale. A prompt node takes the less of what it computes (V_P) and what its network
sends (V_N) in tokens a second; prompt nodes = tokens arriving / min(V_P, V_N). A decoder's velocity
V_D is the rate at which finished requests free its KV memory, profiled by length of input and
output; decoders = tokens of arriving requests / V_D. Some decoders are convertible: while prompts
are short of nodes they prefill, too.

Deviations: no signal counts arrivals by length, so that the velocity is that of the mean lengths;
output lengths are those of finished requests, not predicted; a convertible decoder changes its role
until the prompt nodes asked for serve, instead of prefilling in chunks beside its batch.
"""

import math
from typing import Self

from pydantic import Field, model_validator

from pd_autoscaler.model.decision import Decision, Hold, HoldReason
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.contract import Params, PolicySpec
from pd_autoscaler.sim.baselines.seen import count, fitted, load

Bucket = tuple[float, float, float]
"""Input tokens, output tokens, and the tokens of KV that a decoder then sets free a second."""


class TokenVelocityParams(Params):
    """The velocities of one node, and how many decoders are convertible."""

    prompt_tokens_per_s: float = Field(default=5000.0, gt=0)
    """V_P: prompt tokens a second that one prompt node computes."""
    network_tokens_per_s: float = Field(default=1e6, gt=0)
    """V_N: tokens of KV a second that its network sends."""
    decoder_velocities: tuple[Bucket, ...] = ((1000.0, 200.0, 4000.0),)
    """V_D by lengths: the bucket nearest in proportion to the mean lengths counts."""
    headroom: float = Field(default=1.0, ge=0.5, le=3)
    """Factor on all needs; the paper has none."""
    convertible: int = Field(default=0, ge=0)
    """Decoders that prompts in need may borrow."""
    watch_s: float = Field(default=120.0, ge=0)
    """Seconds of watching before the first decision: a deployment that runs has a full window."""

    @model_validator(mode="after")
    def _velocities_are_above_zero(self) -> Self:
        if not self.decoder_velocities or min(min(row) for row in self.decoder_velocities) <= 0:
            raise ValueError("decoder_velocities needs rows of three numbers above 0")
        return self


class TokenVelocity:
    """Sizes each role to the tokens that arrive."""

    def __init__(self, params: TokenVelocityParams) -> None:
        self._params = params
        self._began_s: float | None = None

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return the counts that the tokens of the last window ask for."""
        params = self._params
        if self._began_s is None or snapshot.now_s < self._began_s:
            self._began_s = snapshot.now_s
        if snapshot.now_s < self._began_s + params.watch_s:
            return Hold(HoldReason.WARM_UP, f"watches for {params.watch_s:g} s first")
        seen = load(snapshot)
        if isinstance(seen, Hold):
            return seen
        each = min(params.prompt_tokens_per_s, params.network_tokens_per_s)
        arriving = seen.requests_per_s * seen.computed
        prompt = count(snapshot, Role.PROMPT, params.headroom * arriving / each)
        velocity = self._velocity(seen.input_len, seen.output_len)
        taken = seen.requests_per_s * (seen.input_len + seen.output_len)
        need = math.ceil(min(params.headroom * taken / velocity, 1e6) - 1e-9)
        # The convertible decoders are part of those needed; more of them than that stay as well.
        decoder = count(snapshot, Role.DECODER, max(need, params.convertible))
        lent = min(params.convertible, max(prompt - snapshot.serving(Role.PROMPT), 0))
        decoder = max(decoder - lent, 1)
        why = f"{arriving:.0f} prompt tokens/s at {each:.0f}, {taken:.0f} of KV/s at {velocity:.0f}"
        return fitted(snapshot, prompt, decoder, f"{why}; {lent} lent" if lent else why)

    def _velocity(self, input_len: float, output_len: float) -> float:
        def far(bucket: Bucket) -> float:
            asked, made, _ = bucket
            return abs(math.log(input_len / asked)) + abs(math.log(output_len / made))

        return min(self._params.decoder_velocities, key=far)[2]


SPEC = PolicySpec(params=TokenVelocityParams, build=TokenVelocity)
