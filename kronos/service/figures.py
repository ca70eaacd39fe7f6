"""Figures of the served forecasts of one version: accuracy, coverage, Brier, by date, and an alert.

In: outcomes, what a package promises. Out: within-date accuracy, coverage of the served level by step, Brier, each
with an interval that takes the date as the observation, and an alert where they leave what was promised
(`watch`). NumPy, SciPy, scikit-learn.

Letters: N forecasts of a version, D dates, H steps.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronos.evaluation.scores import within_accuracy
from kronos.evaluation.significance import DateBootstrap, Interval
from kronos.service.outcomes import FloatArray, Outcomes, report, unknown
from kronos.service.promise import Promise
from kronos.service.watch import watch


def figures(version: str, known: Outcomes, promise: Promise) -> dict[str, Any]:
    """All figures of a version. Those of the rise are of the horizon with the most known forecasts."""
    accuracy, brier, horizon = unknown(), unknown(), None
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
    alert = "; ".join(alerts) or None
    found = {"horizon": horizon, "accuracy": accuracy, "brier": brier, "coverage": coverage, "alert": alert}
    return report(version, known, promise) | found


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


def _shown(found: Interval) -> dict[str, Any]:
    """An interval for JSON."""
    if not np.isfinite(found.value):
        return unknown()
    return {"value": found.value, "low": found.low, "high": found.high, "dates": found.dates}
