"""The doctor before real servers: each way to fail is told apart, and nothing is changed."""

import gzip
import math
import socket
import ssl
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from pd_autoscaler.adapters.metrics.faults import Fault, Trouble
from pd_autoscaler.app import wall_clock
from pd_autoscaler.doctor.asking import Asker
from pd_autoscaler.doctor.findings import Verdict
from pd_autoscaler.doctor.pages import Look, Reader
from pd_autoscaler.doctor.site import JournalSeen
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.node import Role
from pd_autoscaler.settings import (
    AdminSettings,
    LinkSettings,
    ProviderSettings,
    RouterSettings,
    ScrapeSettings,
    Settings,
    StaticNode,
)
from pd_autoscaler.settings.sections import PromqlSettings
from tests.support.admin import AdminParts
from tests.support.admin import served as admin_api
from tests.support.certificates import certificates
from tests.support.datadist_peers import dropping, refusing
from tests.support.doctored import (
    SCRAPE_S,
    Given,
    a_round,
    checks,
    hanging,
    one,
    served,
    troubles,
    with_token,
)
from tests.support.metrics_servers import BOUND_S, serving_engines, with_json
from tests.support.pages import line, vllm_page

IP = "127.0.0.1"
PROBLEM, WARNING, OK = Verdict.PROBLEM, Verdict.WARNING, Verdict.OK

PROMPT_PAGE = vllm_page(finished=60, prompt_tokens=9000, generation_tokens=60) + b"".join(
    line(f"vllm:{name}_{part}", 1, **labels).encode()
    for name in ("time_to_first_token_seconds", "request_queue_time_seconds")
    for part, labels in (("bucket", {"le": "+Inf"}), ("sum", {}), ("count", {}))
)
STATE: dict[str, Any] = {
    "version": "1.2",
    "node_id": "n1",
    "role": "prompt",
    "phase": "ready",
    "incarnation": "boot-1",
    "endpoints": [{"cluster_id": 7, "ip": IP, "port": 1}],
    "engine": {"waiting": 0, "running": 0, "kv_unpulled": 0},
}


def with_endpoint(port: int) -> dict[str, Any]:
    return {**STATE, "endpoints": [{"cluster_id": 7, "ip": IP, "port": port}]}


async def test_a_sound_node_is_fine() -> None:
    async with served({"/metrics": PROMPT_PAGE}) as engine:
        port = int(engine.url.rpartition(":")[2])
        async with served({"/v1/state": with_endpoint(port)}) as agent:
            found = await one(f"{engine.url}/metrics", agent.url)
    assert troubles(found) == set()
    assert {found[check].verdict for check in ("moves", "role", "link port", "clock")} == {OK}
    assert {method for method, _, _ in (*engine.asked, *agent.asked)} == {"GET"}


async def test_ports_that_refuse_and_that_drop_are_told_apart() -> None:
    with refusing(IP) as closed, dropping(IP) as full:
        found = await one(f"http://{IP}:{closed[1]}/m", f"http://{IP}:{full[1]}")
    assert found["metrics"].seen.endswith(f": connection refused by {IP}:{closed[1]}")
    assert found["role"].verdict is Verdict.NOT_CHECKED
    assert found["agent"].verdict is PROBLEM
    assert "no connection" in found["agent"].seen


async def test_a_server_that_hangs_is_told_from_a_port_that_is_silent() -> None:
    async with served({"/metrics": hanging}) as engine:
        found = await one(f"{engine.url}/metrics")
    assert (found["metrics"].verdict, "no answer" in found["metrics"].seen) == (PROBLEM, True)


async def test_what_does_not_speak_http_is_told() -> None:
    async def close(stream: anyio.abc.SocketStream) -> None:
        await stream.aclose()

    listener = await anyio.create_tcp_listener(local_host=IP)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, close)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        found = await one(f"http://{IP}:{port}/metrics")
        group.cancel_scope.cancel()
    assert (found["metrics"].verdict, "broken off" in found["metrics"].seen) == (PROBLEM, True)


