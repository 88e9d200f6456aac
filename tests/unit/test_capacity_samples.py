"""What one node's window shows of its capacity, and what windows show nothing."""

from collections.abc import Mapping

import pytest

from pd_autoscaler.core.capacity_samples import (
    DecodeStep,
    PrefillRate,
    decode_step,
    prefill_rate,
    window_end_s,
)
from pd_autoscaler.core.windows import History
from pd_autoscaler.model.snapshot import Bottleneck
from tests.support.pages import reading

WINDOW_S = 30.0
END_S = 30.0


def pages(*rows: Mapping[str, float], period_s: float = 10.0) -> History:
    """Make a history of pages at a steady pace."""
    history = History()
    for index, row in enumerate(rows):
        counters = {name: value for name, value in row.items() if name in COUNTERS}
        gauges = {name: value for name, value in row.items() if name not in COUNTERS}
        page = reading(at_s=index * period_s, gauges=gauges, counters=counters)
        history = history.added(page, keep_s=300)
    return history


COUNTERS = {
    "tpot_s_sum",
    "tpot_s_count",
    "preemptions",
    "prompt_tokens",
    "ttft_s_sum",
    "ttft_s_count",
}


def decoding(*batches: float, tokens: float = 250.0, preempted: float = 0.0) -> History:
    """Make a decoder's pages: 40 ms a token, half of the KV in use; preempted at the end."""
    rows = [
        {
            "running": batch,
            "kv_used": 0.5,
            "tpot_s_sum": 0.04 * tokens * index,
            "tpot_s_count": tokens * index,
            "preemptions": 7.0,
        }
        for index, batch in enumerate(batches)
    ]
    rows[-1]["preemptions"] += preempted
    return pages(*rows)


def step(history: History, *, cache_tokens: float = 1000.0) -> DecodeStep | None:
    return decode_step(history, end_s=END_S, window_s=WINDOW_S, cache_tokens=cache_tokens)


def prompting(
    *waiting: float, tokens: float = 50_000.0, delayed: float = 4.0, kv_used: float = 0.3
) -> History:
    """Make a prompt node's pages: tokens a page, and how many requests its delays make up."""
    rows = [
        {
            "waiting": queue,
            "kv_used": kv_used,
            "prompt_tokens": tokens * index,
            "ttft_s_sum": 10.0 * delayed * index,
        }
        for index, queue in enumerate(waiting)
    ]
    return pages(*rows)


def rate(history: History, bottleneck: Bottleneck = Bottleneck.PROMPT) -> PrefillRate | None:
    return prefill_rate(history, end_s=END_S, window_s=WINDOW_S, bottleneck=bottleneck)


def test_a_window_ends_with_its_newest_page_and_needs_a_page_where_it_starts() -> None:
    assert window_end_s(History(), window_s=WINDOW_S) is None
    assert window_end_s(decoding(8, 8, 8), window_s=WINDOW_S) is None
    assert window_end_s(decoding(8, 8, 8, 8), window_s=WINDOW_S) == 30.0


def test_a_step_is_the_mean_time_between_tokens_at_the_batch_of_the_mean_token() -> None:
    assert step(decoding(8, 8, 8, 8)) == pytest.approx((0.04, 8.0, 500.0))
    # Twice the batch makes twice the tokens.
    seen = step(decoding(8, 8, 16, 16))
    assert seen is not None
    assert seen.batch == pytest.approx((2 * 8 * 8 + 2 * 16 * 16) / 48)


def test_a_moment_without_requests_has_no_tokens_and_no_weight() -> None:
    assert step(decoding(8, 8, 8, 0)) == pytest.approx((0.04, 8.0, 500.0))


def test_a_decoder_that_does_not_say_how_much_kv_it_has_teaches_by_its_batch() -> None:
    assert step(decoding(8, 8, 8, 8), cache_tokens=0.0) == pytest.approx((0.04, 8.0, 0.0))


def test_an_idle_decoder_teaches_nothing() -> None:
    assert step(decoding(0, 0, 0, 0)) is None
    assert step(decoding(0, 0, 0, 0, tokens=0.0)) is None
    assert step(decoding(8, 8, 8, 8, tokens=0.0)) is None


def test_a_preempted_request_waits_between_tokens_and_teaches_nothing() -> None:
    assert step(decoding(8, 8, 8, 8, preempted=1.0)) is None


def test_a_batch_that_is_filled_or_drained_in_the_window_teaches_nothing() -> None:
    assert step(decoding(2, 10, 20, 30)) is None
    assert step(decoding(30, 20, 10, 2)) is None


@pytest.mark.parametrize("seconds", [280.0, 720_000.0])
def test_tokens_of_more_requests_than_there_were_are_not_of_the_window(seconds: float) -> None:
    rows = [{"running": 4.0, "kv_used": 0.5, "tpot_s_sum": 40.0 * i} for i in range(4)]
    for index, row in enumerate(rows):
        row["tpot_s_count"] = 1000.0 * index
    assert step(pages(*rows)) == pytest.approx((0.04, 4.0, 500.0))

    rows[-1]["tpot_s_sum"] += seconds + 90.0
    rows[-1]["tpot_s_count"] += 25 * (seconds + 90.0)
    assert step(pages(*rows)) is None


def test_a_page_without_kv_use_leaves_the_kv_unknown() -> None:
    rows = [{"running": 8.0, "tpot_s_sum": 10.0 * i, "tpot_s_count": 250.0 * i} for i in range(4)]

    assert step(pages(*rows)) is None
    assert step(pages(*rows), cache_tokens=0.0) is not None


