"""Prices as a table of days by tickers, which is how a portfolio reads them.

In: a prepared store. Out: `PriceTable`. D days, K tickers; NaN where a ticker has no bar on a day (not
listed, or suspended).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kronos.bars import FEATURES
from kronos.data.store import BarStore
from kronos.errors import KitError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PriceTable:
    """Adjusted prices of K tickers on D days."""

    dates: NDArray[np.datetime64]
    """(D,) rising."""
    tickers: list[str]
    """K names, sorted."""
    open: FloatArray
    """(D, K)."""
    close: FloatArray
    """(D, K)."""
    amount: FloatArray
    """(D, K) money dealt on the day; 0 or NaN where it is not known."""
    factor: FloatArray | None = None
    """(D, K) adjusted price / price that was dealt. None: not known, then lots are lots of adjusted
    shares.
    """
    vwap: FloatArray | None = None
    """(D, K) the day's average price. None: amount and volume are not known well enough."""
    market: NDArray[np.int16] | None = None
    """(K,) number of each ticker's market. None: there is one, open on every day."""
    trades: NDArray[np.bool_] | None = None
    """(G, D) whether each market is open on each day. None: there is one, open on every day."""

    @classmethod
    def of_store(cls, store: BarStore) -> "PriceTable":
        """Every bar of a store with daily or longer bars. Raises KitError for bars within a day."""
        frequency = str(store.manifest.get("frequency", "daily"))
        if frequency.endswith("min"):
            raise KitError(
                f"portfolio: expected daily or longer bars, found {frequency} bars; prepare daily prices"
            )
        days, count = len(store.sessions), len(store.tickers)
        owner = np.repeat(np.arange(count), np.diff(store.offsets))
        cell = store.session.astype(np.int64) * count + owner
        columns = {}
        for name in ("open", "close", "volume", "amount"):
            flat = np.full(days * count, np.nan)
            flat[cell] = store.bars[:, FEATURES.index(name)]
            columns[name] = flat.reshape(days, count)
        with np.errstate(divide="ignore", invalid="ignore"):
            vwap = columns["amount"] / columns["volume"]
        plausible = np.abs(np.log(vwap / columns["close"])) < 0.5
        known = np.isfinite(columns["close"])
        mostly = plausible[known].mean() > 0.95 if known.any() else False
        average = np.where(plausible, vwap, columns["close"]) if mostly else None
        trades = None
        if store.market is not None and store.ordinals is not None:
            trades = np.diff(store.ordinals, axis=1, prepend=0) > 0
        return cls(
            store.sessions,
            list(store.tickers),
            columns["open"],
            columns["close"],
            columns["amount"],
            vwap=average,
            market=store.market,
            trades=trades,
        )

    def of_markets(self, which: NDArray[np.int64]) -> "PriceTable":
        """The table of the tickers of some markets on the days on which one of them is open."""
        if self.market is None or self.trades is None:
            return self
        days = np.flatnonzero(self.trades[which].any(axis=0))
        tickers = np.flatnonzero(np.isin(self.market, which))
        part = np.ix_(days, tickers)
        factor, vwap = self.factor, self.vwap
        if factor is not None:
            factor = factor[part]
        if vwap is not None:
            vwap = vwap[part]
        return PriceTable(
            self.dates[days],
            [self.tickers[number] for number in tickers.tolist()],
            self.open[part],
            self.close[part],
            self.amount[part],
            factor,
            vwap,
            self.market[tickers],
            self.trades[:, days],
        )

    def closed(self, day: int, tickers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,) whether the market of each ticker is closed on a day."""
        if self.market is None or self.trades is None:
            return np.zeros(len(tickers), bool)
        return ~self.trades[self.market[tickers], day]

    @cached_property
    def last_close(self) -> FloatArray:
        """(D, K) close of the latest bar up to and including the day; NaN before the first one."""
        place = np.where(np.isfinite(self.close), np.arange(len(self.dates))[:, None], -1)
        latest = np.maximum.accumulate(place, axis=0)
        found = np.take_along_axis(self.close, np.maximum(latest, 0), axis=0)
        return np.where(latest >= 0, found, np.nan)

    @cached_property
    def change(self) -> FloatArray:
        """(D, K) close over the close of the ticker's bar before, less 1; NaN without either."""
        before = np.full_like(self.close, np.nan)
        before[1:] = self.last_close[:-1]
        return self.close / before - 1

    @cached_property
    def last_bar(self) -> NDArray[np.int64]:
        """(K,) position of each ticker's last bar; -1 without any."""
        there = np.isfinite(self.close)
        return np.where(there.any(axis=0), len(self.dates) - 1 - there[::-1].argmax(axis=0), -1)

    def between(self, start: np.datetime64 | None, end: np.datetime64 | None) -> slice:
        """Positions of the days from `start` to `end`, both included."""
        first = 0 if start is None else int(np.searchsorted(self.dates, start))
        last = len(self.dates) if end is None else int(np.searchsorted(self.dates, end, side="right"))
        return slice(first, last)
