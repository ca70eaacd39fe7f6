"""Strategies: from a signal, prices and rules to what a portfolio earned on every day.

In: `Signal`, `PriceTable`, `Rules`. Out: `Daily`, one row a day. A score of day d is dealt on day d + 1 at
the earliest.

`topk_dropout` holds about k stocks and exchanges at most n of them a day for better ones; with the rules
`qlib` it repeats Qlib 0.9.7 (TopkDropoutStrategy, SimulatorExecutor) to the last digits. `weighted` follows
target weights: quantile portfolios and sleeves that overlap are made of it.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kronos.errors import KitError
from kronos.portfolio.exchange import Rules, at_limits, limit_of
from kronos.portfolio.prices import PriceTable

FloatArray = NDArray[np.float64]
Deal = Literal["open", "close", "vwap"]


@dataclass(frozen=True)
class TopkDropout:
    """How many stocks are held, and how many are exchanged on a day."""

    topk: int = 50
    drop: int = 5
    hold: int = 5
    """Days that a stock is held at least."""
    account: float = 1e8
    """Money at the start."""
    deal: Deal = "open"

    def __post_init__(self) -> None:
        if self.topk < 1 or not 0 <= self.drop <= self.topk:
            raise KitError(
                f"--topk, --drop: expected topk >= 1 and drop from 0 to topk, found {self.topk} and {self.drop}"
            )
        if self.account <= 0 or self.hold < 0:
            raise KitError(
                f"--account, --hold: expected money > 0 and days >= 0, found {self.account:g} and {self.hold}"
            )


@dataclass(frozen=True, eq=False)
class Daily:
    """What a portfolio did on each of T days. Shares are of the value in the evening before."""

    name: str
    dates: NDArray[np.datetime64]
    gross: FloatArray
    """(T,) return before cost."""
    cost: FloatArray
    """(T,)."""
    turnover: FloatArray
    """(T,) value of purchases and sales, both sides."""
    value: FloatArray
    """(T,) money and stocks in the evening."""
    cash: FloatArray
    """(T,)."""
    positions: NDArray[np.int64]
    """(T,) stocks held in the evening."""
    refused: NDArray[np.int64]
    """(T,) orders that could not be dealt."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Refused orders by reason, over all days."""
    held_days: list[int] = field(default_factory=list)
    """Days that each position that was closed had been held."""
    position_returns: list[float] = field(default_factory=list)
    """Return of each position that was closed, before cost."""
    last_targets: list[tuple[str, float]] = field(default_factory=list)
    """(ticker, shares) held at the end."""

    @property
    def net(self) -> FloatArray:
        """(T,) return after cost."""
        return self.gross - self.cost


def topk_dropout(
    name: str,
    score: FloatArray,
    prices: PriceTable,
    rules: Rules,
    plan: TopkDropout,
    days: slice = slice(None),
) -> Daily:
    """Hold the `topk` best stocks and exchange at most `drop` of them a day.

    score: (D, K), known in the evening of its day. days: the days on which is dealt; the score of the day
    before the first one is used. Raises KitError when no day of them has a score before it.
    """
    first, last, _ = days.indices(len(prices.dates))
    usable = np.isfinite(score[max(first - 1, 0) : last]).any(axis=1)
    if last - first < 1 or not usable.any():
        raise KitError(
            f"{name}: expected scores before the days that are dealt, found none; choose other days with --start, --end"
        )
    book = _Book(prices, rules, plan)
    rows = []
    for day in range(first, last):
        today = score[day - 1] if day > 0 else np.full(len(prices.tickers), np.nan)
        rows.append(book.one_day(day, today))
    table = np.array(rows)
    return Daily(
        name=name,
        dates=prices.dates[first:last],
        gross=table[:, 0],
        cost=table[:, 1],
        turnover=table[:, 2],
        value=table[:, 3],
        cash=table[:, 4],
        positions=table[:, 5].astype(np.int64),
        refused=table[:, 6].astype(np.int64),
        reasons=dict(book.reasons),
        held_days=book.held_days,
        position_returns=book.position_returns,
        last_targets=[(prices.tickers[ticker], float(book.shares[ticker])) for ticker in book.held],
    )


