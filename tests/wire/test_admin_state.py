"""What /v1/state and /v1/links say of a report, whole."""

from dataclasses import replace
from typing import Any

import pytest

from pd_autoscaler.admin.links_view import links_view
from pd_autoscaler.admin.state_view import state_view
from pd_autoscaler.model.decision import Gate, Hold, HoldReason, Target
from pd_autoscaler.model.facts import EngineLoad
from pd_autoscaler.model.link import LinkState, Wait
from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.model.plan import Action, StartNode
from pd_autoscaler.model.report import Done, Failed, Outcome, Unknown
from pd_autoscaler.model.signals import RoleSignals, Signal
from tests.support.admin import NOW_S, a_rich_report
from tests.support.reports import START_UNIX_S, a_busy_report, a_link, a_node, a_report, a_snapshot

NONE: dict[str, Any] = dict.fromkeys(
    (
        *("queue_time_p95_s", "ttft_p95_s", "tpot_p95_s", "running", "transfer_wait"),
        *("kv_used_max", "token_rate", "arrival_rate", "preempt_rate", "transfer_failure_rate"),
        *("input_len", "input_len_sq", "output_len", "output_len_sq"),
        *("kv_export_backlog", "kv_expired_rate", "uncached_share"),
    )
) | {"untold": []}


def signal(value: float, age_s: float) -> dict[str, Any]:
    return {"value": value, "age_s": age_s, "is_lower_bound": False}


def node(name: str, role: str, cluster_id: str) -> dict[str, Any]:
    return {
        "id": name,
        "role": role,
        "state": "serving",
        "age_s": 21.5,
        "since_unix_s": START_UNIX_S + 1.0,
        "why": "",
        "ready_in_s": None,
        "is_published": True,
        "is_suspect": False,
        "attempts": 0,
        "incarnation": f"{name}-i1",
        "agent_urls": [f"http://{name}:9000"],
        "metrics_url": "",
        "endpoints": [{"rank": 0, "cluster_id": cluster_id, "ip": "10.0.0.1", "port": 26000}],
        "engine": None,
        "hung_calls": 0,
    }


def test_the_state_says_where_each_shadow_policy_would_be_and_why() -> None:
    throughput, hung = state_view(a_rich_report(), now_s=NOW_S, version="1")["shadows"]

    why = "9,100 prompt tokens/s expected, 2,000 a node"
    assert throughput == {
        "name": "throughput",
        "target": {"prompt": 5, "decoder": 4, "why": why},
        "decision": {"kind": "target", "prompt": 5, "decoder": 4, "why": why},
        "guarded": {"kind": "target", "prompt": 5, "decoder": 4, "why": why},
        "gates": [],
    }
    assert hung["target"] == {"prompt": 4, "decoder": 4, "why": ""}
    assert hung["guarded"] == {
        "kind": "hold",
        "reason": "policy_failed",
        "detail": "no answer within 5 s",
    }
    assert [gate["reason"] for gate in hung["gates"]] == ["policy_failed"]


