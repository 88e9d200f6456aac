"""Which endpoints (accelerator ranks) of a decoder and a prompt node are linked."""

from enum import StrEnum
from functools import lru_cache
from itertools import product


class RankMapping(StrEnum):
    """How the ranks of two nodes are paired.

    `one_to_one` needs equal counts. `modulo` also pairs unequal ones: the side with fewer ranks
    goes round until each rank of the larger side has a partner (unequal tensor-parallel sizes).
    `all_to_all` pairs each with each.
    """

    ONE_TO_ONE = "one_to_one"
    MODULO = "modulo"
    ALL_TO_ALL = "all_to_all"


RankPair = tuple[int, int]
"""(decoder rank, prompt rank)"""


@lru_cache(maxsize=256)
def rank_pairs(mapping: RankMapping, decoder: int, prompt: int) -> tuple[RankPair, ...]:
    """Return the rank pairs of a decoder and a prompt node with so many ranks each.

    Empty if they cannot be paired this way, or if either has no ranks yet.
    """
    if not decoder or not prompt:
        return ()
    match mapping:
        case RankMapping.ONE_TO_ONE:
            return tuple((i, i) for i in range(decoder)) if decoder == prompt else ()
        case RankMapping.MODULO:
            return tuple((i % decoder, i % prompt) for i in range(max(decoder, prompt)))
        case RankMapping.ALL_TO_ALL:
            return tuple(product(range(decoder), range(prompt)))
