"""The link probe: it tells which ports take no connection, and keeps none."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from pd_autoscaler.adapters import link_probe
from pd_autoscaler.adapters.link_probe import TcpLinkProbe
from pd_autoscaler.model.node import Endpoint, Node, NodeState, Role
from tests.support.datadist_peers import Address, dropping, refusing
from tests.support.ranks import libraries

IP = "127.0.0.1"
CONNECT_S = 0.3
"""How long a connection may take that never comes."""


def node(node_id: str, *addresses: Address, incarnation: str = "boot-1") -> Node:
    return Node(
        id=node_id,
        role=Role.PROMPT,
        state=NodeState.SERVING,
        since_s=0,
        incarnation=incarnation,
        endpoints=tuple(Endpoint(i, i, ip, port) for i, (ip, port) in enumerate(addresses)),
    )


@contextmanager
def listening() -> Iterator[socket.socket]:
    """A listener that takes connections and accepts none by itself."""
    with socket.socket() as listener:
        listener.bind((IP, 0))
        listener.listen(128)
        listener.setblocking(False)
        yield listener


def callers(listener: socket.socket) -> list[bytes]:
    """What each caller has said, to the end: a caller that keeps its connection has no end."""
    said: list[bytes] = []
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return said
        with connection:
            connection.setblocking(False)
            said.append(connection.recv(1))


def sockets_open() -> int:
    count = 0
    for fd in list(Path("/proc/self/fd").iterdir()):
        with suppress(FileNotFoundError):  # The listing itself was open, and is no more.
            count += "socket:" in str(fd.readlink())
    return count


async def test_ports_that_take_a_connection_are_not_told_of() -> None:
    probe = TcpLinkProbe(period_s=60)
    with listening() as one, listening() as two:
        assert await probe.unreachable([node("p1", one.getsockname(), two.getsockname())]) == {}
        # Accepted only now: who never accepts holds nobody up, and nobody is still there.
        assert (callers(one), callers(two)) == ([b""], [b""])


async def test_a_closed_port_and_a_full_backlog_are_told_with_their_rank_and_address() -> None:
    probe = TcpLinkProbe(period_s=60, connect_s=CONNECT_S)
    before = sockets_open()
    with listening() as good, refusing(IP) as closed, dropping(IP) as full:
        nodes = [
            node("p1", good.getsockname()),
            node("p2", good.getsockname(), closed),
            node("p3", full),
        ]
        held = sockets_open()
        assert await probe.unreachable(nodes) == {
            "p2": f"rank 1: {IP}:{closed[1]}: Connection refused",
            "p3": f"rank 0: {IP}:{full[1]} takes no connection within 0.3 s",
        }
        assert sockets_open() == held
    assert sockets_open() == before


async def test_what_does_not_listen_is_not_looked_at_and_a_name_is_not_looked_up() -> None:
    probe = TcpLinkProbe(period_s=60)
    silent = Node(
        id="p1",
        role=Role.PROMPT,
        state=NodeState.SERVING,
        since_s=0,
        endpoints=(Endpoint(0, 1, IP), Endpoint(1, 2, "prompt.example", 26000)),
    )
    assert await probe.unreachable([silent]) == {
        "p1": "rank 1: 'prompt.example' is not an IP address"
    }


async def test_between_two_looks_the_last_answer_stands() -> None:
    probe = TcpLinkProbe(period_s=3600)
    with listening() as good, refusing(IP) as closed:
        nodes = [node("p1", good.getsockname()), node("p2", closed)]
        first = await probe.unreachable(nodes)
        assert first.keys() == {"p2"}
        assert await probe.unreachable(nodes) == first
        assert callers(good) == [b""]

        # What was found of one process says nothing of the next one, nor of who is gone.
        again = [nodes[0], node("p2", closed, incarnation="boot-2")]
        assert await probe.unreachable(again) == {}
        assert await probe.unreachable(nodes[:1]) == {}


async def test_a_port_that_opens_is_found_at_the_next_look() -> None:
    probe = TcpLinkProbe(period_s=0)
    with listening() as listener:
        address = listener.getsockname()
        with refusing(IP) as closed:
            assert (await probe.unreachable([node("p1", closed)])).keys() == {"p1"}
        assert await probe.unreachable([node("p1", address)]) == {}


async def test_many_silent_nodes_make_no_look_long_and_all_get_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_probe, "LOOK_S", 0.75)
    probe = TcpLinkProbe(period_s=0, connect_s=0.5)
    with dropping(IP) as full:
        nodes = [node(f"p{i}", full) for i in range(24)]
        first = await probe.unreachable(nodes)
        assert len(first) == 16
        assert len(await probe.unreachable(nodes)) == 24


async def test_a_hundred_looks_leave_a_prompts_library_free_to_link() -> None:
    [prompt] = libraries(Role.PROMPT, 1)
    probe = TcpLinkProbe(period_s=0)
    with listening() as free:
        address: Address = free.getsockname()
    options = {"device_id": 0, "local_comm_res": "", "listen_ip_info": f"{IP}:{address[1]}"}
    await asyncio.to_thread(prompt.init, options)
    try:
        for _ in range(100):
            assert await probe.unreachable([node("p1", address)]) == {}
        with anyio.fail_after(60):
            while prompt.handshakes() != (0, 0):
                await anyio.lowlevel.checkpoint()
    finally:
        await asyncio.to_thread(prompt.finalize)