def test_the_state_says_everything_of_a_busy_cycle() -> None:
    unknown = ("transfer_wait", "running", "kv_used", "kv_export_backlog", "token_rate")
    nothing = dict.fromkeys(unknown) | {"engine": "", "doubt": ""}
    demand = ("requests_per_s", "uncached_share", "decode_running", "decode_tokens")
    lengths = ("input_len", "input_len_sq", "output_len", "output_len_sq")
    big = str(2**63 + 2)
    counts = {"serving": 1, "coming": 0, "leaving": 0, "standby": 0, "failed": 0}
    one = counts | {"published": 1}
    why = "queue 3.0 per prompt node"
    target = {"kind": "target", "prompt": 2, "decoder": 1, "why": why}

    said = state_view(a_busy_report(), now_s=22.5, version="1.2.3")

    # The snapshot is of 20 s; it is asked for 2.5 s later.
    assert said == {
        "version": "1.2.3",
        "mode": "active",
        "cycle": 2,
        "at_unix_s": START_UNIX_S + 20.0,
        "age_s": 2.5,
        "is_synced": True,
        "target": {"prompt": 2, "decoder": 1, "why": ""},
        "actual": {"prompt": one, "decoder": one},
        "decision": target,
        "guarded": target,
        "hold": None,
        "gates": [],
        "shadows": [],
        "attribution": {"bottleneck": "prompt", "evidence": "queue 3 on prompt"},
        "alarms": ["link d1-p2 failed 5 times"],
        "signals": {
            "prompt": NONE
            | {"serving": 1, "fresh": 1, "queue": signal(3.0, 3.0), "kv_used_mean": None},
            "decoder": NONE
            | {"serving": 1, "fresh": 1, "queue": None, "kv_used_mean": signal(0.25, 3.0)},
        },
        "demand": dict.fromkeys((*demand, *lengths)),
        "capacity": [],
        "nodes": [
            node("p1", "prompt", big)
            | {
                "signals": {"age_s": 3.0, "is_fresh": True, "queue": signal(3.0, 3.0)} | nothing,
            },
            node("d1", "decoder", big)
            | {
                "signals": {"age_s": 4.0, "is_fresh": True, "queue": None} | nothing,
                "hung_calls": 1,
            },
        ],
        "is_meshed": True,
        "links": {
            "absent": 0,
            "linking": 0,
            "linked": 1,
            "unlinking": 0,
            "failed": 0,
            "suspect": 0,
        },
        "hung_calls": {"d1": 1},
        "plan": {
            "waves": [
                [{"verb": "start", "text": "start one prompt node (run-1)"}],
                [{"verb": "link", "text": "link d1 to p1"}],
            ],
            "notes": ["a note"],
        },
        "outcomes": [
            {
                "outcome": "done",
                "verb": "link",
                "text": "link d1 to p1",
                "why": "",
                "code": "LLM_SUCCESS",
                "retryable": None,
                "took_s": 0.007,
            }
        ],
        "moves": [
            {
                "node": "p1",
                "role": "prompt",
                "before": "linking",
                "after": "serving",
                "why": "all linked",
                "before_s": 4.0,
            }
        ],
        "limits": {
            "prompt_min": 1,
            "prompt_max": 4,
            "decoder_min": 1,
            "decoder_max": 4,
            "nodes_max": 8,
            "ratio_min": None,
            "ratio_max": None,
            "fresh_quorum": 0.5,
        },
        "lead_times": {"start": {"p50_s": 30.0, "p95_s": 60.0, "count": 5}},
        "phase_s": {"observe": 0.5, "decide": 0.001},
    }


def test_a_hold_names_its_reason_beside_what_the_policy_asked() -> None:
    hold = Hold(HoldReason.COOLDOWN, "48 s of 120 s")
    gates = (Gate(HoldReason.COOLDOWN, Role.DECODER, "48 s of 120 s"), Gate(HoldReason.BUDGET))
    report = replace(a_report(decision=Target(2, 1, "queue")), guarded=hold, gates=gates)

    said = state_view(report, now_s=10.0, version="1")

    assert said["decision"] == {"kind": "target", "prompt": 2, "decoder": 1, "why": "queue"}
    assert said["guarded"] == {"kind": "hold", "reason": "cooldown", "detail": "48 s of 120 s"}
    assert said["hold"] == {"reason": "cooldown", "detail": "48 s of 120 s"}
    assert said["gates"] == [
        {"reason": "cooldown", "role": "decoder", "detail": "48 s of 120 s"},
        {"reason": "budget", "role": None, "detail": ""},
    ]


