"""Who may be asked about when: a pool such as an index, whose members come and go.

In: a CSV with the columns ticker, first, last: a row for each time in which a ticker is in the pool, days
inclusive. Out: the array `BarStore.members`. A member's bars outside these days stay in the store, as context
of forecasts made within them.
"""

import logging
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kronos import files
from kronos.errors import KitError

log = logging.getLogger(__name__)

COLUMNS = ("ticker", "first", "last")


def read(path: str | Path, tickers: list[str], sessions: NDArray[np.datetime64]) -> NDArray[np.int32]:
    """(I, 3) int32: ticker, first and last session (inclusive) of each interval, sorted, those that touch
    joined.

    tickers: the store's, sorted; others in the file are counted in the log. sessions: (D,) the store's dates.
    Intervals without a session are left out. Raises KitError when the file cannot be read or names none of
    the tickers.
    """
    frame = _frame(Path(path))
    place = {name: k for k, name in enumerate(tickers)}
    known = frame.filter(pl.col("ticker").is_in(list(place)))
    others = frame["ticker"].n_unique() - known["ticker"].n_unique()
    if not len(known):
        raise KitError(
            f"{path}: expected tickers of the prices, found none of its {others:,} there; do the names agree?"
        )
    first = np.searchsorted(sessions, known["first"].to_numpy().astype("datetime64[s]"), side="left")
    after = known["last"].to_numpy().astype("datetime64[D]") + np.timedelta64(1, "D")
    last = np.searchsorted(sessions, after.astype("datetime64[s]"), side="left") - 1
    ticker = np.array([place[name] for name in known["ticker"].to_list()])
    intervals = np.stack([ticker, first, last], axis=1)[last >= first]
    without = len(tickers) - len(np.unique(intervals[:, 0]))
    log.info(
        "%s: %s of %s tickers are in the pool at some time%s%s",
        path,
        f"{len(tickers) - without:,}",
        f"{len(tickers):,}",
        f"; {without:,} never, they are never asked about" if without else "",
        f"; {others:,} of its names have no prices" if others else "",
    )
    return _joined(intervals)


def digest(path: str | Path) -> str:
    """SHA-256 of the file. Raises KitError where there is none."""
    _refuse_missing(Path(path))
    return files.digest(path)


def _refuse_missing(path: Path) -> None:
    if not path.is_file():
        raise KitError(f"data.pool_path: expected a CSV file (ticker, first, last), found none at {path}")


def _frame(path: Path) -> pl.DataFrame:
    _refuse_missing(path)
    try:
        frame = pl.read_csv(path, infer_schema=False)
        missing = [name for name in COLUMNS if name not in frame.columns]
        if missing:
            raise KitError(f"{path}: expected the columns {', '.join(COLUMNS)}, found no {missing[0]}")
        frame = frame.select("ticker", pl.col("first", "last").str.to_date("%Y-%m-%d"))
    except pl.exceptions.PolarsError as error:
        raise KitError(
            f"{path}: expected ticker, first, last with days as YYYY-MM-DD, found {' '.join(str(error).split())}"
        ) from error
    if frame.null_count().sum_horizontal().item():
        raise KitError(f"{path}: expected a ticker and two days in every row, found an empty value")
    backward = frame.filter(pl.col("last") < pl.col("first"))
    if len(backward):
        raise KitError(
            f"{path}: expected first <= last, found {', '.join(str(value) for value in backward.row(0))}"
        )
    return frame


def _joined(intervals: NDArray[np.int64]) -> NDArray[np.int32]:
    """Sorted, and those of one ticker that overlap or touch made one."""
    joined: list[list[int]] = []
    for ticker, first, last in sorted(map(tuple, intervals.tolist())):
        if joined and joined[-1][0] == ticker and first <= joined[-1][2] + 1:
            joined[-1][2] = max(last, joined[-1][2])
        else:
            joined.append([ticker, first, last])
    return np.array(joined, dtype=np.int32).reshape(-1, 3)
