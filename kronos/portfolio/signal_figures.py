"""Figures of a signal itself: how well it ranks, how slowly it changes, what its best stocks have in common.

In: scores and prices. Out: intervals over dates. Of a long history at most `MEASURED_DAYS` days, evenly spread,
are measured.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from kronos.evaluation.significance import DateBootstrap, Interval
from kronos.portfolio.prices import PriceTable

FloatArray = NDArray[np.float64]

HORIZONS = (1, 2, 3, 5, 10, 20)
"""Days ahead over which the rank IC of a signal is measured."""
MEASURED_DAYS = 1000
"""Days over which a signal's rank IC and autocorrelation are measured, at most."""
EXPOSED_DAYS = 100
"""Days on which exposures are measured, at most."""
ACCOUNTS = (1e6, 1e7, 1e8)
"""Money for which the capacity is shown."""


def ranks(table: FloatArray) -> FloatArray:
    """(D, K) rank of each value within its row, from 1; equal values share the mean of their ranks; NaN stays
    NaN.
    """
    known = np.isfinite(table)
    filled = np.where(known, table, np.inf)
    order = np.argsort(filled, axis=1)
    ordered = np.take_along_axis(filled, order, axis=1)
    place = np.broadcast_to(np.arange(1.0, table.shape[1] + 1), table.shape).copy()
    same = (ordered[:, 1:] == ordered[:, :-1]) & np.isfinite(ordered[:, 1:])
    tied = np.flatnonzero(same.any(axis=1))
    place[tied] = _shared_places(same[tied])
    rank = np.empty(table.shape)
    np.put_along_axis(rank, order, place, axis=1)
    return np.where(known, rank, np.nan)


def _shared_places(same: NDArray[np.bool_]) -> FloatArray:
    """(D, K) places from 1 in rising order, those of a run of equal values being the mean of its first and its
    last one.

    same: (D, K - 1) whether a value is equal to the one before it.
    """
    count = same.shape[1] + 1
    place = np.arange(1.0, count + 1)
    first = np.broadcast_to(place, (len(same), count)).copy()
    last = first.copy()
    first[:, 1:][same] = 0
    first = np.maximum.accumulate(first, axis=1)
    last[:, :-1][same] = count + 1
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    return (first + last) / 2


def rank_ic(
    score: FloatArray,
    prices: PriceTable,
    horizon: int,
    days: NDArray[np.int64],
    own: FloatArray | None = None,
) -> FloatArray:
    """(len(days),) rank correlation of scores with the returns of the `horizon` days that begin with the next
    close.

    own: `ranks` of the days' scores, where the caller has them. NaN on days with fewer than five stocks that
    have both.
    """
    found = np.full(len(days), np.nan)
    usable = days + 1 + horizon < len(prices.dates)
    known = days[usable]
    later = prices.close[known + 1 + horizon] / prices.close[known + 1] - 1
    if own is not None:
        own = own[usable]
    found[usable] = _correlations(score[known], later, own)
    return found


def _correlations(a: FloatArray, b: FloatArray, own: FloatArray | None = None) -> FloatArray:
    """(D,) rank correlation of each row of a with the same row of b, over the columns that both have; NaN
    below five.

    own: `ranks(a)`, where the caller has them: they hold where b has all that a has.
    """
    both = np.isfinite(a) & np.isfinite(b)
    if own is None:
        x = ranks(np.where(both, a, np.nan))
    else:
        x = own.copy()
        fewer = np.flatnonzero((both != np.isfinite(a)).any(axis=1))
        x[fewer] = ranks(np.where(both[fewer], a[fewer], np.nan))
    y = ranks(np.where(both, b, np.nan))
    count = np.maximum(both.sum(axis=1), 1)
    middle = (count[:, None] + 1) / 2  # the mean of ranks from 1 to count
    x, y = np.nan_to_num(x - middle), np.nan_to_num(y - middle)
    scale = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    enough = (count >= 5) & (scale > 0)
    return np.where(enough, (x * y).sum(axis=1) / np.where(enough, scale, 1.0), np.nan)


def _correlation(x: FloatArray, y: FloatArray) -> float:
    """Correlation of x and y, (n,); NaN where one of them does not vary."""
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / scale) if scale > 0 else float("nan")


