"""What one forecast is worth at every horizon that it speaks of.

In: the scene of a backtest, contestants whose answers have `terms`. Out: rank IC by horizon with intervals.
The rows and dates are those of the backtest; the return is that of the horizon, where its day is known.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from kronos.bars import CLOSE
from kronos.data.store import BarStore
from kronos.evaluation.contest import Contestant, Setup
from kronos.evaluation.scores import correlation
from kronos.evaluation.significance import DateBootstrap, Interval

FloatArray = NDArray[np.float64]

LEAST_ROWS = 3
"""Fewer rows of a date have no order to speak of."""


def by_horizon(setup: Setup, contestants: list[Contestant]) -> list[dict[str, Any]]:
    """Rank IC of every contestant with `terms`, for each of its horizons: {name, horizon, rank_ic}.

    rank_ic is an `Interval`. A horizon whose close no test date knows is left out.
    """
    panel, own = setup.panel, setup.config.evaluation
    sessions = panel.sessions[setup.is_test]
    found = []
    for one in contestants:
        terms = one.given.terms
        if terms is None:
            continue
        for column, horizon in enumerate(one.terms):
            span = setup.store.span_of(horizon)
            known = sessions[sessions + span < len(setup.store.sessions)]
            if not len(known):
                continue
            values = _rank_ics(setup, known, terms[:, column].astype(np.float64), horizon)
            bootstrap = DateBootstrap(tuple(known.tolist()), span, own.draws)
            interval: Interval = bootstrap.interval(values, 0.0)
            found.append({"name": one.name, "horizon": horizon, "rank_ic": interval})
    return found


def _rank_ics(setup: Setup, sessions: NDArray[np.int64], score: FloatArray, horizon: int) -> FloatArray:
    """Rank IC on each session (D,); NaN where fewer than `LEAST_ROWS` have both."""
    gain = gains(setup.store, setup.asked.ticker, setup.asked.last, setup.asked.asof, horizon)
    values = np.full(len(sessions), np.nan)
    for place, session in enumerate(sessions.tolist()):
        rows = np.flatnonzero((setup.asked.asof == session) & np.isfinite(score) & np.isfinite(gain))
        if len(rows) >= LEAST_ROWS:
            values[place] = correlation(rankdata(score[rows]), rankdata(gain[rows]))
    return values


def gains(
    store: BarStore,
    ticker: NDArray[np.int64],
    last: NDArray[np.int64],
    asof: NDArray[np.int64],
    horizon: int,
) -> FloatArray:
    """Close `horizon` sessions of the ticker's market after `asof` over the close of row `last`, less 1,
    (n,); NaN where the ticker has no bar on that session.
    """
    target, there = store.row_at(ticker, store.ahead(asof, store.market_of(ticker), horizon))
    close = store.bars[:, CLOSE]
    result = np.full(len(ticker), np.nan)
    result[there] = close[target[there]].astype(np.float64) / close[last[there]] - 1
    return result
