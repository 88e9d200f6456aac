"""What a real Prometheus server spends on the same targets, by the kernel's account of it."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import anyio
import yaml

_COME_UP_S = 60.0
_LOOK_S = 0.05
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds over so many pages; `idle_s` is what it spends in the same time on none."""

    cpu_s: float
    idle_s: float
    pages: int

    def per(self, pages: int) -> float:
        """Return the CPU seconds of so many pages, without what is spent idle."""
        # The kernel counts in ticks: no difference is known to be smaller than one.
        return max(self.cpu_s - self.idle_s, 1 / _TICKS_PER_S) * pages / self.pages


def program() -> str | None:
    """Return where Prometheus is, if it is installed."""
    return shutil.which("prometheus")


def version() -> str:
    """Return the first line of what it says of itself."""
    asked = subprocess.run(
        [str(program()), "--version"], capture_output=True, text=True, check=True
    )
    return (asked.stdout + asked.stderr).split("\n", 1)[0].split(" (", 1)[0]


def cpu_s_of(pid: int) -> float:
    """Return user and system time of a process, all its threads, from /proc/PID/stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


async def spent(
    targets: Sequence[str], asked: Callable[[], Awaitable[int]], *, cycles: int, interval_s: float
) -> Spent:
    """Let it scrape the targets for so many intervals, after two in which it comes to know them.

    `asked` tells how many pages the targets have given away. Without targets it then runs as long
    once more, to see what it spends on none.
    """
    async with _running(targets, interval_s) as pid:
        start = await asked()
        with anyio.fail_after(_COME_UP_S + 5 * interval_s):
            await _until(asked, start + 2 * len(targets))
        cpu_s, start, at_s = cpu_s_of(pid), await asked(), anyio.current_time()
        with anyio.fail_after(_COME_UP_S + 2 * cycles * interval_s):
            await _until(asked, start + cycles * len(targets))
        cpu_s, pages = cpu_s_of(pid) - cpu_s, await asked() - start
        took_s = anyio.current_time() - at_s
    async with _running([], interval_s) as pid:
        await anyio.sleep(2 * interval_s)  # Time itself is what is measured over.
        idle_s = cpu_s_of(pid)
        await anyio.sleep(took_s)
        idle_s = cpu_s_of(pid) - idle_s
    return Spent(cpu_s, idle_s, pages)


async def _until(asked: Callable[[], Awaitable[int]], pages: int) -> None:
    while await asked() < pages:  # noqa: ASYNC110  # It is other processes that count.
        await anyio.sleep(_LOOK_S)


@asynccontextmanager
async def _running(targets: Sequence[str], interval_s: float) -> AsyncIterator[int]:
    """Run it in a folder of its own; yield its process id, and leave when it has ended."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        taken.close()
        config = Path(folder) / "prometheus.yml"
        config.write_text(yaml.safe_dump(_config(targets, interval_s)))
        process = await anyio.open_process(
            [
                str(program()),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address={address}",
                "--log.level=error",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None,
        )
        try:
            await _ready(f"http://{address}/-/ready")
            yield process.pid
        finally:
            with anyio.CancelScope(shield=True):
                if process.returncode is None:
                    process.send_signal(signal.SIGTERM)
                with anyio.move_on_after(_COME_UP_S):
                    await process.wait()
                if process.returncode is None:
                    process.kill()
                await process.aclose()


def _config(targets: Sequence[str], interval_s: float) -> dict[str, object]:
    jobs = [{"job_name": "engines", "static_configs": [{"targets": list(targets)}]}]
    every = {"scrape_interval": f"{interval_s * 1000:.0f}ms", "evaluation_interval": "1h"}
    every["scrape_timeout"] = every["scrape_interval"]
    return {"global": every, "scrape_configs": jobs if targets else []}


async def _ready(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        with anyio.fail_after(_COME_UP_S):
            while True:
                try:
                    async with session.get(url) as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientConnectionError:
                    pass
                await anyio.sleep(_LOOK_S)