def test_signals_of_nodes_demand_and_capacity_are_shown_as_far_as_they_are_known() -> None:
    snapshot = a_rich_report().snapshot
    p1 = replace(
        snapshot.node_signals["prompt-0"],
        kv_export_backlog=Signal(4.0, 0.4),
        token_rate=Signal(900.0, 0.4),
    )
    shown = replace(snapshot, node_signals={**snapshot.node_signals, "prompt-0": p1})
    said = state_view(replace(a_rich_report(), snapshot=shown), now_s=NOW_S, version="1")

    nodes = {node["id"]: node["signals"] for node in said["nodes"]}
    assert (nodes["prompt-0"]["engine"], nodes["prompt-0"]["doubt"]) == ("vllm", "")
    assert nodes["prompt-0"]["kv_export_backlog"] == signal(4.0, 3.4)
    assert nodes["prompt-0"]["token_rate"] == signal(900.0, 3.4)
    assert nodes["decoder-1"]["doubt"] == "frozen: no number moved for 41 s"
    assert said["demand"]["requests_per_s"] == signal(12.4, 3.4)
    assert said["demand"]["output_len"] is None
    assert said["capacity"][1] == {
        "role": "decoder",
        "node_class": "vllm",
        "prefill_tokens_per_s": None,
        "step_base_s": 0.0082,
        "step_per_request_s": 0.00011,
        "step_per_token_s": 2.1e-8,
        "samples": 240,
        "rejected": 3,
        "error": 0.04,
        "batch_max": None,
        "tokens_max": None,
    }


def test_ages_are_counted_up_to_the_moment_of_the_question() -> None:
    report = a_report(cycle=1)

    ages = [
        (said["age_s"], said["nodes"][0]["age_s"], said["signals"]["prompt"]["queue"]["age_s"])
        for said in (state_view(report, now_s=now_s, version="1") for now_s in (10.0, 11.25, 9.0))
    ]

    # A clock that is behind the report's makes no age negative.
    assert ages == [(0.0, 9.0, 0.5), (1.25, 10.25, 1.75), (0.0, 8.0, 0.5)]


def test_a_coming_node_says_when_it_is_expected_and_a_serving_one_does_not() -> None:
    coming = replace(a_node("p1", Role.PROMPT, NodeState.STARTING), ready_at_s=40.0)
    serving = replace(a_node("d1", Role.DECODER), ready_at_s=40.0)
    report = a_report(snapshot=a_snapshot(nodes=(coming, serving)))

    said = [state_view(report, now_s=now_s, version="1")["nodes"] for now_s in (15.0, 50.0)]

    assert [[n["ready_in_s"] for n in nodes] for nodes in said] == [[25.0, None], [0.0, None]]


def test_what_no_page_of_a_role_has_is_named_in_order() -> None:
    silent = RoleSignals(serving=1, fresh=1, untold=frozenset({"ttft_s", "tpot_s"}))
    snapshot = replace(a_snapshot(), prompt=silent)

    said = state_view(a_report(snapshot=snapshot), now_s=10.0, version="1")

    assert said["signals"]["prompt"]["untold"] == ["tpot_s", "ttft_s"]


def test_what_is_unknown_is_null_and_never_zero() -> None:
    snapshot = replace(
        a_snapshot(),
        published=None,
        node_signals={},
        decoder=RoleSignals(serving=1, token_rate=Signal(float("inf"), float("inf"))),
    )

    said = state_view(a_report(snapshot=snapshot), now_s=10.0, version="1")

    assert [n["is_published"] for n in said["nodes"]] == [None, None]
    assert [n["signals"] for n in said["nodes"]] == [None, None]
    assert said["actual"]["prompt"]["published"] is None
    token_rate = {"value": None, "age_s": None, "is_lower_bound": False}
    assert said["signals"]["decoder"]["token_rate"] == token_rate


def test_what_an_engine_holds_is_shown_where_its_agent_said_it() -> None:
    report = a_report(engine_load={"d1": EngineLoad(waiting=0, running=3)})

    said = state_view(report, now_s=10.0, version="1")

    assert [n["engine"] for n in said["nodes"]] == [
        None,
        {"waiting": 0, "running": 3, "kv_unpulled": None, "kv_used": None},
    ]


START: Action = StartNode(Role.PROMPT, "run-1")


