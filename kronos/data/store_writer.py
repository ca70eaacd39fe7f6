"""Arrays to the folder of a `BarStore`.

In: cleaned bars in ticker-major order (`write_store`, `store_from_dict`, or a `StoreWriter` filled piece by
piece). Out: a store that appears under its name complete or not at all; one process writes it at a time.
NumPy only.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronos import files
from kronos.bars import FEATURES
from kronos.data.publish import locked, published
from kronos.data.store import ARRAYS, MANIFEST, OPTIONAL, SCHEMA_VERSION, TICKERS, BarStore

STORE_FILES = frozenset({*(f"{name}.npy" for name in (*ARRAYS, *OPTIONAL)), MANIFEST, TICKERS})
HEADER_BYTES = 128  # of a .npy file with one or two axes


class StoreWriter:
    """The store of a `writing` block: arrays in any order, whole or in pieces, then `finish`.

    A written array is summed up and flushed to disk in `pool` while the caller makes the next one.
    """

    def __init__(self, folder: Path, pool: ThreadPoolExecutor) -> None:
        self.folder, self.pool = folder, pool
        self.entries: dict[str, Future[dict[str, Any]]] = {}
        self.finished = False

    def save(self, name: str, values: NDArray[Any]) -> None:
        """Write a whole array."""
        np.save(self._path(name), values.astype((ARRAYS | OPTIONAL)[name], copy=False))
        self._sum_up(name)

    @contextmanager
    def growing(self, name: str, *width: int) -> Iterator[Callable[[NDArray[Any]], None]]:
        """Write an array (n, *width) row by row, n known at the end: yields the function that appends rows.

        Through the file, since pages of a map would count as memory of this process.
        """
        rows = 0

        def append(piece: NDArray[Any]) -> None:
            nonlocal rows
            rows += len(piece)
            handle.write(np.ascontiguousarray(piece, dtype=ARRAYS[name]).data)

        with self._path(name).open("wb") as handle:
            handle.write(bytes(HEADER_BYTES))
            yield append
            handle.seek(0)
            np.lib.format.write_array_header_1_0(
                handle, {"descr": ARRAYS[name], "fortran_order": False, "shape": (rows, *width)}
            )
            assert handle.tell() == HEADER_BYTES, "the header grew over the first rows"
        self._sum_up(name)

    def finish(self, tickers: Sequence[str], manifest: Mapping[str, Any]) -> None:
        """Write names and manifest, with the size and digest of every array. Nothing may be written after
        it.
        """
        files.write_text(self.folder / TICKERS, json.dumps(list(tickers), ensure_ascii=False))
        entries = {name: self.entries[name].result() for name in (*ARRAYS, *OPTIONAL) if name in self.entries}
        assert set(ARRAYS) <= set(entries), "a store needs all of its arrays"
        entries[TICKERS] = _entry(self.folder / TICKERS)
        digest = hashlib.sha256("".join(e["sha256"] for e in entries.values()).encode()).hexdigest()
        own = {"schema_version": SCHEMA_VERSION, "digest": digest, "tickers": len(tickers), "arrays": entries}
        files.write_json(self.folder / MANIFEST, {**manifest, **own})
        self.finished = True

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _sum_up(self, name: str) -> None:
        self.entries[name] = self.pool.submit(_entry, self._path(name))


def _entry(path: Path) -> dict[str, Any]:
    """What the manifest says about a file, which is on disk then."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
    return {"bytes": path.stat().st_size, "sha256": files.digest(path)}


@contextmanager
def writing(path: str | Path) -> Iterator[StoreWriter]:
    """Write a store next to `path` and put it there when the block ends without an error. The caller holds
    the lock.
    """
    with published(Path(path), STORE_FILES) as folder, ThreadPoolExecutor(1) as pool:
        writer = StoreWriter(folder, pool)
        yield writer
        assert writer.finished, "a store needs its manifest: call finish"


def write_store(
    path: str | Path,
    *,
    bars: NDArray[Any],
    session: NDArray[Any],
    sessions: NDArray[Any],
    offsets: NDArray[Any],
    tickers: Sequence[str],
    segments: NDArray[Any] | None = None,
    members: NDArray[Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> BarStore:
    """Write a store from arrays in memory and open it. Shapes: see `BarStore`; segments None: one per ticker.

    Raises ValueError when the arrays contradict each other; KitError when `path` holds something else.
    """
    offsets = np.asarray(offsets, dtype=np.int64)
    if segments is None:
        segments = np.stack([offsets[:-1], offsets[1:]], axis=1)
    arrays = {
        "bars": bars,
        "session": session,
        "sessions": sessions,
        "offsets": offsets,
        "segments": segments,
    }
    arrays = {name: np.asarray(values).astype(ARRAYS[name]) for name, values in arrays.items()}
    check_arrays(tickers=tickers, **arrays)
    with locked(Path(path)), writing(path) as writer:
        for name, values in arrays.items():
            writer.save(name, values)
        if members is not None:
            writer.save("members", members)
        writer.finish(
            tickers,
            {"frequency": "daily", "rows": {"read": len(bars), "kept": len(bars)}, **(manifest or {})},
        )
    return BarStore.open(path)


def store_from_dict(
    path: str | Path, series: Mapping[str, tuple[NDArray[Any], NDArray[Any]]], **manifest: Any
) -> BarStore:
    """A small store from {ticker: (dates (n,) datetime64, bars (n, 6))}, without cleaning; for tests and
    tools.
    """
    names = sorted(series)
    dates = [np.asarray(series[name][0]).astype("datetime64[s]") for name in names]
    sessions, session = np.unique(np.concatenate(dates), return_inverse=True)
    return write_store(
        path,
        bars=np.concatenate([np.asarray(series[name][1]) for name in names]),
        session=session,
        sessions=sessions,
        offsets=np.cumsum([0, *(len(d) for d in dates)]),
        tickers=names,
        manifest=manifest,
    )


def check_arrays(
    *,
    bars: NDArray,
    session: NDArray,
    sessions: NDArray,
    offsets: NDArray,
    segments: NDArray,
    tickers: Sequence[str],
) -> None:
    """What every store keeps to. Raises ValueError naming the first rule that is broken."""
    rows, first = len(bars), offsets[:-1]
    later = np.ones(rows, dtype=bool)
    if len(session) == rows and rows:
        later[1:] = session[1:] > session[:-1]
        later[first[first < rows]] = True
    rules = {
        f"bars are (N, {len(FEATURES)})": bars.ndim == 2 and bars.shape[1] == len(FEATURES),
        "session has one entry per bar": session.shape == (rows,),
        "sessions are sorted and unique": bool((sessions[1:] > sessions[:-1]).all()),
        "session points into sessions": not rows or (session.min() >= 0 and session.max() < len(sessions)),
        "offsets are (K + 1,), from 0 to N, rising": len(offsets) == len(tickers) + 1
        and offsets[0] == 0
        and offsets[-1] == rows
        and bool((np.diff(offsets) >= 0).all()),
        "tickers are sorted and unique": all(a < b for a, b in itertools.pairwise(tickers)),
        "dates rise within a ticker": bool(later.all()),
        "segments are (M, 2), in order, inside [0, N]": segments.ndim == 2
        and segments.shape[1] == 2
        and bool((np.diff(segments.ravel()) >= 0).all())
        and (not len(segments) or (segments[0, 0] >= 0 and segments[-1, 1] <= rows)),
    }
    for rule, holds in rules.items():
        if not holds:
            raise ValueError(f"store: {rule}; these arrays break that")
