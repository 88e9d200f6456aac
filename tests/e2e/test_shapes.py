"""Nodes of several accelerator ranks, and engines that connect by themselves, end to end."""

from pathlib import Path

import pytest

from tests.support.daemon import bed, daemon
from tests.support.settling import settled

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


async def test_nodes_of_unequal_ranks_join_leave_and_switch_with_every_rank_linked(
    tmp_path: Path,
) -> None:
    ranks = ("--ranks", "prompt=2,decoder=4")
    async with bed(tmp_path, *ranks, nodes="prompt=1,decoder=2") as made:
        made.change(
            guard={
                "up_window_s": 0.0,
                "down_window_s": 1.0,
                "cooldown_s": 0.0,
                "pay_back_max_s": 0.0,
            }
        )
        async with daemon(made.config, made.session) as running:
            await settled(running, 1, 2)
            state = await running.get("/v1/state")
            assert sorted(len(node["endpoints"]) for node in state["nodes"]) == [2, 4, 4]
            await running.post("/v1/target", prompt=2, decoder=2)
            await settled(running, 2, 2)
            await made.until_load(lambda load: load["ok"] >= 10)
            await running.post("/v1/target", prompt=2, decoder=1)
            await settled(running, 2, 1)
            served = (await made.load())["ok"]
            await made.until_load(lambda load: load["ok"] >= served + 5)
        summary = await made.summary()
    assert summary["requests_failed"] == 0
    assert summary["links_leaked"] == 0


async def test_engines_that_connect_by_themselves_are_scaled_without_a_link(
    tmp_path: Path,
) -> None:
    async with bed(tmp_path, "--self-connecting", nodes="prompt=1,decoder=1") as made:
        made.change(guard={"up_window_s": 0.0, "down_window_s": 1.0, "cooldown_s": 0.0})
        async with daemon(made.config, made.session) as running:
            await settled(running, 1, 1, links=0)
            await running.post("/v1/target", prompt=2, decoder=1)
            await settled(running, 2, 1, links=0)
            await made.until_load(lambda load: load["ok"] >= 10)
            await running.post("/v1/target", prompt=1, decoder=1)
            await settled(running, 1, 1, links=0)
            metrics = await running.text("/metrics")
        summary = await made.summary()
    assert "pd_autoscaler_links_wanted 0.0" in metrics
    assert 'pd_autoscaler_actions_total{action="link",outcome="done"} 0.0' in metrics
    assert summary["requests_failed"] == 0
