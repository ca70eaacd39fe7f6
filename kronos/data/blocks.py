"""Price files in pieces: a CSV, .csv.gz or Parquet file as frames of a few hundred thousand rows.

In: a path. Out: its column names, then (line of the first row, frame) with the wanted columns under the names
of their roles, numbers as Float32. A file that cannot be read stops with one line naming file, column and
line. Memory stays at one piece, whatever the file's size; the next piece is read while the last one is
parsed. The bytes: `text_pieces`; what becomes of a piece: `csv_rows`.
"""

import csv
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import polars as pl

from kronos.data.csv_rows import Parser
from kronos.data.forms import PLAIN, Form
from kronos.data.numerals import marks_of, numbers_from_text, refuse_huge
from kronos.data.text_pieces import (
    LONGEST_LINE,
    Piece,
    crc32_of,
    guarded,
    one_line,
    opened,
    pieces,
    refuse_missing,
)
from kronos.errors import KitError

PARSING = 2
"""Pieces at once: the parser uses every core for one piece, but not all the time."""
PIECE_ROWS = 500_000

Frames = Iterator[tuple[int, pl.DataFrame]]
S = TypeVar("S")
T = TypeVar("T")


@dataclass
class CsvSource:
    """A CSV file, compressed or not."""

    path: Path
    names: tuple[str, ...]
    form: Form = PLAIN
    crc32: int = 0
    """Of the file's bytes, once `frames` has come to its end."""

    @classmethod
    def open(cls, path: Path) -> "CsvSource":
        """Read the header. Raises KitError when there is no such file, or no CSV header in it."""
        with opened(path) as (handle, _):
            header = guarded(path, lambda: handle.readline(LONGEST_LINE))
        return cls(path, _header(path, header))

    def frames(self, roles: dict[str, int], numbers: Sequence[str]) -> Frames:
        """Pieces with the columns of `roles` {name: position}: `numbers` as Float32, the others as
        strings.
        """
        names = [f"_{position}" for position in range(len(self.names))]
        for name, position in roles.items():
            names[position] = name
        parser = Parser(self.path, self.names, names, tuple(numbers), self.form.separator)
        line, rows = self.form.skipped + 1, 0
        for blank, piece, tried in _under_way(partial(_tried, parser), _ahead(self._pieces()), PARSING):
            line += blank
            if piece.text:
                frame, lines = parser.settle(tried, piece, line)
                yield line, frame.select(list(roles))
                line, rows = line + lines, rows + len(frame)
        if not rows:
            raise KitError(f"{self.path}: expected rows below the header, found none")

    def _pieces(self) -> Iterator[Piece]:
        self.crc32 = yield from pieces(self.path, self.form)


@dataclass(frozen=True)
class ParquetSource:
    """A Parquet file."""

    path: Path
    names: tuple[str, ...]
    rows: int
    crc32: int

    @classmethod
    def open(cls, path: Path) -> "ParquetSource":
        """Read the schema. Raises KitError when this is no Parquet file."""
        refuse_missing(path)
        try:
            scan = _scan(path)
            names = tuple(scan.collect_schema().names())
            rows = int(scan.select(pl.len()).collect().item())
        except (pl.exceptions.PolarsError, OSError) as error:
            raise KitError(f"{path}: not readable as Parquet: {one_line(error)}") from error
        return cls(path, names, rows, crc32_of(path))

    def frames(self, roles: dict[str, int], numbers: Sequence[str]) -> Frames:
        """Pieces as `CsvSource.frames`; dates keep their type."""
        columns = {self.names[position]: name for name, position in roles.items()}
        if not self.rows:
            raise KitError(f"{self.path}: expected rows, found none")
        for start in range(0, self.rows, PIECE_ROWS):
            try:
                scan = _scan(self.path).select(pl.col(old).alias(new) for old, new in columns.items())
                frame = scan.slice(start, PIECE_ROWS).collect()
            except (pl.exceptions.PolarsError, OSError) as error:
                raise KitError(f"{self.path}: not readable as Parquet: {one_line(error)}") from error
            typed = [self._number(frame[name], self.names[roles[name]], start) for name in numbers]
            text = [_names(frame["ticker"])] if "ticker" in roles else []
            yield start + 1, frame.with_columns(*typed, *text)

    def _number(self, values: pl.Series, column: str, start: int) -> pl.Series:
        place = f"{self.path}: row {{row}}, column {column}"
        if values.dtype == pl.String:
            return numbers_from_text(values, place, start + 1, marks_of(self.path, [values]))
        if not (values.dtype.is_numeric() or values.dtype == pl.Null):
            raise KitError(f"{self.path}: column {column}: expected numbers, found {values.dtype}")
        wide = values.cast(pl.Float64)
        if values.name != "split":
            refuse_huge(wide, values, place, start + 1)
        return wide.cast(pl.Float32)


