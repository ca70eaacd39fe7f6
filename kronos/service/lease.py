"""What may happen to a chunk and its job, as SQL inside a transaction of `jobs`.

In: a connection in a writing transaction. Out: changed rows. Standard library only.
"""

import sqlite3
from dataclasses import dataclass
from typing import Any

from kronos.errors import KitError

TRIES = 3
"""How often a chunk may end its worker before it is split, and a write may fail before the job does."""
BACKOFF_SECONDS = (1.0, 4.0, 16.0)
"""Wait before a chunk is tried again, by the number of tries that ended badly."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, created REAL NOT NULL, state TEXT NOT NULL, priority INTEGER NOT NULL,
    key TEXT UNIQUE, content TEXT NOT NULL, options TEXT NOT NULL, series INTEGER NOT NULL,
    name TEXT NOT NULL, version TEXT NOT NULL, digest TEXT NOT NULL,
    started REAL, finished REAL, done INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0, reason TEXT);
CREATE TABLE IF NOT EXISTS chunks (
    job TEXT NOT NULL, number INTEGER NOT NULL,
    first INTEGER NOT NULL, stop INTEGER NOT NULL, offset INTEGER NOT NULL, skip INTEGER NOT NULL,
    state TEXT NOT NULL, priority INTEGER NOT NULL, due REAL NOT NULL, created REAL NOT NULL,
    token INTEGER NOT NULL DEFAULT 0, worker TEXT, lease REAL, ended_badly INTEGER NOT NULL DEFAULT 0,
    claimed REAL, finished REAL, reason TEXT, PRIMARY KEY (job, number));
CREATE INDEX IF NOT EXISTS waiting ON chunks (state, priority, created, job, first);
CREATE TABLE IF NOT EXISTS workers (
    id TEXT PRIMARY KEY, device TEXT NOT NULL, started REAL NOT NULL, seen REAL NOT NULL);
"""
"""States of a chunk: queued, leased, done, failed (its one series ends every worker), cancelled."""


@dataclass(frozen=True)
class Chunk:
    """Some neighbouring series of a job, lent to one worker."""

    job: str
    number: int
    first: int
    """Position of the first series in the job."""
    stop: int
    offset: int
    """Byte of the job's input at which `skip` lines and then the chunk's series follow."""
    skip: int
    token: int
    """Rises with every claim: an older one may not write."""
    options: dict[str, Any]
    name: str
    version: str
    digest: str

    def __len__(self) -> int:
        return self.stop - self.first


class LeaseLost(KitError):
    """Another worker has the chunk, or nobody needs it any more: nothing of it may be written."""


def held(connection: sqlite3.Connection, job: str, number: int, token: int) -> sqlite3.Row:
    """The chunk's row, which the holder of `token` has. Raises LeaseLost."""
    row = connection.execute("SELECT * FROM chunks WHERE job = ? AND number = ?", (job, number)).fetchone()
    if row is None or row["state"] != "leased" or row["token"] != token:
        raise LeaseLost(
            f"{job}, chunk {number}: expected the lease {token}, found that it is lost; nothing is written"
        )
    return row


def requeue(connection: sqlite3.Connection, row: sqlite3.Row, tries: int, reason: str, now: float) -> None:
    """Put a chunk back into the queue after a try that ended badly, with a wait that grows."""
    wait = BACKOFF_SECONDS[min(tries, len(BACKOFF_SECONDS)) - 1]
    connection.execute(
        "UPDATE chunks SET state = 'queued', due = ?, ended_badly = ?, reason = ?, lease = NULL WHERE job = ? AND number = ?",
        (now + wait, tries, reason, row["job"], row["number"]),
    )


def ended_badly(connection: sqlite3.Connection, row: sqlite3.Row, reason: str, now: float) -> str:
    """A try ended badly: queue the chunk again; the third time split it, or let its one series fail.

    Returns what was done: queued, split or failed.
    """
    tries = row["ended_badly"] + 1
    if tries < TRIES:
        requeue(connection, row, tries, reason, now)
        return "queued"
    if row["stop"] - row["first"] > 1:
        split(connection, row, reason, now)
        return "split"
    connection.execute(
        "UPDATE chunks SET reason = ? WHERE job = ? AND number = ?",
        (f"tried {tries} times, each time: {reason}", row["job"], row["number"]),
    )
    close(connection, row["job"], row["number"], "failed", 1, 1, now)
    return "failed"


def split(connection: sqlite3.Connection, row: sqlite3.Row, reason: str, now: float) -> None:
    """Put two halves in the place of a chunk. The first keeps its number and token, so an old holder stays out."""
    half = (row["stop"] - row["first"]) // 2
    highest = connection.execute("SELECT max(number) FROM chunks WHERE job = ?", (row["job"],)).fetchone()[0]
    connection.execute(
        "UPDATE chunks SET state = 'queued', stop = ?, due = ?, ended_badly = 0, reason = ?, lease = NULL "
        "WHERE job = ? AND number = ?",
        (row["first"] + half, now, reason, row["job"], row["number"]),
    )
    place = (row["job"], highest + 1, row["first"] + half, row["stop"])
    connection.execute(
        "INSERT INTO chunks (job, number, first, stop, offset, skip, state, priority, due, created, token, reason) "
        "VALUES (?, ?, ?, ?, ?, ?, 'queued', ?, ?, ?, ?, ?)",
        (*place, row["offset"], row["skip"] + half, row["priority"], now, row["created"], 0, reason),
    )


def close(
    connection: sqlite3.Connection, job: str, number: int, state: str, failed: int, series: int, now: float
) -> None:
    """Say that a chunk is done or failed, count its series, and end the job with its last chunk."""
    connection.execute(
        "UPDATE chunks SET state = ?, finished = ?, lease = NULL WHERE job = ? AND number = ?",
        (state, now, job, number),
    )
    connection.execute(
        "UPDATE jobs SET done = done + ?, failed = failed + ? WHERE id = ?", (series - failed, failed, job)
    )
    left = connection.execute(
        "SELECT count(*) FROM chunks WHERE job = ? AND state IN ('queued', 'leased')", (job,)
    ).fetchone()[0]
    if left:
        return
    row = connection.execute("SELECT * FROM jobs WHERE id = ?", (job,)).fetchone()
    if row["done"] > 0:
        end(connection, job, "done", None, now)
    else:
        end(connection, job, "failed", f"none of {row['series']} series could be forecast", now)


def end(connection: sqlite3.Connection, job: str, state: str, reason: str | None, now: float) -> None:
    """End a job that has not ended; chunks that are not done are left out."""
    changed = connection.execute(
        "UPDATE jobs SET state = ?, finished = ?, reason = ? WHERE id = ? AND state IN ('queued', 'running')",
        (state, now, reason, job),
    )
    if changed.rowcount:
        connection.execute(
            "UPDATE chunks SET state = 'cancelled', lease = NULL WHERE job = ? AND state IN ('queued', 'leased')",
            (job,),
        )


def seen(connection: sqlite3.Connection, worker: str, device: str, now: float) -> None:
    """Note that a worker is there."""
    connection.execute(
        "INSERT INTO workers VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET seen = excluded.seen",
        (worker, device, now, now),
    )
