"""What is asked of the forecaster: for each (ticker, date) the bars that were known, and how many steps lie
ahead.

In: a store, tickers and target dates. Out: `RowPlan`: where each row's context lies, its horizon, and why a
row cannot be forecast. Nothing dated on or after a row's date is read: neither bars nor trading days. NumPy
only. Rows are independent of each other and keyed by their ID, so any subset may be forecast anywhere.
"""

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kronos.bars import CLOSE, FloatArray, calendar_stamps
from kronos.data.calendar import TradingCalendar
from kronos.data.store import BarStore
from kronos.forecasting.context import MIN_BARS, Overflow, room

if TYPE_CHECKING:  # planning needs no torch
    from kronos.forecasting.forecaster import Forecaster
    from kronos.forecasting.memory import Fits

UNKNOWN, NO_BAR, FEW_BARS, NO_DAY, TOO_FAR, BAD_BARS, BAD_FORECAST = (
    "unknown ID",
    "no bar before the date",
    "too few bars",
    "no trading day up to the date",
    "horizon does not fit max_context",
    "non-finite bars",
    "non-finite forecast",
)
SHORT_HISTORY, LONG_HORIZON = "short history", "cut to fit max_context"


@dataclass(frozen=True)
class Batch:
    """Rows of equal length and horizon, ready for `Forecaster.forecast`."""

    rows: NDArray[np.int64]
    """(B,) positions in the plan."""
    bars: FloatArray
    """(B, L, 6)"""
    stamps: FloatArray
    """(B, L, 5)"""
    future_stamps: FloatArray
    """(B, H, 5)"""
    series: NDArray[np.int64]
    """(B,) keys."""

    def only(self, which: NDArray[np.int64]) -> "Batch":
        """The rows at the positions `which`."""
        return Batch(
            self.rows[which],
            self.bars[which],
            self.stamps[which],
            self.future_stamps[which],
            self.series[which],
        )


@dataclass(frozen=True)
class RowPlan:
    """n rows; `reason` is '' for those that are forecast."""

    store: BarStore
    calendar: str
    ids: list[str]
    dates: NDArray[np.datetime64]
    """(n,) what is asked for: the day, or for intraday bars the time. Bars dated on or after it are not
    read.
    """
    end: NDArray[np.int64]
    """(n,) store row after the last known bar; meaningless where there is none."""
    length: NDArray[np.int64]
    """(n,) known bars that are used."""
    known: NDArray[np.int64]
    """(n,) known bars that there are."""
    horizon: NDArray[np.int64]
    """(n,) steps from the last known bar to the day asked for."""
    last: NDArray[np.datetime64]
    """(n,) date of the last known bar; of the market's last known day for a row without bars."""
    reason: NDArray[np.str_]
    """(n,) why the row is not forecast."""
    shortened: dict[str, int]
    """Forecast rows whose context is shorter than the lookback, by cause."""

    def fallbacks(self) -> dict[str, int]:
        """Rows that are not forecast, by reason."""
        return dict(sorted(Counter(r for r in self.reason.tolist() if r).items()))

    def extent(self) -> tuple[int, int]:
        """The longest context and the longest horizon of the rows to forecast; (1, 1) where there are
        none.
        """
        todo = self.reason == ""
        return (int(self.length[todo].max()), int(self.horizon[todo].max())) if todo.any() else (1, 1)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """The rows to forecast, in an order that does not depend on the order of the rows asked for."""
        todo = np.flatnonzero(self.reason == "")
        keys = series_keys([self.ids[i] for i in todo])
        order = np.lexsort((keys, self.length[todo], self.horizon[todo]))
        todo, keys = todo[order], keys[order]
        shape = np.stack([self.length[todo], self.horizon[todo]])
        starts = np.flatnonzero((np.diff(shape, axis=1) != 0).any(axis=0)) + 1
        for group in np.split(np.arange(len(todo)), starts):
            for first in range(0, len(group), batch_size):
                part = group[first : first + batch_size]
                yield self._batch(todo[part], keys[part])

    def _batch(self, rows: NDArray[np.int64], keys: NDArray[np.int64]) -> Batch:
        length = int(self.length[rows[0]])
        where = self.end[rows][:, None] + np.arange(-length, 0)
        return Batch(
            rows,
            self.store.bars[where],
            calendar_stamps(self.store.dates(where)),
            calendar_stamps(self.future_dates(rows)),
            keys,
        )

    def batch_of(self, row: int) -> Batch:
        """A batch of one row that can be forecast."""
        return self._batch(np.array([row]), series_keys([self.ids[row]]))

    def future_dates(self, rows: NDArray[np.int64]) -> NDArray[np.datetime64]:
        """The trading days after each row's last known bar, (B, H) datetime64[s]; rows of one horizon."""
        horizon = int(self.horizon[rows[0]])
        market = self.store.market_of(
            np.searchsorted(self.store.offsets, self.end[rows] - 1, side="right") - 1
        )
        known = np.stack(
            [self.dates[rows].astype(np.int64), self.last[rows].astype(np.int64), market], axis=1
        )
        distinct, inverse = np.unique(known, axis=0, return_inverse=True)
        days = [
            _calendar(self.store, np.datetime64(date, "s"), self.calendar, int(market)).future(
                np.datetime64(last, "s"), horizon
            )
            for date, last, market in distinct.tolist()
        ]
        return np.asarray(np.stack(days)[inverse.reshape(-1)])


