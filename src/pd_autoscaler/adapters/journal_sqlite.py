"""The journal on SQLite: what a controller must not forget, and the history people ask for.

Intents, epoch, mode and target are on the disk before their call returns; reports and ends may
lose their last moments to a power failure, never to a killed process.
"""

import logging
import math
import sqlite3
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import anyio

from pd_autoscaler.adapters import journal_links, journal_rows, journal_schema
from pd_autoscaler.adapters.journal_events import Event, Told, events_of
from pd_autoscaler.adapters.journal_lock import locked
from pd_autoscaler.adapters.journal_schema import transaction
from pd_autoscaler.core.attempts import attempts_of
from pd_autoscaler.errors import OutcomeUnknownError, PermanentError, TransientError
from pd_autoscaler.model.codec import report_from, report_text
from pd_autoscaler.model.link import LinkState
from pd_autoscaler.model.plan import Action
from pd_autoscaler.model.report import Outcome, Report
from pd_autoscaler.ports import Remembered, Workers

T = TypeVar("T")
log = logging.getLogger(__name__)

LINKS_KEPT_MAX = 4096
"""Of a larger mesh a kept report lists only the links that are not up."""

OPEN_DEADLINE_S = 120.0
"""Checking a large file takes its time."""

_NONE: Mapping[str, Sequence[int]] = MappingProxyType({})


