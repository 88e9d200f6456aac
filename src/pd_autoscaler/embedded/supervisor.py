"""The supervisor: owns the node processes of the embedded cluster, one process per node.

Every node holds the reading end of a pipe on its standard input and ends at its end-of-file, so
nodes end with the supervisor however it ends, and never with the controller.
"""

import logging
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from types import MappingProxyType

import anyio
import anyio.lowlevel
from anyio.abc import Process, TaskGroup

from pd_autoscaler.embedded.child import (
    Child,
    ChildState,
    End,
    EndedChild,
    StartError,
    drained,
    finished,
    how_ended,
    listening,
    log_tail,
    opened,
    output_of,
)
from pd_autoscaler.errors import TransientError
from pd_autoscaler.model.node import Role

log = logging.getLogger(__name__)

Command = Callable[[str, Role, int], Sequence[str]]
"""(node id, role, LLM-DataDist id of its first rank) -> the command line of a node."""

_HOST = int(IPv4Address("127.0.0.1"))
_REQUESTS_MAX = 10_000
_ONE_RANK: Mapping[Role, int] = MappingProxyType({})

_NODE = (sys.executable, "-m", "pd_autoscaler.embedded.node")


def node_command(*extra: str, program: Sequence[str] | None = None) -> Command:
    """Return the command of the embedded engine's node (or `program`), `extra` appended."""

    def command(node_id: str, role: Role, cluster_id: int) -> Sequence[str]:
        names = ("--node-id", node_id, "--role", role.value, "--cluster-id", str(cluster_id))
        return (*(program or _NODE), *names, *extra)

    return command


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorLimits:
    """Bounds: seconds to the first line, seconds from SIGTERM to SIGKILL, nodes at a time."""

    start_s: float = 30.0
    grace_s: float = 5.0
    nodes_max: int = 64
    ended_max: int = 1000


