"""The embedded cluster under load: real nodes linked and published by hand, no controller."""

import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio
import anyio.lowlevel
import pytest

from pd_autoscaler.embedded.child import Child
from pd_autoscaler.embedded.cluster import Cluster, ClusterOptions, running_cluster
from pd_autoscaler.embedded.load import LoadState
from pd_autoscaler.embedded.supervisor import node_command
from pd_autoscaler.model.node import Role
from pd_autoscaler.workload.request import Request
from tests.support.supervision import BOUND_S, until

pytestmark = pytest.mark.e2e


def agent_of(child: Child) -> str:
    assert child.urls is not None
    return child.urls.agent_urls[0]


async def change(
    session: aiohttp.ClientSession, child: Child, path: str, body: Mapping[str, object]
) -> None:
    async with session.get(f"{agent_of(child)}/v1/state") as answer:
        incarnation = (await answer.json())["incarnation"]
    fenced = {"epoch": 1, "holder": "test", "incarnation": incarnation, "key": path, **body}
    async with session.post(f"{agent_of(child)}{path}", json=fenced) as answer:
        text = await answer.text()
        assert answer.status == 200, text
        assert '"failed"' not in text, text


async def state(session: aiohttp.ClientSession, child: Child) -> dict[str, Any]:
    async with session.get(f"{agent_of(child)}/v1/state") as answer:
        said = await answer.json()
    assert isinstance(said, dict)
    return said


@asynccontextmanager
async def serving_cluster() -> AsyncIterator[tuple[Cluster, Child, Child]]:
    """Run a prompt node and a decoder, linked and published."""
    command = node_command("--start-s", "0.01", "--link-s", "0.01")
    async with (
        running_cluster(ClusterOptions(command=command)) as cluster,
        aiohttp.ClientSession() as session,
    ):
        await until(cluster.supervisor, lambda: all(node.urls for node in cluster.supervisor.nodes))
        prompt, decoder = cluster.supervisor.nodes
        assert (prompt.role, decoder.role) == (Role.PROMPT, Role.DECODER)
        for child in (prompt, decoder):
            await change(session, child, "/v1/init", {"role": child.role.value})
        told = await state(session, prompt)
        endpoint = told["endpoints"][0]
        peer = {
            "id": endpoint["cluster_id"],
            "ip": endpoint["ip"],
            "port": endpoint["port"],
            "incarnation": told["incarnation"],
        }
        await change(session, decoder, "/v1/links", {"clusters": [peer]})
        for child in (prompt, decoder):
            body = {
                "id": child.id,
                "role": child.role.value,
                "url": child.urls.engine_url if child.urls else "",
            }
            async with session.post(f"{cluster.router_url}/nodes", json=body) as answer:
                assert answer.status == 200
        yield cluster, prompt, decoder


async def test_a_load_on_linked_nodes_is_served_and_measured_and_leaks_nothing() -> None:
    async with serving_cluster() as (cluster, _, _):
        with anyio.fail_after(BOUND_S):
            await cluster.published()
            await cluster.load(Request(number / 50, 40, 12) for number in range(20))
        await cluster.look_at_links()

    summary = cluster.summary()
    assert summary.failures == ()
    assert (summary.requests_offered, summary.requests_ok) == (20, 20)
    assert (summary.requests_failed, summary.requests_unfinished) == (0, 0)
    assert summary.ttft_p50_s is not None
    assert summary.tpot_p50_s is not None
    assert 0 < summary.ttft_p50_s <= (summary.ttft_p95_s or 0)
    assert summary.links_leaked == 0
    assert (summary.nodes_started, summary.nodes_stopped, summary.nodes_killed) == (2, 2, 0)


async def test_a_killed_decoder_costs_its_own_requests_and_leaves_an_entry_that_leaks() -> None:
    async with serving_cluster() as (cluster, _, decoder), anyio.create_task_group() as group:
        # Many tokens: it is certain to be decoding when the decoder is killed.
        group.start_soon(cluster.load, [Request(0, 40, 20_000)])
        with anyio.fail_after(BOUND_S):
            while not cluster.router.table.in_flight.get(decoder.id):
                await anyio.lowlevel.checkpoint()
        os.kill(decoder.pid, signal.SIGKILL)
        with anyio.fail_after(BOUND_S):
            await cluster.load_ended()
        await until(cluster.supervisor, lambda: bool(cluster.supervisor.ended))
        await cluster.look_at_links()

    summary = cluster.summary()
    assert cluster.numbers().state is LoadState.FINISHED
    assert (summary.requests_failed, summary.requests_lost_on_killed_nodes) == (1, 1)
    assert [kind.node_id for kind in summary.failures] == [decoder.id]
    assert (summary.nodes_killed, summary.nodes_stopped) == (1, 1)
    assert summary.links_leaked == 1  # The prompt node's: nobody had it forget the dead decoder.
