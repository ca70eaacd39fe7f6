"""A file that is about to be submitted: checked against the sample, and put together with what is known about
it.

In: a configuration, a file (ID, Pred), a message. Out: a `Parcel`. Nothing is sent from here. See
docs/kaggle.md.
"""

import gzip
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kronos import files, records
from kronos.config import Config
from kronos.data.competition import check_ids, read_answers, read_rows, read_sample
from kronos.delivery.expectation import expectation
from kronos.errors import KitError

log = logging.getLogger(__name__)

LONGEST_MESSAGE = 500


@dataclass(frozen=True)
class Parcel:
    """A checked file and what goes with it."""

    competition: str
    path: Path
    message: str
    sha256: str
    rows: int
    rises: float
    """Share of rows answered 1."""
    run: str
    """Folder of the run that made the file; '' where no manifest says."""
    expected: str
    """What the run's backtest lets expect, or why there is nothing to expect."""

    def table(self) -> str:
        """What would be sent, one fact per line."""
        lines = {
            "competition": self.competition,
            "file": f"{self.path} ({self.path.stat().st_size} bytes, sha256 {self.sha256[:16]})",
            "rows": f"{self.rows} ({self.rises:.1%} rises)",
            "message": self.message,
            "run": self.run or "unknown: no manifest beside the file",
            "expected": self.expected,
        }
        return "\n".join(f"  {name:<12} {value}" for name, value in lines.items())


def pack(config: Config, path: str | Path, message: str) -> Parcel:
    """Check the file and the message. Raises KitError when Kaggle could not score the file as it is meant."""
    path = Path(path)
    message = " ".join(message.split())
    if not 0 < len(message) <= LONGEST_MESSAGE:
        raise KitError(
            f"--message: expected 1 to {LONGEST_MESSAGE} characters that tell one submission from another, found {len(message)}"
        )
    ids, pred = read_answers(path, "Pred")
    _check_form(config, path, ids)
    digest = files.digest(path)
    manifest = _manifest(path, digest)
    run = str(manifest.get("config", {}).get("model_paths", {}).get("base_save_path", ""))
    return Parcel(
        competition=config.inference.competition,
        path=path,
        message=message,
        sha256=digest,
        rows=len(ids),
        rises=float(pred.mean()),
        run=run,
        expected=expectation(run, manifest),
    )


def _check_form(config: Config, path: Path, ids: list[str]) -> None:
    """The sample's IDs, header and order."""
    wanted, header, source = _form(config)
    check_ids(ids, wanted, path, source)
    first = _first_line(path, "utf-8")
    if first != header:
        raise KitError(f"{path}: expected the first line {header!r} as in {source}, found {first!r}")
    if ids != wanted:
        row = next(i for i, (one, other) in enumerate(zip(ids, wanted, strict=True)) if one != other)
        raise KitError(
            f"{path}: expected the order of {source}, found {ids[row]} for {wanted[row]} in line {row + 2}; sort it"
        )


def _form(config: Config) -> tuple[list[str], str, str]:
    """IDs in order, header line, and the file that says so."""
    path = config.data.sample_submission_path
    if not path:
        return read_rows(config)[0], "ID,Pred", config.data.test_path
    if not Path(path).is_file():
        raise KitError(
            f"{path}: expected the competition's sample submission, found none; python scripts/download_data.py gets it"
        )
    return read_sample(path)["ID"].to_list(), _first_line(Path(path), "utf-8-sig"), path


def _first_line(path: Path, encoding: str) -> str:
    """Of a .csv or a .csv.gz. Raises KitError when it is no text."""
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as handle:
        line = handle.readline()
    try:
        return line.decode(encoding).strip()
    except UnicodeDecodeError as error:
        raise KitError(f"{path}: expected UTF-8, found {error}; save it as CSV in UTF-8") from error


@dataclass(frozen=True)
class _Manifest:
    """What is relied on of a submission's manifest."""

    sha256: str


def _manifest(path: Path, digest: str) -> dict[str, Any]:
    """What make_submission wrote beside the file; {} where nothing did, or where the file was changed
    since.
    """
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return {}
    remedy = "it is no manifest of a submission; move it away"
    tree = records.read_json(beside, remedy=remedy)
    if records.check(tree, _Manifest, str(beside), remedy=remedy).sha256 == digest:
        return dict(tree)
    log.warning("%s describes another content of %s: the run is taken as unknown", beside, path.name)
    return {}
