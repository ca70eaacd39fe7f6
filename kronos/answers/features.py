"""What a fitted answerer is given: figures of a stock's past, ranked against the other stocks of the date.

In: a store, the store row of each sample's last known bar. Out: (n, F) float64, raw with NaN where history is
too short, or ranks. Nothing after the row is read. NumPy and SciPy.

A figure of a row is made of that row's own window by sums and maxima that are built up by doubling, so its
bits depend on
nothing else: not on other tickers, later rows, or how many rows are asked for at once. Whole stores take
seconds.
"""

import itertools

import numpy as np
from numpy.typing import NDArray

from kronos.bars import AMOUNT, CLOSE, HIGH, LOW, OPEN, VOLUME
from kronos.data.store import BarStore

WEEK, MONTH, QUARTER, YEAR = 5, 21, 63, 252
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
BLOCK = 500_000
"""Store rows whose figures are made at once: about 0.2 GB."""

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def first_rows(store: BarStore, rows: IntArray) -> IntArray:
    """The first row of the ticker of each row, (n,)."""
    return store.offsets[np.searchsorted(store.offsets, rows, side="right") - 1]


def past_return(store: BarStore, rows: IntArray, near: int, far: int) -> FloatArray:
    """Close `near` bars before the row over the close `far` bars before it, less 1; NaN where history is
    shorter. (n,).
    """
    old = rows - far
    result = np.full(len(rows), np.nan)
    have = old >= first_rows(store, rows)
    close = store.bars[:, CLOSE]
    result[have] = close[rows[have] - near].astype(np.float64) / close[old[have]] - 1
    return result


def past_bars(store: BarStore, rows: IntArray, count: int) -> FloatArray:
    """The last `count` bars up to and with each row, (n, count, 6) float64; NaN before the ticker's first."""
    where = rows[:, None] + np.arange(1 - count, 1)
    first = first_rows(store, rows)[:, None]
    bars = store.bars[np.maximum(where, first)].astype(np.float64)
    bars[where < first] = np.nan
    return bars


