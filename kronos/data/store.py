"""The prepared data: a folder of memory-mapped arrays that reopens at once, whatever its size.

In: a folder that `store_writer` wrote. Out: `BarStore`, read-only. A folder that is damaged or of another
version is refused. Layout: docs/architecture.md. NumPy only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from kronos import files, records
from kronos.config import Config
from kronos.data.publish import read_as_one
from kronos.data.row_places import owner_of
from kronos.errors import KitError

SCHEMA_VERSION = 1
ARRAYS = {"bars": "<f4", "session": "<i4", "sessions": "<M8[s]", "offsets": "<i8", "segments": "<i8"}
OPTIONAL = {"members": "<i4", "market": "<i2", "ordinals": "<i4"}
"""Arrays that not every store has."""
MAPPED = ("bars", "session")  # one entry per row; the others are small and are read into memory
MANIFEST, TICKERS = "manifest.json", "tickers.json"
SMALL_BYTES = 8 << 20
"""Stores up to this size are checked against their digests at every opening: it takes a few milliseconds."""


@dataclass(frozen=True, eq=False)
class BarStore:
    """Bars of many tickers, oldest first within each ticker.

    N rows, K tickers, D distinct dates, M segments. Arrays are read-only.
    """

    path: Path
    manifest: dict[str, Any]
    bars: NDArray[np.float32]
    """(N, 6), `bars.FEATURES` order."""
    session: NDArray[np.int32]
    """(N,) position of the row's date in `sessions`."""
    sessions: NDArray[np.datetime64]
    """(D,) datetime64[s], exchange-local, sorted: every date on which any ticker has a bar."""
    offsets: NDArray[np.int64]
    """(K + 1,) rows of ticker k are offsets[k]:offsets[k + 1]."""
    segments: NDArray[np.int64]
    """(M, 2) first row and end (exclusive) of each run of bars that a training window may not leave."""
    tickers: list[str]
    """K names, sorted."""
    members: NDArray[np.int32] | None = None
    """(I, 3) ticker, first session, last session (inclusive) of each time in which a ticker may be asked
    about, sorted; None: every ticker on all of its days."""
    market: NDArray[np.int16] | None = None
    """(K,) position of each ticker's market in `calendars`; None: there is one market."""
    ordinals: NDArray[np.int32] | None = None
    """(G, D) how many sessions of a market are dated at or before each session; None: every session is one of
    the market's.
    """

    @classmethod
    def open(cls, path: str | Path, verify: bool = False) -> "BarStore":
        """Open a prepared store, all of it from one preparation, also while another process puts a new one in
        its place.
        verify: compare every array with its digest (small stores: always).

        Raises KitError when there is none, when it is of another version, or when it is damaged.
        """
        return read_as_one(Path(path), MANIFEST, lambda folder: cls._read(folder, verify))

    @classmethod
    def _read(cls, path: Path, verify: bool) -> "BarStore":
        manifest = read_manifest(path)
        total = sum(entry["bytes"] for entry in manifest["arrays"].values())
        for name, entry in manifest["arrays"].items():
            _check_file(path / name, entry, verify or total <= SMALL_BYTES)
        arrays = {
            name: np.load(path / f"{name}.npy", mmap_mode="r" if name in MAPPED else None) for name in ARRAYS
        }
        for name in OPTIONAL:
            if name in manifest["arrays"]:
                arrays[name] = np.load(path / f"{name}.npy")
        tickers = records.read(
            path / TICKERS, list[str], remedy=f"delete {path} and run kaggle/prepare_data.py again"
        )
        return cls(path=path, manifest=manifest, tickers=tickers, **arrays)

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process opens the files again: pickling the maps would copy every row.
        return _reopened, (self.path, self.digest)

    def __len__(self) -> int:
        return len(self.session)

    @property
    def digest(self) -> str:
        """SHA-256 over the digests of all arrays and of the ticker names: equal for equal content, wherever
        it lies.
        """
        return self.manifest["digest"]

    @property
    def frequency(self) -> str:
        """Bar length, one of the names in `DataConfig.frequency` but 'auto'."""
        return self.manifest["frequency"]

    def calendars(self, configured: str) -> list[str]:
        """The calendar of each market, as found when the data was prepared; the configured one where nothing
        is known.
        """
        return [entry["calendar"] for entry in self.manifest.get("markets", [])] or [configured]

    def market_of(self, tickers: NDArray[np.integer]) -> NDArray[np.int64]:
        """The market of each ticker (store positions, -1: unknown), same shape; the first one for unknown
        tickers.
        """
        if self.market is None:
            return np.zeros(np.shape(tickers), dtype=np.int64)
        return np.where(tickers >= 0, self.market[tickers], 0).astype(np.int64)

    def sessions_of(self, market: int) -> NDArray[np.datetime64]:
        """The sessions of one market, sorted."""
        if self.ordinals is None:
            return self.sessions
        return self.sessions[np.diff(self.ordinals[market], prepend=0) > 0]

    def span_of(self, steps: int) -> int:
        """How many of all sessions hold at least `steps` of every market's own, wherever one begins to
        count.
        """
        if self.ordinals is None or steps == 0:
            return steps
        longest = steps
        for own in self.ordinals:
            place = np.flatnonzero(np.diff(own, prepend=0) > 0)
            if len(place) > steps:
                longest = max(longest, int((place[steps:] - place[:-steps]).max()))
        return longest

    def own_session(self, rows: NDArray[np.integer]) -> NDArray[np.int32]:
        """The number of each row's session among those of its ticker's market, same shape."""
        session = self.session[rows]
        if self.ordinals is None:
            return session
        return self.ordinals[self.market_of(owner_of(self.offsets, rows)), session]

    def ahead(
        self, session: NDArray[np.integer], market: NDArray[np.integer], steps: int
    ) -> NDArray[np.int64]:
        """The session that lies `steps` sessions of a market after each session, (n,) positions in
        `sessions`; D where the data end before it.

        session, market (n,). A session on which the market is closed counts as its last one before.
        """
        session, end = np.asarray(session, np.int64), len(self.sessions)
        if self.ordinals is None:
            return np.minimum(session + steps, end)
        result = np.empty(len(session), np.int64)
        for number, own in enumerate(self.ordinals):
            which = np.flatnonzero(market == number)
            place = np.append(np.flatnonzero(np.diff(own, prepend=0) > 0), end)
            later = own[session[which]].astype(np.int64) - 1 + steps
            result[which] = place[np.minimum(later, len(place) - 1)]
        return result

    def all_open(self) -> NDArray[np.bool_]:
        """(D,) on which sessions every market is open."""
        if self.ordinals is None:
            return np.ones(len(self.sessions), bool)
        return np.asarray((np.diff(self.ordinals, axis=1, prepend=0) > 0).all(axis=0), np.bool_)

    def row_at(
        self, tickers: NDArray[Any], session: NDArray[Any]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The row of each ticker that is dated at its session, and whether there is one, both (n,)."""
        tickers, session = np.asarray(tickers, np.int64), np.asarray(session, np.int64)
        row = self._row_at(tickers, session)
        last = np.maximum(self.offsets[tickers + 1] - 1, 0)
        return row, (row <= last) & (self.session[np.minimum(row, last)] == session)

    def index_of(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Positions of tickers in the store, (n,) int64; -1 where there is no such ticker."""
        known = {name: k for k, name in enumerate(self.tickers)}
        return np.array([known.get(name, -1) for name in names], dtype=np.int64)

    def dates(self, rows: NDArray[np.integer]) -> NDArray[np.datetime64]:
        """Dates of rows, same shape, datetime64[s] in the exchange's local time."""
        return self.sessions[self.session[rows]]

    @cached_property
    def member_rows(self) -> NDArray[np.int64]:
        """(I, 2) first row and end (exclusive) of the bars dated in each interval of `members`, rising;
        without them all rows.
        """
        if self.members is None:
            return np.array([[0, len(self)]], dtype=np.int64)
        ticker, first, last = self.members.astype(np.int64).T
        return np.stack([self._row_at(ticker, first), self._row_at(ticker, last + 1)], axis=1)

    def askable(self, rows: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Whether the ticker of each row may be asked about on the row's date, same shape."""
        if self.members is None:
            return np.ones(np.shape(rows), dtype=bool)
        runs = self.member_rows
        if not len(runs):
            return np.zeros(np.shape(rows), dtype=bool)
        place = np.searchsorted(runs[:, 0], rows, side="right") - 1
        return (place >= 0) & (rows < runs[np.maximum(place, 0), 1])

    def _row_at(self, tickers: NDArray[np.int64], session: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first row of each ticker that is dated at a session or later; its end where there is none."""
        low, high = self.offsets[tickers].copy(), self.offsets[tickers + 1].copy()
        while (open_ := np.flatnonzero(low < high)).size:
            middle = (low[open_] + high[open_]) // 2
            early = self.session[middle] < session[open_]
            low[open_[early]] = middle[early] + 1
            high[open_[~early]] = middle[~early]
        return low

    def end_before(self, tickers: NDArray[np.int64], dates: NDArray[np.datetime64]) -> NDArray[np.int64]:
        """The row after each ticker's last bar that is dated strictly before the date: what was known then.

        tickers (n,) store positions, dates (n,) datetime64 -> (n,) int64; offsets[k] where the ticker has no
        such bar.
        """
        tickers = np.asarray(tickers, dtype=np.int64)
        if (tickers < 0).any():
            raise ValueError("end_before: a ticker is not in the store (index -1)")
        cut = np.searchsorted(self.sessions, np.asarray(dates).astype("datetime64[s]"), side="left")
        low, high = self.offsets[tickers], self.offsets[tickers + 1]
        while (open_ := low < high).any():  # one bisection for all tickers at once
            middle = (low + high) // 2
            before = np.zeros(len(low), dtype=bool)
            before[open_] = self.session[middle[open_]] < cut[open_]
            low, high = np.where(open_ & before, middle + 1, low), np.where(open_ & ~before, middle, high)
        return low


def settings_of(config: Config) -> dict[str, Any]:
    """The settings that a store's content depends on, as its manifest keeps them. A pool's file is known by
    its digest, None where it is not here."""
    names = ("frequency", "calendar", "timezone", "columns", "markets")
    key: dict[str, Any] = {name: getattr(config.data, name) for name in names}
    key["cleaning"] = asdict(config.data.cleaning)
    if config.data.pool_path:
        pool = Path(config.data.pool_path)
        key["pool"] = files.digest(pool) if pool.is_file() else None
    return key


# -- reading -------------------------------------------------------------------------------------------------
def _reopened(path: Path, digest: str) -> BarStore:
    """The store that another process has open. Raises KitError when something else was put in its place
    since.
    """
    store = BarStore.open(path)
    if store.digest != digest:
        raise KitError(
            f"{path}: expected the prepared data that this run began with, found newer ones; "
            "start the run again, and prepare nothing while it goes on"
        )
    return store


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a store, checked for form and version. Raises KitError."""
    if not (path / MANIFEST).is_file():
        raise KitError(f"{path}: expected prepared data, found none; run kaggle/prepare_data.py")
    remedy = f"the prepared data is damaged; delete {path} and run kaggle/prepare_data.py again"
    manifest = records.read_json(path / MANIFEST, remedy=remedy)
    version = records.check(manifest, _Version, str(path / MANIFEST), remedy=remedy).schema_version
    if version != SCHEMA_VERSION:
        raise KitError(
            f"{path}: expected prepared data of version {SCHEMA_VERSION}, found {version}; run kaggle/prepare_data.py again"
        )
    records.check(manifest, _Manifest, str(path / MANIFEST), remedy=remedy)
    return dict(manifest)


@dataclass(frozen=True)
class _Version:
    schema_version: int


@dataclass(frozen=True)
class _Entry:
    """A file of the store."""

    bytes: Annotated[int, ">= 0"]
    sha256: str


@dataclass(frozen=True)
class _Manifest:
    """What every opening relies on; the other keys are for people, or are compared as a whole."""

    arrays: dict[str, _Entry]
    digest: str
    frequency: str = ""


def _check_file(path: Path, entry: Mapping[str, Any], verify: bool) -> None:
    path = path if path.suffix == ".json" else path.with_name(f"{path.name}.npy")
    if not path.is_file():
        raise _damaged(path, "is missing")
    if (found := path.stat().st_size) != entry["bytes"]:
        raise _damaged(path, f"has {found:,} bytes, the manifest says {entry['bytes']:,}")
    if verify and files.digest(path) != entry["sha256"]:
        raise _damaged(path, "does not match its digest in the manifest")


def _damaged(path: Path, what: str) -> KitError:
    return KitError(
        f"{path} {what}: the prepared data is damaged; delete {path.parent} and run kaggle/prepare_data.py again"
    )
