"""Agreement: how far two controllers of the same load, such as a daemon and its simulation, part.

A course is the standing target at each moment that it was seen; it stands until the next one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.node import Role

Course = Sequence[tuple[float, Target]]
"""(seconds, standing target), in order of time."""


@dataclass(frozen=True, slots=True)
class RoleAgreement:
    """One role of two courses, the first one's number before the second one's.

    `apart` is the absolute difference in nodes, averaged over time; `apart_for_long` the largest
    one, in one direction, that lasted longer than was asked for. `changes` counts the moves of
    each, `last` is where each of them ended.
    """

    apart: float
    apart_for_long: int
    changes: tuple[int, int]
    last: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Turn:
    """Which roles grew first in each of two courses, from one turn of the load to the next.

    Both roles where they grew at one moment, none where nothing grew.
    """

    at_s: float
    first: frozenset[Role]
    second: frozenset[Role]

    @property
    def is_agreed(self) -> bool:
        """Whether a role was the first to grow in both, or nothing grew in either."""
        return bool(self.first & self.second) or self.first == self.second


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two courses compared, by role and by turn of the load."""

    roles: Mapping[Role, RoleAgreement]
    turns: tuple[Turn, ...]


def agreement(
    first: Course,
    second: Course,
    *,
    from_s: float,
    until_s: float,
    lasting_s: float,
    turns: Sequence[float],
) -> Agreement:
    """Compare two courses over a span of time.

    A difference is one for long if it lasts longer than `lasting_s`; `turns` are the moments, in
    order, from which growth is looked for. Raises ConfigError for a span of no length, and for a
    course that begins after it does.
    """
    if not from_s < until_s:
        raise ConfigError(f"from {from_s:g} to {until_s:g} s is no span: give from < until")
    for course in (first, second):
        if not course or course[0][0] > from_s:
            raise ConfigError(f"a course must have a target from {from_s:g} s on")
    cut = tuple(_cut(course, from_s, until_s) for course in (first, second))
    spans = pairwise((*turns, until_s))
    return Agreement(
        {role: _of_role(role, *cut, until_s=until_s, lasting_s=lasting_s) for role in Role},
        tuple(
            Turn(at_s, *(_grown_first(course, at_s, to_s) for course in cut))
            for at_s, to_s in spans
        ),
    )


def _cut(course: Course, from_s: float, until_s: float) -> Course:
    """Return the moves of a course within a span, after the target that it began with."""
    begun = [target for at_s, target in course if at_s <= from_s][-1]
    cut = [(from_s, begun)]
    for at_s, target in course:
        if from_s < at_s < until_s and target != cut[-1][1]:
            cut.append((at_s, target))
    return cut


def _of_role(
    role: Role, first: Course, second: Course, *, until_s: float, lasting_s: float
) -> RoleAgreement:
    steps = list(_differences(role, first, second, until_s))
    whole_s = sum(lasted_s for lasted_s, _ in steps)
    return RoleAgreement(
        apart=sum(lasted_s * abs(nodes) for lasted_s, nodes in steps) / whole_s,
        apart_for_long=max(
            _for_long([(lasted_s, sign * nodes) for lasted_s, nodes in steps], lasting_s)
            for sign in (1, -1)
        ),
        changes=(_changes(role, first), _changes(role, second)),
        last=(first[-1][1].of(role), second[-1][1].of(role)),
    )


def _differences(
    role: Role, first: Course, second: Course, until_s: float
) -> Iterator[tuple[float, int]]:
    """Yield how long each difference lasted, and how many nodes more the second one wanted."""
    moments = sorted({at_s for course in (first, second) for at_s, _ in course})
    for at_s, to_s in pairwise((*moments, until_s)):
        yield to_s - at_s, _standing(second, at_s).of(role) - _standing(first, at_s).of(role)


def _standing(course: Course, at_s: float) -> Target:
    return [target for since_s, target in course if since_s <= at_s][-1]


def _for_long(steps: Sequence[tuple[float, int]], lasting_s: float) -> int:
    """Return the most nodes by which the difference was above for longer than so many seconds."""
    for nodes in range(max(nodes for _, nodes in steps), 0, -1):
        lasted_s = 0.0
        for step_s, apart in steps:
            lasted_s = lasted_s + step_s if apart >= nodes else 0.0
            if lasted_s > lasting_s:
                return nodes
    return 0


def _changes(role: Role, course: Course) -> int:
    return sum(before.of(role) != after.of(role) for (_, before), (_, after) in pairwise(course))


def _grown_first(course: Course, from_s: float, until_s: float) -> frozenset[Role]:
    """Return the roles that grew in the first move within a span that made any role grow."""
    for (_, before), (at_s, after) in pairwise(course):
        grown = frozenset(role for role in Role if after.of(role) > before.of(role))
        if from_s <= at_s < until_s and grown:
            return grown
    return frozenset()
