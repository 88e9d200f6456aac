"""One node process: how it is opened, what its first line says, how it is ended and reaped."""

import json
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from pd_autoscaler.model.node import Role

_LINE_MAX_BYTES = 65_536
_TAIL_BYTES = 2_000


class ChildState(StrEnum):
    """How far a child is; one that ended is no longer listed."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


class End(StrEnum):
    """How a child ended: as asked, by a signal or by itself unasked, or without ever listening."""

    REMOVED = "removed"
    KILLED = "killed"
    EXITED = "exited"
    START_FAILED = "start_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Urls:
    """Where a node listens: an agent for each rank, one engine, one metrics page."""

    agent_urls: tuple[str, ...]
    engine_url: str
    metrics_url: str


@dataclass(slots=True, kw_only=True)
class Child:
    """One node; `pid` is 0 until its process exists, `urls` is None until it listens.

    Its ranks have the LLM-DataDist ids from `cluster_id` on. `role` is the one that it was started
    in: it may have switched since, which only it can tell.
    """

    id: str
    role: Role
    request_id: str
    cluster_id: int
    began_s: float
    ranks: int = 1
    pid: int = 0
    state: ChildState = ChildState.STARTING
    urls: Urls | None = None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @property
    def cluster_ids(self) -> range:
        """Its ranks' ids."""
        return range(self.cluster_id, self.cluster_id + self.ranks)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedChild:
    """How one node ended; times are monotonic seconds, a negative code is a signal's number.

    `error` is empty for one that was removed; otherwise it ends with the last lines of its log.
    """

    id: str
    role: Role
    request_id: str
    pid: int
    how: End
    code: int | None
    began_s: float
    ended_s: float
    error: str = ""

    @property
    def is_unasked(self) -> bool:
        """Whether a process that existed ended without being asked."""
        return self.how in {End.KILLED, End.EXITED}


class StartError(Exception):
    """A child did not come to listen; the message completes 'the node ...'."""


async def opened(command: Sequence[str], log_path: Path) -> Process:
    """Start a process with pipes on its input and output, and its errors in a file.

    Raises OSError when it cannot be started.
    """
    with log_path.open("wb") as stderr:
        return await anyio.open_process(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            # Ctrl-C in a terminal goes to the whole group; nodes end when they are told.
            start_new_session=True,
        )


def output_of(process: Process) -> BufferedByteReceiveStream:
    """Return what the process prints, to be read by line."""
    if process.stdout is None:
        raise RuntimeError("the process was opened without a pipe on its output")
    return BufferedByteReceiveStream(process.stdout)


async def listening(
    process: Process, lines: BufferedByteReceiveStream, node_id: str, *, start_s: float
) -> Urls:
    """Wait for the line in which a node says where it listens.

    Raises StartError when the line is wrong, late, or the output ends before it.
    """
    try:
        with anyio.fail_after(start_s):
            line = await lines.receive_until(b"\n", _LINE_MAX_BYTES)
    except TimeoutError as error:
        raise StartError(f"said nothing within {start_s:g} s of its start") from error
    except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError) as error:
        # The end of its output comes just before the end of the process.
        with anyio.move_on_after(1.0):
            await process.wait()
        raise StartError("ended its output before it listened") from error
    except anyio.DelimiterNotFound as error:
        raise StartError(f"said no line within {_LINE_MAX_BYTES} bytes") from error
    return _urls(line, node_id)


def _urls(line: bytes, node_id: str) -> Urls:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise StartError(f"said {line[:200]!r} instead of a JSON object") from error
    if not isinstance(said, dict) or said.get("node_id") != node_id:
        raise StartError(f"said {line[:200]!r}, which is not the object of {node_id}")
    agents, engine, metrics = (
        said.get("agent_urls"),
        said.get("engine_url"),
        said.get("metrics_url"),
    )
    urls = [*agents, engine, metrics] if isinstance(agents, list) and agents else [None]
    if not all(isinstance(url, str) and url.startswith("http://") for url in urls):
        raise StartError(f"said {line[:200]!r}, which lacks agent_urls, engine_url or metrics_url")
    return Urls(
        agent_urls=tuple(map(str, urls[:-2])), engine_url=str(engine), metrics_url=str(metrics)
    )


async def drained(lines: BufferedByteReceiveStream) -> None:
    """Read and drop whatever else is printed, so that a full pipe never blocks a node."""
    try:
        while True:
            await lines.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        return


async def finished(process: Process, *, grace_s: float) -> bool:
    """End a process and reap it: end of input, SIGTERM, and SIGKILL after `grace_s` seconds.

    Returns whether it had to be killed. Is not cancelled: what is not reaped here never will be.
    """
    with anyio.CancelScope(shield=True):
        if process.stdin is not None:
            await process.stdin.aclose()
        _send(process, signal.SIGTERM)
        with anyio.move_on_after(grace_s):
            await process.wait()
        is_deaf = process.returncode is None
        if is_deaf:
            _send(process, signal.SIGKILL)
        await process.wait()
        await process.aclose()
    return is_deaf


def _send(process: Process, number: signal.Signals) -> None:
    if process.returncode is None:
        try:
            process.send_signal(number)
        except ProcessLookupError:
            return  # It ended by itself just now.


def how_ended(*, has_listened: bool, own_code: int | None, error: str) -> End:
    """Tell how a child ended from its own end, which is None where the supervisor ended it."""
    if own_code is not None and own_code < 0:
        return End.KILLED
    if own_code is None and not error:
        return End.REMOVED
    return End.EXITED if has_listened else End.START_FAILED


def log_tail(log_path: Path) -> str:
    """Return the last lines of a log, or nothing where there are none."""
    try:
        with log_path.open("rb") as lines:
            size = lines.seek(0, 2)
            lines.seek(max(0, size - _TAIL_BYTES))
            return lines.read().decode(errors="replace").strip()
    except OSError:
        return ""
