"""Figures of a portfolio, each with a 95 % interval over blocks of days.

In: `Daily`, a benchmark's daily returns, the signal and the prices. Out: `Figure`s, ready for JSON. Intervals
are those of `evaluation.significance`: for a Sharpe or information ratio on its influence values (Lo 2002,
The Statistics of Sharpe Ratios, eq. 15 and appendix), which covers 94.7 to 97.3 % under normal, t4, AR(1) and
GARCH returns of 250 and 750 days.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from kronos.evaluation.significance import DateBootstrap, Interval
from kronos.portfolio.prices import PriceTable
from kronos.portfolio.strategies import Daily

FloatArray = NDArray[np.float64]

DAYS_A_YEAR = 252
HORIZONS = (1, 2, 3, 5, 10, 20)
"""Days ahead over which the rank IC of a signal is measured."""
MEASURED_DAYS = 1000
"""Days over which a signal's rank IC and autocorrelation are measured, at most."""
ACCOUNTS = (1e6, 1e7, 1e8)
"""Money for which the capacity is shown."""
EULER = 0.5772156649015329


@dataclass(frozen=True)
class Figure:
    """One figure, what it means, its unit and its interval."""

    name: str
    interval: Interval
    unit: str
    """'share' (shown in per cent), 'ratio', 'days', 'count' or 'money'."""
    meaning: str


def bootstrap_of(days: int, horizon: int, draws: int = 2000, seed: int = 42) -> DateBootstrap:
    """The bootstrap over T days in a row; blocks have twice the days that a position is held, at least
    ten.
    """
    return DateBootstrap(tuple(range(days)), max(horizon, 5), draws, seed)


def sharpe(returns: FloatArray, bootstrap: DateBootstrap, null: float | None = 0.0) -> Interval:
    """Mean over standard deviation of daily returns, a year, with its interval. Undefined where returns do
    not vary.
    """
    deviation = float(returns.std(ddof=1)) if len(returns) > 1 else 0.0
    if deviation <= 1e-15:
        return Interval(float("nan"))
    daily = float(returns.mean()) / deviation
    z = (returns - returns.mean()) / deviation
    scale = math.sqrt(DAYS_A_YEAR)
    influence = (daily + z - daily * (z**2 - 1) / 2) * scale
    found = bootstrap.interval(influence, null=null)
    shift = daily * scale - found.value
    if found.low is None or found.high is None:
        return Interval(daily * scale, dates=found.dates)
    return Interval(daily * scale, found.low + shift, found.high + shift, found.p, found.dates)


def annualised(returns: FloatArray, bootstrap: DateBootstrap) -> Interval:
    """The mean of daily returns times the days of a year, not compounded, so that it has an interval."""
    found = bootstrap.interval(returns, null=0.0)
    scaled = [None if value is None else value * DAYS_A_YEAR for value in (found.low, found.high)]
    return Interval(found.value * DAYS_A_YEAR, scaled[0], scaled[1], found.p, found.dates)


def drawdown(returns: FloatArray, dates: NDArray[np.datetime64]) -> tuple[float, str, str]:
    """The largest fall of the compounded curve, and the days of its peak and its bottom."""
    curve = np.concatenate([[1.0], np.cumprod(1 + returns)])
    peak = np.maximum.accumulate(curve)
    fall = curve / peak - 1
    bottom = int(fall.argmin())
    top = int(curve[: bottom + 1].argmax())
    names = [str(np.datetime64(dates[max(place - 1, 0)], "D")) for place in (top, bottom)]
    return float(fall[bottom]), names[0], names[1]


def deflated_sharpe(daily: FloatArray, tried: list[float]) -> float | None:
    """P(the true Sharpe ratio is above what the best of K tries without skill would show) (Bailey and Lopez
    de Prado 2014).

    daily: (T,) returns of the chosen one. tried: daily Sharpe ratios (not a year's) of all K that were tried,
    the chosen one included. None for fewer than two tries.
    """
    count = len(tried)
    if count < 2 or len(daily) < 3 or daily.std() <= 1e-15:
        return None
    spread = float(np.std(tried, ddof=1))
    first = stats.norm.ppf(1 - 1 / count)
    second = stats.norm.ppf(1 - 1 / (count * math.e))
    best_of_noise = spread * ((1 - EULER) * first + EULER * second)
    own = float(daily.mean() / daily.std(ddof=1))
    skew, kurtosis = float(stats.skew(daily)), float(stats.kurtosis(daily, fisher=False))
    width = math.sqrt(max(1 - skew * own + (kurtosis - 1) / 4 * own**2, 1e-12))
    return float(stats.norm.cdf((own - best_of_noise) * math.sqrt(len(daily) - 1) / width))


