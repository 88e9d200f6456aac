"""A prompt queue that grows for want of decoders, or over bad links, gets no prompt nodes."""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import daemon as daemon_support
from tests.support.daemon import Bed, Daemon, bed, daemon
from tests.support.settling import settled

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

GUARD: dict[str, object] = {"up_window_s": 8.0, "prompt_max": 6, "decoder_max": 6, "nodes_max": 10}
LOOP: dict[str, object] = {
    "policy": "queue-pressure",
    "policy_params": {"settle_s": 2.0, "drain_s": 3.0, "latency_share_down": 1.0},
}
"""A policy that asks for nodes where a queue is: what it may not have is what is shown here."""
WAITS = 5.0
"""Requests a prompt node in the queue from which it counts as long (attribution.queue)."""
State = dict[str, Any]


@pytest.fixture(name="small_nodes", autouse=True)
def _small_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give nodes so little KV that what decoders do not take shows in the prompt queue at once."""
    program = [sys.executable, "-m", "pd_autoscaler.embedded.node", "--start-s", "0.2"]
    program += ["--profile", json.dumps({"kv_tokens": 1300})]
    monkeypatch.setattr(daemon_support, "QUICK_NODES", ("--node-command", shlex.join(program)))


class Witness:
    """Sees every state that is asked for: what was held and why, and the most prompt nodes."""

    def __init__(self) -> None:
        self.prompts_max = 0
        self.decoders_max = 0
        self.queue_max = 0.0
        self.bottlenecks: set[str] = set()
        self.reasons: set[str] = set()

    def saw(self, state: State) -> None:
        """Take in one state."""
        nodes, target = state["nodes"], state["target"]
        there = sum(node["role"] == "prompt" for node in nodes)
        self.prompts_max = max(self.prompts_max, there, target["prompt"])
        self.decoders_max = max(self.decoders_max, target["decoder"])
        queue = state["signals"]["prompt"]["queue"]
        fresh = state["signals"]["prompt"]["fresh"]
        if queue is not None:
            self.queue_max = max(self.queue_max, queue["value"] / max(1, fresh))
        self.bottlenecks.add(state["attribution"]["bottleneck"])
        self.reasons |= {gate["reason"] for gate in state["gates"]}

    def until(self, holds: Callable[[State], bool]) -> Callable[[State], bool]:
        """Make a question that takes in every state it is put."""

        def seen(state: State) -> bool:
            self.saw(state)
            return holds(state)

        return seen


async def loaded(made: Bed, running: Daemon, prompt: int, decoder: int) -> None:
    """Wait until the fleet serves and answers flow."""
    await settled(running, prompt, decoder)
    await made.until_load(lambda load: load["ok"] >= 5)


async def decoders_of(made: Bed) -> list[str]:
    return [name for name, row in (await made.nodes()).items() if row["role"] == "decoder"]


async def test_slow_decoders_are_given_company_and_prompt_nodes_are_not(tmp_path: Path) -> None:
    async with bed(tmp_path, nodes="prompt=2,decoder=2", request_per_s=3.0) as made:
        made.change(guard=GUARD, loop=LOOP)
        async with daemon(made.config, made.session) as running:
            await loaded(made, running, 2, 2)
            slowed = await decoders_of(made)
            for name in slowed:
                await made.fault(name, slowness=60.0)

            seen = Witness()
            await running.until(
                seen.until(
                    lambda _: seen.queue_max > WAITS and "bottleneck_elsewhere" in seen.reasons
                ),
                "prompts queue and prompt nodes are refused",
            )
            said = await running.text("/v1/explain")
            await running.until(seen.until(lambda _: seen.decoders_max > 2), "decoders are added")
            served = (await made.load())["ok"]
            await made.until_load(lambda load: load["ok"] >= served + 20)
            # What they still have inside must not keep the cluster from ending.
            for name in slowed:
                await made.fault(name, slowness=1.0)
        assert "decoder" in seen.bottlenecks
        assert "decoder" in said
        assert seen.prompts_max == 2


async def test_slow_links_bring_no_prompt_nodes_and_cut_ones_are_made_anew(tmp_path: Path) -> None:
    # Three decoders for one prompt node: they have room when its KV is full of what nobody pulls.
    async with bed(tmp_path, nodes="prompt=1,decoder=3", request_per_s=3.0) as made:
        made.change(guard=GUARD, loop=LOOP)
        async with daemon(made.config, made.session) as running:
            await loaded(made, running, 1, 3)
            for name in await decoders_of(made):
                await made.fault(name, pull_delay_s=6.0)

            seen = Witness()
            await running.until(
                seen.until(
                    lambda state: (
                        seen.queue_max > WAITS
                        and state["attribution"]["bottleneck"] == "link"
                        and "bottleneck_elsewhere" in seen.reasons
                    )
                ),
                "prompts queue, links are at fault and prompt nodes are refused",
            )
            said = await running.text("/v1/explain")
            # Once links are quick, the queue that they left behind may well call for a prompt node.
            await running.post("/v1/pause", all=False)
            for name in await decoders_of(made):
                await made.fault(name, pull_delay_s=0)
            served = (await made.load())["ok"]
            await made.until_load(lambda load: load["ok"] >= served + 20)

            nodes = (await running.get("/v1/state"))["nodes"]
            [prompt] = [node for node in nodes if node["role"] == "prompt"]
            cluster_id = int(prompt["endpoints"][0]["cluster_id"])
            for name in await decoders_of(made):
                await made.fault(name, kind="cut", cluster_id=cluster_id)
            await running.until(
                seen.until(lambda state: state["links"]["linked"] < 3), "the cut links are seen"
            )
            await settled(running, 1, 3)
            served = (await made.load())["ok"]
            await made.until_load(lambda load: load["ok"] >= served + 10)
        assert "link" in said
        assert seen.prompts_max == 1
