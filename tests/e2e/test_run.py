"""`pd-autoscaler run` as a newcomer starts it, and every way in which it may end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from tests.support.supervision import until_ended

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

WITHIN_S = 60.0
REQUIRED = {
    "requests_offered",
    "requests_failed",
    "requests_lost_on_killed_nodes",
    "ttft_p50_s",
    "ttft_p95_s",
    "tpot_p50_s",
    "tpot_p95_s",
    "node_seconds",
    "target_changes",
    "nodes_started",
    "nodes_stopped",
    "links_made",
    "links_failed",
    "links_leaked",
    "holds",
}
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2024-01-01 00:00:{second:02}.25,{100 + second},{10 + second}\n" for second in range(4)
)
MOONCAKE = "".join(
    json.dumps({"timestamp": 700 * k, "input_length": 200, "output_length": 20, "hash_ids": [k]})
    + "\n"
    for k in range(4)
)


class Run:
    """A `run` of quick nodes, and what it has printed so far."""

    def __init__(self, process: Process, folder: Path) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.summary_file = folder / "summary.json"
        self.scratch = folder / "scratch"
        self.out = self.error = ""
        self._out = TextReceiveStream(process.stdout)
        self._error = TextReceiveStream(process.stderr)

    async def printed(self, text: str) -> None:
        """Wait, bounded, until it has printed a text."""
        with anyio.fail_after(WITHIN_S):
            while text not in self.out:
                self.out += await self._out.receive()

    async def ended(self) -> int:
        """Wait, bounded, for its end and read the rest of what it printed."""
        with anyio.fail_after(WITHIN_S):
            async for part in self._out:
                self.out += part
            async for part in self._error:
                self.error += part
            return await self.process.wait()

    def summary(self) -> dict[str, Any]:
        """Read the summary it wrote."""
        said = json.loads(self.summary_file.read_text())
        assert isinstance(said, dict)
        return said

    def family(self) -> list[int]:
        """Name its process, the cluster's and the nodes', in this order."""
        found = [self.process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").iterdir():
                with suppress(FileNotFoundError):  # A thread may end while it is looked at.
                    found += map(int, (task / "children").read_text().split())
        return found


@asynccontextmanager
async def started(folder: Path, *arguments: str) -> AsyncIterator[Run]:
    """Start a run; on leaving it has ended, killed if need be."""
    (folder / "scratch").mkdir()
    own = ("run", "--start-s", "0.2", "--summary", str(folder / "summary.json"))
    process = await anyio.open_process(
        [sys.executable, "-m", "pd_autoscaler", *own, *arguments],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(folder / "scratch")},
    )
    try:
        yield Run(process, folder)
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.aclose()


@contextmanager
def watched(pids: list[int]) -> Iterator[list[int]]:
    """Hold on to processes, so that their ends can be waited for."""
    descriptors = [os.pidfd_open(pid) for pid in pids]
    try:
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def gone(pids: list[int]) -> bool:
    """Whether none of these processes exists any more."""
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize(("name", "text"), [("azure.csv", AZURE), ("mooncake.jsonl", MOONCAKE)])
async def test_a_trace_runs_to_a_summary_without_loss(tmp_path: Path, name: str, text: str) -> None:
    trace = tmp_path / name
    trace.write_text(text)
    async with started(tmp_path, "--for", "12", "--trace", str(trace)) as run:
        assert await run.ended() == 0

    summary = run.summary()
    assert summary.keys() >= REQUIRED
    # Four requests a round for 12 s: at least two rounds of either trace.
    assert summary["requests_offered"] == summary["requests_ok"] >= 8
    assert summary["requests_failed"] == summary["links_failed"] == summary["links_leaked"] == 0
    assert summary["links_made"] >= 1
    assert summary["nodes_started"] >= 2
    assert 0 < summary["ttft_p50_s"] <= summary["ttft_p95_s"]
    assert 0 < summary["tpot_p50_s"] <= summary["tpot_p95_s"]
    assert summary["node_seconds"] > 2 * 12
    assert run.error == ""
    assert f"requests   {summary['requests_offered']} offered, 0 failed\n" in run.out
    assert run.out.endswith(f"written to {run.summary_file}\n")
    assert list(run.scratch.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_in_the_middle_ends_with_a_summary_and_no_process_left(
    tmp_path: Path, how: signal.Signals
) -> None:
    async with started(tmp_path) as run:
        await run.printed("ok, 0 failed")
        pids = run.family()
        assert len(pids) >= 4
        run.process.send_signal(how)
        assert await run.ended() == 0
        assert gone(pids)

    summary = run.summary()
    assert summary.keys() >= REQUIRED
    assert summary["requests_failed"] == summary["links_leaked"] == 0
    ended = summary["requests_ok"] + summary["requests_unfinished"]
    assert summary["requests_offered"] == ended > 0
    if how is signal.SIGINT:
        assert summary["requests_unfinished"] == 0
    assert run.error == ""
    assert list(run.scratch.iterdir()) == []


async def test_a_signal_before_the_load_ends_with_an_empty_summary(tmp_path: Path) -> None:
    async with started(tmp_path, "--start-s", "100") as run:
        await run.printed("Ctrl-C ends it.")
        pids = run.family()
        run.process.send_signal(signal.SIGINT)
        assert await run.ended() == 0
        assert gone(pids)

    assert run.summary()["requests_offered"] == 0
    assert run.error == ""
    assert list(run.scratch.iterdir()) == []


async def test_killing_it_leaves_no_process_behind(tmp_path: Path) -> None:
    async with started(tmp_path) as run:
        await run.printed("the load begins")
        pids = run.family()
        assert len(pids) >= 4
        with watched(pids) as descriptors:
            run.process.kill()
            for descriptor in descriptors:
                await until_ended(descriptor)
        assert await run.ended() == -signal.SIGKILL
    assert run.error == ""


async def test_the_end_of_the_cluster_ends_it_with_one_sentence(tmp_path: Path) -> None:
    async with started(tmp_path) as run:
        await run.printed("the load begins")
        pids = run.family()
        with watched(pids) as descriptors:
            os.kill(pids[1], signal.SIGKILL)
            assert await run.ended() == 1
            for descriptor in descriptors:
                await until_ended(descriptor)

    assert run.error == (
        "error: the embedded cluster's process was killed by SIGKILL: "
        "the run is over, start it again\n"
    )
    assert not run.summary_file.exists()
    assert list(run.scratch.iterdir()) == []
