"""The competition's files, from Kaggle into the folder that the configuration reads them from.

In: a configuration (inference.competition, the paths of `data`) and Kaggle credentials. Out: the files and
download.json with their sizes and digests. Killed at any moment, a rerun goes on: the archive is kept as a
part, then whole, until the files and the manifest are in place. Nothing is fetched that is there already. See
docs/kaggle.md.
"""

import importlib.metadata
import json
import logging
import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kronos import files, records
from kronos.config import Config
from kronos.data.archive import unpack
from kronos.delivery.client import PATIENCE, Client
from kronos.errors import KitError
from kronos.progress import progress

log = logging.getLogger(__name__)

MANIFEST = "download.json"
STAGING = ".download"


@dataclass(frozen=True)
class Download:
    """What lies in the folder now."""

    folder: Path
    manifest: dict[str, Any]
    news: str
    """What this call did, in words."""

    def table(self) -> str:
        """One file per line."""
        found = self.manifest["files"]
        width = max(map(len, found), default=0)
        lines = [
            f"  {name:<{width}}  {size(entry['bytes']):>9}  sha256 {entry['sha256'][:16]}"
            for name, entry in found.items()
        ]
        return "\n".join([f"{self.folder}: {self.news}", *lines])


def download_data(config: Config, again: bool = False, patience: float = PATIENCE) -> Download:
    """Fetch what is missing. again: fetch everything anew and replace what is there. patience: see `client`.

    Raises KitError when Kaggle refuses, when files in the folder differ from Kaggle's, or when an expected
    one is missing.
    """
    folder, expected = places(config)
    if folder.is_dir() and not os.access(folder, os.W_OK):
        return _read_only(folder, expected)
    lock = folder / f"{STAGING}.lock"
    with files.locked(lock, f"another download into {folder} is at work: waiting for it") as hold:
        done = None if again else _known(folder, config.inference.competition)
        if done is None:
            with Client(config.inference.competition, patience, hold) as client:
                done = _fetch(client, folder, again)
    _check_expected(folder, expected, done.manifest)
    return done


def places(config: Config) -> tuple[Path, dict[str, Path]]:
    """The folder to fill, and the files that the configuration expects there, by setting. Raises KitError."""
    data = config.data
    if config.market.generate:
        raise KitError(
            "market.generate: this profile makes its own data, there is nothing to download; pass the competition's"
        )
    prices = data.data_path if isinstance(data.data_path, list) else [data.data_path]
    named = {f"data.data_path[{i}]" if i else "data.data_path": path for i, path in enumerate(prices)}
    named |= {"data.test_path": data.test_path, "data.sample_submission_path": data.sample_submission_path}
    expected = {setting: Path(path) for setting, path in named.items() if path}
    if not expected:
        raise KitError("data.data_path: expected where the competition's files shall lie, found no path")
    folder = expected.get("data.test_path", next(iter(expected.values()))).parent
    for setting, path in expected.items():
        if not path.is_relative_to(folder):
            raise KitError(
                f"{setting}: expected a path inside {folder}, where the files are unpacked, found {path}"
            )
    return folder, expected


# -- what is there already -----------------------------------------------------------------------------------
def _read_only(folder: Path, expected: dict[str, Path]) -> Download:
    """An attached input, as on Kaggle itself: there is nothing to do as long as the files are there."""
    for setting, path in expected.items():
        if not path.exists():
            raise KitError(
                f"{folder}: expected a folder that can be written to, since {path.name} ({setting}) is missing there"
            )
    return Download(
        folder, {"files": {}}, "cannot be written to, and holds the files already; nothing was downloaded"
    )


def _known(folder: Path, competition: str) -> Download | None:
    """The finished download of an earlier call, its files checked against the manifest; None where there is
    work to do.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    if manifest["competition"] != competition:
        raise KitError(
            f"{folder / MANIFEST}: expected files of {competition}, found those of {manifest['competition']}; name another folder"
        )
    missing = [name for name in manifest["files"] if not (folder / name).is_file()]
    if missing:
        log.info("%s: %d of %d files are gone (%s)", folder, len(missing), len(manifest["files"]), missing[0])
        return None
    for name, entry in manifest["files"].items():
        path = folder / name
        if path.stat().st_size != entry["bytes"] or files.digest(path) != entry["sha256"]:
            raise KitError(
                f"{path}: differs from what was downloaded; move it away, or pass --again to replace it"
            )
    return Download(
        folder,
        manifest,
        f"complete since {manifest['date']}, sizes and digests agree; nothing was downloaded",
    )


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """download.json, or None where there is none. Raises KitError when it cannot be read."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    remedy = "it is no manifest of a download; remove it and run again"
    tree = records.read_json(path, remedy=remedy)
    records.check(tree, _Manifest, str(path), remedy=remedy)
    return dict(tree)


@dataclass(frozen=True)
class _Manifest:
    """What is relied on of a download's manifest."""

    competition: str
    date: str
    files: dict[str, dict[str, Any]]


def _by_hand(folder: Path, listed: dict[str, int], again: bool) -> bool:
    """Whether all files of the list lie here with its sizes, fetched in another way. KitError for a file of
    another size.
    """
    own = (read_manifest(folder) or {"files": {}})["files"]
    there = {name: (folder / name).stat().st_size for name in listed if (folder / name).is_file()}
    if other := [name for name in there if there[name] != listed[name] and name not in own]:
        if not again:
            raise KitError(
                f"{folder / other[0]}: expected {listed[other[0]]} bytes as Kaggle lists it, found {there[other[0]]}; "
                "move it away, or pass --again to replace it"
            )
        return False
    return bool(there) and len(there) == len(listed) and not again


