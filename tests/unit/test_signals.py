"""Canonical signals of nodes and roles, from readings with their ages."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import pytest

from pd_autoscaler.core.signals import Signals, held_tokens, node_signals, observed, role_signals
from pd_autoscaler.model.facts import Facts
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.signals import NodeSignals, Reading, RoleSignals, Signal
from tests.support.pages import node, reading

INF = math.inf
P0, P1 = node("p0"), node("p1")
D0, D1 = node("d0", Role.DECODER), node("d1", Role.DECODER)


def page(
    node_id: str, at_s: float, *, gauges: Mapping[str, float] | None = None, **rest: Any
) -> Reading:
    """Make a page that says how many wait, as every engine's does."""
    return reading(node_id, at_s, gauges={"waiting": 0.0} if gauges is None else gauges, **rest)


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
    sources = memory.sources(nodes, now_s=now_s, age_max_s=age_max_s, window_s=window_s)
    return role_signals(memory, sources, role)


def loads(waiting: float, running: float = 0.0, kv_used: float = 0.0) -> dict[str, float]:
    return {"waiting": waiting, "running": running, "kv_used": kv_used}


def test_a_role_sums_its_counts_and_averages_its_ratios() -> None:
    memory = seen(
        [P0, P1, D0],
        page("p0", 10, gauges=loads(3, 1, 0.2)),
        page("p1", 10, gauges=loads(5, 2, 0.6)),
        page("d0", 10, gauges=loads(70, 70, 0.7)),
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
    memory = seen(nodes, page("p0", 10, gauges=loads(3)), page("p1", 10, gauges=loads(5)))

    got = role_of(memory, nodes)

    assert (got.serving, got.queue) == (1, Signal(3, 0))


def test_a_stale_or_silent_node_is_unknown_and_not_in_the_sums() -> None:
    silent = node("p2")
    nodes = [P0, P1, silent]
    memory = seen(nodes, page("p0", 0, gauges=loads(90)), page("p1", 25, gauges=loads(4)))

    got = role_of(memory, nodes, now_s=31, age_max_s=30, window_s=30)
    sources = memory.sources(nodes, now_s=31, age_max_s=30, window_s=30)
    each = node_signals(memory, sources)

    assert (got.serving, got.fresh, got.queue) == (3, 1, Signal(4, 6))
    assert (each["p0"].is_fresh, each["p0"].age_s, each["p0"].queue) == (False, 31, None)
    assert (each["p1"].is_fresh, each["p1"].age_s, each["p1"].queue) == (True, 6, Signal(4, 6))
    assert (each["p2"].is_fresh, each["p2"].age_s) == (False, None)


def test_a_role_of_which_nothing_is_known_says_so() -> None:
    got = role_of(Signals(), [P0])

    assert got == RoleSignals(serving=1, fresh=0)


def test_arrivals_are_counted_where_they_enter() -> None:
    memory = seen(
        [P0],
        page("p0", 0, gauges=loads(0, 1), counters={"requests_finished": 100}),
        page("p0", 10, gauges=loads(25, 6), counters={"requests_finished": 110}),
    )

    # 10 ended, and 30 more are inside: at completions alone it would be one a second.
    assert role_of(memory, [P0]).arrival_rate == Signal(4, 0)


def test_arrivals_are_never_negative() -> None:
    memory = seen(
        [P0],
        page("p0", 0, gauges=loads(30, 0), counters={"requests_finished": 100}),
        page("p0", 10, gauges=loads(0, 0), counters={"requests_finished": 101}),
    )

    assert role_of(memory, [P0]).arrival_rate == Signal(0, 0)


def test_arrivals_are_unknown_without_what_they_are_made_of() -> None:
    memory = seen(
        [P0],
        page("p0", 0, counters={"requests_finished": 100}),
        page("p0", 10, counters={"requests_finished": 101}),
    )

    assert role_of(memory, [P0]).arrival_rate is None


def test_each_role_counts_its_own_tokens() -> None:
    both = {"prompt_tokens": 100.0, "generation_tokens": 10.0}
    later = {"prompt_tokens": 600.0, "generation_tokens": 60.0}
    memory = seen(
        [P0, D0],
        *(page(i, 0, counters=both) for i in ("p0", "d0")),
        *(page(i, 10, counters=later) for i in ("p0", "d0")),
    )

    assert role_of(memory, [P0, D0], Role.PROMPT).token_rate == Signal(50, 0)
    assert role_of(memory, [P0, D0], Role.DECODER).token_rate == Signal(5, 0)


def test_quantiles_are_over_all_nodes_of_the_window() -> None:
    def observing(node_id: str, at_s: float, low: float, high: float) -> Reading:
        rows = ((0.5, low), (2.0, low + high), (INF, low + high))
        return page(node_id, at_s, histograms={"ttft_s": rows})

    memory = seen(
        [P0, P1],
        observing("p0", 0, 9, 9),
        observing("p1", 0, 9, 9),
        observing("p0", 10, 19, 9),
        observing("p1", 10, 9, 19),
    )

    # In the window 10 took up to 0.5 s and 10 up to 2 s.
    got = role_of(memory, [P0, P1]).ttft_p95_s
    assert got is not None
    assert got.value == pytest.approx(1.85)
    assert not got.is_lower_bound


def test_a_quantile_of_the_top_bucket_is_marked_as_a_lower_bound() -> None:
    memory = seen(
        [P0],
        page("p0", 0, histograms={"ttft_s": ((10.0, 0), (INF, 0))}),
        page("p0", 10, histograms={"ttft_s": ((10.0, 148), (INF, 400))}),
    )

    assert role_of(memory, [P0]).ttft_p95_s == Signal(10, 0, is_lower_bound=True)


def test_lengths_are_sum_over_count_in_the_window() -> None:
    memory = seen(
        [D0, D1],
        *(
            page(i, 0, counters={"output_len_sum": 900, "output_len_count": 1})
            for i in ("d0", "d1")
        ),
        page("d0", 10, counters={"output_len_sum": 1300, "output_len_count": 3}),
        page("d1", 10, counters={"output_len_sum": 1000, "output_len_count": 4}),
    )

    assert role_of(memory, [D0, D1], Role.DECODER).output_len == Signal(100, 0)
    assert role_of(memory, [D0, D1], Role.DECODER).input_len is None


def test_a_signal_is_as_old_as_the_oldest_page_behind_it() -> None:
    memory = seen([P0, P1], page("p0", 4, gauges=loads(1)), page("p1", 9, gauges=loads(1)))

    assert role_of(memory, [P0, P1]).queue == Signal(2, 6)


def test_a_new_process_or_a_new_role_begins_a_new_history() -> None:
    memory = seen([D0], page("d0", 0, counters={"preemptions": 0.0}))

    for reborn in (node("d0", Role.DECODER, incarnation="b"), node("d0", Role.PROMPT)):
        later = seen([reborn], page("d0", 10, counters={"preemptions": 7.0}), memory=memory)
        assert role_of(later, [reborn], reborn.role).preempt_rate is None

    same = seen([D0], page("d0", 10, counters={"preemptions": 7.0}), memory=memory)
    assert role_of(same, [D0], Role.DECODER).preempt_rate == Signal(0.7, 0)


def test_a_node_that_is_no_more_is_forgotten() -> None:
    memory = seen([P0, P1], page("p0", 0, gauges=loads(1)))

    assert [key[0] for key in seen([P1], page("p1", 10), memory=memory).histories] == ["p1"]


def test_a_window_longer_than_the_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="window of 60 s over a memory of 30 s"):
        role_of(Signals(keep_s=30), [P0], window_s=60)


