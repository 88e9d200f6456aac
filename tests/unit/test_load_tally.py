"""What became of requests: classification, quantiles, counts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.embedded.exchange import Failure, Served
from pd_autoscaler.embedded.summary import leaked
from pd_autoscaler.embedded.tally import FailureKind, Quantiles, Tally, is_lost_to_kill

KILLED = {"prompt-1": 100.0}


def failed(
    *,
    node: str = "prompt-1",
    stage: str = "prompt",
    sent: float = 99,
    at: float = 100,
    prompt: str = "",
) -> Failure:
    return Failure(
        sent_at_s=sent, failed_at_s=at, stage=stage, code="broken", node_id=node, prompt_id=prompt
    )


@pytest.mark.parametrize(
    ("failure", "is_lost"),
    [
        pytest.param(failed(), True, id="on the killed node"),
        pytest.param(failed(at=99.5), True, id="its failure was seen before the node's end"),
        pytest.param(failed(sent=101, at=101), True, id="sent before the end was noticed"),
        pytest.param(failed(sent=50, at=130), True, id="found out late"),
        pytest.param(failed(sent=10, at=20), False, id="failed long before the node's end"),
        pytest.param(failed(sent=110, at=110), False, id="sent to a node long dead"),
        pytest.param(failed(node="prompt-2"), False, id="on another node"),
        pytest.param(failed(node=""), False, id="on no node"),
        pytest.param(
            failed(node="decoder-2", stage="pull", prompt="prompt-1"), True, id="KV on the killed"
        ),
        pytest.param(
            failed(node="decoder-2", stage="decode", prompt="prompt-1"), False, id="KV was pulled"
        ),
        pytest.param(
            failed(node="decoder-2", stage="pull", prompt="prompt-3"), False, id="KV elsewhere"
        ),
        pytest.param(failed(node="", stage="route", prompt="prompt-1"), False, id="no node found"),
    ],
)
def test_a_failure_counts_as_lost_when_the_node_it_was_on_was_killed(
    failure: Failure, is_lost: bool
) -> None:
    assert is_lost_to_kill(failure, KILLED) is is_lost
    assert not is_lost_to_kill(failure, {})


def test_a_failure_seen_before_its_nodes_end_is_settled_once_that_is_seen() -> None:
    tally = Tally()
    tally.offered = 2
    tally.failure(failed(), {})
    tally.failure(failed(node="prompt-2"), {})

    assert tally.settle({}, now_s=100.5) == 0
    assert tally.settle(KILLED, now_s=101) == 1
    assert tally.settle(KILLED, now_s=200) == 1
    assert (tally.failed, tally.in_flight) == (2, 0)


def test_a_failure_is_not_settled_by_an_end_seen_too_late() -> None:
    tally = Tally()
    tally.failure(failed(), {})

    assert tally.settle({}, now_s=150) == 0
    assert tally.settle(KILLED, now_s=151) == 0


def test_failures_are_counted_by_stage_code_and_node_the_most_frequent_first() -> None:
    tally = Tally()
    for failure in (failed(node="a"), failed(node="b"), failed(node="b"), failed(stage="pull")):
        tally.failure(failure, {})

    assert tally.kinds()[0] == FailureKind("prompt", "broken", "b", 2)
    assert {kind.node_id for kind in tally.kinds()} == {"a", "b", "prompt-1"}


def test_any_number_of_failures_on_any_number_of_nodes_is_kept_in_bounds() -> None:
    tally = Tally()
    for number in range(12_000):
        tally.failure(failed(node=f"n{number}"), {})

    assert len(tally.kinds()) == 1001
    assert sum(kind.count for kind in tally.kinds()) == tally.failed == 12_000
    assert tally.settle({"n11999": 100.0}, now_s=101) == 1


@given(st.lists(st.floats(1e-4, 1e4), min_size=1), st.sampled_from([0.5, 0.95, 1.0]))
def test_quantiles_are_right_to_one_percent(values: list[float], share: float) -> None:
    quantiles = Quantiles()
    for value in values:
        quantiles.add(value)

    exact = sorted(values)[math.ceil(share * len(values)) - 1]
    assert quantiles.at(share) == pytest.approx(exact, rel=0.01)


def test_without_values_there_is_no_quantile() -> None:
    assert Quantiles().at(0.5) is None
    assert Tally().recent_ttft_s(0.5, now_s=0) is None


def test_recent_ttft_forgets_what_is_ten_seconds_old() -> None:
    tally = Tally()
    for now_s, ttft_s in ((0, 9.0), (15, 1.0), (16, 2.0), (17, 3.0)):
        tally.served(Served(ttft_s=ttft_s, tpot_s=None, tokens=1), now_s=now_s)

    assert tally.recent_ttft_s(0.5, now_s=20) == 2.0
    assert tally.recent_ttft_s(0.95, now_s=20) == 3.0
    assert tally.recent_ttft_s(0.95, now_s=40) is None
    assert tally.tpot.at(0.5) is None


@pytest.mark.parametrize(
    ("tables", "leaks"),
    [
        pytest.param({}, set(), id="no node"),
        pytest.param({1: {11}, 2: set(), 11: {1}}, set(), id="both ends"),
        pytest.param({1: {11}}, {(1, 11)}, id="the peer exists no more"),
        pytest.param({1: {11}, 11: set()}, {(1, 11)}, id="the peer lacks its end"),
        pytest.param({1: {11}, 11: None}, set(), id="the peer cannot be read"),
        pytest.param({1: None, 11: {1, 2}}, {(11, 2)}, id="what can be read still counts"),
    ],
)
def test_an_entry_without_its_other_end_is_leaked(
    tables: dict[int, set[int] | None], leaks: set[tuple[int, int]]
) -> None:
    frozen = {own: None if peers is None else frozenset(peers) for own, peers in tables.items()}

    assert leaked(frozen) == leaks