class Supervisor:
    """Starts, lists and ends node processes; made by `supervising`, in whose group they live."""

    def __init__(
        self,
        group: TaskGroup,
        command: Command,
        work_dir: Path,
        *,
        limits: SupervisorLimits,
        ranks: Mapping[Role, int],
    ) -> None:
        self._group = group
        self._command = command
        self._work_dir = work_dir
        self._limits = limits
        self._ranks = ranks
        self._children: dict[str, Child] = {}
        self._requests: dict[str, str] = {}
        self._ended: deque[EndedChild] = deque(maxlen=limits.ended_max)
        self._ends: Counter[End] = Counter()
        self._ended_node_s = 0.0
        self._started = 0
        self._count = 0
        self._cluster_id = (_HOST << 32) | 1
        self._is_closing = False
        self._changed = anyio.Event()

    @property
    def nodes(self) -> tuple[Child, ...]:
        """The nodes that exist, oldest first."""
        return tuple(self._children.values())

    @property
    def ended(self) -> tuple[EndedChild, ...]:
        """The newest ends, oldest first."""
        return tuple(self._ended)

    @property
    def ends(self) -> Mapping[End, int]:
        """How many ended in which way since the supervisor began."""
        return {end: self._ends[end] for end in End}

    @property
    def started_count(self) -> int:
        """How many node processes were begun."""
        return self._started

    @property
    def node_seconds(self) -> float:
        """Sum of the lifetimes of all node processes, living ones up to now."""
        now_s = anyio.current_time()
        living = sum(now_s - child.began_s for child in self._children.values() if child.pid)
        return self._ended_node_s + living

    def killed_at_s(self) -> Mapping[str, float]:
        """When each node that ended unasked did so, by id (monotonic seconds)."""
        return {end.id: end.ended_s for end in self._ended if end.is_unasked}

    async def changed(self) -> None:
        """Return when a node has begun, begun to listen, or ended since the call."""
        await self._changed.wait()

    def grow(self, role: Role, request_id: str) -> str:
        """Begin one more node and return its id; a repeated request id begins nothing more.

        Raises TransientError when closing or at the limit of nodes.
        """
        if request_id in self._requests:
            return self._requests[request_id]
        if self._is_closing:
            raise TransientError("the supervisor is ending: no node can be started")
        if len(self._children) >= self._limits.nodes_max:
            raise TransientError(f"the supervisor's limit of {self._limits.nodes_max} nodes")
        self._count += 1
        child = Child(
            id=f"{role.value}-{self._count}",
            role=role,
            request_id=request_id,
            cluster_id=self._cluster_id,
            ranks=self._ranks.get(role, 1),
            began_s=anyio.current_time(),
        )
        # Never used again while this supervisor lives, so no link meets a namesake.
        self._cluster_id += child.ranks
        self._children[child.id] = child
        self._requests[request_id] = child.id
        if len(self._requests) > _REQUESTS_MAX:
            self._requests.pop(next(iter(self._requests)))
        self._group.start_soon(self._life, child, name=child.id)
        return child.id

    def remove(self, node_id: str) -> None:
        """Have a node end: end of input, SIGTERM, SIGKILL; one that is gone is a success."""
        child = self._children.get(node_id)
        if child is not None:
            child.state = ChildState.STOPPING
            child.scope.cancel()

    def close(self) -> None:
        """Begin nothing more, and have every node end."""
        self._is_closing = True
        for node_id in tuple(self._children):
            self.remove(node_id)

    async def _life(self, child: Child) -> None:
        """Own one process from its start until it is reaped."""
        process: Process | None = None
        log_path = self._work_dir / f"{child.id}.log"
        error = ""
        try:
            with child.scope:
                await anyio.lowlevel.checkpoint()
                # Cancelled half-way, the process would exist and nobody would know it.
                with anyio.CancelScope(shield=True):
                    begun = process = await self._begun(child, log_path)
                await self._watch(child, begun)
                error = "ended unasked"
        except OSError as refusal:
            error = f"cannot be started: {refusal}"
        except StartError as refusal:
            error = str(refusal)
        finally:
            own_code = process.returncode if process else None
            if process is not None and await finished(process, grace_s=self._limits.grace_s):
                log.warning("%s did not end within %g s: killed", child.id, self._limits.grace_s)
            how = how_ended(has_listened=child.urls is not None, own_code=own_code, error=error)
            self._record(child, how, process.returncode if process else None, error, log_path)

    async def _begun(self, child: Child, log_path: Path) -> Process:
        command = self._command(child.id, child.role, child.cluster_id)
        ranks = ("--ranks", str(child.ranks)) if child.ranks > 1 else ()
        process = await opened((*command, *ranks), log_path)
        child.began_s = anyio.current_time()
        child.pid = process.pid
        self._started += 1
        self._notify()
        return process

    async def _watch(self, child: Child, process: Process) -> None:
        lines = output_of(process)
        child.urls = await listening(process, lines, child.id, start_s=self._limits.start_s)
        child.state = ChildState.RUNNING
        self._notify()
        async with anyio.create_task_group() as group:
            group.start_soon(drained, lines)
            await process.wait()
            group.cancel_scope.cancel()

    def _record(self, child: Child, how: End, code: int | None, error: str, log_path: Path) -> None:
        now_s = anyio.current_time()
        if how is End.REMOVED:
            error = ""
            log_path.unlink(missing_ok=True)
        else:
            error = "; ".join(filter(None, [f"{error} (code {code})", log_tail(log_path)]))
            log.warning("%s: %s", child.id, error)
        del self._children[child.id]
        self._ends[how] += 1
        self._ended_node_s += now_s - child.began_s if child.pid else 0.0
        self._ended.append(
            EndedChild(
                id=child.id,
                role=child.role,
                request_id=child.request_id,
                pid=child.pid,
                how=how,
                code=code,
                began_s=child.began_s,
                ended_s=now_s,
                error=error,
            )
        )
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


@asynccontextmanager
async def supervising(
    command: Command,
    *,
    work_dir: Path,
    limits: SupervisorLimits | None = None,
    ranks: Mapping[Role, int] = _ONE_RANK,
) -> AsyncIterator[Supervisor]:
    """Run a supervisor; on leaving, every node is ended and reaped whatever happened.

    A node has as many ranks, with an LLM-DataDist id each, as `ranks` gives its role (`--ranks`).
    Each node's errors go to `<work_dir>/<node id>.log`; the log of one that was removed is deleted.
    """
    async with anyio.create_task_group() as group:
        supervisor = Supervisor(
            group, command, work_dir, limits=limits or SupervisorLimits(), ranks=ranks
        )
        try:
            yield supervisor
        finally:
            supervisor.close()