@pytest.mark.parametrize(
    ("outcome", "ending"),
    [
        (Done(START, took_s=1.5), {"outcome": "done", "why": "", "code": "", "retryable": None}),
        (
            Failed(START, "HTTP 503", retryable=False, took_s=1.5, code="X"),
            {"outcome": "failed", "why": "HTTP 503", "code": "X", "retryable": False},
        ),
        (
            Unknown(START, "no answer", took_s=1.5),
            {"outcome": "unknown", "why": "no answer", "code": "", "retryable": None},
        ),
    ],
)
def test_each_way_to_end_is_told_apart(outcome: Outcome, ending: dict[str, Any]) -> None:
    said = state_view(a_report(outcomes=(outcome,)), now_s=10.0, version="1")["outcomes"]

    action = {"verb": "start", "text": "start one prompt node (run-1)", "took_s": 1.5}
    assert said == [ending | action]


def test_the_links_say_state_age_code_and_next_try_of_each_pair() -> None:
    report = a_rich_report()

    said = links_view(report, now_s=NOW_S, pairs_max=100)

    pairs = {(pair["decoder"], pair["prompt"]): pair for pair in said.pop("pairs")}
    assert said == {
        "cycle": 1234,
        "age_s": 3.0,
        "decoders": ["decoder-0", "decoder-1", "decoder-2", "decoder-3"],
        "prompts": ["prompt-0", "prompt-1", "prompt-2", "prompt-3"],
        "counts": {
            "absent": 0,
            "linking": 1,
            "linked": 13,
            "unlinking": 0,
            "failed": 1,
            "suspect": 1,
        },
        "hung_calls": {"decoder-1": 1},
        "is_complete": True,
        "is_meshed": True,
    }
    assert len(pairs) == 16
    assert pairs["decoder-2", "prompt-3"] == {
        "decoder": "decoder-2",
        "prompt": "prompt-3",
        "state": "failed",
        "age_s": 15.0,
        "attempts": 3,
        "code": "LLM_LINK_FAILED",
        "why": "the peer did not answer",
        "next_try_s": 6.0,
    }
    assert pairs["decoder-1", "prompt-3"]["state"] == "suspect"
    assert pairs["decoder-1", "prompt-3"]["next_try_s"] is None


def test_too_many_pairs_leave_out_those_that_are_linked() -> None:
    said = links_view(a_rich_report(), now_s=NOW_S, pairs_max=15)

    assert said["is_complete"] is False
    assert [(pair["decoder"], pair["state"]) for pair in said["pairs"]] == [
        ("decoder-1", "suspect"),
        ("decoder-2", "failed"),
        ("decoder-3", "linking"),
    ]


def test_a_pair_that_waits_says_what_for_and_others_do_not() -> None:
    wait = Wait("decoder-2", "prompt-3", "the card of prompt-3 is full")
    tried = Wait("decoder-1", "prompt-3", "3 tries failed", NOW_S + 6.0)
    said = links_view(replace(a_rich_report(), waits=(wait, tried)), now_s=NOW_S, pairs_max=100)

    waits = {(p["decoder"], p["prompt"]): p["wait"] for p in said["pairs"] if "wait" in p}
    assert waits == {("decoder-2", "prompt-3"): "the card of prompt-3 is full"}


def test_the_matrix_names_nodes_that_want_links_and_those_only_a_link_still_names() -> None:
    nodes = (
        a_node("p1", Role.PROMPT),
        a_node("p2", Role.PROMPT, NodeState.STARTING),
        a_node("d1", Role.DECODER, NodeState.LINKING),
    )
    links = (
        a_link("d1", "p0", LinkState.SUSPECT),
        a_link("d0", "p1", LinkState.ABSENT),
    )

    said = links_view(
        a_report(snapshot=a_snapshot(nodes=nodes), links=links), now_s=10.0, pairs_max=9
    )

    assert (said["decoders"], said["prompts"]) == (["d1"], ["p0", "p1"])
