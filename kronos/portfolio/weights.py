"""Portfolios that follow target weights: quantiles of a score, and sleeves that overlap.

In: scores, prices, rules. Out: `Daily`, with parts of shares. A score of day d is dealt on day d + 1 at the
earliest.
"""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from kronos.portfolio.exchange import Rules
from kronos.portfolio.prices import PriceTable
from kronos.portfolio.strategies import Daily, Deal, deal_prices, leaders

FloatArray = NDArray[np.float64]


def weighted(
    name: str,
    targets: dict[int, FloatArray],
    prices: PriceTable,
    rules: Rules,
    days: slice,
    deal: Deal = "open",
) -> Daily:
    """Follow target weights, with parts of shares and costs by share of the value that is dealt.

    targets: day of the deal -> (K,) weights that sum to at most 1 (a short side may be negative); between
    these days the positions drift. A ticker without a bar on the day of a deal keeps what it has; that is
    counted as refused.
    """
    first, last, _ = days.indices(len(prices.dates))
    table = deal_prices(prices, deal)
    count = len(prices.tickers)
    worth, cash = np.zeros(count), 1.0
    value = 1.0
    rows, refused_total = [], 0
    for day in range(first, last):
        before, cost, traded, refused = value, 0.0, 0.0, 0
        mark = prices.last_close[day - 1] if day > 0 else np.full(count, np.nan)
        if day in targets:
            worth = worth * _ratio(table[day], mark)  # from last evening's close to the deal
            total = cash + worth.sum()
            there = np.isfinite(prices.close[day]) & np.isfinite(table[day])
            wanted = targets[day] * total
            refused = int(((wanted != worth) & ~there).sum())
            trade = np.where(there, wanted - worth, 0.0)
            cost = (
                rules.buy_cost * trade[trade > 0].sum()
                - rules.sale_cost(prices.dates[day]) * trade[trade < 0].sum()
            )
            traded = float(np.abs(trade).sum())
            worth = worth + trade
            cash = cash - trade.sum() - cost
            worth = worth * _ratio(prices.close[day], table[day])
        else:
            worth = worth * _ratio(prices.close[day], mark)
        value = float(cash + worth.sum())
        refused_total += refused
        gross = (value - before + cost) / before
        rows.append((gross, cost / before, traded / before, value, cash, int((worth != 0).sum()), refused))
    columns = np.array(rows)
    return Daily(
        name,
        prices.dates[first:last],
        gross=columns[:, 0],
        cost=columns[:, 1],
        turnover=columns[:, 2],
        value=columns[:, 3],
        cash=columns[:, 4],
        positions=columns[:, 5].astype(np.int64),
        refused=columns[:, 6].astype(np.int64),
        reasons={"no bar": refused_total} if refused_total else {},
    )


def _ratio(now: FloatArray, before: FloatArray) -> FloatArray:
    """(K,) price relatives; 1 where either price is missing: what has no bar keeps its last price."""
    ratio = now / before
    return np.where(np.isfinite(ratio), ratio, 1.0)


def quantile_targets(score: FloatArray, groups: int, days: NDArray[np.int64]) -> list[dict[int, FloatArray]]:
    """Equal weights within each of `groups` quantiles of the score, the lowest first.

    days: positions of the days whose scores are used; each is dealt on the day after. Days with fewer scores
    than groups are passed over.
    """
    targets: list[dict[int, FloatArray]] = [{} for _ in range(groups)]
    for day in days.tolist():
        known = np.flatnonzero(np.isfinite(score[day]))
        if len(known) < groups or day + 1 >= len(score):
            continue
        order = known[np.argsort(score[day][known], kind="stable")]
        for group, members in enumerate(np.array_split(order, groups)):
            weights = np.zeros(score.shape[1])
            weights[members] = 1 / len(members)
            targets[group][day + 1] = weights
    return targets


def sleeve_targets(
    score: FloatArray, topk: int, hold: int, days: NDArray[np.int64]
) -> list[dict[int, FloatArray]]:
    """`hold` sleeves that overlap: each holds the `topk` best of its own days, and every day one of them is
    renewed.
    """
    sleeves: list[dict[int, FloatArray]] = [{} for _ in range(hold)]
    chosen = leaders(score[days], topk)
    for number, day in enumerate(days.tolist()):
        best = chosen[number][chosen[number] >= 0]
        if not len(best) or day + 1 >= len(score):
            continue
        weights = np.zeros(score.shape[1])
        weights[best] = 1 / len(best)
        sleeves[number % hold][day + 1] = weights
    return sleeves


def combined(name: str, parts: list[Daily]) -> Daily:
    """Several portfolios that started with equal money, as one."""
    value = np.mean([part.value for part in parts], axis=0)
    before = np.concatenate([[1.0], value[:-1]])
    weights = [np.concatenate([[1.0], part.value[:-1]]) / len(parts) / before for part in parts]

    def mean(column: str) -> FloatArray:
        return np.sum(
            [weight * getattr(part, column) for weight, part in zip(weights, parts, strict=True)], axis=0
        )

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
