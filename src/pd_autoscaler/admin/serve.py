"""Listening for the admin API."""

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from aiohttp import web

from pd_autoscaler.errors import ConfigError

CLOSE_S = 2.0
"""How long answers under way may take when the daemon stops."""


@asynccontextmanager
async def serve(
    app: web.Application, host: str = "127.0.0.1", port: int = 8080
) -> AsyncIterator[str]:
    """Serve the app and yield its URL, with the real port where 0 was asked for.

    Raises ConfigError where nothing can listen there; it names host and port, and the fix.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(_sentence(error, host, port)) from error
        bound = runner.addresses[0][1]
        yield f"http://{_bracketed(host)}:{bound}"
    finally:
        with anyio.move_on_after(2 * CLOSE_S, shield=True):
            await runner.cleanup()


def _sentence(error: OSError, host: str, port: int) -> str:
    place = f"the admin API cannot listen on {_bracketed(host)}:{port}"
    match error.errno:
        case errno.EADDRINUSE:
            return f"{place}: something else does already; stop that, or set another admin.port"
        case errno.EACCES:
            return f"{place}: ports below 1024 need privileges; set a higher admin.port"
        case errno.EADDRNOTAVAIL:
            return f"{place}: no such address on this machine; set an admin.host it has"
        case _:
            return f"{place}: {error.strerror or error}; set another admin.host or admin.port"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
