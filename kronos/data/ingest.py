"""Price files to one panel: every row read, sorted by ticker and date, nothing judged yet.

In: `data.data_path`: a CSV, .csv.gz or Parquet file, a list of them, or a folder with one file per ticker. Out: `Panel`, in
ticker-major order. What only a human can decide stops with one line: a missing column, dates of two forms, files that
contradict each other. Cost: one pass over the files, then one counting sort by ticker (rows keep their order within a
ticker; tickers whose dates do not rise are sorted afterwards). No loop over tickers or rows.
"""

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tqdm import tqdm

from kronos import files
from kronos.bars import FEATURES
from kronos.data import blocks, competition, dates
from kronos.errors import KitError

log = logging.getLogger(__name__)

SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq")
LONGEST_NAME = 100
IN_ALL_OR_NONE = ("volume", "amount", "split", "ticker")  # columns that every file must have when one of them has


@dataclass
class Panel:
    """N rows of K tickers on D dates, as read. Rows of ticker k are offsets[k]:offsets[k + 1], dates never falling."""

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
    ignored: list[str]
    """Columns that nothing reads."""
    read: int = 0
    """Rows in the files; blank lines are none."""
    missing_key: int = 0
    """Rows without ticker or date, left out already: they belong nowhere."""
    unsorted: int = 0
    """Rows that followed a later date of their ticker in the file."""
    sources: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class _Block:
    """A piece of a file: local codes into its own distinct tickers and dates; -1 where there is none."""

    values: NDArray[np.float32]
    split: NDArray[np.bool_]
    ticker: NDArray[np.integer]
    date: NDArray[np.integer]
    names: pl.Series
    seconds: NDArray[np.int64]
    file: int


def find_sources(data_path: str | list[str]) -> list[Path]:
    """The files that data_path means, in reading order. Raises KitError when there are none."""
    given = [Path(p).expanduser() for p in ([data_path] if isinstance(data_path, str) else data_path) if p]
    if not given:
        raise KitError("data.data_path: expected a price file or a folder, found nothing; name the competition's train.csv")
    found: list[Path] = []
    for path in given:
        inside = sorted(p for p in path.iterdir() if _is_price_file(p)) if path.is_dir() else [path]
        if not inside:
            raise KitError(f"{path}: expected price files ({', '.join(SUFFIXES)}), found none in this folder")
        found += inside
    return found


def describe(path: Path, content: bool = True) -> dict[str, Any]:
    """What identifies a source: name, size, time of its last change and, with `content`, the SHA-256 of its bytes."""
    state = path.stat()
    facts: dict[str, Any] = {"name": path.name, "bytes": state.st_size, "mtime_ns": state.st_mtime_ns}
    return {**facts, "sha256": files.digest(path)} if content else facts


def read(paths: list[Path]) -> Panel:
    """Read all files into one panel. Raises KitError naming file, column and line of what stops it."""
    with ThreadPoolExecutor(1) as pool:  # digests are taken beside the parsing, from the same cached pages
        opened = [blocks.open_source(path) for path in paths]
        digests: list[Future[dict[str, Any]]] = [pool.submit(describe, path) for path in paths]
        reader = _Reader()
        try:
            for number, source in enumerate(opened):
                reader.add(source, number)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        panel = _arrange(reader, paths)
        panel.sources = [{**d.result(), "rows": rows} for d, rows in zip(digests, reader.rows, strict=True)]
    return panel


