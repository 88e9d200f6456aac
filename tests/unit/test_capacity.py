"""Capacity per class of nodes, learnt from pages cycle by cycle."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.core.capacity import CLASSES_MAX, Priors, capacities, node_class
from pd_autoscaler.engine_model.profile import DEMO
from pd_autoscaler.model.capacity import NodeCapacity
from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.model.signals import Reading
from pd_autoscaler.model.snapshot import Bottleneck
from tests.support.capacity import (
    KV_TOKENS,
    PERIOD_S,
    Decoder,
    Fleet,
    decoders,
    prompt_page,
    swinging,
    visited,
)
from tests.support.pages import node

PRIORS = Priors(
    prefill_tokens_per_s=4000.0,
    step_base_s=0.02,
    step_per_request_s=5e-4,
    step_per_token_s=2e-7,
)


@pytest.mark.parametrize(
    ("engine", "tokens", "name"),
    [
        ("vllm", 49152, "vllm/49k"),
        ("vllm", 49264, "vllm/49k"),
        ("sglang", 1_330_000, "sglang/1.3M"),
        ("sglang", 1600, "sglang/1.6k"),
        ("vllm", 512, "vllm/510"),
        ("mindie", 0, "mindie"),
        ("", 0, "unknown"),
    ],
)
def test_nodes_alike_share_a_readable_name(engine: str, tokens: float, name: str) -> None:
    assert node_class(engine, tokens) == name


def test_the_steps_of_the_engine_model_are_learnt_from_its_pages() -> None:
    fleet = decoders(2, swinging(4, 36, 600))
    fleet.run(90)

    told = fleet.told(Role.DECODER)
    assert told.node_class == "vllm/49k"
    assert told.error == pytest.approx(0.0, abs=0.03)
    for batch in (4, 8, 16, 24, 32):
        for held in (1000, 1200):
            truth = DEMO.decode_step_s(batch, batch * held)
            assert told.step_s(batch, batch * held) == pytest.approx(truth, rel=0.03)


def test_decoders_that_grow_slower_are_followed() -> None:
    fleet = decoders(2, swinging(4, 24, 600))
    fleet.run(60)
    for page in fleet.pages.values():
        assert isinstance(page, Decoder)
        page.slowness = 1.6
    fleet.run(45)

    truth = 1.6 * DEMO.decode_step_s(20, 20 * 1100)
    assert fleet.told(Role.DECODER).step_s(20, 20 * 1100) == pytest.approx(truth, rel=0.08)


def test_a_class_without_a_kv_size_folds_the_tokens_into_the_requests() -> None:
    fleet = decoders(1)
    inner = fleet.pages["d0"]

    def without(now_s: float) -> Reading:
        page = inner(now_s)
        return replace(page, gauges={"running": page.gauges["running"]})

    fleet.pages["d0"] = without
    fleet.run(180)

    told = fleet.told(Role.DECODER)
    assert (told.node_class, told.step_per_token_s) == ("vllm", 0.0)
    assert told.tokens_max is None
    truth = DEMO.decode_step_s(20, 20 * 1100)
    assert told.step_s(20, 20 * 1100) == pytest.approx(truth, rel=0.06)


def test_nothing_is_claimed_of_a_class_before_it_was_seen_at_work() -> None:
    fleet = decoders(1)
    fleet.add(node("p0"), prompt_page(waiting=0.0))
    fleet.run(3)

    assert capacities(fleet.memory) == (
        NodeCapacity(role=Role.DECODER, node_class="vllm/49k", kv_tokens=49152.0),
        NodeCapacity(role=Role.PROMPT, node_class="vllm/49k", kv_tokens=49152.0),
    )


def test_a_prior_is_claimed_from_the_first_page() -> None:
    fleet = decoders(1)
    fleet.priors = PRIORS
    fleet.add(node("p0"), prompt_page())
    fleet.run(1)

    assert fleet.told(Role.PROMPT).prefill_tokens_per_s == 4000.0
    assert fleet.told(Role.DECODER).step_s(10, 1000) == pytest.approx(0.02 + 5e-3 + 2e-4)
    assert (fleet.told(Role.DECODER).samples, fleet.told(Role.DECODER).batch_max) == (0, None)


def test_a_step_s_prior_is_its_three_numbers_together() -> None:
    assert PRIORS.step == (0.02, 5e-4, 2e-7)
    assert replace(PRIORS, step_per_token_s=0.0).step == (0.02, 5e-4, 0.0)
    assert replace(PRIORS, step_per_token_s=None).step is None


def test_a_prior_of_zero_can_be_corrected() -> None:
    fleet = decoders(1, swinging(4, 36, 600))
    fleet.priors = Priors(step_base_s=0.018, step_per_request_s=0.0, step_per_token_s=0.0)
    fleet.run(120)

    truth = DEMO.decode_step_s(30, 30 * 1100)
    assert fleet.told(Role.DECODER).step_s(30, 30 * 1100) == pytest.approx(truth, rel=0.06)


def test_a_busy_prompt_node_shows_its_rate() -> None:
    fleet = Fleet()
    for index in range(5):
        fleet.add(node(f"p{index}"), prompt_page(f"p{index}"))
    fleet.run(4)

    told = fleet.told(Role.PROMPT)
    assert told.prefill_tokens_per_s == pytest.approx(5000.0)
    assert told.samples == 5


def test_a_rate_is_told_once_enough_windows_agree_on_it() -> None:
    fleet = Fleet()
    for index in range(2):
        fleet.add(node(f"p{index}"), prompt_page(f"p{index}"))
    fleet.run(7)
    before = fleet.told(Role.PROMPT)
    fleet.run(3)

    assert (before.prefill_tokens_per_s, before.samples) == (None, 0)
    assert fleet.told(Role.PROMPT).prefill_tokens_per_s == pytest.approx(5000.0)


def test_lower_bounds_do_not_turn_a_guess_into_a_claim() -> None:
    fleet = Fleet()
    fleet.add(node("p0"), prompt_page())
    fleet.run(4)
    fleet.pages["p0"] = prompt_page(tokens_per_s=6000.0, waiting=0.0)
    fleet.run(60)

    assert fleet.told(Role.PROMPT).prefill_tokens_per_s is None


def test_numbers_that_cannot_be_do_not_become_the_first_guess() -> None:
    fleet = Fleet()
    fleet.add(node("p0"), prompt_page(tokens_per_s=math.inf))
    fleet.add(node("p1"), prompt_page("p1"))
    fleet.run(16)

    assert fleet.told(Role.PROMPT).prefill_tokens_per_s == pytest.approx(5000.0)


@pytest.mark.parametrize("bottleneck", [Bottleneck.DECODER, Bottleneck.LINK])
def test_prompt_nodes_that_are_held_back_do_not_lower_their_rate(bottleneck: Bottleneck) -> None:
    fleet = Fleet(priors=PRIORS)
    fleet.add(node("p0"), prompt_page(tokens_per_s=500.0))
    fleet.run(200, bottleneck)

    assert fleet.told(Role.PROMPT).prefill_tokens_per_s == 4000.0


def test_a_prompt_node_that_is_not_busy_does_not_lower_the_rate() -> None:
    fleet = Fleet(priors=PRIORS)
    fleet.add(node("p0"), prompt_page(tokens_per_s=500.0, waiting=0.0))
    fleet.run(200)

    assert fleet.told(Role.PROMPT).prefill_tokens_per_s == 4000.0


def test_a_prompt_node_that_does_more_than_was_believed_raises_the_rate() -> None:
    fleet = Fleet(priors=PRIORS)
    fleet.add(node("p0"), prompt_page(tokens_per_s=5000.0, waiting=0.0))
    fleet.run(60)

    assert fleet.told(Role.PROMPT).prefill_tokens_per_s == pytest.approx(5000.0, rel=0.02)


def test_a_lower_bound_alone_is_no_claim() -> None:
    fleet = Fleet()
    fleet.add(node("p0"), prompt_page(waiting=0.0))
    fleet.run(60)

    assert fleet.told(Role.PROMPT).prefill_tokens_per_s is None


@pytest.mark.parametrize("every_s", [600.0, 90.0])
@pytest.mark.parametrize("gift", [4e5, 8e8])
def test_lifetimes_that_come_at_once_do_not_move_the_rate_of_a_quiet_node(
    gift: float, every_s: float
) -> None:
    fleet = Fleet(priors=PRIORS)
    for index in range(2):
        quiet = prompt_page(f"p{index}", tokens_per_s=500.0, waiting=0.0)
        fleet.add(node(f"p{index}"), quiet)
    gifts = {count * every_s: {"prompt_tokens": gift} for count in range(1, 80)}
    fleet.pages["p0"] = visited(fleet.pages["p0"], gifts)
    fleet.run(800)

    told = fleet.told(Role.PROMPT)
    assert told.prefill_tokens_per_s == 4000.0
    assert told.rejected >= 8


@pytest.mark.parametrize("running", [1, 20])
def test_lifetimes_that_come_at_once_do_not_move_the_step_of_a_decoder(running: int) -> None:
    fleet = decoders(1, swinging(running, running + 2, 600))
    fleet.run(60)
    before = fleet.told(Role.DECODER).step_s(running, running * 1000)
    life = {"tpot_s_sum": 40_000.0, "tpot_s_count": 1e5}
    gifts = {600.0 + count * 60: life for count in range(60)}
    fleet.pages["d0"] = visited(fleet.pages["d0"], gifts)
    fleet.run(360)

    after = fleet.told(Role.DECODER).step_s(running, running * 1000)
    assert after == pytest.approx(before, rel=0.08)


@pytest.mark.parametrize("change", [0.5, 1.6])
def test_a_prompt_node_that_is_full_now_and_then_shows_a_change(change: float) -> None:
    """Full for three minutes in half an hour, which are five windows; quiet for the rest."""
    fleet, tokens = Fleet(priors=PRIORS), 0.0

    def page(now_s: float) -> Reading:
        nonlocal tokens
        is_full = now_s % 1800 <= 180
        rate = 4000.0 * (change if now_s > 1800 else 1.0)
        tokens += PERIOD_S * rate * (1.0 if is_full else 0.3)
        return Reading(
            node_id="p0",
            at_s=now_s,
            gauges={"waiting": 3.0 if is_full else 0.0, "cache_tokens": KV_TOKENS},
            counters={"prompt_tokens": tokens},
        )

    fleet.add(node("p0"), page)
    fleet.run(180)
    assert fleet.told(Role.PROMPT).prefill_tokens_per_s == pytest.approx(4000.0, rel=0.01)
    fleet.run(180 + 20)

    told = fleet.told(Role.PROMPT)
    assert told.prefill_tokens_per_s == pytest.approx(change * 4000.0, rel=0.1)


def test_the_largest_batch_that_was_seen_is_told_beside_the_step() -> None:
    fleet = decoders(2, swinging(4, 36, 600))
    fleet.run(1)
    nothing = fleet.told(Role.DECODER)
    fleet.run(90)

    told = fleet.told(Role.DECODER)
    assert (nothing.batch_max, nothing.tokens_max) == (None, None)
    assert told.batch_max == pytest.approx(36, abs=3)
    assert told.tokens_max is not None
    assert 25_000 < told.tokens_max < KV_TOKENS


def test_each_node_gives_one_sample_a_window() -> None:
    fleet = Fleet(priors=PRIORS)
    fleet.add(node("p0"), prompt_page())
    fleet.add(node("p1"), prompt_page("p1"))
    fleet.run(1 + 3 * 10)

    assert fleet.told(Role.PROMPT).samples == 2 * 10


@pytest.mark.parametrize("state", [NodeState.DRAINING, NodeState.LINKING, NodeState.STANDBY])
def test_a_node_that_does_not_serve_teaches_nothing(state: NodeState) -> None:
    fleet = Fleet()
    fleet.add(node("p0", state=state), prompt_page())
    fleet.run(20)

    assert capacities(fleet.memory) == ()


def test_a_node_teaches_once_it_has_served_for_a_window() -> None:
    fleet = Fleet(priors=PRIORS)
    fleet.add(replace(node("p0"), since_s=20.0), prompt_page())
    fleet.run(5)
    before = fleet.told(Role.PROMPT).samples
    fleet.run(1)

    assert (before, fleet.told(Role.PROMPT).samples) == (0, 1)


def test_a_node_that_is_not_fresh_teaches_nothing() -> None:
    fleet = Fleet(stale=frozenset({"p0"}))
    fleet.add(node("p0"), prompt_page())
    fleet.run(20)

    assert capacities(fleet.memory) == ()


def test_a_node_that_took_the_other_role_teaches_that_one() -> None:
    fleet = Fleet(priors=PRIORS)
    fleet.add(node("n0"), prompt_page("n0"))
    fleet.run(31)
    fleet.nodes[0] = replace(fleet.nodes[0], role=Role.DECODER, since_s=fleet.now_s)
    fleet.run(31)

    assert fleet.told(Role.PROMPT).samples == 10
    assert fleet.told(Role.DECODER).samples == 0
    assert set(fleet.memory.used_s) == {("n0", "a", Role.DECODER)}


def test_two_classes_are_learnt_apart() -> None:
    fleet = Fleet(priors=PRIORS)
    fleet.add(node("p0"), prompt_page(tokens_per_s=5000.0))
    big = prompt_page("p1", tokens_per_s=9000.0)
    fleet.add(
        node("p1"),
        lambda now_s: replace(
            big(now_s), gauges={**big(now_s).gauges, "cache_tokens": 10 * KV_TOKENS}
        ),
    )
    fleet.run(100)

    told = {known.node_class: known.prefill_tokens_per_s for known in capacities(fleet.memory)}
    assert told == {
        "vllm/49k": pytest.approx(5000.0, rel=0.01),
        "vllm/490k": pytest.approx(9000.0, rel=0.01),
    }


def test_memory_of_classes_and_nodes_that_come_and_go_is_bounded() -> None:
    fleet = Fleet(priors=PRIORS)
    for index in range(3 * CLASSES_MAX):
        tokens = float(f"{1 + index % 9}.{index % 10}e{3 + index // 90}")
        page = prompt_page(f"p{index}")
        fleet.nodes, fleet.pages = [], {}
        fleet.add(
            node(f"p{index}"),
            lambda now_s, page=page, tokens=tokens: replace(  # type: ignore[misc]
                page(now_s), gauges={"waiting": 1.0, "cache_tokens": tokens}
            ),
        )
        fleet.run(5)

    assert len(fleet.memory.classes) == CLASSES_MAX
    assert set(fleet.memory.used_s) == {(f"p{3 * CLASSES_MAX - 1}", "a", Role.PROMPT)}
    newest = max(known.seen_s for known in fleet.memory.classes.values())
    assert newest == fleet.now_s - PERIOD_S


@pytest.mark.parametrize("bad", [math.nan, math.inf, -5.0])
def test_numbers_that_cannot_be_teach_nothing(bad: float) -> None:
    fleet = Fleet(priors=PRIORS)

    def spoilt(now_s: float) -> Reading:
        return Reading(
            node_id="d0",
            at_s=now_s,
            gauges={"running": bad, "kv_used": bad, "cache_tokens": bad, "waiting": bad},
            counters=dict.fromkeys(("tpot_s_sum", "tpot_s_count"), bad * now_s),
        )

    fleet.add(node("d0", Role.DECODER), spoilt)
    fleet.add(node("p0"), prompt_page(tokens_per_s=bad))
    fleet.run(20)

    assert fleet.told(Role.DECODER).samples == 0
    assert fleet.told(Role.PROMPT).prefill_tokens_per_s == 4000.0


GAUGE = st.floats(allow_nan=True, allow_infinity=True)


@given(
    rows=st.lists(st.tuples(GAUGE, GAUGE, GAUGE, GAUGE, GAUGE), min_size=4, max_size=40),
    role=st.sampled_from(Role),
    has_prior=st.booleans(),
)
def test_whatever_pages_say_what_is_told_is_sane(
    rows: Sequence[tuple[float, ...]], role: Role, has_prior: bool
) -> None:
    names = ("running", "kv_used", "cache_tokens", "waiting")
    counters = ("tpot_s_sum", "tpot_s_count", "prompt_tokens")
    fleet = Fleet(priors=PRIORS if has_prior else Priors())

    def page(now_s: float) -> Reading:
        row = rows[int(now_s / PERIOD_S)]
        return Reading(
            node_id="n0",
            at_s=now_s,
            gauges=dict(zip(names, row, strict=False)),
            counters=dict.fromkeys(counters, row[4]),
        )

    fleet.add(node("n0", role), page)
    fleet.run(len(rows))

    for told in capacities(fleet.memory):
        values = (told.prefill_tokens_per_s, told.step_s(8, 4096), told.step_s(0, 0))
        assert all(value is None or 0 < value < math.inf for value in values)
