"""The journal's file: how it is opened, checked, brought to the newest schema, and refused."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pd_autoscaler.errors import ConfigError, PdAutoscalerError, TransientError

APPLICATION_ID = 0x70644153
"""Marks a SQLite file as this program's ("pdAS")."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        # One row per cycle; `body` is the report as zlib-compressed JSON.
        (
            "CREATE TABLE reports (cycle INTEGER PRIMARY KEY, at_unix_s REAL NOT NULL,"
            " body BLOB NOT NULL)"
        ),
        "CREATE INDEX reports_by_time ON reports (at_unix_s)",
        (
            "CREATE TABLE intents (id INTEGER PRIMARY KEY AUTOINCREMENT, at_unix_s REAL NOT NULL,"
            " action TEXT NOT NULL, verb TEXT NOT NULL, thing TEXT NOT NULL, ended_unix_s REAL,"
            " outcome TEXT, detail TEXT NOT NULL DEFAULT '')"
        ),
        "CREATE INDEX intents_open ON intents (id) WHERE ended_unix_s IS NULL",
        # Cluster ids are uint64, which SQLite's integers are not.
        (
            "CREATE TABLE linked (prompt_incarnation TEXT NOT NULL, cluster_id TEXT NOT NULL,"
            " PRIMARY KEY (prompt_incarnation, cluster_id)) WITHOUT ROWID"
        ),
        (
            "CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, at_unix_s REAL NOT NULL,"
            " cycle INTEGER, kind TEXT NOT NULL, text TEXT NOT NULL, data TEXT NOT NULL)"
        ),
    ),
    (
        # How each link or unlink call ended, a row for each pair it touched.
        (
            "CREATE TABLE link_ends (id INTEGER PRIMARY KEY AUTOINCREMENT, at_unix_s REAL NOT NULL,"
            " node TEXT NOT NULL, peer TEXT NOT NULL, verb TEXT NOT NULL, outcome TEXT NOT NULL,"
            " code TEXT NOT NULL, why TEXT NOT NULL, took_s REAL NOT NULL)"
        ),
        # The row id is part of every index: newest first needs no sorting.
        "CREATE INDEX link_ends_by_pair ON link_ends (node, peer)",
    ),
)
"""What leads from each schema version to the next; `user_version` counts those done."""

_CORRUPT = frozenset({"SQLITE_NOTADB", "SQLITE_CORRUPT"})
_NOT_USABLE = frozenset({"SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH"})


def make_folder(path: str) -> None:
    """Make the folder a journal goes to; raises ConfigError where that cannot be."""
    if path == ":memory:":
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refusal(path, error) from error


def opened(path: str, *, busy_timeout_s: float) -> sqlite3.Connection:
    """Return a connection to a sound journal of the newest schema; blocking.

    Raises ConfigError for a file that is corrupt, not a journal, from a later version or not
    writable, TransientError for one that is locked or on a full disk.
    """
    try:
        connection = sqlite3.connect(
            path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise _refusal(path, error) from error
    try:
        _check(connection, path)
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise _refusal(path, error) from error
    except ConfigError:
        connection.close()
        raise
    return connection


def _refusal(path: str, error: Exception) -> PdAutoscalerError:
    """Tell what a person must do from what may pass by itself."""
    name = str(getattr(error, "sqlite_errorname", ""))
    primary = "_".join(name.split("_")[:2])
    if primary in _CORRUPT:
        return ConfigError(
            f"journal {path} is corrupt or no journal ({error}); move it away, a new one is begun"
        )
    if isinstance(error, OSError) or primary in _NOT_USABLE:
        return ConfigError(f"journal {path} cannot be opened for writing: {error}")
    return TransientError(f"journal {path}: {error}")


def _check(connection: sqlite3.Connection, path: str) -> None:
    version = _number(connection, "user_version")
    owner = _number(connection, "application_id")
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if tables and owner != APPLICATION_ID:
        raise ConfigError(
            f"journal {path} is a database of another program; give journal.path another value"
        )
    if version > len(MIGRATIONS):
        raise ConfigError(
            f"journal {path} has schema version {version}, this program knows "
            f"{len(MIGRATIONS)}; run the newer program, or move the file away"
        )
    for (problem,) in connection.execute("PRAGMA quick_check(1)"):
        if problem != "ok":
            raise ConfigError(
                f"journal {path} is corrupt or no journal ({' '.join(problem.split())}); move it "
                "away, a new one is begun"
            )


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    """Set what must be set before the first table, then migrate in one transaction."""
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    if path != ":memory:":
        connection.execute("PRAGMA journal_mode = WAL")
    done = _number(connection, "user_version")
    if done == len(MIGRATIONS):
        return
    with transaction(connection):
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        for statements in MIGRATIONS[done:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of the statements inside, or none of them."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite has rolled back by itself after some errors, such as a full disk.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
