"""Price files in pieces: a CSV, .csv.gz or Parquet file as frames of a few hundred thousand rows.

In: a path. Out: its column names, then (line of the first row, frame) with the wanted columns under the names
of their roles, numbers as Float32. A file that cannot be read stops with one line naming file, column and
line. Memory stays at one piece, whatever the file's size; the next piece is read while the last one is
parsed. What a clean piece of a plain file goes through is `_Parser.fast`; everything else here runs after
that gave up.
"""

import codecs
import contextlib
import csv
import gzip
import io
import logging
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import numpy as np
import polars as pl

from kronos.data.forms import HEAD_BYTES, PLAIN, Form
from kronos.data.numerals import (
    LARGEST,
    Marks,
    largest_of,
    marks_of,
    numbers_from_text,
    refuse_huge,
    shown_value,
)
from kronos.errors import KitError

log = logging.getLogger(__name__)

PIECE_BYTES = (
    16 << 20
)  # above 32 MiB the allocator hands out fresh pages each time: measured 1.5 times slower
PARSING = 2  # pieces at once: the parser uses every core for one piece, but not all the time
PIECE_ROWS = 500_000
LONGEST_LINE = 4 << 20
FOOTER_LINES = 5
"""So many lines of prose at the end of a file are taken for what they are."""

Frames = Iterator[tuple[int, pl.DataFrame]]
S = TypeVar("S")
T = TypeVar("T")


class _Summed:
    """A file whose bytes are summed up as they pass: reading 2 GB a second time for a digest takes as long as
    parsing a tenth.
    """

    def __init__(self, handle: IO[bytes]) -> None:
        self.handle, self.crc32 = handle, 0

    def read(self, size: int = -1) -> bytes:
        data = self.handle.read(size)
        self.crc32 = zlib.crc32(data, self.crc32)
        return data

    def readline(self, size: int = -1) -> bytes:
        data = self.handle.readline(size)
        self.crc32 = zlib.crc32(data, self.crc32)
        return data

    def read_lines(self, size: int) -> tuple[bytes, bytes]:
        """As the function `_read_lines`, in one piece where the file can be wound back."""
        if not self.handle.seekable():
            return _read_lines(self, size)
        start = self.handle.tell()
        self.handle.seek(start + size - 1)
        rest = self.handle.readline(LONGEST_LINE + 1)
        self.handle.seek(start)
        return self.read(size - 1 + len(rest)), rest[1:]


def _read_lines(handle: "IO[bytes] | _Summed", size: int) -> tuple[bytes, bytes]:
    """About `size` bytes up to the end of a line, and what of them was read to come there."""
    piece = handle.read(size)
    rest = handle.readline(LONGEST_LINE) if piece and piece[-1:] != b"\n" else b""
    return (piece + rest if rest else piece), rest


def _is_inside_quotes(piece: bytes) -> bool:
    """Whether the end of a piece, which begins outside, lies in a quoted field: a line break there ends no
    row.
    """
    return b'"' in piece and bool(np.count_nonzero(np.frombuffer(piece, np.uint8) == ord('"')) % 2)


def _to_closing_quote(handle: "IO[bytes] | _Summed") -> bytes:
    """The lines up to the one that closes the quotes; about LONGEST_LINE bytes at most, for a quote may be a
    stray one.
    """
    lines: list[bytes] = []
    size = 0
    while size < LONGEST_LINE and (line := handle.readline()):
        lines.append(line)
        size += len(line)
        if line.count(b'"') % 2:
            break
    return b"".join(lines)


def crc32_of(path: Path) -> int:
    """CRC-32 of a file's bytes: sees every change, though not a forged one."""
    with path.open("rb") as handle:
        summed = _Summed(handle)
        while summed.read(1 << 18):
            pass
    return summed.crc32


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
        with _opened(path) as (handle, _):
            header = _guarded(path, lambda: handle.readline(LONGEST_LINE))
        return cls(path, _header(path, header))

    def frames(self, roles: dict[str, int], numbers: Sequence[str]) -> Frames:
        """Pieces with the columns of `roles` {name: position}: `numbers` as Float32, the others as
        strings.
        """
        names = [f"_{position}" for position in range(len(self.names))]
        for name, position in roles.items():
            names[position] = name
        parser = _Parser(self.path, self.names, names, tuple(numbers), self.form.separator)
        line, rows = self.form.skipped + 1, 0
        for blank, piece, tried in _under_way(partial(_tried, parser), _ahead(self._pieces()), PARSING):
            line += blank
            if piece:
                frame, lines = parser.settle(tried, piece, line)
                yield line, frame.select(list(roles))
                line, rows = line + lines, rows + len(frame)
        if not rows:
            raise KitError(f"{self.path}: expected rows below the header, found none")

    def _pieces(self) -> Iterator[bytes]:
        with _opened(self.path, self.form.encoding) as (handle, summed):
            for _ in range(self.form.skipped):
                _guarded(self.path, handle.readline)
            whole_lines = summed.read_lines if handle is summed else partial(_read_lines, handle)
            while True:
                piece, rest = _guarded(self.path, lambda: whole_lines(PIECE_BYTES))
                if len(rest) == LONGEST_LINE:
                    raise KitError(
                        f"{self.path}: expected lines, found one of more than {LONGEST_LINE:,} bytes; is this a CSV file?"
                    )
                if not piece:
                    break
                yield piece + (
                    _guarded(self.path, lambda: _to_closing_quote(handle))
                    if _is_inside_quotes(piece)
                    else b""
                )
            self.crc32 = summed.crc32


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
        _refuse_missing(path)
        try:
            scan = _scan(path)
            names = tuple(scan.collect_schema().names())
            rows = int(scan.select(pl.len()).collect().item())
        except (pl.exceptions.PolarsError, OSError) as error:
            raise KitError(f"{path}: not readable as Parquet: {_one_line(error)}") from error
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
                raise KitError(f"{self.path}: not readable as Parquet: {_one_line(error)}") from error
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


