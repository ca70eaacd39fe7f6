"""Whole dates as training batches: which stocks of which dates, what was known then, and how they ranked
afterwards.

In: a store, origins (trading days), horizons. Out: `DateIndex`, which finds the rows of each origin, and
`DateReader`, which reads a batch of dates with the labels of every horizon. The order of dates is
`sampling.BatchPlan`'s, in which a date is a "window"; which stocks of a date are drawn is a function of
(seed, position in the stream). NumPy only.

Letters: D origins, E dates of a batch, W stocks of a date (drawn, then padded), K horizons.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronos.bars import CLOSE
from kronos.data.batch_plan import mix, permutation
from kronos.data.row_places import owner_of
from kronos.data.splits import Part
from kronos.data.store import BarStore
from kronos.errors import KitError

MIN_STOCKS = 8
"""A date with fewer stocks that can be drawn has no ranking worth learning, and is left out (and counted)."""

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class DateIndex:
    """Rows by origin: those of origin d are row[bounds[d]:bounds[d + 1]], by ticker."""

    part: Part
    sessions: IntArray
    """(D,) positions of the origins in the store's sessions, rising."""
    bounds: IntArray
    """(D + 1,)"""
    row: IntArray
    """(n,) store rows of the last known bars."""
    left_out: dict[str, int]
    """Rows and dates that give no sample, by reason."""

    @classmethod
    def build(
        cls, store: BarStore, part: Part, horizons: Sequence[int], every: int, history: int
    ) -> "DateIndex":
        """Origins of a part, `every` trading days apart, counted back from the last one.

        The labels of all horizons end inside the part (purged). history: bars that a row needs, its own
        included. Only rows inside a run of bars that cleaning left whole (`store.segments`). Raises KitError
        when no date is left.
        """
        last = part.last - store.span_of(max(horizons))
        sessions = np.arange(last, part.first - 1, -every, dtype=np.int64)[::-1]
        row, date = rows_by_date(store, sessions)
        ticker = owner_of(store.offsets, row)
        enough = row - store.offsets[ticker] >= history - 1
        inside = row < segment_end(store, row)
        member = store.askable(row)
        kept = enough & inside & member
        count = np.bincount(date[kept], minlength=len(sessions))
        full = count >= MIN_STOCKS
        left_out = {
            f"rows with fewer than {history} bars": int((~enough).sum()),
            "rows outside every unbroken run of bars": int((enough & ~inside).sum()),
            f"dates with fewer than {MIN_STOCKS} stocks": int((~full).sum()),
        }
        if store.members is not None:
            left_out["rows of days on which the stock is not in the pool"] = int(
                (enough & inside & ~member).sum()
            )
        if not full.any():
            raise KitError(
                f"{part.name} part: expected a date with at least {MIN_STOCKS} stocks of {history} bars whose close "
                f"{max(horizons)} trading days later is in the part, found none in {len(sessions)} dates; lower "
                "head.bar_lookback or head.horizons, or give the part more days"
            )
        kept &= full[date]
        bounds = np.concatenate([[0], np.cumsum(count[full])]).astype(np.int64)
        return cls(part, sessions[full], bounds, row[kept], left_out)

    def __len__(self) -> int:
        return len(self.sessions)

    def describe(self, store: BarStore) -> str:
        """One line: dates, samples, and what gave none and why."""
        first, last = store.sessions[self.sessions[[0, -1]]].astype("datetime64[D]")
        out = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items())
        return f"{self.part.name}: {len(self):,} dates from {first} to {last}, {len(self.row):,} samples; left out: {out}"


def rows_by_date(store: BarStore, sessions: IntArray) -> tuple[IntArray, IntArray]:
    """Store rows dated on any of the rising sessions, by date and then by ticker, and the position of each
    one's date.
    """
    slot = np.full(len(store.sessions), -1, np.int64)
    slot[sessions] = np.arange(len(sessions))
    date = slot[store.session]
    row = np.flatnonzero(date >= 0)
    order = np.argsort(date[row], kind="stable")
    return row[order], date[row[order]]


def segment_end(store: BarStore, row: IntArray) -> IntArray:
    """The row after the unbroken run of bars that each row lies in; 0 where it lies in none. (n,)"""
    if not len(store.segments):
        return np.zeros(len(row), np.int64)
    place = np.searchsorted(store.segments[:, 0], row, side="right") - 1
    end = store.segments[np.maximum(place, 0), 1]
    return np.where((place >= 0) & (row < end), end, 0)


