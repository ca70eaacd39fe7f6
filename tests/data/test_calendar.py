"""The trading calendar: known session counts, the data's own past, true future dates, and nothing silent."""

import logging
from pathlib import Path

import numpy as np
import pytest

from kronos.data import calendar as calendar_module
from kronos.data.calendar import SessionRules, TradingCalendar, open_days
from kronos.errors import KitError


@pytest.fixture(autouse=True)
def _warnings_are_new() -> None:
    calendar_module._warn_once.cache_clear()


def seconds(*dates: str) -> np.ndarray:
    return np.array(dates, dtype="datetime64[s]")


def daily(name: str, first: str, last: str) -> TradingCalendar:
    return TradingCalendar(open_days(name, first, last).astype("datetime64[s]"), name, "daily")


def intraday(days: np.ndarray, times: list[str]) -> np.ndarray:
    """Sessions of every day at every HH:MM, sorted."""
    offsets = np.array([np.timedelta64(int(t[:2]) * 60 + int(t[3:]), "m") for t in times])
    return (days.astype("datetime64[m]")[:, None] + offsets).ravel().astype("datetime64[s]")


# -- the frozen rules ----------------------------------------------------------------------------------------
def test_sessions_of_the_sixties() -> None:
    """exchange_calendars has 69 sessions before 1970 that never took place (the paper crisis of 1968 among
    them).
    """
    counts = [len(open_days("NYSE", f"{year}-01-01", f"{year}-12-31")) for year in range(1962, 1970)]
    assert counts == [252, 251, 253, 252, 252, 251, 226, 250]


@pytest.mark.parametrize(
    ("name", "day", "is_open"),
    [
        ("NYSE", "2001-09-11", False), ("NYSE", "2001-09-17", True), ("NYSE", "2012-10-29", False), ("NYSE", "2021-06-18", True),
        ("NYSE", "2022-06-20", False), ("NYSE", "2024-11-05", True), ("NYSE", "1968-11-05", False), ("NYSE", "2025-01-09", False),
        ("XSHG", "2024-02-12", False), ("XSHG", "2024-02-18", False), ("XSHG", "2024-02-19", True), ("XSHG", "2024-10-07", False),
        ("XHKG", "2023-09-01", False), ("XHKG", "2024-09-06", False), ("XHKG", "2024-12-26", False),
        ("XHKG", "2029-09-24", False),
        ("24/7", "2024-12-25", True), ("24/7", "2024-12-28", True),
    ],
)  # fmt: skip
def test_known_days(name: str, day: str, is_open: bool) -> None:
    """Attacks, storms, a working Sunday, typhoons, an election day: days that simple rules get wrong."""
    assert len(open_days(name, day, day)) == is_open


@pytest.mark.parametrize(("name", "source"), [("NYSE", "NYSE"), ("XSHG", "SSE"), ("XHKG", "HKEX")])
def test_frozen_files_are_the_library_s(name: str, source: str) -> None:
    """A frozen file that somebody edited, or that a newer library corrects. Typhoon closures of Hong Kong:
    see the script.
    """
    library = pytest.importorskip("pandas_market_calendars")
    rules = SessionRules.load(name)
    days = library.get_calendar(source).valid_days(str(rules.first), str(rules.known)).tz_localize(None)
    frozen, theirs = rules.open_days(rules.first, rules.known), days.to_numpy().astype("datetime64[D]")
    also_closed = ["2020-10-13", "2021-04-06", "2021-10-13", "2024-09-06"] if name == "XHKG" else []
    assert np.setdiff1d(frozen, theirs).tolist() == []
    assert np.setdiff1d(theirs, frozen).astype(str).tolist() == also_closed


def test_an_unknown_exchange_is_named() -> None:
    with pytest.raises(KitError, match=r"expected one of NYSE, XHKG, XSHG, 24/7, found 'LSE'"):
        SessionRules.load("LSE")


# -- steps and future sessions -------------------------------------------------------------------------------
def test_the_competition_s_horizon() -> None:
    """The label lies 30 trading days ahead, on an election week, with no holiday in between."""
    calendar = daily("NYSE", "1962-01-02", "2024-09-23")
    assert calendar.steps_between(seconds("2024-09-23"), seconds("2024-11-04")).tolist() == [30]
    future = calendar.future(np.datetime64("2024-09-23"), 30)
    assert future[0] == np.datetime64("2024-09-24") and future[-1] == np.datetime64("2024-11-04")


