"""The doctor before nodes of the embedded cluster, each a process of its own."""

from typing import Any

import pytest

from pd_autoscaler.doctor.findings import Verdict
from pd_autoscaler.model.node import Role
from tests.support.doctored import one, troubles
from tests.support.node_process import Hand, NodeProcess, hand, node

pytestmark = pytest.mark.e2e


async def changeable(asked: Hand, prompt: NodeProcess) -> dict[str, Any]:
    """Read what a look must leave as it is."""
    state = await asked.state(prompt)
    names = ("phase", "role", "links", "epoch", "holder", "incarnation", "endpoints")
    return {name: state[name] for name in names}


async def test_an_embedded_node_is_fine_and_is_left_as_it_is() -> None:
    async with hand() as asked, node("p1", Role.PROMPT, 1) as prompt:
        await asked.initialised(prompt)
        before = await changeable(asked, prompt)
        found = await one(prompt.said["metrics_url"], *prompt.agent_urls)
        assert await changeable(asked, prompt) == before
    # It has only just been started.
    assert troubles(found) == {"uptime"}
    for check in ("profile", "names", "role", "endpoints", "engine hooks", "link port", "clock"):
        assert found[check].verdict is Verdict.OK, check


async def test_every_rank_of_an_embedded_node_is_asked_and_a_wrong_role_is_told() -> None:
    async with hand() as asked, node("d1", Role.DECODER, 101, "--ranks", "2") as decoder:
        await asked.initialised(decoder)
        found = await one(decoder.said["metrics_url"], *decoder.agent_urls)
    assert "2 agents answer" in found["agent"].seen
    assert (found["role"].verdict, "agent is that of a decoder" in found["role"].seen) == (
        Verdict.PROBLEM,
        True,
    )
