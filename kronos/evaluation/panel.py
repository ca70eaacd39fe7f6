"""The rows that a backtest is about: every ticker alive on each as-of date, and what became of it.

In: a store, origins as positions in its `sessions`, the horizon in trading days. Out: a `Panel`, columns of n
(origin, ticker) samples sorted by origin, then ticker. The label is the competition's: 1 when Close on the
target date is greater than the last observed Close, so a tie is 0. NumPy only, no loop over tickers.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronos.bars import CLOSE
from kronos.data.row_places import owner_of
from kronos.data.store import BarStore
from kronos.forecasting.rows import series_keys

NO_ORIGIN_BAR = "no bar on the origin"
NO_TARGET_BAR = "no bar on the target date"
NOT_MEMBER = "not in the pool on the origin"
NOT_DRAWN = "beyond evaluation.tickers"


@dataclass(frozen=True, eq=False)
class Panel:
    """n samples of D origins; prices in currency."""

    tickers: list[str]
    """Names of the store's tickers, which `ticker` points into."""
    horizon: int
    """Sessions of the ticker's own market from origin to target."""
    span: int
    """Sessions of the store that hold as many of every market's own: no label reaches further. The horizon
    itself where there is one market."""
    sessions: NDArray[np.int64]
    """(D,) position of each origin in the store's sessions, rising."""
    origins: NDArray[np.datetime64]
    """(D,) datetime64[s]: bars dated up to and with it are known."""
    targets: NDArray[np.datetime64]
    """(D,) datetime64[s]: the date whose close is asked for; of several markets the latest one."""
    origin: NDArray[np.int32]
    """(n,) position in `origins`, rising."""
    ticker: NDArray[np.int32]
    """(n,) position in `tickers`."""
    row: NDArray[np.int64]
    """(n,) store row of the bar on the origin."""
    last_close: NDArray[np.float64]
    """(n,)"""
    future_close: NDArray[np.float64]
    """(n,) close on the target date."""
    excluded: dict[str, int]
    """(origin, ticker) pairs that are not scored, by reason; of tickers whose history had begun."""

    def __len__(self) -> int:
        return len(self.origin)

    @property
    def dates(self) -> int:
        """D, the number of origins."""
        return len(self.origins)

    @property
    def label(self) -> NDArray[np.int64]:
        """(n,) 1 for a rise; a tie is 0."""
        return (self.future_close > self.last_close).astype(np.int64)

    @property
    def ret(self) -> NDArray[np.float64]:
        """(n,) future close / last close - 1."""
        return self.future_close / self.last_close - 1

    @property
    def bounds(self) -> NDArray[np.int64]:
        """(D + 1,) samples of origin d are bounds[d]:bounds[d + 1]."""
        return np.searchsorted(self.origin, np.arange(self.dates + 1))

    def slices(self) -> list[slice]:
        """The samples of each origin."""
        return [slice(int(a), int(b)) for a, b in zip(self.bounds[:-1], self.bounds[1:], strict=True)]

    def only(self, which: NDArray[np.bool_]) -> "Panel":
        """The panel of some origins, which (D,) bool; `excluded` stays that of the whole."""
        kept = which[self.origin]
        place = np.cumsum(which) - 1
        columns = {
            name: getattr(self, name)[kept] for name in ("ticker", "row", "last_close", "future_close")
        }
        dates = {name: getattr(self, name)[which] for name in ("sessions", "origins", "targets")}
        return replace(self, origin=place[self.origin[kept]].astype(np.int32), **columns, **dates)

    def only_rows(self, kept: NDArray[np.bool_]) -> "Panel":
        """The panel with some of its samples, kept (n,) bool, and all of its origins."""
        columns = {
            name: getattr(self, name)[kept]
            for name in ("origin", "ticker", "row", "last_close", "future_close")
        }
        return replace(self, **columns)


