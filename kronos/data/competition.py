"""The small files beside the prices: `test.csv` (ID, Date), `sample_submission.csv` (ID, Pred), answers of
the same form.

In: their paths. Out: small tables in file order, or one line naming file, line and column. Source: the
competition's data page.
"""

from collections.abc import Sequence
from datetime import time
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kronos.config import Config, DataConfig
from kronos.data import blocks, dates
from kronos.data.column_roles import shown
from kronos.data.markets import zone_of
from kronos.data.store import MANIFEST, read_manifest
from kronos.errors import KitError

SUBMISSIONS = Path("submissions")
"""Where submissions and their log lie, relative to the folder that the user stands in."""


def read_test(path: str | Path, data: DataConfig | None = None) -> pl.DataFrame:
    """The rows to forecast: ID (String), Date (Datetime, milliseconds, exchange-local), in file order.

    Times with a zone, an offset or since 1970 are turned into the exchange's (`data.timezone`, else that of
    the calendar), as in price files; times that are midnight as written in every row are days. data None:
    dates as written. Raises KitError on a missing column, an empty or repeated ID, a date that cannot be
    read, and on such times where the prepared data have several markets.
    """
    path = Path(path)
    frame = read_columns(path, ("ID", "Date"))
    parsed = dates.parse(frame["Date"], dates.detect(path, frame["Date"]))
    if parsed.bad is not None:
        raise KitError(
            f"{path}: line {parsed.bad + 2}, column Date: expected a date, found {frame['Date'][parsed.bad]!r}"
        )
    date = parsed.wall
    if parsed.moment is not None and data is not None and (date.dt.time() != time(0)).any():
        moment = parsed.moment.dt.replace_time_zone("UTC").dt.convert_time_zone(_zone(path, data))
        date = moment.dt.replace_time_zone(None)
    return frame.with_columns(date.alias("Date"))


def _zone(path: Path, data: DataConfig) -> str:
    """The zone of the exchange's clocks. Raises KitError where the prepared data have several exchanges."""
    manifest = Path(data.store) / MANIFEST
    known = read_manifest(manifest.parent).get("markets", []) if data.store and manifest.is_file() else []
    if len(known) > 1:
        names = ", ".join(market["calendar"] for market in known)
        raise KitError(
            f"{path}: expected days such as 2024-01-31 for tickers of several markets ({names}), found times with a zone; "
            "write the day of each ticker's exchange"
        )
    return zone_of(data.calendar, data)


def read_sample(path: str | Path) -> pl.DataFrame:
    """The form of a submission: ID (String), Pred (String, as written), in file order. Raises KitError as
    `read_test`.
    """
    return read_columns(Path(path), ("ID", "Pred"))


def read_columns(path: Path, wanted: tuple[str, ...]) -> pl.DataFrame:
    """The `wanted` columns of a small CSV as strings, in file order; the first one holds names, complete and
    unique. KitError.
    """
    source = blocks.CsvSource.open(path)
    plain = [name.strip().lower() for name in source.names]
    missing = [name for name in wanted if plain.count(name.lower()) != 1]
    if missing:
        raise KitError(f"{path}: expected one column {missing[0]}; found {shown(source.names)}")
    roles = {name: plain.index(name.lower()) for name in wanted}
    frame = pl.concat([block for _, block in source.frames(roles, numbers=())])
    frame = frame.select(pl.col(name).str.strip_chars() for name in wanted)
    name = wanted[0]
    for column in wanted:
        empty = frame[column].is_null() | (frame[column] == "")
        if row := _first(empty):
            raise KitError(f"{path}: line {row + 1}, column {column}: expected a value, found none")
    if row := _first(~frame[name].is_first_distinct()):
        raise KitError(
            f"{path}: line {row + 1}, column {name}: expected each ID once, found {frame[name][row - 1]!r} again"
        )
    return frame


def read_answers(path: str | Path, column: str) -> tuple[list[str], NDArray[np.int64]]:
    """IDs and the 0/1 values of `column` of a CSV file, in file order. Raises KitError on anything else."""
    table = read_columns(Path(path), ("ID", column))
    wrong = table.filter(~pl.col(column).is_in(["0", "1"]))
    if len(wrong):
        raise KitError(
            f"{path}: expected 0 or 1 in {column}, found {wrong[column][0]!r} for {wrong['ID'][0]}"
        )
    return table["ID"].to_list(), table[column].cast(pl.Int64).to_numpy()


def read_rows(config: Config) -> tuple[list[str], NDArray[np.datetime64]]:
    """IDs and dates of the test file in the order of the sample (of the test file where there is no sample).

    Raises KitError when an ID is missing, unknown or there twice.
    """
    if not config.data.test_path:
        raise KitError("data.test_path: expected the competition's test.csv (ID, Date), found no path")
    test = read_test(config.data.test_path, config.data)
    ids, dates = test["ID"].to_list(), test["Date"].to_numpy().astype("datetime64[s]")
    if not config.data.sample_submission_path:
        return ids, dates
    wanted = read_sample(config.data.sample_submission_path)["ID"].to_list()
    check_ids(ids, wanted, config.data.test_path, config.data.sample_submission_path)
    position = {name: i for i, name in enumerate(ids)}
    return wanted, dates[[position[name] for name in wanted]]


def check_ids(
    found: Sequence[str], wanted: Sequence[str], found_path: str | Path, wanted_path: str | Path
) -> None:
    """Raise KitError unless `found` holds exactly the IDs of `wanted`, in any order; both are free of
    repetitions.
    """
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or extra:
        parts = [
            f"{len(names)} {what} ({_some(names)})"
            for what, names in (("missing", missing), ("extra", extra))
            if names
        ]
        raise KitError(
            f"{found_path}: expected the {len(wanted)} IDs of {wanted_path}, found {' and '.join(parts)}"
        )


def _first(mask: pl.Series) -> int:
    """One-based position of the first True, 0 when there is none."""
    return (mask.arg_max() or 0) + 1 if mask.any() else 0


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
