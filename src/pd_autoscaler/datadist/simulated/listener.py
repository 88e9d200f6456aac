"""A TCP listener whose connections are served by threads, a bounded number at a time."""

import socket
import threading
from collections.abc import Callable

from pd_autoscaler.datadist.simulated.channel import Channel

HANDSHAKE_SLOTS = 16
"""Handshakes at a time (hicann/hixl `src/llm_datadist/common/msg_handler_plugin.cc`)."""

_BACKLOG = 128


class Listener:
    """Accepts on `ip:port` and calls `serve` for each connection, `slots` of them at a time.

    `serve` gets the connection and the event that says that this listener closes. A connection
    keeps its slot until `serve` returns, however idle it is; the others wait their turn, accepted.
    Raises OSError if the address cannot be listened on.
    """

    def __init__(
        self,
        address: tuple[str, int],
        serve: Callable[[Channel, threading.Event], None],
        *,
        slots: int | None,
    ) -> None:
        self.closing = threading.Event()
        self._serve = serve
        self._slots = threading.Semaphore(slots) if slots is not None else None
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._busy = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(address)
            self._socket.listen(_BACKLOG)
        except OSError:
            self._socket.close()
            raise
        ip, port = self._socket.getsockname()
        self.address: tuple[str, int] = (ip, port)
        self._acceptor = threading.Thread(target=self._accept, name="accept", daemon=True)
        self._acceptor.start()

    def occupancy(self) -> tuple[int, int]:
        """Return how many connections hold a slot and how many wait for one."""
        with self._lock:
            return self._busy, len(self._connections) - self._busy

    def close(self) -> None:
        """Stop listening, close every connection and wait for their threads."""
        self.closing.set()
        # A plain close would leave the accepting thread inside accept.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._socket.close()
        with self._lock:
            connections = dict(self._connections)
            for connection in connections:
                _shut(connection)
        for thread in connections.values():
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                # The caller gave up between SYN and accept, or file descriptors ran out.
                if self.closing.wait(0.01):
                    return
                continue
            thread = threading.Thread(
                target=self._serve_one, args=(connection,), name="handshake", daemon=True
            )
            with self._lock:
                self._connections[connection] = thread
            thread.start()

    def _serve_one(self, connection: socket.socket) -> None:
        if self._slots is not None:
            self._slots.acquire()
        with self._lock:
            self._busy += 1
        try:
            if not self.closing.is_set():
                self._serve(Channel(connection), self.closing)
        except OSError:
            pass  # The peer is gone; there is nobody left to tell.
        finally:
            with self._lock:
                self._busy -= 1
                del self._connections[connection]
                connection.close()
            if self._slots is not None:
                self._slots.release()


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # Its peer was faster.
