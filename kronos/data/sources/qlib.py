"""Qlib's folder, read with NumPy: all bars of everybody who was ever a member, and who was a member when.

In: a folder with calendars/, instruments/ and features/ (or an archive of it). Out: one table, prices and
volume as Qlib adjusted them. Format: qlib's scripts/dump_bin.py and qlib/data/storage/file_storage.py; tests
compare with pyqlib's own answers. A former member's bars before, between and after its memberships are kept:
they are the context of a forecast. Membership decides which days are asked about (pool.csv).
"""

import hashlib
import itertools
import logging
import shutil
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kronos.data.archive import unpack, unpack_tar
from kronos.data.sources.protocol import Asked, BaseSource, Facts, Table
from kronos.errors import KitError
from kronos.progress import progress

log = logging.getLogger(__name__)

USUAL = "~/.qlib/qlib_data/cn_data"
STEPS = {"daily": "day", "1min": "1min", "5min": "5min"}
FIELDS = ("open", "high", "low", "close", "volume")
BENCHMARKS = {"csi300": "SH000300", "csi500": "SH000905", "csi800": "SH000906", "csi1000": "SH000852"}
"""Code of the index itself, by pool."""
LARGEST = 16 * 2**30
"""Bytes that may come out of an archive."""
ZIPS, TARS = (".zip",), (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
ODD_NAMES = {"con", "prn", "aux", "nul", *(f"{name}{i}" for name in ("com", "lpt") for i in range(10))}
"""Names that Windows keeps for devices; Qlib writes _qlib_ before them."""


class Qlib(BaseSource):
    """A Qlib folder of the machine."""

    calendar = "XSHG"
    frequencies = tuple(STEPS)
    adjustments = ("hfq",)
    wants = ""

    def facts(self, asked: Asked) -> Facts:
        """Units, currency, adjustment and time zone of this source."""
        return Facts(
            volume="adjusted; the community's folder counts lots of 100 shares, Qlib's own one shares",
            money="CNY, adjusted; price x volume is in hundreds of yuan in the community's folder",
            adjustment="as in the folder: prices x factor (splits and dividends), the first close of each share divided to 1",
            zone="Asia/Shanghai",
        )

    def check(self, asked: Asked) -> None:
        """Refuse at once what this source cannot give. Raises KitError."""
        folder = Path(asked.settings.path or USUAL).expanduser()
        if folder.is_file() and folder.name.lower().endswith((*ZIPS, *TARS)):
            return
        if not (folder / "calendars").is_dir() or not (folder / "features").is_dir():
            raise KitError(
                f"source.path: expected a Qlib folder (calendars, instruments, features) or an archive of one, found none at "
                f"{folder}; download one and name it: docs/sources.md says where"
            )
        self._instruments(asked, folder)

    def download_data(self, asked: Asked) -> None:
        """Nothing is asked for: the folder is read where it lies. An archive is unpacked, once."""
        archive = Path(asked.settings.path or USUAL).expanduser()
        if archive.is_dir():
            return
        target = asked.raw / "folder"
        if target.is_dir():
            return
        aside = asked.raw / ".unpacking"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        with progress("unpack", None, "B", scaled=True) as bar:
            if archive.name.lower().endswith(ZIPS):
                unpack(archive, aside, {archive.name: LARGEST}, (), bar.update)
            else:
                unpack_tar(archive, aside, LARGEST, bar.update)
        aside.replace(target)

    def inputs(self, asked: Asked) -> list[Path]:
        """Files that the table is made from."""
        folder = self._folder(asked)
        if folder.is_relative_to(asked.raw):
            return []
        listed = [path for name in ("calendars", "instruments") for path in (folder / name).glob("*.txt")]
        return listed + [
            path
            for _, path in _paths(folder, self._codes(asked, folder), FIELDS, _step(asked))
            if path.is_file()
        ]

    def process_raw_data(self, asked: Asked) -> Iterable[Table]:
        """The kept answers as tables of bars, one after another."""
        folder = self._folder(asked)
        codes = self._codes(asked, folder)
        dates = read_calendar(folder, _step(asked))
        fields = list(FIELDS)
        if all(path.is_file() for _, path in _paths(folder, codes, ("amount",), _step(asked))):
            fields.append("amount")
        values, absent = read_fields(folder, codes, fields, len(dates), _step(asked))
        if absent:
            asked.remark(
                f"{len(absent):,} of {len(codes):,} members have no folder in features, e.g. {absent[0]}"
            )
        traded = np.isfinite(values[fields.index("close")])
        code, day = np.nonzero(traded)
        asked.remarks.append(f"sha256 of the values read: {hashlib.sha256(values.data).hexdigest()}")
        columns = {name: values[i][traded] for i, name in enumerate(fields)}
        names = pl.Series("ticker", codes, dtype=pl.String).gather(code)
        yield pl.DataFrame({"ticker": names, "date": dates.astype("datetime64[ms]")[day], **columns})

    def pool(self, asked: Asked) -> pl.DataFrame | None:
        """Members of the asked index with the days on which they were in it; None: none is asked for."""
        intervals = self._instruments(asked, self._folder(asked))
        codes = [code for code, _, _ in intervals]
        return pl.DataFrame(
            {
                "ticker": codes,
                "first": [first for _, first, _ in intervals],
                "last": [last for _, _, last in intervals],
            }
        )

    def benchmark(self, asked: Asked) -> pl.DataFrame | None:
        """The index's own closes; None where the folder has none."""
        folder, code = self._folder(asked), BENCHMARKS.get(asked.settings.pool, "")
        if not code or not (folder / "features" / code.lower()).is_dir():
            return None
        dates = read_calendar(folder, _step(asked))
        values, _ = read_fields(folder, [code], ["close"], len(dates), _step(asked))
        there = np.isfinite(values[0, 0])
        return pl.DataFrame(
            {"date": dates[there].astype("datetime64[ms]"), "close": values[0, 0, there]}
        ).with_columns(
            pl.col("date").cast(pl.Date) if asked.settings.frequency == "daily" else pl.col("date")
        )

    # -- the folder ------------------------------------------------------------------------------------------
    def _folder(self, asked: Asked) -> Path:
        """Where calendars/ lies: in source.path, or in what an archive held (there perhaps one folder
        deeper).
        """
        folder = Path(asked.settings.path or USUAL).expanduser()
        if folder.is_dir():
            return folder
        found = sorted((asked.raw / "folder").glob("**/calendars"))
        if not found:
            raise KitError(
                f"{folder}: expected a folder calendars in the archive, found none; is it a Qlib data set?"
            )
        return found[0].parent

    def _codes(self, asked: Asked, folder: Path) -> list[str]:
        return sorted({code for code, _, _ in self._instruments(asked, folder)})

    def _instruments(self, asked: Asked, folder: Path) -> list[tuple[str, date, date]]:
        """Members of source.pool (all: everybody), cut to source.symbols where there are any."""
        intervals = read_instruments(folder, asked.settings.pool or "all")
        if not asked.symbols:
            return intervals
        wanted = {symbol.upper() for symbol in asked.symbols}
        unknown = sorted(wanted - {code for code, _, _ in intervals})
        if unknown:
            where = f"instruments/{asked.settings.pool or 'all'}.txt"
            raise KitError(
                f"source.symbols: expected codes of {where}, found {len(unknown):,} others, e.g. {unknown[0]}"
            )
        return [interval for interval in intervals if interval[0] in wanted]


# -- reading, of use without a configuration -----------------------------------------------------------------
def read_calendar(folder: Path, step: str = "day") -> NDArray[np.datetime64]:
    """(D,) datetime64[s]: the days, or the bars' times, of calendars/STEP.txt. Raises KitError."""
    path = folder / "calendars" / f"{step}.txt"
    if not path.is_file():
        raise KitError(f"{path}: expected Qlib's calendar, found none; source.frequency asks for {step} bars")
    lines = [
        line.strip().replace(" ", "T")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]
    try:
        dates = np.array(lines, dtype="datetime64[s]")
    except ValueError as error:
        raise KitError(f"{path}: expected a date a line, found {error}") from error
    if not len(dates) or (dates[1:] <= dates[:-1]).any():
        raise KitError(f"{path}: expected rising dates, found {'none' if not len(dates) else 'others'}")
    return dates


def read_instruments(folder: Path, pool: str) -> list[tuple[str, date, date]]:
    """(code, first day, last day) of instruments/POOL.txt, sorted; intervals of a code that touch are one.
    Raises KitError.
    """
    path = folder / "instruments" / f"{pool}.txt"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in path.parent.glob("*.txt")))
        raise KitError(
            f"source.pool: expected one of {known or 'a folder instruments'}, found {pool!r} ({path})"
        )
    intervals = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        parts = line.split()
        if not parts:
            continue
        try:
            code, first, last = parts[0].upper(), date.fromisoformat(parts[1]), date.fromisoformat(parts[-1])
        except (ValueError, IndexError) as error:
            raise KitError(
                f"{path}: line {number}: expected CODE, first and last day, found {line[:60]!r}"
            ) from error
        intervals.append((code, first, last))
    return _touching_joined(sorted(intervals))