def raw_features(store: BarStore, rows: IntArray) -> FloatArray:
    """`NAMES` of each sample, (n, F); NaN where its history is too short or a ratio has no sense. rows (n,):
    store rows.
    """
    rows = np.asarray(rows, np.int64)
    result = np.empty((len(rows), len(NAMES)))
    if len(rows) * (YEAR + 1) < len(store):
        step = max(1, BLOCK // (YEAR + 1))
        for first in range(0, len(rows), step):
            result[first : first + step] = _of_windows(store, rows[first : first + step])
        return result
    order = np.argsort(rows, kind="stable")
    ticker = np.searchsorted(store.offsets, rows[order], side="right") - 1
    for begin, end in _blocks(store.offsets):
        own = order[np.searchsorted(ticker, begin) : np.searchsorted(ticker, end)]
        if len(own):
            start = store.offsets[begin]
            bars = np.asarray(store.bars[start : store.offsets[end]])
            age = np.arange(start, start + len(bars)) - np.repeat(
                store.offsets[begin:end], np.diff(store.offsets[begin : end + 1])
            )
            result[own] = _figures(bars, age, rows[own] - start)
    return result


def _blocks(offsets: IntArray) -> list[tuple[int, int]]:
    """Runs of tickers, as [begin, end), of about `BLOCK` rows each."""
    edges = np.searchsorted(offsets, np.arange(0, offsets[-1], BLOCK), side="right") - 1
    edges = np.unique(np.append(edges, len(offsets) - 1))
    return [(int(a), int(b)) for a, b in itertools.pairwise(edges)]


def _of_windows(store: BarStore, rows: IntArray) -> FloatArray:
    """The figures of a few rows: their windows one after another, as if they were a store."""
    where = rows[:, None] + np.arange(-YEAR, 1)
    first = first_rows(store, rows)[:, None]
    bars = store.bars[np.maximum(where, first)].reshape(-1, store.bars.shape[1])
    return _figures(bars, (where - first).ravel(), np.arange(len(rows)) * (YEAR + 1) + YEAR)


def _figures(bars: NDArray[np.float32], age: IntArray, places: IntArray) -> FloatArray:
    """The figures of the rows at `places`, (n, F).

    bars (M, 6): runs of rows of one ticker each. age (M,): rows of its ticker before each one. A row that
    lies further back than its age holds another ticker's values; what would need it is NaN.
    """
    open_, high, low, close, volume, amount = (
        np.ascontiguousarray(bars[:, k], np.float64) for k in (OPEN, HIGH, LOW, CLOSE, VOLUME, AMOUNT)
    )
    old = age[places]
    with np.errstate(all="ignore"):
        change = np.diff(np.log(close), prepend=np.nan)

        def kept(values: FloatArray, least: int) -> FloatArray:
            return np.where(old >= least, values[places], np.nan)

        def rise(far: int, near: int = 0) -> FloatArray:
            return np.where(old >= far, close[places - near] / close[np.maximum(places - far, 0)] - 1, np.nan)

        month, quarter = _moments(change, MONTH), _moments(change, QUARTER)
        usual = rolling_sum(volume, QUARTER) / QUARTER
        columns = [
            *(rise(lag) for lag in LAGS),
            rise(YEAR, MONTH),
            kept(month[1], MONTH),
            kept(quarter[1], QUARTER),
            kept(rolling_max(change, MONTH, age - 1), MONTH),
            kept(quarter[2], QUARTER),
            (close / rolling_max(high, YEAR, age))[places],
            kept(close / -rolling_max(-low, QUARTER, age), 0),
            kept(rolling_sum((high - low) / close, MONTH) / MONTH, MONTH - 1),
            (close / open_ - 1)[places],
            np.where(old >= 1, open_[places] / close[np.maximum(places - 1, 0)] - 1, np.nan),
            kept(volume / usual, QUARTER - 1),
            kept(rolling_sum(volume, WEEK) / WEEK / usual, QUARTER - 1),
            kept(rolling_sum(amount, MONTH) / MONTH, MONTH - 1),
        ]
    result = np.stack(columns, axis=1)
    return np.where(np.isfinite(result), result, np.nan)


def _moments(x: FloatArray, count: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean, deviation and skew of the last `count` values of x (M,), each (M,); no skew where nothing
    varies.
    """
    mean = rolling_sum(x, count) / count
    square = rolling_sum(x * x, count) / count
    cube = rolling_sum(x * x * x, count) / count
    variance = square - mean * mean
    variance = np.where(variance > 1e-12 * square, variance, 0.0)
    deviation = np.sqrt(variance)
    skew = (cube - 3 * mean * square + 2 * mean**3) / (variance * deviation)
    return mean, deviation, skew


def lagged(x: FloatArray, by: int, fill: float = np.nan) -> FloatArray:
    """x (M,) moved `by` places on: entry t is x[t - by], the first ones are `fill`."""
    result = np.full(len(x), fill)
    if by < len(x):
        result[by:] = x[: len(x) - by]
    return result


def rolling_sum(x: FloatArray, count: int) -> FloatArray:
    """Sum of the last `count` values of x (M,), (M,): entry t is a sum of x[t - count + 1 : t + 1] only, in a
    fixed order.
    """
    total, offset, block, size = None, 0, x, 1
    while True:
        if count & size:
            piece = lagged(block, offset)
            total = piece if total is None else total + piece
            offset += size
        if 2 * size > count:
            assert total is not None, "count is at least 1"
            return total
        block = block + lagged(block, size)
        size *= 2


def rolling_max(x: FloatArray, count: int, age: IntArray) -> FloatArray:
    """Largest of the last `count` values of x (M,), of fewer where the row's age (M,) has no more of them.
    (M,).
    """
    best, offset, block, size = np.full(len(x), -np.inf), 0, x, 1
    while True:
        if count & size:
            best = np.maximum(best, np.where(age >= offset, lagged(block, offset, -np.inf), -np.inf))
            offset += size
        if 2 * size > count:
            return best
        block = np.maximum(block, np.where(age >= size, lagged(block, size, -np.inf), -np.inf))
        size *= 2


def ranked(raw: FloatArray, bounds: IntArray) -> FloatArray:
    """Ranks within each date in (-0.5, 0.5), ties shared; 0, the middle, where a value is missing.

    raw (n, F) sorted by date, samples of date d are bounds[d]:bounds[d + 1]. Ranks of a date need no other
    date, so nothing is imputed or scaled with values from later ones.
    """
    result = np.zeros_like(raw)
    for a, b in itertools.pairwise(bounds):
        if b > a:
            result[a:b] = _ranks(raw[a:b])
    return result


def _ranks(raw: FloatArray) -> FloatArray:
    """The ranks of one date, (m, F)."""
    m = len(raw)
    order = np.argsort(raw, axis=0)  # missing values last
    values = np.take_along_axis(raw, order, axis=0)
    place = np.arange(m)[:, None]
    begins = np.ones(raw.shape, bool)
    begins[1:] = values[1:] != values[:-1]
    ends = np.ones(raw.shape, bool)
    ends[:-1] = begins[1:]
    first = np.maximum.accumulate(np.where(begins, place, 0), axis=0)
    last = np.minimum.accumulate(np.where(ends, place, m)[::-1], axis=0)[::-1]
    known = np.isfinite(values)
    ranks = np.where(known, ((first + last) / 2 + 1) / (known.sum(axis=0) + 1) - 0.5, 0.0)
    result = np.empty_like(raw)
    np.put_along_axis(result, order, ranks, axis=0)
    return result


def placed(raw: FloatArray, known: FloatArray) -> FloatArray:
    """Where values (k, F) would stand among those of a date (m, F), as `ranked` counts; 0 where a value is
    missing. (k, F).
    """
    result = np.zeros(raw.shape)
    for column in range(raw.shape[1]):
        values = np.sort(known[:, column])
        values = values[np.isfinite(values)]
        below = np.searchsorted(values, raw[:, column], side="left")
        equal = np.searchsorted(values, raw[:, column], side="right") - below
        rank = (below + (equal + 1) / 2) / (len(values) + 1) - 0.5
        result[:, column] = np.where(np.isfinite(raw[:, column]), rank, 0.0)
    return result
