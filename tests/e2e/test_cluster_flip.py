"""A cluster whose controller has a node take the other role: what is counted stays right."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import bed, daemon, serving

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

FULL = {"nodes_max": 3, "prompt_max": 2, "decoder_max": 2}
QUICK = {"up_window_s": 1.0, "down_window_s": 2.0, "cooldown_s": 1.0}


async def test_a_node_that_took_the_other_role_serves_in_it_and_leaks_no_link(
    tmp_path: Path,
) -> None:
    async with bed(tmp_path, nodes="prompt=2,decoder=1") as made:
        made.change(guard={**FULL, **QUICK})
        async with daemon(made.config, made.session) as running:

            def serve(prompt: int, decoder: int) -> Any:
                return lambda state: (
                    len(serving(state, "prompt")) == prompt
                    and len(serving(state, "decoder")) == decoder
                    and state["links"]["linked"] == prompt * decoder
                )

            await running.until(serve(2, 1), "two prompt nodes and a decoder serve")
            await running.post("/v1/target", prompt=1, decoder=2)
            state = await running.until(serve(1, 2), "one prompt node and two decoders serve")
            (taken,) = {node for node in serving(state, "decoder") if node.startswith("prompt")}
            ok = (await made.load())["ok"]
            await made.until_load(lambda load: load["ok"] >= ok + 10)
        listed = await made.nodes()
        summary = await made.summary()

    # Listed as what it was started as, while its own library tells whom it is linked to.
    assert listed[taken]["role"] == "prompt"
    assert (summary["nodes_started"], summary["nodes_killed"]) == (3, 0)
    assert (summary["requests_failed"], summary["links_leaked"]) == (0, 0)
