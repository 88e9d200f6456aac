"""Journals to test with: their clock, their workers, and one call to open one."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pd_autoscaler.adapters.journal_sqlite import SqliteJournal
from pd_autoscaler.adapters.workers import ThreadWorkers
from pd_autoscaler.ports import Workers
from tests.support.reports import START_UNIX_S

T = TypeVar("T")


class InlineWorkers:
    """Runs each call where it stands, as a simulation does."""

    async def run(self, work: Callable[[], T], *, deadline_s: float) -> T:
        """Run `work` at once."""
        del deadline_s
        return work()


@dataclass
class Place:
    """Where a journal is, and what its clock says; `open` opens it as often as asked.

    `failures` counts the calls that failed.
    """

    path: Path | str
    workers: Workers
    now_unix_s: float = START_UNIX_S
    keep_s: float = 3600.0
    size_max_bytes: int = 100_000_000
    deadline_s: float = 30.0
    failures: int = 0

    def open(self) -> AbstractAsyncContextManager[SqliteJournal]:
        """Open the journal with this place's settings as they are now."""
        return SqliteJournal.open(
            self.path,
            self.workers,
            now_unix_s=lambda: self.now_unix_s,
            keep_s=self.keep_s,
            size_max_bytes=self.size_max_bytes,
            deadline_s=self.deadline_s,
            on_failure=self._count,
        )

    def _count(self) -> None:
        self.failures += 1


def in_a_file(path: Path) -> Place:
    """Return a place on the disk, with the threads of the daemon."""
    return Place(path, ThreadWorkers(slots=1, name="journal"))


def in_memory() -> Place:
    """Return a place that ends with the journal, without threads."""
    return Place(":memory:", InlineWorkers())