def of_node(memory: Signals, found: Node = P0, *, now_s: float = 10.0) -> NodeSignals:
    sources = memory.sources([found], now_s=now_s, age_max_s=30, window_s=30)
    return node_signals(memory, sources)[found.id]


def test_a_sum_that_some_nodes_know_nothing_of_is_a_lower_bound() -> None:
    memory = seen(
        [P0, P1],
        *(page("p0", at_s, counters={"preemptions": at_s}) for at_s in (0, 10)),
        page("p1", 10, counters={"preemptions": 70}),
    )

    got = role_of(memory, [P0, P1])

    assert got.preempt_rate == Signal(1, 0, is_lower_bound=True)
    assert got.queue == Signal(0, 0)


def test_arrivals_that_the_engine_counts_need_no_completions() -> None:
    memory = seen(
        [P0],
        page("p0", 0, gauges=loads(9, 9), counters={"requests_received": 50}),
        page("p0", 10, gauges=loads(9, 9), counters={"requests_received": 90}),
    )

    assert role_of(memory, [P0]).arrival_rate == Signal(4, 0)


def test_the_uncached_share_is_of_the_tokens_of_the_window() -> None:
    def cached(node_id: str, at_s: float, computed: float, cached: float) -> Reading:
        counters = {"prompt_tokens": computed, "prompt_tokens_cached": cached}
        return page(node_id, at_s, counters=counters)

    memory = seen(
        [P0, P1],
        cached("p0", 0, 900, 0),
        cached("p0", 10, 1000, 100),
        *(page("p1", at_s, counters={"prompt_tokens": 5000 * at_s}) for at_s in (0, 10)),
    )

    # p1 does not tell what its cache had.
    assert role_of(memory, [P0, P1]).uncached_share == Signal(0.5, 0)


