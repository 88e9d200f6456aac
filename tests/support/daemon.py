"""The controller as a process of its own over an embedded cluster, as an operator runs it."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import yaml
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.support.cluster import ClusterProcess, cluster_process
from tests.support.processes import end

WITHIN_S = 45.0
POLL_S = 0.1

QUICK_NODES = ("--node-command", f"{sys.executable} -m pd_autoscaler.embedded.node --start-s 0.2")
"""Arguments that make the cluster's nodes start at once."""


class Daemon:
    """A running controller and how to ask it."""

    def __init__(self, process: Process, url: str, session: aiohttp.ClientSession) -> None:
        self.process = process
        self.url = url
        self._session = session

    async def get(self, path: str) -> Any:
        """Read a JSON answer; None while there is none."""
        async with self._session.get(self.url + path) as answer:
            return await answer.json() if answer.status == 200 else None

    async def text(self, path: str) -> str:
        """Read a page as text."""
        async with self._session.get(self.url + path) as answer:
            return await answer.text()

    async def post(self, path: str, **body: object) -> Any:
        """Ask for something; what it answers."""
        async with self._session.post(self.url + path, json=body) as answer:
            said = await answer.json()
            assert answer.status == 200, said
            return said

    async def until(self, holds: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Wait, bounded, for a state in which something holds; fail with the last one seen."""
        state: dict[str, Any] | None = None
        with anyio.move_on_after(WITHIN_S):
            while True:
                state = await self.get("/v1/state")
                if state is not None and holds(state):
                    return state
                await anyio.sleep(POLL_S)
        raise AssertionError(f"never came true: {what}; the last state was {state}")

    async def killed(self) -> None:
        """Kill it outright and wait for its end."""
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def daemon(config: Path, session: aiohttp.ClientSession) -> AsyncIterator[Daemon]:
    """Run the controller with this settings file; on leaving it has ended."""
    process = await anyio.open_process(
        [sys.executable, "-m", "pd_autoscaler", "run", "--config", str(config)],
        stdin=subprocess.DEVNULL,
        stderr=None,
    )
    assert process.stdout is not None
    try:
        with anyio.fail_after(WITHIN_S):
            line = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 1000)
        yield Daemon(process, line.decode().split()[-1], session)
    finally:
        await end(process, within_s=WITHIN_S)


class Bed:
    """A cluster under load, and the settings file that leads a controller to it."""

    def __init__(
        self, cluster: ClusterProcess, config: Path, session: aiohttp.ClientSession
    ) -> None:
        self.cluster = cluster
        self.config = config
        self.session = session

    def change(self, **sections: dict[str, object]) -> None:
        """Change settings before a controller reads them."""
        values = yaml.safe_load(self.config.read_text())
        for name, changed in sections.items():
            values.setdefault(name, {}).update(changed)
        self.config.write_text(yaml.safe_dump(values))

    async def nodes(self) -> dict[str, dict[str, Any]]:
        """Read the supervisor's list: what really exists, with process ids."""
        async with self.session.get(f"{self.cluster.urls['supervisor_url']}/nodes") as answer:
            return {row["id"]: row for row in await answer.json()}

    async def kill(self, node_id: str) -> None:
        """Kill one of the cluster's node processes outright."""
        os.kill((await self.nodes())[node_id]["pid"], signal.SIGKILL)

    async def fault(self, node_id: str, **fault: object) -> None:
        """Set a fault in a node's simulated library."""
        url = (await self.nodes())[node_id]["engine_url"]
        async with self.session.post(f"{url}/sim/faults", json=fault) as answer:
            assert answer.status == 200, await answer.text()

    async def summary(self) -> dict[str, Any]:
        """Read what became of the load so far, and look for leaked links."""
        async with self.session.get(f"{self.cluster.urls['cluster_url']}/summary") as answer:
            said = await answer.json()
            assert isinstance(said, dict)
            return said

    async def load(self) -> dict[str, Any]:
        """Read the load's running numbers."""
        async with self.session.get(f"{self.cluster.urls['cluster_url']}/load") as answer:
            said = await answer.json()
            assert isinstance(said, dict)
            return said

    async def until_load(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait, bounded, for numbers of the load in which something holds."""
        return await until(self.load, holds)


async def until(
    read: Callable[[], Awaitable[dict[str, Any]]], holds: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Read again and again, bounded, until something holds."""
    with anyio.fail_after(WITHIN_S):
        while True:
            said = await read()
            if holds(said):
                return said
            await anyio.sleep(POLL_S)  # Another process: there is nothing to be woken by.


@asynccontextmanager
async def bed(
    tmp_path: Path,
    *arguments: str,
    nodes: str,
    request_per_s: float = 4.0,
    requests: int = 200,
) -> AsyncIterator[Bed]:
    """Run a cluster of quick nodes under a light steady load, without a controller yet.

    `arguments` go to the cluster as they are.
    """
    trace = tmp_path / "light.csv"
    seconds = (k / request_per_s for k in range(requests))
    rows = (
        f"2024-01-01 {int(s // 3600):02}:{int(s // 60) % 60:02}:{s % 60:09.6f},200,60"
        for s in seconds
    )
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    config = tmp_path / "pd-autoscaler.yaml"
    arguments = (*arguments, "--load-when-ready", "--nodes", nodes, "--config-out", str(config))
    load = ("--trace", str(trace), "--for", "3600")
    async with (
        cluster_process(*arguments, *load, *QUICK_NODES) as cluster,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WITHIN_S)) as session,
    ):
        made = Bed(cluster, config, session)
        made.change(journal={"path": str(tmp_path / "journal.sqlite")})
        yield made


def serving(state: dict[str, Any], role: str) -> set[str]:
    """Name the nodes of a role that serve."""
    return {
        node["id"] for node in state["nodes"] if node["role"] == role and node["state"] == "serving"
    }
