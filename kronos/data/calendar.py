"""When the market is open: the data's own dates for the past, frozen exchange rules for what comes after
them.

In: the sessions of a store, the exchange's name, the bar frequency. Out: how many sessions lie between two
dates, and the sessions that follow one. NumPy only: the rules are small text files, written by
scripts/freeze_calendars.py from pandas_market_calendars. Early closes of future days are not modelled.
"""

import logging
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kronos.errors import KitError

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "calendars"
ALWAYS_OPEN = "24/7"
RECENT_DAYS = 60
"""Days at the end of the data from which the times of day of its bars are taken."""
COMPARED_DAYS = 250
TOLERATED_DIFFERENCE = 0.05

Days = NDArray[np.datetime64]


@dataclass(frozen=True, eq=False)
class SessionRules:
    """The closed weekdays of an exchange, and for how long they are known."""

    name: str
    first: np.datetime64
    known: np.datetime64
    """Last day that the exchange has announced, or that a rule settles."""
    last: np.datetime64
    """Last day of the projection from the usual holidays."""
    closed: Days
    """Weekdays without a session, datetime64[D]."""

    @classmethod
    @cache
    def load(cls, name: str) -> "SessionRules":
        """Read the frozen file of an exchange; '24/7' is open every day. Raises KitError for an unknown
        name.
        """
        if name == ALWAYS_OPEN:
            end = np.datetime64("2100-12-31")
            return cls(name, np.datetime64("1900-01-01"), end, end, np.array([], dtype="datetime64[D]"))
        path = FOLDER / f"{name}.txt"
        if not path.is_file():
            names = ", ".join([*sorted(p.stem for p in FOLDER.glob("*.txt")), ALWAYS_OPEN])
            raise KitError(f"data.calendar: expected one of {names}, found {name!r}")
        lines = [
            line.split() for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")
        ]
        limits = {key: np.datetime64(rest[0]) for key, *rest in lines if not key.isdigit()}
        closed = [f"{key}-{day}" for key, *rest in lines if key.isdigit() for day in rest]
        return cls(name, closed=np.array(closed, dtype="datetime64[D]"), **limits)

    def open_days(self, first: np.datetime64, last: np.datetime64) -> Days:
        """Session days in [first, last], (n,) datetime64[D]. Raises KitError outside the known range."""
        if first < self.first or last > self.last:
            raise self.unknown(first if first < self.first else last)
        days = np.arange(first, last + np.timedelta64(1, "D"), dtype="datetime64[D]")
        return days if self.name == ALWAYS_OPEN else days[np.is_busday(days, holidays=self.closed)]

    def is_open(self, days: Days) -> NDArray[np.bool_]:
        """Whether each day is a session day, same shape; days outside the known range count by their
        weekday.
        """
        return (
            np.ones(days.shape, bool)
            if self.name == ALWAYS_OPEN
            else np.is_busday(days, holidays=self.closed)
        )

    def days_between(self, first: Days, last: Days) -> NDArray[np.int64]:
        """Session days after `first` up to and with `last`, same shape; by weekdays outside the known
        range.
        """
        if self.name == ALWAYS_OPEN:
            return (last - first).astype(np.int64)
        day = np.timedelta64(1, "D")
        return np.busday_count(first + day, last + day, holidays=self.closed)

    def unknown(self, day: np.datetime64) -> KitError:
        """The error about a day outside the days that are known."""
        return KitError(
            f"trading days of {self.name}: expected a date from {self.first} to {self.last}, found {day}; choose another "
            "data.calendar or refresh the frozen one with scripts/freeze_calendars.py"
        )


def open_days(name: str, first: str | np.datetime64, last: str | np.datetime64) -> Days:
    """Session days of an exchange in [first, last] by the frozen rules alone, (n,) datetime64[D]. Raises
    KitError.
    """
    begin, end = np.array([first, last], dtype="datetime64[D]")
    return SessionRules.load(name).open_days(begin, end)


