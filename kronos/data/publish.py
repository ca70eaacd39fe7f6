"""Writing a folder so that readers see the old one or the new one, by one process at a time, killed or not.

In: the folder's final path and the file names it may hold. Out: a temporary sibling to fill, renamed at the
end.
POSIX locks on a file beside it: the kernel drops them with the process, so a killed writer blocks nobody.
"""

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from kronos import files
from kronos.errors import KitError

TRIES, PAUSE = 5, 0.05
T = TypeVar("T")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the only right to write `path`; waits, with a log line, while another process has it. Not
    reentrant.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(
                files.locked(
                    path.parent / f".{path.name}.lock", f"another process is preparing {path}: waiting for it"
                )
            )
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise KitError(
                f"{path}: expected a place that can be written to: {error.strerror}; choose another data.store"
            ) from error
        yield


@contextlib.contextmanager
def published(path: Path, names: frozenset[str]) -> Iterator[Path]:
    """Yield an empty folder beside `path`; when the block ends without an error it takes the place of `path`.

    names: the files that belong to such a folder. Raises KitError when `path` holds anything else. Call it
    under `locked`.
    """
    recover(path)
    _refuse_foreign(path, names)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.new-", dir=path.parent))
    try:
        yield temporary
        _flush(temporary)
        _replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_as_one(path: Path, mark: str, read: Callable[[Path], T]) -> T:
    """read(path), again where the folder was replaced meanwhile: files of two generations never come
    together.

    mark: a file in the folder that is other for other contents. A published folder is replaced by renaming
    and never written to, so all files come from one where the mark is the same before and after.
    """
    for tries_left in reversed(range(TRIES)):
        before = _content(path / mark)
        try:
            result = read(path)
        except (KitError, OSError):
            between = (
                before is None and _old(path).exists()
            )  # the two renames of `_replace`; or killed there: the error stands
            if not tries_left or (before == _content(path / mark) and not between):
                raise
        else:
            if before == _content(path / mark):
                return result
        time.sleep(PAUSE)
    raise KitError(
        f"{path}: expected a folder that stays while it is read, found it replaced {TRIES} times; try again"
    )


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def recover(path: Path) -> None:
    """Clear away what a killed writer left; put the old folder back when it died between the two renames."""
    old = _old(path)
    if old.exists() and not path.exists():
        old.rename(path)
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    for leftover in [old, *(p for p in beside if p.name.startswith(f".{path.name}.new-"))]:
        shutil.rmtree(leftover, ignore_errors=True)


def _old(path: Path) -> Path:
    return path.parent / f".{path.name}.old"


def _replace(new: Path, path: Path) -> None:
    new.chmod(0o755)
    if path.exists():
        path.rename(_old(path))
    new.rename(path)
    shutil.rmtree(_old(path), ignore_errors=True)


def _flush(folder: Path) -> None:
    """Contents before names: after a power cut the new name must not show empty files."""
    for item in folder.iterdir():
        with item.open("rb") as handle:
            os.fsync(handle.fileno())


def _refuse_foreign(path: Path, names: frozenset[str]) -> None:
    if path.is_file():
        raise KitError(
            f"{path}: expected a folder for the prepared data, found a file; choose another data.store"
        )
    foreign = sorted(p.name for p in path.iterdir() if p.name not in names) if path.is_dir() else []
    if foreign:
        raise KitError(
            f"{path}: expected prepared data or nothing, found {foreign[0]!r}; choose another data.store"
        )
