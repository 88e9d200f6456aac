"""Engines that are asked for their pages: many addresses in a few processes of their own.

`python -m benchmarks.support.scrape_targets` reads one JSON object (how many addresses, and what
page they have) from its standard input, prints their ports, answers each request on each of them
with the page, and ends with its input. `/asked` tells how many pages it has given away.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import aiohttp
import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from benchmarks.support.scrape_pages import vllm_page

IP = "127.0.0.1"
PROCESSES = 4

_COME_UP_S = 60.0
_LINE_MAX_BYTES = 1_000_000
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Answers(asyncio.Protocol):
    """Answers requests without a body, one after the other; as cheap as an answer can be."""

    asked = 0
    page = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._unread = b""

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while b"\r\n\r\n" in self._unread:
            request, _, self._unread = self._unread.partition(b"\r\n\r\n")
            if request.startswith(b"GET /asked "):
                body = str(_Answers.asked).encode()
            else:
                _Answers.asked += 1
                body = _Answers.page
            head = (
                f"HTTP/1.1 200 OK\r\nContent-Type: {_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            self._transport.write(head.encode() + body)


async def _live(count: int, engines: int) -> None:
    _Answers.page = vllm_page(engines=engines)
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(_Answers, IP, 0) for _ in range(count)]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    await anyio.wait_readable(sys.stdin.fileno())
    # Not by closing a thousand servers one by one.
    os._exit(0)


@dataclass(frozen=True, slots=True)
class Targets:
    """Where the engines are; the first address of each process can be asked for its count."""

    addresses: Sequence[str]
    _counters: Sequence[str]
    _session: aiohttp.ClientSession

    async def asked(self) -> int:
        """Return how many pages they have given away so far."""
        total = 0
        for address in self._counters:
            async with self._session.get(f"http://{address}/asked") as answer:
                total += int(await answer.text())
        return total


@asynccontextmanager
async def running_targets(count: int, *, engines: int) -> AsyncIterator[Targets]:
    """Run `count` addresses with pages of so many engines each; on leaving they have ended."""
    shares = [len(range(n, count, PROCESSES)) for n in range(min(PROCESSES, count))]
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        ports = [await stack.enter_async_context(_child(share, engines)) for share in shares]
        yield Targets(
            [f"{IP}:{port}" for those in ports for port in those],
            [f"{IP}:{those[0]}" for those in ports],
            session,
        )


@asynccontextmanager
async def _child(count: int, engines: int) -> AsyncIterator[list[int]]:
    process = await anyio.open_process(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stderr=None
    )
    try:
        yield await _told(process, {"count": count, "engines": engines})
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.aclose()


async def _told(process: Process, spec: dict[str, int]) -> list[int]:
    assert process.stdin is not None
    assert process.stdout is not None
    with anyio.fail_after(_COME_UP_S):
        await process.stdin.send(json.dumps(spec).encode() + b"\n")
        line = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", _LINE_MAX_BYTES)
    ports: list[int] = json.loads(line)
    return ports


def main() -> None:
    """Read what to serve, and serve it."""
    spec = json.loads(sys.stdin.readline())
    asyncio.run(_live(spec["count"], spec["engines"]))


if __name__ == "__main__":
    main()