def _touching_joined(intervals: list[tuple[str, date, date]]) -> list[tuple[str, date, date]]:
    joined: list[tuple[str, date, date]] = []
    for code, first, last in intervals:
        if joined and joined[-1][0] == code and first <= joined[-1][2] + timedelta(days=1):
            joined[-1] = (code, joined[-1][1], max(last, joined[-1][2]))
        else:
            joined.append((code, first, last))
    return joined


def read_fields(
    folder: Path, codes: Sequence[str], fields: Sequence[str], days: int, step: str = "day"
) -> tuple[NDArray[np.float32], list[str]]:
    """(fields, codes, days) float32, NaN where there is no value, and the codes that have no files at all.

    Raises KitError for a file that is no Qlib series of these days, and for a code that lacks one of the
    fields.
    """
    values = np.full((len(fields), len(codes), days), np.nan, np.float32)
    absent = []
    for number, code in enumerate(codes):
        paths = [path for _, path in _paths(folder, [code], fields, step)]
        if not paths[0].parent.is_dir():
            absent.append(code)
            continue
        for place, path in enumerate(paths):
            _read_series(path, values[place, number])
    return values, absent


def _read_series(path: Path, into: NDArray[np.float32]) -> None:
    """One file: its first number is the place in the calendar of the series' first value."""
    try:
        series = np.fromfile(path, dtype="<f4")
    except FileNotFoundError as error:
        raise KitError(
            f"{path}: expected this field, as other shares have it, found none; the Qlib folder is incomplete"
        ) from error
    if not len(series):
        return
    start = int(series[0]) if np.isfinite(series[0]) else -1
    if start != series[0] or start < 0 or start + len(series) - 1 > len(into):
        raise KitError(
            f"{path}: expected a series inside the calendar of {len(into):,} dates, found {len(series) - 1:,} values from place "
            f"{series[0]:g}; the Qlib folder is damaged or incomplete"
        )
    into[start : start + len(series) - 1] = series[1:]


def _paths(
    folder: Path, codes: Sequence[str], fields: Sequence[str], step: str
) -> Iterable[tuple[str, Path]]:
    for code, field in itertools.product(codes, fields):
        name = code.lower()
        name = f"_qlib_{name}" if name in ODD_NAMES else name
        yield code, folder / "features" / name / f"{field}.{step}.bin"


def _step(asked: Asked) -> str:
    return STEPS[asked.settings.frequency]
