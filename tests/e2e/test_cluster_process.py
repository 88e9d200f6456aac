"""The embedded cluster as a process: what it says, and that nothing outlives it."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
import yaml

from pd_autoscaler.settings import Settings
from tests.support.cluster import STANDIN_NODES, ClusterProcess, cluster_process
from tests.support.daemon import QUICK_NODES
from tests.support.supervision import BOUND_S, is_alive, until_ended

pytestmark = pytest.mark.e2e


async def got(url: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert answer.status == 200
        return await answer.json()


async def listening_nodes(cluster: ClusterProcess, count: int) -> list[dict[str, Any]]:
    with anyio.fail_after(BOUND_S):
        while True:
            nodes: list[dict[str, Any]] = await got(f"{cluster.urls['supervisor_url']}/nodes")
            if sum(node["state"] == "running" for node in nodes) == count:
                return nodes


async def test_it_says_where_it_is_and_writes_a_configuration_that_leads_there(
    tmp_path: Path,
) -> None:
    config = tmp_path / "controller.yaml"
    async with cluster_process(*STANDIN_NODES, "--config-out", str(config)) as cluster:
        nodes = await listening_nodes(cluster, 2)
        router = await got(f"{cluster.urls['router_url']}/nodes")
        load = await got(f"{cluster.urls['cluster_url']}/load")

    assert set(cluster.urls) == {"supervisor_url", "router_url", "cluster_url"}
    assert sorted(node["role"] for node in nodes) == ["decoder", "prompt"]
    assert (router["prompt"], router["decoder"]) == ([], [])
    assert (load["state"], load["offered"]) == ("waiting", 0)
    settings = Settings.model_validate(yaml.safe_load(config.read_text()))
    assert str(settings.provider.url).rstrip("/") == cluster.urls["supervisor_url"]
    assert str(settings.router.url).rstrip("/") == cluster.urls["router_url"]


@pytest.mark.parametrize(
    ("arguments", "links"),
    [
        (["--ranks", "decoder=2"], ("modulo", "datadist")),
        (["--ranks", "decoder=2", "--rank-mapping", "all_to_all"], ("all_to_all", "datadist")),
        (["--ranks", "decoder=2", "--self-connecting"], ("modulo", "none")),
    ],
)
async def test_its_configuration_tells_how_ranks_pair_and_who_links(
    tmp_path: Path, arguments: list[str], links: tuple[str, str]
) -> None:
    config = tmp_path / "controller.yaml"
    given = (*QUICK_NODES, "--stdin-eof", "--config-out", str(config), *arguments)
    async with cluster_process(*given) as cluster:
        nodes = await listening_nodes(cluster, 2)
        await cluster.end_input()
        summary = await cluster.line()

    counts = {node["role"]: len(node["agent_urls"]) for node in nodes}
    assert counts == {"prompt": 1, "decoder": 2}
    settings = Settings.model_validate(yaml.safe_load(config.read_text()))
    assert (settings.links.ranks, settings.links.linker) == links
    assert summary["links_leaked"] == 0


@pytest.mark.parametrize("end", ["end of input", "SIGTERM", "SIGINT"])
async def test_every_node_ends_with_it_and_its_last_line_is_the_summary(
    tmp_path: Path, end: str
) -> None:
    out = tmp_path / "summary.json"
    arguments = (*STANDIN_NODES, "--stdin-eof", "--nodes", "prompt=2,decoder=1")
    async with cluster_process(*arguments, "--summary-out", str(out)) as cluster:
        nodes = await listening_nodes(cluster, 3)
        if end == "end of input":
            await cluster.end_input()
        else:
            cluster.process.send_signal(signal.Signals[end])
        summary = await cluster.line()
        assert await cluster.ended() == 0

    assert not any(is_alive(node["pid"]) for node in nodes)
    assert summary == json.loads(out.read_text())
    assert (summary["nodes_started"], summary["nodes_stopped"]) == (3, 3)
    assert (summary["nodes_killed"], summary["links_leaked"]) == (0, 0)
    assert (summary["requests_offered"], summary["ttft_p95_s"]) == (0, None)
    assert summary["node_seconds"] > 0


async def test_killing_it_leaves_no_node_behind() -> None:
    async with cluster_process(*STANDIN_NODES) as cluster:
        nodes = await listening_nodes(cluster, 2)
        ends = [os.pidfd_open(node["pid"]) for node in nodes]
        try:
            cluster.process.kill()
            await cluster.ended()
            for pidfd in ends:
                await until_ended(pidfd)
        finally:
            for pidfd in ends:
                os.close(pidfd)


async def test_a_load_begins_when_it_is_asked_for_and_its_failures_are_named() -> None:
    async with cluster_process(*STANDIN_NODES, "--stdin-eof") as cluster:
        nodes = await listening_nodes(cluster, 2)
        async with aiohttp.ClientSession() as session:
            for node in nodes:  # Stand-ins have no completions: they answer 404.
                body = {"id": node["id"], "role": node["role"], "url": node["engine_url"]}
                await session.post(f"{cluster.urls['router_url']}/nodes", json=body)
            async with session.post(f"{cluster.urls['cluster_url']}/load", json={}) as answer:
                assert answer.status == 202
        with anyio.fail_after(BOUND_S):
            while not (await got(f"{cluster.urls['cluster_url']}/load"))["failed"]:
                pass
        told = await got(f"{cluster.urls['cluster_url']}/summary")
        await cluster.end_input()
        summary = await cluster.line()

    assert summary["requests_offered"] == summary["requests_failed"] > 0
    assert summary["requests_lost_on_killed_nodes"] == 0
    assert set(told) == set(summary)
    prompt = next(node["id"] for node in nodes if node["role"] == "prompt")
    (failure,) = summary["failures"]
    offered = summary["requests_offered"]
    assert failure == {"stage": "prompt", "code": "http_404", "node_id": prompt, "count": offered}


async def test_nothing_that_a_web_page_may_post_unasked_changes_it() -> None:
    posts = {"supervisor_url": "/nodes", "router_url": "/nodes", "cluster_url": "/load"}
    async with (
        cluster_process(*STANDIN_NODES, "--stdin-eof") as cluster,
        aiohttp.ClientSession() as session,
    ):
        for name, path in posts.items():
            url = cluster.urls[name] + path
            async with session.post(url, data="{}", headers={"Content-Type": "text/plain"}) as said:
                assert said.status == 415
                assert "Content-Type: application/json" in (await said.json())["error"]
        assert (await got(f"{cluster.urls['cluster_url']}/load"))["state"] == "waiting"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--trace", "/no/such/trace"], "/no/such/trace: cannot be read"),
        (["--nodes", "prompt=many"], "write counts such as"),
        (["--ranks", "prompt=0"], "give a prompt 1 to 64"),
        (["--ranks", "prompt"], "write counts such as"),
        (["--rank-mapping", "random"], "give one_to_one, modulo, all_to_all"),
        (["--rank-mapping", "one_to_one", "--ranks", "prompt=2"], "give equal --ranks"),
        (["--trace", __file__], ":1: is not a known trace format"),
        (["--speed", "0", "--trace", "TRACE"], "speed is 0.0"),
    ],
)
async def test_a_wrong_argument_ends_it_with_one_sentence(
    tmp_path: Path, arguments: list[str], says: str
) -> None:
    trace = tmp_path / "trace"
    trace.write_text('{"timestamp": 1, "input_length": 2, "output_length": 1}')
    given = [str(trace) if argument == "TRACE" else argument for argument in arguments]
    ended = await anyio.run_process(
        [sys.executable, "-m", "pd_autoscaler.embedded.cluster", *given], check=False
    )

    assert ended.returncode == 2
    assert says in ended.stderr.decode()
    assert ended.stderr.count(b"\n") == 1
    assert ended.stdout == b""
