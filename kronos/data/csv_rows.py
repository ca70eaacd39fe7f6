"""Whole lines of a CSV file to a frame, or the one line that says where they are none.

In: a `Piece`. Out: a frame with numbers as Float32, the other columns as strings. A clean piece takes
`Parser.fast`; any doubt goes the slow way, which finds the place.
"""

import csv
import io
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from kronos.data.numerals import LARGEST, Marks, largest_of, marks_of, numbers_from_text, shown_value
from kronos.data.text_pieces import Piece, one_line
from kronos.errors import KitError

log = logging.getLogger(__name__)

FOOTER_LINES = 5
"""So many lines of prose at the end of a file are taken for what they are."""


@dataclass
class Parser:
    """The columns of one file, and how its numbers are written as far as it has been read."""

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

    def fast(self, piece: Piece) -> pl.DataFrame | None:
        """The frame of a clean piece; None where there is a doubt."""
        try:
            frame = self._read(piece, self.numbers)
        except pl.exceptions.PolarsError:
            return None
        largest = max((largest_of(frame[name]) for name in self.numbers if name != "split"), default=0.0)
        return frame if largest <= LARGEST else None

    def settle(self, frame: pl.DataFrame | None, piece: Piece, line: int) -> tuple[pl.DataFrame, int]:
        """The frame of a piece that begins at `line`, and the number of its lines: what `fast` gave, or what
        a careful look gives. Raises KitError."""
        if (
            frame is None or self.marks == "comma decimals"
        ):  # then 30.373 is no fraction, though it reads as one
            frame = self._slow(piece, line)
        lines = piece.text.count(b"\n") if piece.is_quoted else len(frame)
        if frame[self.names[-1]].null_count():
            frame = self._without_footer(piece, frame, line)
        self.settled += 1
        return frame, lines

    def _read(self, piece: Piece, numbers: Sequence[str]) -> pl.DataFrame:
        # Every column, also those that nobody needs: with a choice of columns, lines with too many fields
        # would pass.
        schema = {name: pl.Float32 if name in numbers else pl.String for name in self.names}
        quote = '"' if piece.is_quoted else None
        return pl.read_csv(
            piece.text, has_header=False, schema=schema, quote_char=quote, separator=self.separator
        )

    def _slow(self, piece: Piece, line: int) -> pl.DataFrame:
        try:
            frame = self._read(piece, ())
        except pl.exceptions.PolarsError as error:
            raise self._unreadable(piece.text, line, error) from error
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
                hint = ""
                if len(fields) == len(self.names) + 1 and not fields[-1].strip():
                    hint = f"; the rows end with {self.separator!r} and the line of names does not: add one there"
                return KitError(
                    f"{self.path}: line {number}: expected {len(self.names)} fields, found {len(fields)}{hint}"
                )
        return KitError(
            f"{self.path}: between line {line} and {line + text.count(chr(10))}: not readable as CSV: {one_line(error)}"
        )

    def _without_footer(self, piece: Piece, frame: pl.DataFrame, line: int) -> pl.DataFrame:
        """A line with too few fields reads as missing values: tell it from a last column that is empty.

        Lines of prose at the end ("Downloaded from ...") are left out, with a word; any other short line is
        refused.
        """
        width = len(self.names)
        separators = int(np.count_nonzero(np.frombuffer(piece.text, np.uint8) == ord(self.separator)))
        if separators == len(frame) * (width - 1) and not piece.is_quoted:
            return frame
        rows = [
            (number, fields) for number, fields in self._fields(piece.text.decode("utf-8"), line) if fields
        ]
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


def _is_prose(fields: list[str]) -> bool:
    """Whether a short line is a sentence and no row that was cut off: one field of at least three words, or
    Chinese words and a colon.
    """
    if len(fields) != 1:
        return False
    words = re.findall(r"[^\W\d_]{2,}", fields[0])
    return (len(words) >= 3 and " " in fields[0]) or bool(re.match(r"[\u4e00-\u9fff]{2,}\s*[:：]", fields[0]))
