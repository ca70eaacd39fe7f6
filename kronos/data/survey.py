"""What prepared data looks like from above: the figures that the data checks judge and the report draws.

In: a `BarStore`. Out: `Survey`, small arrays whatever the number of rows. NumPy only; one pass, no loop over
tickers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronos.bars import CLOSE, VOLUME
from kronos.data.row_places import followers, name_of
from kronos.data.store import BarStore

WORST = 10
"""How many of the worst moves, gaps and tickers are kept by name."""


@dataclass(frozen=True)
class Survey:
    """K tickers, D dates, Y years. Changes are close to close, bar to bar within a ticker; a tie is no
    rise.
    """

    years: NDArray[np.int64]
    """(Y,) first to last year of the data."""
    rows_per_year: NDArray[np.int64]
    """(Y,)"""
    changes_per_year: NDArray[np.int64]
    """(Y,) bars that have a bar before them."""
    rises_per_year: NDArray[np.int64]
    """(Y,)"""
    changes_per_date: NDArray[np.int64]
    """(D,)"""
    rises_per_date: NDArray[np.int64]
    """(D,)"""
    lengths: NDArray[np.int64]
    """(K,) bars per ticker."""
    first_session: NDArray[np.int64]
    """(K,) position of the ticker's first date in the store's sessions."""
    last_session: NDArray[np.int64]
    """(K,) position of the ticker's last date."""
    zero_volume: NDArray[np.float64]
    """(K,) share of bars without volume."""
    unchanged: int
    """Changes of exactly 0."""
    worst_moves: list[dict[str, Any]]
    """Largest |log change|: ticker, date, change (relative)."""
    worst_gaps: list[dict[str, Any]]
    """Longest gaps: ticker, after (date), trading_days that are missing."""

    @property
    def changes(self) -> int:
        """Closes that have one before them."""
        return int(self.changes_per_date.sum())

    @property
    def rises(self) -> int:
        """Closes above the one before."""
        return int(self.rises_per_date.sum())


def survey(store: BarStore) -> Survey:
    """Survey a store that has at least one row."""
    session, offsets = np.asarray(store.session), store.offsets
    close = np.ascontiguousarray(store.bars[:, CLOSE])
    rows = followers(offsets)
    rose = close[rows] > close[rows - 1]
    days = len(store.sessions)
    per_date = [np.bincount(session[chosen], minlength=days) for chosen in (slice(None), rows, rows[rose])]
    year = store.sessions.astype("datetime64[Y]").astype(int) + 1970
    bars, changes, rises = (
        np.bincount(year - year[0], weights=counts).astype(np.int64) for counts in per_date
    )
    held = np.flatnonzero(np.diff(offsets))  # a ticker without a bar has no first and no last one
    return Survey(
        years=np.arange(year[0], year[-1] + 1),
        rows_per_year=bars,
        changes_per_year=changes,
        rises_per_year=rises,
        changes_per_date=per_date[1],
        rises_per_date=per_date[2],
        lengths=np.diff(offsets),
        first_session=session[offsets[held]].astype(np.int64),
        last_session=session[offsets[held + 1] - 1].astype(np.int64),
        zero_volume=np.add.reduceat(store.bars[:, VOLUME] == 0, offsets[held], dtype=float)
        / np.diff(offsets)[held],
        unchanged=int((close[rows] == close[rows - 1]).sum()),
        worst_moves=_worst_moves(store, close, rows),
        worst_gaps=_worst_gaps(store, rows),
    )


def date_text(value: np.datetime64) -> str:
    """YYYY-MM-DD, with HH:MM where the bar is not a whole day's."""
    day = value.astype("datetime64[D]")
    return str(day) if day == value else str(value.astype("datetime64[m]")).replace("T", " ")


def _worst_moves(store: BarStore, close: NDArray, rows: NDArray) -> list[dict[str, Any]]:
    size = np.abs(np.log(close[rows] / close[rows - 1]))
    return [
        {
            "ticker": _ticker(store, row),
            "date": _date(store, row),
            "change": float(close[row] / close[row - 1] - 1),
        }
        for row in rows[_largest(size)]
    ]


def _worst_gaps(store: BarStore, rows: NDArray) -> list[dict[str, Any]]:
    """The longest pauses, counted in the days of each ticker's own market."""
    missing = store.own_session(rows) - store.own_session(rows - 1) - 1
    worst = _largest(missing)
    return [
        {"ticker": _ticker(store, row), "after": _date(store, row - 1), "trading_days": int(days)}
        for row, days in zip(rows[worst], missing[worst], strict=True)
        if days > 0
    ]


def _largest(values: NDArray) -> NDArray[np.int64]:
    """Positions of the WORST largest values, largest first."""
    top = np.argpartition(values, -WORST)[-WORST:] if len(values) > WORST else np.arange(len(values))
    return top[np.argsort(values[top], kind="stable")[::-1]]


def _ticker(store: BarStore, row: int) -> str:
    return name_of(store.offsets, store.tickers, row)


def _date(store: BarStore, row: int) -> str:
    return date_text(store.sessions[store.session[row]])
