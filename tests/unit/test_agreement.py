"""How far two courses of a standing target are apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.sim.agreement import Agreement, Course, RoleAgreement, Turn, agreement

P, D = frozenset({Role.PROMPT}), frozenset({Role.DECODER})


def compared(
    first: Course, second: Course, *, lasting_s: float = 10.0, turns: tuple[float, ...] = (0.0,)
) -> Agreement:
    return agreement(first, second, from_s=0.0, until_s=100.0, lasting_s=lasting_s, turns=turns)


def test_the_difference_is_averaged_over_time_role_by_role() -> None:
    found = compared(
        [(0, Target(1, 2)), (20, Target(3, 2)), (90, Target(3, 1))],
        [(0, Target(1, 2)), (45, Target(3, 2))],
    )
    # Two nodes for 25 of 100 seconds; one for the last ten.
    assert found.roles == {
        Role.PROMPT: RoleAgreement(0.5, 2, changes=(1, 1), last=(3, 3)),
        Role.DECODER: RoleAgreement(0.1, 0, changes=(1, 0), last=(1, 2)),
    }


@pytest.mark.parametrize(("lasting_s", "for_long"), [(4.0, 3), (5.0, 2), (29.0, 2), (30.0, 1)])
def test_a_difference_is_for_long_only_beyond_the_seconds_asked_for(
    lasting_s: float, for_long: int
) -> None:
    peak = [(0, Target(1, 1)), (10, Target(3, 1)), (20, Target(4, 1)), (25, Target(3, 1))]
    found = compared([(0, Target(1, 1))], [*peak, (40, Target(2, 1))], lasting_s=lasting_s)
    assert found.roles[Role.PROMPT].apart_for_long == for_long


def test_differences_in_opposite_directions_do_not_add_up_to_a_lasting_one() -> None:
    swinging = [(0, Target(2, 1)), (8, Target(4, 1)), (16, Target(2, 1)), (24, Target(3, 1))]
    found = compared([(0, Target(3, 1))], swinging, lasting_s=8.0)
    assert found.roles[Role.PROMPT].apart_for_long == 0
    assert found.roles[Role.PROMPT].apart == pytest.approx(0.24)


def test_what_grew_first_is_compared_from_turn_to_turn() -> None:
    found = compared(
        [(0, Target(1, 1)), (5, Target(1, 2)), (9, Target(2, 2)), (60, Target(1, 2))],
        [(0, Target(1, 1)), (7, Target(2, 2)), (50, Target(3, 2))],
        turns=(0.0, 40.0, 70.0),
    )
    assert found.turns == (
        Turn(0.0, D, P | D),
        Turn(40.0, frozenset(), P),
        Turn(70.0, frozenset(), frozenset()),
    )
    assert [turn.is_agreed for turn in found.turns] == [True, False, True]


def test_only_what_is_inside_the_span_counts() -> None:
    before, after = (-5, Target(7, 1)), (100, Target(9, 1))
    found = compared([before, (-1, Target(2, 1)), after], [(-3, Target(2, 1))])
    assert found.roles[Role.PROMPT] == RoleAgreement(0.0, 0, changes=(0, 0), last=(2, 2))


@pytest.mark.parametrize("course", [[], [(0.5, Target(1, 1))]])
def test_a_course_that_begins_too_late_is_refused(course: Course) -> None:
    with pytest.raises(ConfigError, match="from 0 s on"):
        compared([(0, Target(1, 1))], course)


def test_a_span_of_no_length_is_refused() -> None:
    course = [(0, Target(1, 1))]
    with pytest.raises(ConfigError, match="no span"):
        agreement(course, course, from_s=5.0, until_s=5.0, lasting_s=1.0, turns=())


courses = st.lists(
    st.tuples(st.floats(0, 99), st.builds(Target, st.integers(1, 9), st.integers(1, 9))),
    max_size=12,
).map(lambda moves: [(0.0, Target(1, 1)), *sorted(moves, key=lambda move: move[0])])


@given(courses)
def test_a_course_agrees_with_itself(course: Course) -> None:
    found = compared(course, course, turns=(0.0, 50.0))
    assert all(seen.apart == seen.apart_for_long == 0 for seen in found.roles.values())
    assert all(turn.is_agreed for turn in found.turns)


@given(courses, courses)
def test_the_order_of_the_two_makes_no_difference(first: Course, second: Course) -> None:
    there, back = compared(first, second), compared(second, first)
    for role in Role:
        assert there.roles[role].apart == pytest.approx(back.roles[role].apart)
        assert there.roles[role].apart_for_long == back.roles[role].apart_for_long
        assert there.roles[role].apart_for_long <= 8
        assert there.roles[role].changes == back.roles[role].changes[::-1]
