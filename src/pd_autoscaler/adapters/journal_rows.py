"""The journal's rows: every statement, each function inside the caller's transaction; blocking."""

import json
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pd_autoscaler.adapters.journal_events import Event
from pd_autoscaler.model.codec import action_from, action_text
from pd_autoscaler.model.node import OUTWARD, Role
from pd_autoscaler.model.plan import Action, DrainNode, LinkNodes, StartNode
from pd_autoscaler.model.report import Outcome, Report
from pd_autoscaler.model.wording import VERBS, ending, sentence, thing
from pd_autoscaler.ports import Remembered

PRUNED_MAX = 50
"""Most rows of a table dropped at once, so that no cycle waits for a long clean-up."""

VACUUMED_PAGES_MAX = 256


def values(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return everything remembered by key."""
    rows = connection.execute("SELECT key, value FROM meta")
    return {key: json.loads(value) for key, value in rows}


def set_values(connection: sqlite3.Connection, changes: Mapping[str, Any]) -> bool:
    """Remember values by key; return whether any is new."""
    known = values(connection)
    connection.executemany(
        "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)",
        [(key, json.dumps(value)) for key, value in changes.items()],
    )
    return any(known.get(key) != value for key, value in changes.items())


def remembered(connection: sqlite3.Connection, *, now_unix_s: float) -> Remembered:
    """Return what a starting controller needs, and end the open intents as unknown."""
    known = values(connection)
    target = known.get("target")
    intents = _open_intents(connection, now_unix_s)
    drains = _drains(connection, known)
    draining = {*known.get("draining", ()), *(drain.node_id for drain in drains)}
    # A drain that is younger than the report knows better which role comes next, if any.
    switching = known.get("switching", {}) | {d.node_id: d.next_role for d in drains}
    pending = {**known.get("pending", {}), **_starts(connection, known)}
    connection.execute(
        "UPDATE intents SET ended_unix_s = ?, outcome = 'unknown', detail = 'controller restarted'"
        " WHERE ended_unix_s IS NULL",
        (now_unix_s,),
    )
    return Remembered(
        epoch=known.get("epoch", 0),
        cycle=known.get("cycle", 0),
        target=None if target is None else (target[0], target[1]),
        mode=known.get("mode", "active"),
        request_count=known.get("request_count", 0),
        linked=_linked(connection),
        nodes=frozenset(known.get("nodes", ())),
        draining=frozenset(draining),
        switching={node_id: Role(role) for node_id, role in switching.items() if role},
        drains=frozenset(known.get("drains", ())),
        pending={request_id: Role(role) for request_id, role in pending.items()},
        open_intents=intents,
    )


def _open_intents(connection: sqlite3.Connection, now_unix_s: float) -> tuple[str, ...]:
    rows = connection.execute(
        "SELECT id, at_unix_s, action FROM intents WHERE ended_unix_s IS NULL ORDER BY id"
    )
    return tuple(
        f"{sentence(action_from(text))} (intent {number}, {max(0.0, now_unix_s - at):.0f} s ago)"
        for number, at, text in rows
    )


def _drains(connection: sqlite3.Connection, known: Mapping[str, Any]) -> list[DrainNode]:
    """Return the drains that are open, or too young for the last report to show them."""
    return [a for a in _young(connection, known, "drain") if isinstance(a, DrainNode)]


def _starts(connection: sqlite3.Connection, known: Mapping[str, Any]) -> dict[str, str]:
    """Return the roles of start requests that are open, or too young for the last report."""
    actions = _young(connection, known, "start")
    return {a.request_id: a.role.value for a in actions if isinstance(a, StartNode)}


def _young(connection: sqlite3.Connection, known: Mapping[str, Any], verb: str) -> list[Action]:
    rows = connection.execute(
        "SELECT action FROM intents WHERE verb = ?"
        " AND (ended_unix_s IS NULL OR (id > ? AND outcome <> 'failed')) ORDER BY id",
        (verb, known.get("intents_before", 0)),
    )
    return [action_from(text) for (text,) in rows]


def _linked(connection: sqlite3.Connection) -> dict[str, frozenset[int]]:
    linked: dict[str, set[int]] = {}
    for incarnation, cluster_id in connection.execute(
        "SELECT prompt_incarnation, cluster_id FROM linked"
    ):
        linked.setdefault(incarnation, set()).add(int(cluster_id))
    return {incarnation: frozenset(ids) for incarnation, ids in sorted(linked.items())}


def intend(
    connection: sqlite3.Connection,
    actions: Sequence[Action],
    decoder_clusters: Mapping[str, Sequence[int]],
    *,
    now_unix_s: float,
) -> tuple[int, ...]:
    """Write actions ahead, with the links and request numbers they imply."""
    ids = []
    for action in actions:
        cursor = connection.execute(
            "INSERT INTO intents (at_unix_s, action, verb, thing) VALUES (?, ?, ?, ?)",
            (now_unix_s, action_text(action), VERBS[type(action)], thing(action)),
        )
        ids.append(int(cursor.lastrowid or 0))
        if isinstance(action, LinkNodes):
            made = [
                (peer.incarnation, str(cluster_id))
                for peer in action.prompts
                for cluster_id in decoder_clusters.get(action.decoder_id, ())
            ]
            remember_linked(connection, made)
    count = max((_number(a.request_id) for a in actions if isinstance(a, StartNode)), default=0)
    if count > values(connection).get("request_count", 0):
        set_values(connection, {"request_count": count})
    return tuple(ids)


def give_up(connection: sqlite3.Connection, known: int, *, now_unix_s: float) -> None:
    """End the open intents after `known`: written past their deadline, nobody acted on them."""
    connection.execute(
        "UPDATE intents SET ended_unix_s = ?, outcome = 'failed', detail = 'written too late'"
        " WHERE ended_unix_s IS NULL AND id > ?",
        (now_unix_s, known),
    )


def _number(request_id: str) -> int:
    """Return the N of a request id `…-N`, 0 where there is none."""
    match = re.search(r"(\d+)$", request_id)
    return int(match.group(1)) if match else 0


def end(
    connection: sqlite3.Connection, intent_id: int, outcome: Outcome, *, now_unix_s: float
) -> None:
    """Write how an intended action ended."""
    connection.execute(
        "UPDATE intents SET ended_unix_s = ?, outcome = ?, detail = ? WHERE id = ?",
        (now_unix_s, type(outcome).__name__.lower(), ending(outcome), intent_id),
    )


def remember_linked(connection: sqlite3.Connection, linked: Iterable[tuple[str, str]]) -> None:
    """Keep (prompt incarnation, cluster id) pairs; one that is kept already stays."""
    connection.executemany(
        "INSERT OR IGNORE INTO linked (prompt_incarnation, cluster_id) VALUES (?, ?)", linked
    )


def forget_linked(connection: sqlite3.Connection, gone: Iterable[tuple[str, str]]) -> None:
    """Drop (prompt incarnation, cluster id) pairs."""
    connection.executemany(
        "DELETE FROM linked WHERE prompt_incarnation = ? AND cluster_id = ?", gone
    )


def keep(connection: sqlite3.Connection, report: Report, body: bytes) -> None:
    """Keep a report, and what a restart needs of it."""
    connection.execute(
        "INSERT OR REPLACE INTO reports (cycle, at_unix_s, body) VALUES (?, ?, ?)",
        (report.cycle, report.snapshot.now_unix_s, body),
    )
    newest = connection.execute("SELECT coalesce(max(id), 0) FROM intents").fetchone()[0]
    nodes = report.snapshot.nodes
    leaving = [node for node in nodes if node.state in OUTWARD]
    changes = {
        "cycle": report.cycle,
        "nodes": sorted(node.id for node in nodes),
        "pending": {n.id: n.role.value for n in nodes if n.id == n.request_id},
        "draining": sorted(node.id for node in leaving),
        "switching": {n.id: n.next_role.value for n in leaving if n.next_role is not None},
        # A drain begun in this very cycle is not yet in its nodes' states.
        "intents_before": values(connection).get("intents_now", 0),
        "intents_now": newest,
    }
    set_values(connection, changes)


def bodies(
    connection: sqlite3.Connection, from_unix_s: float, until_unix_s: float, limit: int
) -> list[bytes]:
    """Return the newest kept reports of a span, oldest first."""
    rows = connection.execute(
        "SELECT body FROM reports WHERE at_unix_s BETWEEN ? AND ?"
        " ORDER BY at_unix_s DESC, cycle DESC LIMIT ?",
        (from_unix_s, until_unix_s, limit),
    )
    return [body for (body,) in rows][::-1]


def kept_since(connection: sqlite3.Connection) -> float | None:
    """Return the wall time of the oldest kept report, None where there is none."""
    (oldest,) = connection.execute("SELECT min(at_unix_s) FROM reports").fetchone()
    return None if oldest is None else float(oldest)


def tell(
    connection: sqlite3.Connection,
    events: Iterable[Event],
    *,
    at_unix_s: float,
    cycle: int | None = None,
) -> None:
    """Add lines to the history."""
    connection.executemany(
        "INSERT INTO events (at_unix_s, cycle, kind, text, data) VALUES (?, ?, ?, ?, ?)",
        [(at_unix_s, cycle, e.kind, e.text, json.dumps(e.data)) for e in events],
    )


def history(connection: sqlite3.Connection, limit: int) -> list[dict[str, object]]:
    """Return the newest lines of history, newest first."""
    rows = connection.execute(
        "SELECT at_unix_s, cycle, kind, text, data FROM events ORDER BY id DESC LIMIT ?", (limit,)
    )
    entries = []
    for at_unix_s, cycle, kind, text, data in rows:
        entry: dict[str, object] = {"at_unix_s": at_unix_s, "kind": kind, "text": text}
        if cycle is not None:
            entry["cycle"] = cycle
        entries.append({**json.loads(data), **entry})
    return entries


@dataclass(frozen=True, slots=True)
class Retention:
    """How long and how much is kept; a little is dropped with every report."""

    keep_s: float
    size_max_bytes: int

    def prune(self, connection: sqlite3.Connection, *, now_unix_s: float) -> None:
        """Drop a few rows that are too old, and of those left the oldest while it is too much.

        The newest report and open intents are never dropped.
        """
        since = now_unix_s - self.keep_s
        _drop(connection, "reports", "cycle", f"at_unix_s < {since!r} AND {_NOT_NEWEST}")
        _drop(connection, "intents", "id", f"ended_unix_s < {since!r}")
        _drop(connection, "events", "id", f"at_unix_s < {since!r}")
        _drop(connection, "link_ends", "id", f"at_unix_s < {since!r}")
        if _used_bytes(connection) <= self.size_max_bytes:
            return
        if not _drop(connection, "reports", "cycle", _NOT_NEWEST):
            _drop(connection, "events", "id", "TRUE")
            _drop(connection, "link_ends", "id", "TRUE")
            _drop(connection, "intents", "id", "ended_unix_s IS NOT NULL")

    def give_back(self, connection: sqlite3.Connection) -> None:
        """Shrink the file by a few pages if much of it is free; outside of a transaction."""
        if _pragma(connection, "freelist_count") > VACUUMED_PAGES_MAX:
            connection.execute(f"PRAGMA incremental_vacuum({VACUUMED_PAGES_MAX})").fetchall()


_NOT_NEWEST = "cycle < (SELECT max(cycle) FROM reports)"


def _drop(connection: sqlite3.Connection, table: str, key: str, condition: str) -> int:
    """Delete the first rows of a table that meet a condition; return how many."""
    # Nothing here comes from outside: tables and conditions are written above.
    return connection.execute(
        f"DELETE FROM {table} WHERE {key} IN"  # noqa: S608  # see above
        f" (SELECT {key} FROM {table} WHERE {condition} ORDER BY {key} LIMIT {PRUNED_MAX})"
    ).rowcount


def _used_bytes(connection: sqlite3.Connection) -> int:
    used = _pragma(connection, "page_count") - _pragma(connection, "freelist_count")
    return used * _pragma(connection, "page_size")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
