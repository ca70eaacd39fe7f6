"""Which files `data.data_path` means, and which ticker each of them is by its name.

In: a file, a list of files, or a folder with one file per ticker. Out: paths in reading order, names; or one
line that says what is there instead.
"""

import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any

from kronos import files
from kronos.config import InferenceConfig
from kronos.errors import KitError

log = logging.getLogger(__name__)

SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq")
TEXT = ".txt"
"""Read in a folder that holds no file of the others: Stooq, Tongdaxin."""
ARCHIVE = re.compile(r"(?P<name>.+)-\d+(?:s|m|h|d|w|mo)-\d{4}-\d{2}(?:-\d{2})?$")
DATED = re.compile(r"(?P<name>.+?)[-_. ](?:19|20)\d{2}(?:[-_.](?:0[1-9]|1[0-2]))(?:[-_.]\d{2})?$")
COMPETITION = InferenceConfig().competition
"""The folder that the download makes is called like it."""


def find_sources(data_path: str | list[str]) -> list[Path]:
    """The files that data_path means, in reading order. Raises KitError when there are none."""
    given = [Path(p) for p in ([data_path] if isinstance(data_path, str) else data_path) if p]
    if not given:
        raise KitError(
            "data.data_path: expected a price file or a folder, found nothing; name the competition's train.csv"
        )
    found: list[Path] = []
    for path in given:
        if not path.exists():
            raise missing("data.data_path", path)
        inside = _inside(path) if path.is_dir() else [path]
        if not inside:
            others = sorted(other.name for other in path.iterdir() if other.is_file())[:3]
            found_there = f"{', '.join(others)}; save them as CSV" if others else "none in this folder"
            raise KitError(f"{path}: expected price files ({', '.join(SUFFIXES)}), found {found_there}")
        found += inside
    return found


def missing(setting: str, path: Path) -> KitError:
    """The user's line for a path that does not exist, with the name there that is most like it."""
    near = files.near_name(path)
    hint = f"; set {setting} to where it is"
    if near:
        hint = f"; {near} is there, is that meant?"
    elif COMPETITION in path.parts:
        hint += ", or download it: python scripts/download_data.py"
    return KitError(f"{path}: expected a file or folder ({setting}), found none{hint}")


def describe(path: Path) -> dict[str, Any]:
    """What a look at the folder shows of a source: name, size, time of its last change."""
    state = path.stat()
    return {"name": path.name, "bytes": state.st_size, "mtime_ns": state.st_mtime_ns}


def _inside(folder: Path) -> list[Path]:
    """The price files of a folder, by name: text files count only where there are no others."""
    names = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())
    found = [path for path in names if path.name.lower().endswith(SUFFIXES)]
    return found or [path for path in names if path.name.lower().endswith(TEXT)]


def names_of_files(paths: list[Path]) -> list[str]:
    """The ticker of each file: its name without the ending, and without a month or day where several differ
    in that alone.

    A file of Binance's archive (BTCUSDT-1h-2024-01) is always called by its symbol.
    """
    stems = [_stem(path) for path in paths]
    dated = [ARCHIVE.match(stem) or DATED.match(stem) for stem in stems]
    bases = Counter(found["name"] for found in dated if found)
    names = []
    for stem, found in zip(stems, dated, strict=True):
        one_of_several = found is not None and (found.re is ARCHIVE or bases[found["name"]] > 1)
        names.append(found["name"] if found is not None and one_of_several else stem)
    if names != stems:
        log.info("%s files are taken as parts of %s tickers, e.g. %s", len(names), len(set(names)), names[0])
    return names


def _stem(path: Path) -> str:
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), path.suffix)
    return path.name[: len(path.name) - len(suffix)]