class TradingCalendar:
    """Sessions of the past and the future on one line: the store's, then those of the exchange after the
    store's last.

    A session is a bar of the given frequency: a day, a week (labelled with the data's usual weekday), a
    month, or an intraday bar (the times of day that at least half of the data's last days have, repeated on
    every future session day).
    """

    def __init__(
        self,
        sessions: NDArray[np.datetime64],
        name: str,
        frequency: str,
        times: NDArray[np.timedelta64] | None = None,
    ) -> None:
        """sessions: (D,) sorted, unique, exchange-local, D >= 1. frequency: as in `BarStore.frequency`.

        times: (n,) times of day of a day's bars, where they are known and not to be found from the sessions.
        """
        self.sessions = sessions.astype("datetime64[s]")
        self.rules = SessionRules.load(name)
        self.frequency = frequency
        self._given_times = times

    @property
    def times_of_day(self) -> NDArray[np.timedelta64]:
        """Times of day of a session day's bars, sorted (n,) timedelta64[s]."""
        return self._times

    def steps_between(
        self, last: NDArray[np.datetime64], target: NDArray[np.datetime64]
    ) -> NDArray[np.int64]:
        """Sessions after `last` up to and with `target`: (n,) datetime64 each -> (n,) int64; negative when
        target < last.

        Raises KitError when a date lies beyond what is known of the exchange.
        """
        return self._ordinal(target) - self._ordinal(last)

    def future(self, last: np.datetime64, n: int) -> NDArray[np.datetime64]:
        """The n sessions after `last`, (n,) datetime64[s]: the data's own while they reach, then the
        exchange's.
        """
        place = self._ordinal(np.array([last])) + np.arange(n)
        result = self.sessions[np.minimum(place, len(self.sessions) - 1)]
        later = place >= len(self.sessions)
        if later.any():
            grid = self._grid_start + place[later] - len(self.sessions)
            day, time = np.divmod(grid, len(self._times))
            if day[-1] >= len(self._days):
                raise self.rules.unknown(self.rules.last + np.timedelta64(1, "D"))
            self._note_projection(self._days[day[-1]])
            result[later] = self._days[day].astype("datetime64[s]") + self._times[time]
        return result

    # -- one line of sessions --------------------------------------------------------------------------------
    def _ordinal(self, dates: NDArray[np.datetime64]) -> NDArray[np.int64]:
        """Number of sessions dated at or before each date."""
        dates = np.asarray(dates).astype("datetime64[s]")
        if np.isnat(dates).any():
            raise ValueError("TradingCalendar: a date is missing (NaT)")
        count = np.searchsorted(self.sessions, dates, side="right").astype(np.int64)
        later = dates > self.sessions[-1]
        if later.any():
            count[later] += self._grid_count(dates[later]) - self._grid_start
        return count

    def _grid_count(self, dates: NDArray[np.datetime64]) -> NDArray[np.int64]:
        """Bars dated at or before each date, on the grid of future days x times of day that starts at the
        data's last day.
        """
        days = dates.astype("datetime64[D]")
        if days.max() > self.rules.last:
            raise self.rules.unknown(days.max())
        self._note_projection(days.max())
        whole = np.searchsorted(self._days, days, side="left")
        is_open = np.isin(days, self._days)
        within = np.searchsorted(self._times, dates - days.astype("datetime64[s]"), side="right")
        return (whole * len(self._times) + np.where(is_open, within, 0)).astype(np.int64)

    @cached_property
    def _grid_start(self) -> int:
        return int(self._grid_count(self.sessions[-1:])[0])

    @cached_property
    def _days(self) -> Days:
        """Days with bars from the data's last day (weekly: the week after it) to the end of the rules, (n,)
        datetime64[D].
        """
        start = self.sessions[-1].astype("datetime64[D]")
        if self.frequency == "monthly":
            return _same_days_of_later_months(start, self.rules.last)
        if self.frequency != "weekly":
            self._compare_with_rules(start)
            return self.rules.open_days(start, self.rules.last)
        days = np.arange(start, self.rules.last, dtype="datetime64[D]")
        days = days[
            days - _weekday(days) > start - _weekday(start)
        ]  # a label moved by a holiday stands for its whole week
        usual = np.bincount(_weekday(self.sessions.astype("datetime64[D]"))).argmax()
        return days[_weekday(days) == usual]

    @cached_property
    def _times(self) -> NDArray[np.timedelta64]:
        """Times of day of a session day's bars, sorted (n,) timedelta64[s]: one, but for intraday data."""
        if self._given_times is not None:
            return np.sort(self._given_times)
        days = self.sessions.astype("datetime64[D]")
        recent = days >= np.unique(days)[-RECENT_DAYS:][0]
        times, seen = np.unique(
            self.sessions[recent] - days[recent].astype("datetime64[s]"), return_counts=True
        )
        if self.frequency in ("daily", "weekly", "monthly"):
            return times[[seen.argmax()]]
        usual = times[2 * seen >= len(np.unique(days[recent]))]
        if not len(usual):
            raise KitError(
                f"intraday bars: expected times of day that at least half of the last {RECENT_DAYS} days share, found none; "
                "round the timestamps to the bar length"
            )
        return usual

    # -- nothing silent --------------------------------------------------------------------------------------
    def _note_projection(self, day: np.datetime64) -> None:
        if day > self.rules.known:
            _warn_once(
                f"{self.rules.name} has announced its holidays until {self.rules.known}: later sessions, to {self.rules.last}, "
                "are projected from the usual ones"
            )

    def _compare_with_rules(self, last: np.datetime64) -> None:
        """Say so when the data's last year does not look like this exchange: the calendar is probably another
        one.
        """
        own = np.unique(self.sessions.astype("datetime64[D]"))[-COMPARED_DAYS:]
        if own[0] < self.rules.first or last > self.rules.last:
            return
        ruled = self.rules.open_days(own[0], last)
        if len(np.setxor1d(own, ruled)) > TOLERATED_DIFFERENCE * len(own):
            _warn_once(
                f"data.calendar {self.rules.name}: it and the data's last year differ in more than {TOLERATED_DIFFERENCE:.0%} "
                "of the days; future dates follow it all the same"
            )


@cache
def _warn_once(text: str) -> None:
    """A backtest makes a calendar per origin: one warning is enough."""
    log.warning(text)


def _same_days_of_later_months(last: np.datetime64, end: np.datetime64) -> Days:
    """A day in each month after that of `last`: the first ones of a month where it is early in its month,
    else the last ones.

    Monthly bars are labelled with either end of their month; a target anywhere in a month means that month's
    bar, so that the label of the month is what counts.
    """
    months = np.arange(last.astype("datetime64[M]") + 1, end.astype("datetime64[M]") + 1)
    day = int((last - last.astype("datetime64[M]").astype("datetime64[D]")).astype(int))
    if day < 15:
        return months.astype("datetime64[D]")
    last_days: Days = ((months + 1).astype("datetime64[D]").astype(np.int64) - 1).astype("datetime64[D]")
    return last_days


def _weekday(days: Days) -> NDArray[np.int64]:
    """Monday 0 ... Sunday 6."""
    return (days.astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday
