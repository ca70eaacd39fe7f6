"""Portfolios that follow target weights: quantiles of a score, and sleeves that overlap.

In: scores, prices, rules. Out: `Daily`, with parts of shares. A score of day d is dealt on day d + 1 at the
earliest.
"""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from kronos.portfolio.choice import leaders
from kronos.portfolio.exchange import Rules
from kronos.portfolio.prices import PriceTable
from kronos.portfolio.strategies import Daily, Deal, deal_prices

FloatArray = NDArray[np.float64]


Targets = dict[int, NDArray[np.int64]]
"""Day of a deal -> positions of the tickers that are held from then on, with equal weights."""


def weighted(
    name: str,
    targets: list[Targets],
    prices: PriceTable,
    rules: Rules,
    days: slice,
    deal: Deal = "open",
) -> list[Daily]:
    """A portfolio for each of the targets, with parts of shares and costs by share of the value that is dealt.

    Between the days of its deals a portfolio drifts. A ticker without a bar on the day of a deal keeps what it
    has; that is counted as refused.
    """
    first, last, _ = days.indices(len(prices.dates))
    table = deal_prices(prices, deal)
    books = [_Book(len(prices.tickers)) for _ in targets]
    before = np.full(len(prices.tickers), np.nan)
    for day in range(first, last):
        close, mark = prices.close[day], before
        if day > 0:
            mark = prices.last_close[day - 1]
        move = _ratio(close, mark)
        dealt = any(day in target for target in targets)
        if dealt:
            cost = (rules.buy_cost, rules.sale_cost(prices.dates[day]))
            there = np.isfinite(close) & np.isfinite(table[day])
            to_deal, from_deal = _ratio(table[day], mark), _ratio(close, table[day])
        for book, target in zip(books, targets, strict=True):
            if day in target:
                book.worth = book.worth * to_deal
                book.deal(target[day], there, cost)
                book.end_of_day(from_deal)
            else:
                book.end_of_day(move)
    return [book.daily(name, prices.dates[first:last]) for book in books]


class _Book:
    """Money and the worth of every ticker of one portfolio that starts with 1."""

    def __init__(self, count: int) -> None:
        self.worth = np.zeros(count)
        self.cash = self.value = 1.0
        self.cost = self.traded = 0.0
        self.refused = 0
        self.rows: list[tuple[float, ...]] = []

    def deal(self, members: NDArray[np.int64], there: NDArray[np.bool_], cost: tuple[float, float]) -> None:
        """Hold the members with equal weights. there: (K,) what can be dealt. cost: of purchases and of sales,
        as shares of their value.
        """
        weights = np.zeros(len(self.worth))
        weights[members] = 1 / len(members)
        wanted = weights * (self.cash + self.worth.sum())
        self.refused = int(((wanted != self.worth) & ~there).sum())
        trade = np.where(there, wanted - self.worth, 0.0)
        self.cost = float(cost[0] * trade[trade > 0].sum() - cost[1] * trade[trade < 0].sum())
        self.traded = float(np.abs(trade).sum())
        self.worth = self.worth + trade
        self.cash = float(self.cash - trade.sum() - self.cost)

    def end_of_day(self, ratio: FloatArray) -> None:
        """Value everything at the close. ratio: (K,) the close over the price at which `worth` stands."""
        self.worth = self.worth * ratio
        before, self.value = self.value, float(self.cash + self.worth.sum())
        gross = (self.value - before + self.cost) / before
        held = int((self.worth != 0).sum())
        row = (gross, self.cost / before, self.traded / before, self.value, self.cash, held, self.refused)
        self.rows.append(row)
        self.cost = self.traded = 0.0
        self.refused = 0

    def daily(self, name: str, dates: NDArray[np.datetime64]) -> Daily:
        """The record of all days."""
        columns = np.array(self.rows)
        refused = columns[:, 6].astype(np.int64)
        reasons = {}
        if refused.any():
            reasons["no bar"] = int(refused.sum())
        return Daily(
            name,
            dates,
            gross=columns[:, 0],
            cost=columns[:, 1],
            turnover=columns[:, 2],
            value=columns[:, 3],
            cash=columns[:, 4],
            positions=columns[:, 5].astype(np.int64),
            refused=refused,
            reasons=reasons,
        )


def _ratio(now: FloatArray, before: FloatArray) -> FloatArray:
    """(K,) price relatives; 1 where either price is missing: what has no bar keeps its last price."""
    ratio = now / before
    return np.where(np.isfinite(ratio), ratio, 1.0)


def quantile_targets(score: FloatArray, groups: int, days: NDArray[np.int64]) -> list[Targets]:
    """The members of each of `groups` quantiles of the score, the lowest first.

    days: positions of the days whose scores are used; each is dealt on the day after. Days with fewer scores
    than groups are passed over.
    """
    targets: list[Targets] = [{} for _ in range(groups)]
    for day in days.tolist():
        known = np.flatnonzero(np.isfinite(score[day]))
        if len(known) < groups or day + 1 >= len(score):
            continue
        order = known[np.argsort(score[day][known], kind="stable")]
        for group, members in enumerate(np.array_split(order, groups)):
            targets[group][day + 1] = members
    return targets


def sleeve_targets(score: FloatArray, topk: int, hold: int, days: NDArray[np.int64]) -> list[Targets]:
    """`hold` sleeves that overlap: each holds the `topk` best of its own days, and every day one of them is
    renewed.
    """
    sleeves: list[Targets] = [{} for _ in range(hold)]
    chosen = leaders(score[days], topk)
    for number, day in enumerate(days.tolist()):
        best = chosen[number][chosen[number] >= 0]
        if not len(best) or day + 1 >= len(score):
            continue
        sleeves[number % hold][day + 1] = best
    return sleeves


def combined(name: str, parts: list[Daily]) -> Daily:
    """Several portfolios that started with equal money, as one."""
    value = np.mean([part.value for part in parts], axis=0)
    mornings = [np.concatenate([[1.0], part.value[:-1]]) for part in parts]
    before = np.concatenate([[1.0], value[:-1]])

    def mean(column: str) -> FloatArray:
        """Of a column, weighted by what each part was worth in the morning."""
        shares = [
            morning / len(parts) / before * getattr(part, column)
            for morning, part in zip(mornings, parts, strict=True)
        ]
        return np.sum(shares, axis=0)

    reasons: Counter[str] = Counter()
    for part in parts:
        reasons.update(part.reasons)
    return Daily(
        name,
        parts[0].dates,
        gross=mean("gross"),
        cost=mean("cost"),
        turnover=mean("turnover"),
        value=value,
        cash=np.mean([part.cash for part in parts], axis=0),
        positions=np.sum([part.positions for part in parts], axis=0),
        refused=np.sum([part.refused for part in parts], axis=0),
        reasons=dict(reasons),
    )
