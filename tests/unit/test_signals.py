"""Canonical signals of nodes and roles, from readings with their ages."""

import math
from collections.abc import Sequence

import pytest

from pd_autoscaler.core.signals import Signals, node_signals, observed, role_signals
from pd_autoscaler.model.facts import Facts
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.signals import Reading, RoleSignals, Signal
from tests.support.pages import node, reading

INF = math.inf
P0, P1 = node("p0"), node("p1")
D0, D1 = node("d0", Role.DECODER), node("d1", Role.DECODER)


def seen(nodes: Sequence[Node], *readings: Reading, memory: Signals | None = None) -> Signals:
    """Show readings to a memory in the order of their times."""
    memory = memory or Signals()
    for at_s in sorted({r.at_s for r in readings}):
        now = {r.node_id: r for r in readings if r.at_s == at_s}
        memory = observed(memory, Facts(now_s=at_s, now_unix_s=0.0, readings=now), nodes)
    return memory


def role_of(
    memory: Signals,
    nodes: Sequence[Node],
    role: Role = Role.PROMPT,
    *,
    now_s: float = 10.0,
    window_s: float = 30.0,
    age_max_s: float = 30.0,
) -> RoleSignals:
    return role_signals(memory, nodes, role, now_s=now_s, window_s=window_s, age_max_s=age_max_s)


def loads(waiting: float, running: float = 0.0, kv_used: float = 0.0) -> dict[str, float]:
    return {"waiting": waiting, "running": running, "kv_used": kv_used}


def test_a_role_sums_its_counts_and_averages_its_ratios() -> None:
    memory = seen(
        [P0, P1, D0],
        reading("p0", 10, gauges=loads(3, 1, 0.2)),
        reading("p1", 10, gauges=loads(5, 2, 0.6)),
        reading("d0", 10, gauges=loads(70, 70, 0.7)),
    )

    got = role_of(memory, [P0, P1, D0], now_s=12)

    assert (got.serving, got.fresh) == (2, 2)
    assert got.queue == Signal(8, 2)
    assert got.running == Signal(3, 2)
    assert got.kv_used_mean == Signal(0.4, 2)
    assert got.kv_used_max == Signal(0.6, 2)
    assert got.transfer_wait is None


def test_only_serving_nodes_count() -> None:
    draining = node("p1", state=NodeState.DRAINING)
    nodes = [P0, draining]
    memory = seen(nodes, reading("p0", 10, gauges=loads(3)), reading("p1", 10, gauges=loads(5)))

    got = role_of(memory, nodes)

    assert (got.serving, got.queue) == (1, Signal(3, 0))


def test_a_stale_or_silent_node_is_unknown_and_not_in_the_sums() -> None:
    silent = node("p2")
    nodes = [P0, P1, silent]
    memory = seen(nodes, reading("p0", 0, gauges=loads(90)), reading("p1", 25, gauges=loads(4)))

    got = role_of(memory, nodes, now_s=31, age_max_s=30)
    each = node_signals(memory, nodes, now_s=31, age_max_s=30)

    assert (got.serving, got.fresh, got.queue) == (3, 1, Signal(4, 6))
    assert (each["p0"].is_fresh, each["p0"].age_s, each["p0"].queue) == (False, 31, None)
    assert (each["p1"].is_fresh, each["p1"].age_s, each["p1"].queue) == (True, 6, Signal(4, 6))
    assert (each["p2"].is_fresh, each["p2"].age_s) == (False, None)


def test_a_role_of_which_nothing_is_known_says_so() -> None:
    got = role_of(Signals(), [P0])

    assert got == RoleSignals(serving=1, fresh=0)


def test_a_node_whose_page_repeats_while_it_has_work_is_frozen() -> None:
    pages = [
        reading("p0", 10 * i, gauges=loads(3, 1), counters={"requests_finished": 5})
        for i in range(5)
    ]

    fresh = [
        node_signals(seen([P0], *pages[: i + 1]), [P0], now_s=10 * i, age_max_s=30)["p0"].is_fresh
        for i in range(5)
    ]

    assert fresh == [True, True, True, True, False]
    assert role_of(seen([P0], *pages), [P0], now_s=40).fresh == 0


def test_an_idle_node_whose_page_repeats_is_not_frozen() -> None:
    pages = [
        reading("p0", 10 * i, gauges=loads(0), counters={"requests_finished": 5}) for i in range(9)
    ]

    assert role_of(seen([P0], *pages), [P0], now_s=80).fresh == 1


