"""Who may be held when, and what a portfolio is compared with.

In: prices, pool, floors, a benchmark's name. Out: (D, K) membership, (D,) daily returns. Only what was known in
the evening of a day counts on it.
"""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kronos.errors import KitError
from kronos.portfolio.prices import PriceTable

FloatArray = NDArray[np.float64]

AMOUNT_DAYS = 20
"""Days over which the money that is dealt in a stock is measured."""


def universe(
    prices: PriceTable, pool: str = "", least_price: float = 0.0, least_amount: float = 0.0
) -> NDArray[np.bool_] | None:
    """(D, K) which tickers may be asked about and held on which days; None: all.

    pool: CSV of membership (ticker, first, last; begin and end are read as these). least_price: of the last
    close. least_amount: of the money dealt a day, mean of the last `AMOUNT_DAYS` days. Raises KitError.
    """
    if not (pool or least_price or least_amount):
        return None
    member = np.isfinite(prices.last_close)
    if least_price:
        member &= np.nan_to_num(prices.last_close) >= least_price
    if least_amount:
        amount = np.nan_to_num(prices.amount)
        total = np.cumsum(np.vstack([np.zeros(amount.shape[1]), amount]), axis=0)
        begin = np.maximum(np.arange(len(amount)) - AMOUNT_DAYS + 1, 0)
        mean = (total[1:] - total[begin]) / (np.arange(len(amount)) - begin + 1)[:, None]
        member &= mean >= least_amount
    if pool:
        member &= _pool(Path(pool), prices)
    return member


def _pool(path: Path, prices: PriceTable) -> NDArray[np.bool_]:
    """(D, K) membership as a CSV says it. Raises KitError."""
    if not path.is_file():
        raise KitError(
            f"--pool {path}: expected a CSV with the columns ticker, first, last, found no file; correct the path"
        )
    table = pl.read_csv(path, schema_overrides={"ticker": pl.String}, try_parse_dates=True)
    table = table.rename({"begin": "first", "end": "last"}, strict=False)
    if not {"ticker", "first", "last"} <= set(table.columns):
        raise KitError(
            f"--pool {path}: expected the columns ticker, first, last, found {', '.join(table.columns)}; rename them"
        )
    place = {ticker: number for number, ticker in enumerate(prices.tickers)}
    member = np.zeros(prices.close.shape, bool)
    for ticker, begin, end in table.select("ticker", "first", "last").iter_rows():
        if ticker in place:
            member[prices.between(np.datetime64(begin, "s"), np.datetime64(end, "s")), place[ticker]] = True
    return member


def empty_days(member: NDArray[np.bool_] | None, days: slice) -> int:
    """How many of the days have nobody who may be asked about in the evening before."""
    if member is None:
        return 0
    before = member[max(days.start - 1, 0) : days.stop - 1]
    return int((~before.any(axis=1)).sum())


def benchmark_returns(
    name: str,
    prices: PriceTable,
    member: NDArray[np.bool_] | None = None,
    everything: PriceTable | None = None,
) -> FloatArray:
    """(D,) returns of the benchmark from one day to the next; NaN on days on which it is not known.

    'equal': the mean return of all stocks that have a bar and belonged to the universe in the evening before;
    a ticker of the store; or a CSV with the columns date and return (or close). everything: all prices of the
    store, where `prices` are those of some of its markets. Raises KitError where it is none of these.
    """
    if name == "equal":
        known = np.isfinite(prices.change)
        moves = prices.change
        if prices.market is not None and prices.trades is not None:
            resting = ~prices.trades[prices.market].T & np.isfinite(prices.last_close)
            moves = np.where(resting & ~known, 0.0, moves)  # its market is closed: the price stays
            known |= resting
        if member is not None:
            known[1:] &= member[:-1]
        count = known.sum(axis=1)
        total = moves.sum(axis=1, where=known)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)
    wide = prices if everything is None else everything
    if name in wide.tickers:
        days = np.searchsorted(wide.dates, prices.dates)
        return _moves(wide.close[days, wide.tickers.index(name)])
    return _benchmark_file(Path(name), prices)


def _moves(close: FloatArray) -> FloatArray:
    """(D,) close over the close of the day before, less 1; NaN without either: two days are not one."""
    found = np.full(len(close), np.nan)
    found[1:] = close[1:] / close[:-1] - 1
    return found


def _benchmark_file(path: Path, prices: PriceTable) -> FloatArray:
    """Daily returns from a CSV with date and return, or close; NaN on days that it does not have."""
    if not path.is_file():
        raise KitError(
            f"--benchmark {path}: expected 'equal', a ticker of the store or a CSV, found none of these; correct it"
        )
    table = pl.read_csv(path, try_parse_dates=True)
    column = "return" if "return" in table.columns else "close"
    if not {"date", column} <= set(table.columns):
        raise KitError(
            f"--benchmark {path}: expected the columns date and return (or close), found {', '.join(table.columns)}"
        )
    dates = table["date"].cast(pl.Datetime("ms")).to_numpy().astype("datetime64[s]")
    day = np.searchsorted(prices.dates, dates)
    same = prices.dates[np.minimum(day, len(prices.dates) - 1)] == dates
    found = np.full(len(prices.dates), np.nan)
    found[day[same]] = table[column].cast(pl.Float64).to_numpy()[same]
    return found if column == "return" else _moves(found)