# -- parsing -------------------------------------------------------------------------------------------------
@dataclass
class _Parser:
    """Bytes of whole lines to a frame. The fast way takes a clean piece; any doubt goes the slow way, which
    finds the place.
    """

    path: Path
    written: tuple[str, ...]
    """Column names as in the file."""
    names: list[str]
    numbers: tuple[str, ...]
    separator: str
    marks: Marks = "plain"
    """What commas in numbers were found to mean; only `settle` writes and reads it, piece after piece."""
    settled: int = 0
    """Pieces that are done."""

    def fast(self, piece: bytes) -> pl.DataFrame | None:
        """The frame of a clean piece; None where there is a doubt."""
        try:
            frame = self._read(piece, self.numbers)
        except pl.exceptions.PolarsError:
            return None
        largest = max((largest_of(frame[name]) for name in self.numbers if name != "split"), default=0.0)
        return frame if largest <= LARGEST else None

    def settle(self, frame: pl.DataFrame | None, piece: bytes, line: int) -> tuple[pl.DataFrame, int]:
        """The frame of a piece that begins at `line`, and the number of its lines: what `fast` gave, or what
        a careful look gives. Raises KitError."""
        if (
            frame is None or self.marks == "comma decimals"
        ):  # then 30.373 is no fraction, though it reads as one
            frame = self._slow(piece, line)
        lines = piece.count(b"\n") if b'"' in piece else len(frame)
        if frame[self.names[-1]].null_count():
            frame = self._without_footer(piece, frame, line)
        self.settled += 1
        return frame, lines

    def _read(self, piece: bytes, numbers: Sequence[str]) -> pl.DataFrame:
        # Every column, also those that nobody needs: with a choice of columns, lines with too many fields
        # would pass.
        schema = {name: pl.Float32 if name in numbers else pl.String for name in self.names}
        quote = '"' if b'"' in piece else None
        return pl.read_csv(piece, has_header=False, schema=schema, quote_char=quote, separator=self.separator)

    def _slow(self, piece: bytes, line: int) -> pl.DataFrame:
        try:
            frame = self._read(piece, ())
        except pl.exceptions.PolarsError as error:
            raise self._unreadable(piece, line, error) from error
        if self.marks == "plain":
            self.marks = marks_of(self.path, [frame[name] for name in self.numbers])
            if self.marks == "comma decimals" and self.settled:
                raise KitError(
                    f"{self.path}: expected one way to write numbers, found decimal commas from line {line} on; "
                    "write all with a decimal point and without thousands separators"
                )
        places = {
            name: f"{self.path}: line {{row}}, column {self.written[self.names.index(name)]}"
            for name in self.numbers
        }
        numbers = [numbers_from_text(frame[name], places[name], line, self.marks) for name in self.numbers]
        return frame.with_columns(numbers)

    def _unreadable(self, piece: bytes, line: int, error: Exception) -> KitError:
        try:
            text = piece.decode("utf-8")
        except UnicodeDecodeError as wrong:
            at = line + piece.count(b"\n", 0, wrong.start)
            return KitError(
                f"{self.path}: line {at}: expected UTF-8 text, found the byte 0x{piece[wrong.start]:02x}; save the file as UTF-8"
            )
        for number, fields in self._fields(text, line):
            if fields and len(fields) != len(self.names):
                return KitError(
                    f"{self.path}: line {number}: expected {len(self.names)} fields, found {len(fields)}"
                )
        return KitError(
            f"{self.path}: between line {line} and {line + text.count(chr(10))}: not readable as CSV: {_one_line(error)}"
        )

    def _without_footer(self, piece: bytes, frame: pl.DataFrame, line: int) -> pl.DataFrame:
        """A line with too few fields reads as missing values: tell it from a last column that is empty.

        Lines of prose at the end ("Downloaded from ...") are left out, with a word; any other short line is
        refused.
        """
        width = len(self.names)
        separators = int(np.count_nonzero(np.frombuffer(piece, np.uint8) == ord(self.separator)))
        if separators == len(frame) * (width - 1) and b'"' not in piece:
            return frame
        rows = [(number, fields) for number, fields in self._fields(piece.decode("utf-8"), line) if fields]
        short = [place for place, (_, fields) in enumerate(rows) if len(fields) < width]
        if not short:
            return frame
        end = len(rows) - len(short)
        if (
            short == list(range(end, len(rows)))
            and len(short) <= FOOTER_LINES
            and all(_is_prose(rows[p][1]) for p in short)
        ):
            number, fields = rows[end]
            log.info("%s: line %d is no row, left out: %s", self.path, number, shown_value(", ".join(fields)))
            alone = pl.col(self.names[0]).is_not_null() & pl.all_horizontal(
                pl.exclude(self.names[0]).is_null()
            )
            found = np.flatnonzero(frame.select(alone).to_series().to_numpy())[-len(short) :]
            return frame.filter(~pl.Series(np.isin(np.arange(len(frame)), found)))
        number, fields = rows[short[0]]
        raise KitError(
            f"{self.path}: line {number}: expected {width} fields, found {len(fields)}; is the file truncated?"
        )

    def _fields(self, text: str, line: int) -> Iterator[tuple[int, list[str]]]:
        try:
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=self.separator)
            for fields in reader:
                yield line + reader.line_num - 1, fields
        except csv.Error as error:
            raise KitError(
                f"{self.path}: line {line + reader.line_num - 1}: not readable as CSV: {error}"
            ) from error


