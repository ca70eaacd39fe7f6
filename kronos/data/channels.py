"""Raw bars as a network can compare them between stocks: returns over the stock's own volatility, volume
against its mean.

In: a store and the rows of the last known bars. Out: `Channels` of the bars up to them, float32. Nothing
after a row is read; of other stocks only the market's mean return of each day. NumPy only.

Letters: B rows, L bars of the lookback, C channels, S figures of the whole lookback, D trading days of the
store.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronos.bars import AMOUNT, CLOSE, FEATURES, VOLUME
from kronos.data.row_places import owner_of
from kronos.data.store import BarStore

CHANNELS = ("open", "high", "low", "close", "close against the market", "volume", "turnover", "present")
FIGURES = (
    "volatility against the market's",
    "turnover against the market's",
    "share of the lookback that is known",
)
CLIP = 6.0
"""Channels are cut to +-CLIP: deviations of the stock's daily return, or powers of e of its volume."""
LARGEST_RETURN = 0.5
"""Log returns are cut to this in the market's mean: one unadjusted split must not move a day's market."""
LEAST_VOLATILITY = 1e-5
"""Of daily log returns; below it a stock stands still and its returns are left at 0."""
CHUNK = 1 << 20
"""Rows of the store that are read at once."""
BLOCK = 512
"""Samples whose lookbacks are computed at once: their float64 arrays stay in the processor's cache."""

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Channels:
    """The bars up to B rows."""

    series: FloatArray
    """(B, L, C) `CHANNELS`; 0 in every channel before the ticker's first bar."""
    figures: FloatArray
    """(B, S) `FIGURES`."""


@dataclass(frozen=True)
class Market:
    """What all stocks did on each trading day of a store."""

    change: NDArray[np.float64]
    """(D,) mean log return of the close; 0 on a day on which no stock has a bar and one before."""
    turnover: NDArray[np.float64]
    """(D,) mean log of 1 + turnover."""

    @classmethod
    def of(cls, store: BarStore) -> "Market":
        """Means over the stocks with a bar on the day. A day's values depend on bars of that day and of the
        ones before only.
        """
        days = len(store.sessions)
        total, count, turnover, bars = (np.zeros(days) for _ in range(4))
        starts = np.zeros(len(store) + 1, bool)
        starts[store.offsets] = True
        for first in range(0, len(store), CHUNK):
            last = min(first + CHUNK, len(store))
            before = max(first - 1, 0)
            close = np.log(store.bars[before:last, CLOSE].astype(np.float64))
            session = store.session[first:last]
            change = np.zeros(last - first)
            change[first == 0 :] = np.clip(np.diff(close), -LARGEST_RETURN, LARGEST_RETURN)
            follows = ~starts[first:last]
            total += np.bincount(session[follows], change[follows], days)
            count += np.bincount(session[follows], minlength=days)
            amount = np.log1p(np.maximum(store.bars[first:last, AMOUNT].astype(np.float64), 0))
            turnover += np.bincount(session, amount, days)
            bars += np.bincount(session, minlength=days)
        return cls(total / np.maximum(count, 1), turnover / np.maximum(bars, 1))


class ChannelReader:
    """Reads channels from a store's memory map; holds the market's days and nothing per row."""

    def __init__(self, store: BarStore, lookback: int) -> None:
        """lookback: L, bars up to and with the last known one."""
        self.store, self.lookback = store, lookback
        self.market = Market.of(store)

    def __call__(self, rows: NDArray[np.int64]) -> Channels:
        """rows: (B,) store rows of the last known bars, in any order."""
        rows = np.asarray(rows, np.int64)
        series = np.zeros((len(rows), self.lookback, len(CHANNELS)), np.float32)
        figures = np.zeros((len(rows), len(FIGURES)), np.float32)
        for start in range(0, len(rows), BLOCK):
            part = slice(start, start + BLOCK)
            self._fill(rows[part], series[part], figures[part])
        return Channels(series, figures)

    def _fill(self, rows: NDArray[np.int64], series: FloatArray, figures: FloatArray) -> None:
        """Channels of some rows, written into (b, L, C) and (b, S)."""
        first = self.store.offsets[owner_of(self.store.offsets, rows)]
        where = rows[:, None] + np.arange(
            -self.lookback, 1
        )  # one bar more: the first return needs a close before it
        known = where >= first[:, None]
        where = np.maximum(where, first[:, None])
        bars = self.store.bars[where].astype(np.float64)
        moves = known[:, 1:] & known[:, :-1]
        prices = np.log(np.maximum(bars[:, :, : CLOSE + 1], np.finfo(np.float32).tiny))
        change = (prices[:, 1:] - prices[:, :-1, CLOSE, None]) * moves[:, :, None]
        session = self.store.session[where[:, 1:]]
        market = self.market.change[session] * moves
        volatility = _deviation(change[:, :, CLOSE], moves)
        scale = np.where(volatility > LEAST_VOLATILITY, 1 / np.maximum(volatility, LEAST_VOLATILITY), 0)[
            :, None
        ]
        series[:, :, : CLOSE + 1] = np.clip(change * scale[:, :, None], -CLIP, CLIP)
        series[:, :, CLOSE + 1] = np.clip((change[:, :, CLOSE] - market) * scale, -CLIP, CLIP)
        traded = np.log1p(np.maximum(bars[:, 1:, VOLUME : AMOUNT + 1], 0))
        present = known[:, 1:]
        count = np.maximum(present.sum(axis=1), 1)
        usual = (traded * present[:, :, None]).sum(axis=1) / count[:, None]
        series[:, :, CLOSE + 2 : CLOSE + 4] = np.clip(
            (traded - usual[:, None]) * present[:, :, None], -CLIP, CLIP
        )
        series[:, :, CLOSE + 4] = present
        markets = np.maximum(_deviation(market, moves), LEAST_VOLATILITY)
        figures[:, 0] = np.clip(np.log(np.maximum(volatility, LEAST_VOLATILITY) / markets), -CLIP, CLIP)
        usual_market = (self.market.turnover[session] * present).sum(axis=1) / count
        figures[:, 1] = np.clip(usual[:, 1] - usual_market, -2 * CLIP, 2 * CLIP)
        figures[:, 2] = present.mean(axis=1)


def _deviation(values: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Standard deviation of each row's known values, (b,); 0 where fewer than two are known. values are 0
    where unknown.
    """
    count = np.maximum(known.sum(axis=1), 1)
    mean = values.sum(axis=1) / count
    return np.sqrt((np.square(values - mean[:, None]) * known).sum(axis=1) / count)


assert FEATURES[: CLOSE + 1] == CHANNELS[: CLOSE + 1] and AMOUNT == VOLUME + 1
