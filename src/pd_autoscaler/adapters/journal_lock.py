"""The lock beside a journal: one controller at a time, and none is in the way once it has died."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pd_autoscaler.errors import ConfigError


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold `<path>.lock` for as long as the block runs; the kernel lets go of a dead holder's.

    Not a lock on the database itself, so that others can read that. Raises ConfigError when
    another process holds it, or when its file system has no locks.
    """
    if path == ":memory:":
        yield
        return
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"journal {path} cannot be opened for writing: {error}") from error
    try:
        _take(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(descriptor, 20).decode(errors="replace").strip()
        raise ConfigError(
            f"journal {path} is in use by another controller"
            f"{f' (process {holder})' if holder else ''}: "
            "end that one, or give journal.path another value"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"journal {path} cannot be locked ({error.strerror}): put it on a local disk"
        ) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
