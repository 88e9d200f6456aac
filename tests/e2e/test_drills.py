"""Drills on real processes: what is killed, hung or full must cost nothing but itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import bed, daemon, serving
from tests.support.settling import settled

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def without(gone: str) -> Callable[[dict[str, Any]], bool]:
    """Make the question whether a node is no longer known."""
    return lambda state: gone not in {node["id"] for node in state["nodes"]}


async def test_killed_nodes_are_replaced_and_a_killed_controller_takes_up_where_it_was(
    tmp_path: Path,
) -> None:
    async with bed(tmp_path, nodes="prompt=2,decoder=2") as made:
        async with daemon(made.config, made.session) as running:
            first = await settled(running, 2, 2)
            await running.post("/v1/pause", all=False)
            await made.until_load(lambda load: load["ok"] >= 5)
            for role in ("prompt", "decoder"):
                victim = min(name for name in first if name.startswith(role))
                await made.kill(victim)
                await running.until(without(victim), f"{victim} is forgotten")
                await settled(running, 2, 2)
            told = await running.get("/v1/history?limit=1000")
            assert "lost" in str(told)
            before = await made.nodes()
            await running.killed()
        served = (await made.load())["ok"]
        await made.until_load(lambda load: load["ok"] >= served + 10)
        async with daemon(made.config, made.session) as running:
            after = await settled(running, 2, 2)
            assert after == set(before)
            state = await running.get("/v1/state")
            assert state["mode"] == "paused"
            assert (state["target"]["prompt"], state["target"]["decoder"]) == (2, 2)
        summary = await made.summary()
    assert summary["requests_failed"] == summary["requests_lost_on_killed_nodes"]
    assert summary["nodes_killed"] == 2
    assert summary["nodes_started"] == 6
    assert summary["links_leaked"] == 0


async def test_a_node_that_dies_while_no_controller_runs_is_replaced_by_the_next(
    tmp_path: Path,
) -> None:
    async with bed(tmp_path, nodes="prompt=2,decoder=2") as made:
        async with daemon(made.config, made.session) as running:
            first = await settled(running, 2, 2)
            await running.post("/v1/pause", all=False)
            await running.killed()
        victim = min(name for name in first if name.startswith("decoder"))
        await made.kill(victim)
        async with daemon(made.config, made.session) as running:
            after = await settled(running, 2, 2)
            assert victim not in after
        summary = await made.summary()
    assert summary["requests_failed"] == summary["requests_lost_on_killed_nodes"]
    assert summary["links_leaked"] == 0


async def test_a_link_call_that_hangs_for_ever_delays_no_other_pair_and_is_cured(
    tmp_path: Path,
) -> None:
    async with bed(tmp_path, nodes="prompt=1,decoder=2") as made:
        async with daemon(made.config, made.session) as running:
            await settled(running, 1, 2)
            state = await running.get("/v1/state")
            hung = min(serving(state, "decoder"))
            other = max(serving(state, "decoder"))
            # Cluster ids count up: the next node that starts gets the next one.
            last = max(int(e["cluster_id"]) for n in state["nodes"] for e in n["endpoints"])
            await made.fault(hung, kind="hang", verb="link", cluster_id=last + 1, calls=1)
            await running.post("/v1/target", prompt=2, decoder=2)

            state = await running.until(
                lambda state: state["hung_calls"].get(hung, 0) > 0, "the hung call is seen"
            )
            [new] = {n["id"] for n in state["nodes"]} - {"prompt-1"} - serving(state, "decoder")
            links = await running.get("/v1/links")
            pairs = {(p["decoder"], p["prompt"]): p for p in links["pairs"]}
            assert pairs[other, new]["state"] == "linked"
            assert pairs[hung, new]["state"] != "linked"
            assert new not in serving(state, "prompt")

            state = await running.until(
                lambda state: new in serving(state, "prompt"), "the pair is cured and published"
            )
            # The native call itself still hangs, and is still seen to.
            assert state["hung_calls"] == {hung: 1}
            assert "pd_autoscaler_hung_calls 1.0" in await running.text("/metrics")
            history = str(await running.get("/v1/history?limit=1000"))
            assert "DEADLINE" in history
        summary = await made.summary()
    assert summary["requests_failed"] == 0
    assert summary["links_leaked"] == 0


async def test_at_a_full_budget_the_ratio_moves_one_node_at_a_time_without_loss(
    tmp_path: Path,
) -> None:
    async with bed(tmp_path, nodes="prompt=2,decoder=3") as made:
        made.change(
            guard={
                "nodes_max": 5,
                "prompt_max": 4,
                "decoder_max": 4,
                "down_window_s": 2.0,
                "up_window_s": 1.0,
            }
        )
        async with daemon(made.config, made.session) as running:
            await settled(running, 2, 3)
            await running.post("/v1/target", prompt=4, decoder=1)
            leaving_max, total_max = 0, 0

            def watched(state: dict[str, object]) -> bool:
                nonlocal leaving_max, total_max
                nodes = state["nodes"]
                assert isinstance(nodes, list)
                leaving = [n for n in nodes if n["state"] in {"draining", "unlinking", "stopping"}]
                leaving_max = max(leaving_max, len(leaving))
                total_max = max(total_max, len(nodes))
                return len(serving(state, "prompt")) == 4

            await running.until(watched, "four prompt nodes serve")
            assert (leaving_max, total_max) == (1, 5)
            await settled(running, 4, 1)
        summary = await made.summary()
    assert summary["requests_failed"] == 0
    assert summary["links_leaked"] == 0
