"""A look at the ports that decoders link to: does a connection come about?"""

import os
import socket
from collections.abc import Iterable, Mapping
from ipaddress import ip_address

import anyio

from pd_autoscaler.model.node import Endpoint, Node

CONCURRENCY_MAX = 16
CONNECT_S = 1.0
LOOK_S = 2.0
"""Most seconds of one look, however many endpoints are silent."""


class TcpLinkProbe:
    """A `ports.LinkProbe` that connects to each listening endpoint and closes at once.

    An idle connection would cost the listener a handshake thread for as long as it is open
    (hicann/hixl `msg_handler_plugin.cc`), one that is closed at once costs nothing. Nodes are
    looked at each `period_s` at most; between two looks the last answer stands, and so it does for
    those that a look did not get to within LOOK_S.
    """

    def __init__(self, *, period_s: float, connect_s: float = CONNECT_S) -> None:
        self._period_s = period_s
        self._connect_s = connect_s
        self._looked_at_s = float("-inf")
        self._found: dict[str, tuple[str, str]] = {}

    async def unreachable(self, nodes: Iterable[Node]) -> Mapping[str, str]:
        """Say by id why some rank of a node takes no connection; the others are absent."""
        asked = list(nodes)
        # What was found of a process that is no more says nothing of its successor.
        processes = {node.id: node.incarnation for node in asked}
        self._found = {i: it for i, it in self._found.items() if processes.get(i) == it[0]}
        if anyio.current_time() - self._looked_at_s >= self._period_s:
            self._looked_at_s = anyio.current_time()
            await self._look(asked)
        return {node_id: why for node_id, (_, why) in sorted(self._found.items())}

    async def _look(self, nodes: list[Node]) -> None:
        # Those that were silent the last time must not keep the slots from those that answer.
        nodes = sorted(nodes, key=lambda node: node.id in self._found)
        slots = anyio.Semaphore(CONCURRENCY_MAX)
        with anyio.move_on_after(LOOK_S):
            async with anyio.create_task_group() as group:
                for node in nodes:
                    group.start_soon(self._look_at, node, slots)

    async def _look_at(self, node: Node, slots: anyio.Semaphore) -> None:
        for endpoint in node.endpoints:
            async with slots:
                why = await self._refusal(endpoint)
            if why:
                self._found[node.id] = (node.incarnation, f"rank {endpoint.rank}: {why}")
                return
        self._found.pop(node.id, None)

    async def _refusal(self, endpoint: Endpoint) -> str:
        """Say why an endpoint takes no connection, or return an empty string."""
        if endpoint.port is None:
            return ""
        try:
            version = ip_address(endpoint.ip).version
        except ValueError:
            return f"{endpoint.ip!r} is not an IP address"
        place = f"{endpoint.ip}:{endpoint.port}"
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            with anyio.move_on_after(self._connect_s) as deadline:
                error = await _connected(probe, endpoint.ip, endpoint.port)
            if deadline.cancelled_caught:
                return f"{place} takes no connection within {self._connect_s:g} s"
        return f"{place}: {os.strerror(error)}" if error else ""


async def _connected(probe: socket.socket, ip: str, port: int) -> int:
    """Connect, and return the error number that it ended with, 0 for none."""
    try:
        probe.connect((ip, port))
    except BlockingIOError:
        await anyio.wait_writable(probe)
        error: int = probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return error
    except OSError as refused:
        return refused.errno or 0
    return 0
