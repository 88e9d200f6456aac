"""Reading a journal that may be another process's: nothing is locked, made or written.

Each query is short: a reader that stays inside one would keep a running daemon from giving back the
pages of its write-ahead log (sqlite.org/wal.html).
"""

import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pd_autoscaler.adapters.journal_schema import APPLICATION_ID, MIGRATIONS
from pd_autoscaler.errors import ConfigError, PermanentError, TransientError
from pd_autoscaler.model.codec import recorded_from
from pd_autoscaler.model.report import Recorded

BATCH = 200
"""Reports of one query."""

BUSY_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Kept:
    """How many reports a journal keeps, and from when to when (wall time)."""

    count: int
    from_unix_s: float
    until_unix_s: float


class JournalReader:
    """The reports of a journal's file; made by `open_journal`, blocking.

    A failure of the file is a TransientError.
    """

    def __init__(self, path: str, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    def kept(self, *, from_unix_s: float, until_unix_s: float) -> Kept | None:
        """Return what is kept of a span of time, None where there is nothing."""
        [(count, first, last)] = self._rows(
            "SELECT count(*), min(at_unix_s), max(at_unix_s) FROM reports"
            " WHERE at_unix_s BETWEEN ? AND ?",
            (from_unix_s, until_unix_s),
        )
        return Kept(count, first, last) if count else None

    def recorded(
        self, *, from_unix_s: float, until_unix_s: float
    ) -> Iterator[Recorded | PermanentError]:
        """Yield what was reported in a span of time, in the order of cycles.

        One that this version cannot read is its error. Reports that are added meanwhile are left
        out.
        """
        [(newest,)] = self._rows("SELECT coalesce(max(cycle), 0) FROM reports", ())
        cycle = -1
        while True:
            rows = self._rows(
                "SELECT cycle, body FROM reports WHERE cycle > ? AND cycle <= ?"
                " AND at_unix_s BETWEEN ? AND ? ORDER BY cycle LIMIT ?",
                (cycle, newest, from_unix_s, until_unix_s, BATCH),
            )
            for _, body in rows:
                yield _unpacked(body)
            if len(rows) < BATCH:
                return
            cycle = rows[-1][0]

    def _rows(self, query: str, values: tuple[float, ...]) -> list[tuple[Any, ...]]:
        with _told(self._path):
            return self._connection.execute(query, values).fetchall()


@contextmanager
def open_journal(path: Path) -> Iterator[JournalReader]:
    """Open a journal to read it.

    Raises ConfigError for a file that is missing, unreadable, no journal or of a later version.
    """
    if not path.is_file():
        raise ConfigError(f"there is no journal {path}; give the file that journal.path names")
    # Without a write-ahead log nobody has it open; to open it otherwise would make one.
    is_open = Path(f"{path}-wal").exists()
    mode = "mode=ro" if is_open else "mode=ro&immutable=1"
    with _told(str(path)):
        connection = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?{mode}",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
        )
    with closing(connection):
        _check(connection, str(path))
        yield JournalReader(str(path), connection)


def _check(connection: sqlite3.Connection, path: str) -> None:
    with _told(path):
        [(owner,)] = connection.execute("PRAGMA application_id").fetchall()
        [(version,)] = connection.execute("PRAGMA user_version").fetchall()
    if owner != APPLICATION_ID:
        raise ConfigError(f"{path} is a database, and no journal of pd-autoscaler")
    if version > len(MIGRATIONS):
        raise ConfigError(
            f"journal {path} has schema version {version}, this program knows {len(MIGRATIONS)}; "
            "read it with the newer program"
        )


@contextmanager
def _told(path: str) -> Iterator[None]:
    """Say in our own words what SQLite says of a file."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise TransientError(f"journal {path} cannot be read now: {error}") from error
    except sqlite3.DatabaseError as error:
        raise ConfigError(
            f"{path} is no journal, or a daemon began to write it meanwhile ({error}); "
            "if it is one, try again"
        ) from error


def _unpacked(body: object) -> Recorded | PermanentError:
    try:
        return recorded_from(zlib.decompress(body if isinstance(body, bytes) else b""))
    except (zlib.error, ArithmeticError) as error:
        return PermanentError(f"a kept report is damaged: {error}")
    except PermanentError as error:
        return error
