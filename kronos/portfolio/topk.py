"""The best k stocks, at most n of them exchanged a day for better ones.

In: scores, prices, rules. Out: `Daily`. A score of day d is dealt on day d + 1 at the earliest. With the rules
`qlib` it repeats Qlib 0.9.7 (TopkDropoutStrategy, SimulatorExecutor) to the last digits.
"""

import math
from collections import Counter

import numpy as np

from kronos.errors import KitError
from kronos.portfolio.choice import Scores, choose, leaders
from kronos.portfolio.exchange import Rules, at_limits, limit_of
from kronos.portfolio.prices import PriceTable
from kronos.portfolio.strategies import Daily, Holding, TopkDropout, deal_prices


def topk_dropout(
    name: str,
    score: Scores,
    prices: PriceTable,
    rules: Rules,
    plan: TopkDropout,
    days: slice = slice(None),
) -> Daily:
    """Hold the `topk` best stocks and exchange at most `drop` of them a day.

    score: (D, K), known in the evening of its day. days: the days on which is dealt; the score of the day
    before the first one is used. Raises KitError when no day of them has a score before it.
    """
    score = carried(score, prices)
    first, last, _ = days.indices(len(prices.dates))
    known = slice(max(first - 1, 0), last)
    has_score: list[bool] = [bool(row.any()) for row in np.isfinite(score[known])]
    if last - first < 1 or not any(has_score):
        raise KitError(
            f"{name}: expected scores before the days that are dealt, found none; choose other days with --start, --end"
        )
    best = leaders(score[known], plan.topk + plan.drop).tolist()
    book = _Book(prices, rules, plan)
    rows = []
    for day in range(first, last):
        evening = day - 1 - known.start  # of the scores that are known
        if evening >= 0 and has_score[evening]:
            rows.append(book.one_day(day, score[day - 1], best[evening]))
        else:
            rows.append(book.one_day(day))
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
        closed_on=[day - first for day in book.closed_on],
        held_at_end=book.holdings(),
    )


def carried(score: Scores, prices: PriceTable) -> Scores:
    """Scores (D, K) for the deals of the day after. While a ticker's market is closed and another one trades,
    its score waits: it is used on the first day on which the ticker can be dealt, and not before.
    """
    if prices.market is None or prices.trades is None:
        return score
    found = score.copy()
    for number, is_open in enumerate(prices.trades):
        tickers = np.flatnonzero(prices.market == number)
        for day in np.flatnonzero(~is_open[1:]) + 1:
            own, before = found[day, tickers], found[day - 1, tickers]
            found[day, tickers] = np.where(np.isfinite(own), own, before)
    for number, is_open in enumerate(prices.trades):
        closed = np.flatnonzero(~is_open[1:])
        found[np.ix_(closed, np.flatnonzero(prices.market == number))] = np.nan
    return found


