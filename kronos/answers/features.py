"""What a classical model is given: about 20 figures of a share's past, ranked against the other shares of the date.

In: a store, the row of each sample's last known bar. Out: (n, F) float64, raw with NaN where history is too short, or ranked.
Nothing after the row is read, and nothing of other shares but through the ranks. NumPy and SciPy; no loop over tickers.
"""

import itertools
import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from kronos.bars import AMOUNT, CLOSE, HIGH, LOW, OPEN, VOLUME
from kronos.data.store import BarStore

YEAR, MONTH, QUARTER = 252, 21, 63
LAGS = (1, 2, 3, 5, 10, 21, 42, 63, 126, 252)
NAMES = (
    *(f"return over {lag} days" for lag in LAGS),
    "12-1 momentum",
    "volatility over 21 days",
    "volatility over 63 days",
    "largest rise in 21 days",
    "skew over 63 days",
    "below the year's high",
    "above the quarter's low",
    "range over 21 days",
    "last day's body",
    "last gap",
    "last volume against 63 days",
    "volume of 5 against 63 days",
    "turnover over 21 days",
)
CHUNK = 4096
"""Samples whose past is held in memory at once."""

FloatArray = NDArray[np.float64]


def first_rows(store: BarStore, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first row of the ticker of each row, (n,)."""
    return store.offsets[np.searchsorted(store.offsets, rows, side="right") - 1]


def past_return(store: BarStore, rows: NDArray[np.int64], near: int, far: int) -> FloatArray:
    """Close `near` bars before the row over the close `far` bars before it, less 1; NaN where history is shorter. (n,)."""
    old = rows - far
    result = np.full(len(rows), np.nan)
    have = old >= first_rows(store, rows)
    close = store.bars[:, CLOSE]
    result[have] = close[rows[have] - near].astype(np.float64) / close[old[have]] - 1
    return result


def past_bars(store: BarStore, rows: NDArray[np.int64], count: int) -> FloatArray:
    """The last `count` bars up to and with each row, (n, count, 6) float64; NaN before the ticker's first."""
    where = rows[:, None] + np.arange(1 - count, 1)
    first = first_rows(store, rows)[:, None]
    bars = store.bars[np.maximum(where, first)].astype(np.float64)
    bars[where < first] = np.nan
    return bars


def raw_features(store: BarStore, rows: NDArray[np.int64]) -> FloatArray:
    """`NAMES` of each sample, (n, F); NaN where its history is too short or a ratio has no sense."""
    parts = [_features(past_bars(store, rows[a : a + CHUNK], YEAR + 1)) for a in range(0, len(rows), CHUNK)]
    return np.concatenate(parts) if parts else np.empty((0, len(NAMES)))


def _features(bars: FloatArray) -> FloatArray:
    close, month, quarter = bars[:, :, CLOSE], bars[:, -MONTH:], bars[:, -QUARTER:]
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an empty slice is NaN, as meant
        change = np.diff(np.log(close[:, -QUARTER - 1 :]), axis=1)
        away = change - change.mean(axis=1, keepdims=True)
        columns = [
            *(close[:, -1] / close[:, -1 - lag] - 1 for lag in LAGS),
            close[:, -1 - MONTH] / close[:, -1 - YEAR] - 1,
            change[:, -MONTH:].std(axis=1),
            change.std(axis=1),
            change[:, -MONTH:].max(axis=1),
            (away**3).mean(axis=1) / change.std(axis=1) ** 3,
            close[:, -1] / np.nanmax(bars[:, 1:, HIGH], axis=1),
            close[:, -1] / np.nanmin(quarter[:, :, LOW], axis=1),
            ((month[:, :, HIGH] - month[:, :, LOW]) / month[:, :, CLOSE]).mean(axis=1),
            bars[:, -1, CLOSE] / bars[:, -1, OPEN] - 1,
            bars[:, -1, OPEN] / close[:, -2] - 1,
            bars[:, -1, VOLUME] / quarter[:, :, VOLUME].mean(axis=1),
            bars[:, -5:, VOLUME].mean(axis=1) / quarter[:, :, VOLUME].mean(axis=1),
            month[:, :, AMOUNT].mean(axis=1),
        ]
    result = np.stack(columns, axis=1)
    return np.where(np.isfinite(result), result, np.nan)


def ranked(raw: FloatArray, bounds: NDArray[np.int64]) -> FloatArray:
    """Ranks within each date in (-0.5, 0.5), ties shared; 0, the middle, where a value is missing.

    raw (n, F) sorted by date, samples of date d are bounds[d]:bounds[d + 1]. Ranks of a date need no other date, so nothing
    is imputed or scaled with values from later ones.
    """
    result = np.zeros_like(raw)
    for a, b in itertools.pairwise(bounds):
        if b > a:
            ranks = rankdata(raw[a:b], axis=0, nan_policy="omit")
            result[a:b] = np.nan_to_num(ranks / (np.isfinite(raw[a:b]).sum(axis=0) + 1) - 0.5)
    return result
