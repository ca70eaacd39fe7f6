"""What the competition's files look like, and other exports of the same shape.

In: the column names of a file. Out: which column plays which role, or one clear line saying what is missing. Also the two
small files beside the prices, `test.csv` (ID, Date) and `sample_submission.csv` (ID, Pred).
Sources: the competition's data page; the guide's `timestamps,open,high,low,close,volume,amount`; yfinance exports.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kronos.config import Config
from kronos.data import blocks, dates
from kronos.errors import KitError

SUBMISSIONS = Path("submissions")
"""Where submissions and their log lie, relative to the folder that the user stands in."""
ROLES: dict[str, tuple[str, ...]] = {
    "ticker": ("ticker", "symbol"),
    "date": ("date", "timestamps", "timestamp", "datetime"),
    "open": ("open",),
    "high": ("high",),
    "low": ("low",),
    "close": ("close",),
    "volume": ("volume", "vol"),
    "amount": ("amount", "turnover"),
    "split": ("stock splits", "split"),
}
"""Names, in lower case, under which each role appears; the first one is the competition's or the guide's."""
PRICES = ("open", "high", "low", "close")
REQUIRED = ("date", *PRICES)
NUMBERS = (*PRICES, "volume", "amount", "split")


@dataclass(frozen=True)
class Layout:
    """The columns of one price file: `names` as written, `roles` {role: position}."""

    names: tuple[str, ...]
    roles: dict[str, int]

    @property
    def ignored(self) -> list[str]:
        """Names of the columns that nothing reads."""
        used = set(self.roles.values())
        return [name for position, name in enumerate(self.names) if position not in used and name]


def layout_of(path: Path, names: Sequence[str]) -> Layout:
    """Find the roles among a file's column names, whatever their case and order. Raises KitError naming file and column."""
    plain = [name.strip().lower() for name in names]
    places = {role: [p for p, name in enumerate(plain) if name in aliases] for role, aliases in ROLES.items()}
    missing = [ROLES[role][0] for role in REQUIRED if not places[role]]
    if missing:
        raise KitError(f"{path}: expected the column{'s'[: len(missing) > 1]} {', '.join(missing)}; found {blocks.shown(names)}")
    repeated = next((name for name in plain if name and plain.count(name) > 1), None)
    if repeated:
        raise KitError(
            f"{path}: expected every column once, found {names[plain.index(repeated)]!r} {plain.count(repeated)} times"
        )
    for role, found in places.items():
        if len(found) > 1:
            both = " and ".join(repr(names[position]) for position in found)
            raise KitError(f"{path}: expected one {role} column, found {both}; remove one")
    roles = {role: found[0] for role, found in places.items() if found}
    return Layout(tuple(names), roles)


def read_test(path: str | Path) -> pl.DataFrame:
    """The rows to forecast: ID (String), Date (Datetime, milliseconds, exchange-local), in file order.

    Raises KitError on a missing column, an empty or repeated ID, a date that cannot be read.
    """
    path = Path(path)
    frame = read_columns(path, ("ID", "Date"))
    parsed, first_bad = dates.parse(frame["Date"], dates.detect(path, frame["Date"]))
    if first_bad is not None:
        raise KitError(f"{path}: line {first_bad + 2}, column Date: expected a date, found {frame['Date'][first_bad]!r}")
    return frame.with_columns(parsed.alias("Date"))


def read_sample(path: str | Path) -> pl.DataFrame:
    """The form of a submission: ID (String), Pred (String, as written), in file order. Raises KitError as `read_test`."""
    return read_columns(Path(path), ("ID", "Pred"))


def read_columns(path: Path, wanted: tuple[str, ...]) -> pl.DataFrame:
    """The `wanted` columns of a small CSV as strings, in file order; the first one holds names, complete and unique. KitError."""
    source = blocks.CsvSource.open(path)
    plain = [name.strip().lower() for name in source.names]
    missing = [name for name in wanted if plain.count(name.lower()) != 1]
    if missing:
        raise KitError(f"{path}: expected one column {missing[0]}; found {blocks.shown(source.names)}")
    roles = {name: plain.index(name.lower()) for name in wanted}
    frame = pl.concat([block for _, block in source.frames(roles, numbers=())])
    frame = frame.select(pl.col(name).str.strip_chars() for name in wanted)
    name = wanted[0]
    for column in wanted:
        empty = frame[column].is_null() | (frame[column] == "")
        if row := _first(empty):
            raise KitError(f"{path}: line {row + 1}, column {column}: expected a value, found none")
    if row := _first(~frame[name].is_first_distinct()):
        raise KitError(f"{path}: line {row + 1}, column {name}: expected each ID once, found {frame[name][row - 1]!r} again")
    return frame


def read_answers(path: str | Path, column: str) -> tuple[list[str], NDArray[np.int64]]:
    """IDs and the 0/1 values of `column` of a CSV file, in file order. Raises KitError on anything else."""
    table = read_columns(Path(path), ("ID", column))
    wrong = table.filter(~pl.col(column).is_in(["0", "1"]))
    if len(wrong):
        raise KitError(f"{path}: expected 0 or 1 in {column}, found {wrong[column][0]!r} for {wrong['ID'][0]}")
    return table["ID"].to_list(), table[column].cast(pl.Int64).to_numpy()


def read_rows(config: Config) -> tuple[list[str], NDArray[np.datetime64]]:
    """IDs and dates of the test file in the order of the sample (of the test file where there is no sample).

    Raises KitError when an ID is missing, unknown or there twice.
    """
    if not config.data.test_path:
        raise KitError("data.test_path: expected the competition's test.csv (ID, Date), found no path")
    test = read_test(config.data.test_path)
    ids, dates = test["ID"].to_list(), test["Date"].to_numpy().astype("datetime64[s]")
    if not config.data.sample_submission_path:
        return ids, dates
    wanted = read_sample(config.data.sample_submission_path)["ID"].to_list()
    check_ids(ids, wanted, config.data.test_path, config.data.sample_submission_path)
    position = {name: i for i, name in enumerate(ids)}
    return wanted, dates[[position[name] for name in wanted]]


def check_ids(found: Sequence[str], wanted: Sequence[str], found_path: str | Path, wanted_path: str | Path) -> None:
    """Raise KitError unless `found` holds exactly the IDs of `wanted`, in any order; both are free of repetitions."""
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or extra:
        parts = [f"{len(names)} {what} ({_some(names)})" for what, names in (("missing", missing), ("extra", extra)) if names]
        raise KitError(f"{found_path}: expected the {len(wanted)} IDs of {wanted_path}, found {' and '.join(parts)}")


def _first(mask: pl.Series) -> int:
    """One-based position of the first True, 0 when there is none."""
    return (mask.arg_max() or 0) + 1 if mask.any() else 0


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