def test_no_tokens_have_no_uncached_share() -> None:
    still = {"prompt_tokens": 7.0, "prompt_tokens_cached": 3.0}
    memory = seen([P0], *(page("p0", at_s, counters=still) for at_s in (0, 10)))

    assert role_of(memory, [P0]).uncached_share is None


def test_expired_kv_and_the_backlog_of_exports_are_told() -> None:
    memory = seen(
        [P0],
        page("p0", 0, gauges={"waiting": 0, "kv_export_backlog": 2}, counters={"kv_expired": 1}),
        page("p0", 10, gauges={"waiting": 0, "kv_export_backlog": 6}, counters={"kv_expired": 4}),
    )

    assert role_of(memory, [P0]).kv_expired_rate == Signal(0.3, 0)
    assert role_of(memory, [P0]).kv_export_backlog == Signal(4, 0)
    assert of_node(memory).kv_export_backlog == Signal(6, 0)


def test_mean_squares_of_lengths_are_scaled_to_their_means() -> None:
    def lengths(at_s: float, count: float) -> Reading:
        counters = {"output_len_sum": 40.0 * count, "output_len_count": count}
        rows = ((20.0, 0.0), (50.0, count), (INF, count))
        return page("d0", at_s, counters=counters, histograms={"output_len": rows})

    got = role_of(seen([D0], lengths(0, 5), lengths(10, 15)), [D0], Role.DECODER).output_len_sq

    assert got is not None
    assert got.value == pytest.approx(1600)
    assert role_of(seen([D0], lengths(0, 5)), [D0], Role.DECODER).output_len_sq is None


def test_a_queue_time_is_never_above_the_time_to_the_first_token() -> None:
    def timed(at_s: float, count: float, first_s: float) -> Reading:
        queue = ((0.3, count), (INF, count))
        first = ((first_s, count), (INF, count))
        return page("p0", at_s, histograms={"queue_time_s": queue, "ttft_s": first})

    got = role_of(seen([P0], timed(0, 0, 0.1), timed(10, 50, 0.1)), [P0])
    assert got.ttft_p95_s is not None
    assert got.queue_time_p95_s == got.ttft_p95_s
    assert got.queue_time_p95_s is not None
    assert got.queue_time_p95_s.value == pytest.approx(0.095)

    slow = role_of(seen([P0], timed(0, 0, 2.0), timed(10, 50, 2.0)), [P0]).queue_time_p95_s
    assert slow is not None
    assert slow.value == pytest.approx(0.285)


