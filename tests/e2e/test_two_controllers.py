"""Two controllers over one cluster: the agents obey one of them, and the other one stops."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import bed, daemon
from tests.support.settling import settled

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def is_superseded(state: dict[str, Any]) -> bool:
    return any("agents obey another controller" in alarm for alarm in state["alarms"])


async def test_the_second_controller_takes_over_and_the_first_one_changes_nothing_more(
    tmp_path: Path,
) -> None:
    async with bed(tmp_path, nodes="prompt=1,decoder=2") as made:
        made.change(guard={"up_window_s": 0.0, "down_window_s": 1.0}, admin={"port": 0})
        async with daemon(made.config, made.session) as first:
            await settled(first, 1, 2)
            await first.post("/v1/pause", all=False)
            made.change(journal={"path": str(tmp_path / "another.sqlite")})
            async with daemon(made.config, made.session) as second:
                await settled(second, 1, 2)
                # Its first calls carry its epoch to the decoders: from now on they obey it.
                await second.post("/v1/target", prompt=2, decoder=2)
                await settled(second, 2, 2)
                state = await first.until(is_superseded, "the first one sees that it is replaced")
                assert state["target"] == {**state["target"], "prompt": 1, "decoder": 2}
                nodes = await made.nodes()

                # Its target differs, and it may no longer do anything about it.
                await first.post("/v1/target", prompt=1, decoder=1)
                cycle = (await first.get("/v1/state"))["cycle"]
                await first.until(lambda s: s["cycle"] > cycle + 3, "it goes on observing")
                assert await made.nodes() == nodes
                await settled(second, 2, 2)
            summary = await made.summary()
    assert summary["requests_failed"] == 0
    assert summary["links_leaked"] == 0