class SqliteJournal:
    """`ports.Journal` in one file, or in `:memory:`; made by `open`.

    Every statement runs through the workers, one call at a time. While a call past its deadline is
    still running every other one raises TransientError.
    """

    def __init__(
        self,
        path: str,
        workers: Workers,
        connection: sqlite3.Connection,
        *,
        now_unix_s: Callable[[], float],
        retention: journal_rows.Retention,
        deadline_s: float,
        on_failure: Callable[[], None],
    ) -> None:
        self._path = path
        self._workers = workers
        self._connection = connection
        self._now_unix_s = now_unix_s
        self._retention = retention
        self._deadline_s = deadline_s
        self._on_failure = on_failure
        self._turn = anyio.Lock()
        self._is_running = False
        self._has_begun = False
        self._intended = 0
        self._told = Told()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        path: Path | str,
        workers: Workers,
        *,
        now_unix_s: Callable[[], float],
        keep_s: float,
        size_max_bytes: int,
        deadline_s: float = 5.0,
        on_failure: Callable[[], None] = lambda: None,
    ) -> AsyncIterator["SqliteJournal"]:
        """Open the file, or begin it, and close it at the end of the block.

        Each call may take `deadline_s`; `on_failure` is called for each that fails.

        Raises ConfigError for a file that is corrupt, no journal, of a later version, not writable
        or in use by another controller, TransientError for one that is locked by another program
        or on a full disk.
        """
        name = str(path)
        async with AsyncExitStack() as stack:
            connection = await workers.run(
                lambda: _opened(name, stack, busy_timeout_s=deadline_s / 2),
                deadline_s=OPEN_DEADLINE_S,
            )
            journal = cls(
                name,
                workers,
                connection,
                now_unix_s=now_unix_s,
                retention=journal_rows.Retention(keep_s, size_max_bytes),
                deadline_s=deadline_s,
                on_failure=on_failure,
            )
            try:
                yield journal
            finally:
                with anyio.CancelScope(shield=True):
                    await journal._close()

    async def remembered(self) -> Remembered:
        """Read what a starting controller needs, and end the open intents as unknown."""
        now_unix_s = self._now_unix_s()

        def work(connection: sqlite3.Connection) -> Remembered:
            remembered = journal_rows.remembered(connection, now_unix_s=now_unix_s)
            text = f"controller started; {len(remembered.open_intents)} intents were open"
            journal_rows.tell(connection, [Event("controller", text)], at_unix_s=now_unix_s)
            return remembered

        remembered = await self._run(work)
        self._has_begun = True
        return remembered

    async def set_epoch(self, epoch: int) -> None:
        """Remember the fencing epoch."""
        await self._set({"epoch": epoch}, Event("epoch", f"epoch {epoch} taken"))

    async def set_mode(self, mode: str) -> None:
        """Remember the loop's mode."""
        await self._set({"mode": mode}, Event("mode", f"mode {mode}", {"mode": mode}))

    async def set_drains(self, node_ids: Iterable[str]) -> None:
        """Remember which nodes an operator asked to go."""
        names = sorted(node_ids)
        text = f"asked to drain: {', '.join(names) or 'none'}"
        await self._set({"drains": names}, Event("drains", text, {"nodes": names}))

    async def set_target(self, prompt: int, decoder: int, why: str) -> None:
        """Remember the standing target."""
        text = f"target {prompt}P:{decoder}D{f' ({why})' if why else ''}"
        data: dict[str, object] = {"prompt": prompt, "decoder": decoder, "why": why}
        await self._set({"target": [prompt, decoder]}, Event("target", text, data))

    async def intend(
        self, actions: Sequence[Action], *, decoder_clusters: Mapping[str, Sequence[int]] = _NONE
    ) -> tuple[int, ...]:
        """Write actions ahead of doing them, all or none, and return an intent id for each."""
        now_unix_s, known = self._now_unix_s(), self._intended

        def work(connection: sqlite3.Connection) -> tuple[int, ...]:
            journal_rows.give_up(connection, known, now_unix_s=now_unix_s)
            return journal_rows.intend(connection, actions, decoder_clusters, now_unix_s=now_unix_s)

        intents = await self._run(work)
        self._intended = max(known, *intents, 0)
        return intents

    async def ended(self, intent_id: int, outcome: Outcome) -> None:
        """Write how an intended action ended."""
        now_unix_s = self._now_unix_s()
        await self._run(
            lambda connection: journal_rows.end(
                connection, intent_id, outcome, now_unix_s=now_unix_s
            ),
            is_durable=False,
        )

    async def remember_linked(self, prompt_incarnation: str, cluster_ids: Iterable[int]) -> None:
        """Keep decoder ids whose link to a prompt incarnation was found, not made."""
        found = [(prompt_incarnation, str(cluster_id)) for cluster_id in cluster_ids]
        await self._run(lambda connection: journal_rows.remember_linked(connection, found))

    async def forget_linked(self, prompt_incarnation: str, cluster_ids: Iterable[int]) -> None:
        """Drop decoder ids that a prompt incarnation no longer holds."""
        gone = [(prompt_incarnation, str(cluster_id)) for cluster_id in cluster_ids]
        await self._run(lambda connection: journal_rows.forget_linked(connection, gone))

    async def append(self, report: Report) -> None:
        """Keep a report and what is new in it, and drop what is too old or too much."""
        now_unix_s = self._now_unix_s()

        def work(connection: sqlite3.Connection) -> Told:
            events, told = events_of(report, self._told)
            at_unix_s = report.snapshot.now_unix_s
            body = zlib.compress(report_text(_trimmed(report)).encode(), level=1)
            journal_rows.keep(connection, report, body)
            journal_rows.tell(connection, events, at_unix_s=at_unix_s, cycle=report.cycle)
            journal_links.keep(connection, attempts_of(report))
            self._retention.prune(connection, now_unix_s=now_unix_s)
            return told

        self._told = await self._run(work, is_durable=False)
        await self._run(self._retention.give_back, is_durable=False, is_atomic=False)

    async def report_at(self, at_unix_s: float | None) -> Report | None:
        """Return the newest kept report that is not later than a moment; None is the newest.

        Of a large mesh it lists only the links that were not up. Raises PermanentError for one
        that this version cannot read.
        """
        until_unix_s = math.inf if at_unix_s is None else at_unix_s
        found = await self.reports(from_unix_s=-math.inf, until_unix_s=until_unix_s, limit=1)
        return found[0] if found else None

    async def kept_since(self) -> float | None:
        """Return the wall time of the oldest kept report, None where there is none."""
        return await self._run(journal_rows.kept_since, is_atomic=False)

    async def history(self, *, limit: int) -> list[dict[str, object]]:
        """Return the newest changes, newest first: `at_unix_s`, `kind`, `text` and the details."""
        return await self._run(
            lambda connection: journal_rows.history(connection, limit), is_atomic=False
        )

    async def link_events(
        self, decoder: str, prompt: str, *, limit: int
    ) -> list[dict[str, object]]:
        """Return the newest ends of link and unlink calls that touched a pair, newest first."""
        return await self._run(
            lambda connection: journal_links.newest(connection, decoder, prompt, limit),
            is_atomic=False,
        )

    async def reports(self, *, from_unix_s: float, until_unix_s: float, limit: int) -> list[Report]:
        """Return kept reports of a span of time, oldest first, the newest `limit` of them.

        Raises PermanentError for one that this version cannot read.
        """

        def work(connection: sqlite3.Connection) -> list[Report]:
            # In the worker: a large mesh's report takes a tenth of a second to rebuild.
            bodies = journal_rows.bodies(connection, from_unix_s, until_unix_s, limit)
            return [_unpacked(body) for body in bodies]

        return await self._run(work, is_atomic=False)

    async def _set(self, values: Mapping[str, Any], event: Event) -> None:
        now_unix_s = self._now_unix_s()

        def work(connection: sqlite3.Connection) -> None:
            if journal_rows.set_values(connection, values):
                journal_rows.tell(connection, [event], at_unix_s=now_unix_s)

        await self._run(work)

    async def _run(
        self,
        work: Callable[[sqlite3.Connection], T],
        *,
        is_durable: bool = True,
        is_atomic: bool = True,
    ) -> T:
        """Run one transaction in a worker; whatever goes wrong is a TransientError."""

        def call() -> T:
            self._is_running = True
            try:
                return _carried_out(self._connection, work, is_durable, is_atomic)
            finally:
                self._is_running = False

        try:
            async with self._turn:
                return await self._called(call)
        except TransientError:
            self._on_failure()
            raise

    async def _called(self, call: Callable[[], T]) -> T:
        if self._is_running:
            raise TransientError(f"journal {self._path}: an earlier call has not returned")
        try:
            # Shielded, and bounded by the deadline: whoever is cancelled meanwhile must not leave
            # a write behind that the closing would then find still running.
            with anyio.CancelScope(shield=True):
                result = await self._workers.run(call, deadline_s=self._deadline_s)
        except sqlite3.Error as error:
            raise TransientError(f"journal {self._path}: {error}") from error
        except OutcomeUnknownError as error:
            # If it is written after all: an intent that nobody acts on is given up with the next.
            raise TransientError(f"journal {self._path}: {error}") from error
        return result

    async def _close(self) -> None:
        """Say that the controller stopped, and close the file, unless a call in it hangs."""
        stop = Event("controller", "controller stopped")
        now_unix_s = self._now_unix_s()
        try:
            if self._has_begun:
                await self._run(
                    lambda connection: journal_rows.tell(connection, [stop], at_unix_s=now_unix_s)
                )
            if not self._is_running:
                await self._workers.run(self._connection.close, deadline_s=self._deadline_s)
        except (TransientError, OutcomeUnknownError, sqlite3.Error) as error:
            log.warning("the journal was not closed: %s", error)


def _opened(name: str, stack: AsyncExitStack, *, busy_timeout_s: float) -> sqlite3.Connection:
    """Take the journal's lock for as long as the stack lasts, and open it; blocking."""
    journal_schema.make_folder(name)
    stack.enter_context(locked(name))
    return journal_schema.opened(name, busy_timeout_s=busy_timeout_s)


def _carried_out(
    connection: sqlite3.Connection,
    work: Callable[[sqlite3.Connection], T],
    is_durable: bool,
    is_atomic: bool,
) -> T:
    connection.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
    if not is_atomic:
        return work(connection)
    with transaction(connection):
        return work(connection)


def _unpacked(body: bytes) -> Report:
    try:
        return report_from(zlib.decompress(body))
    except (zlib.error, ArithmeticError) as error:
        raise PermanentError(f"a kept report is damaged: {error}") from error


def _trimmed(report: Report) -> Report:
    if len(report.links) <= LINKS_KEPT_MAX:
        return report
    return replace(
        report, links=tuple(link for link in report.links if link.state is not LinkState.LINKED)
    )
