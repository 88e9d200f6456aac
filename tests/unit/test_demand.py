"""Demand: smoothed, aged, and not taken for less where nodes are not seen."""

from collections.abc import Sequence

import pytest

from pd_autoscaler.core.demand import DemandMemory, demand, observed
from pd_autoscaler.model.capacity import Demand
from pd_autoscaler.model.signals import RoleSignals, Signal

HALF_LIFE_S = 60.0
AGE_MAX_S = 30.0
NOTHING = RoleSignals()


def prompt(
    rate: float | None,
    *,
    serving: int = 1,
    fresh: int = 1,
    age_s: float = 0.0,
    is_least: bool = False,
) -> RoleSignals:
    signal = None if rate is None else Signal(rate, age_s, is_least)
    return RoleSignals(serving=serving, fresh=fresh, arrival_rate=signal)


def fed(*cycles: tuple[float, RoleSignals], memory: DemandMemory | None = None) -> DemandMemory:
    """Show prompt roles at moments to a memory."""
    memory = memory or DemandMemory()
    for now_s, role in cycles:
        memory = observed(memory, role, NOTHING, None, now_s=now_s, half_life_s=HALF_LIFE_S)
    return memory


def long(rate: float, *, serving: int = 1, fresh: int = 1) -> Sequence[tuple[float, RoleSignals]]:
    """Make cycles of one rate that go back beyond any half-life."""
    seen = prompt(rate, serving=serving, fresh=fresh)
    return ((-6000.0, seen), (0.0, seen))


def rate_of(memory: DemandMemory, now_s: float) -> Signal | None:
    return demand(memory, now_s=now_s, age_max_s=AGE_MAX_S).requests_per_s


def test_demand_is_smoothed_by_its_half_life() -> None:
    memory = fed(*long(10), (60, prompt(20)))

    assert rate_of(memory, 60) == Signal(15, 0)


def test_cycles_between_two_pages_weigh_no_more_than_one() -> None:
    often = fed(*long(10), *((float(i), prompt(20)) for i in range(1, 61)))

    got = rate_of(often, 60)

    assert got is not None
    assert got.value == pytest.approx(15)


def test_each_signal_comes_from_the_role_that_knows_it() -> None:
    prompts = RoleSignals(
        serving=1,
        fresh=1,
        running=Signal(9, 0),
        arrival_rate=Signal(2, 1),
        uncached_share=Signal(0.7, 0),
        input_len=Signal(900, 0),
        input_len_sq=Signal(1e6, 0, is_lower_bound=True),
        output_len=Signal(1, 0),
    )
    decoders = RoleSignals(
        serving=1,
        fresh=1,
        running=Signal(60, 0),
        arrival_rate=Signal(3, 0),
        input_len=Signal(5, 0),
        output_len=Signal(200, 0),
        output_len_sq=Signal(5e4, 0),
    )
    memory = observed(
        DemandMemory(), prompts, decoders, Signal(7e4, 2), now_s=5, half_life_s=HALF_LIFE_S
    )

    assert demand(memory, now_s=5, age_max_s=AGE_MAX_S) == Demand(
        requests_per_s=Signal(2, 1),
        input_len=Signal(900, 0),
        input_len_sq=Signal(1e6, 0, is_lower_bound=True),
        output_len=Signal(200, 0),
        output_len_sq=Signal(5e4, 0),
        uncached_share=Signal(0.7, 0),
        decode_running=Signal(60, 0),
        decode_tokens=Signal(7e4, 2),
    )


def test_what_nobody_says_any_more_becomes_unknown() -> None:
    memory = fed((0, prompt(10)), *((10.0 * i, prompt(None)) for i in range(1, 9)))

    assert rate_of(memory, 30) == Signal(10, 30)
    assert rate_of(memory, 31) is None
    assert demand(DemandMemory(), now_s=0, age_max_s=AGE_MAX_S) == Demand()


def test_a_signal_that_is_said_again_is_known_again() -> None:
    memory = fed((0, prompt(10)), (6000, prompt(4)))

    got = rate_of(memory, 6000)

    assert got is not None
    assert got.value == pytest.approx(4)


def test_the_age_is_that_of_the_newest_value_not_of_the_cycle() -> None:
    memory = fed((20, prompt(10, age_s=7)))

    assert rate_of(memory, 20) == Signal(10, 7)
    assert rate_of(memory, 50) is None


def test_nodes_that_fall_silent_are_not_users_who_left() -> None:
    before = fed(*long(12, serving=3, fresh=3))

    # One of three is silent: what is seen, 8, fits to 12 in all.
    assert rate_of(fed((60, prompt(8, serving=3, fresh=2)), memory=before), 60) == Signal(12, 0)


def test_a_newcomer_that_is_silent_yet_is_not_more_demand() -> None:
    before = fed((0, prompt(12, serving=1)))

    assert rate_of(fed((60, prompt(12, serving=2, fresh=1)), memory=before), 60) == Signal(12, 0)


def test_what_silent_nodes_cannot_explain_moves_the_demand() -> None:
    before = fed(*long(12, serving=3, fresh=3))

    # Between 2 and 3 a second now, where three nodes had 12; then between 30 and 45.
    less = fed((60, prompt(2, serving=3, fresh=2)), memory=before)
    more = fed((60, prompt(30, serving=3, fresh=2)), memory=before)

    assert (rate_of(less, 60), rate_of(more, 60)) == (Signal(7.5, 0), Signal(21, 0))


def test_a_first_look_that_sees_a_part_does_not_guess_the_rest() -> None:
    assert rate_of(fed((0, prompt(4, serving=4, fresh=2))), 0) == Signal(4, 0)


def test_a_lower_bound_raises_the_demand_but_never_lowers_it() -> None:
    before = fed(*long(10))

    low = fed((60, prompt(2, is_least=True)), memory=before)
    high = fed((60, prompt(20, is_least=True)), memory=before)

    assert rate_of(low, 60) == Signal(10, 0, is_lower_bound=True)
    assert rate_of(high, 60) == Signal(15, 0, is_lower_bound=True)


def test_a_clock_that_goes_back_changes_no_average() -> None:
    memory = fed((100, prompt(10)), (40, prompt(90)))

    assert rate_of(memory, 60) == Signal(10, 20)