# -- reading -----------------------------------------------------------------------------------------------------------
class _Reader:
    """Collects the blocks of all files and what they have in common."""

    def __init__(self) -> None:
        self.blocks: list[_Block] = []
        self.rows: list[int] = []
        self.missing_key = 0
        self.roles: frozenset[str] | None = None
        self.ignored: dict[str, None] = {}
        self.form: dates.DateForm | None = None
        self.first = Path()

    def add(self, source: blocks.Source, number: int) -> None:
        """Read one file to its end."""
        layout = competition.layout_of(source.path, source.names)
        self._agree(source.path, layout)
        self.ignored.update(dict.fromkeys(layout.ignored))
        self.rows.append(0)
        numbers = [role for role in competition.NUMBERS if role in layout.roles]
        with tqdm(desc=f"reading {source.path.name}", unit=" rows", unit_scale=True, disable=None, leave=False) as bar:
            for line, frame in source.frames(layout.roles, numbers):
                self._add_frame(source.path, layout, number, line, frame)
                bar.update(len(frame))
        if not self.rows[-1]:
            raise KitError(f"{source.path}: expected rows with a date, found none")

    def _agree(self, path: Path, layout: competition.Layout) -> None:
        roles = frozenset(layout.roles)
        if self.roles is None:
            self.roles, self.first = roles, path
        for role in IN_ALL_OR_NONE:
            if (role in roles) != (role in self.roles):
                has, lacks = (path, self.first) if role in roles else (self.first, path)
                name = competition.ROLES[role][0]
                raise KitError(f"{lacks}: expected the same columns as in {has}, found no {name}; add it or remove it everywhere")

    def _add_frame(self, path: Path, layout: competition.Layout, number: int, line: int, frame: pl.DataFrame) -> None:
        column = layout.names[layout.roles["date"]]
        date, seconds = self._dates(path, column, line, frame["date"])
        ticker, names = self._tickers(path, layout, line, frame)
        values = np.empty((len(frame), len(FEATURES)), dtype=np.float32)
        for position, feature in enumerate(FEATURES):
            values[:, position] = frame[feature].to_numpy() if feature in frame.columns else np.nan
        split = (frame["split"].fill_null(0) != 0).to_numpy() if "split" in frame.columns else np.zeros(len(frame), dtype=bool)
        block = _Block(values, split, ticker, date, names, seconds, number)
        nowhere = (ticker < 0) | (date < 0)
        if nowhere.any():
            blank = int(frame.select(pl.all_horizontal(pl.all().is_null())).to_series().sum())
            self.missing_key += int(nowhere.sum()) - blank
            self.rows[-1] -= blank
            there = ~nowhere
            block.values, block.split, block.ticker, block.date = values[there], split[there], ticker[there], date[there]
        self.rows[-1] += len(frame)
        self.blocks.append(block)

    def _dates(self, path: Path, column: str, line: int, values: pl.Series) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
        """(n,) codes and the distinct dates they mean, in seconds."""
        if values.dtype == pl.Date or isinstance(values.dtype, pl.Datetime):
            wall = values.dt.replace_time_zone(None) if isinstance(values.dtype, pl.Datetime) else values
            stamps = wall.cast(pl.Datetime("ms"))
            distinct, places = np.unique(_seconds(stamps), return_inverse=True)
            return _narrow(np.where(stamps.is_null().to_numpy(), -1, places), len(distinct)), distinct
        if values.dtype != pl.String:
            raise KitError(f"{path}: no parseable dates: column {column} holds {values.dtype}; write them as YYYY-MM-DD")
        codes, distinct_text = _encode(values)
        if self.form is None:
            self.form = dates.detect(path, values)
        parsed, bad = dates.parse(distinct_text, self.form)
        if bad is not None:
            row = int(np.argmax(codes == bad))
            raise KitError(
                f"{path}: line {line + row}, column {column}: expected a date like {self.form.example!r}, as at the start, "
                f"found {blocks.shown_value(distinct_text[bad])}"
            )
        return _without(codes, parsed.is_null().to_numpy()), _seconds(parsed)

    def _tickers(
        self, path: Path, layout: competition.Layout, line: int, frame: pl.DataFrame
    ) -> tuple[NDArray[np.integer], pl.Series]:
        if "ticker" not in layout.roles:
            return np.zeros(len(frame), dtype=np.int16), pl.Series([_stem(path)])
        codes, names = _encode(frame["ticker"])
        names = names.str.strip_chars()
        strange = (names.str.len_chars() > LONGEST_NAME) | names.str.contains(r"\p{Cc}")
        if strange.any():
            bad = strange.arg_max() or 0
            row, column = int(np.argmax(codes == bad)), layout.names[layout.roles["ticker"]]
            raise KitError(f"{path}: line {line + row}, column {column}: expected a name, found {blocks.shown_value(names[bad])}")
        return _without(codes, (names == "").to_numpy()), names


def _seconds(stamps: pl.Series) -> NDArray[np.int64]:
    """Milliseconds' datetimes to seconds since 1970; null to 0."""
    return stamps.cast(pl.Int64).fill_null(0).to_numpy() // 1000


def _encode(text: pl.Series) -> tuple[NDArray[np.integer], pl.Series]:
    """(n,) codes, -1 for null, and the distinct strings they mean."""
    coded = text.cast(pl.Categorical)
    distinct = coded.unique().drop_nulls()
    physical = distinct.to_physical().to_numpy()
    table = np.full(int(physical.max(initial=0)) + 2, -1, dtype=np.int32)  # the last entry stands for null
    table[physical] = np.arange(len(physical))
    codes = table[coded.to_physical().fill_null(len(table) - 1).to_numpy()]
    return _narrow(codes, len(physical)), distinct.cast(pl.String)


def _narrow(codes: NDArray[np.integer], distinct: int) -> NDArray[np.integer]:
    return codes.astype(np.int16 if distinct < 2**15 else np.int32)


def _without(codes: NDArray[np.integer], empty: NDArray[np.bool_]) -> NDArray[np.integer]:
    """The codes with -1 in place of those that mean nothing."""
    if empty.any():
        codes[empty[codes] & (codes >= 0)] = -1
    return codes


