"""Unpacking an archive from elsewhere: nothing outside the folder, no links, no more bytes than were
announced.

In: a zip or tar file, a folder, the announced sizes. Out: the files, written aside first. The dangers are
those of CWE-22 (paths), CWE-59 (links) and CWE-409 (bombs).
"""

import errno
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import IO

from kronos.errors import KitError

CHUNK = 1 << 20
SLACK = 1.05
"""Bytes that may come out, as a multiple of the announced ones: lists of files are not always exact."""
LEAST = 1 << 20
MOST_FILES = 100_000
LONGEST_NAME = 200
ENCRYPTED = 1
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError)
"""What zipfile raises on bytes that are no sound archive."""
DAMAGED_TAR = (tarfile.TarError, zlib.error, EOFError, UnicodeDecodeError)
UNPLACEABLE = {errno.EINVAL, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
"""System errors that come from what the archive says (positions, names), not from the disk."""


def unpack(
    archive: Path,
    folder: Path,
    announced: Mapping[str, int],
    reserved: Collection[str],
    said: Callable[[int], object],
) -> list[str]:
    """Write the archive's files under `folder` (which is new) and return their names, sorted.

    announced: bytes by file name, which limit what may come out. reserved: names at the top that no entry may
    have.
    said: called with the number of bytes of each piece written.
    Raises KitError, naming the entry, when the archive is damaged or would do anything but write plain files.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            entries = [entry for entry in source.infolist() if not entry.is_dir()]
            _check(archive, entries, reserved)
            left = int(sum(announced.values()) * SLACK) + LEAST
            for entry in entries:
                left -= _write(source, entry, folder, left, said)
            return sorted(str(PurePosixPath(entry.filename)) for entry in entries)
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno not in UNPLACEABLE:
            raise
        raise KitError(
            f"{archive.name}: expected a sound zip archive, found {type(error).__name__}: {error}; run again to fetch it anew"
        ) from error


def unpack_tar(archive: Path, folder: Path, largest: int, said: Callable[[int], object]) -> list[str]:
    """Write the files of a tar archive (.tar, .tar.gz, .tar.xz) under `folder`, which is new, and return
    their names, sorted.

    largest: bytes that may come out. said: called with the number of bytes of each piece written.
    Every entry is checked before the first one is written. Raises KitError as `unpack`.
    """
    try:
        _check_tar(archive, largest)
        names, left = [], largest
        with tarfile.open(archive, "r|*") as source:
            for entry in source:
                packed = source.extractfile(entry) if entry.isreg() else None
                if packed is not None:
                    left -= _write_file(packed, entry.name, folder, left, said, flush=False)
                    names.append(str(PurePosixPath(entry.name)))
        os.sync()  # once: such an archive may hold tens of thousands of small files
        return sorted(names)
    except (*DAMAGED_TAR, OSError) as error:
        if isinstance(error, OSError) and error.errno not in {*UNPLACEABLE, None}:
            raise
        raise KitError(
            f"{archive.name}: expected a sound tar archive, found {type(error).__name__}: {error}; fetch it again"
        ) from error


def _check_tar(archive: Path, largest: int) -> None:
    """Refuse the whole archive for one bad entry, or for more files or bytes than are allowed."""
    seen: set[str] = set()
    total = 0
    with tarfile.open(archive, "r|*") as source:
        for entry in source:
            name = PurePosixPath(entry.name)
            if entry.isdir() and str(name) == ".":
                continue
            problem = _name_problem(entry.name, name)
            if not problem and not (entry.isreg() or entry.isdir()):
                problem = "a link or device"
            if not problem and entry.isreg() and str(name).lower() in seen:
                problem = "a name that is taken"
            if problem:
                raise KitError(
                    f"{archive.name}: refused because of {problem}: {entry.name[:100]!r}; nothing was unpacked"
                )
            if entry.isreg():
                seen.add(str(name).lower())
                total += entry.size
            if len(seen) > MOST_FILES or total > largest:
                raise KitError(
                    f"{archive.name}: expected at most {MOST_FILES:,} files and {largest:,} bytes, found more; "
                    "nothing was unpacked"
                )
    if not seen:
        raise KitError(f"{archive.name}: expected files, found an empty archive")


def _check(archive: Path, entries: list[zipfile.ZipInfo], reserved: Collection[str]) -> None:
    """Refuse the whole archive for one bad entry, before anything is written."""
    if not 0 < len(entries) <= MOST_FILES:
        raise KitError(f"{archive.name}: expected 1 to {MOST_FILES} files, found {len(entries)}")
    seen: set[str] = set()
    for entry in entries:
        name = PurePosixPath(entry.filename)
        problem = _problem(entry, name)
        if not problem and (name.parts[0] in reserved or str(name).lower() in seen):
            problem = "a name that is taken"
        if problem:
            raise KitError(
                f"{archive.name}: refused because of {problem}: {entry.orig_filename[:100]!r}; nothing was unpacked"
            )
        seen.add(str(name).lower())


def _problem(entry: zipfile.ZipInfo, name: PurePosixPath) -> str:
    """What is wrong with an entry, '' for a plain file inside the folder."""
    if entry.filename != entry.orig_filename:
        return "an unusual name"
    if problem := _name_problem(entry.filename, name):
        return problem
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        return "a link or device"
    if entry.flag_bits & ENCRYPTED or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "encryption or an unusual compression"
    return ""


def _name_problem(written: str, name: PurePosixPath) -> str:
    """What is wrong with the name of an entry, '' for a plain one inside the folder."""
    odd = "\\" in written or any(ord(letter) < 32 for letter in written)
    if odd or not name.parts or max(map(len, name.parts)) > LONGEST_NAME:
        return "an unusual name"
    if name.is_absolute() or ":" in written or ".." in name.parts:
        return "a path outside the folder"
    return ""


def _write(
    source: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, left: int, said: Callable[[int], object]
) -> int:
    with source.open(entry) as packed:
        return _write_file(packed, entry.filename, folder, left, said)


def _write_file(
    packed: IO[bytes], name: str, folder: Path, left: int, said: Callable[[int], object], flush: bool = True
) -> int:
    """Bytes written. What counts is what comes out: an archive may lie about its sizes."""
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with target.open("xb") as plain:
        while piece := packed.read(CHUNK):
            written += len(piece)
            if written > left:
                raise KitError(f"{name}: refused, more bytes come out of the archive than were announced")
            plain.write(piece)
            said(len(piece))
        plain.flush()
        if flush:
            os.fsync(plain.fileno())
    return written
