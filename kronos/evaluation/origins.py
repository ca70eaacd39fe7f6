"""Which as-of dates a backtest scores: after the model's training, calibration first, then the test, never
overlapping.

In: the store's trading days, the boundary of the model's training, the settings. Out: a `Timeline`. NumPy
only.
Rule: an origin t has the label of (t, t + horizon]. Fit < calibrate < test: a later block's first origin lies
after the last day of an earlier block's last label. Counted in sessions of the store; with several markets
the caller gives a horizon that holds as many of each market's own (`BarStore.span_of`).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronos import records
from kronos.config import DataConfig
from kronos.data.splits import split_store
from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.evaluation.significance import MIN_EFFECTIVE, DateBootstrap

CALIBRATION_SHARE = 0.3
"""Share of the days after training on which decisions are fitted first; the later ones are scored."""
PRETRAINING_END = np.datetime64("2024-06-30")
"""The published weights are reported to have been trained on data until then: earlier dates are not out of
sample for them.
"""


@dataclass(frozen=True)
class Boundary:
    """What a model has seen, as positions in the store's sessions; -1 where it was trained on none of these
    data.
    """

    train_end: int = -1
    """Last day of the training part."""
    embargo: int = 0
    """Trading days after it that belong to no part."""
    validation_end: int | None = None
    """Last day of the part that chose the checkpoint; None: unknown, or there is none."""
    test_first: int | None = None
    """First day of the test part, which trained and chose nothing; None: unknown, or there is none."""

    @property
    def first(self) -> int:
        """First origin that may be scored."""
        return self.train_end + self.embargo + 1 if self.train_end >= 0 else 0


def boundary_of(store: BarStore, summary: dict[str, Any] | None) -> Boundary:
    """The boundary that a predictor's summary.json tells; of data that have changed since, by date.

    summary None: a network that was not trained here.
    """
    if summary is None:
        return Boundary()
    data = records.check(summary["config"]["data"], DataConfig, "summary.json: config.data")
    embargo = store.span_of(data.predict_window if data.embargo is None else data.embargo)
    if summary["data_digest"] != store.digest:
        end = np.datetime64(summary["train_end"], "D") + 1
        return Boundary(int(np.searchsorted(store.sessions, end.astype("datetime64[s]"))) - 1, embargo)
    splits = split_store(data, store.sessions, embargo)
    test_first = splits.test.first if splits.test else None
    return Boundary(summary["train_end_session"], embargo, splits.validation.last, test_first)


def latest(boundaries: list[Boundary]) -> Boundary:
    """The boundary that holds for all of several models."""
    last = max(boundaries, key=lambda b: b.first)
    ends = [b.validation_end for b in boundaries if b.validation_end is not None]
    starts = [b.test_first for b in boundaries if b.test_first is not None]
    return Boundary(last.train_end, last.embargo, max(ends, default=None), max(starts, default=None))


@dataclass(frozen=True, eq=False)
class Timeline:
    """The as-of dates of a backtest, as rising positions in the store's sessions."""

    horizon: int
    boundary: Boundary
    calibrate: NDArray[np.int64]
    """(C,) empty where there are too few dates for a calibration."""
    test: NDArray[np.int64]
    """(D,) the dates that are scored."""
    stride: int
    """Trading days between two dates."""
    excluded: dict[str, int]
    """Trading days of the store that cannot be origins, by reason."""
    notes: tuple[str, ...] = ()

    def part_of(self, session: int) -> str:
        """Which part of the model's training an origin lies in: 'training', 'embargo', 'validation' or
        'unseen'.

        'validation' where its label reaches into the days that chose the checkpoint.
        """
        b = self.boundary
        if session <= b.train_end:
            return "training"
        if session < b.first:
            return "embargo"
        return "validation" if b.validation_end is not None and session < b.validation_end else "unseen"


def plan_timeline(
    sessions: int,
    boundary: Boundary,
    horizon: int,
    *,
    origins: int,
    every: int | None = None,
    calibration_share: float = CALIBRATION_SHARE,
    history: int = 0,
) -> Timeline:
    """Choose origins among `sessions` trading days. every: trading days between two of them; None: `origins`
    of them, evenly.

    calibration_share: of the days after the boundary; 0: none. history: trading days that an origin needs behind
    it. Raises KitError when no origin is left.
    """
    first, last = max(boundary.first, history), sessions - 1 - horizon
    if last < first:
        raise _no_date(sessions, boundary, horizon, history)
    notes: list[str] = []
    begin = _first_unseen(boundary, first, last, horizon, notes)
    validation, first = begin - first, begin
    test_first, calibrate_last = first, -1
    if calibration_share > 0:
        cut = first + int(calibration_share * (last - first))
        later = cut + horizon + 1
        if min(_effective(first, cut, horizon), _effective(later, last, horizon)) >= MIN_EFFECTIVE:
            test_first, calibrate_last = later, cut
        else:
            notes.append(
                f"no calibration: {last - first + 1} trading days after training hold fewer than {MIN_EFFECTIVE} dates without "
                f"overlap, {horizon} days ahead, for it or for the test"
            )
    stride = every or _stride(last - test_first, origins, horizon)
    test = np.arange(last, test_first - 1, -stride)[::-1]
    test = test if every else test[-origins:]
    if not every and len(test) < origins:
        closer = stride == horizon and (last - test_first) // max(origins - 1, 1) < horizon
        notes.append(_fewer(len(test), origins, horizon, closer))
    calibrate = np.empty(0, np.int64)
    if calibrate_last >= 0:
        calibrate, apart = _calibration_days(first, calibrate_last, stride, horizon)
        if apart != stride:
            notes.append(
                f"calibration on {len(calibrate)} dates, {apart} trading days apart and not {stride}: it needs so many"
            )
    excluded = {
        "in training, or before its end": boundary.train_end + 1,
        "embargo after training": boundary.first - boundary.train_end - 1,
        "too little history": max(0, history - boundary.first),
        "close not known yet": min(horizon, sessions - first),
    }
    if validation:
        excluded["validation, which chose the checkpoint"] = validation
    return Timeline(horizon, boundary, calibrate, test, stride, excluded, tuple(notes))