@dataclass(frozen=True)
class Rises:
    """What the networks say about B rows."""

    prob_up: NDArray[np.float64]
    """(B,) P(rise), if the price moves at all: listed outcomes where the forecaster enumerates, else the
    share of rising paths. NaN where there is none."""
    mass: NDArray[np.float64]
    """(B,) the probability of what a listed answer rests on; NaN for the others."""
    closes: FloatArray | None
    """(B, S) the last close of every path; NaN where there is none. None: P(rise) needed no paths and nobody
    asked for them.
    """
    reason: NDArray[np.str_]
    """(B,) why a row has no answer, '' where it has."""
    course: FloatArray | None = None
    """(B, 4) of the mean of the paths' closes over the days ahead: its mean, its highest, its lowest; and the
    deviation of closes that the context was normalised with. NaN and None as in `closes`.
    """
    terms: FloatArray | None = None
    """(B, H) the paths' mean log return over its deviation, up to each of the H steps: one forecast says
    something about every horizon. NaN where a price has no logarithm or no path differs; None as in `closes`.
    """


def find_rises(
    batch: Batch, forecaster: "Forecaster", paths: bool = False, fits: "Fits | None" = None
) -> Rises:
    """P(rise) of a batch's rows, the same way for every caller. paths: sample them also where P(rise) is
    enumerated. fits: what earlier batches found to fit.

    A value that is not finite, going in or coming out of what is asked for, is a reason and no answer.
    """
    sound = _finite(batch.bars)
    finite = sound.copy()
    part = batch.only(np.flatnonzero(sound))
    prob, mass = np.full((2, len(batch.rows)), np.nan)
    steps = batch.future_stamps.shape[1]
    listed, closes, course, terms = forecaster.enumerates(steps), None, None, None
    if sound.any() and listed:
        found = forecaster.next_step(part.bars, part.stamps, part.future_stamps, part.series, fits=fits)
        prob[sound], mass[sound] = found.prob_up, found.mass
        finite &= np.isfinite(prob)
    if paths or not listed:
        closes = np.full((len(batch.rows), forecaster.sampling.sample_count), np.nan, np.float32)
        course = np.full((len(batch.rows), 4), np.nan, np.float32)
        terms = np.full((len(batch.rows), steps), np.nan, np.float32)
        if sound.any():
            closes[sound], course[sound], terms[sound] = _paths_in_short(part, forecaster, fits)
            finite &= _finite(closes)
            closes[~finite] = course[~finite] = terms[~finite] = np.nan
        if not listed:
            prob = (closes > batch.bars[:, -1, CLOSE, None]).mean(axis=1, dtype=np.float64)
    reason = np.select([~sound, ~finite], [BAD_BARS, BAD_FORECAST], "")
    return Rises(np.where(finite, prob, np.nan), mass, closes, reason, course, terms)


def _paths_in_short(
    batch: Batch, forecaster: "Forecaster", fits: "Fits | None"
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """`Rises.closes`, `Rises.course` and `Rises.terms`; NaN in the rows that have anything not finite in any path."""
    given = batch.bars, batch.stamps, batch.future_stamps, batch.series
    paths = forecaster.forecast(*given, fits=fits).paths
    closes = np.where(_finite(paths)[:, None, None], paths[..., CLOSE], np.float32(np.nan))
    mean = closes.mean(axis=1, dtype=np.float64)
    columns = (mean.mean(axis=1), mean.max(axis=1), mean.min(axis=1), forecaster.close_scale(batch.bars))
    course = np.stack(columns, axis=1).astype(np.float32)
    return closes[:, :, -1], course, _terms(closes, batch.bars[:, -1, CLOSE])


def _terms(closes: FloatArray, last: FloatArray) -> FloatArray:
    """(B, H) `Rises.terms` of closes (B, S, H) and known last closes (B,)."""
    paths = closes.astype(np.float64)
    usable = (paths > 0).all(axis=1) & (last > 0)[:, None] & (closes.shape[1] > 2)
    safe = np.where(usable[:, None], paths, 1.0)
    away = np.log(safe / np.where(last > 0, last, 1.0)[:, None, None].astype(np.float64))
    deviation = away.std(axis=1, ddof=1) if closes.shape[1] > 1 else np.zeros(usable.shape)
    usable &= deviation > 1e-9
    ratio = away.mean(axis=1) / np.where(usable, deviation, 1.0)
    return np.where(usable, ratio, np.nan).astype(np.float32)


def _finite(values: NDArray) -> NDArray[np.bool_]:
    """(B,) whether everything about a series is."""
    return np.asarray(np.isfinite(values).reshape(len(values), -1).all(axis=1))


def series_keys(ids: Sequence[str]) -> NDArray[np.int64]:
    """A number per ID that fixes its random numbers wherever it stands in a file; (n,) int64 >= 0."""
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids]
    return np.array([int.from_bytes(d, "little") >> 1 for d in digests], dtype=np.int64)


