"""Every answer of a backtest as a table that other tools can read: `predictions.parquet`.

In: the asked rows and everybody's answers. Out: one line a row: date (the last day that was known), ticker,
horizon, and a column of scores for each answerer. For networks that sampled paths also NAME.last and
NAME.median, the mean and the median of the paths' closes on the target day as a return, and NAME.prob, their
raw P(rise). Only its own file is replaced.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from kronos import files
from kronos.bars import FEATURES
from kronos.evaluation.contest import Contestant, Setup

PREDICTIONS = "predictions.parquet"


def write_predictions(setup: Setup, contestants: Sequence[Contestant], folder: Path) -> Path:
    """Write the table atomically. Returns its path."""
    rows, store = setup.asked, setup.store
    columns: dict[str, object] = {
        "date": store.sessions[rows.asof].astype("datetime64[ms]"),
        "ticker": np.array(store.tickers)[rows.ticker],
        "horizon": rows.horizon,
    }
    known = store.bars[rows.last, FEATURES.index("close")].astype(np.float64)
    for one in contestants:
        if one.kind == "constant":
            continue
        columns[one.name] = one.given.score
        if one.given.closes is not None:
            returns = one.given.closes / known[:, None] - 1
            columns[f"{one.name}.last"] = returns.mean(axis=1)
            columns[f"{one.name}.median"] = np.median(returns, axis=1)
        if one.given.closes is not None and one.given.prob is not None:
            columns[f"{one.name}.prob"] = one.given.prob
    path = folder / PREDICTIONS
    with files.atomic(path) as temporary:
        pl.DataFrame(columns).write_parquet(temporary)
    return path
