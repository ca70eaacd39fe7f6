"""A price file's text in pieces of whole lines, and the CRC-32 of its bytes.

In: a path, its encoding, how many lines to skip. Out: `Piece`s of a few hundred thousand rows as UTF-8; a row
whose quotes hold line breaks is never cut. Compressed and recoded files come out alike. What cannot be read
stops with one line. Memory stays at one piece.
"""

import codecs
import contextlib
import gzip
import io
import zlib
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar, cast

import numpy as np

from kronos.data.forms import HEAD_BYTES, PLAIN, Form
from kronos.errors import KitError

PIECE_BYTES = 16 << 20
"""Above 32 MiB the allocator hands out fresh pages each time: measured 1.5 times slower."""
LONGEST_LINE = 4 << 20

T = TypeVar("T")


class Piece(NamedTuple):
    """Whole lines of a file."""

    text: bytes
    is_quoted: bool
    """Whether a quotation mark is in it: looked for once, since a look takes as long as reading the file."""


class Summed:
    """A file whose bytes are summed up as they pass: reading 2 GB a second time for a digest takes as long as
    parsing a tenth.
    """

    def __init__(self, handle: IO[bytes]) -> None:
        self.handle, self.crc32 = handle, 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes, which also go into the checksum."""
        data = self.handle.read(size)
        self.crc32 = zlib.crc32(data, self.crc32)
        return data

    def readline(self, size: int = -1) -> bytes:
        """The next line, which also goes into the checksum."""
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


def _read_lines(handle: "IO[bytes] | Summed", size: int) -> tuple[bytes, bytes]:
    """About `size` bytes up to the end of a line, and what of them was read to come there."""
    piece = handle.read(size)
    rest = handle.readline(LONGEST_LINE) if piece and piece[-1:] != b"\n" else b""
    return (piece + rest if rest else piece), rest


def _is_inside_quotes(piece: bytes) -> bool:
    """Whether the end of a piece, which begins outside, lies in a quoted field: a line break there ends no
    row.
    """
    return bool(np.count_nonzero(np.frombuffer(piece, np.uint8) == ord('"')) % 2)


def _to_closing_quote(handle: "IO[bytes] | Summed") -> bytes:
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
        summed = Summed(handle)
        while summed.read(1 << 18):
            pass
    return summed.crc32


def refuse_missing(path: Path) -> None:
    """Raise KitError where no file is, with the names beside it."""
    if path.is_dir():
        raise KitError(f"{path}: expected a file, found a folder")
    if not path.exists():
        near = sorted(p.name for p in path.parent.iterdir())[:8] if path.parent.is_dir() else []
        beside = f"; beside it lie {', '.join(near)}" if near else ""
        raise KitError(f"{path}: expected a file, found none{beside}; correct the path or put the file there")


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
def opened(path: Path, encoding: str = PLAIN.encoding) -> Iterator[tuple[IO[bytes], Summed]]:
    """The UTF-8 text of a file, compressed or not, and the sum of the bytes read on the way."""
    refuse_missing(path)
    with path.open("rb") as handle:
        summed = Summed(handle)
        plain = cast(IO[bytes], summed)
        if path.suffix.lower() == ".gz":
            plain = cast(IO[bytes], gzip.GzipFile(fileobj=plain))
        if encoding != PLAIN.encoding:
            plain = cast(IO[bytes], io.BufferedReader(_Recoded(plain, encoding)))
        yield plain, summed


def head_of(path: Path) -> bytes:
    """The first bytes of a file's text, as they are. Raises KitError when it cannot be read."""
    with opened(path) as (handle, _):
        return guarded(path, lambda: handle.read(HEAD_BYTES))


def pieces(path: Path, form: Form) -> Generator[Piece, None, int]:
    """The file after the lines that `form` skips, piece by piece. Returns the CRC-32 of all its bytes.
    Raises KitError."""
    with opened(path, form.encoding) as (handle, summed):
        for _ in range(form.skipped):
            guarded(path, handle.readline)
        whole_lines = summed.read_lines if handle is summed else partial(_read_lines, handle)
        while True:
            text, rest = guarded(path, lambda: whole_lines(PIECE_BYTES))
            if len(rest) == LONGEST_LINE:
                raise KitError(
                    f"{path}: expected lines, found one of more than {LONGEST_LINE:,} bytes; is this a CSV file?"
                )
            if not text:
                return summed.crc32
            is_quoted = b'"' in text
            if is_quoted and _is_inside_quotes(text):
                text += guarded(path, lambda: _to_closing_quote(handle))
            yield Piece(text, is_quoted)


def guarded(path: Path, read: Callable[[], T]) -> T:
    """What `read` returns; its errors of decompressing, decoding and reading as one line. Raises KitError."""
    try:
        return read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise KitError(f"{path}: not readable as gzip: {one_line(error)}; is the file truncated?") from error
    except UnicodeDecodeError as error:
        raise KitError(
            f"{path}: not readable as {error.encoding}: {error.reason}; save the file as UTF-8"
        ) from error
    except OSError as error:
        raise KitError(
            f"{path}: expected a readable file, found: {error.strerror}; is the disk or the network well?"
        ) from error


def one_line(error: Exception) -> str:
    """The first line of what a library says, at most 120 characters; its type where it says nothing."""
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