def build_panel(
    store: BarStore, sessions: NDArray[np.int64], horizon: int, tickers: int | None = None
) -> Panel:
    """Every ticker with a bar on an origin and one `horizon` sessions of its own market later; others are
    counted.

    sessions (D,): rising positions in `store.sessions`, each at least `store.span_of(horizon)` before the
    last one. tickers: of each date only so many (`drawn`).
    """
    sessions, span = np.asarray(sessions, np.int64), store.span_of(horizon)
    assert (np.diff(sessions) > 0).all() and (
        not len(sessions) or 0 <= sessions[0] <= sessions[-1] < len(store.sessions) - span
    )
    row, key = rows_on(store, sessions)
    alive = len(row)
    member = store.askable(row)
    row, key = row[member], key[member]
    asked_about = len(row)
    kept = drawn(store, key, tickers)
    row, key = row[kept], key[kept]
    origin, ticker = np.divmod(key, max(len(store.tickers), 1))
    target, found = store.row_at(ticker, store.ahead(sessions[origin], store.market_of(ticker), horizon))
    row, future, origin, ticker = row[found], target[found], origin[found], ticker[found]
    return Panel(
        tickers=store.tickers,
        horizon=horizon,
        span=span,
        sessions=sessions,
        origins=store.sessions[sessions],
        targets=store.sessions[_latest(store, sessions, horizon)],
        origin=origin.astype(np.int32),
        ticker=ticker.astype(np.int32),
        row=row,
        last_close=store.bars[row, CLOSE].astype(np.float64),
        future_close=store.bars[future, CLOSE].astype(np.float64),
        excluded={
            NO_ORIGIN_BAR: _begun(store, sessions) - alive,
            NO_TARGET_BAR: int((~found).sum()),
            NOT_DRAWN: asked_about - len(found),
            **({NOT_MEMBER: alive - asked_about} if store.members is not None else {}),
        },
    )


def rows_on(store: BarStore, sessions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Store rows dated on any of the sessions, and date x K + ticker of each, sorted by that key."""
    slot = np.full(len(store.sessions), -1, np.int64)
    slot[sessions] = np.arange(len(sessions))
    date = slot[store.session]
    row = np.flatnonzero(date >= 0)
    ticker = owner_of(store.offsets, row)
    key = date[row] * len(store.tickers) + ticker
    order = np.argsort(key, kind="stable")
    return row[order], key[order]


def drawn(store: BarStore, key: NDArray[np.int64], count: int | None) -> NDArray[np.bool_]:
    """Which of the rows with these keys (`rows_on`) are scored: `count` of each date, by a hash of their
    names; None: all.

    So the same tickers date after date, and no ticker that comes or goes later changes the choice.
    """
    if count is None:
        return np.ones(len(key), bool)
    date, ticker = np.divmod(key, len(store.tickers))
    order = np.lexsort((series_keys(store.tickers)[ticker], date))
    first = np.searchsorted(date[order], date[order])
    kept = np.empty(len(key), bool)
    kept[order] = np.arange(len(key)) - first < count
    return kept


def _latest(store: BarStore, sessions: NDArray[np.int64], horizon: int) -> NDArray[np.int64]:
    """(D,) the last session that a label of each origin reaches, whatever its market."""
    if store.ordinals is None:
        return sessions + horizon
    markets = range(len(store.ordinals))
    return np.max([store.ahead(sessions, np.full(len(sessions), g), horizon) for g in markets], axis=0)


def _begun(store: BarStore, sessions: NDArray[np.int64]) -> int:
    """(origin, ticker) pairs in which the ticker's history had begun and its market was open."""
    some = np.flatnonzero(np.diff(store.offsets) > 0)
    begun = store.session[store.offsets[some]][None] <= sessions[:, None]
    if store.ordinals is not None:
        opened = np.diff(store.ordinals, axis=1, prepend=0)[:, sessions] > 0
        begun &= opened[store.market_of(some)].T
    return int(begun.sum())


def within_date(panel: Panel, values: NDArray[Any]) -> NDArray[np.float64]:
    """Values less the median of their date, (n,) -> (n,)."""
    medians = [np.median(values[part]) if part.stop > part.start else np.nan for part in panel.slices()]
    return values - np.array(medians)[panel.origin]