def plan_rows(
    store: BarStore,
    tickers: Sequence[str],
    dates: NDArray[np.datetime64],
    *,
    calendar: str,
    lookback: int,
    max_context: int,
    horizon: int | NDArray[np.int64] | None = None,
    overflow: Overflow = "cut",
    ids: Sequence[str] | None = None,
) -> RowPlan:
    """Decide what each row's forecast starts from and how far it reaches.

    tickers and dates (n,): the row asks for the close of that ticker on that date. calendar: the exchange
    whose days count after the last known one. horizon: the number of steps, one for all rows or (n,); None:
    the trading days in (last bar, date].
    overflow: "cut" shortens a context so that context + horizon - 1 tokens fit max_context; "slide" keeps it
    (`context`). Of daily and weekly bars only the day counts.
    """
    dates, target = _asked(store, dates)
    ticker = store.index_of(list(tickers))
    first, end = _known_rows(store, ticker, dates)
    have = end - first
    last = _last_known(store, end, have, dates)
    market = store.market_of(ticker)
    steps = (
        _steps(store, last, dates, target, calendar, market)
        if horizon is None
        else np.full(len(dates), horizon, np.int64)
    )
    fits = room(steps, max_context) if overflow == "cut" else np.where(steps < max_context, lookback, 0)
    length = np.minimum(np.minimum(have, lookback), fits)
    least = min(MIN_BARS, lookback)
    reason = np.select(
        [ticker < 0, have == 0, steps < 1, have < least, length < least],
        [UNKNOWN, NO_BAR, NO_DAY, FEW_BARS, TOO_FAR],
        "",
    )
    reason = reason.astype(f"<U{max(map(len, (BAD_BARS, BAD_FORECAST, TOO_FAR, NO_DAY, NO_BAR)))}")
    used = reason == ""
    shortened = {
        SHORT_HISTORY: int((used & (have < lookback)).sum()),
        LONG_HORIZON: int((used & (length < np.minimum(have, lookback))).sum()),
    }
    return RowPlan(
        store, calendar, list(ids or tickers), dates, end, length, have, steps, last, reason, shortened
    )


# -- what was known ------------------------------------------------------------------------------------------
def _asked(store: BarStore, dates: NDArray) -> tuple[NDArray, NDArray]:
    """From when on nothing may be read, and up to when trading days count: a day's two ends, whatever its
    bars' time of day.
    """
    exact = np.asarray(dates).astype("datetime64[s]")
    if store.frequency not in ("daily", "weekly", "monthly"):
        return exact, exact
    day = exact.astype("datetime64[D]").astype("datetime64[s]")
    return day, day + np.timedelta64(86399, "s")


def _known_rows(
    store: BarStore, ticker: NDArray[np.int64], dates: NDArray
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First row of each ticker and the row after its last bar before the date; equal where there is none."""
    known = ticker >= 0
    first, end = np.zeros(len(ticker), np.int64), np.zeros(len(ticker), np.int64)
    first[known] = store.offsets[ticker[known]]
    end[known] = store.end_before(ticker[known], dates[known])
    return first, end


def _last_known(
    store: BarStore, end: NDArray[np.int64], have: NDArray[np.int64], dates: NDArray
) -> NDArray[np.datetime64]:
    """Date of each row's last bar; of the market's last day before the date (or that date) where it has
    none.
    """
    day = np.searchsorted(store.sessions, dates, side="left") - 1
    last = np.where(day >= 0, store.sessions[np.maximum(day, 0)], dates)
    last[have > 0] = store.dates(end[have > 0] - 1)
    return last


def _steps(
    store: BarStore, last: NDArray, dates: NDArray, target: NDArray, calendar: str, market: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Trading days of each row's market after `last` up to and with `target`, as known before `dates`; 0:
    nothing was known.
    """
    steps = np.zeros(len(dates), np.int64)
    for number in np.unique(market).tolist():
        known = (last < dates) & (market == number)
        for date in np.unique(dates[known]):
            rows = (dates == date) & known
            steps[rows] = _calendar(store, date, calendar, number).steps_between(last[rows], target[rows])
    return steps


@functools.lru_cache(maxsize=256)
def _calendar(store: BarStore, date: np.datetime64, name: str, market: int) -> TradingCalendar:
    """A market's calendar as it was known before `date`: later days of the data must not change a forecast.
    name: the configured calendar, for a store that does not say."""
    sessions = store.sessions_of(market)
    before = sessions[: np.searchsorted(sessions, date, side="left")]
    if not len(
        before
    ):  # a market that begins later: its rows have no bar, and only the base rate's horizon is asked for
        before = store.sessions[: np.searchsorted(store.sessions, date, side="left")]
    return TradingCalendar(before, store.calendars(name)[market], store.frequency)
