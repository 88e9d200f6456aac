"""Nodes come, go and change roles under load, again and again, and no request notices.

The oracle is the simulated library's own tables, read on both ends (`links_leaked`): product code
never sees them. The numbers of rounds are small here; set PD_AUTOSCALER_CHURN=50,10 for the long
run (fifty scale-outs and scale-ins of each kind in turn, ten role switches).
"""

import os
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Bed, bed, daemon
from tests.support.settling import settled

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

SCALINGS, SWITCHES = map(int, os.environ.get("PD_AUTOSCALER_CHURN", "5,2").split(","))

QUICK: dict[str, object] = {"down_window_s": 1.0, "up_window_s": 0.0, "cooldown_s": 0.0}


def unharmed(summary: dict[str, Any], requests_at_least: int) -> None:
    """Assert that nothing was lost or left behind, and that there was something to lose."""
    assert summary["requests_ok"] >= requests_at_least
    assert summary["requests_failed"] == 0
    assert summary["links_leaked"] == 0


async def served(made: Bed, more: int) -> None:
    """Wait until so many more requests were served: each step happens under load."""
    before = (await made.load())["ok"]
    await made.until_load(lambda load: load["ok"] >= before + more)


async def test_scale_outs_and_scale_ins_of_both_roles_lose_no_request_and_leak_no_link(
    tmp_path: Path,
) -> None:
    steps = cycle([(3, 2), (2, 2), (2, 3), (2, 2)])
    async with bed(tmp_path, nodes="prompt=2,decoder=2", request_per_s=6, requests=9000) as made:
        made.change(guard=QUICK)
        async with daemon(made.config, made.session) as running:
            await settled(running, 2, 2)
            for prompt, decoder in islice(steps, SCALINGS):
                await running.post("/v1/target", prompt=prompt, decoder=decoder)
                await settled(running, prompt, decoder)
                await served(made, 5)
            summary = await made.summary()
    unharmed(summary, 5 * SCALINGS)


async def test_role_switches_at_a_full_budget_lose_no_request_and_leak_no_link(
    tmp_path: Path,
) -> None:
    async with bed(tmp_path, nodes="prompt=2,decoder=3", request_per_s=6, requests=9000) as made:
        made.change(guard={**QUICK, "nodes_max": 5, "pay_back_max_s": 0.0})
        async with daemon(made.config, made.session) as running:
            first = await settled(running, 2, 3)
            for prompt, decoder in islice(cycle([(3, 2), (2, 3)]), SWITCHES):
                await running.post("/v1/target", prompt=prompt, decoder=decoder)
                assert await settled(running, prompt, decoder) == first
                await served(made, 5)
            metrics = await running.text("/metrics")
            summary = await made.summary()
    # The same processes all along: none was started or stopped.
    assert f'pd_autoscaler_actions_total{{action="switch",outcome="done"}} {SWITCHES}' in metrics
    assert (summary["nodes_started"], summary["nodes_stopped"]) == (5, 0)
    unharmed(summary, 5 * SWITCHES)
