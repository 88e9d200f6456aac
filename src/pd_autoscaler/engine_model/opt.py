"""OPT models on A100 (80 GB), from the coefficients that DistServe's simulator was fitted with.

LLMServe/DistServe, Apache-2.0: prefill takes a + b times tokens + c times the squares of the
prompts' lengths, a decode step a + b times context tokens + c times requests, with other
coefficients from 95 requests on. A profile has one set: that of fewer requests, which is why its
batches end at 94.
"""

from typing import NamedTuple

from pd_autoscaler.engine_model.profile import EngineProfile
from pd_autoscaler.engine_model.published import FLIP, START, VLLM_BLOCK, VLLM_HOLD, Published

_CONTEXT_MAX = 2048
_SMALL_BATCH_MAX = 94
_NIC_BYTES_PER_S = 87e9 / 8


class _Fitted(NamedTuple):
    """DistServe's coefficients in milliseconds, in the order of its file."""

    prefill: tuple[float, float, float]
    decode: tuple[float, float, float]


def _published(
    name: str,
    about: str,
    fitted: _Fitted,
    *,
    kv_tokens: int,
    kv_bytes: int,
    gpus: int,
    parallel: str,
) -> Published:
    base_ms, token_ms, square_ms = fitted.prefill
    step_ms, context_ms, request_ms = fitted.decode
    profile = EngineProfile(
        name=name,
        prefill_points=tuple(
            (tokens, (base_ms + token_ms * tokens) / 1000) for tokens in (1, _CONTEXT_MAX)
        ),
        prefill_attention_s=square_ms / 1000,
        prefill_tokens_max=_CONTEXT_MAX,
        decode_base_s=step_ms / 1000,
        decode_per_request_s=request_ms / 1000,
        decode_per_token_s=context_ms / 1000,
        batch_max=_SMALL_BATCH_MAX,
        kv_tokens=kv_tokens,
        kv_block_tokens=16,
        kv_bytes_per_token=kv_bytes,
        kv_hold_s=480.0,
        pull_bytes_per_s=gpus * _NIC_BYTES_PER_S,
        start_s=155.0,
        flip_s=1.0,
    )
    coefficients = "DistServe's profiler of A100: a, b, c of "
    return Published(
        profile,
        about,
        {
            "prefill_points": f"{coefficients}prefill, a + b times tokens",
            "prefill_attention_s": f"{coefficients}prefill, c",
            "prefill_tokens_max": "OPT's longest context",
            "decode_base_s": f"{coefficients}decoding below 95 requests, a",
            "decode_per_request_s": f"{coefficients}decoding below 95 requests, c",
            "decode_per_token_s": f"{coefficients}decoding below 95 requests, b",
            "batch_max": "from 95 requests on DistServe has other coefficients",
            "kv_tokens": f"DistServe's simulator, {parallel}",
            "kv_block_tokens": VLLM_BLOCK,
            "kv_bytes_per_token": "2 x layers x width x 2 bytes",
            "kv_hold_s": VLLM_HOLD,
            "pull_bytes_per_s": (
                "an eighth of 87 GB/s for each GPU: Mooncake's transfer engine over 4 x 200 Gb/s "
                "of eight GPUs (FAST '25)"
            ),
            "start_s": START,
            "flip_s": FLIP,
        },
    )


OPT_13B = _published(
    "opt-13b-a100",
    "OPT-13B, one A100",
    _Fitted(
        (18.10254647486372, 0.1019122572698738, 7.122264314252114e-06),
        (19.934702624895458, 0.0006269356524350583, 0.03850697740828398),
    ),
    kv_tokens=66_144,
    kv_bytes=2 * 40 * 5120 * 2,
    gpus=1,
    parallel="tensor parallel 1",
)

OPT_66B = _published(
    "opt-66b-a100",
    "OPT-66B, four A100 (tensor parallel 4)",
    _Fitted(
        (29.441636037717455, 0.151352180625198, 8.317450765979451e-06),
        (30.760284619429587, 0.000451947603788462, 0.063284195750671),
    ),
    kv_tokens=78_512,
    kv_bytes=2 * 64 * 9216 * 2,
    gpus=4,
    parallel="four GPUs (pipeline parallel 4)",
)
