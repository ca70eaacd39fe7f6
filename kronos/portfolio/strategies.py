"""Strategies: from a signal, prices and rules to what a portfolio earned on every day.

In: `Signal`, `PriceTable`, `Rules`. Out: `Daily`, one row a day. A score of day d is dealt on day d + 1 at
the earliest.

`topk_dropout` holds about k stocks and exchanges at most n of them a day for better ones; with the rules
`qlib` it repeats Qlib 0.9.7 (TopkDropoutStrategy, SimulatorExecutor) to the last digits. Quantile portfolios
and sleeves that overlap: `weights`.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kronos.errors import KitError
from kronos.portfolio.exchange import Rules, at_limits, limit_of
from kronos.portfolio.prices import PriceTable

FloatArray = NDArray[np.float64]
Deal = Literal["open", "close", "vwap"]
LEADER_DAYS = 256
"""Days whose scores are ordered at once."""


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
    closed_on: list[int] = field(default_factory=list)
    """Position among the T days of the day on which each of them was closed."""
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
    known = slice(max(first - 1, 0), last)
    has_score: list[bool] = [bool(row.any()) for row in np.isfinite(score[known])]
    if last - first < 1 or not any(has_score):
        raise KitError(
            f"{name}: expected scores before the days that are dealt, found none; choose other days with --start, --end"
        )
    best = leaders(score[known], plan.topk + plan.drop)
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
        last_targets=[(prices.tickers[ticker], float(book.shares[ticker])) for ticker in book.held],
    )


@dataclass(frozen=True)
class _Offer:
    """What the market offers for one stock on one day."""

    ticker: int
    price: float
    """Of the deal: the close where the chosen one is missing."""
    factor: float
    barred: str
    """Why nothing can be dealt in it; empty where it can."""


class _Book:
    """Cash and stocks of one account, and how a day changes them."""

    def __init__(self, prices: PriceTable, rules: Rules, plan: TopkDropout) -> None:
        self.prices, self.rules, self.plan = prices, rules, plan
        self.table = deal_prices(prices, plan.deal)
        count = len(prices.tickers)
        self.cash = plan.account
        self.value = plan.account
        self.shares = np.zeros(count)
        self.holds = np.zeros(count, bool)
        self.mark = np.zeros(count)
        self.bought_on: dict[int, int] = {}
        self.paid: dict[int, float] = {}
        self.held: list[int] = []
        self.spent = self.traded = 0.0
        self.refused = 0
        self.reasons: Counter[str] = Counter()
        self.held_days: list[int] = []
        self.position_returns: list[float] = []
        self.closed_on: list[int] = []

    def one_day(
        self, day: int, score: FloatArray | None = None, best: NDArray[np.int64] | None = None
    ) -> tuple[float, ...]:
        """Deal by yesterday's scores, then value everything at the close. Returns one row of `Daily`.

        score: (K,); None: nobody has one, and nothing is dealt. best: their row of `leaders`.
        """
        self.spent = self.traded = 0.0
        self.refused = 0
        if score is not None and best is not None:
            self._rebalance(day, score, best)
        stocks = 0.0
        if self.held:
            held = np.array(self.held)
            close = self.prices.close[day, held]
            mark = np.where(np.isfinite(close), close, self.mark[held])
            self.mark[held] = mark
            stocks = float((self.shares[held] * mark).sum())
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

    def _rebalance(self, day: int, score: FloatArray, best: NDArray[np.int64]) -> None:
        free = best[(best >= 0) & ~self.holds[best]].tolist()
        sell, buy = choose(score, self.held, self.plan.topk, self.plan.drop, free)
        if sell:
            rate = self.rules.sale_cost(self.prices.dates[day])
            for offer in self._offers(day, [one for one in self.held if one in sell], buying=False):
                self._sell(day, offer, rate)
        if buy:
            money = self.cash * self.rules.invested / len(buy)
            for offer in self._offers(day, buy, buying=True):
                self._buy(day, offer, money)

    def _offers(self, day: int, tickers: list[int], buying: bool) -> list[_Offer]:
        """What is offered for each of the tickers, in their order."""
        which = np.array(tickers)
        close = self.prices.close[day, which]
        chosen = self.table[day, which]
        price = np.where(np.isfinite(chosen) & (chosen > 1e-8), chosen, close)
        factor = np.ones(len(which)) if self.prices.factor is None else self.prices.factor[day, which]
        barred = np.where(np.isfinite(close), "", "no bar")
        if self.rules.limits == "day's change":
            far = np.abs(self.prices.change[day, which]) >= self.rules.threshold
            barred = np.where((barred == "") & far, "limit", barred)
        columns = zip(tickers, price.tolist(), factor.tolist(), barred.tolist(), strict=True)
        offers = [_Offer(*column) for column in columns]
        if self.rules.limits == "dealt price" and day > 0:
            return [self._at_limit(day, offer, buying) for offer in offers]
        return offers

    def _at_limit(self, day: int, offer: _Offer, buying: bool) -> _Offer:
        """The offer, barred where the price of the deal stands at the limit that concerns it."""
        if offer.barred:
            return offer
        limit = limit_of(self.prices.tickers[offer.ticker], self.prices.dates[day])
        before = float(self.prices.last_close[day - 1, offer.ticker])
        up, down = at_limits(offer.price, before, offer.factor, limit)
        if buying and up:
            return replace(offer, barred="upper limit")
        if down and not buying:
            return replace(offer, barred="lower limit")
        return offer

    def _sell(self, day: int, offer: _Offer, rate: float) -> None:
        """rate: cost of a sale on the day, as a share of its value."""
        ticker = offer.ticker
        if offer.barred:
            return self._refuse(offer.barred)
        if day - self.bought_on[ticker] < self.plan.hold:
            return None
        proceeds = float(self.shares[ticker]) * offer.price
        cost = max(proceeds * rate, self.rules.least_cost)
        if self.cash + proceeds < cost:
            return self._refuse("no cash for the cost")
        self.cash += proceeds - cost
        self.spent += cost
        self.traded += proceeds
        self.held_days.append(day - self.bought_on[ticker])
        self.position_returns.append(offer.price / self.paid[ticker] - 1)
        self.closed_on.append(day)
        self.shares[ticker] = 0.0
        self.holds[ticker] = False
        self.held.remove(ticker)
        return None

    def _buy(self, day: int, offer: _Offer, money: float) -> None:
        if offer.barred:
            return self._refuse(offer.barred)
        ticker, price = offer.ticker, offer.price
        shares = self._affordable(self.rules.round_lot(money / price, offer.factor), price, offer.factor)
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
        self.holds[ticker] = True
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
        self.reasons[reason] += 1


def deal_prices(prices: PriceTable, deal: Deal) -> FloatArray:
    """(D, K) prices of deals. Raises KitError where the day's average price is asked for and not known."""
    table = {"open": prices.open, "close": prices.close, "vwap": prices.vwap}[deal]
    if table is None:
        raise KitError(
            "--deal vwap: expected volume and amount that give an average price, found none; use open or close"
        )
    return table


