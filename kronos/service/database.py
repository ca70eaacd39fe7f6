"""The SQLite file of a state folder: one connection a thread, short writing transactions, a full disk said as
one.

In: the state folder (a local disk: SQLite's locks do not hold on NFS). Out: connections and transactions.
Standard library only. Several processes use one folder at the same time.
"""

import contextlib
import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from kronos.cli import FULL
from kronos.errors import KitError

DATABASE = "state.sqlite"
KEPT_FREE = 8 * 2**20
"""Bytes of the disk that are left to the table: files of jobs do not take them, so that the reason of a failure
can still be written down."""
LOG_PAGES = 64
"""Pages of SQLite's log before it starts anew: a small log needs little new space on a full disk."""
BUSY_SECONDS = 60.0
"""How long a transaction waits for another process's."""


class DiskFull(KitError):
    """The state folder's disk takes no more. Nothing of what was asked for was written."""


class Database:
    """One state folder's tables. Each thread has a connection of its own."""

    def __init__(self, folder: str | Path, schema: str) -> None:
        """schema: SQL that makes tables that are not there. Makes the folder (mode 700). Raises DiskFull."""
        self.folder = Path(folder)
        self._local = threading.local()
        with full_disk_said(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.connection().executescript(schema)
            (self.folder / DATABASE).chmod(0o600)

    def connection(self) -> sqlite3.Connection:
        """This thread's connection, in autocommit mode."""
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = sqlite3.connect(
                self.folder / DATABASE, timeout=BUSY_SECONDS, isolation_level=None, cached_statements=64
            )
            found.row_factory = sqlite3.Row
            found.execute("PRAGMA journal_mode=WAL")
            found.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
            found.execute("PRAGMA synchronous=FULL")  # a 202 survives a power cut, too
            self._local.connection = found
        return found

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that no other process writes beside. Leaves nothing behind when its block raises.
        Raises DiskFull."""
        connection = self.connection()
        with full_disk_said(self.folder):
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close this thread's connection."""
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is not None:
            found.close()
            self._local.connection = None


@contextlib.contextmanager
def full_disk_said(folder: Path) -> Iterator[None]:
    """Raise DiskFull in place of the errors with which Python and SQLite say that a disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise _full(folder, FULL[error.errno]) from error
    except sqlite3.Error as error:
        # SQLite says FULL for no space, and a failed write for a file that may not grow.
        if getattr(error, "sqlite_errorcode", None) not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE):
            raise
        raise _full(folder, FULL[errno.ENOSPC]) from error


def check_room(folder: Path) -> None:
    """Raise DiskFull where a file of a job would take what is left to the table."""
    state = os.statvfs(folder)
    if state.f_bavail * state.f_frsize < KEPT_FREE:
        raise _full(folder, f"less than {KEPT_FREE // 2**20} MB free")


def _full(folder: Path, reason: str) -> DiskFull:
    return DiskFull(f"{folder}: expected room to write, found {reason}; free some space, then submit again")
