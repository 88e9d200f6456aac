"""What a known profile comes with: where each of its numbers was published."""

from collections.abc import Mapping
from dataclasses import dataclass

from pd_autoscaler.engine_model.profile import EngineProfile


@dataclass(frozen=True, slots=True)
class Published:
    """A profile, what it is of in a sentence, and the source of each of its numbers by field."""

    profile: EngineProfile
    about: str
    sources: Mapping[str, str]


VLLM_BLOCK = "vLLM's default block size"
VLLM_HOLD = "vLLM's NIXL connector gives KV up that nobody pulled in 480 s"
VLLM_BATCH = "vLLM's long-standing default of max_num_seqs"
FLIP = (
    "assumed: an engine that can play both roles changes its label (Arrow, TokenScale: below 1 s)"
)
START = "SageServe's simulator: a node serves 155 s after it was asked for"
