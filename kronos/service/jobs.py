"""Jobs, cut into chunks, in one SQLite table that is the only truth about them.

In: series and options of a forecast (JSON). Out: chunks for workers, which hold a lease while they compute,
and one result file a chunk. Standard library only.

A worker may be killed at any time. Its lease runs out, the chunk goes back into the queue, and the next claim
has a higher token. Only the holder of the newest token may write: the result file takes its name inside the
transaction that says `done`. So no answer is lost, and none is there twice.

A chunk that ended its worker (or raised an unknown error) three times is split in halves, down to the series
that does it; that series fails, the others go on.
"""

import json
import logging
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from kronos.errors import KitError
from kronos.service import jobfiles, jobview, lease
from kronos.service.database import Database, DiskFull, check_room, full_disk_said
from kronos.service.jobview import PRIORITIES, JobState, Priority
from kronos.service.lease import TRIES, Chunk

log = logging.getLogger(__name__)

LEASE_SECONDS = 30.0
KEPT_JOBS = 1000
"""Finished jobs that are kept; a new job takes the place of the oldest of them."""
SEEN_SECONDS = 5.0
"""How often a worker that finds no work says that it is there."""


class Unknown(KitError):
    """There is no job of that id."""


class Conflict(KitError):
    """The key belongs to other content, or the job is in another state than asked for."""


