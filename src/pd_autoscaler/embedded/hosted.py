"""The embedded cluster as a child process: it ends with whoever holds the other end of its pipe."""

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import anyio
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from pd_autoscaler.errors import PermanentError, TransientError

READY_S = 30.0
END_S = 20.0
"""The cluster waits for no answer once its pipe is closed, so its end is its nodes' end."""

RELAY_S = 1.0


@dataclass(frozen=True, slots=True)
class HostedCluster:
    """A cluster in its own process, and how to ask it; `pid` is its process id."""

    process: Process
    supervisor_url: str
    router_url: str
    cluster_url: str
    session: aiohttp.ClientSession

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    async def numbers(self) -> dict[str, Any]:
        """Return the load's running numbers; raises TransientError when there is no answer."""
        return await self._asked("GET", "/load")

    async def stop_load(self) -> None:
        """Have no more requests sent; raises TransientError when there is no answer."""
        await self._asked("DELETE", "/load")

    async def drop_load(self) -> None:
        """As `stop_load`, and have no answer waited for."""
        await self._asked("DELETE", "/load?drop=1")

    async def summary(self) -> dict[str, Any]:
        """Look at the links and return the summary; raises TransientError without an answer."""
        return await self._asked("GET", "/summary")

    async def ended(self) -> str:
        """Wait for the cluster to end by itself and say how it did."""
        code = await self.process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return f"the embedded cluster's process {how}: the run is over, start it again"

    async def _asked(self, method: str, path: str) -> dict[str, Any]:
        try:
            async with self.session.request(method, f"{self.cluster_url}{path}") as answer:
                answer.raise_for_status()
                return dict(await answer.json())
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise TransientError(f"the embedded cluster does not answer: {error}") from error


@asynccontextmanager
async def hosted_cluster(
    arguments: Sequence[str], *, on_line: Callable[[str], None]
) -> AsyncIterator[HostedCluster]:
    """Start the cluster and yield it once it listens; on leaving, it and its nodes have ended.

    `on_line` is handed what it says on standard error, line by line. Raises PermanentError if it
    does not come up.
    """
    command = [sys.executable, "-m", "pd_autoscaler.embedded.cluster", "--stdin-eof", *arguments]
    timeout = aiohttp.ClientTimeout(total=15.0)
    async with anyio.create_task_group() as group:
        # A session of its own: Ctrl-C is for the controller, which then closes the pipe.
        process = await anyio.open_process(
            command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        relayed = anyio.Event()
        try:
            group.start_soon(_relay, process, on_line, relayed)
            urls = await _urls(process)
            async with aiohttp.ClientSession(timeout=timeout) as session:
                yield HostedCluster(process, session=session, **urls)
        finally:
            with anyio.CancelScope(shield=True):
                await _end(process)
                with anyio.move_on_after(RELAY_S):
                    await relayed.wait()
                await process.aclose()


async def _relay(process: Process, on_line: Callable[[str], None], relayed: anyio.Event) -> None:
    """Hand over every line of its standard error."""
    assert process.stderr is not None  # noqa: S101  # It was opened with a pipe.
    rest = ""
    try:
        async for part in TextReceiveStream(process.stderr, errors="replace"):
            *lines, rest = (rest + part).split("\n")
            for line in lines:
                on_line(line)
        if rest:
            on_line(rest)
    finally:
        relayed.set()


async def _urls(process: Process) -> dict[str, str]:
    assert process.stdout is not None  # noqa: S101  # It was opened with a pipe.
    text = ""
    with anyio.move_on_after(READY_S):
        async for part in TextReceiveStream(process.stdout):
            text += part
            if "\n" in text:
                break
    try:
        line = json.loads(text.partition("\n")[0])
        names = ("supervisor_url", "router_url", "cluster_url")
        return {name: str(line[name]) for name in names}
    except (ValueError, KeyError) as error:
        raise PermanentError(
            "the embedded cluster did not come up; what it said, if anything, is above"
        ) from error


async def _end(process: Process) -> None:
    """Close the pipe and wait; whoever does not end in time is killed, and its nodes with it."""
    if process.stdin is not None:
        await process.stdin.aclose()
    with anyio.move_on_after(END_S):
        if process.stdout is not None:
            async for _ in process.stdout:
                pass  # Its last words are the summary, which was asked for already.
        await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
