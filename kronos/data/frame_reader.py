"""Frames of price files to blocks: codes of tickers and dates, numbers in one array.

In: sources and layouts, file after file. Out: `Block`s, and what all files have in common: columns, the form of
dates, whether they name a zone. What contradicts it stops with one line naming file, column and line.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tqdm import tqdm

from kronos.bars import FEATURES
from kronos.data import blocks, dates, forms, numerals
from kronos.data.codes import encode
from kronos.data.column_roles import NUMBERS, PRICES, ROLES, Layout
from kronos.data.price_panel import Block, fresh, merged, narrow
from kronos.data.text_pieces import head_of
from kronos.errors import KitError

LONGEST_NAME = 100
SMALL_ROWS = 100_000
DAY = 86_400
IN_ALL_OR_NONE = (
    "volume",
    "amount",
    "split",
    "ticker",
)  # columns that every file must have when one of them has


class FrameReader:
    """Collects the blocks of all files and what they have in common. stems: the ticker of each file without a
    ticker column.
    """

    def __init__(self, stems: list[str]) -> None:
        self.stems = stems
        self.blocks: list[Block] = []
        self.small: list[Block] = []
        self.rows: list[int] = []
        self.missing_key = 0
        self.roles: frozenset[str] | None = None
        self.ignored: dict[str, None] = {}
        self.form: dates.DateForm | None = None
        self.zoned: bool | None = None
        self.midnight = True
        """Whether every time so far is midnight as written: then it is a date, whatever its zone."""
        self.said: dict[str, str] = {}
        """Ticker -> what the market column says."""
        self.first = Path()

    @property
    def has_zone(self) -> bool:
        """Whether the blocks hold UTC."""
        return bool(self.zoned) and not self.midnight

    def add(
        self, source: blocks.Source, layout: Layout, number: int, bar: "tqdm[Any]"
    ) -> tuple[blocks.Source, Layout]:
        """Read one file to its end. Returns what it was read as: a first piece that cannot be read may show
        another form.
        """
        self.rows.append(0)
        try:
            first, frames = _started(source, layout)
        except KitError:
            found = _other_form(source, layout)
            if found is None:
                raise
            source, layout = found
            first, frames = _started(source, layout)
        self._agree(source.path, layout)
        self.ignored.update(dict.fromkeys(layout.ignored))
        for line, frame in itertools.chain([first], frames):
            for part in _one_ticker_a_row(layout, frame):
                self._add_frame(source.path, layout, number, line, part)
            bar.update(len(frame))
        if not self.rows[-1]:
            raise KitError(f"{source.path}: expected rows with a date, found none")
        return source, layout

    def finish(self) -> None:
        """Nothing more comes: dates that are midnight everywhere are days, others with a zone are moments."""
        self.flush()
        if not self.has_zone:
            for block in self.blocks:
                block.seconds = block.wall

    def _agree(self, path: Path, layout: Layout) -> None:
        roles = frozenset(layout.roles)
        if self.roles is None:
            self.roles, self.first = roles, path
        for role in IN_ALL_OR_NONE:
            if (role in roles) != (role in self.roles):
                has, lacks = (path, self.first) if role in roles else (self.first, path)
                name = ROLES[role][0][0]
                raise KitError(
                    f"{lacks}: expected the same columns as in {has}, found no {name}; add it or remove it everywhere"
                )

    def _add_frame(self, path: Path, layout: Layout, number: int, line: int, frame: pl.DataFrame) -> None:
        date, seconds, wall = self._dates(path, layout, line, frame)
        ticker, names = self._tickers(path, layout, number, line, frame)
        values = fresh((len(frame), len(FEATURES)), np.float32)
        for position, feature in enumerate(FEATURES):
            values[:, position] = frame[feature].to_numpy() if feature in frame.columns else np.nan
        split = np.zeros(len(frame), dtype=bool)
        if "split" in frame.columns:
            ratio = frame["split"].to_numpy()  # NaN where nothing stands
            split = (ratio != 0) & (ratio != 1) & (ratio == ratio)  # some write 1 where nothing is split
        block = Block(
            values, split, ticker, date, names, seconds, wall, np.broadcast_to(np.uint32(number), len(frame))
        )
        nowhere = (ticker < 0) | (date < 0)
        if nowhere.any():
            blank = int(frame.select(pl.all_horizontal(pl.all().is_null())).to_series().sum())
            self.missing_key += int(nowhere.sum()) - blank
            self.rows[-1] -= blank
            there = ~nowhere
            block.values, block.split, block.ticker, block.date = (
                values[there],
                split[there],
                ticker[there],
                date[there],
            )
            block.file = block.file[there]
            used, block.date = np.unique(
                block.date, return_inverse=True
            )  # a date without a row is none of the data's
            block.seconds, block.wall = seconds[used], wall[used]
        self.midnight = self.midnight and not (block.wall % DAY).any()
        self.rows[-1] += len(frame)
        self.small.append(block)
        if sum(len(b.values) for b in self.small) >= SMALL_ROWS:
            self.flush()

    def flush(self) -> None:
        """Give the waiting blocks of small files to the others, as one."""
        if self.small:
            self.blocks.append(merged(self.small) if len(self.small) > 1 else self.small[0])
        self.small = []

    def _dates(
        self, path: Path, layout: Layout, line: int, frame: pl.DataFrame
    ) -> tuple[NDArray[np.integer], NDArray[np.int64], NDArray[np.int64]]:
        """(n,) codes and the distinct dates they mean, in seconds: of UTC where they have a zone, and as
        written.
        """
        column, values = layout.names[layout.roles["date"]], frame["date"]
        if values.dtype.is_integer() or values.dtype.is_float():
            values = (
                values.fill_nan(None).cast(pl.Int64).cast(pl.String)
                if values.dtype.is_float()
                else values.cast(pl.String)
            )
        if "time" in frame.columns:
            values = dates.joined(_text(values), _text(frame["time"]))
        if values.dtype == pl.Date or isinstance(values.dtype, pl.Datetime):
            return self._typed_dates(path, values)
        if values.dtype != pl.String:
            raise KitError(
                f"{path}: no parseable dates: column {column} holds {values.dtype}; write them as YYYY-MM-DD"
            )
        codes, distinct_text = encode(values)
        if self.form is None:
            self.form = dates.detect(path, values)
        parsed = dates.parse(distinct_text, self.form)
        if parsed.bad is not None:
            row = int(np.argmax(codes == parsed.bad))
            raise KitError(
                f"{path}: line {line + row}, column {column}: expected a date like {self.form.example!r}, as at the start, "
                f"found {numerals.shown_value(distinct_text[parsed.bad])}"
            )
        dates.refuse_other_years(path, parsed, self.form)
        self._agree_on_zone(path, self.form.has_zone)
        wall = _seconds(parsed.wall)
        seconds = wall if parsed.moment is None else _seconds(parsed.moment)
        return _without(codes, parsed.wall.is_null().to_numpy()), seconds, wall

    def _typed_dates(
        self, path: Path, values: pl.Series
    ) -> tuple[NDArray[np.integer], NDArray[np.int64], NDArray[np.int64]]:
        """As `_dates`, of a Parquet file's dates and times."""
        zone = values.dtype.time_zone if isinstance(values.dtype, pl.Datetime) else None
        self._agree_on_zone(path, zone is not None)
        distinct = values.unique().drop_nulls().sort()
        codes = np.full(len(values), -1, dtype=np.int64)
        present = values.is_not_null().to_numpy()
        codes[present] = (
            distinct.to_physical().to_numpy().searchsorted(values.to_physical().to_numpy()[present])
        )
        wall = distinct.dt.replace_time_zone(None) if zone is not None else distinct
        moment = (
            distinct.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if zone is not None else distinct
        )
        seconds, written = (_seconds(stamps.cast(pl.Datetime("ms"))) for stamps in (moment, wall))
        return narrow(codes, max(len(distinct), 1)), seconds, written

    def _agree_on_zone(self, path: Path, has_zone: bool) -> None:
        if self.zoned is None:
            self.zoned = has_zone
        if self.zoned != has_zone:
            raise KitError(
                f"{path}: expected times {'with' if self.zoned else 'without'} a zone, as in {self.first}, found them "
                f"{'with' if has_zone else 'without'}; write all in one way"
            )

    def _tickers(
        self, path: Path, layout: Layout, number: int, line: int, frame: pl.DataFrame
    ) -> tuple[NDArray[np.integer], pl.Series]:
        if "ticker" not in frame.columns:
            return np.zeros(len(frame), dtype=np.int16), pl.Series([self.stems[number]])
        codes, names = encode(frame["ticker"])
        names = names.str.strip_chars().str.strip_prefix("'")  # before a code that Excel is to take for text
        strange = (names.str.len_chars() > LONGEST_NAME) | names.str.contains(r"\p{Cc}")
        if strange.any():
            bad = strange.arg_max() or 0
            row, column = int(np.argmax(codes == bad)), layout.names[layout.roles["ticker"]]
            raise KitError(
                f"{path}: line {line + row}, column {column}: expected a name, found {numerals.shown_value(names[bad])}"
            )
        if "market" in frame.columns:
            self._listen(path, frame)
        return _without(codes, (names == "").to_numpy()), names

    def _listen(self, path: Path, frame: pl.DataFrame) -> None:
        """Remember what the market column says about each ticker."""
        pairs = (
            frame.select(pl.col("ticker", "market").cast(pl.String).str.strip_chars()).drop_nulls().unique()
        )
        for ticker, market in pairs.iter_rows():
            if self.said.setdefault(ticker, market) != market:
                raise KitError(
                    f"{path}: expected one market for {ticker}, found {self.said[ticker]!r} and {market!r}"
                )