class _Book:
    """Cash and stocks of one account, and how a day changes them."""

    def __init__(self, prices: PriceTable, rules: Rules, plan: TopkDropout) -> None:
        self.prices, self.rules, self.plan = prices, rules, plan
        self.table = deal_prices(prices, plan.deal)
        count = len(prices.tickers)
        self.cash = plan.account
        self.value = plan.account
        self.shares = np.zeros(count)
        self.mark = np.zeros(count)
        self.bought_on = np.zeros(count, np.int64)
        self.paid = np.zeros(count)
        self.held: list[int] = []
        self.spent = self.traded = 0.0
        self.refused = 0
        self.reasons: Counter[str] = Counter()
        self.held_days: list[int] = []
        self.position_returns: list[float] = []

    def one_day(self, day: int, score: FloatArray) -> tuple[float, ...]:
        """Deal by yesterday's scores, then value everything at the close. Returns one row of `Daily`."""
        self.spent = self.traded = 0.0
        self.refused = 0
        if np.isfinite(score).any():
            self._rebalance(day, score)
        stocks = 0.0
        if self.held:
            held = np.array(self.held)
            close = self.prices.close[day, held]
            self.mark[held] = np.where(np.isfinite(close), close, self.mark[held])
            stocks = float((self.shares[held] * self.mark[held]).sum())
        before, self.value = self.value, self.cash + stocks
        gross = (self.value - before + self.spent) / before
        return (
            gross,
            self.spent / before,
            self.traded / before,
            self.value,
            self.cash,
            len(self.held),
            self.refused,
        )

    def _rebalance(self, day: int, score: FloatArray) -> None:
        sell, buy = choose(score, self.held, self.plan.topk, self.plan.drop)
        for ticker in [one for one in self.held if one in sell]:
            self._sell(day, ticker)
        if not buy:
            return
        money = self.cash * self.rules.invested / len(buy)
        for ticker in buy:
            self._buy(day, ticker, money)

    def _price(self, day: int, ticker: int) -> float:
        """The price at which an order is dealt: the close where the chosen one is missing."""
        price = float(self.table[day, ticker])
        if math.isfinite(price) and price > 1e-8:
            return price
        return float(self.prices.close[day, ticker])

    def _factor(self, day: int, ticker: int) -> float:
        return 1.0 if self.prices.factor is None else float(self.prices.factor[day, ticker])

    def _barred(self, day: int, ticker: int, buying: bool) -> str:
        """Why an order cannot be dealt; empty where it can."""
        if not math.isfinite(self.prices.close[day, ticker]):
            return "no bar"
        if (
            self.rules.limits == "day's change"
            and abs(self.prices.change[day, ticker]) >= self.rules.threshold
        ):
            return "limit"
        if self.rules.limits == "dealt price" and day > 0:
            limit = limit_of(self.prices.tickers[ticker], self.prices.dates[day])
            before, factor = float(self.prices.last_close[day - 1, ticker]), self._factor(day, ticker)
            up, down = at_limits(self._price(day, ticker), before, factor, limit)
            if buying and up:
                return "upper limit"
            if down and not buying:
                return "lower limit"
        return ""

    def _sell(self, day: int, ticker: int) -> None:
        if barred := self._barred(day, ticker, buying=False):
            return self._refuse(barred)
        if day - self.bought_on[ticker] < self.plan.hold:
            return None
        price = self._price(day, ticker)
        proceeds = float(self.shares[ticker]) * price
        cost = max(proceeds * self.rules.sale_cost(self.prices.dates[day]), self.rules.least_cost)
        if self.cash + proceeds < cost:
            return self._refuse("no cash for the cost")
        self.cash += proceeds - cost
        self.spent += cost
        self.traded += proceeds
        self.held_days.append(int(day - self.bought_on[ticker]))
        self.position_returns.append(float(price / self.paid[ticker] - 1))
        self.shares[ticker] = 0.0
        self.held.remove(ticker)
        return None

    def _buy(self, day: int, ticker: int, money: float) -> None:
        if barred := self._barred(day, ticker, buying=True):
            return self._refuse(barred)
        price, factor = self._price(day, ticker), self._factor(day, ticker)
        shares = self._affordable(self.rules.round_lot(money / price, factor), price, factor)
        worth = shares * price
        if worth <= 1e-5:
            return self._refuse("less than a lot")
        cost = max(worth * self.rules.buy_cost, self.rules.least_cost)
        self.cash -= worth + cost
        self.spent += cost
        self.traded += worth
        self.shares[ticker] = shares
        self.mark[ticker] = self.paid[ticker] = price
        self.bought_on[ticker] = day
        self.held.append(ticker)
        return None

    def _affordable(self, shares: float, price: float, factor: float) -> float:
        """No more shares than the cash pays for, cost included."""
        rate, least = self.rules.buy_cost, self.rules.least_cost
        cost = max(shares * price * rate, least)
        if self.cash < cost:
            return 0.0
        if self.cash >= shares * price + cost:
            return shares
        most = (self.cash - least) / price
        if rate > 0 and self.cash >= least / rate + least:
            most = self.cash / (1 + rate) / price
        return self.rules.round_lot(min(most, shares), factor)

    def _refuse(self, reason: str) -> None:
        self.refused += 1
        self.reasons[str(reason)] += 1