def test_future_passes_holidays() -> None:
    """Weekday arithmetic would forecast for Thanksgiving."""
    calendar = daily("NYSE", "2020-01-01", "2024-11-26")
    expected = seconds("2024-11-27", "2024-11-29", "2024-12-02")
    assert calendar.future(np.datetime64("2024-11-26"), 3).tolist() == expected.tolist()
    assert (
        calendar.future(np.datetime64("2024-11-23"), 2).tolist()
        == seconds("2024-11-25", "2024-11-26").tolist()
    )
    assert len(calendar.future(np.datetime64("2024-11-26"), 0)) == 0


@pytest.mark.parametrize("name", ["NYSE", "XSHG", "XHKG", "24/7"])
def test_steps_and_future_agree(name: str) -> None:
    """The n-th future session is n steps away, in the past, over the border, and in the future; and back."""
    calendar = daily(name, "2023-01-03", "2024-06-14")
    for last in (
        "2022-06-01",
        "2023-01-03",
        "2024-05-30",
        "2024-06-13",
        "2024-06-14",
        "2024-06-15",
        "2024-08-01",
    ):
        future = calendar.future(np.datetime64(last), 60)
        steps = calendar.steps_between(np.full(60, np.datetime64(last, "s")), future)
        assert steps.tolist() == list(range(1, 61))
        assert calendar.steps_between(future, np.full(60, np.datetime64(last, "s"))).tolist() == [
            -n for n in range(1, 61)
        ]
        assert (np.diff(future) > np.timedelta64(0)).all() and future[0] > np.datetime64(last)


def test_the_past_is_the_data_s() -> None:
    """A holiday that the data has bars on is a session; a rule day without bars is none."""
    sessions = np.setdiff1d(
        open_days("NYSE", "2024-01-02", "2024-06-28"), np.array(["2024-03-05"], "datetime64[D]")
    )
    sessions = np.union1d(sessions, np.array(["2024-05-27"], "datetime64[D]")).astype("datetime64[s]")
    calendar = TradingCalendar(sessions, "NYSE", "daily")
    assert calendar.steps_between(
        seconds("2024-03-04", "2024-05-24"), seconds("2024-03-06", "2024-05-28")
    ).tolist() == [1, 2]


def test_beyond_the_rules_is_refused() -> None:
    """Counting weekdays in silence where nobody knows the holidays."""
    calendar = daily("XSHG", "2024-01-01", "2024-12-31")
    with pytest.raises(
        KitError, match=r"XSHG: expected a date from 1990-12-19 to 2030-12-31, found 2031-01-02"
    ):
        calendar.steps_between(seconds("2024-12-31"), seconds("2031-01-02"))
    with pytest.raises(KitError, match="scripts/freeze_calendars"):
        calendar.future(np.datetime64("2024-12-31"), 2000)
    with pytest.raises(ValueError, match="NaT"):
        calendar.steps_between(seconds("NaT"), seconds("2025-01-02"))


def test_projected_days_are_announced(caplog: pytest.LogCaptureFixture) -> None:
    """Shanghai's holidays are announced year by year: a later date is an estimate, and is called one,
    once.
    """
    calendar = daily("XSHG", "2024-01-02", "2024-12-31")
    with caplog.at_level(logging.WARNING):
        calendar.steps_between(seconds("2024-12-31"), seconds("2026-12-31"))
        assert not caplog.records
        calendar.future(np.datetime64("2026-12-30"), 5)
        calendar.future(np.datetime64("2026-12-30"), 5)
    assert len(caplog.records) == 1 and "until 2026-12-31" in caplog.text


