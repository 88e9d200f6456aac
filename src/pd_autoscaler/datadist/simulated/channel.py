"""JSON lines over one TCP connection, and how a connect that fails is told apart."""

import json
import socket

_LINE_BYTES_MAX = 65_536

Message = dict[str, object]


class ConnectError(Exception):
    """No connection came about; `is_timeout` if nobody answered at all."""

    def __init__(self, message: str, *, is_timeout: bool) -> None:
        super().__init__(message)
        self.is_timeout = is_timeout


class Channel:
    """One connection; a peer that closes or talks nonsense reads as None."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._buffer = b""
        self._unread: list[Message] = []

    def send(self, message: Message) -> None:
        """Send a message; a peer that is gone shows when its answer is read."""
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """Return the next message, None at the end; raises TimeoutError, by default never."""
        if self._unread:
            return self._unread.pop()
        while b"\n" not in self._buffer:
            try:
                self._socket.settimeout(timeout_s)
                chunk = self._socket.recv(4096)
            except TimeoutError:
                raise
            except OSError:
                return None
            self._buffer += chunk
            if not chunk or len(self._buffer) > _LINE_BYTES_MAX:
                return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError:
            return None
        return message if isinstance(message, dict) else None

    def unread(self, message: Message) -> None:
        """Give a message back to be received again."""
        self._unread.append(message)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def __enter__(self) -> "Channel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connected(ip: str, port: int, *, timeout_ms: int) -> Channel:
    """Connect, bounded by the time-out; raises ConnectError."""
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_ms / 1000)
        connection.connect((ip, port))
    except OSError as error:
        connection.close()
        raise ConnectError(
            f"{ip}:{port}: {error}", is_timeout=isinstance(error, TimeoutError)
        ) from error
    return Channel(connection)
