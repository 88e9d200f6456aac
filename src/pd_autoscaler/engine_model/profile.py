"""How long an engine's steps take, and how much KV it holds: numbers only, no clock."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from math import inf
from typing import Any

from pd_autoscaler.errors import ConfigError

Points = tuple[tuple[float, float], ...]
"""(batch tokens, seconds), ascending in both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProfile:
    """One model on one node, in seconds, tokens and bytes.

    `prefill_points` is a table over the tokens of a batch, because one line through it errs by
    12 to 30 % past the knee at 2,048 tokens (Microsoft/splitwise-sim `perf_model.csv`); what grows
    with the square of a prompt's length comes on top, `prefill_attention_s` for each token squared.
    A decode step takes a + b times requests + c times context tokens (DistServe's simulator fits
    the same shapes). Raises ConfigError when a number makes no sense.
    """

    name: str
    prefill_points: Points
    prefill_tokens_max: int
    decode_base_s: float
    decode_per_request_s: float
    decode_per_token_s: float
    batch_max: int
    kv_tokens: int
    kv_block_tokens: int
    kv_bytes_per_token: int
    kv_hold_s: float
    pull_bytes_per_s: float
    start_s: float
    flip_s: float
    prefill_attention_s: float = 0.0

    def __post_init__(self) -> None:
        _check_points(self.prefill_points)
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ConfigError(f"engine profile {self.name}: {name} must be above 0")
        for name in _NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise ConfigError(f"engine profile {self.name}: {name} must not be below 0")
        if self.kv_tokens < self.kv_block_tokens:
            raise ConfigError(f"engine profile {self.name}: kv_tokens is less than one block")

    def prefill_s(self, tokens: int, squares: float = 0.0) -> float:
        """Seconds to prefill a batch of this many tokens; the table's end slopes continue.

        `squares` is the sum over its prompts of n² - p², n being all tokens of a prompt and p those
        that a prefix cache had: attention looks back at cached tokens, too.
        """
        points = self.prefill_points
        at = bisect_left(points, (float(tokens), 0.0))
        at = min(max(at, 1), len(points) - 1)
        (left, left_s), (right, right_s) = points[at - 1], points[at]
        slope = (right_s - left_s) / (right - left)
        return max(left_s + slope * (tokens - left), 0.0) + self.prefill_attention_s * squares

    def decode_step_s(self, requests: int, context_tokens: int) -> float:
        """Seconds of one step that gives each of these requests one token."""
        return (
            self.decode_base_s
            + self.decode_per_request_s * requests
            + self.decode_per_token_s * context_tokens
        )

    def blocks(self, tokens: int) -> int:
        """KV blocks that this many tokens take."""
        return -(-tokens // self.kv_block_tokens)

    @property
    def kv_blocks(self) -> int:
        """KV blocks of one node."""
        return self.kv_tokens // self.kv_block_tokens


_POINTS = "prefill_points"
_POSITIVE = (
    "prefill_tokens_max",
    "batch_max",
    "kv_block_tokens",
    "kv_bytes_per_token",
    "kv_hold_s",
    "pull_bytes_per_s",
)
_NOT_NEGATIVE = (
    "decode_base_s",
    "decode_per_request_s",
    "decode_per_token_s",
    "prefill_attention_s",
    "start_s",
    "flip_s",
)


def _check_points(points: Points) -> None:
    """Raise ConfigError unless the table has two points and rises in both columns."""
    if len(points) < 2:
        raise ConfigError("engine profile: prefill_points needs two points or more")
    for (left, left_s), (right, right_s) in pairwise(points):
        if not (left < right < inf and 0 <= left_s <= right_s < inf):
            raise ConfigError("engine profile: prefill_points must rise in tokens and in seconds")


DEMO = EngineProfile(
    name="demo",
    # About 5,000 tokens/s at a full batch, with splitwise-sim's shape: flat at first, a knee at
    # 2,048 tokens.
    prefill_points=(
        (1, 0.03),
        (256, 0.07),
        (512, 0.12),
        (1024, 0.21),
        (2048, 0.41),
        (4096, 0.92),
        (8192, 2.0),
        (16384, 4.4),
    ),
    prefill_tokens_max=2048,
    # 48 ms at 32 requests of 1,100 tokens each, where 0.8 of the KV is taken: both limits of a
    # decoder show at once, as they do on a well-sized real one.
    decode_base_s=0.018,
    decode_per_request_s=0.0006,
    decode_per_token_s=3.0e-7,
    batch_max=40,
    kv_tokens=49152,
    kv_block_tokens=16,
    # Llama-3-70B and Qwen2.5-72B in 16 bits; one RoCE NIC (hicann/hixl README).
    kv_bytes_per_token=320 * 1024,
    # Long enough for a decoder's queue; vLLM's NIXL connector waits 480 s, too long to watch.
    kv_hold_s=120.0,
    pull_bytes_per_s=23.0e9,
    start_s=4.0,
    flip_s=0.5,
)
"""A small model on small nodes: about 5,000 prompt or 670 output tokens a second each.

Eight of these nodes carry the Azure conversation trace of 2023 at about 5.4 requests a second
(Azure/AzurePublicDataset), with its ratio of input to output moving between 4 and 10.
"""


def profile_of(values: Mapping[str, Any], base: EngineProfile = DEMO) -> EngineProfile:
    """Return `base` with some values replaced, as from JSON; unknown names raise ConfigError."""
    known = {field.name for field in fields(EngineProfile)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"engine profile has no {', '.join(unknown)}; it has {sorted(known)}")
    merged = {**asdict(base), **values}
    try:
        points = tuple((float(tokens), float(seconds)) for tokens, seconds in merged[_POINTS])
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"engine profile: {_POINTS} must be pairs of tokens and seconds ({error})"
        ) from error
    numbers = {
        name: _number(name, value, is_whole=isinstance(getattr(DEMO, name), int))
        for name, value in merged.items()
        if name not in {"name", _POINTS}
    }
    return EngineProfile(name=str(merged["name"]), prefill_points=points, **numbers)


def _number(name: str, value: object, *, is_whole: bool) -> Any:
    """Return a whole number as an int, any other as it is; raise ConfigError for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < inf:
        raise ConfigError(f"engine profile: {name} {value!r} is no number: give one")
    if is_whole and int(value) != value:
        raise ConfigError(f"engine profile: {name} {value!r} is no whole number: give one")
    return int(value) if is_whole else value
