"""A supervisor of stand-in nodes, and ways to wait for what it does."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio

from pd_autoscaler.embedded.child import Child
from pd_autoscaler.embedded.supervisor import Command, Supervisor
from pd_autoscaler.model.node import Role

STANDIN = Path(__file__).with_name("standin_node.py")
BOUND_S = 30.0


def standin(behave: str = "well") -> Command:
    """Return the command of a stand-in node that behaves in this way."""

    def command(node_id: str, role: Role, cluster_id: int) -> Sequence[str]:
        names = ("--node-id", node_id, "--role", role.value, "--cluster-id", str(cluster_id))
        return (sys.executable, str(STANDIN), *names, "--behave", behave)

    return command


async def until(supervisor: Supervisor, is_so: Callable[[], bool]) -> None:
    """Wait, bounded, until something about the supervisor's nodes is so."""
    with anyio.fail_after(BOUND_S):
        while not is_so():
            await supervisor.changed()


async def grown(supervisor: Supervisor, role: Role, request_id: str) -> Child:
    """Ask for a node and wait until it listens."""
    node_id = supervisor.grow(role, request_id)
    child = next(child for child in supervisor.nodes if child.id == node_id)
    await until(supervisor, lambda: bool(child.urls))
    return child


def is_alive(pid: int) -> bool:
    """Whether a process of this id exists, one that is dead but not reaped included."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def until_ended(pidfd: int) -> None:
    """Wait, bounded, for the end of a process that is not a child, by `os.pidfd_open`."""
    with anyio.fail_after(BOUND_S):
        await anyio.wait_readable(pidfd)
