"""Waves of link calls: 16 at a time at each endpoint, and the busiest one counts."""

import pytest

from pd_autoscaler.core.call_waves import call_waves
from pd_autoscaler.core.ranks import RankMapping, rank_pairs
from pd_autoscaler.model.node import Endpoint
from pd_autoscaler.model.plan import Peer


def peer(first_id: int, mapping: RankMapping, decoder: int, prompt: int) -> Peer:
    pairs = rank_pairs(mapping, decoder, prompt)
    ends = tuple(Endpoint(p, first_id + p, "127.0.0.1", 26000 + p) for _, p in pairs)
    return Peer(f"p{first_id}", "", ends, tuple(d for d, _ in pairs))


@pytest.mark.parametrize(
    ("peers", "waves"),
    [
        ([], 1),
        ([Peer("p1", "", ())], 1),
        ([peer(100 * i, RankMapping.MODULO, 1, 1) for i in range(16)], 1),
        ([peer(100 * i, RankMapping.MODULO, 1, 1) for i in range(17)], 2),
        ([peer(100 * i, RankMapping.MODULO, 8, 8) for i in range(16)], 1),
        ([peer(0, RankMapping.ALL_TO_ALL, 16, 16)], 1),
        ([peer(0, RankMapping.ALL_TO_ALL, 4, 17)], 2),
    ],
    ids=[
        "nothing",
        "no endpoint",
        "as many as run at once",
        "one more",
        "many ranks, few calls each",
        "each with each",
        "more far ranks than run at once",
    ],
)
def test_calls_take_as_many_waves_as_the_busiest_rank_needs(peers: list[Peer], waves: int) -> None:
    assert call_waves(peers) == waves


def test_a_far_rank_that_many_of_the_callers_ranks_call_needs_waves_too() -> None:
    assert call_waves([peer(0, RankMapping.ALL_TO_ALL, 33, 1)]) == 3