async def test_https_where_there_is_none_is_a_tls_error() -> None:
    async with served({"/metrics": PROMPT_PAGE}) as engine:
        found = await one(f"{engine.url}/metrics".replace("http:", "https:"))
    assert (found["metrics"].verdict, "TLS" in found["metrics"].seen) == (PROBLEM, True)


class NoNames(AbstractResolver):
    """A name service that knows nobody."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        raise OSError(None, "Name or service not known")

    async def close(self) -> None:
        pass


async def test_a_name_that_nobody_knows_is_told() -> None:
    connector = aiohttp.TCPConnector(resolver=NoNames())
    async with aiohttp.ClientSession(connector=connector) as session:
        asker = Asker(
            session,
            now_unix_s=wall_clock,
            concurrency_max=1,
            ends_s=anyio.current_time() + 30,
            size_max_bytes=10,
        )
        reply = await asker.get("http://nobody.invalid/metrics", deadline_s=5)
        wrong = await asker.get("http://", deadline_s=5)
        port = await asker.connect("nobody", 1, deadline_s=5)
    assert isinstance(reply, Trouble)
    assert reply.fault is Fault.NO_NAME
    assert isinstance(wrong, Trouble)
    assert wrong.fault is Fault.WRONG_URL
    assert port is not None
    assert port.fault is Fault.WRONG_URL


async def test_a_page_above_the_limit_is_refused() -> None:
    scrape = ScrapeSettings(size_max_bytes=1000)
    async with served({"/metrics": b"# x\n" * 1000}) as engine:
        found = await one(f"{engine.url}/metrics", made=a_round(Settings(scrape=scrape)))
    assert (found["metrics"].verdict, "larger than 1000 bytes" in found["metrics"].seen) == (
        PROBLEM,
        True,
    )


@pytest.mark.parametrize(
    ("answer", "check", "seen"),
    [
        (web.Response(status=500), "metrics", "HTTP 500"),
        (web.Response(status=302, headers={"Location": "//x/login"}), "metrics", "302 to //x/"),
        (None, "metrics", "404: no such path"),
        (b"<html><body>Welcome 1\n</body></html>", "page", "HTML"),
        ({"status": "ok"}, "page", "JSON"),
        (b"", "page", "an empty page"),
        (line("npu_cache_usage_perc", 0.5).encode(), "role", "neither first nor later"),
        (b"go_threads 5\n", "profile", "no metric of"),
    ],
)
async def test_each_wrong_page_is_told(answer: Any, check: str, seen: str) -> None:
    async with served({"/metrics": answer}) as engine:
        found = await one(f"{engine.url}/metrics")
    assert seen in found[check].seen
    assert (found[check].verdict is OK) is (check == "role")


async def test_a_redirect_is_followed_where_a_scrape_would_follow_it() -> None:
    def leading(where: str) -> web.Response:
        return web.Response(status=307, headers={"Location": where})

    async with served({"/metrics": PROMPT_PAGE}) as other:
        paths: dict[str, Given] = {
            "/metrics": PROMPT_PAGE,
            "/old": leading("/metrics"),
            "/round": leading("/round"),
            "/away": leading(other.url.replace("//", "//me:hush@") + "/metrics"),
        }
        async with served(paths) as engine:
            same, round_, away = [
                await one(f"{engine.url}/{name}") for name in ("old", "round", "away")
            ]
    assert same["profile"].verdict is OK
    assert (round_["metrics"].verdict, away["metrics"].verdict) == (PROBLEM, PROBLEM)
    assert away["metrics"].seen.endswith(f"HTTP 307 to {other.url}/metrics")
    assert not other.asked


async def test_one_page_that_cannot_be_read_ends_no_look_at_the_others() -> None:
    count = PROMPT_PAGE + line("vllm:inter_token_latency_seconds_count", 1e308).encode()
    odd = [
        count + line("vllm:inter_token_latency_seconds_count", 1e308, engine="1").encode(),
        PROMPT_PAGE
        + line("vllm:generation_tokens_total", math.inf, engine="1").encode()
        + line("vllm:generation_tokens_total", -math.inf, engine="2").encode(),
    ]
    async with served({"/0": odd[0], "/1": odd[1]}) as engine:
        found = [await one(f"{engine.url}/{i}") for i in range(2)]
    assert {finding["profile"].verdict for finding in found} <= {OK, PROBLEM}
    assert {finding["clock"].verdict for finding in found} == {OK}


async def test_whatever_a_page_does_to_its_reader_is_a_finding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> Look:
        raise OverflowError("past all numbers")

    monkeypatch.setattr(Reader, "look", broken)
    async with served({"/metrics": PROMPT_PAGE}) as engine:
        found = await one(f"{engine.url}/metrics")
    assert found["profile"].verdict is PROBLEM
    assert found["profile"].seen == ("the page cannot be read: OverflowError: past all numbers")


@pytest.mark.parametrize(
    ("later", "why"),
    [
        (web.Response(status=503), "HTTP 503"),
        (hanging, "no answer: connected"),
        (b"", "it was empty"),
        (b"vllm:num_requests_running 1", "cut short"),
    ],
)
async def test_why_there_is_no_second_page_is_told(later: Given, why: str) -> None:
    pages = iter([PROMPT_PAGE, later])

    async def page(request: web.Request) -> web.StreamResponse:
        given = next(pages)
        if callable(given):
            given = await given(request)
        return web.Response(body=given) if isinstance(given, bytes) else given  # type: ignore[return-value]

    async with served({"/metrics": page}) as engine:
        found = await one(f"{engine.url}/metrics")
    assert found["moves"].verdict is Verdict.NOT_CHECKED
    assert why in found["moves"].seen


async def test_the_page_of_another_engine_is_named() -> None:
    settings = Settings(scrape=ScrapeSettings(profile="mindie"))
    async with served({"/metrics": PROMPT_PAGE}) as engine:
        found = await one(f"{engine.url}/metrics", made=a_round(settings))
    assert troubles(found) == {"profile"}
    assert found["profile"].seen == "the page is that of vllm, and it is read as mindie"


async def test_a_prompt_node_that_is_called_a_decoder_is_told() -> None:
    async with served({"/metrics": PROMPT_PAGE}) as engine:
        found = await one(f"{engine.url}/metrics", role=Role.DECODER)
        unsaid = await one(f"{engine.url}/metrics", role=None)
    assert found["role"].verdict is PROBLEM
    assert "the counters show a prompt node" in found["role"].seen
    assert (unsaid["role"].verdict, unsaid["names"].verdict) == (OK, OK)


async def test_a_token_is_sent_to_engine_and_agent_and_a_wrong_one_is_told() -> None:
    body = str(STATE).replace("'", '"').encode()
    engine_paths = {"/metrics": with_token("engine-token", PROMPT_PAGE)}
    agent_paths = {"/v1/state": with_token("agent-token", body)}
    right = Settings.model_validate(
        {
            "scrape": {"token": "engine-token"},
            "agent": {"token": "agent-token"},
            "links": {"linker": "none"},
        }
    )
    async with served(engine_paths) as engine, served(agent_paths) as agent:
        found = await one(f"{engine.url}/metrics", agent.url, made=a_round(right))
        without = await one(f"{engine.url}/metrics", agent.url)
    assert troubles(found) == set()
    assert found["link port"].verdict is Verdict.NOT_CHECKED
    assert (without["metrics"].verdict, without["agent"].verdict) == (PROBLEM, PROBLEM)
    assert "scrape.token" in without["metrics"].fix
    assert "agent.token" in without["agent"].fix


@pytest.mark.parametrize(("off_s", "verdict"), [(0, OK), (-10, WARNING), (600, PROBLEM)])
async def test_a_server_whose_clock_is_off_is_told(off_s: float, verdict: Verdict) -> None:
    def lying(_: web.Request) -> web.Response:
        date = formatdate(wall_clock() + off_s, usegmt=True)
        return web.Response(body=PROMPT_PAGE, headers={"Date": date})

    async with served({"/metrics": lying}) as engine:
        found = await one(f"{engine.url}/metrics")
    assert found["clock"].verdict is verdict


async def test_a_page_that_does_not_move_while_requests_are_inside_is_told() -> None:
    busy = PROMPT_PAGE.replace(
        b'vllm:num_requests_running{engine="0",model_name="tiny"} 0.0',
        b'vllm:num_requests_running{engine="0",model_name="tiny"} 3.0',
    )
    pages = iter([busy, busy, busy, busy.replace(b"9000", b"9500")])
    async with served({"/metrics": lambda _: next(pages)}) as engine:
        frozen = await one(f"{engine.url}/metrics")
        moving = await one(f"{engine.url}/metrics")
    assert (frozen["moves"].verdict, moving["moves"].verdict) == (WARNING, OK)


async def test_another_program_at_the_agents_address_is_told() -> None:
    async with served({"/v1/state": {"hello": 1}}) as agent:
        found = await one("", agent.url)
    assert (found["agent"].verdict, "no agent's answer" in found["agent"].seen) == (PROBLEM, True)


async def test_link_ports_that_take_no_connection_are_told_by_how() -> None:
    with refusing(IP) as closed:
        async with served({"/v1/state": with_endpoint(closed[1])}) as agent:
            refused = await one("", agent.url)
    assert (refused["link port"].verdict, "refused" in refused["link port"].seen) == (PROBLEM, True)


async def test_what_the_time_did_not_suffice_for_is_not_checked() -> None:
    async with served({"/metrics": PROMPT_PAGE}) as engine:
        found = await one(f"{engine.url}/metrics", engine.url, made=a_round(deadline_s=0.0))
    assert {found["metrics"].verdict, found["agent"].verdict} == {Verdict.NOT_CHECKED}
    assert not engine.asked


async def test_a_hung_answer_that_the_whole_round_cuts_short_is_not_checked() -> None:
    settings = Settings.model_validate(
        {"scrape": {"deadline_s": 60, "age_max_s": 100}, "loop": {"period_s": 100}}
        | {"scrape": {"deadline_s": 60, "age_max_s": 100, "window_s": 100}}
        | {"node": {"lost_after_s": 200}}
    )
    async with served({"/metrics": hanging}) as engine:
        found = await one(f"{engine.url}/metrics", made=a_round(settings, deadline_s=SCRAPE_S))
    assert found["metrics"].verdict is Verdict.NOT_CHECKED


def fleet(engine: str, agents: list[str], **sections: Any) -> Settings:
    nodes = tuple(
        StaticNode(
            id=f"{role}-1", role=role, agent_urls=(agents[i],), metrics_url=f"{engine}/metrics"
        )
        for i, role in enumerate(Role)
    )
    provider = ProviderSettings(kind="static", nodes=nodes)
    return Settings(provider=provider, links=LinkSettings(linker="none"), **sections)


async def test_a_whole_configuration_is_looked_at_and_nothing_is_changed() -> None:
    page: dict[str, Given] = {"/metrics": PROMPT_PAGE}
    first, second = STATE, {**STATE, "role": "decoder", "incarnation": "b", "phase": "new"}
    around: dict[str, Given] = {
        "/nodes": {"prompt": ["prompt-1"], "decoder": [], "in_flight": {}},
        "/healthz": {"healthy": True, "reason": ""},
    }
    async with (
        served(page) as engine,
        served({"/v1/state": first}) as one_agent,
        served({"/v1/state": second}) as other_agent,
        served(around) as site,
    ):
        settings = fleet(
            engine.url,
            [one_agent.url, other_agent.url],
            router=RouterSettings(url=site.url),
            admin=AdminSettings(port=int(site.url.rpartition(":")[2])),
        )
        found = await a_round(settings).of_all([], JournalSeen(path="j", holder=1))
        some = await a_round(settings).of_nodes(["prompt-1"])
        with pytest.raises(ConfigError, match="did you mean prompt-1"):
            await a_round(settings).of_nodes(["prompt-2"])
    assert troubles(checks(found, "site")) == set()
    assert checks(found, "site")["router"].seen == "1 of 2 nodes are published"
    assert troubles(checks(found, "prompt-1")) == set()
    # Both are given the same page: it is not a decoder's.
    assert troubles(checks(found, "decoder-1")) == {"names", "role"}
    assert [group.name for group in some.groups] == ["prompt-1"]
    asked = [*engine.asked, *one_agent.asked, *other_agent.asked, *site.asked]
    assert {method for method, _, _ in asked} == {"GET"}


async def test_a_daemon_that_listens_where_this_one_would_is_ours() -> None:
    async with admin_api(AdminParts()) as url:
        settings = Settings(admin=AdminSettings(port=int(url.rpartition(":")[2])))
        found = await a_round(settings).of_all([], JournalSeen(path="j", header=b"", holder=7))
    site = checks(found, "site")
    assert site["admin port"].seen == f"a daemon runs at {url}"
    assert site["journal"].verdict is OK


async def test_a_provider_and_a_router_that_are_not_there_are_told() -> None:
    with refusing(IP) as closed:
        url = f"http://{IP}:{closed[1]}"
        settings = Settings(
            provider=ProviderSettings(url=url),
            router=RouterSettings(url=url),
            admin=AdminSettings(port=closed[1]),
        )
        found = await a_round(settings).of_all([], JournalSeen(path="j"))
        some = await a_round(settings).of_nodes(["n1"])
    site = checks(found, "site")
    assert troubles(site) == {"provider", "router"}
    assert site["admin port"].seen == f"{url} is free: no daemon runs"
    assert troubles(checks(some, "site")) == {"provider"}


async def test_a_provider_and_a_router_that_hang_are_left_when_the_time_is_over() -> None:
    async with served({"/nodes": hanging}) as site:
        settings = Settings(
            provider=ProviderSettings(url=site.url),
            router=RouterSettings(url=site.url),
            admin=AdminSettings(port=0),
        )
        with anyio.fail_after(BOUND_S):
            made = a_round(settings, deadline_s=0.2)
            found = await made.of_all([], JournalSeen(path="j"))
    around = checks(found, "site")
    for check in ("provider", "router"):
        assert around[check].verdict is Verdict.NOT_CHECKED
        assert "--deadline" in around[check].seen


async def test_the_password_of_a_provider_is_not_told() -> None:
    with refusing(IP) as closed:
        url = f"http://me:hush@{IP}:{closed[1]}"
        settings = Settings(
            provider=ProviderSettings(url=url),
            router=RouterSettings(url=url),
            admin=AdminSettings(port=0),
        )
        found = await a_round(settings).of_all([], JournalSeen(path="j"))
    around = checks(found, "site")
    for check in ("provider", "router"):
        assert around[check].verdict is PROBLEM
        assert f"http://{IP}:{closed[1]}/nodes: " in around[check].seen
        assert "hush" not in around[check].seen


async def test_addresses_that_the_settings_lack_are_told() -> None:
    settings = Settings(admin=AdminSettings(port=0))
    site = checks(await a_round(settings).of_all([], JournalSeen(path="j")), "site")
    assert site["provider"].seen == "provider.url is missing"
    assert site["router"].seen == "router.url is missing"


async def test_a_prometheus_server_is_asked_instead_of_the_pages() -> None:
    result = [
        {"metric": {"instance": name}, "value": [0, up]}
        for name, up in (("prompt-1", "1"), ("gone", "0"))
    ]
    answer = {"status": "success", "data": {"resultType": "vector", "result": result}}
    async with (
        served({"/api/v1/query": answer}) as server,
        served({"/v1/state": STATE}) as agent,
    ):
        promql = PromqlSettings(url=server.url, matchers={"job": "engines"}, token="t0p-secret")  # type: ignore[arg-type]
        settings = fleet(
            "http://127.0.0.1:1",
            [agent.url, f"{agent.url}/b"],
            scrape=ScrapeSettings(source="promql", promql=promql),
            router=RouterSettings(kind="none"),
            admin=AdminSettings(port=0),
        )
        found = await a_round(settings).of_all([], JournalSeen(path="j"))
    assert checks(found, "site")["prometheus"].verdict is OK
    assert "2 values of instance among its targets, 1 of them down" in (
        checks(found, "site")["prometheus"].seen
    )
    assert checks(found, "site")["router"].verdict is Verdict.NOT_CHECKED
    assert checks(found, "prompt-1")["prometheus"].verdict is OK
    assert checks(found, "decoder-1")["prometheus"].verdict is PROBLEM
    assert checks(found, "prompt-1")["metrics"].verdict is Verdict.NOT_CHECKED
    assert server.asked[0][2]["Authorization"] == "Bearer t0p-secret"


async def test_a_prometheus_server_is_checked_by_the_same_certificates(
    tmp_path: Path,
) -> None:
    signed = certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(signed.server.cert, signed.server.key)
    result = [{"metric": {"instance": "a"}, "value": [0, "1"]}]
    answer = {"status": "success", "data": {"resultType": "vector", "result": result}}
    async with serving_engines(context) as server:
        server.answers["api/v1/query"] = with_json(answer)
        promql = PromqlSettings(url=server.url)
        for ca_file, verdict in ((signed.ca, OK), (None, PROBLEM)):
            scrape = ScrapeSettings(source="promql", promql=promql, ca_file=ca_file)
            settings = fleet(
                "http://127.0.0.1:1",
                ["http://127.0.0.1:1/a", "http://127.0.0.1:1/b"],
                scrape=scrape,
                router=RouterSettings(kind="none"),
                admin=AdminSettings(port=0),
            )
            found = await a_round(settings).of_all([], JournalSeen(path="j"))
            assert checks(found, "site")["prometheus"].verdict is verdict


async def test_another_program_where_prometheus_should_be_is_told() -> None:
    async with served({"/api/v1/query": {"status": "error", "error": "bad data"}}) as server:
        settings = fleet(
            server.url,
            [f"{server.url}/a", f"{server.url}/b"],
            scrape=ScrapeSettings(source="promql", promql=PromqlSettings(url=server.url)),
            router=RouterSettings(kind="none"),
            admin=AdminSettings(port=0),
        )
        found = await a_round(settings).of_all([], JournalSeen(path="j"))
    prometheus = checks(found, "site")["prometheus"]
    assert (prometheus.verdict, "bad data" in prometheus.seen) == (PROBLEM, True)


async def test_many_nodes_are_looked_at_side_by_side_and_counted() -> None:
    told: list[tuple[int, int]] = []
    async with served({"/metrics": PROMPT_PAGE, "/v1/state": STATE}) as server:
        nodes = tuple(
            StaticNode(
                id=f"n{i}",
                role=Role.PROMPT,
                agent_urls=(f"{server.url}/{i}",),
                metrics_url=f"{server.url}/metrics",
            )
            for i in range(100)
        )
        settings = Settings(provider=ProviderSettings(kind="static", nodes=nodes))
        made = replace(a_round(settings), progress=lambda done, count: told.append((done, count)))
        found = await made.of_nodes([node.id for node in nodes])
    assert len(found.groups) == 100
    assert told == [(done, 100) for done in range(1, 101)]


async def test_a_packed_page_is_unpacked_no_further_than_it_may_be_large() -> None:
    def packed(_: web.Request) -> web.Response:
        body = gzip.compress(PROMPT_PAGE + b"# x\n" * 1000)
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    small = a_round(Settings(scrape=ScrapeSettings(size_max_bytes=1000)))
    async with served({"/metrics": packed}) as engine:
        found = await one(f"{engine.url}/metrics")
        refused = await one(f"{engine.url}/metrics", made=small)
    assert found["profile"].verdict is OK
    assert (refused["metrics"].verdict, "larger than 1000 bytes" in refused["metrics"].seen) == (
        PROBLEM,
        True,
    )