def test_arrivals_are_counted_where_they_enter() -> None:
    memory = seen(
        [P0],
        reading("p0", 0, gauges=loads(0, 1), counters={"requests_finished": 100}),
        reading("p0", 10, gauges=loads(25, 6), counters={"requests_finished": 110}),
    )

    # 10 ended, and 30 more are inside: at completions alone it would be one a second.
    assert role_of(memory, [P0]).arrival_rate == Signal(4, 0)


def test_arrivals_are_never_negative() -> None:
    memory = seen(
        [P0],
        reading("p0", 0, gauges=loads(30, 0), counters={"requests_finished": 100}),
        reading("p0", 10, gauges=loads(0, 0), counters={"requests_finished": 101}),
    )

    assert role_of(memory, [P0]).arrival_rate == Signal(0, 0)


def test_arrivals_are_unknown_without_what_they_are_made_of() -> None:
    memory = seen(
        [P0],
        reading("p0", 0, counters={"requests_finished": 100}),
        reading("p0", 10, counters={"requests_finished": 101}),
    )

    assert role_of(memory, [P0]).arrival_rate is None


def test_each_role_counts_its_own_tokens() -> None:
    both = {"prompt_tokens": 100.0, "generation_tokens": 10.0}
    later = {"prompt_tokens": 600.0, "generation_tokens": 60.0}
    memory = seen(
        [P0, D0],
        *(reading(i, 0, counters=both) for i in ("p0", "d0")),
        *(reading(i, 10, counters=later) for i in ("p0", "d0")),
    )

    assert role_of(memory, [P0, D0], Role.PROMPT).token_rate == Signal(50, 0)
    assert role_of(memory, [P0, D0], Role.DECODER).token_rate == Signal(5, 0)


def test_quantiles_are_over_all_nodes_of_the_window() -> None:
    def page(node_id: str, at_s: float, low: float, high: float) -> Reading:
        rows = ((0.5, low), (2.0, low + high), (INF, low + high))
        return reading(node_id, at_s, histograms={"ttft_s": rows})

    memory = seen(
        [P0, P1], page("p0", 0, 9, 9), page("p1", 0, 9, 9), page("p0", 10, 19, 9),
        page("p1", 10, 9, 19),
    )  # fmt: skip

    # In the window 10 took up to 0.5 s and 10 up to 2 s.
    got = role_of(memory, [P0, P1]).ttft_p95_s
    assert got is not None
    assert got.value == pytest.approx(1.85)
    assert not got.is_lower_bound


def test_a_quantile_of_the_top_bucket_is_marked_as_a_lower_bound() -> None:
    memory = seen(
        [P0],
        reading("p0", 0, histograms={"ttft_s": ((10.0, 0), (INF, 0))}),
        reading("p0", 10, histograms={"ttft_s": ((10.0, 148), (INF, 400))}),
    )

    assert role_of(memory, [P0]).ttft_p95_s == Signal(10, 0, is_lower_bound=True)


def test_lengths_are_sum_over_count_in_the_window() -> None:
    memory = seen(
        [D0, D1],
        *(
            reading(i, 0, counters={"output_len_sum": 900, "output_len_count": 1})
            for i in ("d0", "d1")
        ),
        reading("d0", 10, counters={"output_len_sum": 1300, "output_len_count": 3}),
        reading("d1", 10, counters={"output_len_sum": 1000, "output_len_count": 4}),
    )

    assert role_of(memory, [D0, D1], Role.DECODER).output_len == Signal(100, 0)
    assert role_of(memory, [D0, D1], Role.DECODER).input_len is None


def test_a_signal_is_as_old_as_the_oldest_page_behind_it() -> None:
    memory = seen([P0, P1], reading("p0", 4, gauges=loads(1)), reading("p1", 9, gauges=loads(1)))

    assert role_of(memory, [P0, P1]).queue == Signal(2, 6)


def test_a_new_process_or_a_new_role_begins_a_new_history() -> None:
    memory = seen([D0], reading("d0", 0, counters={"preemptions": 0.0}))

    for reborn in (node("d0", Role.DECODER, incarnation="b"), node("d0", Role.PROMPT)):
        later = seen([reborn], reading("d0", 10, counters={"preemptions": 7.0}), memory=memory)
        assert role_of(later, [reborn], reborn.role).preempt_rate is None

    same = seen([D0], reading("d0", 10, counters={"preemptions": 7.0}), memory=memory)
    assert role_of(same, [D0], Role.DECODER).preempt_rate == Signal(0.7, 0)


def test_a_node_that_is_no_more_is_forgotten() -> None:
    memory = seen([P0, P1], reading("p0", 0, gauges=loads(1)))

    assert [key[0] for key in seen([P1], reading("p1", 10), memory=memory).histories] == ["p1"]


def test_a_window_longer_than_the_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="window of 60 s over a memory of 30 s"):
        role_of(Signals(keep_s=30), [P0], window_s=60)
