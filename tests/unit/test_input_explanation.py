"""What is said of the inputs of a decision: value, unit, age and source, or that it is unknown."""

from dataclasses import fields, replace
from typing import Any

import pytest

from pd_autoscaler.core.input_explanation import (
    DEMAND_INPUTS,
    ROLE_INPUTS,
    brief,
    capacity_lines,
    demand_lines,
    doubtful_lines,
    number,
    role_lines,
)
from pd_autoscaler.model.capacity import Demand, NodeCapacity
from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.model.signals import NodeSignals, RoleSignals, Signal
from pd_autoscaler.model.snapshot import Snapshot
from tests.support.reports import a_node, a_snapshot


def seen(*engines: str, serving: int = 2, fresh: int = 2, **signals: Any) -> Snapshot:
    """Return a snapshot whose prompt nodes are read as these engines."""
    names = [f"p{n}" for n in range(serving)]
    read = zip(names, engines, strict=False)
    return replace(
        a_snapshot(nodes=tuple(a_node(name, Role.PROMPT) for name in names)),
        prompt=RoleSignals(serving=serving, fresh=fresh, **signals),
        node_signals={name: NodeSignals(node_id=name, engine=e, is_fresh=True) for name, e in read},
    )


def prompt_lines(snapshot: Snapshot, *, passed_s: float = 3.0) -> list[str]:
    return role_lines(snapshot, Role.PROMPT, passed_s=passed_s)


def test_each_value_has_its_unit_its_age_and_the_nodes_it_comes_from() -> None:
    snapshot = seen(
        "vllm",
        "vllm",
        queue=Signal(18.6, 0.4),
        running=Signal(1234.0, 0.4),
        ttft_p95_s=Signal(10.0, 0.4, True),
        kv_used_mean=Signal(0.615, 5.0),
        token_rate=Signal(11_800.4, 0.4),
        kv_expired_rate=Signal(0.25, 0.4),
        input_len_sq=Signal(4_000_000.0, 0.4),
    )

    assert prompt_lines(snapshot)[:-1] == [
        "from 2 of 2 serving nodes, read as vllm",
        "queue 18.6 requests, running 1,234 requests (3.4 s old)",
        "TTFT p95 at least 10 s (3.4 s old), KV used 61.5 % (8.0 s old)",
        "own tokens 11,800 tokens/s, KV never pulled 0.25/s (3.4 s old)",
        "RMS input 2,000 tokens (3.4 s old)",
    ]


def test_ages_that_are_nearly_equal_are_told_once() -> None:
    queue, running = Signal(1.0, 0.41), Signal(2.0, 0.98)
    near = seen("vllm", queue=queue, running=running)
    apart = seen("vllm", queue=queue, running=replace(running, age_s=1.42))

    assert (
        prompt_lines(near, passed_s=0.0)[1]
        == "queue 1 requests, running 2 requests (up to 1.0 s old)"
    )
    assert prompt_lines(apart, passed_s=0.0)[1] == (
        "queue 1 requests (0.4 s old), running 2 requests (1.4 s old)"
    )


def test_a_value_that_not_all_fresh_nodes_tell_says_from_how_many_it_comes() -> None:
    snapshot = seen(
        *["vllm"] * 5,
        serving=5,
        fresh=4,
        queue=Signal(8.0, 0.0, nodes=4),
        running=Signal(2.0, 0.0),
        ttft_p95_s=Signal(2.5, 0.0, nodes=3),
    )

    assert prompt_lines(snapshot)[1:3] == [
        "queue 8 requests, running 2 requests (3.0 s old)",
        "TTFT p95 2.5 s from 3 of 4 (3.0 s old)",
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [("ttft_s", "first-token latencies"), ("tpot_s", "latencies between tokens")],
)
def test_a_latency_that_no_page_has_is_told_with_where_to_look(name: str, words: str) -> None:
    lines = prompt_lines(seen("vllm", queue=Signal(1.0, 0.0), untold=frozenset({name})))

    assert lines[2] == f"no page has {words} (renamed? `doctor` tells)"
    assert not [row for row in prompt_lines(seen("vllm")) if row.startswith("no page has")]


def test_what_is_unknown_is_named_in_one_line() -> None:
    known: dict[str, Any] = {
        i.name: Signal(1.0, 0.0)
        for group in ROLE_INPUTS
        for i in group
        if i.name not in {"queue", "ttft_p95_s"}
    }

    assert prompt_lines(seen("vllm", "vllm", **known))[-1] == "unknown: queue, TTFT p95"


def test_a_signal_that_says_nothing_of_a_role_is_not_missed_there() -> None:
    unknown = prompt_lines(seen("vllm"))[-1]

    assert unknown.startswith("unknown: queue, running")
    assert "TPOT" not in unknown
    assert "TTFT p95" in unknown


def test_a_value_that_is_no_number_is_unknown() -> None:
    lines = prompt_lines(seen("vllm", queue=Signal(float("inf"), 0.0)))

    assert lines[1].startswith("unknown: queue, ")


@pytest.mark.parametrize(
    ("engines", "said"),
    [
        (("vllm", "vllm", "vllm"), "read as vllm"),
        (("sglang", "vllm", "vllm"), "read as vllm (2), sglang (1)"),
        (("vllm", "vllm", ""), "read as vllm (2), not recognised (1)"),
        (("vllm", "vllm"), "read as vllm (2), not recognised (1)"),
        ((), "engine not recognised yet"),
    ],
)
def test_it_says_with_which_profiles_the_nodes_are_read(
    engines: tuple[str, ...], said: str
) -> None:
    snapshot = seen(*engines, serving=3, fresh=1)

    assert prompt_lines(snapshot)[0] == f"from 1 of 3 serving nodes, {said}"