def _scan(path: Path) -> pl.LazyFrame:
    """This file and its columns: by default polars reads [ ] * ? in a name as a pattern and x=1 in a folder's
    as a column.
    """
    return pl.scan_parquet(path, glob=False, hive_partitioning=False)


def _names(tickers: pl.Series) -> pl.Series:
    """Tickers as text; pandas writes numbers with gaps as floats, and NaN is a gap and no name."""
    return (tickers.fill_nan(None) if tickers.dtype.is_float() else tickers).cast(pl.String)


Source = CsvSource | ParquetSource


def open_source(path: Path) -> Source:
    """Open a price file by its name: .parquet / .pq, else CSV."""
    return ParquetSource.open(path) if is_parquet(path) else CsvSource.open(path)


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet, by its name."""
    return path.suffix.lower() in (".parquet", ".pq")


def _header(path: Path, line: bytes) -> tuple[str, ...]:
    if not line.strip():
        raise KitError(
            f"{path}: expected a CSV file, found {'an empty first line' if line else 'an empty file'}"
        )
    if line.startswith(b"PK\x03\x04"):
        raise KitError(
            f"{path}: expected a CSV or Parquet file, found a zip archive or an Excel file; unpack it, or save the sheet as CSV"
        )
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise KitError(f"{path}: expected UTF-8 text, found UTF-16; save the file as UTF-8")
    try:
        text = line.removeprefix(b"\xef\xbb\xbf").decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise KitError(
            f"{path}: line 1: expected UTF-8 text, found the byte 0x{line[error.start]:02x}; if this is a CSV file, save it "
            "as UTF-8"
        ) from error
    if not text.replace("\t", "").isprintable():
        raise KitError(
            f"{path}: line 1: expected column names, found control characters; is this a CSV file?"
        )
    if len(line) >= LONGEST_LINE:
        raise KitError(
            f"{path}: line 1: expected column names, found a line of more than {LONGEST_LINE:,} bytes"
        )
    return tuple(name.strip() for name in _fields_of(path, text))


def _fields_of(path: Path, header: str) -> list[str]:
    reader = csv.reader([header, '"'])  # the second line is only read where the first one leaves a quote open
    try:
        names = next(reader)
    except csv.Error as error:
        raise KitError(
            f"{path}: line 1: expected column names, found a very long one ({error}); is this a CSV file?"
        ) from error
    if reader.line_num > 1:
        raise KitError(
            f"{path}: line 1: expected all column names on one line, found a quote that it does not close"
        )
    return names


def _tried(parser: Parser, piece: Piece) -> tuple[int, Piece, pl.DataFrame | None]:
    """Blank lines before a piece, the piece without them (the parser counts columns in the first line), and a
    first try at it.
    """
    text = piece.text
    rest = text.lstrip(b"\r\n") if text[:1] in (b"\r", b"\n") else text
    left = Piece(rest, piece.is_quoted)
    return text.count(b"\n", 0, len(text) - len(rest)), left, parser.fast(left) if rest else None


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made by another thread while the one before is worked on."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, items, None)
        while (item := following.result()) is not None:
            following = pool.submit(next, items, None)
            yield item


def _under_way(make: Callable[[S], T], items: Iterable[S], threads: int) -> Iterator[T]:
    """make(item), in order; the next ones are being made while the caller works on the last one."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[T]] = deque()
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