def test_a_queue_time_is_not_held_to_a_first_token_that_is_only_a_lower_bound() -> None:
    def timed(at_s: float, count: float) -> Reading:
        queue = ((30.0, count), (INF, count))
        first = ((10.0, 0), (INF, count))
        return page("p0", at_s, histograms={"queue_time_s": queue, "ttft_s": first})

    got = role_of(seen([P0], timed(0, 0), timed(10, 50)), [P0]).queue_time_p95_s

    assert got is not None
    assert got.value == pytest.approx(28.5)


def test_each_node_has_its_own_token_rate() -> None:
    memory = seen(
        [D0, D1],
        *(page("d0", at_s, counters={"generation_tokens": 5 * at_s}) for at_s in (0, 10)),
        page("d1", 10, counters={"generation_tokens": 70}),
    )

    assert of_node(memory, D0).token_rate == Signal(5, 0)
    assert of_node(memory, D1).token_rate is None


def test_the_tokens_that_decoders_hold_are_their_share_of_their_room() -> None:
    def held(node_id: str, kv_used: float, room: float | None) -> Reading:
        gauges = loads(0, 1, kv_used) | ({} if room is None else {"cache_tokens": room})
        return page(node_id, 10, gauges=gauges)

    def tokens(*readings: Reading) -> Signal | None:
        memory = seen(
            [P0, D0, D1], page("p0", 10, gauges={"kv_used": 1, "cache_tokens": 1}), *readings
        )
        sources = memory.sources([P0, D0, D1], now_s=12, age_max_s=30, window_s=30)
        return held_tokens(sources)

    assert tokens(held("d0", 0.5, 1000), held("d1", 0.25, 400)) == Signal(600, 2)
    assert tokens(held("d0", 0.5, 1000), held("d1", 0.25, None)) == Signal(
        500, 2, is_lower_bound=True
    )
    assert tokens(held("d0", 0.5, None)) is None


def test_numbers_that_mean_nothing_are_as_good_as_absent() -> None:
    memory = seen(
        [P0],
        page("p0", 0, gauges=loads(3), counters={"preemptions": math.nan, "kv_expired": -1}),
        page("p0", 10, gauges=loads(3, math.nan), counters={"preemptions": 0, "kv_expired": 0}),
        page("p0", 20, gauges=loads(3, INF), counters={"preemptions": 5, "kv_expired": 7}),
    )

    got = role_of(memory, [P0], now_s=20, window_s=10)

    assert (got.queue, got.running) == (Signal(3, 0), None)
    assert (got.preempt_rate, got.kv_expired_rate) == (Signal(0.5, 0), Signal(0.7, 0))


def test_a_page_from_the_future_does_not_keep_later_ones_out() -> None:
    ahead = replace(page("p0", 10, gauges=loads(1)), at_s=5000.0)
    memory = observed(Signals(), Facts(now_s=10, now_unix_s=0.0, readings={"p0": ahead}), [P0])
    memory = seen([P0], page("p0", 20, gauges=loads(7)), memory=memory)

    assert of_node(memory, now_s=20).queue == Signal(7, 0)


def test_a_signal_counts_the_nodes_that_it_comes_from() -> None:
    def whole(at_s: float) -> Reading:
        rows = ((0.5, at_s), (INF, at_s))
        return page(
            "p0",
            at_s,
            gauges=loads(3, 1, 0.2),
            counters={
                "preemptions": at_s,
                "prompt_tokens": at_s,
                "prompt_tokens_cached": at_s,
                "input_len_sum": at_s,
                "input_len_count": at_s,
            },
            histograms={"ttft_s": rows, "queue_time_s": rows, "input_len": rows},
        )

    bare = [page("p1", at_s, gauges={"waiting": 5.0}) for at_s in (0, 10)]
    got = role_of(seen([P0, P1], whole(0), whole(10), *bare), [P0, P1])

    told = {f.name: s.nodes for f in fields(got) if isinstance(s := getattr(got, f.name), Signal)}
    assert told.pop("queue") == 2
    assert told == dict.fromkeys(
        [
            "queue_time_p95_s",
            "ttft_p95_s",
            "running",
            "kv_used_mean",
            "kv_used_max",
            "token_rate",
            "preempt_rate",
            "uncached_share",
            "input_len",
            "input_len_sq",
        ],
        1,
    )


