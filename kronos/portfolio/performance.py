"""Figures of a portfolio, each with a 95 % interval over blocks of days.

In: `Daily`, a benchmark's daily returns. Out: `Figure`s, ready for JSON. Intervals are those of
`evaluation.significance`: for a Sharpe or information ratio on its influence values (Lo 2002, The Statistics
of Sharpe Ratios, eq. 15 and appendix), which covers 94.7 to 97.3 % under normal, t4, AR(1) and GARCH returns of
250 and 750 days. A volatility, beta and alpha have the intervals of their influence values, too; a break-even
cost, days held and positions won those of a ratio. A drawdown is no mean and has none.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from kronos.evaluation.significance import DateBootstrap, Interval
from kronos.portfolio.strategies import Daily

FloatArray = NDArray[np.float64]

DAYS_A_YEAR = 252
"""Of one exchange."""
YEARS = ((6 / 7, 365), (0.5, 252), (0.1, 52), (0.02, 12), (0.0, 4))
"""(share of all days on which is traded, that many days a year): a market that never closes, an exchange, bars
of a week, a month, a quarter."""
EULER = 0.5772156649015329


@dataclass(frozen=True)
class Figure:
    """One figure, what it means, its unit and its interval."""

    name: str
    interval: Interval
    unit: str
    """'share' (per cent, with its sign), 'part' (per cent, never below 0), 'ratio', 'basis points', 'days' or
    'count'."""
    meaning: str

    def words(self) -> str:
        """The figure with its interval, as people write it."""
        found = self.interval
        if not math.isfinite(found.value):
            return "not defined"
        shown = self._number(found.value)
        if found.low is None or found.high is None:
            return shown
        return f"{shown} [{self._number(found.low)}, {self._number(found.high)}]"

    def _number(self, value: float) -> str:
        """A value in the unit of the figure."""
        if self.unit == "share":
            return f"{value:+.1%}"
        if self.unit == "part":
            return f"{value:.1%}"
        return f"{value:+.2f}" if self.unit == "ratio" else f"{value:.1f}"


def days_a_year(dates: NDArray[np.datetime64]) -> int:
    """On how many days a year is traded, by the days (T,) themselves, sorted: 252 for an exchange, 365 where one
    of the markets never closes, 52 for bars of a week. Less than two weeks do not tell: 252."""
    span = int((dates[-1] - dates[0]) / np.timedelta64(1, "D")) + 1
    if span < 14:
        return DAYS_A_YEAR
    share = len(dates) / span
    return next(days for least, days in YEARS if share > least)


def bootstrap_of(days: int, horizon: int, draws: int = 1000, seed: int = 42) -> DateBootstrap:
    """The bootstrap over T days in a row; blocks have twice the days that a position is held, at least
    ten.
    """
    return DateBootstrap(tuple(range(days)), max(horizon, 5), draws, seed)


def sharpe(
    returns: FloatArray,
    bootstrap: DateBootstrap,
    null: float | None = 0.0,
    year: int = DAYS_A_YEAR,
) -> Interval:
    """Mean over standard deviation of daily returns, a year of `year` days, with its interval. Undefined where
    returns do not vary.
    """
    deviation = float(returns.std(ddof=1)) if len(returns) > 1 else 0.0
    if deviation <= 1e-15:
        return Interval(float("nan"))
    daily = float(returns.mean()) / deviation
    z = (returns - returns.mean()) / deviation
    scale = math.sqrt(year)
    influence = (daily + z - daily * (z**2 - 1) / 2) * scale
    return centred(influence, daily * scale, bootstrap, null)


def daily_ratio(returns: FloatArray) -> float:
    """Mean over standard deviation of daily returns, of a day, without an interval; 0 where they do not vary."""
    deviation = float(returns.std(ddof=1))
    if deviation <= 0:
        return 0.0
    return float(returns.mean()) / deviation


def annualised(returns: FloatArray, bootstrap: DateBootstrap, year: int = DAYS_A_YEAR) -> Interval:
    """The mean of daily returns times the days of a year, not compounded, so that it has an interval."""
    return scaled(bootstrap.interval(returns, null=0.0), year)


def drawdown(returns: FloatArray, dates: NDArray[np.datetime64]) -> tuple[float, str, str]:
    """The largest fall of the compounded curve, and the days of its peak and its bottom."""
    curve = np.concatenate([[1.0], np.cumprod(1 + returns)])
    peak = np.maximum.accumulate(curve)
    fall = curve / peak - 1
    bottom = int(fall.argmin())
    top = int(curve[: bottom + 1].argmax())
    names = [str(np.datetime64(dates[max(place - 1, 0)], "D")) for place in (top, bottom)]
    return float(fall[bottom]), names[0], names[1]


@dataclass(frozen=True)
class Deflated:
    """How sure a Sharpe ratio is when many were tried."""

    probability: float
    """P(the true ratio is above what the best of the tries would show without skill)."""
    tried: int
    """Signals, of all runs."""
    spread: float
    """Standard deviation of the tried daily Sharpe ratios."""


def deflated_sharpe(daily: FloatArray, tried: list[float]) -> Deflated | None:
    """The deflated Sharpe ratio (Bailey and Lopez de Prado 2014).

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
    sure = float(stats.norm.cdf((own - best_of_noise) * math.sqrt(len(daily) - 1) / width))
    return Deflated(sure, count, spread)


def figures(daily: Daily, benchmark: FloatArray, horizon: int, year: int = DAYS_A_YEAR) -> list[Figure]:
    """What the portfolio earned, what it cost and how it moved. benchmark: (T,) daily returns; horizon: days
    that a position is held; year: days of a year (`days_a_year`)."""
    bootstrap = bootstrap_of(len(daily.dates), horizon)
    return [
        *_earned(daily, benchmark, bootstrap, year),
        *_moved(daily, benchmark, bootstrap, year),
        *_dealt(daily, benchmark, bootstrap, year),
        *_positions(daily, bootstrap),
    ]


