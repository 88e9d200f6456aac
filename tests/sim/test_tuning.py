from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.sim.tuning import (
    Dimension,
    Part,
    Search,
    dimension_of,
    loss_of,
    split,
)
from pd_autoscaler.workload.arrivals import Arrivals

HEADROOM = Dimension(name="headroom", low=0.5, high=1.5)
WINDOW = Dimension(name="window", low=1, high=20, is_integer=True)


@dataclass(frozen=True, slots=True)
class Found:
    node_hours: float
    attainment: float


class Valley:
    """Costs 10 node-hours at `best`, more around it, and counts what it was asked."""

    def __init__(self, *, best: float = 0.9, held_out_best: float | None = None) -> None:
        self.best = {
            Part.TUNED: best,
            Part.HELD_OUT: best if held_out_best is None else held_out_best,
        }
        self.asked: list[tuple[Part, Mapping[str, object]]] = []

    def __call__(self, params: Mapping[str, object], part: Part) -> Found:
        self.asked.append((part, dict(params)))
        headroom = params["headroom"]
        assert isinstance(headroom, float)
        return Found(10.0 + 40.0 * (headroom - self.best[part]) ** 2, 0.995)


def search_of(evaluate: Valley, *, default: float = 1.3, seed: int = 0) -> Search:
    return Search(
        evaluate, [HEADROOM], default={"headroom": default}, attainment_min=0.99, seed=seed
    )


def test_the_search_finds_the_valley() -> None:
    search = search_of(Valley())
    list(search.trials(40))

    assert search.best is not None
    assert search.best.params["headroom"] == pytest.approx(0.9, abs=0.05)


def test_the_default_is_tried_first_so_that_the_best_is_never_worse() -> None:
    valley = Valley(best=1.3)
    search = search_of(valley)
    list(search.trials(5))

    assert valley.asked[0] == (Part.TUNED, {"headroom": 1.3})
    assert "keep those" in search.verdict().words


def test_the_same_seed_gives_the_same_trials_and_another_seed_others() -> None:
    tried = [
        [trial.params["headroom"] for trial in search_of(Valley(), seed=seed).trials(8)]
        for seed in (3, 3, 4)
    ]

    assert tried[0] == tried[1]
    assert tried[0] != tried[2]


def test_only_the_verdict_looks_at_the_held_out_part() -> None:
    valley = Valley()
    search = search_of(valley)
    list(search.trials(6))
    assert {part for part, _ in valley.asked} == {Part.TUNED}

    verdict = search.verdict()
    assert [part for part, _ in valley.asked[6:]].count(Part.HELD_OUT) == 2
    assert verdict.tuned.losses[Part.HELD_OUT] < verdict.default.losses[Part.HELD_OUT]
    assert not verdict.is_over_fitted
    assert "better on what they have not seen" in verdict.words


def test_what_is_worse_on_the_held_out_part_is_called_over_fitted() -> None:
    search = search_of(Valley(best=0.6, held_out_best=1.3))
    list(search.trials(30))
    verdict = search.verdict()

    assert verdict.is_over_fitted
    assert verdict.words.startswith("Over-fitted: held out, the tuned parameters take ")
    assert "the default ones 10.00 node-hours at 99.50%" in verdict.words


def test_a_search_that_is_left_early_keeps_the_best_so_far() -> None:
    search = search_of(Valley())
    trials = search.trials(1000)
    losses = [next(trials).loss for _ in range(12)]

    assert search.best is not None
    assert search.best.loss == min(losses)
    assert search.verdict().tuned.params == search.best.params


def test_parameters_that_a_policy_refuses_are_passed_over() -> None:
    valley = Valley()

    def evaluate(params: Mapping[str, object], part: Part) -> Found:
        headroom = params["headroom"]
        assert isinstance(headroom, float)
        if headroom < 1.0:
            raise ConfigError("headroom must not be below 1")
        return valley(params, part)

    search = Search(evaluate, [HEADROOM], default={"headroom": 1.3}, attainment_min=0.99, seed=0)
    tried = list(search.trials(30))

    assert 0 < len(tried) < 30
    assert search.best is not None
    assert search.best.params["headroom"] == pytest.approx(1.0, abs=0.1)


def test_a_policy_that_refuses_everything_says_why() -> None:
    def evaluate(params: Mapping[str, object], part: Part) -> Found:
        raise ConfigError("no such parameter")

    search = Search(evaluate, [HEADROOM], default={}, attainment_min=0.99, seed=0)
    with pytest.raises(ConfigError, match="no such parameter"):
        list(search.trials(3))


def test_whole_numbers_are_tried_once_each_however_often_they_are_drawn() -> None:
    asked: list[object] = []

    def evaluate(params: Mapping[str, object], part: Part) -> Found:
        asked.append(params["window"])
        assert isinstance(params["window"], int)
        return Found(abs(params["window"] - 7), 1.0)

    search = Search(evaluate, [WINDOW], default={"window": 20}, attainment_min=0.99, seed=0)
    assert len(list(search.trials(60))) == 60

    assert len(asked) == len(set(asked)) <= 20
    assert search.best is not None
    assert search.best.params["window"] == 7


def test_the_loss_is_the_cost_above_the_target_and_rises_without_a_jump_below_it() -> None:
    costs = [loss_of(Found(10.0, attained), 0.99) for attained in (1.0, 0.99, 0.9899, 0.98, 0.9)]

    assert costs[:2] == [10.0, pytest.approx(10.0)]
    assert costs[2] == pytest.approx(10.2, abs=0.01)
    assert costs[3:] == [pytest.approx(40.0), pytest.approx(1000.0)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("headroom=0.5..1.5", HEADROOM),
        ("window=1..20", WINDOW),
        (" gain = -1..1e-1", Dimension(name="gain", low=-1.0, high=0.1)),
    ],
)
def test_a_range_is_read_as_it_is_written(text: str, expected: Dimension) -> None:
    assert dimension_of(text) == expected


@pytest.mark.parametrize("text", ["headroom", "=1..2", "a=1", "a=1..x", "a=2..1", "a=1..nan"])
def test_what_is_no_range_is_refused_by_its_text_or_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is no range|the range of a is"):
        dimension_of(text)


def test_a_trace_is_cut_in_time_and_its_second_part_begins_at_zero() -> None:
    parts = split(arrivals_at(0.0, 1.0, 6.0, 9.0, 10.0), 0.4)

    assert list(parts[Part.TUNED].at_s) == [0.0, 1.0]
    assert list(parts[Part.HELD_OUT].at_s) == [0.0, 3.0, 4.0]


@pytest.mark.parametrize("held_out", [0.0, 1.0, 1.5])
def test_all_or_nothing_cannot_be_held_out(held_out: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        split(arrivals_at(0.0, 1.0), held_out)


def test_a_trace_of_one_moment_cannot_be_cut() -> None:
    with pytest.raises(ConfigError, match="of one moment"):
        split(arrivals_at(0.0, 0.0), 0.5)


def test_a_part_with_a_single_request_is_no_part() -> None:
    with pytest.raises(ConfigError, match="held out has 1 request"):
        split(arrivals_at(0.0, 1.0, 2.0, 9.0), 0.5)


def arrivals_at(*at_s: float) -> Arrivals:
    ones = np.ones(len(at_s), np.int64)
    return Arrivals(np.array(at_s), ones, ones, np.zeros(len(at_s), np.int64))