def deal_prices(prices: PriceTable, deal: Deal) -> FloatArray:
    """(D, K) prices of deals. Raises KitError where the day's average price is asked for and not known."""
    table = {"open": prices.open, "close": prices.close, "vwap": prices.vwap}[deal]
    if table is None:
        raise KitError(
            "--deal vwap: expected volume and amount that give an average price, found none; use open or close"
        )
    return table


def choose(score: FloatArray, held: list[int], topk: int, drop: int) -> tuple[set[int], list[int]]:
    """Which stocks to sell, and which to buy, best first.

    score: (K,), NaN without a score. held: in the order in which they were bought. The best `drop + topk -
    len(held)` stocks that are not held stand beside the held ones; of all these the worst `drop` are sold if
    they are held. A held stock without a score is worse than any; among several of these the last ones by
    name go first.
    """
    wanted = max(drop + topk - len(held), 0)
    free = np.where(np.isfinite(score), score, -np.inf)
    free[held] = -np.inf
    candidates = _best(free, wanted)
    together = np.array(sorted({*held, *candidates}), np.int64)
    rank = np.where(np.isfinite(score[together]), score[together], -np.inf)
    order = together[np.argsort(-rank, kind="stable")]
    worst = set(order[len(order) - drop :].tolist()) if drop else set()
    sell = worst & set(held)
    return sell, candidates[: max(len(sell) + topk - len(held), 0)]


def _best(score: FloatArray, count: int) -> list[int]:
    """Positions of the `count` largest finite scores, best first; of equal ones the first by name."""
    count = min(count, int(np.isfinite(score).sum()))
    if count == 0:
        return []
    if count < len(score) // 4:
        least = np.partition(score, len(score) - count)[len(score) - count]
        places = np.flatnonzero(score >= least)
    else:
        places = np.flatnonzero(np.isfinite(score))
    found: list[int] = places[np.argsort(-score[places], kind="stable")][:count].tolist()
    return found


# -- weights -------------------------------------------------------------------------------------------------
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
    for number, day in enumerate(days.tolist()):
        best = _best(np.where(np.isfinite(score[day]), score[day], -np.inf), topk)
        if not best or day + 1 >= len(score):
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