def test_a_wait_that_no_first_token_ended_comes_from_those_that_wait() -> None:
    def stuck(node_id: str, at_s: float) -> Reading:
        gauges = {"waiting": 4.0, "running": at_s}
        return page(node_id, at_s, gauges=gauges, counters={"n": 1, "ttft_s_count": 9})

    readings = [stuck(node_id, at_s) for node_id in ("p0", "p1") for at_s in (0, 10)]
    got = role_of(seen([P0, P1], *readings), [P0, P1]).ttft_p95_s

    assert got == Signal(10, 0, is_lower_bound=True)
    assert got is not None
    assert got.nodes == 2


def test_tokens_that_some_decoders_hold_come_from_those_that_say_so() -> None:
    known = page("d0", 10, gauges=loads(0, 1, 0.5) | {"cache_tokens": 1000.0})
    memory = seen([D0, D1], known, page("d1", 10))

    sources = memory.sources([D0, D1], now_s=10, age_max_s=30, window_s=30)
    got = held_tokens(sources)

    assert got is not None
    assert got.nodes == 1


FELT = pytest.mark.parametrize(
    ("found", "name", "other"), [(P0, "ttft_s", "tpot_s"), (D0, "tpot_s", "ttft_s")]
)


def untold_of(memory: Signals, found: Node, now_s: float = 10.0) -> frozenset[str]:
    both = [found, replace(found, id=found.id[0] + "1")]
    return role_of(memory, both, found.role, now_s=now_s).untold


@FELT
def test_a_latency_that_no_page_of_a_role_has_is_untold(found: Node, name: str, other: str) -> None:
    rows = {other: ((1.0, 4), (INF, 4))}
    without = page(found.id, 10, counters={"requests_finished": 4}, histograms=rows)

    assert untold_of(seen([found], without), found) == {name}
    # What nobody fresh has said anything of is unknown, as all is.
    assert untold_of(seen([found], without), found, now_s=50) == frozenset()


@FELT
@pytest.mark.parametrize("way", ["histogram", "count"])
def test_a_latency_of_which_nothing_was_observed_is_not_untold(
    found: Node, name: str, other: str, way: str
) -> None:
    del other
    one = {
        "histogram": page(found.id, 10, histograms={name: ((1.0, 0), (INF, 0))}),
        "count": page(found.id, 10, counters={f"{name}_count": 0}),
    }[way]
    second = page(found.id[0] + "1", 10, counters={"requests_finished": 4})
    nodes = [found, replace(found, id=found.id[0] + "1")]

    assert untold_of(seen(nodes, one, second), found) == frozenset()


def test_an_engine_that_did_nothing_yet_leaves_nothing_untold() -> None:
    new = page("p0", 10, gauges=loads(1, 1), counters={"requests_finished": 0})

    assert untold_of(seen([P0], new), P0) == frozenset()


def test_nothing_is_untold_where_pages_are_not_needed() -> None:
    without = page("p0", 10, counters={"requests_finished": 4})

    assert untold_of(seen([P0], without, memory=Signals(pages_needed=False)), P0) == frozenset()


def test_numbers_that_cannot_be_added_up_are_unknown() -> None:
    memory = Signals()
    for at_s in (10, 20):
        huge = reading("p0", at_s, gauges={"waiting": 1, "running": 1e308}, counters={"n": 1e308})
        facts = Facts(now_s=at_s, now_unix_s=0.0, readings={"p0": huge})
        memory = observed(memory, facts, [P0])
    got = role_of(memory, [P0])
    assert (got.fresh, got.running) == (1, None)
