"""DeepSeek-R1 in 8 bits on one server of eight Ascend 910C, from what CloudMatrix384 published.

The paper (arXiv 2506.12708) gives rates per NPU package: 6,688 prompt tokens a second, and 1,943
output tokens a second below 50 ms a token or 538 below 15 ms. It served with experts spread over
many servers; a node here is a server's share of that. By Little's law a rate times the time of a
token is the batch: 97.2 requests at 50 ms and 8.07 at 15 ms on each NPU. The line through these two
points is the decode step, and of its slope the part that reads a request's KV goes with its tokens.
"""

from pd_autoscaler.engine_model.profile import EngineProfile
from pd_autoscaler.engine_model.published import FLIP, VLLM_HOLD, Published

_NPUS = 8
_PREFILL_PER_S = 6688.0
_RELAXED_PER_S, _RELAXED_S = 1943.0, 0.050
_STRICT_PER_S, _STRICT_S = 538.0, 0.015

_CONTEXT = 4096
"""Tokens a request holds at both points: assumed, as the paper's abstract does not say."""

_KV_BYTES = (512 + 64) * 61 * 2
_HBM_BYTES_PER_S = 3.2e12

_SLOPE_S = (_RELAXED_S - _STRICT_S) / (_RELAXED_PER_S * _RELAXED_S - _STRICT_PER_S * _STRICT_S)
_BASE_S = _RELAXED_S - _SLOPE_S * _RELAXED_PER_S * _RELAXED_S
_PER_TOKEN_S = _KV_BYTES / _HBM_BYTES_PER_S

_FLOPS_PER_SQUARE = 61 * 128 * (192 + 128)
"""Multiply-adds of causal attention for n² tokens: layers, heads, and their two products' widths;
two operations each, on half of the square."""

_FLOPS = _NPUS * 752e12 * 0.5
_ATTENTION_S = _FLOPS_PER_SQUARE / _FLOPS
_PREFILL_TOKENS = 16384
_PREFILL_SQUARES = _PREFILL_TOKENS * _CONTEXT
_PREFILL_S = _PREFILL_TOKENS / (_NPUS * _PREFILL_PER_S)

_CLOUDMATRIX = "CloudMatrix384 (arXiv 2506.12708)"

R1_910C = Published(
    EngineProfile(
        name="deepseek-r1-910c",
        prefill_points=(
            (1, _BASE_S),
            (_PREFILL_TOKENS, _PREFILL_S - _ATTENTION_S * _PREFILL_SQUARES),
        ),
        prefill_attention_s=_ATTENTION_S,
        prefill_tokens_max=_PREFILL_TOKENS,
        decode_base_s=_BASE_S,
        decode_per_request_s=(_SLOPE_S - _PER_TOKEN_S * _CONTEXT) / _NPUS,
        decode_per_token_s=_PER_TOKEN_S / _NPUS,
        batch_max=_NPUS * 97,
        kv_tokens=3_560_000,
        kv_block_tokens=128,
        kv_bytes_per_token=_KV_BYTES,
        kv_hold_s=480.0,
        pull_bytes_per_s=_NPUS * 23.5e9,
        start_s=600.0,
        flip_s=1.0,
    ),
    "DeepSeek-R1 in 8 bits, one server of eight Ascend 910C",
    {
        "prefill_points": (
            f"{_CLOUDMATRIX}: 8 x 6,688 tokens/s in batches of 16,384 tokens (prompts of 4,096, "
            "assumed); a batch of nothing takes the base of a decode step"
        ),
        "prefill_attention_s": (
            "derived: 61 layers x 128 heads x (192 + 128) multiply-adds at half of 8 x 752 TFLOPS"
        ),
        "prefill_tokens_max": "assumed: the upper end of what engines use",
        "decode_base_s": (
            f"{_CLOUDMATRIX}: the line through 1,943 tokens/s at 50 ms and 538 at 15 ms on an NPU"
        ),
        "decode_per_request_s": (
            "the slope of that line over 8 NPUs, less the KV of 4,096 tokens (assumed)"
        ),
        "decode_per_token_s": "derived: the KV of a token, read at 8 x 3.2 TB/s",
        "batch_max": f"{_CLOUDMATRIX}: 97 requests on an NPU at 50 ms, the most that was measured",
        "kv_tokens": "0.9 of 8 x 128 GB, less 671 GB of weights, over the bytes of a token",
        "kv_block_tokens": "vLLM-Ascend's block size",
        "kv_bytes_per_token": "MLA: (512 + 64) x 61 layers x 2 bytes, 68.6 KiB",
        "kv_hold_s": VLLM_HOLD,
        "pull_bytes_per_s": "hicann/hixl on A3: 23.5 GB/s of RoCE, device to device, on each NPU",
        "start_s": "assumed: mixture-of-experts models of this size take 5 to 20 minutes",
        "flip_s": FLIP,
    },
)