class Jobs:
    """The jobs of one state folder. Every process and thread may have its own; all see the same."""

    def __init__(
        self, folder: str | Path, lease_seconds: float = LEASE_SECONDS, clock: Callable[[], float] = time.time
    ) -> None:
        """lease_seconds: how long that a chunk is lent for, without a sign of life. Raises DiskFull."""
        self.folder, self.lease, self.clock = Path(folder), lease_seconds, clock
        self.database = Database(folder, lease.SCHEMA)

    # -- submitting ------------------------------------------------------------------------------------------
    def submit(
        self,
        series: Iterable[dict[str, Any]],
        options: dict[str, Any],
        *,
        model: tuple[str, str, str],
        size: int,
        priority: Priority = "normal",
        key: str | None = None,
    ) -> str:
        """Write a job down and return its id. After the return it is there, whatever is killed.

        series: columns of each series, as in a request; options: everything else of the request. model: name,
        version and digest of the package that answers. size: series of a chunk. key: the same key and content
        give the id of the first time. Raises Conflict when the key came with other content, DiskFull with
        nothing written, KitError without series.
        """
        created = self.clock()
        name = f"job_{int(created * 1000):012x}{secrets.token_hex(5)}"
        folder = self._folder(name)
        try:
            with full_disk_said(self.folder):
                check_room(self.folder)
                folder.mkdir(mode=0o700, parents=True)
                about = {"options": options, "priority": priority, "model": model[0]}
                starts, content = jobfiles.write_input(folder / jobfiles.INPUT, series, about)
            with self.database.writing() as connection:
                known = self._of_key(connection, key, content)
                if known is not None:
                    shutil.rmtree(folder)
                    return known
                row = (name, created, "queued", PRIORITIES.index(priority), key, content)
                connection.execute(
                    "INSERT INTO jobs (id, created, state, priority, key, content, options, series, name, version, digest) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (*row, json.dumps(options, sort_keys=True), len(starts), *model),
                )
                connection.executemany(
                    "INSERT INTO chunks (job, number, first, stop, offset, skip, state, priority, due, created) "
                    "VALUES (?, ?, ?, ?, ?, 0, 'queued', ?, ?, ?)",
                    _cut(name, starts, size, PRIORITIES.index(priority), created),
                )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._forget_oldest()
        return name

    def _of_key(self, connection: sqlite3.Connection, key: str | None, content: str) -> str | None:
        """The job that this key already stands for."""
        if key is None:
            return None
        row = connection.execute("SELECT id, content FROM jobs WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        if row["content"] != content:
            raise Conflict(
                f"Idempotency-Key: expected the content that {key!r} came with first ({row['id']}), found other content; "
                "use a new key"
            )
        return str(row["id"])

    def _forget_oldest(self) -> None:
        """Remove finished jobs beyond KEPT_JOBS, oldest first, and say so."""
        over = self.database.connection().execute(
            "SELECT id FROM jobs WHERE state IN ('done', 'failed', 'cancelled') "
            "ORDER BY created DESC LIMIT -1 OFFSET ?",
            (KEPT_JOBS,),
        )
        for name in [row["id"] for row in over]:
            with self.database.writing() as connection:
                connection.execute("DELETE FROM chunks WHERE job = ?", (name,))
                connection.execute("DELETE FROM jobs WHERE id = ?", (name,))
            shutil.rmtree(self._folder(name), ignore_errors=True)
            log.info("%s is removed: more than %d finished jobs are kept", name, KEPT_JOBS)

    # -- what workers do -------------------------------------------------------------------------------------
    def claim(self, worker: str, device: str = "cpu") -> Chunk | None:
        """Lend the next chunk that is due, highest priority and then oldest first; None where none is.

        Before that, chunks whose lease has run out go back into the queue.
        """
        now = self.clock()
        if not self._anything_due(now):
            self._say_seen(worker, device, now)
            return None
        with self.database.writing() as connection:
            lease.seen(connection, worker, device, now)
            self._take_back(connection, now)
            row = connection.execute(
                "UPDATE chunks SET state = 'leased', token = token + 1, worker = ?, lease = ?, claimed = ? WHERE rowid = ("
                "SELECT rowid FROM chunks WHERE state = 'queued' AND due <= ? ORDER BY priority, created, job, first LIMIT 1) "
                "RETURNING *",
                (worker, now + self.lease, now, now),
            ).fetchone()
            if row is None:
                return None
            job = connection.execute(
                "UPDATE jobs SET state = 'running', started = coalesce(started, ?), attempts = attempts + 1 WHERE id = ? "
                "RETURNING *",
                (now, row["job"]),
            ).fetchone()
        place = {name: row[name] for name in ("job", "number", "first", "stop", "offset", "skip", "token")}
        model = {name: job[name] for name in ("name", "version", "digest")}
        return Chunk(**place, **model, options=json.loads(job["options"]))

    def beat(self, chunk: Chunk) -> None:
        """Prolong the lease. Raises LeaseLost."""
        now = self.clock()
        with self.database.writing() as connection:
            row = self._held(connection, chunk)
            connection.execute(
                "UPDATE chunks SET lease = ? WHERE job = ? AND number = ?",
                (now + self.lease, chunk.job, chunk.number),
            )
            connection.execute("UPDATE workers SET seen = ? WHERE id = ?", (now, row["worker"]))

    def read(self, chunk: Chunk) -> list[dict[str, Any]]:
        """The chunk's series, as they were submitted."""
        path = self._folder(chunk.job) / jobfiles.INPUT
        return jobfiles.read_input(path, chunk.offset, chunk.skip, len(chunk))

    def finish(
        self,
        chunk: Chunk,
        answers: Sequence[dict[str, Any]],
        also: Callable[[sqlite3.Connection], None] | None = None,
    ) -> None:
        """Write what became of each series of the chunk, and that it is done.

        answers: one tree a series, with the key `failed` where it has no forecast. also: further writing that
        belongs into the same transaction. Raises LeaseLost, with nothing written, and DiskFull.
        """
        assert len(answers) == len(chunk), "an answer for every series"
        target, temporary = jobfiles.result_of(self._folder(chunk.job), chunk.number), None
        failed = sum("failed" in answer for answer in answers)
        try:
            with full_disk_said(self.folder):
                check_room(self.folder)
                target.parent.mkdir(mode=0o700, exist_ok=True)
                temporary = jobfiles.write_temporary(target.parent, answers)
            with self.database.writing() as connection:
                self._held(connection, chunk)
                temporary.replace(target)
                jobfiles.flush_folder(target.parent)
                if also is not None:
                    also(connection)
                lease.close(connection, chunk.job, chunk.number, "done", failed, len(chunk), self.clock())
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)

    def release(self, chunk: Chunk) -> None:
        """Give a chunk back, undone and without blame: the worker was asked to end."""
        with self.database.writing() as connection:
            self._held(connection, chunk)
            connection.execute(
                "UPDATE chunks SET state = 'queued', lease = NULL WHERE job = ? AND number = ?",
                (chunk.job, chunk.number),
            )

    def fail(self, chunk: Chunk, reason: str) -> None:
        """Say that a try ended badly: try again later, split, or let the one series fail. Raises LeaseLost."""
        with self.database.writing() as connection:
            self._ended_badly(connection, self._held(connection, chunk), reason)

    def fail_job(self, name: str, reason: str) -> None:
        """End a job that cannot go on, with the reason. Chunks that are done stay done."""
        with self.database.writing() as connection:
            lease.end(connection, name, "failed", reason, self.clock())

    def no_room(self, chunk: Chunk, error: DiskFull) -> None:
        """A result could not be written: try again later, and fail the job the third time. Raises LeaseLost,
        and DiskFull where even this cannot be written: the lease runs out then."""
        now = self.clock()
        with self.database.writing() as connection:
            row = self._held(connection, chunk)
            tries = row["ended_badly"] + 1
            if tries >= TRIES:
                lease.end(connection, chunk.job, "failed", str(error), now)
            else:
                lease.requeue(connection, row, tries, str(error), now)

    # -- what people do --------------------------------------------------------------------------------------
    def find(self, name: str) -> dict[str, Any]:
        """What is known of a job (see `jobview.shown`). Raises Unknown."""
        row = self.database.connection().execute("SELECT * FROM jobs WHERE id = ?", (name,)).fetchone()
        if row is None:
            raise Unknown(f"jobs: expected the id of a job, found {name!r}; GET /v1/jobs lists them")
        return jobview.shown(row, self.clock())

    def all(self, state: str | None = None, most: int = 200) -> list[dict[str, Any]]:
        """The newest jobs, of one state or of all."""
        rows = self.database.connection().execute(
            "SELECT * FROM jobs WHERE state = ? OR ? IS NULL ORDER BY created DESC, id DESC LIMIT ?",
            (state, state, most),
        )
        return [jobview.shown(row, self.clock()) for row in rows]

    def cancel(self, name: str) -> dict[str, Any]:
        """Let no further chunk of a job start; what a worker has under way is thrown away. A job that has
        ended stays as it is. Raises Unknown."""
        self.find(name)
        with self.database.writing() as connection:
            lease.end(connection, name, "cancelled", None, self.clock())
        return self.find(name)

    def resume(self, name: str) -> dict[str, Any]:
        """Queue what a cancelled or failed job left undone; what is done is kept. Raises Unknown, and
        Conflict where the job is not cancelled or failed."""
        if self.find(name)["state"] not in ("cancelled", "failed"):
            raise Conflict(
                f"{name}: expected a job that is cancelled or failed, found {self.find(name)['state']}"
            )
        with self.database.writing() as connection:
            left = connection.execute(
                "UPDATE chunks SET state = 'queued', due = ?, ended_badly = 0, reason = NULL "
                "WHERE job = ? AND state = 'cancelled'",
                (self.clock(), name),
            )
            if left.rowcount == 0:
                raise Conflict(f"{name}: expected something left to compute, found nothing; submit a new job")
            connection.execute(
                "UPDATE jobs SET state = 'queued', reason = NULL, finished = NULL WHERE id = ?", (name,)
            )
        return self.find(name)

    def answers(self, name: str) -> Iterator[dict[str, Any]]:
        """What became of each series of a job that is done, in the order they came. Raises Unknown, Conflict."""
        self.require_done(name)
        folder = self._folder(name)
        rows = self.database.connection().execute(
            "SELECT * FROM chunks WHERE job = ? AND state IN ('done', 'failed') ORDER BY first", (name,)
        )
        for row in rows.fetchall():
            if row["state"] == "done":
                yield from jobfiles.lines_of(jobfiles.result_of(folder, row["number"]))
                continue
            (series,) = jobfiles.read_input(folder / jobfiles.INPUT, row["offset"], row["skip"], 1)
            yield {"series_id": series["series_id"], "failed": row["reason"]}

    def require_done(self, name: str) -> None:
        """Raise Unknown, or Conflict where the job is not done."""
        state = self.find(name)["state"]
        if state != "done":
            raise Conflict(f"{name}: expected a job that is done, found {state}; ask again later")

    def model_of(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Which model answers a job (name, version, digest), and the job's options. Raises Unknown."""
        self.find(name)
        row = self.database.connection().execute("SELECT * FROM jobs WHERE id = ?", (name,)).fetchone()
        return {key: row[key] for key in ("name", "version", "digest")}, json.loads(row["options"])

    # -- what the service watches ----------------------------------------------------------------------------
    def counts(self) -> dict[str, int]:
        """Jobs by state."""
        rows = self.database.connection().execute("SELECT state, count(*) AS n FROM jobs GROUP BY state")
        return dict.fromkeys(get_args(JobState), 0) | {row["state"]: row["n"] for row in rows}

    def idle(self) -> bool:
        """Whether no chunk is waiting or lent."""
        row = self.database.connection().execute(
            "SELECT NOT EXISTS (SELECT 1 FROM chunks WHERE state IN ('queued', 'leased'))"
        )
        return bool(row.fetchone()[0])

    def retries(self) -> int:
        """Claims beyond the first of each chunk."""
        row = self.database.connection().execute(
            "SELECT coalesce(sum(max(token - 1, 0)), 0) AS n FROM chunks"
        )
        return int(row.fetchone()["n"])

    def workers(self, within: float = 600.0) -> list[dict[str, Any]]:
        """Workers that were seen in the last `within` seconds: id, device, seconds since each was seen."""
        now = self.clock()
        rows = self.database.connection().execute("SELECT * FROM workers WHERE seen > ?", (now - within,))
        return [
            {"id": row["id"], "device": row["device"], "silent_s": round(now - row["seen"], 1)}
            for row in rows
        ]

    def sweep(self, older: float = 3600.0) -> int:
        """Remove folders of jobs that were never finished being written (their writer was killed). Returns how
        many."""
        known = {row["id"] for row in self.database.connection().execute("SELECT id FROM jobs")}
        orphans = 0
        for folder in (self.folder / "jobs").glob("job_*"):
            if folder.name not in known and folder.stat().st_mtime < time.time() - older:
                shutil.rmtree(folder, ignore_errors=True)
                orphans += 1
        return orphans

    # -- inside ----------------------------------------------------------------------------------------------
    def _folder(self, name: str) -> Path:
        return self.folder / "jobs" / name

    def _held(self, connection: sqlite3.Connection, chunk: Chunk) -> sqlite3.Row:
        return lease.held(connection, chunk.job, chunk.number, chunk.token)

    def _ended_badly(self, connection: sqlite3.Connection, row: sqlite3.Row, reason: str) -> None:
        done = lease.ended_badly(connection, row, reason, self.clock())
        log.warning("%s, chunk %d: %s; it is %s", row["job"], row["number"], reason, done)

    def _take_back(self, connection: sqlite3.Connection, now: float) -> None:
        """Put chunks whose lease has run out back into the queue."""
        lost = connection.execute("SELECT * FROM chunks WHERE state = 'leased' AND lease < ?", (now,))
        for row in lost.fetchall():
            self._ended_badly(connection, row, f"worker {row['worker']} went silent")

    def _anything_due(self, now: float) -> bool:
        """Whether a claim would find something. Only reads: many workers ask often."""
        row = self.database.connection().execute(
            "SELECT EXISTS (SELECT 1 FROM chunks WHERE state = 'queued' AND due <= ?) "
            "OR EXISTS (SELECT 1 FROM chunks WHERE state = 'leased' AND lease < ?)",
            (now, now),
        )
        return bool(row.fetchone()[0])

    def _say_seen(self, worker: str, device: str, now: float) -> None:
        """Note that a worker without work is there, not more often than needed."""
        row = (
            self.database.connection().execute("SELECT seen FROM workers WHERE id = ?", (worker,)).fetchone()
        )
        if row is None or row["seen"] < now - SEEN_SECONDS:
            with self.database.writing() as connection:
                lease.seen(connection, worker, device, now)


def _cut(
    job: str, starts: Sequence[int], size: int, priority: int, created: float
) -> Iterator[tuple[Any, ...]]:
    """Rows of the chunks of a new job, `size` series each but for the last."""
    for number, first in enumerate(range(0, len(starts), size)):
        stop = min(first + size, len(starts))
        yield job, number, first, stop, starts[first], priority, created, created
