"""A whole controller on real nodes never blocks its loop: `tests/conftest.py` is the guard."""

from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from pd_autoscaler import app
from pd_autoscaler.embedded.cluster import ClusterOptions, running_cluster
from pd_autoscaler.embedded.demo import configuration
from pd_autoscaler.embedded.supervisor import node_command
from pd_autoscaler.settings import Settings, load
from pd_autoscaler.workload.generated import generated
from tests.support.daemon import serving, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

PAGES = ("/", "/healthz", "/readyz", "/metrics", "/v1/links", "/v1/history?limit=100")


async def test_a_controller_that_grows_and_shrinks_a_cluster_never_blocks_its_loop(
    tmp_path: Path,
) -> None:
    made_of = ClusterOptions(command=node_command("--start-s", "0.2"), work_dir=tmp_path)
    async with (
        running_cluster(made_of) as cluster,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30.0)) as client,
    ):
        values = configuration(cluster.supervisor_url, cluster.router_url)
        values["journal"] = {"path": str(tmp_path / "journal.sqlite")}
        async with (
            app.controller(Settings.model_validate(values)) as running,
            anyio.create_task_group() as group,
        ):
            group.start_soon(running.loop.run)

            async def state() -> dict[str, Any]:
                async with client.get(f"{running.url}/v1/state") as answer:
                    return await answer.json() if answer.status == 200 else {"nodes": []}

            async def settled(prompt: int, decoder: int) -> None:
                await until(
                    state,
                    lambda seen: (
                        len(seen["nodes"]) == prompt + decoder
                        and len(serving(seen, "prompt")) == prompt
                        and len(serving(seen, "decoder")) == decoder
                    ),
                )

            async def scale(prompt: int, decoder: int) -> None:
                body = {"prompt": prompt, "decoder": decoder}
                async with client.post(f"{running.url}/v1/target", json=body) as answer:
                    assert answer.status == 200, await answer.text()
                await settled(prompt, decoder)

            await settled(1, 1)
            group.start_soon(cluster.load, generated(600.0, 0))
            await scale(2, 1)
            for page in PAGES:
                async with client.get(running.url + page) as answer:
                    assert answer.status == 200, page
            await scale(1, 1)
            cluster.drop_load()
            group.cancel_scope.cancel()
    latest = running.loop.control.latest
    assert latest is not None
    assert latest.cycle >= 5


async def test_the_guard_sees_a_call_that_blocks(tmp_path: Path, blocking_calls: list[str]) -> None:
    file = tmp_path / "pd-autoscaler.yaml"
    file.write_text("loop: {period_s: 5}\n")
    with pytest.raises(Exception, match="Blocking call to io"):
        load(file)  # It reads the file where it stands.
    assert blocking_calls == ["io.TextIOWrapper.read"]
    blocking_calls.clear()
