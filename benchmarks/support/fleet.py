"""A static fleet in a few processes, and what its libraries know of one another."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from pd_autoscaler.model.node import Role

_COME_UP_S = 60.0
_LINE_MAX_BYTES = 1_000_000

Fence = Mapping[str, Any]
"""Epoch, holder and incarnation, as a request to an agent carries them."""


@dataclass(frozen=True, slots=True)
class Member:
    """One node; `is_spare` is one that waits in the pool, initialised and unlinked.

    `is_parallel` is a library that initialises communicators side by side instead of one by one.
    """

    id: str
    role: Role
    cluster_id: int
    is_spare: bool = False
    is_parallel: bool = False


@dataclass(frozen=True, slots=True)
class Tables:
    """What the libraries hold: peers' cluster ids by node, and when any table last changed."""

    ids: Mapping[str, frozenset[int]]
    changed_at_s: float

    def has(self, decoder: Member, prompt: Member) -> bool:
        """Whether a pair is linked on both ends."""
        is_at_decoder = prompt.cluster_id in self.ids[decoder.id]
        return is_at_decoder and decoder.cluster_id in self.ids[prompt.id]


@dataclass(frozen=True, slots=True)
class BenchFleet:
    """Where the nodes of a running fleet are."""

    members: Sequence[Member]
    agents: Mapping[str, str]
    router_url: str
    tables_urls: Sequence[str]
    session: aiohttp.ClientSession

    def of(self, role: Role) -> list[Member]:
        """List the members of a role."""
        return [member for member in self.members if member.role is role]

    async def publish(self) -> None:
        """Tell the router of all that serve from the start."""
        for member in self.members:
            if not member.is_spare:
                url = self.agents[member.id]
                body = {"id": member.id, "role": member.role.value, "url": url}
                async with self.session.post(f"{self.router_url}/nodes", json=body) as answer:
                    answer.raise_for_status()

    async def tables(self) -> Tables:
        """Read the libraries' own tables."""
        rows: dict[str, Any] = {}
        for url in self.tables_urls:
            async with self.session.get(url) as answer:
                rows |= await answer.json()
        return Tables(
            {node_id: frozenset(row["ids"]) for node_id, row in rows.items()},
            max(row["changed_at_s"] for row in rows.values()),
        )

    async def fence(self, member: Member) -> Fence:
        """Read whom a node's agent obeys, and which process it is."""
        async with self.session.get(f"{self.agents[member.id]}/v1/state") as answer:
            state = await answer.json()
        return {name: state[name] for name in ("epoch", "holder", "incarnation")}

    async def cut(self, decoder: Member, prompts: Iterable[Member], fence: Fence) -> None:
        """Have a decoder's agent drop its links to these, as another hand with the fence would."""
        url = self.agents[decoder.id]
        clusters = [{"id": p.cluster_id, "ip": None, "port": None} for p in prompts]
        body = {**fence, "key": "cut", "clusters": clusters, "force": True}
        limits = {"timeout_ms": 3000, "deadline_s": 30.0}
        async with self.session.post(f"{url}/v1/unlinks", json=body | limits) as answer:
            answer.raise_for_status()
            lines = [json.loads(line) async for line in answer.content]
        if any(line["outcome"] != "done" for line in lines):
            raise RuntimeError(f"{decoder.id} did not drop every link")


@asynccontextmanager
async def running_fleet(
    members: Sequence[Member], *, init_s: float, prepare_s: float, processes: int
) -> AsyncIterator[BenchFleet]:
    """Start the nodes, spread over so many processes, and a router in one of their own."""
    specs: list[dict[str, Any]] = [
        {"nodes": [_wire(m) for m in members[i::processes]], "has_router": False}
        for i in range(processes)
    ]
    specs.append({"nodes": [], "has_router": True})
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        told = [
            await stack.enter_async_context(
                _child({**spec, "init_s": init_s, "prepare_s": prepare_s})
            )
            for spec in specs
        ]
        agents: dict[str, str] = {}
        for said in told:
            agents |= said["agents"]
        yield BenchFleet(
            members,
            agents,
            router_url=told[-1]["router"],
            tables_urls=[said["tables"] for said in told[:-1]],
            session=session,
        )


def _wire(member: Member) -> dict[str, Any]:
    return {
        "id": member.id,
        "role": member.role.value,
        "cluster_id": member.cluster_id,
        "is_parallel": member.is_parallel,
    }


@asynccontextmanager
async def _child(spec: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Run one process and yield what it says; its end is that of its input."""
    command = [sys.executable, "-m", "benchmarks.support.agents"]
    process = await anyio.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        await process.stdin.send(json.dumps(spec).encode() + b"\n")
        with anyio.fail_after(_COME_UP_S):
            lines = BufferedByteReceiveStream(process.stdout)
            said = await lines.receive_until(b"\n", _LINE_MAX_BYTES)
        yield json.loads(said)
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()
            await process.aclose()
