"""Signals: for every day and ticker a score that is known in the evening of that day.

In: a CSV (date, ticker, score), or the predictions that a backtest left. Out: `Signal`, aligned to a price
table, and lines that say what did not fit. A score is dealt on a later day at the earliest.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kronos.errors import KitError
from kronos.portfolio.prices import PriceTable

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Signal:
    """Scores of one kind for all days and tickers of a price table."""

    name: str
    score: FloatArray
    """(D, K) higher is better; NaN where a ticker has no score. Known after the day's close."""
    lines: list[str] = field(default_factory=list)
    """What was left out, and why, in words."""

    @property
    def days(self) -> NDArray[np.int64]:
        """Positions of the days that have any score."""
        return np.flatnonzero(np.isfinite(self.score).any(axis=1))


def read_signal_file(path: str | Path, prices: PriceTable) -> Signal:
    """A CSV with the columns date, ticker, score. Raises KitError when it is none, or when nothing of it fits
    the prices.
    """
    path = Path(path)
    if not path.is_file():
        raise KitError(
            f"--signal-file {path}: expected a CSV (date, ticker, score), found no file; correct the path"
        )
    try:
        table = pl.read_csv(path, schema_overrides={"ticker": pl.String}, try_parse_dates=True)
    except pl.exceptions.PolarsError as error:
        first = str(error).splitlines()[0]
        raise KitError(
            f"--signal-file {path}: expected a CSV with the columns date, ticker, score; {first}"
        ) from None
    missing = {"date", "ticker", "score"} - set(table.columns)
    if missing:
        raise KitError(
            f"--signal-file {path}: expected the columns date, ticker, score, found {', '.join(table.columns)}; rename them"
        )
    if not table["date"].dtype.is_temporal():
        raise KitError(
            f"--signal-file {path}: date: expected days such as 2024-01-31, found {table['date'][0]!r}"
        )
    if not table["score"].dtype.is_numeric():
        raise KitError(f"--signal-file {path}: score: expected numbers, found {table['score'].dtype}")
    return align(path.stem, table, prices, f"--signal-file {path}")


def align(name: str, table: pl.DataFrame, prices: PriceTable, where: str) -> Signal:
    """Scores (date, ticker, score) laid on the days and tickers of a price table. where: the source, for
    messages.
    """
    dates = table["date"].cast(pl.Datetime("ms")).to_numpy().astype("datetime64[s]")
    names = table["ticker"].cast(pl.String).to_list()
    score = table["score"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    place = {ticker: number for number, ticker in enumerate(prices.tickers)}
    column = np.array([place.get(ticker, -1) for ticker in names], np.int64)
    day = np.searchsorted(prices.dates, dates)
    known_day = (day < len(prices.dates)) & (prices.dates[np.minimum(day, len(prices.dates) - 1)] == dates)
    lines = _left_out(where, prices, dates, column, known_day, score)
    kept = known_day & (column >= 0) & np.isfinite(score)
    if not kept.any():
        raise KitError(
            f"{where}: expected scores on days and of tickers that have prices, found none; "
            + "; ".join(lines)
        )
    key = day[kept] * len(prices.tickers) + column[kept]
    unique, count = np.unique(key, return_counts=True)
    if len(unique) < len(key):
        twice = unique[count.argmax()]
        shown = f"{prices.tickers[twice % len(prices.tickers)]} on {day_text(prices.dates[twice // len(prices.tickers)])}"
        raise KitError(
            f"{where}: expected one score for each ticker and day, found {count.max()} of {shown}; keep one"
        )
    found = np.full(prices.close.shape, np.nan)
    found[day[kept], column[kept]] = score[kept]
    return Signal(name, found, lines)


def _left_out(
    where: str,
    prices: PriceTable,
    dates: NDArray[np.datetime64],
    column: NDArray[np.int64],
    known_day: NDArray[np.bool_],
    score: FloatArray,
) -> list[str]:
    """One line for each kind of score that cannot be used."""
    lines = []
    later = dates > prices.dates[-1]
    if later.any():
        lines.append(
            f"{where}: {later.sum():,} scores are dated after the last price, {day_text(prices.dates[-1])}: not used"
        )
    between = ~known_day & ~later
    if between.any():
        lines.append(f"{where}: {between.sum():,} scores lie on days without any price: not used")
    if (column < 0).any():
        lines.append(f"{where}: {(column < 0).sum():,} scores are of tickers without prices: not used")
    if (~np.isfinite(score)).any():
        lines.append(f"{where}: {(~np.isfinite(score)).sum():,} scores are not numbers: not used")
    return lines


def within_universe(signal: Signal, member: NDArray[np.bool_]) -> Signal:
    """The signal without the scores of tickers that are outside the universe on the day. member: (D, K)."""
    outside = np.isfinite(signal.score) & ~member
    if not outside.any():
        return signal
    kept = np.where(member, signal.score, np.nan)
    if not np.isfinite(kept).any():
        raise KitError(
            f"{signal.name}: expected a score inside the universe on some day, found none; widen the universe"
        )
    line = f"{signal.name}: {outside.sum():,} scores lie outside the universe of their day: not used"
    return Signal(signal.name, kept, [*signal.lines, line])


def day_text(day: np.datetime64) -> str:
    """A day as people write it."""
    return str(day.astype("datetime64[D]"))
