"""The files of a job: its input, one JSON line a series, and one result file a chunk.

In: trees of JSON. Out: files that are whole or not there. Standard library only.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kronos.errors import KitError

INPUT, RESULTS = "input.jsonl", "results"


def line(tree: Any) -> bytes:
    """A tree as one line of JSON; NaN and infinity are refused (ValueError)."""
    return json.dumps(tree, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def write_input(path: Path, series: Iterable[dict[str, Any]], about: dict[str, Any]) -> tuple[list[int], str]:
    """Write the series of a job and flush them to disk. about: what else makes the job what it is.

    Returns the byte at which each series starts, and a SHA-256 of series and `about`. Raises KitError where
    there is no series.
    """
    starts: list[int] = []
    content = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    with path.open("wb") as handle:
        for one in series:
            starts.append(handle.tell())
            text = line(one)
            content.update(text)
            handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    flush_folder(path.parent)
    flush_folder(path.parent.parent)
    if not starts:
        raise KitError("job: expected at least one series, found none; send stock_data with series")
    return starts, content.hexdigest()


def read_input(path: Path, offset: int, skip: int, count: int) -> list[dict[str, Any]]:
    """`count` series that follow `skip` others after the byte `offset`."""
    with path.open("rb") as handle:
        handle.seek(offset)
        for _ in range(skip):
            handle.readline()
        return [json.loads(handle.readline()) for _ in range(count)]


def write_temporary(folder: Path, answers: Sequence[dict[str, Any]]) -> Path:
    """Write the answers of a chunk to a new file that has no name of its own yet, flushed to disk."""
    handle, name = tempfile.mkstemp(prefix=".chunk.", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(handle, "wb") as written:
            for answer in answers:
                written.write(line(answer))
            written.flush()
            os.fsync(written.fileno())
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def result_of(folder: Path, number: int) -> Path:
    """Where the answers of a job's chunk lie."""
    return folder / RESULTS / f"{number:06d}.jsonl"


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The trees in a file of JSON lines."""
    with path.open("rb") as handle:
        for text in handle:
            yield json.loads(text)


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
