"""Every row of the price files as arrays, by ticker and date.

In: `Block`s, pieces of files with codes of their own. Out: `Panel`. Cost: one counting sort by ticker, block
by block (rows keep their order within a ticker; tickers whose dates do not rise are sorted afterwards). No
loop over tickers or rows.
"""

import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kronos.bars import FEATURES
from kronos.data.row_places import name_of, same_ticker
from kronos.errors import KitError

if TYPE_CHECKING:
    from kronos.data.markets import Market

SMALL_BYTES = 1 << 20

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass
class Panel:
    """N rows of K tickers on D dates, as read. Rows of ticker k are offsets[k]:offsets[k + 1], dates never
    falling.
    """

    name: str
    """The files, for messages."""
    values: NDArray[np.float32]
    """(N, 6) `bars.FEATURES`; NaN where a value is missing, everywhere in a column that the files lack."""
    session: NDArray[np.int32]
    split: NDArray[np.bool_]
    """(N,) the row names a stock split."""
    sessions: NDArray[np.datetime64]
    offsets: NDArray[np.int64]
    tickers: list[str]
    roles: frozenset[str]
    """Which columns the files have (`competition.ROLES`)."""
    ignored: list[str] = field(default_factory=list)
    """Columns that nothing reads."""
    read: int = 0
    """Rows in the files; blank lines are none."""
    missing_key: int = 0
    """Rows without ticker or date, left out already: they belong nowhere."""
    unsorted: int = 0
    """Rows that followed a later date of their ticker in the file."""
    sources: list[dict[str, Any]] = field(default_factory=list)
    has_zone: bool = False
    """Whether `sessions` are UTC: until `markets.assign` makes them the exchange's."""
    frequency: str = "daily"
    market: NDArray[np.int16] = field(default_factory=lambda: np.zeros(0, np.int16))
    """(K,) position of each ticker's market in `markets`."""
    markets: tuple["Market", ...] = ()
    paths: list[Path] = field(default_factory=list)
    first_file: NDArray[np.uint32] | None = None
    """(K,) position in `paths` of the file that each ticker's first row is from; None: there is one file."""

    def own_session(self) -> NDArray[np.int32]:
        """(N,) the number of each row's session among those of its ticker's market."""
        if len(self.markets) < 2:
            return self.session
        market = self.market.repeat(np.diff(self.offsets))
        used = np.zeros((len(self.markets), len(self.sessions)), dtype=bool)
        used[market, self.session] = True
        return np.cumsum(used, axis=1, dtype=np.int32)[market, self.session]

    def file_of(self, k: int) -> str:
        """The file of a ticker, for messages; the ticker's name where all are in one file."""
        if self.first_file is None or len(set(self.first_file.tolist())) == 1:
            return self.tickers[k]
        return self.paths[int(self.first_file[k])].name


@dataclass
class Block:
    """A piece of a file: local codes into its own distinct tickers and dates; -1 where there is none."""

    values: NDArray[np.float32]
    split: NDArray[np.bool_]
    ticker: NDArray[np.integer]
    date: NDArray[np.integer]
    names: pl.Series
    seconds: NDArray[np.int64]
    """The distinct dates; of UTC where they have a zone."""
    wall: NDArray[np.int64]
    """The same as written."""
    file: NDArray[np.uint32]


def merged(blocks: list[Block]) -> Block:
    """Blocks of small files as one: what follows costs time per block."""
    tickers = np.cumsum([0, *(len(block.names) for block in blocks)])
    dates = np.cumsum([0, *(len(block.seconds) for block in blocks)])
    moments = np.concatenate([block.seconds for block in blocks])
    seconds, example, place = np.unique(moments, return_index=True, return_inverse=True)
    return Block(
        values=np.concatenate([block.values for block in blocks]),
        split=np.concatenate([block.split for block in blocks]),
        ticker=np.concatenate(
            [block.ticker.astype(np.int32) + start for block, start in zip(blocks, tickers, strict=False)]
        ),
        date=np.concatenate(
            [place[block.date.astype(np.int64) + start] for block, start in zip(blocks, dates, strict=False)]
        ),
        names=pl.concat([block.names for block in blocks]),
        seconds=seconds,
        wall=np.concatenate([block.wall for block in blocks])[example],
        file=np.concatenate([block.file for block in blocks]),
    )


def narrow(codes: NDArray[np.integer], distinct: int) -> NDArray[np.integer]:
    """Codes in a small type that holds them and -1."""
    return codes.astype(np.int16 if distinct < 2**15 else np.int32)


