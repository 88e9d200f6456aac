"""Ranks: which endpoints of two nodes are linked."""

from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.core.ranks import RankMapping, rank_pairs

COUNTS = st.integers(1, 9)


def test_equal_ranks_are_paired_one_to_one_and_unequal_ones_cannot_be() -> None:
    assert rank_pairs(RankMapping.ONE_TO_ONE, 2, 2) == ((0, 0), (1, 1))
    assert rank_pairs(RankMapping.ONE_TO_ONE, 2, 4) == ()


def test_the_smaller_side_goes_round_until_each_of_the_larger_has_a_partner() -> None:
    assert rank_pairs(RankMapping.MODULO, 2, 4) == ((0, 0), (1, 1), (0, 2), (1, 3))
    assert rank_pairs(RankMapping.MODULO, 3, 2) == ((0, 0), (1, 1), (2, 0))


def test_all_to_all_pairs_each_with_each() -> None:
    assert rank_pairs(RankMapping.ALL_TO_ALL, 2, 2) == ((0, 0), (0, 1), (1, 0), (1, 1))


def test_a_node_without_ranks_is_linked_to_nobody() -> None:
    for mapping in RankMapping:
        assert rank_pairs(mapping, 0, 2) == rank_pairs(mapping, 2, 0) == ()


@given(st.sampled_from([RankMapping.MODULO, RankMapping.ALL_TO_ALL]), COUNTS, COUNTS)
def test_every_rank_of_both_sides_has_a_partner_and_rank_0_the_most(
    mapping: RankMapping, decoder: int, prompt: int
) -> None:
    pairs = rank_pairs(mapping, decoder, prompt)
    assert len(set(pairs)) == len(pairs)
    for side, count in ((0, decoder), (1, prompt)):
        loads = [sum(pair[side] == rank for pair in pairs) for rank in range(count)]
        assert min(loads) >= 1
        assert max(loads) == loads[0]
