"""Price files to one panel: every row read, nothing judged yet.

In: `data.data_path`: a CSV, .csv.gz or Parquet file, a list of them, or a folder with one file per ticker. Out: `Panel`. What
only a human can decide stops with one line: a missing column, dates of two forms, files that contradict each other.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tqdm import tqdm

from kronos import files
from kronos.bars import FEATURES
from kronos.data import blocks, competition, dates, numerals
from kronos.data.panel import Block, Panel, arrange, merged, narrow
from kronos.errors import KitError
from kronos.progress import progress

log = logging.getLogger(__name__)

SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq")
LONGEST_NAME = 100
SMALL_ROWS = 100_000
IN_ALL_OR_NONE = ("volume", "amount", "split", "ticker")  # columns that every file must have when one of them has


def find_sources(data_path: str | list[str]) -> list[Path]:
    """The files that data_path means, in reading order. Raises KitError when there are none."""
    given = [Path(p) for p in ([data_path] if isinstance(data_path, str) else data_path) if p]
    if not given:
        raise KitError("data.data_path: expected a price file or a folder, found nothing; name the competition's train.csv")
    found: list[Path] = []
    for path in given:
        if not path.exists():
            raise missing("data.data_path", path)
        inside = sorted(p for p in path.iterdir() if _is_price_file(p)) if path.is_dir() else [path]
        if not inside:
            raise KitError(f"{path}: expected price files ({', '.join(SUFFIXES)}), found none in this folder")
        found += inside
    return found


def missing(setting: str, path: Path) -> KitError:
    """The user's line for a path that does not exist, with the name there that is most like it."""
    near = files.near_name(path)
    hint = f"; {near} is there, is that meant?" if near else f"; set {setting} to where it is"
    return KitError(f"{path}: expected a file or folder ({setting}), found none{hint}")


def describe(path: Path) -> dict[str, Any]:
    """What a look at the folder shows of a source: name, size, time of its last change."""
    state = path.stat()
    return {"name": path.name, "bytes": state.st_size, "mtime_ns": state.st_mtime_ns}


def read(paths: list[Path]) -> Panel:
    """Read all files into one panel. Raises KitError naming file, column and line of what stops it."""
    known = [describe(path) if path.exists() else {} for path in paths]  # before: a change while we read must not go unseen
    opened = [blocks.open_source(path) for path in paths]
    reader = _Reader()
    total = sum(map(_likely_rows, opened))
    with progress("reading", total, "rows", scaled=True) as bar:
        for number, source in enumerate(opened):
            reader.add(source, number, bar)
    reader.flush()
    if not any(len(block.values) for block in reader.blocks):
        raise KitError(f"{paths[0]}: expected rows with a ticker and a date, found none in {sum(reader.rows):,} rows")
    panel = arrange(reader.blocks, paths, reader.roles or frozenset())
    panel.ignored, panel.read, panel.missing_key = list(reader.ignored), sum(reader.rows), reader.missing_key
    panel.sources = [
        {**facts, "crc32": source.crc32, "rows": rows} for facts, source, rows in zip(known, opened, reader.rows, strict=True)
    ]
    return panel


def _likely_rows(source: blocks.Source) -> float:
    """Rows of a file, for the time that is left: counted, or from its size and the mean length of its first lines (of a
    compressed one: as if it were a fifth of its text)."""
    if isinstance(source, blocks.ParquetSource):
        return source.rows
    with source.path.open("rb") as handle:
        start = handle.read(100_000)
    if source.path.suffix == ".gz":
        return source.path.stat().st_size * 5 / 80
    return source.path.stat().st_size / max(len(start), 1) * start.count(b"\n")


