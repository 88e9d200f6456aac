"""Listening on loopback, for the engines and the router of the embedded cluster."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

LOOPBACK = "127.0.0.1"
SHUTDOWN_S = 0.5
"""How long open requests may take to end once the server closes; then they are cut."""


def bound_socket(port: int = 0) -> socket.socket:
    """Return a listening-to-be socket on loopback; port 0 picks a free one."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((LOOPBACK, port))
    except OSError:
        sock.close()
        raise
    return sock


@asynccontextmanager
async def listening(app: web.Application, sock: socket.socket) -> AsyncIterator[int]:
    """Serve an app on a bound socket for as long as the block runs; yield the port.

    A handler is cancelled when its client disconnects.
    """
    runner = web.AppRunner(
        app, handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_S
    )
    try:
        await runner.setup()
        await web.SockSite(runner, sock, backlog=1024).start()
        yield int(sock.getsockname()[1])
    finally:
        await runner.cleanup()
        sock.close()
