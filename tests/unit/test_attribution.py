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


def test_full_decoders_behind_calm_prompts_are_the_decoder_side() -> None:
    assert bottleneck(prompt(), decoder(0.9)) is Bottleneck.DECODER


def test_room_on_both_sides_is_idle() -> None:
    assert bottleneck(prompt(), decoder(0.2)) is Bottleneck.IDLE


def test_a_busy_side_that_keeps_up_is_no_bottleneck_and_not_idle() -> None:
    assert bottleneck(prompt(), decoder(0.6)) is Bottleneck.NONE
    assert bottleneck(prompt(3), decoder(0.2)) is Bottleneck.NONE


def test_a_slow_queue_over_full_caches_that_nobody_waits_to_pull_is_the_prompt_side() -> None:
    assert bottleneck(prompt(9, 3, 0.9), decoder()) is Bottleneck.PROMPT


def test_when_both_sides_are_short_decoders_come_first() -> None:
    assert bottleneck(prompt(9, 3, 0.2), decoder(0.9)) is Bottleneck.DECODER


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
        "prompt nodes are short: prompt queue a node 9, TTFT p95 at least 10 s, prompt KV 0.2, "
        "decoder KV 0.6, decoder queue a node 0, TPOT p95 0.03 s, waiting for KV a node 0, "
        "0 links down, 4 up"
    )