# -- fetching ------------------------------------------------------------------------------------------------
def _fetch(client: Client, folder: Path, again: bool) -> Download:
    """List, download, unpack, place, write the manifest, in this order."""
    staging, archive = folder / STAGING, folder / STAGING / "archive.zip"
    listed = {str(item["name"]): int(item["bytes"]) for item in client.list_files()}
    log.info("%s: %d files, %s", client.competition, len(listed), size(sum(listed.values())))
    begun = staging.is_dir()  # then what lies in the folder was put there by an earlier call
    if not begun and _by_hand(folder, listed, again):
        return _finish(
            client,
            folder,
            dict.fromkeys(listed),
            listed,
            None,
            "Kaggle's list agrees with the sizes here; nothing was downloaded",
        )
    if again:
        (folder / MANIFEST).unlink(missing_ok=True)
        archive.unlink(missing_ok=True)
    _check_space(folder, sum(listed.values()))
    staging.mkdir(exist_ok=True)
    if not archive.is_file():
        _download(client, staging).rename(archive)
    names = _place(archive, folder, listed)
    weight = archive.stat().st_size
    facts = {"bytes": weight, "sha256": files.digest(archive)}
    return _finish(
        client, folder, names, listed, facts, f"{len(names)} files downloaded ({size(weight)}) and unpacked"
    )


def _download(client: Client, staging: Path) -> Path:
    """The archive, fetched or completed by the kaggle package."""
    here = _arrived(client, staging)
    log.info("downloading to %s%s", staging.parent, f", going on after {size(here)}" if here else "")
    with progress("download", None, "B", scaled=True) as bar:

        def watch() -> int:
            arrived = _arrived(client, staging)
            bar.total = bar.total or _announced(client, staging)
            bar.update(arrived - bar.n)
            return arrived

        client.download(staging, watch)
        watch()
    found = [path for path in staging.glob(f"{client.competition}.*") if path.suffix != ".kaggle-partial"]
    if len(found) != 1 or found[0].suffix != ".zip":
        names = ", ".join(sorted(path.name for path in found)) or "nothing"
        raise KitError(
            f"{staging}: expected one zip archive from Kaggle, found {names}; remove the folder and run again"
        )
    return found[0]


def _arrived(client: Client, staging: Path) -> int:
    path = staging / f"{client.competition}.zip"
    return path.stat().st_size if path.is_file() else 0


def _announced(client: Client, staging: Path) -> int | None:
    """The archive's full size, as the package notes it beside a part (2.2 does); None while it is not
    known.
    """
    try:
        note = json.loads((staging / f"{client.competition}.zip.kaggle-partial").read_text())
        return int(note["size"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _place(archive: Path, folder: Path, listed: dict[str, int]) -> list[str]:
    """Unpack aside, then give each file its place. Returns the names. A bad archive is removed."""
    aside = folder / STAGING / "files"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        with progress("unpack", sum(listed.values()), "B", scaled=True) as bar:
            names = unpack(archive, aside, listed, {MANIFEST, STAGING}, bar.update)
    except (KitError, OSError) as error:
        shutil.rmtree(aside, ignore_errors=True)  # gives the room back
        if isinstance(error, KitError):
            archive.unlink()
        raise
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.parent.resolve().is_relative_to(folder.resolve()) or target.is_dir():
            raise KitError(
                f"{target}: expected a place for a file inside {folder}, found a link out of it or a folder"
            )
        (aside / name).replace(target)
    return names


def _finish(
    client: Client,
    folder: Path,
    names: Any,
    listed: dict[str, int],
    archive: dict[str, Any] | None,
    news: str,
) -> Download:
    """Write the manifest, and only then clear the rest away."""
    entries = {}
    for name in names:
        path = folder / name
        entries[name] = {
            "bytes": path.stat().st_size,
            "sha256": files.digest(path),
            "listed_bytes": listed.get(name),
        }
        if entries[name]["bytes"] != listed.get(name):
            log.warning(
                "%s: %s bytes, Kaggle's list says %s",
                path,
                entries[name]["bytes"],
                listed.get(name, "nothing of it"),
            )
    for name in listed.keys() - entries.keys():
        log.warning("%s: on Kaggle's list, but not in the archive", name)
    manifest = {
        "competition": client.competition,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "kaggle": importlib.metadata.version("kaggle"),
        "archive": archive,
        "files": entries,
    }
    files.write_json(folder / MANIFEST, manifest)
    shutil.rmtree(folder / STAGING, ignore_errors=True)
    return Download(folder, manifest, news)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise KitError(
            f"{folder}: expected room for {size(needed)} of files, found {size(free)} free; free some or move data.*_path"
        )


def _check_expected(folder: Path, expected: dict[str, Path], manifest: dict[str, Any]) -> None:
    for setting, path in expected.items():
        if not path.exists():
            found = ", ".join(sorted(manifest["files"])[:8])
            raise KitError(
                f"{setting}: expected {path.name} among the competition's files, found {found}; name the right one"
            )


# -- small things --------------------------------------------------------------------------------------------
def size(count: float) -> str:
    """Bytes for people: 2.3 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