def test_a_role_of_which_no_node_serves_says_so_and_nothing_else() -> None:
    assert role_lines(seen(serving=0, fresh=0), Role.PROMPT, passed_s=0.0) == [
        "no prompt node serves, so nothing is known of their load"
    ]


def test_every_signal_of_the_model_has_words() -> None:
    of_roles = [i.name for group in ROLE_INPUTS for i in group]
    no_signals = {"serving", "fresh", "untold"}

    assert sorted(of_roles) == sorted({f.name for f in fields(RoleSignals)} - no_signals)
    assert [i.name for i in DEMAND_INPUTS if i.name not in {f.name for f in fields(Demand)}] == []
    assert len(DEMAND_INPUTS) == len(fields(Demand))


def doubted(name: str, age_s: float | None, doubt: str = "") -> NodeSignals:
    return NodeSignals(node_id=name, age_s=age_s, doubt=doubt)


def test_nodes_that_are_not_fresh_are_named_with_their_doubt_the_longest_silent_first() -> None:
    names = ("p1", "p2", "p3", "p4", "p5")
    nodes = (
        *(a_node(name, Role.PROMPT) for name in names),
        a_node("p6", Role.PROMPT, NodeState.STARTING),
        a_node("d1", Role.DECODER),
    )
    found = {
        "p1": doubted("p1", 42.0, "page 42 s old"),
        "p2": doubted("p2", 90.0, "page 90 s old: HTTP 500"),
        "p3": NodeSignals(node_id="p3", age_s=0.5, is_fresh=True),
        "p5": doubted("p5", None, "never answered: HTTP 404"),
        "d1": doubted("d1", 41.0, "frozen"),
    }
    snapshot = replace(a_snapshot(nodes=nodes), node_signals=found)

    assert doubtful_lines(snapshot) == [
        "p4 (prompt): not looked at yet",
        "p5 (prompt): never answered: HTTP 404",
        "p2 (prompt): page 90 s old: HTTP 500",
        "p1 (prompt): page 42 s old",
        "d1 (decoder): frozen",
    ]


def test_of_many_nodes_that_are_not_fresh_the_rest_is_counted() -> None:
    nodes = tuple(a_node(f"p{n}", Role.PROMPT) for n in range(9))

    lines = doubtful_lines(replace(a_snapshot(nodes=nodes), node_signals={}))

    assert (len(lines), lines[-1]) == (6, "and 4 more")


def test_demand_is_told_as_far_as_it_is_known() -> None:
    demand = Demand(
        requests_per_s=Signal(12.4, 1.0),
        input_len=Signal(2048.0, 1.0),
        uncached_share=Signal(0.4, 1.0),
        decode_running=Signal(96.0, 1.0),
    )

    assert demand_lines(demand, passed_s=0.0) == [
        (
            "arrivals 12.4 requests/s, mean input 2,048 tokens, input in no prefix cache 40 %, "
            "in decoding 96 requests (1.0 s old)"
        ),
        "unknown: RMS input, mean output, RMS output, KV held by decoders",
    ]
    assert demand_lines(Demand(), passed_s=0.0) == ["unknown yet"]


def test_capacity_is_told_by_class_with_how_well_it_is_known() -> None:
    prompt = NodeCapacity(
        role=Role.PROMPT, node_class="vllm", prefill_tokens_per_s=11_800.0, samples=50, error=0.04
    )
    decoder = NodeCapacity(
        role=Role.DECODER,
        node_class="",
        step_base_s=0.0082,
        step_per_request_s=0.00011,
        step_per_token_s=2.1e-8,
        samples=240,
        rejected=3,
    )

    assert capacity_lines([prompt, decoder]) == [
        "prompt node (vllm): computes 11,800 prompt tokens/s (50 samples, off by 4 % of late)",
        (
            "decoder node: a step takes 8.2 ms + 110 \N{MICRO SIGN}s a request + 21 ns a token "
            "of KV (240 samples, 3 outliers left out)"
        ),
    ]


def test_capacity_that_was_not_learnt_is_not_told_as_a_number() -> None:
    blank = [NodeCapacity(role=role, node_class="x") for role in Role]

    assert capacity_lines(blank) == [
        "prompt node (x): not seen busy yet (0 samples)",
        "decoder node (x): step not learnt yet (0 samples)",
    ]
    assert capacity_lines([]) == ["nothing learnt yet"]
    assert capacity_lines(blank * 4)[-1] == "and 2 more"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (1500.0, "1,500 s"),
        (1.5, "1.5 s"),
        (0.0, "0 s"),
        (0.031, "31 ms"),
        (1.1e-4, "110 \N{MICRO SIGN}s"),
        (2.1e-8, "21 ns"),
        (2.1e-11, "0.021 ns"),
    ],
)
def test_short_times_are_told_in_the_unit_that_suits_them(seconds: float, said: str) -> None:
    assert brief(seconds) == said


def test_large_numbers_are_whole_with_commas() -> None:
    assert [number(v) for v in (0.123456, 18.64, 999.4, 1000.0, 1234567.8)] == [
        "0.123",
        "18.6",
        "999",
        "1,000",
        "1,234,568",
    ]