def _earned(daily: Daily, benchmark: FloatArray, bootstrap: DateBootstrap, year: int) -> list[Figure]:
    """Returns and excess."""
    own = annualised(daily.net, bootstrap, year)
    before = annualised(daily.gross - benchmark, bootstrap, year)
    after = annualised(daily.net - benchmark, bootstrap, year)
    won = (daily.net > benchmark).astype(float)
    return [
        Figure("return", own, "share", f"a year after cost: daily mean times {year}"),
        Figure("excess before cost", before, "share", "less the benchmark's, a year"),
        Figure("excess after cost", after, "share", "less the benchmark's, a year"),
        Figure("days won", bootstrap.interval(won, null=0.5), "part", "days above the benchmark"),
    ]


def _moved(daily: Daily, benchmark: FloatArray, bootstrap: DateBootstrap, year: int) -> list[Figure]:
    """Ratios, volatility, beta and alpha."""
    after = sharpe(daily.net - benchmark, bootstrap, year=year)
    before = sharpe(daily.gross - benchmark, bootstrap, year=year)
    own = sharpe(daily.net, bootstrap, year=year)
    beta, alpha = regression(daily.net, benchmark, bootstrap, year)
    wide = volatility(daily.net, bootstrap, year)
    over = "cost over its deviation, a year"
    return [
        Figure("information ratio", after, "ratio", f"excess after {over}"),
        Figure("information ratio before cost", before, "ratio", f"excess before {over}"),
        Figure("Sharpe ratio", own, "ratio", "return over its deviation, a year"),
        Figure("volatility", wide, "part", "of daily returns, a year"),
        Figure("beta", beta, "ratio", "move with the benchmark"),
        Figure("alpha", alpha, "share", "return a year that beta does not explain"),
    ]


def _dealt(daily: Daily, benchmark: FloatArray, bootstrap: DateBootstrap, year: int) -> list[Figure]:
    """Turnover, cost, stocks held, cash."""
    turnover = bootstrap.interval(daily.turnover)
    held = bootstrap.interval(daily.positions.astype(float))
    cash = bootstrap.interval(daily.cash / daily.value)
    found = [
        Figure("turnover", turnover, "part", "purchases and sales a day, of the value"),
        Figure("cost", annualised(daily.cost, bootstrap, year), "part", "of the value, a year"),
        Figure("held", held, "count", "stocks in the evening"),
        Figure("cash", cash, "part", "of the value, earning nothing"),
    ]
    if daily.turnover.mean() > 0:
        even = scaled(bootstrap.ratio(daily.gross - benchmark, daily.turnover), 1e4)
        words = "a side, that uses up the excess before cost"
        found.append(Figure("break-even cost", even, "basis points", words))
    return found


def _positions(daily: Daily, bootstrap: DateBootstrap) -> list[Figure]:
    """Of the positions that were closed. Those of one day are one observation: they move together."""
    if not daily.closed_on:
        return []
    days = len(daily.dates)
    closed = np.bincount(daily.closed_on, minlength=days).astype(float)
    held = np.bincount(daily.closed_on, daily.held_days, minlength=days).astype(float)
    gained = np.array(daily.position_returns) > 0
    won = np.bincount(daily.closed_on, gained, minlength=days).astype(float)
    of = "of the positions that were closed"
    return [
        Figure("holding", bootstrap.ratio(held, closed), "days", of),
        Figure("positions won", bootstrap.ratio(won, closed), "part", f"{of}, before cost"),
    ]


def scaled(interval: Interval, by: float) -> Interval:
    """The same figure in another unit. by: above 0."""
    low = None if interval.low is None else interval.low * by
    high = None if interval.high is None else interval.high * by
    return Interval(interval.value * by, low, high, interval.p, interval.dates)


def volatility(returns: FloatArray, bootstrap: DateBootstrap, year: int = DAYS_A_YEAR) -> Interval:
    """Standard deviation of daily returns, a year, with the interval of its influence values."""
    deviation = float(returns.std(ddof=1))
    if deviation <= 1e-15:
        return Interval(0.0)
    influence = deviation + ((returns - returns.mean()) ** 2 - deviation**2) / (2 * deviation)
    return scaled(centred(influence, deviation, bootstrap), math.sqrt(year))


def regression(
    own: FloatArray, benchmark: FloatArray, bootstrap: DateBootstrap, year: int = DAYS_A_YEAR
) -> tuple[Interval, Interval]:
    """(beta, alpha a year): slope and rest of the portfolio's returns (T,) on the benchmark's, with the
    intervals of their influence values. Not defined where the benchmark does not move.
    """
    away = benchmark - benchmark.mean()
    spread = float((away**2).mean())
    if spread <= 1e-18:
        return Interval(float("nan")), Interval(float("nan"))
    beta = float((own * away).mean() / spread)
    alpha = float(own.mean() - beta * benchmark.mean())
    rest = own - alpha - beta * benchmark
    slope = rest * away / spread
    of_alpha = alpha + rest - benchmark.mean() * slope
    found = scaled(centred(of_alpha, alpha, bootstrap, null=0.0), year)
    return centred(beta + slope, beta, bootstrap), found


def centred(
    influence: FloatArray, value: float, bootstrap: DateBootstrap, null: float | None = None
) -> Interval:
    """A figure with the interval of its influence values (T,), moved to the figure itself."""
    found = bootstrap.interval(influence, null=null)
    if found.low is None or found.high is None:
        return Interval(value, dates=found.dates)
    shift = value - found.value
    return Interval(value, found.low + shift, found.high + shift, found.p, found.dates)
