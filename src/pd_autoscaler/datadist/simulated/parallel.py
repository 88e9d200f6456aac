"""A pool of threads for one call."""

import threading
from collections.abc import Callable, Iterable

_POOL = 16
"""Clusters at a time in one call (hicann/hixl `src/llm_datadist/link_mgr/llm_link_manager.cc`)."""


def in_parallel(tasks: Iterable[Callable[[], str]]) -> tuple[str, list[str]]:
    """Run all tasks, 16 at a time in order, and return the overall code and one per task.

    The overall code is that of the last task, in order, that failed. What a task raises is raised
    again once all have ended.
    """
    waiting = list(enumerate(tasks))
    if not waiting:
        return "LLM_PARAM_INVALID", []
    codes = [""] * len(waiting)
    errors: list[BaseException] = []
    lock = threading.Lock()
    waiting.reverse()

    def work() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                index, task = waiting.pop()
            try:
                codes[index] = task()
            except BaseException as error:  # It belongs to the caller's thread.
                errors.append(error)

    # Daemons: a call that hangs must not keep the interpreter from ending.
    threads = [
        threading.Thread(target=work, name="link pool", daemon=True)
        for _ in range(min(_POOL, len(waiting)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    failed = [code for code in codes if code != "LLM_SUCCESS"]
    return (failed[-1] if failed else "LLM_SUCCESS"), codes
