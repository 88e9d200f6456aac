"""Peers that no library would be: closed, silent and unreachable addresses."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

Address = tuple[str, int]


@contextmanager
def refusing(ip: str) -> Iterator[Address]:
    """An address where nobody listens, and nobody else can begin to."""
    with socket.socket() as bound:
        bound.bind((ip, 0))
        yield bound.getsockname()


@contextmanager
def dropping(ip: str) -> Iterator[Address]:
    """An address that answers no SYN: a listener whose backlog is full."""
    with socket.socket() as listener:
        listener.bind((ip, 0))
        listener.listen(0)
        address: Address = listener.getsockname()
        held = []
        try:
            while True:
                filler = socket.socket()
                held.append(filler)
                filler.setblocking(False)
                filler.connect_ex(address)
                if not _is_connected(filler):
                    break
            yield address
        finally:
            for filler in held:
                filler.close()


def _is_connected(connection: socket.socket) -> bool:
    try:
        connection.getpeername()
    except OSError:
        return False
    return True


class SilentPeer:
    """Listens, accepts, and says nothing until it closes."""

    def __init__(self, ip: str) -> None:
        self._listener = socket.socket()
        self._listener.bind((ip, 0))
        self._listener.listen(128)
        self.address: Address = self._listener.getsockname()
        self._accepted: list[socket.socket] = []

    def accept(self) -> socket.socket:
        """Wait for a client that has said something, and return its connection."""
        self._listener.settimeout(60)
        connection, _ = self._listener.accept()
        self._accepted.append(connection)
        connection.settimeout(60)
        assert connection.recv(1) != b""
        return connection

    def has_caller(self) -> bool:
        """Whether a client waits to be accepted."""
        self._listener.settimeout(0)
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return False
        self._accepted.append(connection)
        return True

    def close(self) -> None:
        """Close everything."""
        for connection in self._accepted:
            connection.close()
        self._listener.close()


@contextmanager
def silent(ip: str) -> Iterator[SilentPeer]:
    """A peer that accepts and stays silent."""
    peer = SilentPeer(ip)
    try:
        yield peer
    finally:
        peer.close()


@contextmanager
def idle_connections(address: Address, count: int) -> Iterator[list[socket.socket]]:
    """That many connections that say nothing; the caller may close them earlier."""
    connections = [socket.create_connection(address) for _ in range(count)]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()
