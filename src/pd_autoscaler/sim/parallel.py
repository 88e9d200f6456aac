"""Many independent runs on all cores, each result as it comes."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


def spread(
    work: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int | None = None
) -> Iterator[tuple[Job, Result]]:
    """Yield each job with its result as it ends, from so many processes (all cores by default).

    `work` and its jobs must be picklable. An exception of a job is raised here, and what has not
    begun by then, or when the caller stops listening, is not begun any more.
    """
    count = min(workers or cores(), len(jobs))
    if count <= 1:
        for job in jobs:
            yield job, work(job)
        return
    # A forked process would inherit the locks of threads that it does not have.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context)
    try:
        futures = {pool.submit(work, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