def future_returns(store: BarStore, row: IntArray, horizons: Sequence[int]) -> NDArray[np.float64]:
    """Log return from each row's close to the one `h` sessions of its own market later, (n, K).

    NaN where the stock has no bar on that day, or where cleaning broke its run of bars in between.
    """
    session, end = store.session, segment_end(store, row)
    market = store.market_of(owner_of(store.offsets, row))
    close = store.bars[row, CLOSE].astype(np.float64)
    result = np.full((len(row), len(horizons)), np.nan)
    for k, horizon in enumerate(horizons):
        wanted = store.ahead(session[row], market, horizon)
        target = np.minimum(row + horizon, end - 1)  # at the latest: every row is a later day
        late = np.flatnonzero((target > row) & (session[target] > wanted))
        while late.size:  # days on which the stock did not trade
            target[late] -= 1
            late = late[session[target[late]] > wanted[late]]
        found = (target > row) & (session[target] == wanted)
        result[found, k] = np.log(store.bars[target[found], CLOSE].astype(np.float64) / close[found])
    return result


def rank_within(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank of each value among those that are known, in (-0.5, 0.5), ties shared; NaN where it is not.
    (n,)
    """
    result = np.full(len(values), np.nan)
    known = np.isfinite(values)
    if known.any():
        _, place, count = np.unique(values[known], return_inverse=True, return_counts=True)
        middle = np.cumsum(count) - count / 2
        result[known] = middle[place] / known.sum() - 0.5
    return result


@dataclass(frozen=True, eq=False)
class DateBatch:
    """E dates of W stocks each; entries that are not real repeat others and have no label."""

    row: IntArray
    """(E, W) store rows of the last known bars."""
    ticker: IntArray
    """(E, W) positions in the store's tickers."""
    real: NDArray[np.bool_]
    """(E, W)"""
    sample: IntArray
    """(E, W) positions in the index's rows."""
    rank: NDArray[np.float32]
    """(E, W, K) rank of the return among all stocks of the date, in (-0.5, 0.5); 0 without a label."""
    rise: NDArray[np.float32]
    """(E, W, K) 1 for a rise, 0 for a fall or a tie, or without a label."""
    labelled: NDArray[np.float32]
    """(E, W, K) 1 where there is a label."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Columns by name."""
        return dict(vars(self))


class DateReader:
    """Draws the stocks of dates and reads their labels."""

    def __init__(
        self, store: BarStore, index: DateIndex, horizons: Sequence[int], stocks: int, seed: int
    ) -> None:
        """stocks: W, how many of a date are drawn. seed: of the draw."""
        self.store, self.index, self.horizons = store, index, tuple(horizons)
        self.stocks, self.seed = stocks, seed

    def __call__(self, dates: IntArray, positions: IntArray, real: NDArray[np.bool_]) -> DateBatch:
        """dates, positions (E,): which origins of the index, and where in the stream they stand: another
        visit to a date draws other stocks. real (E,): padding has none. Ranks are those among all stocks of
        the date, drawn or not."""
        parts = [self._date(int(d), int(p), bool(r)) for d, p, r in zip(dates, positions, real, strict=True)]
        columns = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
        return DateBatch(**columns)

    def _date(self, date: int, position: int, real: bool) -> dict[str, NDArray[Any]]:
        first, last = self.index.bounds[date], self.index.bounds[date + 1]
        alive = int(last - first)
        taken = min(self.stocks, alive)
        drawn = np.sort(permutation(np.arange(taken), alive, int(mix(self.seed, position)[0])))
        place = np.concatenate([drawn, np.repeat(drawn[:1], self.stocks - taken)])
        change = future_returns(self.store, self.index.row[first:last], self.horizons)
        rank = np.stack([rank_within(column) for column in change.T], axis=1)[place]
        filled = (np.arange(self.stocks) < taken) & real
        labelled = np.isfinite(rank) & filled[:, None]
        row = self.index.row[first + place]
        return {
            "row": row,
            "ticker": owner_of(self.store.offsets, row),
            "real": filled,
            "sample": first + place,
            "rank": np.where(labelled, rank, 0).astype(np.float32),
            "rise": (labelled & (change[place] > 0)).astype(np.float32),
            "labelled": labelled.astype(np.float32),
        }
