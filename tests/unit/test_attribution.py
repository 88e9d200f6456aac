"""The truth table of attribution, row by row, and what it refuses to say."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from pd_autoscaler.core.attribution import Thresholds, attributed
from pd_autoscaler.model.link import LinkState
from pd_autoscaler.model.signals import RoleSignals, Signal
from pd_autoscaler.model.snapshot import Bottleneck

UP: Mapping[LinkState, int] = {LinkState.LINKED: 8}
DOWN: Mapping[LinkState, int] = {LinkState.LINKED: 4, LinkState.FAILED: 4}


def prompt(
    queue: float | None = 0.0, ttft_s: float | None = 0.2, kv_used: float | None = 0.1
) -> RoleSignals:
    """Two fresh prompt nodes; the queue is per node."""
    return RoleSignals(
        serving=2,
        fresh=2,
        queue=signal(None if queue is None else 2 * queue),
        ttft_p95_s=signal(ttft_s),
        kv_used_mean=signal(kv_used),
    )


def decoder(
    kv_used: float | None = 0.6,
    queue: float | None = 0.0,
    tpot_s: float | None = 0.03,
    transfer_wait: float | None = 0.0,
) -> RoleSignals:
    """Four fresh decoders; queue and wait are per node."""
    return RoleSignals(
        serving=4,
        fresh=4,
        queue=signal(None if queue is None else 4 * queue),
        kv_used_mean=signal(kv_used),
        tpot_p95_s=signal(tpot_s),
        transfer_wait=signal(None if transfer_wait is None else 4 * transfer_wait),
    )


def signal(value: float | None) -> Signal | None:
    return None if value is None else Signal(value, 1.0)


def bottleneck(p: RoleSignals, d: RoleSignals, links: Mapping[LinkState, int] = UP) -> Bottleneck:
    return attributed(p, d, links, Thresholds()).bottleneck


def test_a_slow_queue_over_empty_caches_is_the_prompt_side() -> None:
    assert bottleneck(prompt(9, 3, 0.2), decoder()) is Bottleneck.PROMPT


@pytest.mark.parametrize("ttft_s", [0.2, 3, None])
@pytest.mark.parametrize("full", [decoder(0.9), decoder(queue=7), decoder(tpot_s=0.08)])
def test_a_queue_over_full_caches_with_full_decoders_is_the_decoder_side(
    ttft_s: float | None, full: RoleSignals
) -> None:
    assert bottleneck(prompt(9, ttft_s, 0.9), full) is Bottleneck.DECODER


@pytest.mark.parametrize("ttft_s", [0.2, 3, None])
def test_a_queue_over_full_caches_with_bad_links_is_the_links(ttft_s: float | None) -> None:
    assert bottleneck(prompt(9, ttft_s, 0.9), decoder(), DOWN) is Bottleneck.LINK
    waiting = decoder(transfer_wait=8)
    assert bottleneck(prompt(9, ttft_s, 0.9), waiting) is Bottleneck.LINK


def test_a_queue_without_delay_is_only_watched() -> None:
    assert bottleneck(prompt(9, 0.2, 0.2), decoder()) is Bottleneck.NONE


def test_kv_that_full_decoders_leave_is_theirs_before_a_prompt_queue_has_grown() -> None:
    for ttft_s in (0.2, 3, None):
        assert bottleneck(prompt(0, ttft_s, 0.9), decoder(0.9)) is Bottleneck.DECODER


def test_full_decoders_behind_calm_prompts_are_the_decoder_side() -> None:
    assert bottleneck(prompt(), decoder(0.9)) is Bottleneck.DECODER


def test_room_on_both_sides_is_idle() -> None:
    assert bottleneck(prompt(), decoder(0.2)) is Bottleneck.IDLE


def test_a_busy_side_that_keeps_up_is_no_bottleneck_and_not_idle() -> None:
    assert bottleneck(prompt(), decoder(0.6)) is Bottleneck.NONE
    assert bottleneck(prompt(3), decoder(0.2)) is Bottleneck.NONE


def test_a_slow_queue_over_full_caches_that_nobody_waits_to_pull_is_the_prompt_side() -> None:
    assert bottleneck(prompt(9, 3, 0.9), decoder()) is Bottleneck.PROMPT


def test_when_both_sides_are_short_decoders_come_first_and_prompts_are_named() -> None:
    got = attributed(prompt(9, 3, 0.2), decoder(0.9), UP)
    assert (got.bottleneck, got.also) == (Bottleneck.DECODER, Bottleneck.PROMPT)
    # Prompts that wait behind KV which decoders hold up are not short of prompt nodes.
    assert attributed(prompt(9, 3, 0.9), decoder(0.9), UP).also is None
    assert attributed(prompt(0, 0.2, 0.2), decoder(0.9), UP).also is None


def test_a_few_prompts_that_wait_long_are_a_queue_too() -> None:
    few = replace(prompt(2, 3, 0.2), queue_time_p95_s=Signal(2.5, 0.0))
    assert bottleneck(few, decoder()) is Bottleneck.PROMPT
    gone = replace(few, queue=Signal(2 * 1.0, 0.0))
    assert bottleneck(gone, decoder()) is Bottleneck.UNKNOWN


@pytest.mark.parametrize(
    ("p", "d", "links"),
    [
        (prompt(0, 3, 0.2), decoder(), UP),
        (prompt(0, 0.2, 0.9), decoder(), UP),
        (prompt(9, 0.2, 0.9), decoder(), UP),
        (prompt(9, 3, 0.2), decoder(), DOWN),
        (prompt(9, 3, 0.9), decoder(0.9), DOWN),
        (prompt(), decoder(0.2), DOWN),
    ],
)
def test_anything_else_is_unknown(
    p: RoleSignals, d: RoleSignals, links: Mapping[LinkState, int]
) -> None:
    assert bottleneck(p, d, links) is Bottleneck.UNKNOWN


@pytest.mark.parametrize(
    ("p", "d", "missing"),
    [
        (prompt(queue=None), decoder(), "prompt queue"),
        (prompt(kv_used=None), decoder(), "prompt KV use"),
        (prompt(), decoder(kv_used=None), "decoder KV use"),
        (prompt(), decoder(queue=None), "decoder queue"),
    ],
)
def test_without_its_inputs_it_is_unknown_and_says_which(
    p: RoleSignals, d: RoleSignals, missing: str
) -> None:
    got = attributed(p, d, UP)

    assert (got.bottleneck, got.evidence) == (Bottleneck.UNKNOWN, f"unknown: {missing}")


def test_a_queue_of_unknown_delay_is_unknown() -> None:
    assert bottleneck(prompt(9, None, 0.2), decoder()) is Bottleneck.UNKNOWN


@pytest.mark.parametrize("ttft_s", [None, 0.2])
def test_the_time_in_the_queue_is_enough_to_tell_a_delay(ttft_s: float | None) -> None:
    slow = replace(prompt(9, ttft_s, 0.2), queue_time_p95_s=Signal(3.0, 0.0))
    assert bottleneck(slow, decoder()) is Bottleneck.PROMPT
    quick = replace(prompt(9, None, 0.2), queue_time_p95_s=Signal(0.1, 0.0))
    assert bottleneck(quick, decoder()) is Bottleneck.NONE


def test_kv_that_decoders_with_room_do_not_pull_is_the_links() -> None:
    held = replace(prompt(9, 3, 0.2), kv_export_backlog=Signal(2 * 6.0, 0.0))
    assert bottleneck(held, decoder()) is Bottleneck.LINK
    # Where the cache's use is unknown, too: an engine may tell the one and not the other.
    assert bottleneck(replace(held, kv_used_mean=None), decoder()) is Bottleneck.LINK
    assert bottleneck(held, decoder(0.9)) is Bottleneck.DECODER
    little = replace(held, kv_export_backlog=Signal(2 * 5.0, 0.0))
    assert bottleneck(little, decoder()) is Bottleneck.PROMPT


def test_kv_that_expired_unpulled_is_the_links_unless_it_is_that_of_a_few_users_who_left() -> None:
    busy = replace(prompt(9, 3, 0.9), arrival_rate=Signal(10.0, 0.0))
    for rate, expected in ((0.6, Bottleneck.LINK), (0.5, Bottleneck.PROMPT)):
        expired = replace(busy, kv_expired_rate=Signal(rate, 0.0))
        assert bottleneck(expired, decoder()) is expected


def test_many_pulls_of_a_busy_service_are_no_fault_while_each_is_quick() -> None:
    for arrivals, expected in ((6.1, Bottleneck.PROMPT), (5.9, Bottleneck.LINK)):
        # Twelve at a time: at six a second each has waited for two seconds.
        held = replace(
            prompt(9, 3, 0.9),
            kv_export_backlog=Signal(12.0, 0.0),
            arrival_rate=Signal(arrivals, 0.0),
        )
        assert bottleneck(held, decoder()) is expected
    for arrivals, expected in ((12.1, Bottleneck.PROMPT), (11.9, Bottleneck.LINK)):
        pulling = replace(decoder(transfer_wait=6), arrival_rate=Signal(arrivals, 0.0))
        assert bottleneck(prompt(9, 3, 0.9), pulling) is expected


def test_what_a_node_has_is_counted_over_those_that_tell() -> None:
    one_of_two = replace(prompt(9, 3, 0.2), kv_export_backlog=Signal(6.0, 0.0, nodes=1))
    assert bottleneck(one_of_two, decoder()) is Bottleneck.LINK
    both = replace(prompt(9, 3, 0.2), kv_export_backlog=Signal(6.0, 0.0, nodes=2))
    assert bottleneck(both, decoder()) is Bottleneck.PROMPT


def test_a_latency_that_no_page_has_is_not_one_that_nobody_met() -> None:
    renamed = replace(prompt(0, None), untold=frozenset({"ttft_s"}))
    assert attributed(renamed, decoder(), UP).evidence == "unknown: time to first token"
    timed = replace(renamed, queue_time_p95_s=Signal(0.1, 0.0))
    assert bottleneck(timed, decoder()) is Bottleneck.NONE
    slow = replace(decoder(tpot_s=None), untold=frozenset({"tpot_s"}))
    assert attributed(prompt(), slow, UP).evidence == "unknown: time per output token"


def test_where_nothing_tells_latencies_a_queue_is_a_delay() -> None:
    blind = Thresholds(has_latencies=False)
    waiting, free = prompt(9, None, 0.2), decoder(tpot_s=None)
    assert attributed(waiting, free, UP, blind).bottleneck is Bottleneck.PROMPT
    assert attributed(prompt(0, None, 0.2), free, UP, blind).bottleneck is Bottleneck.NONE


def test_first_tokens_that_are_late_behind_a_short_queue_are_the_prompt_side() -> None:
    assert bottleneck(prompt(3, 7, 0.2), decoder()) is Bottleneck.PROMPT
    quick = replace(prompt(3, 7, 0.2), queue_time_p95_s=Signal(0.5, 0.0))
    assert bottleneck(quick, decoder()) is Bottleneck.UNKNOWN


def test_one_broken_link_is_the_links_only_where_there_is_no_other() -> None:
    held = prompt(9, 3, 0.9)
    down = LinkState.FAILED
    assert bottleneck(held, decoder(), {LinkState.LINKED: 3, down: 1}) is Bottleneck.PROMPT
    assert bottleneck(held, decoder(), {LinkState.LINKED: 2, down: 2}) is Bottleneck.LINK
    assert bottleneck(held, decoder(), {down: 1}) is Bottleneck.LINK


@pytest.mark.parametrize(
    ("p", "links", "said"),
    [
        (prompt(0, 3, 0.2), UP, "first tokens are late though hardly a prompt waits"),
        (prompt(0, 0.2, 0.9), UP, "prompt nodes hold KV though no prompt waits"),
        (prompt(9, 0.2, 0.9), UP, "prompts wait behind KV that is held"),
        (prompt(9, None, 0.2), UP, "prompts wait, and nothing tells for how long"),
        (prompt(0, 0.2, 0.2), DOWN, "links are down or slow"),
        (
            replace(prompt(), ttft_p95_s=Signal(0.5, 0.0, is_lower_bound=True)),
            UP,
            "hardly a prompt waits, and nothing tells how late",
        ),
    ],
)
def test_what_does_not_fit_the_table_is_told_in_words(
    p: RoleSignals, links: Mapping[LinkState, int], said: str
) -> None:
    got = attributed(p, decoder(), links)
    assert got.bottleneck is Bottleneck.UNKNOWN
    assert got.evidence.startswith(said)


def test_no_first_token_and_nobody_waiting_for_one_is_calm() -> None:
    assert bottleneck(prompt(0, None), decoder(0.1, tpot_s=None)) is Bottleneck.IDLE


def test_a_delay_that_is_only_known_to_be_at_least_the_limit_is_above_it() -> None:
    at_least = replace(prompt(9, kv_used=0.2), ttft_p95_s=Signal(1.0, 0.0, is_lower_bound=True))
    assert bottleneck(at_least, decoder()) is Bottleneck.PROMPT
    too_low = replace(at_least, ttft_p95_s=Signal(0.5, 0.0, is_lower_bound=True))
    assert bottleneck(too_low, decoder()) is Bottleneck.UNKNOWN


def test_one_broken_link_of_many_is_not_the_bottleneck() -> None:
    links = {LinkState.LINKED: 99, LinkState.SUSPECT: 1}
    assert bottleneck(prompt(9, 3, 0.2), decoder(), links) is Bottleneck.PROMPT


def test_links_that_are_being_made_are_not_broken() -> None:
    links = {LinkState.LINKED: 4, LinkState.LINKING: 4, LinkState.ABSENT: 4}
    assert bottleneck(prompt(9, 3, 0.2), decoder(), links) is Bottleneck.PROMPT


@pytest.mark.parametrize(("fresh", "is_seen"), [(0, False), (1, False), (2, True), (3, True)])
def test_below_the_quorum_of_fresh_nodes_it_is_unknown(fresh: int, is_seen: bool) -> None:
    few = replace(decoder(), serving=4, fresh=fresh, queue=Signal(0.0, 0.0))

    got = attributed(prompt(), few, UP)

    assert (got.bottleneck is not Bottleneck.UNKNOWN) is is_seen
    if not is_seen:
        assert got.evidence == f"{fresh} of 4 serving decoder nodes are fresh"


def test_a_side_without_a_serving_node_is_unknown() -> None:
    assert bottleneck(RoleSignals(), decoder()) is Bottleneck.UNKNOWN


def test_the_evidence_is_in_words_and_numbers() -> None:
    got = attributed(
        replace(prompt(9, kv_used=0.2), ttft_p95_s=Signal(10.0, 0.0, is_lower_bound=True)),
        decoder(),
        {LinkState.LINKED: 4},
    )

    assert got.evidence == (
        "prompt nodes are short (prompt queue a node 9, TTFT p95 at least 10 s, prompt KV 0.2, "
        "decoder KV 0.6, decoder queue a node 0, TPOT p95 0.03 s, waiting for KV a node 0, "
        "0 links down, 4 up)"
    )