# -- files ---------------------------------------------------------------------------------------------------
def _refuse_missing(path: Path) -> None:
    if path.is_dir():
        raise KitError(f"{path}: expected a file, found a folder")
    if not path.exists():
        near = sorted(p.name for p in path.parent.iterdir())[:8] if path.parent.is_dir() else []
        beside = f"; beside it lie {', '.join(near)}" if near else ""
        raise KitError(f"{path}: expected a file, found none{beside}; correct the path or put the file there")


def _is_prose(fields: list[str]) -> bool:
    """Whether a short line is a sentence and no row that was cut off: one field of at least three words, or
    Chinese words and a colon.
    """
    if len(fields) != 1:
        return False
    words = re.findall(r"[^\W\d_]{2,}", fields[0])
    return (len(words) >= 3 and " " in fields[0]) or bool(re.match(r"[\u4e00-\u9fff]{2,}\s*[:：]", fields[0]))


class _Recoded(io.RawIOBase):
    """The UTF-8 text of a file in another encoding."""

    def __init__(self, handle: IO[bytes], encoding: str) -> None:
        self.handle, self.decoder = handle, codecs.getincrementaldecoder(encoding)("strict")
        self.waiting, self.ended = b"", False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.waiting and not self.ended:
            data = self.handle.read(1 << 16)
            self.ended = not data
            self.waiting = self.decoder.decode(data, final=self.ended).encode("utf-8")
        size = min(len(buffer), len(self.waiting))
        buffer[:size], self.waiting = self.waiting[:size], self.waiting[size:]
        return size


@contextlib.contextmanager
def _opened(path: Path, encoding: str = PLAIN.encoding) -> Iterator[tuple[IO[bytes], _Summed]]:
    """The UTF-8 text of a file, compressed or not, and the sum of the bytes read on the way."""
    _refuse_missing(path)
    with path.open("rb") as handle:
        summed = _Summed(handle)
        plain = cast(IO[bytes], summed)
        if path.suffix.lower() == ".gz":
            plain = cast(IO[bytes], gzip.GzipFile(fileobj=plain))
        if encoding != PLAIN.encoding:
            plain = cast(IO[bytes], io.BufferedReader(_Recoded(plain, encoding)))
        yield plain, summed


def head_of(path: Path) -> bytes:
    """The first bytes of a file's text, as they are. Raises KitError when it cannot be read."""
    with _opened(path) as (handle, _):
        return _guarded(path, lambda: handle.read(HEAD_BYTES))


def _guarded(path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise KitError(f"{path}: not readable as gzip: {_one_line(error)}; is the file truncated?") from error
    except UnicodeDecodeError as error:
        raise KitError(
            f"{path}: not readable as {error.encoding}: {error.reason}; save the file as UTF-8"
        ) from error
    except OSError as error:
        raise KitError(
            f"{path}: expected a readable file, found: {error.strerror}; is the disk or the network well?"
        ) from error


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


def _tried(parser: _Parser, piece: bytes) -> tuple[int, bytes, pl.DataFrame | None]:
    """Blank lines before a piece, the piece without them (the parser counts columns in the first line), and a
    first try at it.
    """
    rest = piece.lstrip(b"\r\n") if piece[:1] in (b"\r", b"\n") else piece
    return piece.count(b"\n", 0, len(piece) - len(rest)), rest, parser.fast(rest) if rest else None


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


def _one_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