def arrange(blocks: list[Block], paths: list[Path], roles: frozenset[str]) -> Panel:
    """Blocks in file order to one panel in ticker-major order. The blocks are used up.

    Raises KitError when two files give one ticker different bars on one date.
    """
    names = pl.concat([block.names for block in blocks])
    tickers = names.filter(names != "").unique().sort()
    table = pl.DataFrame({"name": tickers, "code": np.arange(len(tickers), dtype=np.int64)})
    codes = (
        names.to_frame("name")
        .join(table, on="name", how="left", maintain_order="left")["code"]
        .fill_null(-1)
        .to_numpy()
    )
    sessions = np.unique(np.concatenate([block.seconds for block in blocks]))
    start = 0
    before = np.zeros(
        (len(blocks) + 1, len(tickers)), dtype=np.int64
    )  # rows of each ticker in the blocks before
    for number, block in enumerate(blocks):
        block.ticker = codes[start : start + len(block.names)].astype(np.min_scalar_type(len(tickers)))[
            block.ticker
        ]
        start += len(block.names)
        before[number + 1] = before[number] + np.bincount(block.ticker, minlength=len(tickers))
    offsets = np.concatenate([[0], np.cumsum(before[-1])])
    before += offsets[:-1]
    values, session, split, file = _scatter(blocks, before, sessions, several=len(paths) > 1)
    name = str(paths[0]) + (f" and {len(paths) - 1:,} more" if len(paths) > 1 else "")
    panel = Panel(
        name, values, session, split, sessions.astype("datetime64[s]"), offsets, tickers.to_list(), roles
    )
    _sort_dates(panel, file)
    panel.paths = paths
    if file is not None:
        _refuse_contradictions(panel, file, paths)
        panel.first_file = file[np.minimum(panel.offsets[:-1], len(file) - 1)]
    return panel


def _scatter(
    blocks: list[Block], first: NDArray[np.int64], sessions: NDArray[np.int64], several: bool
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.bool_], NDArray[np.uint32] | None]:
    """A counting sort by ticker: the rows of block b go to first[b, ticker] and the places after it, in their
    order.
    """
    rows = int(first[-1, -1]) if first.size else 0
    values, session = fresh((rows, len(FEATURES)), np.float32), fresh((rows,), np.int32)
    split, file = fresh((rows,), np.bool_), fresh((rows,), np.uint32) if several else None

    def copy(block: Block, free: NDArray[np.int64]) -> None:
        place = _places(block.ticker, free)
        _whole_rows(values)[place] = _whole_rows(block.values)
        session[place] = np.searchsorted(sessions, block.seconds).astype(np.int32)[block.date]
        split[place] = block.split
        if file is not None:
            file[place] = block.file

    blocks.reverse()
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy sorts and copies outside the interpreter's lock
        waiting: list[Future[None]] = []
        for free in first[:-1]:
            waiting.append(
                pool.submit(copy, blocks.pop(), free)
            )  # a block's memory is free again when it is copied
        for done in waiting:
            done.result()
    return values, session, split, file


def fresh(shape: tuple[int, ...], kind: type[Scalar]) -> NDArray[Scalar]:
    """An array of new memory in ordinary pages, which goes back to the system with the array. NumPy asks for
    huge ones: their first touch took 1 s of 500 MB, these 0.2 s. Small arrays: NumPy's own memory.
    """
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    if size < SMALL_BYTES:
        return np.empty(shape, kind)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.ndarray(shape, kind, memory)


def _whole_rows(values: NDArray[np.float32]) -> NDArray[np.void]:
    """(n, 6) numbers as (n,) items of one row each: placing a row is then one copy."""
    return values.view(np.dtype((np.void, values.itemsize * values.shape[1])))[:, 0]


def _places(tickers: NDArray[np.integer], free: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) the row of each entry: the next one from free[ticker] on. Sorting 16 bits is a radix sort."""
    order = np.argsort(tickers, kind="stable")
    ticker = tickers[order]
    counts = np.bincount(tickers, minlength=len(free))
    place = np.empty(len(tickers), dtype=np.int64)
    place[order] = np.arange(len(ticker)) + (free - (np.cumsum(counts) - counts))[ticker]
    return place


def _sort_dates(panel: Panel, file: NDArray[np.uint32] | None) -> None:
    """Bring the rows of tickers whose dates fall somewhere into order; equal dates keep their order in the
    file.
    """
    falling = same_ticker(panel.offsets) & (panel.session[1:] < panel.session[:-1])
    panel.unsorted = int(falling.sum())
    if not panel.unsorted:
        return
    owner = np.repeat(np.arange(len(panel.tickers)), np.diff(panel.offsets))
    touched = np.zeros(len(panel.tickers), dtype=bool)
    touched[owner[1:][falling]] = True
    rows = np.flatnonzero(touched[owner])
    order = rows[np.lexsort((panel.session[rows], owner[rows]))]
    for array in (panel.values, panel.session, panel.split, *(() if file is None else (file,))):
        array[rows] = array[order]


def _refuse_contradictions(panel: Panel, file: NDArray[np.uint32], paths: list[Path]) -> None:
    """Two files that give one ticker different bars on one date: which one is right is not ours to say."""
    twice = same_ticker(panel.offsets) & (panel.session[1:] == panel.session[:-1]) & (file[1:] != file[:-1])
    rows = np.flatnonzero(twice)
    a, b = panel.values[rows], panel.values[rows + 1]
    differs = ~((a == b) | (np.isnan(a) & np.isnan(b))).all(axis=1)
    if differs.any():
        row = int(rows[np.argmax(differs)])
        ticker = name_of(panel.offsets, panel.tickers, row)
        date = panel.sessions[panel.session[row]]
        raise KitError(
            f"{paths[file[row + 1]]}: {ticker} on {date} differs from the same bar in {paths[file[row]]} "
            f"({int(differs.sum()):,} bars do); keep one of the two files"
        )
