"""What the doctor concludes of a page, of roles and of clocks: from what was seen, no more."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from pd_autoscaler.adapters.metrics.faults import Fault, Trouble
from pd_autoscaler.adapters.metrics.profiles import ProfileBook, shipped_profiles
from pd_autoscaler.agent.wire import StateReply
from pd_autoscaler.doctor.clocks import ahead_s, clock
from pd_autoscaler.doctor.findings import Finding, Verdict
from pd_autoscaler.doctor.looking import bare
from pd_autoscaler.doctor.page_findings import of_page
from pd_autoscaler.doctor.pages import Kind, Look, Reader, kind_of
from pd_autoscaler.doctor.role_findings import of_role
from pd_autoscaler.doctor.seen import AgentSeen, Answer, NodeSeen, PageSeen, Reply
from pd_autoscaler.model.node import Role
from tests.support.pages import line, real_page, vllm_page

URL = "http://10.0.0.1:8000/metrics"
NOON = 1_767_268_800.0
NOON_TEXT = "Thu, 01 Jan 2026 12:00:00 GMT"

DECODER: dict[str, Any] = {"finished": 60, "prompt_tokens": 11_000, "generation_tokens": 6_400}
PROMPT: dict[str, Any] = {"finished": 60, "prompt_tokens": 11_000, "generation_tokens": 60}


def reader(profile: str = "auto") -> Reader:
    profiles = shipped_profiles()
    return Reader(ProfileBook(profiles, profile), ProfileBook(profiles), default=profile)


def looked_at(
    body: bytes, *, role: Role | None = Role.DECODER, profile: str = "auto", date: str = ""
) -> Look:
    return reader(profile).look(body, "text/plain", node=bare("n1"), role=role, date=date)


def page_of(
    body: bytes,
    *,
    later: bytes | None = None,
    role: Role | None = Role.DECODER,
    profile: str = "auto",
    answer: Answer | None = None,
) -> PageSeen:
    reply = answer or Answer(status=200, received_unix_s=NOON, took_s=0.01)
    return PageSeen(
        url=URL,
        reply=reply,
        look=looked_at(body, role=role, profile=profile, date=reply.date),
        later=looked_at(body if later is None else later, role=role, profile=profile),
        apart_s=1.0,
    )


def node_of(
    body: bytes = b"",
    *,
    role: Role | None = Role.DECODER,
    profile: str = "auto",
    page: PageSeen | None = None,
    states: tuple[StateReply, ...] = (),
) -> NodeSeen:
    agents = tuple(
        AgentSeen(url="http://a", reply=Answer(status=200), state=state) for state in states
    )
    page = page or page_of(body, role=role, profile=profile)
    return NodeSeen(id="n1", role=role, profile=profile, page=page, agents=agents)


def state(role: str = "decoder", *, can_switch: bool = False) -> StateReply:
    return StateReply.model_validate(
        {
            "version": "1",
            "node_id": "n1",
            "role": role,
            "phase": "ready",
            "incarnation": "a",
            "capabilities": ["role"] if can_switch else [],
        }
    )


def found(node: NodeSeen) -> Mapping[str, Finding]:
    return {finding.check: finding for finding in (*of_page(node), *of_role(node))}


def pulled(tokens: float) -> bytes:
    name = "vllm:prompt_tokens_by_source_total"
    return line(name, tokens, source="external_kv_transfer", engine="0").encode()


def mindie_page(ttft: float = 0, tpot: float = 0) -> bytes:
    text = line("npu_cache_usage_perc", 0.5) + line("num_requests_waiting", 0)
    text += line("num_requests_running", 0)
    text += line("time_to_first_token_seconds_count", ttft)
    return (text + line("time_per_output_token_seconds_count", tpot)).encode()


def sglang_page(engine_type: str = "unified", *, inflight: float = 0, wait: float = 0) -> bytes:
    labels = {"engine_type": engine_type, "tp_rank": "0", "dp_rank": "0"}
    text = line("sglang:num_running_reqs", 1, **labels) + line("sglang:num_queue_reqs", 0, **labels)
    text += line("sglang:num_prefill_inflight_queue_reqs", inflight, **labels)
    return (text + line("sglang:num_decode_transfer_queue_reqs", wait, **labels)).encode()


@pytest.mark.parametrize(
    ("fault", "fix"),
    [
        (Fault.WRONG_URL, "as http://host:port/path"),
        (Fault.NO_NAME, "correct the host in metrics_url"),
        (Fault.REFUSED, "nothing listens on 10.0.0.1:8000"),
        (Fault.UNREACHABLE, "no way from this machine"),
        (Fault.NO_CONNECTION, "a firewall or network policy"),
        (Fault.NO_ANSWER, "hangs or is overloaded"),
        (Fault.TLS, "certificates"),
        (Fault.BROKEN, "does not speak HTTP"),
        (Fault.UNUSABLE, "scrape.size_max_bytes"),
    ],
)
def test_each_way_of_not_answering_has_a_fix_of_its_own(fault: Fault, fix: str) -> None:
    (finding,) = of_page(node_of(page=PageSeen(url=URL, reply=Trouble(fault, "so said"))))
    assert (finding.verdict, finding.seen) == (Verdict.PROBLEM, f"{URL}: so said")
    assert fix in finding.fix


def test_what_was_not_asked_for_want_of_time_is_no_problem() -> None:
    page = PageSeen(url=URL, reply=Trouble(Fault.NOT_ASKED, "the time was over"))
    (finding,) = of_page(node_of(page=page))
    assert finding.verdict is Verdict.NOT_CHECKED


def test_a_password_in_an_address_is_not_told() -> None:
    page = PageSeen(url="http://me:secret@10.0.0.1/m", reply=Trouble(Fault.REFUSED, "so said"))
    (finding,) = of_page(node_of(page=page))
    assert "secret" not in finding.seen + finding.fix


@pytest.mark.parametrize(
    ("status", "seen", "fix"),
    [
        (401, "the token is missing or wrong", "scrape.token"),
        (403, "forbidden", "scrape.token"),
        (404, "no such path", "--enable-metrics"),
        (307, "HTTP 307 to http://other/", "this redirect is not followed"),
        (500, "HTTP 500", "see the log"),
        (405, "HTTP 405", "does not take a plain GET"),
    ],
)
def test_each_refusal_has_a_fix_of_its_own(status: int, seen: str, fix: str) -> None:
    reply = Answer(status=status, location="http://other/")
    (finding,) = of_page(node_of(page=PageSeen(url=URL, reply=reply)))
    assert finding.verdict is Verdict.PROBLEM
    assert seen in finding.seen
    assert fix in finding.fix


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", Kind.EMPTY),
        (b" \n", Kind.EMPTY),
        (b"<!doctype html>\n<p>hello 1\n", Kind.HTML),
        (b'{"a": 1}', Kind.JSON),
        (b"not found 1\n", Kind.OTHER),
        (b"go away\n", Kind.OTHER),
        (b"# HELP a b\na_total 1\n", Kind.METRICS),
        (b'a{b="c d"} +Inf 123\n', Kind.METRICS),
    ],
)
def test_a_page_of_metrics_is_told_from_other_bodies(body: bytes, kind: Kind) -> None:
    assert kind_of(body, "text/plain") is kind


def test_a_body_that_is_no_page_is_a_problem_with_the_address() -> None:
    finding = found(node_of(b"<html></html>"))["page"]
    assert (finding.verdict, "HTML" in finding.seen) == (Verdict.PROBLEM, True)
    assert "metrics_url" in finding.fix


def test_an_empty_page_asks_to_switch_metrics_on() -> None:
    finding = found(node_of(b"\n"))["page"]
    assert (finding.verdict, "MIES_SERVICE_MONITOR_MODE" in finding.fix) == (Verdict.PROBLEM, True)


def test_a_slow_page_is_a_warning() -> None:
    answer = Answer(status=200, took_s=1.5, received_unix_s=NOON)
    page = page_of(vllm_page(), answer=answer)
    assert found(node_of(page=page))["metrics"].verdict is Verdict.WARNING


@pytest.mark.parametrize("began", ["NaN", "+Inf", "-Inf", "0", "-1e300"])
def test_a_beginning_that_is_no_time_is_not_judged(began: str) -> None:
    text = f"process_start_time_seconds {began}\n".encode()
    checks = found(node_of(vllm_page() + text))
    assert checks["uptime"].verdict is Verdict.NOT_CHECKED
    # Nor is it that of another process, where the counters went back.
    before, after = vllm_page(generation_tokens=9) + text, vllm_page(generation_tokens=1) + text
    moves = found(node_of(page=page_of(before, later=after)))["moves"]
    assert moves.verdict is Verdict.PROBLEM


def test_a_password_in_a_redirect_is_not_told() -> None:
    reply = Answer(status=307, location="http://me:hush@10.0.0.2/m" + "x" * 1000)
    (finding,) = of_page(node_of(page=PageSeen(url=URL, reply=reply)))
    assert "HTTP 307 to http://10.0.0.2/m" in finding.seen
    assert ("hush" in finding.seen, len(finding.seen) < 300) == (False, True)


def test_a_page_of_another_engine_than_configured_is_named() -> None:
    finding = found(node_of(mindie_page(), profile="vllm"))["profile"]
    assert finding.verdict is Verdict.PROBLEM
    assert finding.seen == "the page is that of mindie, and it is read as vllm"
    assert "to mindie or auto" in finding.fix


def test_a_page_of_no_engine_asks_to_switch_metrics_on() -> None:
    finding = found(node_of(b"python_info 1\n"))["profile"]
    assert (finding.verdict, "--disable-log-stats" in finding.fix) == (Verdict.PROBLEM, True)


def test_a_page_that_is_cut_short_is_a_problem_of_its_engine() -> None:
    finding = found(node_of(vllm_page() + b"vllm:num_requests_running 1"))["profile"]
    assert finding.verdict is Verdict.PROBLEM
    assert "cut short" in finding.seen


def test_what_is_needed_and_lacks_is_named_with_what_was_looked_for() -> None:
    finding = found(node_of(vllm_page()))["names"]
    assert finding.verdict is Verdict.WARNING
    assert "tpot_s: no vllm:inter_token_latency_seconds" in finding.seen
    assert "preemptions" not in finding.seen


def test_a_page_of_a_real_engine_has_all_that_is_needed() -> None:
    for role, body in (
        (Role.PROMPT, real_page("vllm-0.32-prompt-after.txt")),
        (Role.DECODER, real_page("vllm-0.32-decoder-after.txt")),
    ):
        checks = found(node_of(body, role=role))
        assert [checks[c].verdict for c in ("profile", "names", "role")] == [Verdict.OK] * 3
        assert "as the counters show" in checks["role"].seen
        other = found(node_of(body, role=role.other))["role"]
        assert (other.verdict, f"show a {role} node" in other.seen) == (Verdict.PROBLEM, True)


def test_more_engines_than_agents_on_a_page_is_a_warning() -> None:
    two = vllm_page(engines=("0", "1"))
    assert found(node_of(two, states=(state(),)))["one engine"].verdict is Verdict.WARNING
    assert found(node_of(two, states=(state(),) * 2))["one engine"].verdict is Verdict.OK


def test_counters_of_both_roles_are_those_of_a_sum_over_nodes() -> None:
    finding = found(node_of(mindie_page(ttft=400, tpot=9000)))["one engine"]
    assert (finding.verdict, "coordinator" in finding.fix) == (Verdict.PROBLEM, True)


@pytest.mark.parametrize(
    ("body", "role"),
    [
        (vllm_page(**PROMPT), Role.PROMPT),
        (vllm_page(**DECODER) + pulled(7000), Role.DECODER),
        (mindie_page(ttft=3), Role.PROMPT),
        (mindie_page(tpot=3), Role.DECODER),
        (sglang_page("prefill"), Role.PROMPT),
        (sglang_page("decode"), Role.DECODER),
        (sglang_page(inflight=2), Role.PROMPT),
        (sglang_page(wait=2), Role.DECODER),
    ],
)
def test_the_counters_show_the_role_and_contradict_the_other(body: bytes, role: Role) -> None:
    assert "as the counters show" in found(node_of(body, role=role))["role"].seen
    wrong = found(node_of(body, role=role.other))["role"]
    assert wrong.verdict is Verdict.PROBLEM
    assert f"the counters show a {role} node" in wrong.seen
    unsaid = found(node_of(body, role=None))["role"]
    assert (unsaid.verdict, f"show a {role} node" in unsaid.seen) == (Verdict.OK, True)


@pytest.mark.parametrize(
    "body",
    [
        vllm_page(finished=4, generation_tokens=400),
        vllm_page(**DECODER),
        mindie_page(),
        sglang_page(),
        sglang_page(inflight=1, wait=1),
        sglang_page("prefill") + sglang_page("decode"),
    ],
)
def test_counters_that_do_not_tell_contradict_nothing(body: bytes) -> None:
    checks = [found(node_of(body, role=role))["role"] for role in (*Role, None)]
    verdicts = [finding.verdict for finding in checks]
    assert verdicts == [Verdict.OK, Verdict.OK, Verdict.NOT_CHECKED]


def test_a_decoder_to_which_no_kv_ever_came_is_a_warning() -> None:
    itl = line("vllm:inter_token_latency_seconds_count", 6000, engine="0").encode()
    finding = found(node_of(vllm_page(**DECODER) + itl + pulled(0)))["role"]
    assert (finding.verdict, "no KV ever came" in finding.seen) == (Verdict.WARNING, True)


@pytest.mark.parametrize(
    "page",
    [
        None,
        PageSeen(url=URL, reply=Trouble(Fault.REFUSED, "so said")),
        PageSeen(url=URL, reply=Answer(status=404)),
        page_of(b"<html></html>"),
    ],
)
def test_a_role_that_nothing_shows_is_not_checked(page: PageSeen | None) -> None:
    for role in (Role.PROMPT, None):
        (finding,) = of_role(NodeSeen(id="n1", role=role, page=page))
        assert finding.verdict is Verdict.NOT_CHECKED
    agents = (AgentSeen(url="http://a", reply=Answer(status=200), state=state("prompt")),)
    (finding,) = of_role(NodeSeen(id="n1", role=Role.PROMPT, page=page, agents=agents))
    assert finding.verdict is Verdict.OK


@pytest.mark.parametrize(
    ("body", "seen", "fix"),
    [
        (vllm_page(**PROMPT), "show a prompt node (1.0 generated", "correct agent_urls: the page"),
        (vllm_page(**DECODER) + pulled(900), "show a decoder node (KV of 900", "correct the role"),
        (vllm_page(), "the counters do not tell (0 requests", ", or correct agent_urls"),
        (b"<html></html>", "not tell (there is no page to read)", ", or correct agent_urls"),
    ],
)
def test_an_agent_of_the_other_role_is_told_with_what_the_counters_show(
    body: bytes, seen: str, fix: str
) -> None:
    finding = found(node_of(body, role=Role.PROMPT, states=(state("decoder"),)))["role"]
    assert finding.verdict is Verdict.PROBLEM
    assert "agent is that of a decoder node, and a prompt is expected" in finding.seen
    assert seen in finding.seen
    assert fix in finding.fix


def test_a_page_that_contradicts_the_agent_may_be_of_another_node() -> None:
    node = node_of(vllm_page(**PROMPT), role=None, states=(state("decoder"),))
    finding = found(node)["role"]
    assert finding.verdict is Verdict.PROBLEM
    assert "metrics_url or agent_urls, which may be of different nodes" in finding.fix


def test_an_agent_of_the_other_role_is_a_problem_unless_it_can_switch() -> None:
    body = vllm_page(**PROMPT)
    stuck = found(node_of(body, states=(state("prompt"),)))["role"]
    assert (stuck.verdict, "agent is that of a prompt node" in stuck.seen) == (
        Verdict.PROBLEM,
        True,
    )
    switched = node_of(body, states=(state("prompt", can_switch=True),))
    assert found(switched)["role"].verdict is Verdict.OK
    assert found(replace(switched, is_role_certain=True))["role"].verdict is Verdict.PROBLEM


def test_counters_from_before_a_switch_are_a_warning_and_those_since_decide() -> None:
    before, states = vllm_page(**PROMPT), (state(can_switch=True),)
    old = found(node_of(before, states=states))["role"]
    assert (old.verdict, "since its start" in old.seen) == (Verdict.WARNING, True)
    page = page_of(before + pulled(0), later=vllm_page(**PROMPT) + pulled(900))
    assert found(node_of(page=page, states=states))["role"].verdict is Verdict.OK
    more: dict[str, Any] = {"finished": 70, "prompt_tokens": 12_000, "generation_tokens": 70}
    wrong = found(node_of(page=page_of(before, later=vllm_page(**more)), states=states))["role"]
    assert (wrong.verdict, "(now:" in wrong.seen) == (Verdict.PROBLEM, True)


def test_ranks_of_different_roles_are_a_problem() -> None:
    node = node_of(vllm_page(), states=(state("prompt"), state("decoder")))
    assert found(node)["role"].verdict is Verdict.PROBLEM


@pytest.mark.parametrize(
    ("first", "later", "verdict", "seen"),
    [
        ({"running": 3}, {"running": 3}, Verdict.WARNING, "3 requests are inside"),
        ({}, {}, Verdict.OK, "nothing is inside"),
        ({"running": 3}, {"running": 4}, Verdict.OK, "gauges"),
        ({"running": 3}, {"running": 3, "generation_tokens": 5}, Verdict.OK, "1 of "),
        ({"generation_tokens": 5}, {"generation_tokens": 4}, Verdict.PROBLEM, "went back"),
    ],
)
def test_a_second_page_shows_what_moves(
    first: dict[str, Any], later: dict[str, Any], verdict: Verdict, seen: str
) -> None:
    page = page_of(vllm_page(**first), later=vllm_page(**later))
    finding = found(node_of(page=page))["moves"]
    assert finding.verdict is verdict
    assert seen in finding.seen


def test_counters_that_go_back_with_a_new_process_are_a_restart() -> None:
    began = [line("process_start_time_seconds", s).encode() for s in (NOON - 900, NOON - 1)]
    page = page_of(
        vllm_page(generation_tokens=5) + began[0], later=vllm_page(generation_tokens=4) + began[1]
    )
    finding = found(node_of(page=page))["moves"]
    assert (finding.verdict, "another process" in finding.seen) == (Verdict.WARNING, True)


def test_no_second_page_leaves_moves_unchecked() -> None:
    page = replace(page_of(vllm_page()), later=None)
    assert found(node_of(page=page))["moves"].verdict is Verdict.NOT_CHECKED


@pytest.mark.parametrize(
    ("began_unix_s", "date", "verdict"),
    [
        (NOON - 3600, "", Verdict.OK),
        (NOON - 30, "", Verdict.WARNING),
        # By the server's own clock, which is an hour behind.
        (NOON - 3630, "Thu, 01 Jan 2026 11:00:00 GMT", Verdict.WARNING),
    ],
)
def test_a_process_that_has_only_just_begun_is_a_warning(
    began_unix_s: float, date: str, verdict: Verdict
) -> None:
    body = vllm_page() + line("process_start_time_seconds", began_unix_s).encode()
    answer = Answer(status=200, date=date, received_unix_s=NOON)
    page = page_of(body, answer=answer)
    assert found(node_of(page=page))["uptime"].verdict is verdict


def test_a_page_that_does_not_say_when_its_process_began_leaves_that_unchecked() -> None:
    assert found(node_of(vllm_page()))["uptime"].verdict is Verdict.NOT_CHECKED


@pytest.mark.parametrize(
    ("sent", "received", "ahead"),
    [
        (NOON + 0.2, NOON + 0.4, 0.0),
        # The header's second may have been any part of it, and the answer may have taken long.
        (NOON + 0.9, NOON + 1.3, 0.0),
        (NOON - 5.0, NOON + 0.5, 0.0),
        (NOON - 4.0, NOON - 3.0, 3.0),
        (NOON + 41.0, NOON + 41.5, -40.0),
    ],
)
def test_only_what_the_second_and_the_wait_cannot_explain_is_a_difference(
    sent: float, received: float, ahead: float
) -> None:
    answer = Answer(status=200, date=NOON_TEXT, sent_unix_s=sent, received_unix_s=received)
    assert ahead_s(answer) == pytest.approx(ahead)


@pytest.mark.parametrize(
    ("apart_s", "verdict"),
    [(1.5, Verdict.OK), (2.5, Verdict.WARNING), (29.0, Verdict.WARNING), (31.0, Verdict.PROBLEM)],
)
def test_clocks_apart_are_a_warning_and_far_apart_a_problem(
    apart_s: float, verdict: Verdict
) -> None:
    at = NOON - apart_s
    off = Answer(status=200, date=NOON_TEXT, sent_unix_s=at, received_unix_s=at)
    right = Answer(status=200, date=NOON_TEXT, sent_unix_s=NOON, received_unix_s=NOON)
    assert clock({"engine": right, "agent": off}).verdict is verdict


@pytest.mark.parametrize(
    "reply", [Trouble(Fault.REFUSED, ""), Answer(status=200), Answer(status=200, date="soon")]
)
def test_without_a_date_the_clock_is_not_checked(reply: Reply) -> None:
    assert clock({"engine": reply}).verdict is Verdict.NOT_CHECKED
