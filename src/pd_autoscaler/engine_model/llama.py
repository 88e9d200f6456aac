"""Llama-2-70B with vLLM on one DGX of eight GPUs (tensor parallel 8), as splitwise-sim measured it.

Tables are medians of splitwise-sim's `perf_model.csv` (github.com/Mutinifni/splitwise-sim, MIT),
less what `prefill_attention_s` adds to prompts of that length. Single prompts give the points up to
8,192 tokens, batches of prompts of 512 tokens those above.
"""

from pd_autoscaler.engine_model.profile import EngineProfile, Points
from pd_autoscaler.engine_model.published import (
    FLIP,
    START,
    VLLM_BATCH,
    VLLM_BLOCK,
    VLLM_HOLD,
    Published,
)

_H100_ATTENTION_S = 5.24e-10
_A100_ATTENTION_S = 1.66e-9

_SINGLE_MAX = 8192
_BATCHED_PROMPT = 512


def _without_attention(measured: Points, attention_s: float) -> Points:
    """Return a measured table without the time that grows with the square of the prompts."""
    return tuple(
        (
            tokens,
            seconds - attention_s * tokens * (tokens if tokens <= _SINGLE_MAX else _BATCHED_PROMPT),
        )
        for tokens, seconds in measured
    )


_SPLITWISE = "splitwise-sim perf_model.csv, llama2-70b, tensor parallel 8"
_SHARED_SOURCES = {
    "prefill_points": f"{_SPLITWISE}: medians of prompt_time",
    "prefill_tokens_max": f"{_SPLITWISE}: past the knee at 2,048 a token takes 1.4 times as long",
    "decode_base_s": f"{_SPLITWISE}: least squares of the relative error over token_time",
    "decode_per_request_s": "as decode_base_s",
    "decode_per_token_s": "as decode_base_s",
    "batch_max": f"{VLLM_BATCH}; measured were batches up to 64",
    "kv_tokens": "0.9 of 8 x 80 GB, less 140 GB of weights in 16 bits, over the bytes of a token",
    "kv_block_tokens": VLLM_BLOCK,
    "kv_bytes_per_token": "2 x 80 layers x 8 KV heads x 128 x 2 bytes (Mooncake: 320 KB)",
    "kv_hold_s": VLLM_HOLD,
    "start_s": START,
    "flip_s": FLIP,
}

H100 = Published(
    EngineProfile(
        name="llama-2-70b-h100",
        # Up to 512 tokens the measured times (58, 52, 54 ms) differ by their noise only; the first
        # point is a little lower, as a table must not fall once the squares are taken out.
        prefill_points=_without_attention(
            (
                (1, 0.0537),
                (512, 0.0539),
                (1024, 0.0779),
                (2048, 0.1368),
                (4096, 0.3903),
                (8192, 0.8449),
                (16384, 1.5517),
                (32768, 2.9363),
            ),
            _H100_ATTENTION_S,
        ),
        prefill_attention_s=_H100_ATTENTION_S,
        prefill_tokens_max=2048,
        decode_base_s=0.0299,
        decode_per_request_s=1.99e-4,
        decode_per_token_s=1.79e-7,
        batch_max=256,
        kv_tokens=1_330_000,
        kv_block_tokens=16,
        kv_bytes_per_token=320 * 1024,
        kv_hold_s=480.0,
        pull_bytes_per_s=190e9,
        start_s=155.0,
        flip_s=1.0,
    ),
    "Llama-2-70B, vLLM, one DGX H100",
    {
        **_SHARED_SOURCES,
        "prefill_attention_s": (
            f"{_SPLITWISE}: a prompt of 8,192 tokens (845 ms) against 16 of 512 (812 ms)"
        ),
        "pull_bytes_per_s": "Mooncake's transfer engine over 8 x 400 Gb/s (FAST '25)",
    },
)

A100 = Published(
    EngineProfile(
        name="llama-2-70b-a100",
        prefill_points=_without_attention(
            (
                (1, 0.0653),
                (128, 0.0654),
                (256, 0.0668),
                (512, 0.0930),
                (1024, 0.1545),
                (2048, 0.2742),
                (4096, 0.6612),
                (8192, 1.5498),
                (16384, 3.5245),
                (32768, 7.5540),
            ),
            _A100_ATTENTION_S,
        ),
        prefill_attention_s=_A100_ATTENTION_S,
        prefill_tokens_max=2048,
        decode_base_s=0.0441,
        decode_per_request_s=1.90e-4,
        decode_per_token_s=3.35e-7,
        batch_max=256,
        kv_tokens=1_330_000,
        kv_block_tokens=16,
        kv_bytes_per_token=320 * 1024,
        kv_hold_s=480.0,
        pull_bytes_per_s=87e9,
        start_s=155.0,
        flip_s=1.0,
    ),
    "Llama-2-70B, vLLM, one DGX A100",
    {
        **_SHARED_SOURCES,
        # Its batches of short prompts take longer than single long ones: no square fits them.
        "prefill_attention_s": "that of the H100 times 989/312, the peak TFLOPS in 16 bits",
        "pull_bytes_per_s": "Mooncake's transfer engine over 4 x 200 Gb/s (FAST '25)",
    },
)