def _started(source: blocks.Source, layout: Layout) -> tuple[tuple[int, pl.DataFrame], blocks.Frames]:
    """The first piece of a file, and the others."""
    frames = source.frames(*_wanted(layout))
    return next(frames), frames


def _other_form(source: blocks.Source, layout: Layout) -> tuple[blocks.Source, Layout] | None:
    """The form of a file whose first rows are no rows under its first line; None where there is none but the
    one tried.
    """
    if not isinstance(source, blocks.CsvSource) or source.form != forms.PLAIN or not source.path.is_file():
        return None
    found = forms.diagnose(source.path, head_of(source.path), {})
    if found is None or found[0] == forms.PLAIN or not found[1].groups:
        return None
    form, layout = found
    return blocks.CsvSource(source.path, layout.names, form), layout


def _wanted(layout: Layout) -> tuple[dict[str, int], list[str]]:
    """The columns to read {name: position}, and which of them hold numbers. Tickers side by side: names with
    a number.
    """
    if not layout.groups:
        return layout.roles, [role for role in NUMBERS if role in layout.roles]
    roles = {"date": layout.roles["date"]}
    for place, (_, group) in enumerate(layout.groups):
        roles |= {f"{role} {place}": position for role, position in group.items() if role != "date"}
    return roles, [name for name in roles if name != "date"]


def _one_ticker_a_row(layout: Layout, frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The frame itself, or one for each of the tickers that stand side by side; a ticker has no bar where all
    prices lack.
    """
    if not layout.groups:
        yield frame
    for place, (ticker, group) in enumerate(layout.groups):
        names = [role for role in group if role != "date"]
        part = frame.select(
            "date", pl.lit(ticker).alias("ticker"), *(pl.col(f"{role} {place}").alias(role) for role in names)
        )
        yield part.filter(pl.any_horizontal(pl.col(PRICES).is_not_null() & pl.col(PRICES).is_not_nan()))


def _text(values: pl.Series) -> pl.Series:
    return values if values.dtype == pl.String else values.cast(pl.String)


def _seconds(stamps: pl.Series) -> NDArray[np.int64]:
    """Milliseconds' datetimes to seconds since 1970; null to 0."""
    return stamps.cast(pl.Int64).fill_null(0).to_numpy() // 1000


def _without(codes: NDArray[np.integer], empty: NDArray[np.bool_]) -> NDArray[np.integer]:
    """The codes with -1 in place of those that mean nothing."""
    if empty.any():
        codes[empty[codes] & (codes >= 0)] = -1
    return codes
