"""Ending the processes that tests start."""

import signal

import anyio
from anyio.abc import Process


async def end(process: Process, *, within_s: float) -> None:
    """Ask a process to end, and kill it if it has not by then; one that has ended is left alone."""
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            with anyio.move_on_after(within_s):
                await process.wait()
        if process.returncode is None:
            process.kill()
        await process.aclose()