class _Book:
    """Cash and stocks of one account, and how a day changes them.

    A day deals in about ten stocks: they are looked up one by one as plain numbers, which takes a tenth of the
    time of array operations on ten values.
    """

    def __init__(self, prices: PriceTable, rules: Rules, plan: TopkDropout) -> None:
        self.prices, self.rules, self.plan = prices, rules, plan
        self.table = deal_prices(prices, plan.deal)
        self.cash = plan.account
        self.value = plan.account
        self.held: list[int] = []
        """In the order in which they were bought."""
        self.evening = np.array([], np.int64)
        """The same at the end of a day."""
        self.shares = np.zeros(len(prices.tickers))
        self.bought_on: dict[int, int] = {}
        """Day of the purchase, of the stocks that are held."""
        self.paid: dict[int, float] = {}
        self.spent = self.traded = 0.0
        self.refused = 0
        self.reasons: Counter[str] = Counter()
        self.held_days: list[int] = []
        self.position_returns: list[float] = []
        self.closed_on: list[int] = []

    def one_day(
        self, day: int, score: Scores | None = None, best: list[int] | None = None
    ) -> tuple[float, ...]:
        """Deal by yesterday's scores, then value everything at the close. Returns one row of `Daily`.

        score: (K,); None: nobody has one, and nothing is dealt. best: their row of `leaders`.
        """
        self.spent = self.traded = 0.0
        self.refused = 0
        if score is not None and best is not None:
            self._rebalance(day, score, best)
        self.evening = np.array(self.held, np.int64)
        worth = self.shares[self.evening] * self.prices.last_close[day][self.evening]
        stocks = float(worth.sum())
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

    def holdings(self) -> list[Holding]:
        """What is held now."""
        found = []
        for ticker in self.held:
            name, shares = self.prices.tickers[ticker], self.shares.item(ticker)
            found.append(Holding(name, shares, self.bought_on[ticker]))
        return found

    def _rebalance(self, day: int, score: Scores, best: list[int]) -> None:
        """Sell and buy by the scores (K,) of the evening before."""
        free = [ticker for ticker in best if ticker >= 0 and ticker not in self.bought_on]
        held, topk = self.evening, self.plan.topk
        if self.prices.market is not None:  # what cannot be dealt today rests
            resting = self.prices.closed(day, held)
            held, topk = held[~resting], topk - int(resting.sum())
        sell, buy = choose(score, held, topk, self.plan.drop, free)
        if sell:
            rate = self.rules.sale_cost(self.prices.dates[day])
            for ticker in sell:
                self._sell(day, ticker, rate)
        if buy:
            money = self.cash * self.rules.invested / len(buy)
            for ticker in buy:
                self._buy(day, ticker, money)

    def _terms(self, day: int, ticker: int, buying: bool) -> tuple[float, float, str]:
        """(price of the deal, adjusted price over the one that was dealt, why nothing can be dealt: empty where
        it can).

        The price is the close where the chosen one is missing.
        """
        close = self.prices.close.item(day, ticker)
        price, factor = self.table.item(day, ticker), 1.0
        if not math.isfinite(close):
            return price, factor, "no bar"
        if not 1e-8 < price < math.inf:
            price = close
        if self.prices.factor is not None:
            factor = self.prices.factor.item(day, ticker)
        barred = ""
        if self.rules.limits == "day's change":
            if abs(self.prices.change.item(day, ticker)) >= self.rules.threshold:
                barred = "limit"
        elif self.rules.limits == "dealt price" and day > 0:
            barred = self._at_limit(day, ticker, price, factor, buying)
        return price, factor, barred

    def _at_limit(self, day: int, ticker: int, price: float, factor: float, buying: bool) -> str:
        """Whether a price stands at the limit that concerns the deal, in words; empty where it does not."""
        limit = limit_of(self.prices.tickers[ticker], self.prices.dates[day])
        before = self.prices.last_close.item(day - 1, ticker)
        up, down = at_limits(price, before, factor, limit)
        if buying and up:
            return "upper limit"
        if down and not buying:
            return "lower limit"
        return ""

    def _sell(self, day: int, ticker: int, rate: float) -> None:
        """rate: cost of a sale on the day, as a share of its value."""
        price, _, barred = self._terms(day, ticker, buying=False)
        if barred:
            return self._refuse(barred)
        if day - self.bought_on[ticker] < self.plan.hold:
            return None
        proceeds = self.shares.item(ticker) * price
        cost = max(proceeds * rate, self.rules.least_cost)
        if self.cash + proceeds < cost:
            return self._refuse("no cash for the cost")
        self.cash += proceeds - cost
        self.spent += cost
        self.traded += proceeds
        self.held_days.append(day - self.bought_on.pop(ticker))
        self.position_returns.append(price / self.paid.pop(ticker) - 1)
        self.closed_on.append(day)
        self.shares[ticker] = 0.0
        self.held.remove(ticker)
        return None

    def _buy(self, day: int, ticker: int, money: float) -> None:
        """money: for this purchase."""
        price, factor, barred = self._terms(day, ticker, buying=True)
        if barred:
            return self._refuse(barred)
        shares = self._affordable(self.rules.round_lot(money / price, factor), price, factor)
        worth = shares * price
        if worth <= 1e-5:
            return self._refuse("less than a lot" if self.rules.lot else "no cash")
        cost = max(worth * self.rules.buy_cost, self.rules.least_cost)
        self.cash -= worth + cost
        self.spent += cost
        self.traded += worth
        self.shares[ticker] = shares
        self.paid[ticker] = price
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
        """Count an order that is not dealt."""
        self.refused += 1
        self.reasons[reason] += 1
