"""Node processes of the embedded cluster, and a hand that has their agents link and switch."""

import itertools
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from pd_autoscaler.model.node import Role

FAST = {
    "prefill_points": [[1, 0.002], [1000, 0.004]],
    "decode_base_s": 0.001,
    "decode_per_request_s": 0.0,
    "start_s": 0.0,
    "flip_s": 0.01,
}


@dataclass
class NodeProcess:
    """A node's process and what it said of itself."""

    process: Process
    said: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.said["node_id"])

    @property
    def engine_url(self) -> str:
        return str(self.said["engine_url"])

    @property
    def agent_urls(self) -> list[str]:
        return list(self.said["agent_urls"])

    async def ended(self) -> int:
        with anyio.fail_after(10):
            return await self.process.wait()


@asynccontextmanager
async def node(
    node_id: str, role: Role, cluster_id: int, *extra: str, **profile: object
) -> AsyncIterator[NodeProcess]:
    """Run a quick node; `extra` are arguments of its own."""
    command = [sys.executable, "-m", "pd_autoscaler.embedded.node", "--node-id", node_id]
    command += ["--role", role.value, "--cluster-id", str(cluster_id), "--link-s", "0"]
    command += ["--profile", json.dumps({**FAST, **profile}), *extra]
    process = await anyio.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None
    )
    try:
        assert process.stdout is not None
        lines = BufferedByteReceiveStream(process.stdout)
        with anyio.fail_after(30):
            line = await lines.receive_until(b"\n", 65_536)
        yield NodeProcess(process, json.loads(line))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await process.aclose()


class Hand:
    """Asks agents and engines by hand, as a controller would."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self._keys = itertools.count(1)

    async def posted(self, url: str, **body: object) -> tuple[int, str]:
        async with self.session.post(url, json=body) as answer:
            return answer.status, await answer.text()

    async def got(self, url: str) -> Any:
        async with self.session.get(url) as answer:
            assert answer.status == 200, url
            return await answer.json()

    async def state(self, node: NodeProcess, rank: int = 0) -> dict[str, Any]:
        """Read what one rank's agent says."""
        said = await self.got(f"{node.agent_urls[rank]}/v1/state")
        assert isinstance(said, dict)
        return said

    async def asked(
        self, node: NodeProcess, rank: int, path: str, **body: object
    ) -> tuple[int, str]:
        """Ask one rank's agent for a change."""
        incarnation = (await self.state(node, rank))["incarnation"]
        fence = {"epoch": 1, "holder": "test", "key": f"k{next(self._keys)}"}
        url = f"{node.agent_urls[rank]}{path}"
        return await self.posted(url, **fence, incarnation=incarnation, **body)

    async def initialised(self, node: NodeProcess, role: Role | None = None) -> None:
        """Initialise the library of every rank, in the role that the node started in."""
        for rank in range(len(node.agent_urls)):
            status, text = await self.asked(node, rank, "/v1/init", role=role or node.said["role"])
            assert status == 200, text

    async def switched(self, node: NodeProcess, rank: int, role: Role) -> tuple[int, str]:
        """Have one rank take a role."""
        return await self.asked(node, rank, "/v1/role", role=role.value)

    async def called(
        self, verb: str, decoder: NodeProcess, prompt: NodeProcess, pair: Sequence[int] = (0, 0)
    ) -> dict[str, Any]:
        """Have one decoder rank link or unlink one prompt rank; how that ended."""
        own, theirs = pair
        told = await self.state(prompt, theirs)
        (endpoint,) = told["endpoints"]
        cluster = {"id": endpoint["cluster_id"], "ip": endpoint["ip"], "port": endpoint["port"]}
        cluster["incarnation"] = told["incarnation"]
        status, text = await self.asked(decoder, own, f"/v1/{verb}", clusters=[cluster])
        assert status == 200, text
        (line,) = text.splitlines()
        said = json.loads(line)
        assert isinstance(said, dict)
        return said

    async def entities(self, node: NodeProcess) -> dict[str, list[int]]:
        """Read the libraries' own tables, by cluster id."""
        entities = (await self.got(f"{node.engine_url}/sim/entities"))["entities"]
        assert isinstance(entities, dict)
        return entities

    async def page(self, node: NodeProcess) -> dict[str, float]:
        """Read an engine's page: every sample by name and labels."""
        async with self.session.get(node.said["metrics_url"]) as answer:
            lines = (await answer.text()).splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}


@asynccontextmanager
async def hand() -> AsyncIterator[Hand]:
    """A hand with a client session of its own."""
    async with aiohttp.ClientSession() as session:
        yield Hand(session)