def decay(score: FloatArray, prices: PriceTable, days: NDArray[np.int64]) -> dict[int, Interval]:
    """Rank IC by days ahead, each with its interval. days: positions of the days with scores, of which at
    most `MEASURED_DAYS`, evenly spread, are used."""
    chosen = days[:: max(1, math.ceil(len(days) / MEASURED_DAYS))]
    own = ranks(score[chosen])
    found = {}
    for horizon in HORIZONS:
        bootstrap = DateBootstrap(tuple(chosen.tolist()), horizon)
        found[horizon] = bootstrap.interval(rank_ic(score, prices, horizon, chosen, own), null=0.0)
    return found


def autocorrelation(score: FloatArray, days: NDArray[np.int64]) -> Interval:
    """Mean rank correlation of the scores of one day with those of the next day that has any, with its
    interval; NaN without two such days.
    """
    first = np.arange(0, max(len(days) - 1, 0), max(1, math.ceil(len(days) / MEASURED_DAYS)))
    if not len(first):
        return Interval(float("nan"))
    found = _correlations(score[days[first]], score[days[first + 1]])
    return DateBootstrap(tuple(days[first].tolist()), 1).interval(found)


def exposures(
    score: FloatArray, prices: PriceTable, days: NDArray[np.int64], topk: int
) -> dict[str, Interval]:
    """Mean rank (-0.5 to 0.5) of the `topk` best stocks in what usually explains returns, with its interval
    over at most `EXPOSED_DAYS` of the days.
    """
    chosen = days[:: max(1, len(days) // EXPOSED_DAYS)]
    chosen = chosen[chosen >= 60]
    found: dict[str, list[float]] = {
        "size (money dealt)": [],
        "volatility": [],
        "return of the past year": [],
    }
    for day in chosen.tolist():
        known = np.flatnonzero(np.isfinite(score[day]) & np.isfinite(prices.close[day]))
        columns = _past(prices, day, known)
        best = np.zeros(len(known), bool)
        best[np.argsort(-score[day][known], kind="stable")[:topk]] = True
        for name, values in zip(found, columns, strict=True):
            found[name].append(_mean_rank(values, best, topk))
    if not len(chosen):
        return {name: Interval(float("nan")) for name in found}
    bootstrap = DateBootstrap(
        tuple(chosen.tolist()), 20
    )  # the past of a month is shared by neighbouring days
    return {name: bootstrap.interval(np.array(values), null=0.0) for name, values in found.items()}


def _past(prices: PriceTable, day: int, known: NDArray[np.int64]) -> tuple[FloatArray, ...]:
    """Money dealt and volatility of 60 days, return of 250 days, each (n,) of the tickers `known`."""
    moves = prices.change[day - 59 : day + 1][:, known]
    dealt = np.where(np.isfinite(moves), prices.amount[day - 59 : day + 1][:, known], np.nan)
    count = np.isfinite(moves).sum(axis=0)
    some = np.where(count > 0, count, np.nan)
    mean = np.nansum(moves, axis=0) / some
    spread = np.sqrt(np.nansum((moves - mean) ** 2, axis=0) / some)
    start = prices.last_close[max(day - 250, 0)][known]
    return np.nansum(dealt, axis=0) / some, spread, prices.close[day][known] / start - 1


def _mean_rank(values: FloatArray, best: NDArray[np.bool_], topk: int) -> float:
    """Mean rank of the best stocks among all (n,), -0.5 to 0.5; NaN where they are more than a half."""
    good = np.isfinite(values)
    if len(values) < 2 * topk or not (best & good).any():
        return float("nan")
    place = stats.rankdata(values[good]) / (good.sum() + 1) - 0.5
    return float(place[best[good]].mean())


def capacity(prices: PriceTable, order: float) -> dict[str, float]:
    """Share of a stock's money dealt on a median day that one order would be, by account.

    order: value of one order, as a share of the account. Only where amounts are money.
    """
    dealt = prices.amount[prices.amount > 0]
    if not len(dealt):
        return {}
    return {f"{account:,.0f}": float(account * order / np.median(dealt)) for account in ACCOUNTS}


def monotonicity(means: list[float]) -> float:
    """Rank correlation of the mean returns of quantile portfolios with their order: 1 when each beats the one
    below.
    """
    return _correlation(np.arange(len(means), dtype=float), stats.rankdata(means))
