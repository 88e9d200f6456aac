"""A prefix cache: which part of a prompt was computed before, and is still held."""

import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence

from pd_autoscaler.errors import ConfigError


class PrefixCache:
    """Blocks of prompts that all prompt nodes share; the one used longest ago goes first.

    It holds `size_tokens` (infinite: all that ever were) in blocks of `block_tokens`. Raises
    ConfigError for a size that is no number or below 0.
    """

    def __init__(self, size_tokens: float, *, block_tokens: int) -> None:
        if not size_tokens >= 0:
            raise ConfigError(f"cache_tokens is {size_tokens}: give 0 or more, or infinity")
        self._blocks_max = size_tokens // block_tokens if size_tokens < math.inf else math.inf
        self._block_tokens = block_tokens
        self._blocks: OrderedDict[Hashable, None] = OrderedDict()

    def cached_tokens(self, blocks: Sequence[Hashable], input_tokens: int) -> int:
        """Return how many leading tokens of a prompt are held, and hold the whole of it from now.

        `blocks` name the prompt's blocks in order. The block of the last token is always computed:
        an engine needs the state it leaves behind for the first token of its answer.
        """
        # A trace may name fewer blocks than the prompt has, or more.
        whole = min(len(blocks), (input_tokens - 1) // self._block_tokens)
        found = 0
        while found < whole and blocks[found] in self._blocks:
            found += 1
        # From the end: what a prompt begins with is of use to more prompts than what it ends with.
        for block in reversed(blocks):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._blocks_max:
            self._blocks.popitem(last=False)
        return found * self._block_tokens