@pytest.mark.parametrize(
    ("own", "chosen", "warns"), [("NYSE", "NYSE", False), ("XSHG", "NYSE", True), ("24/7", "NYSE", True)]
)
def test_another_exchange_s_data_is_noticed(
    own: str, chosen: str, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The default calendar on Shanghai's or a coin's bars gives wrong future dates."""
    calendar = TradingCalendar(
        open_days(own, "2022-01-04", "2024-06-28").astype("datetime64[s]"), chosen, "daily"
    )
    with caplog.at_level(logging.WARNING):
        calendar.future(np.datetime64("2024-06-28"), 3)
    assert bool(caplog.records) == warns
    assert not warns or f"data.calendar {chosen}" in caplog.text


# -- other bar lengths ---------------------------------------------------------------------------------------
def test_daily_bars_keep_their_hour() -> None:
    """A source that stamps daily bars at 16:00, with a few at other hours."""
    sessions = open_days("NYSE", "2024-01-02", "2024-06-28").astype("datetime64[s]") + np.timedelta64(16, "h")
    sessions[5] -= np.timedelta64(3, "h")
    future = TradingCalendar(sessions, "NYSE", "daily").future(sessions[-1], 2)
    assert future.tolist() == seconds("2024-07-01T16:00", "2024-07-02T16:00").tolist()


def test_intraday_sessions_are_continued() -> None:
    """Two half-days of trading with a pause, one short day, a last day that is not over yet."""
    times = ["10:30", "11:30", "14:00", "15:00"]
    days = open_days("XSHG", "2024-06-03", "2024-09-30")
    sessions = np.setdiff1d(
        intraday(days, times), seconds("2024-08-01T14:00", "2024-08-01T15:00", "2024-09-30T15:00")
    )
    calendar = TradingCalendar(np.union1d(sessions, seconds("2024-07-04T12:45")), "XSHG", "60min")
    future = calendar.future(np.datetime64("2024-09-30T14:00"), 3)  # 1 to 7 October are holidays
    assert future.tolist() == seconds("2024-09-30T15:00", "2024-10-08T10:30", "2024-10-08T11:30").tolist()
    assert calendar.steps_between(seconds("2024-09-30T14:00"), seconds("2024-10-09T11:30")).tolist() == [7]
    assert calendar.steps_between(seconds("2024-09-30T14:00"), seconds("2024-10-05T11:30")).tolist() == [1]


def test_a_coin_never_closes() -> None:
    """24/7 bars over a weekend and New Year."""
    sessions = intraday(
        np.arange("2023-11-01", "2023-12-31", dtype="datetime64[D]"), [f"{h:02d}:00" for h in range(24)]
    )
    future = TradingCalendar(sessions, "24/7", "60min").future(sessions[-1], 48)
    assert future.tolist() == (sessions[-1] + np.arange(1, 49) * np.timedelta64(3600, "s")).tolist()


def test_irregular_intraday_times_are_refused() -> None:
    """Trade timestamps instead of bars have no next session."""
    rng = np.random.default_rng(0)
    ticks = np.unique(np.datetime64("2024-01-02", "s") + rng.integers(0, 86400 * 90, 300))
    with pytest.raises(KitError, match="round the timestamps"):
        TradingCalendar(ticks, "24/7", "5min").future(ticks[-1], 1)


@pytest.mark.parametrize(("label", "last"), [(0, "2024-06-24"), (4, "2024-06-28"), (4, "2024-06-27")])
def test_weekly_bars_have_one_label_a_week(label: int, last: str) -> None:
    """Labels on Mondays or Fridays; a label moved by a holiday must not give its week a second bar."""
    days = np.arange("2023-01-02", "2024-06-24", dtype="datetime64[D]")
    weeks = days[(days.astype(int) + 3) % 7 == label]
    calendar = TradingCalendar(
        np.append(weeks, np.datetime64(last)).astype("datetime64[s]"), "NYSE", "weekly"
    )
    monday = np.datetime64("2024-07-01")
    assert (
        calendar.future(np.datetime64(last), 3).tolist()
        == (monday + label + np.arange(3) * 7).astype("datetime64[s]").tolist()
    )
    assert calendar.steps_between(seconds(last), seconds("2024-07-14")).tolist() == [2]


def test_real_prices_trade_on_the_ruled_days(shared_data: Path) -> None:
    """120 real shares, 2013 to 2017: every session of the exchange and no other; the test file's date is 30
    sessions on.
    """
    polars = pytest.importorskip("polars")
    traded = (
        polars.read_csv(shared_data / "sp500" / "train.csv")["Date"]
        .str.slice(0, 10)
        .unique()
        .sort()
        .to_list()
    )
    target = polars.read_csv(shared_data / "sp500" / "test.csv")["Date"].str.slice(0, 10)[0]
    assert open_days("NYSE", traded[0], traded[-1]).astype(str).tolist() == traded
    calendar = TradingCalendar(seconds(*traded), "NYSE", "daily")
    assert calendar.steps_between(seconds(traded[-1]), seconds(target)).tolist() == [30]
