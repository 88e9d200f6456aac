"""Small fleets whose times are exact: every constant is a sum of few powers of two."""

import numpy as np

from pd_autoscaler.engine_model.profile import DEMO, EngineProfile, profile_of
from pd_autoscaler.model.node import Role
from pd_autoscaler.sim.fleet.requests.fleet import RequestFleet
from pd_autoscaler.workload.arrivals import Arrivals

EXACT = profile_of(
    {
        "name": "exact",
        "prefill_points": ((1, 0.25), (65, 0.5), (129, 1.5)),
        "prefill_tokens_max": 64,
        "prefill_attention_s": 2.0**-16,
        "decode_base_s": 2.0**-4,
        "decode_per_request_s": 2.0**-7,
        "decode_per_token_s": 2.0**-10,
        "batch_max": 3,
        "kv_tokens": 160,
        "kv_block_tokens": 1,
        "kv_bytes_per_token": 1,
        "pull_bytes_per_s": 256.0,
    }
)
"""Sums of these times have no rounding, so that two ways to add them up give the same bits."""


def fleet_of(
    prompts: int, decoders: int, profile: EngineProfile = DEMO, *, is_compiled: bool = True
) -> RequestFleet:
    """Return a fleet of published nodes, the prompt nodes in the first slots."""
    fleet = RequestFleet(profile, is_compiled=is_compiled)
    for role, count in ((Role.PROMPT, prompts), (Role.DECODER, decoders)):
        for _ in range(count):
            fleet.publish(fleet.add(role))
    return fleet


def poisson(count: int, request_per_s: float, seed: int, *, tokens: int = 1000) -> Arrivals:
    """Return Poisson arrivals with inputs and outputs of many lengths, some of them cached."""
    drawn = np.random.default_rng(seed)
    inputs = drawn.integers(1, 2 * tokens, count)
    return Arrivals(
        at_s=np.cumsum(drawn.exponential(1 / request_per_s, count)),
        input_tokens=inputs,
        output_tokens=drawn.integers(1, 200, count),
        cached_tokens=(inputs - 1) // drawn.integers(2, 9, count),
    )
