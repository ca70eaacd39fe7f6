"""What became of the served forecasts of one version, as arrays. NumPy.

In: kept forecasts and the bars that came (`kept`). Out: `Outcomes`.

Left out, and counted: forecasts of bars that the networks were trained on; series whose last known close is
another number today (a split, another source); a second forecast of the same series, day and level.

Letters: N forecasts of a version, H steps.
"""

import sqlite3
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronos.service.promise import Promise

FloatArray = NDArray[np.float64]

OTHER_SCALE = 1e-3
"""Relative difference of the close that a forecast started from and the known one of that day, beyond which
they are prices of another scale."""


@dataclass(frozen=True)
class Outcomes:
    """Forecasts of one version, as far as their bars are known."""

    asof: NDArray[np.int64]
    """(N,) seconds: the last bar that was known."""
    horizon: NDArray[np.int64]
    """(N,)"""
    level: FloatArray
    """(N,) of the intervals."""
    last: FloatArray
    """(N,) last known close."""
    prob: FloatArray
    """(N,) P(rise) at the forecast's last step."""
    lower: FloatArray
    """(N, H) NaN behind a forecast's own steps; so are upper and closes."""
    upper: FloatArray
    closes: FloatArray
    """(N, H) what happened; NaN where it is not known."""
    sessions: NDArray[np.int64]
    """All dates of these forecasts, sorted: places in it tell how far apart two dates are."""
    left_out: dict[str, int]

    @property
    def closed(self) -> FloatArray:
        """(N,) close of each forecast's own last step; NaN where it is not known."""
        if not len(self.asof):
            return np.zeros(0)
        return self.closes[np.arange(len(self.asof)), self.horizon - 1]

    def only(self, which: NDArray[np.bool_]) -> "Outcomes":
        """Some of the forecasts."""
        names = ("asof", "horizon", "level", "last", "prob", "lower", "upper", "closes")
        parts = {name: getattr(self, name)[which] for name in names}
        return Outcomes(**parts, sessions=self.sessions, left_out=self.left_out)


def outcomes(connection: sqlite3.Connection, version: str, train_end: str | None) -> Outcomes:
    """Forecasts of a version of which something is known. train_end: last day of training, YYYY-MM-DD."""
    rows = connection.execute(
        "SELECT * FROM forecasts WHERE version = ? AND closes IS NOT NULL ORDER BY created, id, place",
        (version,),
    ).fetchall()
    left_out = {"of training": 0, "other scale": 0, "asked again": 0}
    first = -np.inf
    if train_end is not None:
        first = float(np.datetime64(train_end, "s").astype(np.int64)) + 86_399
    chosen: dict[tuple[str, int, float, int], sqlite3.Row] = {}
    for row in rows:
        key = (row["series"], row["asof"], row["level"], row["horizon"])
        base = row["asof_close"]
        if row["asof"] <= first:
            left_out["of training"] += 1
        elif base is not None and abs(base / row["last_close"] - 1) > OTHER_SCALE:
            left_out["other scale"] += 1
        else:
            left_out["asked again"] += key in chosen
            chosen[key] = row
    return _arrays(list(chosen.values()), left_out)


def _arrays(rows: list[sqlite3.Row], left_out: dict[str, int]) -> Outcomes:
    steps = max((row["horizon"] for row in rows), default=0)
    shape = (len(rows), steps)
    lower, upper, closes = (np.full(shape, np.nan) for _ in range(3))
    dates: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for place, row in enumerate(rows):
        for table, name in ((lower, "lower"), (upper, "upper"), (closes, "closes")):
            table[place, : row["horizon"]] = np.frombuffer(row[name])
        dates.append(np.frombuffer(row["dates"], np.int64))
    asof = np.array([row["asof"] for row in rows], np.int64)
    return Outcomes(
        asof,
        np.array([row["horizon"] for row in rows], np.int64),
        np.array([row["level"] for row in rows], np.float64),
        np.array([row["last_close"] for row in rows], np.float64),
        np.array([row["prob_up"] for row in rows], np.float64),
        lower,
        upper,
        closes,
        np.unique(np.concatenate([asof, *dates])),
        left_out,
    )


def report(version: str, known: Outcomes, promise: Promise) -> dict[str, Any]:
    """What is said of a version before anything is computed: counts, the promise, figures that are unknown."""
    return {
        "version": version,
        "forecasts": len(known.asof),
        "dates": len(np.unique(known.asof)),
        "horizon": None,
        "accuracy": unknown(),
        "brier": unknown(),
        "coverage": [],
        "left_out": known.left_out,
        "promised": promise.shown(),
        "alert": None,
    }


def unknown() -> dict[str, Any]:
    """A figure of which nothing is known."""
    return {"value": None, "low": None, "high": None, "dates": 0}
