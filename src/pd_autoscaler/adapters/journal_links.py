"""The journal's rows of link calls: how each ended, found by pair; inside the caller's transaction.

A row says who called whom, not which of them is the decoder: a pair is found from either side.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import asdict

from pd_autoscaler.core.attempts import KEPT_MAX, Attempt


def keep(connection: sqlite3.Connection, attempts: Sequence[Attempt]) -> None:
    """Add these ends, and drop the oldest of a pair that has more than enough."""
    connection.executemany(
        "INSERT INTO link_ends (at_unix_s, node, peer, verb, outcome, code, why, took_s)"
        " VALUES (:at_unix_s, :node, :peer, :verb, :outcome, :code, :why, :took_s)",
        [asdict(attempt) for attempt in attempts],
    )
    touched = {(attempt.node, attempt.peer) for attempt in attempts}
    connection.executemany(
        "DELETE FROM link_ends WHERE node = ?1 AND peer = ?2 AND id <="
        " (SELECT id FROM link_ends WHERE node = ?1 AND peer = ?2"
        "  ORDER BY id DESC LIMIT 1 OFFSET ?3)",
        [(node, peer, KEPT_MAX) for node, peer in sorted(touched)],
    )


def newest(
    connection: sqlite3.Connection, decoder: str, prompt: str, limit: int
) -> list[dict[str, object]]:
    """Return the newest ends that touched a pair, newest first."""
    rows = connection.execute(
        "SELECT at_unix_s, node, peer, verb, outcome, code, why, took_s FROM link_ends"
        " WHERE (node = ?1 AND peer = ?2) OR (node = ?2 AND peer = ?1) ORDER BY id DESC LIMIT ?3",
        (decoder, prompt, limit),
    )
    names = [column[0] for column in rows.description]
    return [dict(zip(names, row, strict=True)) for row in rows]
