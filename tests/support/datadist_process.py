"""The test's end of a library that lives in a child process."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

CALL_TIMEOUT_S = 60.0
"""Far beyond any call that returns at all: a test that reaches it has failed."""

_DRIVER = Path(__file__).with_name("datadist_child.py")


class ChildError(Exception):
    """What the library raised in the child."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['type']}: {error['message']}")
        self.type: str = error["type"]
        self.message: str = error["message"]
        self.code: str | None = error["code"]


class Child:
    """One child process; calls are started and answered in any order."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(_DRIVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self._pending: dict[int, Future[Any]] = {}
        self._is_stopped = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def is_idle(self) -> bool:
        """Whether it lives, runs and has no call in flight."""
        with self._lock:
            return not self._pending and not self._is_stopped and self._process.poll() is None

    def start(self, op: str, **arguments: Any) -> Future[Any]:
        """Start a call and return its future."""
        assert self._process.stdin is not None
        future: Future[Any] = Future()
        number = next(self._ids)
        with self._lock:
            self._pending[number] = future
        line = json.dumps({"id": number, "op": op, "arguments": arguments})
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return future

    def call(self, op: str, **arguments: Any) -> Any:
        """Make a call and return its result."""
        return self.start(op, **arguments).result(CALL_TIMEOUT_S)

    def freeze(self) -> None:
        """SIGSTOP it, and wait until it is stopped."""
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)
        self._is_stopped = True

    def thaw(self) -> None:
        """SIGCONT it."""
        os.kill(self._process.pid, signal.SIGCONT)
        self._is_stopped = False

    def kill(self) -> None:
        """SIGKILL it and wait for its end: the kernel has closed its sockets by then."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            with self._lock:
                future = self._pending.pop(answer["id"])
            if "error" in answer:
                future.set_exception(ChildError(answer["error"]))
            else:
                future.set_result(answer["result"])
        with self._lock:
            lost, self._pending = self._pending, {}
        for future in lost.values():
            future.set_exception(ConnectionError("the child ended during this call"))


class ChildPool:
    """Children that have no library initialised and may be used again."""

    def __init__(self) -> None:
        self._idle: list[Child] = []

    def take(self) -> Child:
        """Return a child, a used one if there is one."""
        return self._idle.pop() if self._idle else Child()

    def give_back(self, child: Child) -> None:
        """Keep a child for the next test."""
        self._idle.append(child)

    def close(self) -> None:
        """End all."""
        while self._idle:
            self._idle.pop().kill()