def figures(daily: Daily, benchmark: FloatArray, horizon: int) -> list[Figure]:
    """What the portfolio earned, what it cost and how it moved. benchmark: (T,) daily returns; horizon: days
    that a position is held."""
    bootstrap = bootstrap_of(len(daily.dates), horizon)
    before, after = daily.gross - benchmark, daily.net - benchmark
    beta, alpha = _beta(daily.net, benchmark)
    found = [
        Figure(
            "return", annualised(daily.net, bootstrap), "share", "mean daily return after cost, times 252"
        ),
        Figure("excess before cost", annualised(before, bootstrap), "share", "less the benchmark's, a year"),
        Figure("excess after cost", annualised(after, bootstrap), "share", "less the benchmark's, a year"),
        Figure(
            "information ratio",
            sharpe(after, bootstrap),
            "ratio",
            "excess after cost over its deviation, a year",
        ),
        Figure(
            "information ratio before cost",
            sharpe(before, bootstrap),
            "ratio",
            "excess before cost over its deviation",
        ),
        Figure(
            "Sharpe ratio",
            sharpe(daily.net, bootstrap),
            "ratio",
            "return after cost over its deviation, a year",
        ),
        Figure(
            "volatility",
            _plain(float(daily.net.std(ddof=1)) * math.sqrt(DAYS_A_YEAR)),
            "share",
            "of daily returns, a year",
        ),
        Figure(
            "turnover", bootstrap.interval(daily.turnover), "share", "purchases and sales a day, of the value"
        ),
        Figure("cost", annualised(daily.cost, bootstrap), "share", "of the value, a year"),
        Figure(
            "days won",
            bootstrap.interval((after > 0).astype(float), null=0.5),
            "share",
            "days above the benchmark",
        ),
        Figure("held", _plain(daily.positions.mean()), "count", "stocks in the evening"),
        Figure("cash", _plain((daily.cash / daily.value).mean()), "share", "of the value, earning nothing"),
        Figure("beta", _plain(beta), "ratio", "move with the benchmark"),
        Figure("alpha", _plain(alpha * DAYS_A_YEAR), "share", "return a year that beta does not explain"),
    ]
    if daily.turnover.mean() > 0:
        cost = before.mean() / daily.turnover.mean() * 1e4
        found.append(
            Figure(
                "break-even cost", _plain(cost), "basis points", "a side, that uses up the excess before cost"
            )
        )
    if daily.held_days:
        won = np.array(daily.position_returns) > 0
        found.append(
            Figure(
                "holding",
                _plain(float(np.mean(daily.held_days))),
                "days",
                "of the positions that were closed",
            )
        )
        found.append(
            Figure(
                "positions won", _plain(won.mean()), "share", "of the positions that were closed, before cost"
            )
        )
    return found


def _plain(value: float) -> Interval:
    return Interval(float(value))


def _beta(own: FloatArray, benchmark: FloatArray) -> tuple[float, float]:
    """Slope and rest of the portfolio's returns on the benchmark's; NaN where that does not move."""
    spread = float(benchmark.var())
    if spread <= 1e-18:
        return float("nan"), float("nan")
    beta = float(np.cov(own, benchmark, ddof=0)[0, 1] / spread)
    return beta, float(own.mean() - beta * benchmark.mean())


# -- the signal itself ---------------------------------------------------------------------------------------
def ranks(table: FloatArray) -> FloatArray:
    """(D, K) rank of each value within its row, from 1; equal values share the mean of their ranks; NaN stays
    NaN.
    """
    filled = np.where(np.isfinite(table), table, np.inf)
    order = np.argsort(filled, axis=1)
    rank = np.empty(table.shape)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(1.0, table.shape[1] + 1), table.shape), axis=1)
    ordered = np.take_along_axis(filled, order, axis=1)
    equal = ((ordered[:, 1:] == ordered[:, :-1]) & np.isfinite(ordered[:, 1:])).any(axis=1)
    for row in np.flatnonzero(equal):
        rank[row] = stats.rankdata(filled[row])
    return np.where(np.isfinite(table), rank, np.nan)


