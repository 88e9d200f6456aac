"""Lead times, measured from the moves of nodes."""

import pytest

from pd_autoscaler.core.lead_times import SAMPLES_MAX, LeadTimes, measured
from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.model.report import Move
from pd_autoscaler.model.snapshot import LeadTime

S = NodeState


def move(before: NodeState, after: NodeState, before_s: float = 5.0, node_id: str = "n") -> Move:
    return Move(node_id, Role.PROMPT, before, after, "", before_s)


def test_each_phase_of_a_life_is_measured() -> None:
    life = [
        move(S.STARTING, S.INITIALISING, 60),
        move(S.INITIALISING, S.LINKING, 8),
        move(S.LINKING, S.SERVING, 3),
        move(S.SERVING, S.DRAINING, 3600),
        move(S.DRAINING, S.UNLINKING, 40),
        move(S.UNLINKING, S.STOPPING, 2),
    ]

    assert measured(LeadTimes(), life).percentiles() == {
        "start": LeadTime(60, 60, 1),
        "init": LeadTime(8, 8, 1),
        "link": LeadTime(3, 3, 1),
        "drain": LeadTime(40, 40, 1),
        "unlink": LeadTime(2, 2, 1),
    }


@pytest.mark.parametrize(
    "unfinished",
    [
        move(S.STARTING, S.FAILED),
        move(S.INITIALISING, S.STOPPING),
        move(S.LINKING, S.UNLINKING),
        move(S.DRAINING, S.SERVING),
        move(S.STANDBY, S.LINKING),
    ],
)
def test_a_phase_that_did_not_end_as_it_should_is_not_measured(unfinished: Move) -> None:
    assert measured(LeadTimes(), [unfinished]).percentiles() == {}


def test_a_repaired_link_is_not_a_new_nodes_link() -> None:
    memory = measured(LeadTimes(), [move(S.SERVING, S.LINKING, 100)])
    memory = measured(memory, [move(S.LINKING, S.SERVING, 77)])
    assert memory.percentiles() == {}

    memory = measured(memory, [move(S.LINKING, S.SERVING, 3)])
    assert memory.percentiles() == {"link": LeadTime(3, 3, 1)}


def test_the_median_and_the_95th_percentile_are_those_of_the_newest_samples() -> None:
    old = [move(S.LINKING, S.SERVING, 1000.0)] * 30
    new = [move(S.LINKING, S.SERVING, float(i)) for i in range(1, SAMPLES_MAX + 1)]

    memory = measured(LeadTimes(), old + new)

    assert memory.percentiles() == {"link": LeadTime(25, 48, SAMPLES_MAX)}


def test_a_node_that_was_found_running_tells_nothing_of_how_long_one_takes() -> None:
    found = [
        move(S.STARTING, S.LINKING, 0),
        move(S.LINKING, S.SERVING, 0.1),
        move(S.SERVING, S.DRAINING, 500),
        move(S.DRAINING, S.UNLINKING, 7),
    ]
    memory = measured(LeadTimes(), found)
    assert set(memory.percentiles()) == {"drain"}
    # Under the same name a new one may start.
    new = [move(S.STARTING, S.LINKING, 30), move(S.LINKING, S.SERVING, 4)]
    assert set(measured(memory, new).percentiles()) == {"start", "link", "drain"}