def _no_date(sessions: int, boundary: Boundary, horizon: int, history: int) -> KitError:
    after = f"after {history} days of history"
    if boundary.train_end >= 0:
        after = f"after {boundary.first} days of training and embargo"
    return KitError(
        f"backtest: expected trading days whose close {horizon} days later is known, found none {after} in {sessions} days; "
        "lower --horizon or data.train_ratio (and train again), or bring later prices"
    )


def _first_unseen(boundary: Boundary, first: int, last: int, horizon: int, notes: list[str]) -> int:
    """The first day that may be scored: of the test part, where that has room; else `first`, which is said in
    `notes`.
    """
    if boundary.test_first is None or boundary.test_first <= first:
        return first
    if _effective(boundary.test_first, last, horizon) >= MIN_EFFECTIVE:
        return boundary.test_first
    notes.append(
        f"dates also from the validation part: the test part holds fewer than {MIN_EFFECTIVE} dates without overlap, "
        f"{horizon} days ahead"
    )
    return first


def _fewer(found: int, origins: int, horizon: int, closer: bool) -> str:
    """Why there are fewer dates than were asked for. closer: more would overlap."""
    why = "there are no more"
    if closer:
        why = f"more than these, {horizon} trading days apart, would overlap (evaluation.every sets another distance)"
    return f"{found} of {origins} dates asked for: {why}"


def on_open_days(timeline: Timeline, opened: NDArray[np.bool_]) -> Timeline:
    """The same dates, each moved to the last day before it on which every market is open.

    opened (sessions,). A date that would move before the first one of its block is left out. Raises KitError
    when none is left.
    """
    if opened.all():
        return timeline
    if not opened.any():  # hours of exchanges that never coincide
        note = "no session is one of every market: each date asks the tickers whose market is open"
        return replace(timeline, notes=(*timeline.notes, note))
    note = "dates are days on which every market is open; each ticker's horizon counts its own days"
    calibrate, test = _moved(timeline.calibrate, opened), _moved(timeline.test, opened)
    if not len(test):
        raise KitError(
            "backtest: expected days after training on which every market of the data is open, found none; bring later prices, "
            "or prepare each market by itself"
        )
    return replace(timeline, calibrate=calibrate, test=test, notes=(*timeline.notes, note))


def _moved(days: NDArray[np.int64], opened: NDArray[np.bool_]) -> NDArray[np.int64]:
    if not len(days):
        return days
    allowed = np.flatnonzero(opened)
    allowed = allowed[allowed >= days[0]]
    place = np.searchsorted(allowed, days, side="right") - 1
    return np.asarray(np.unique(allowed[place[place >= 0]]), np.int64)


def _calibration_days(first: int, last: int, stride: int, horizon: int) -> tuple[NDArray[np.int64], int]:
    """Every so many days up to `last`, and how many: `stride`, unless that leaves fewer than MIN_EFFECTIVE
    without overlap. The range itself holds as many (`_effective`)."""
    days = np.arange(last, first - 1, -stride)[::-1]
    if DateBootstrap(tuple(days.tolist()), horizon).effective < MIN_EFFECTIVE:
        stride = (last - first) // (MIN_EFFECTIVE - 1)
        days = np.arange(last, first - 1, -stride)[::-1]
    return days, stride


def _stride(days: int, origins: int, horizon: int) -> int:
    """Trading days between two of so many origins, spread over a range of days. It is not below the horizon
    while the range holds
    MIN_EFFECTIVE dates that far apart: dates whose labels overlap cost as much and tell little more."""
    even = max(1, days // max(origins - 1, 1))
    least = min(horizon, max(1, days // (MIN_EFFECTIVE - 1)))
    return max(even, least)


def _effective(first: int, last: int, horizon: int) -> int:
    """Dates without overlap in a range of days."""
    return DateBootstrap(tuple(range(first, last + 1)), horizon).effective
