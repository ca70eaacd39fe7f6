"""What all history says without any model: how often prices rise over a horizon, and how often they stand
still.

In: a store, as-of sessions, horizons. Out: base rates and P(tie) per row. NumPy only; nothing after the as-of
session is read.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from kronos.answers.answerer import Rows
from kronos.bars import CLOSE
from kronos.data.store import BarStore
from kronos.forecasting.decide import TIE_PRIOR

TIE_BARS = 251
"""Closes that P(tie) of a row is counted on: a year of daily bars."""
CHUNK = 8192

FloatArray = NDArray[np.float64]


def base_rates(store: BarStore, asof: NDArray[np.int64], horizon: int) -> FloatArray:
    """P(rise over `horizon` bars, if the price moves) in all history up to and with each as-of session, (n,).

    Each past day counts alike, however many tickers it has. 0.5 where there is no history. asof (n,):
    positions in `store.sessions`, -1 for none.
    """
    rates = _rates(store, max(horizon, 1))
    return rates[np.asarray(asof) + 1]


@functools.lru_cache(maxsize=64)
def _rates(store: BarStore, horizon: int) -> FloatArray:
    """(D + 1,): entry k + 1 is the mean over the days up to session k of the share of moves, ended on that
    day, that rose.
    """
    close = np.asarray(store.bars[:, CLOSE])
    pairs = max(len(close) - horizon, 0)
    ends = np.arange(horizon, horizon + pairs)
    first = np.repeat(store.offsets[:-1], np.diff(store.offsets))
    same = first[ends] == first[ends - horizon] if pairs else np.zeros(0, bool)
    rose, fell = (close[ends] > close[ends - horizon]) & same, (close[ends] < close[ends - horizon]) & same
    days = len(store.sessions)
    up, down = (
        np.bincount(store.session[ends[which]], minlength=days).astype(np.float64) for which in (rose, fell)
    )
    moved = up + down
    share = np.divide(up, moved, out=np.zeros(days), where=moved > 0)
    count = np.cumsum(moved > 0)
    mean = np.divide(np.cumsum(share), count, out=np.full(days, 0.5), where=count > 0)
    return np.concatenate([[0.5], mean])


def tie_shares(store: BarStore, rows: Rows) -> FloatArray:
    """P(the close `horizon` bars on equals the last one) of each row, (N,), from the last `TIE_BARS` closes
    of its ticker.

    `TIE_PRIOR` where there is no bar. Networks put a close near the last one a little above or below it,
    never on it, so this part of P(rise) is the past's, the same for every answerer.
    """
    result = np.full(len(rows), TIE_PRIOR)
    for steps in np.unique(rows.horizon).tolist():
        asked = np.flatnonzero((rows.horizon == steps) & (rows.last >= 0))
        for first in range(0, len(asked), CHUNK):
            part = asked[first : first + CHUNK]
            result[part] = _shares(store, rows.last[part], max(int(steps), 1))
    return result


def _shares(store: BarStore, last: NDArray[np.int64], horizon: int) -> FloatArray:
    first = store.offsets[np.searchsorted(store.offsets, last, side="right") - 1]
    step = np.minimum(horizon, last - first)  # of a short history as many bars as it has
    later = last[:, None] - np.arange(TIE_BARS)
    earlier = later - step[:, None]
    known = (earlier >= np.maximum(first, last - TIE_BARS + 1)[:, None]) & (step > 0)[:, None]
    close = store.bars[:, CLOSE]
    same = (close[np.where(known, later, 0)] == close[np.where(known, earlier, 0)]) & known
    return (same.sum(axis=1) + TIE_PRIOR) / (known.sum(axis=1) + 1)
