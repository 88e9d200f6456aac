"""The embedded cluster as a process of its own, as somebody would start it."""

import json
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.support.processes import end
from tests.support.supervision import BOUND_S, STANDIN

STANDIN_NODES = ("--node-command", shlex.join([sys.executable, str(STANDIN)]))
"""Arguments that make its nodes stand-ins."""


class ClusterProcess:
    """A cluster in its own process: what it said, and how to end it."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self.process = process
        self._lines = BufferedByteReceiveStream(process.stdout)
        self.urls: dict[str, str] = {}

    async def line(self) -> dict[str, Any]:
        """Read its next JSON line, bounded."""
        with anyio.fail_after(BOUND_S):
            said = json.loads(await self._lines.receive_until(b"\n", 2**20))
        assert isinstance(said, dict)
        return said

    async def end_input(self) -> None:
        """End its standard input."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()

    async def ended(self) -> int:
        """Wait, bounded, for its end."""
        with anyio.fail_after(BOUND_S):
            return await self.process.wait()


@asynccontextmanager
async def cluster_process(*arguments: str) -> AsyncIterator[ClusterProcess]:
    """Run the cluster with these arguments; on leaving it has ended, killed if need be."""
    process = await anyio.open_process(
        [sys.executable, "-m", "pd_autoscaler.embedded.cluster", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None,
    )
    try:
        cluster = ClusterProcess(process)
        cluster.urls = await cluster.line()
        yield cluster
    finally:
        await end(process, within_s=BOUND_S)
