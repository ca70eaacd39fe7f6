"""Every answer of a backtest as a table that other tools can read: `predictions.parquet`.

In: the asked rows and everybody's answers. Out: one line a row: date (the last day that was known), ticker,
horizon, and a column of scores for each answerer. What else one network's paths say, in columns NAME.FORM:

* last, mean, max, min: of the mean path, its last, mean, highest and lowest close of the days ahead, as a return
  from the last known close; the guides' four signals. With .z behind them: the same in standard deviations of the
  closes of the context, as the original ranks them.
* median: the median of the paths' last closes, as a return.
* prob: raw P(rise), of every answerer that gives one.

Only its own file is replaced.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kronos import files
from kronos.answers.answerer import Answer
from kronos.bars import FEATURES
from kronos.evaluation.contest import Contestant, Setup

PREDICTIONS = "predictions.parquet"

FloatArray = NDArray[np.float64]


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
        for form, values in forms(one.given, known).items():
            columns[f"{one.name}.{form}"] = values
    path = folder / PREDICTIONS
    with files.atomic(path) as temporary:
        pl.DataFrame(columns).write_parquet(temporary)
    return path


def forms(answer: Answer, known: FloatArray) -> dict[str, FloatArray]:
    """{form: (N,)} of what an answer's paths say. known: (N,) last known closes."""
    found: dict[str, FloatArray] = {}
    if answer.closes is not None and answer.course is not None:
        last = answer.closes.astype(np.float64)
        mean, highest, lowest, scale = answer.course.astype(np.float64).T
        found = {
            "last": last.mean(axis=1) / known - 1,
            "mean": mean / known - 1,
            "max": highest / known - 1,
            "min": lowest / known - 1,
        }
        found |= {f"{form}.z": values * known / scale for form, values in found.items()}
        found["median"] = np.median(last, axis=1) / known - 1
    if answer.prob is not None:
        found["prob"] = answer.prob
    return found
