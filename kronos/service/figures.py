"""Figures of the served forecasts of one version: accuracy, coverage, Brier, by date, and an alert.

In: kept forecasts and the bars that came (`kept`), what a package promises. Out: within-date accuracy, coverage
of the served level by step, Brier, each with an interval that takes the date as the observation, and an alert
where they leave what was promised (`watch`). NumPy, SciPy, scikit-learn.

Left out, and counted: forecasts of bars that the networks were trained on; series whose last known close is
another number today (a split, another source); a second forecast of the same series, day and level.

Letters: N forecasts of a version, H steps.
"""

import sqlite3
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronos.evaluation.scores import within_accuracy
from kronos.evaluation.significance import DateBootstrap, Interval
from kronos.service.promise import Promise
from kronos.service.watch import watch

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


# -- reading -------------------------------------------------------------------------------------------------
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


# -- figures -------------------------------------------------------------------------------------------------
def figures(version: str, known: Outcomes, promise: Promise) -> dict[str, Any]:
    """All figures of a version. Those of the rise are of the horizon with the most known forecasts."""
    accuracy, brier, horizon = _nothing(), _nothing(), None
    coverage: list[dict[str, Any]] = []
    alerts: list[str] = []
    settled = known.only(np.isfinite(known.closed))
    if len(settled.asof):
        horizon = int(np.bincount(settled.horizon).argmax())
        own = settled.only(settled.horizon == horizon)
        dates, values = accuracies(own)
        accuracy = _shown(interval_of(known, dates, values, horizon))
        alerts += watch("accuracy", dates, values, known.sessions, horizon, promise.accuracy(horizon))
        dates, values = by_date(own.asof, (own.prob - (own.closed > own.last)) ** 2)
        brier = _shown(interval_of(known, dates, values, horizon))
    for level in np.unique(known.level).tolist():
        own = known.only(known.level == level)
        rows, lines = _coverage(own, level, promise)
        coverage += rows
        alerts += lines
    return {
        "version": version,
        "forecasts": len(known.asof),
        "dates": len(np.unique(known.asof)),
        "horizon": horizon,
        "accuracy": accuracy,
        "brier": brier,
        "coverage": coverage,
        "left_out": known.left_out,
        "promised": promise.shown(),
        "alert": "; ".join(alerts) or None,
    }


def _coverage(known: Outcomes, level: float, promise: Promise) -> tuple[list[dict[str, Any]], list[str]]:
    """Coverage of one level by step, and alerts about the first and the last step."""
    rows: list[dict[str, Any]] = []
    by_step = {}
    for step in range(1, known.closes.shape[1] + 1):
        place = step - 1
        have = known.only(np.isfinite(known.closes[:, place]) & np.isfinite(known.lower[:, place]))
        if not len(have.asof):
            continue
        dates, values = by_date(have.asof, covered(have, step))
        by_step[step] = (dates, values)
        found = _shown(interval_of(known, dates, values, step))
        rows.append({"level": level, "step": step, **found})
    alerts = []
    for step in sorted({min(by_step, default=0), max(by_step, default=0)} - {0}):
        promised = promise.coverage(level, step)
        alerts += watch(
            f"coverage of {level:g} at step {step}", *by_step[step], known.sessions, step, promised
        )
    return rows, alerts


def by_date(asof: NDArray[np.int64], values: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
    """As-of dates (D,) and the mean of the values (N,) of each date (D,)."""
    dates, place = np.unique(asof, return_inverse=True)
    return dates, np.bincount(place, weights=values) / np.bincount(place)


def covered(known: Outcomes, step: int) -> FloatArray:
    """(N,) 1 where the close of a step lies between the bounds that were served for it, else 0."""
    close = known.closes[:, step - 1]
    inside = (known.lower[:, step - 1] <= close) & (close <= known.upper[:, step - 1])
    return inside.astype(np.float64)


def accuracies(known: Outcomes) -> tuple[NDArray[np.int64], FloatArray]:
    """As-of dates (D,) and the share of each date's forecasts on the right side of its median return (D,); NaN
    for a date with a single one."""
    order = np.argsort(known.asof, kind="stable")
    dates, starts = np.unique(known.asof[order], return_index=True)
    prob, returns = known.prob[order], (known.closed / known.last - 1)[order]
    values = np.full(len(dates), np.nan)
    for place, rows in enumerate(np.split(np.arange(len(order)), starts[1:])):
        if len(rows) > 1:
            values[place] = within_accuracy(prob[rows], returns[rows])
    return dates, values


def interval_of(known: Outcomes, dates: NDArray[np.int64], values: FloatArray, horizon: int) -> Interval:
    """The mean over dates with the interval that overlapping horizons allow."""
    places = tuple(np.searchsorted(known.sessions, dates).tolist())
    return DateBootstrap(places, horizon).interval(values)


def _nothing() -> dict[str, Any]:
    return {"value": None, "low": None, "high": None, "dates": 0}


def _shown(found: Interval) -> dict[str, Any]:
    """An interval for JSON."""
    if not np.isfinite(found.value):
        return _nothing()
    return {"value": found.value, "low": found.low, "high": found.high, "dates": found.dates}
