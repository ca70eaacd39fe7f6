"""Writing files so that a reader sees the old content or the new, never half of it.

In: a path and what to write. Out: the file, or an error and the old file untouched.
"""

import contextlib
import difflib
import fcntl
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and takes `path`'s place."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(lock: Path, busy: str) -> Iterator[int]:
    """Hold the only right that the file `lock` stands for, and yield its descriptor; says `busy` where it has
    to wait.

    The kernel drops the right with the process, so a killed holder blocks nobody, unless a child was given
    the descriptor: then it lasts as long as the child. Not reentrant.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    handle = _acquire(lock, busy)
    try:
        yield handle
    finally:
        lock.unlink(missing_ok=True)  # before the lock is dropped: whoever waits for it then takes a new file
        os.close(handle)


def _acquire(lock: Path, busy: str) -> int:
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info(busy)
            fcntl.flock(handle, fcntl.LOCK_EX)
        # The last holder may have removed the file between our open and our lock: then the lock guards
        # nothing.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), lock.stat()):
                return handle
        os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, tree: Any) -> None:
    """Write a tree as indented JSON, atomically; NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def folder_digest(path: str | Path) -> str:
    """SHA-256 over the names and bytes of the files directly in a folder (a saved network)."""
    total = hashlib.sha256()
    for item in sorted(p for p in Path(path).iterdir() if p.is_file()):
        total.update(f"{item.name}:{digest(item)};".encode())
    return total.hexdigest()


SIMILAR = 0.8
"""How alike two names are, from 0 to 1, before one is taken for a mistyped other."""


def near_name(path: Path) -> Path | None:
    """The file beside `path` whose name is most like its own; None where none is alike."""
    if not path.parent.is_dir():
        return None
    names = [item.name for item in path.parent.iterdir() if not item.name.startswith(".")]
    near = difflib.get_close_matches(path.name, names, 1, SIMILAR)
    return path.parent / near[0] if near else None


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
