"""What one stage keeps in the run folder beside its checkpoints: the right to write there, and its summary.

In: the run folder. Out: a lock that a killed run does not leave behind, and summary.json, which alone says whether a stage
is complete. Layout: docs/architecture.md.
"""

import fcntl
import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

from kronos import files
from kronos.errors import KitError


class RunLock:
    """The only right to train into a run folder.

    A POSIX record lock: the kernel drops it with the process however that ends, and unlike flock's it does not live on
    in the loader's worker processes.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / ".lock"
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raises KitError when another run has it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            holder = os.read(handle, 200).decode(errors="replace").strip() or "unknown process"
            os.close(handle)
            raise KitError(
                f"{self.path.parent}: another run is training in this folder ({holder}); wait for it or stop it, "
                "or choose another model_paths.exp_name"
            ) from error
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        self._handle = handle

    def release(self) -> None:
        """Give the lock back, where this process has it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written in a stage's folder: it is temporary by name. Needs the lock."""
    for left in (*folder.glob(".*.tmp"), *folder.glob("checkpoints/.*.tmp")):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def read_summary(folder: Path) -> dict[str, Any] | None:
    """A stage's summary.json, or None where there is none. Raises KitError when it is not readable."""
    path = folder / "summary.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise KitError(f"{path}: expected JSON, found {error}; remove the file and train the stage anew") from error


def write_summary(folder: Path, tree: dict[str, Any]) -> None:
    """Write a stage's summary.json atomically."""
    files.write_json(folder / "summary.json", tree)
