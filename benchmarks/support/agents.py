"""Many nodes in one process: real agents over HTTP beside simulated libraries over TCP.

`python -m benchmarks.support.agents` reads one JSON object (the nodes it is to hold) from its
standard input, prints one with their addresses, and ends with its input.
"""

import json
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from aiohttp import web

from pd_autoscaler.agent.http import build_app, serve
from pd_autoscaler.agent.service import AgentService
from pd_autoscaler.datadist.api import DataDistRole
from pd_autoscaler.datadist.simulated import LinkTiming, SimulatedDataDist, SimulatedProcess
from pd_autoscaler.embedded.router import EmbeddedRouter
from pd_autoscaler.model.node import Role

IP = "127.0.0.1"
LOOK_S = 0.02
"""How often the libraries' tables are looked at: the resolution of what is measured."""

_PARALLEL_INITS = 1024


@dataclass(slots=True)
class Watched:
    """One library's own table: the peers in it, and when they last changed (monotonic)."""

    datadist: SimulatedDataDist
    ids: tuple[int, ...] = ()
    changed_at_s: float = 0.0


def process_of(*, is_parallel: bool) -> SimulatedProcess:
    """Return a process of the library, which initialises one communicator at a time, or many."""
    process = SimulatedProcess()
    if is_parallel:
        process.comm_init = threading.Semaphore(_PARALLEL_INITS)  # type: ignore[assignment]
    return process


def library_of(node: dict[str, Any], timing: LinkTiming) -> tuple[SimulatedDataDist, str | None]:
    """Return a node's library, initialised, and where it listens."""
    role = Role(node["role"])
    datadist = SimulatedDataDist(
        DataDistRole.PROMPT if role is Role.PROMPT else DataDistRole.DECODER,
        node["cluster_id"],
        process=process_of(is_parallel=node["is_parallel"]),
        timing=timing,
    )
    options = {"device_id": 0, "local_comm_res": ""}
    listen = f"{IP}:{_free_port()}" if role is Role.PROMPT else None
    datadist.init(options if listen is None else {**options, "listen_ip_info": listen})
    return datadist, listen


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((IP, 0))
        port: int = listener.getsockname()[1]
        return port


@asynccontextmanager
async def agent_of(
    node: dict[str, Any], datadist: SimulatedDataDist, listen: str | None
) -> AsyncIterator[str]:
    """Serve a node's agent, whose engine has initialised the library; yield its URL."""
    service = AgentService(
        datadist,
        node_id=node["id"],
        role=Role(node["role"]),
        listen=listen,
        options={},
        incarnation=f"{os.getpid()}-{node['id']}",
        local_ip=IP,
        is_initialised=True,
    )
    async with serve(build_app(service)) as port:
        yield f"http://{IP}:{port}"


async def watch(tables: dict[str, Watched]) -> None:
    """Note when each table changes; the libraries alone know, so they are looked at."""
    while True:
        for table in tables.values():
            ids = table.datadist.entities()
            if ids != table.ids:
                table.ids, table.changed_at_s = ids, anyio.current_time()
        await anyio.sleep(LOOK_S)


def tables_app(tables: dict[str, Watched]) -> web.Application:
    """Build the app that tells what is in the libraries' tables."""

    async def told(_: web.Request) -> web.Response:
        return web.json_response(
            {
                node_id: {"ids": table.ids, "changed_at_s": table.changed_at_s}
                for node_id, table in tables.items()
            }
        )

    app = web.Application()
    app.router.add_get("/tables", told)
    return app


async def live(spec: dict[str, Any]) -> None:
    """Hold the nodes until the input ends."""
    timing = LinkTiming(init_s=spec["init_s"], prepare_s=spec["prepare_s"])
    tables: dict[str, Watched] = {}
    urls: dict[str, str] = {}
    async with AsyncExitStack() as stack, anyio.create_task_group() as group:
        for node in spec["nodes"]:
            datadist, listen = library_of(node, timing)
            tables[node["id"]] = Watched(datadist)
            urls[node["id"]] = await stack.enter_async_context(agent_of(node, datadist, listen))
        group.start_soon(watch, tables)
        port = await stack.enter_async_context(serve(tables_app(tables)))
        told = {"agents": urls, "tables": f"http://{IP}:{port}/tables", "router": ""}
        if spec["has_router"]:
            told["router"] = await stack.enter_async_context(EmbeddedRouter().listening())
        print(json.dumps(told), flush=True)
        await anyio.wait_readable(sys.stdin.fileno())
        # Not by closing everything: calls inside the library would be waited for.
        os._exit(0)


def main() -> None:
    """Read what to hold, and hold it."""
    anyio.run(live, json.loads(sys.stdin.readline()))


if __name__ == "__main__":
    main()