# -- reading -----------------------------------------------------------------------------------------------------------
class _Reader:
    """Collects the blocks of all files and what they have in common."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.small: list[Block] = []
        self.rows: list[int] = []
        self.missing_key = 0
        self.roles: frozenset[str] | None = None
        self.ignored: dict[str, None] = {}
        self.form: dates.DateForm | None = None
        self.first = Path()

    def add(self, source: blocks.Source, number: int, bar: "tqdm[Any]") -> None:
        """Read one file to its end."""
        layout = competition.layout_of(source.path, source.names)
        self._agree(source.path, layout)
        self.ignored.update(dict.fromkeys(layout.ignored))
        self.rows.append(0)
        numbers = [role for role in competition.NUMBERS if role in layout.roles]
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
        split = (
            (frame["split"].fill_nan(0).fill_null(0) != 0).to_numpy()
            if "split" in frame.columns
            else np.zeros(len(frame), dtype=bool)
        )
        block = Block(values, split, ticker, date, names, seconds, np.broadcast_to(np.uint32(number), len(frame)))
        nowhere = (ticker < 0) | (date < 0)
        if nowhere.any():
            blank = int(frame.select(pl.all_horizontal(pl.all().is_null())).to_series().sum())
            self.missing_key += int(nowhere.sum()) - blank
            self.rows[-1] -= blank
            there = ~nowhere
            block.values, block.split, block.ticker, block.date = values[there], split[there], ticker[there], date[there]
            block.file = block.file[there]
            used, block.date = np.unique(block.date, return_inverse=True)  # a date without a row is none of the data's
            block.seconds = seconds[used]
        self.rows[-1] += len(frame)
        self.small.append(block)
        if sum(len(b.values) for b in self.small) >= SMALL_ROWS:
            self.flush()

    def flush(self) -> None:
        """Give the waiting blocks of small files to the others, as one."""
        if self.small:
            self.blocks.append(merged(self.small) if len(self.small) > 1 else self.small[0])
        self.small = []

    def _dates(self, path: Path, column: str, line: int, values: pl.Series) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
        """(n,) codes and the distinct dates they mean, in seconds."""
        if values.dtype == pl.Date or isinstance(values.dtype, pl.Datetime):
            wall = values.dt.replace_time_zone(None) if isinstance(values.dtype, pl.Datetime) else values
            stamps = wall.cast(pl.Datetime("ms"))
            distinct, places = np.unique(_seconds(stamps), return_inverse=True)
            return narrow(np.where(stamps.is_null().to_numpy(), -1, places), len(distinct)), distinct
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
                f"found {numerals.shown_value(distinct_text[bad])}"
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
            raise KitError(
                f"{path}: line {line + row}, column {column}: expected a name, found {numerals.shown_value(names[bad])}"
            )
        return _without(codes, (names == "").to_numpy()), names


def _seconds(stamps: pl.Series) -> NDArray[np.int64]:
    """Milliseconds' datetimes to seconds since 1970; null to 0."""
    return stamps.cast(pl.Int64).fill_null(0).to_numpy() // 1000


def _encode(text: pl.Series) -> tuple[NDArray[np.integer], pl.Series]:
    """(n,) codes, -1 for null, and the distinct strings they mean."""
    coded = text.cast(pl.Categorical).to_physical()
    if coded.null_count():
        codes, distinct = _encode(text.drop_nulls())
        full = np.full(len(text), -1, dtype=codes.dtype)
        full[text.is_not_null().to_numpy()] = codes
        return full, distinct
    physical = coded.to_numpy()
    example = np.full(int(physical.max(initial=0)) + 1, -1, dtype=np.int32)  # a row of each string; other pieces' strings: -1
    example[physical] = np.arange(len(physical), dtype=np.int32)
    present = np.flatnonzero(example >= 0)
    table = np.empty_like(example)
    table[present] = np.arange(len(present))
    return narrow(table, len(present))[physical], text.gather(example[present])


def _without(codes: NDArray[np.integer], empty: NDArray[np.bool_]) -> NDArray[np.integer]:
    """The codes with -1 in place of those that mean nothing."""
    if empty.any():
        codes[empty[codes] & (codes >= 0)] = -1
    return codes


# -- names -------------------------------------------------------------------------------------------------------------
def _is_price_file(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".") and not path.is_dir()


def _stem(path: Path) -> str:
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), path.suffix)
    return path.name[: len(path.name) - len(suffix)]
