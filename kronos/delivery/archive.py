"""Unpacking an archive from elsewhere: nothing outside the folder, no links, no more bytes than were announced.

In: a zip file, a folder, the announced sizes. Out: the files, written aside first. The dangers are those of CWE-22 (paths),
CWE-59 (links) and CWE-409 (bombs).
"""

import errno
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePosixPath

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
UNPLACEABLE = {errno.EINVAL, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
"""System errors that come from what the archive says (positions, names), not from the disk."""


def unpack(
    archive: Path, folder: Path, announced: Mapping[str, int], reserved: Collection[str], said: Callable[[int], object]
) -> list[str]:
    """Write the archive's files under `folder` (which is new) and return their names, sorted.

    announced: bytes by file name, which limit what may come out. reserved: names at the top that no entry may have.
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
            raise KitError(f"{archive.name}: refused because of {problem}: {entry.orig_filename[:100]!r}; nothing was unpacked")
        seen.add(str(name).lower())


def _problem(entry: zipfile.ZipInfo, name: PurePosixPath) -> str:
    """What is wrong with an entry, '' for a plain file inside the folder."""
    odd = "\\" in entry.filename or any(ord(letter) < 32 for letter in entry.filename)
    if odd or entry.filename != entry.orig_filename or not name.parts or max(map(len, name.parts)) > LONGEST_NAME:
        return "an unusual name"
    if name.is_absolute() or ":" in entry.filename or ".." in name.parts:
        return "a path outside the folder"
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        return "a link or device"
    if entry.flag_bits & ENCRYPTED or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "encryption or an unusual compression"
    return ""


def _write(source: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, left: int, said: Callable[[int], object]) -> int:
    """Bytes written. What counts is what comes out: an archive may lie about its sizes."""
    target = folder / entry.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with source.open(entry) as packed, target.open("xb") as plain:
        while piece := packed.read(CHUNK):
            written += len(piece)
            if written > left:
                raise KitError(f"{entry.filename}: refused, more bytes come out than the competition's list of files announces")
            plain.write(piece)
            said(len(piece))
        plain.flush()
        os.fsync(plain.fileno())
    return written