def choose(
    score: FloatArray, held: list[int], topk: int, drop: int, free: list[int] | None = None
) -> tuple[set[int], list[int]]:
    """Which stocks to sell, and which to buy, best first.

    score: (K,), NaN without a score. held: in the order in which they were bought. free: the best stocks that
    are not held, best first, where the caller knows them. The best `drop + topk - len(held)` stocks that are
    not held stand beside the held ones; of all these the worst `drop` are sold if they are held. A held stock
    without a score is worse than any; among several of these the last ones by name go first.
    """
    wanted = max(drop + topk - len(held), 0)
    if free is None:
        others = score.copy()
        others[held] = np.nan
        free = leaders(others[None], wanted)[0].tolist()
    candidates = [ticker for ticker in free if ticker >= 0][:wanted]
    together = np.sort(np.array([*held, *candidates], np.int64))
    rank = score[together]
    rank[np.isnan(rank)] = -np.inf
    order = together[np.argsort(-rank, kind="stable")]
    worst = set(order[len(order) - drop :].tolist()) if drop else set()
    sell = worst & set(held)
    return sell, candidates[: max(len(sell) + topk - len(held), 0)]


def leaders(score: FloatArray, count: int) -> NDArray[np.int64]:
    """(D, count) positions of the highest finite scores of each day, best first; of equal ones the first by
    name; -1 where a day has fewer.

    score: (D, K). The stocks that a day may buy are among them: it holds some and looks at `count` less these.
    """
    days, tickers = score.shape
    found = np.full((days, count), -1, np.int64)
    count = min(count, tickers)
    if not count:
        return found
    for first in range(0, days, LEADER_DAYS):
        part = np.nan_to_num(-score[first : first + LEADER_DAYS], nan=np.inf, posinf=np.inf, neginf=np.inf)
        places = np.sort(np.argpartition(part, count - 1, axis=1)[:, :count], axis=1)
        values = np.take_along_axis(part, places, axis=1)
        largest = values.max(axis=1, keepdims=True)
        split = (part == largest).sum(axis=1) != (values == largest).sum(axis=1)
        for row in np.flatnonzero(
            split & np.isfinite(largest[:, 0])
        ):  # equal scores on both sides of the cut
            places[row] = np.sort(np.argsort(part[row], kind="stable")[:count])
        values = np.take_along_axis(part, places, axis=1)
        order = np.argsort(values, axis=1, kind="stable")
        ordered = np.take_along_axis(places, order, axis=1)
        finite = np.isfinite(np.take_along_axis(values, order, axis=1))
        found[first : first + LEADER_DAYS, :count] = np.where(finite, ordered, -1)
    return found