@pytest.mark.parametrize("used", [-0.1, 1.5, float("nan")])
def test_a_share_of_kv_that_cannot_be_teaches_nothing(used: float) -> None:
    rows = [
        {"running": 8.0, "kv_used": used, "tpot_s_sum": 10.0 * i, "tpot_s_count": 250.0 * i}
        for i in range(4)
    ]

    assert step(pages(*rows)) is None


def test_one_page_in_the_window_is_no_picture_of_it() -> None:
    first = {"running": 8.0, "tpot_s_sum": 0.0, "tpot_s_count": 0.0, "prompt_tokens": 0.0}
    last = {"tpot_s_sum": 10.0, "tpot_s_count": 250.0, "prompt_tokens": 150_000.0}
    sparse = pages(first, {**last, "running": 8.0, "waiting": 3.0}, period_s=40.0)

    assert decode_step(sparse, end_s=40, window_s=WINDOW_S, cache_tokens=0) is None
    seen = prefill_rate(sparse, end_s=40, window_s=WINDOW_S, bottleneck=Bottleneck.PROMPT)
    assert seen == PrefillRate(3750.0, is_full=False)


def test_kv_is_that_of_the_mean_token_too() -> None:
    rows = [
        {"running": b, "kv_used": u, "tpot_s_sum": 10.0 * i, "tpot_s_count": 250.0 * i}
        for i, (b, u) in enumerate([(8.0, 0.2), (8.0, 0.2), (16.0, 0.5), (16.0, 0.5)])
    ]

    seen = step(pages(*rows))
    assert seen is not None
    assert seen.kv_tokens == pytest.approx(1000 * (2 * 8 * 0.2 + 2 * 16 * 0.5) / 48)


def test_a_counter_over_a_gap_in_the_pages_is_not_of_the_window() -> None:
    history = History()
    for at_s in (0.0, 80.0, 90.0, 100.0):
        page = reading(
            at_s=at_s,
            gauges={"running": 8.0, "waiting": 3.0},
            counters={"tpot_s_sum": at_s, "tpot_s_count": 25 * at_s, "prompt_tokens": 100 * at_s},
        )
        history = history.added(page, keep_s=300)

    assert decode_step(history, end_s=100, window_s=WINDOW_S, cache_tokens=0) is None
    asked = {"end_s": 100.0, "window_s": WINDOW_S}
    assert prefill_rate(history, **asked, bottleneck=Bottleneck.PROMPT) is None


def test_a_counter_that_came_in_the_window_is_not_of_all_of_it() -> None:
    rows = [{"waiting": 3.0, "prompt_tokens": 1e4 * i} if i else {"waiting": 3.0} for i in range(4)]

    assert rate(pages(*rows)) is None


def test_a_prompt_node_that_always_had_prompts_waiting_shows_its_rate() -> None:
    assert rate(prompting(3, 5, 4, 3)) == PrefillRate(5000.0, is_full=True)


@pytest.mark.parametrize(("prompts", "is_full"), [(20, True), (40, False)])
def test_prompts_that_came_during_one_batch_do_not_fill_a_node(prompts: int, is_full: bool) -> None:
    # Three wait on every page: more than the 2 of a second, fewer than its 4.
    rows = [
        {
            "waiting": 3.0,
            "prompt_tokens": 50_000.0 * i,
            "ttft_s_sum": 40.0 * i,
            "ttft_s_count": float(prompts * i),
        }
        for i in range(4)
    ]

    assert rate(pages(*rows)) == PrefillRate(5000.0, is_full=is_full)


def test_a_page_with_nobody_waiting_makes_the_rate_a_lower_bound() -> None:
    assert rate(prompting(3, 5, 0, 3)) == PrefillRate(5000.0, is_full=False)


@pytest.mark.parametrize("bottleneck", [Bottleneck.DECODER, Bottleneck.LINK])
def test_a_prompt_node_that_is_held_back_teaches_nothing(bottleneck: Bottleneck) -> None:
    assert rate(prompting(3, 5, 4, 3), bottleneck) is None


def test_a_queue_that_nobody_can_explain_makes_the_rate_a_lower_bound() -> None:
    seen = rate(prompting(3, 5, 4, 3), Bottleneck.UNKNOWN)

    assert seen == PrefillRate(5000.0, is_full=False)


def test_a_prompt_node_whose_kv_is_full_waits_for_room_not_for_its_steps() -> None:
    assert rate(prompting(3, 5, 4, 3, kv_used=0.97)) == PrefillRate(5000.0, is_full=False)


def test_a_queue_that_delays_no_first_token_is_not_of_prompts_to_compute() -> None:
    assert rate(prompting(40, 40, 40, 40, delayed=4.0)) == PrefillRate(5000.0, is_full=False)


def test_a_queue_is_believed_where_nothing_tells_of_first_tokens() -> None:
    rows = [{"waiting": 40.0, "prompt_tokens": 50_000.0 * i} for i in range(4)]

    assert rate(pages(*rows)) == PrefillRate(5000.0, is_full=True)


def test_a_prompt_node_that_computed_nothing_teaches_nothing() -> None:
    assert rate(prompting(3, 5, 4, 3, tokens=0.0)) is None
    assert rate(pages(*({"waiting": 3.0} for _ in range(4)))) is None