def rank_ic(score: FloatArray, prices: PriceTable, horizon: int, days: NDArray[np.int64]) -> FloatArray:
    """(len(days),) rank correlation of scores with the returns of the `horizon` days that begin with the next
    close.

    NaN on days with fewer than five stocks that have both.
    """
    found = np.full(len(days), np.nan)
    usable = days + 1 + horizon < len(prices.dates)
    known = days[usable]
    later = prices.close[known + 1 + horizon] / prices.close[known + 1] - 1
    found[usable] = _correlations(score[known], later)
    return found


def _correlations(a: FloatArray, b: FloatArray) -> FloatArray:
    """(D,) rank correlation of each row of a with the same row of b, over the columns that both have; NaN
    below five.
    """
    both = np.isfinite(a) & np.isfinite(b)
    x, y = ranks(np.where(both, a, np.nan)), ranks(np.where(both, b, np.nan))
    count = np.maximum(both.sum(axis=1), 1)
    middle = (count[:, None] + 1) / 2  # the mean of ranks from 1 to count
    x, y = np.nan_to_num(x - middle), np.nan_to_num(y - middle)
    scale = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    enough = (count >= 5) & (scale > 0)
    return np.where(enough, (x * y).sum(axis=1) / np.where(enough, scale, 1.0), np.nan)


def _correlation(x: FloatArray, y: FloatArray) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / scale) if scale > 0 else float("nan")


def decay(score: FloatArray, prices: PriceTable, days: NDArray[np.int64]) -> dict[int, Interval]:
    """Rank IC by days ahead, each with its interval. days: positions of the days with scores, of which at
    most `MEASURED_DAYS`, evenly spread, are used."""
    chosen = days[:: max(1, math.ceil(len(days) / MEASURED_DAYS))]
    found = {}
    for horizon in HORIZONS:
        bootstrap = DateBootstrap(tuple(chosen.tolist()), horizon)
        found[horizon] = bootstrap.interval(rank_ic(score, prices, horizon, chosen), null=0.0)
    return found


def autocorrelation(score: FloatArray, days: NDArray[np.int64]) -> float:
    """Mean rank correlation of the scores of one day with those of the next day that has any; NaN without two
    such days.
    """
    first = np.arange(0, max(len(days) - 1, 0), max(1, math.ceil(len(days) / MEASURED_DAYS)))
    found = _correlations(score[days[first]], score[days[first + 1]])
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def exposures(score: FloatArray, prices: PriceTable, days: NDArray[np.int64], topk: int) -> dict[str, float]:
    """Mean rank (-0.5 to 0.5) of the `topk` best stocks in what usually explains returns, over at most 100 of
    the days.
    """
    chosen = days[:: max(1, len(days) // 100)]
    ranks: dict[str, list[float]] = {
        "size (money dealt)": [],
        "volatility": [],
        "return of the past year": [],
    }
    for day in chosen[chosen >= 60].tolist():
        known = np.flatnonzero(np.isfinite(score[day]) & np.isfinite(prices.close[day]))
        if len(known) < 2 * topk:
            continue
        best = np.isin(known, known[np.argsort(-score[day][known], kind="stable")[:topk]])
        moves = prices.change[day - 59 : day + 1][:, known]
        start = prices.last_close[max(day - 250, 0)][known]
        columns = (
            np.nanmean(np.where(moves == moves, prices.amount[day - 59 : day + 1][:, known], np.nan), axis=0),
            np.nanstd(moves, axis=0),
            prices.close[day][known] / start - 1,
        )
        for name, values in zip(ranks, columns, strict=True):
            good = np.isfinite(values)
            if good.sum() >= 2 and (best & good).any():
                place = stats.rankdata(values[good]) / (good.sum() + 1) - 0.5
                ranks[name].append(float(place[best[good]].mean()))
    return {name: float(np.mean(values)) if values else float("nan") for name, values in ranks.items()}


def capacity(prices: PriceTable, turnover_each: float) -> dict[str, float]:
    """Share of a stock's money dealt on a median day that one order would be, by account. Empty where money
    is not known.

    turnover_each: value of one order, as a share of the account.
    """
    dealt = prices.amount[np.isfinite(prices.amount) & (prices.amount > 0)]
    if not len(dealt):
        return {}
    return {f"{account:,.0f}": float(account * turnover_each / np.median(dealt)) for account in ACCOUNTS}


def monotonicity(means: list[float]) -> float:
    """Rank correlation of the mean returns of quantile portfolios with their order: 1 when each beats the one
    below.
    """
    return _correlation(np.arange(len(means), dtype=float), stats.rankdata(means))