# -- arranging ---------------------------------------------------------------------------------------------------------
def _arrange(reader: _Reader, paths: list[Path]) -> Panel:
    """Blocks in file order to one panel in ticker-major order. The blocks are used up."""
    names = pl.concat([block.names for block in reader.blocks])
    tickers = names.filter(names != "").unique().sort()
    table = pl.DataFrame({"name": tickers, "code": np.arange(len(tickers), dtype=np.int64)})
    codes = names.to_frame("name").join(table, on="name", how="left", maintain_order="left")["code"].fill_null(-1).to_numpy()
    sessions = np.unique(np.concatenate([block.seconds for block in reader.blocks]))
    start = 0
    counts = np.zeros(len(tickers), dtype=np.int64)
    for block in reader.blocks:
        block.ticker = _narrow(codes[start : start + len(block.names)][block.ticker], len(tickers))
        start += len(block.names)
        counts += np.bincount(block.ticker, minlength=len(tickers))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    values, session, split, file = _scatter(reader, offsets, sessions, several=len(paths) > 1)
    name = str(paths[0]) + (f" and {len(paths) - 1:,} more" if len(paths) > 1 else "")
    panel = Panel(
        name, values, session, split, sessions.astype("datetime64[s]"), offsets, tickers.to_list(), reader.roles or frozenset(),
        list(reader.ignored), read=sum(reader.rows), missing_key=reader.missing_key,
    )  # fmt: skip
    _sort_dates(panel, file)
    if file is not None:
        _refuse_contradictions(panel, file, paths)
    return panel


def _scatter(
    reader: _Reader, offsets: NDArray[np.int64], sessions: NDArray[np.int64], several: bool
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.bool_], NDArray[np.uint16] | None]:
    """A counting sort by ticker, block by block: each row goes to its ticker's next free place."""
    rows = int(offsets[-1])
    values, session = np.empty((rows, len(FEATURES)), dtype=np.float32), np.empty(rows, dtype=np.int32)
    split, file = np.empty(rows, dtype=bool), np.empty(rows, dtype=np.uint16) if several else None
    free = offsets[:-1].copy()
    while reader.blocks:
        block = reader.blocks.pop(0)
        order = np.argsort(block.ticker, kind="stable")
        ticker = block.ticker[order]
        first = np.flatnonzero(np.concatenate([[True], ticker[1:] != ticker[:-1]])) if len(ticker) else np.zeros(0, np.int64)
        length = np.diff(np.append(first, len(ticker)))
        place = np.empty(len(ticker), dtype=np.int64)
        place[order] = np.arange(len(ticker)) + np.repeat(free[ticker[first]] - first, length)
        free[ticker[first]] += length
        values[place] = block.values
        session[place] = np.searchsorted(sessions, block.seconds).astype(np.int32)[block.date]
        split[place] = block.split
        if file is not None:
            file[place] = block.file
    return values, session, split, file


def _sort_dates(panel: Panel, file: NDArray[np.uint16] | None) -> None:
    """Bring the rows of tickers whose dates fall somewhere into order; equal dates keep their order in the file."""
    falling = _same_ticker(panel.offsets) & (panel.session[1:] < panel.session[:-1])
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


def _refuse_contradictions(panel: Panel, file: NDArray[np.uint16], paths: list[Path]) -> None:
    """Two files that give one ticker different bars on one date: which one is right is not ours to say."""
    twice = _same_ticker(panel.offsets) & (panel.session[1:] == panel.session[:-1]) & (file[1:] != file[:-1])
    rows = np.flatnonzero(twice)
    a, b = panel.values[rows], panel.values[rows + 1]
    differs = ~((a == b) | (np.isnan(a) & np.isnan(b))).all(axis=1)
    if differs.any():
        row = int(rows[np.argmax(differs)])
        ticker = panel.tickers[int(np.searchsorted(panel.offsets, row, side="right")) - 1]
        date = panel.sessions[panel.session[row]]
        raise KitError(
            f"{paths[file[row + 1]]}: {ticker} on {date} differs from the same bar in {paths[file[row]]} "
            f"({int(differs.sum()):,} bars do); keep one of the two files"
        )


def _same_ticker(offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(N - 1,) whether a row and the next one belong to one ticker."""
    same = np.ones(max(int(offsets[-1]) - 1, 0), dtype=bool)
    inner = offsets[1:-1]
    same[inner[(inner > 0) & (inner < offsets[-1])] - 1] = False
    return same


# -- names -------------------------------------------------------------------------------------------------------------
def _is_price_file(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".") and not path.is_dir()


def _stem(path: Path) -> str:
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), path.suffix)
    return path.name[: len(path.name) - len(suffix)]
