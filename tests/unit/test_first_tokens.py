"""The time to a first token while none comes at all."""

import math
from collections.abc import Sequence

import pytest

from pd_autoscaler.core.first_tokens import waited_p95_s
from pd_autoscaler.core.signals import Signals, observed, role_signals
from pd_autoscaler.core.windows import History
from pd_autoscaler.model.facts import Facts
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import RoleSignals, Signal
from tests.support.pages import node, reading

INF = math.inf


def queued(
    *waiting: float | None, first_tokens: Sequence[float] = (), received: Sequence[float] = ()
) -> History:
    """Make a history of one page each 10 s from how many waited on it."""
    history = History()
    for i, count in enumerate(waiting):
        tokens = first_tokens[i] if first_tokens else 40.0
        counters = {"ttft_s_count": tokens}
        if received:
            counters["requests_received"] = received[i]
        gauges = {} if count is None else {"waiting": count}
        history = history.added(
            reading(at_s=10.0 * i, counters=counters, gauges=gauges), keep_s=300
        )
    return history


def waited(*histories: History, window_s: float = 60.0) -> float | None:
    now_s = max(history.pages[-1].at_s for history in histories)
    return waited_p95_s([h.over(now_s=now_s, window_s=window_s) for h in histories])


def test_those_who_wait_on_every_page_have_waited_since_the_first() -> None:
    assert waited(queued(5, 5, 5, 5)) == 30
    assert waited(queued(0, 5, 5, 5)) == 20
    assert waited(queued(5, 0, 5, 5)) == 10
    assert waited(queued(5, None, 5, 5)) == 10


def test_what_came_before_the_window_is_not_asked() -> None:
    assert waited(queued(5, 5, 5, 5), window_s=20) == 20


def test_those_who_came_later_have_waited_less() -> None:
    # One of a hundred waits since 30 s: that is not the 95th percentile.
    assert waited(queued(1, 1, 50, 100)) == 10
    assert waited(queued(6, 6, 50, 100)) == 30


def test_nothing_is_said_once_a_first_token_came_anywhere() -> None:
    stuck, served = queued(5, 5, 5), queued(5, 5, 5, first_tokens=(40, 40, 41))

    assert waited(stuck) == 20
    assert waited(served) is None
    assert waited(stuck, served) is None


def test_a_queue_that_just_began_or_is_empty_says_nothing() -> None:
    assert waited(queued(0, 0, 3)) is None
    assert waited(queued(0, 0, 0)) is None
    assert waited_p95_s([]) is None


def test_an_engine_without_the_family_or_with_one_page_is_unknown() -> None:
    without = History()
    for at_s in (0.0, 10.0, 20.0):
        without = without.added(reading(at_s=at_s, gauges={"waiting": 9}), keep_s=300)

    assert waited(without) is None
    assert waited(queued(9)) is None
    # It does not keep others from telling.
    assert waited(without, queued(5, 5, 5)) == 20


def test_nodes_are_counted_together() -> None:
    assert waited(queued(95, 95, 95), queued(0, 5, 5)) == 20
    assert waited(queued(4, 4, 4), queued(0, 96, 96)) == 10


def test_prompts_that_only_wait_to_be_pulled_are_not_taken_for_waiting() -> None:
    # None was received in the window: all 7 had their first token before.
    assert waited(queued(7, 7, 7, 7, received=(90, 90, 90, 90))) is None
    assert waited(queued(7, 8, 9, 9, received=(90, 90, 92, 92))) == 10


def of_role(*gauges: float, ttft: Sequence[float]) -> RoleSignals:
    found, memory = node("p0"), Signals()
    for i, (waiting, count) in enumerate(zip(gauges, ttft, strict=True)):
        page = reading(
            "p0",
            10.0 * i,
            gauges={"waiting": waiting, "running": 0.0},
            counters={"prompt_tokens": 100.0 * i, "ttft_s_count": count},
            histograms={"ttft_s": ((0.5, count), (INF, count))},
        )
        facts = Facts(now_s=10.0 * i, now_unix_s=0.0, readings={"p0": page})
        memory = observed(memory, facts, [found])
    now_s = 10.0 * (len(gauges) - 1)
    sources = memory.sources([found], now_s=now_s, age_max_s=30, window_s=30)
    return role_signals(memory, sources, Role.PROMPT)


def test_a_stuck_role_has_a_lower_bound_instead_of_an_unknown_first_token() -> None:
    assert of_role(3, 3, 4, 4, ttft=(9, 9, 9, 9)).ttft_p95_s == Signal(30, 0, is_lower_bound=True)


def test_observed_first_tokens_come_before_those_that_are_waited_for() -> None:
    got = of_role(3, 3, 4, 4, ttft=(9, 9, 9, 19)).ttft_p95_s

    assert got is not None
    assert not got.is_lower_bound
    assert got.value == pytest.approx(0.475)
