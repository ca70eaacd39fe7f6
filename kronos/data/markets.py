"""Which market each ticker belongs to, and which day of its exchange a time is.

In: a panel as read (times as written, or UTC where the files name a zone), `data.calendar`, `data.timezone`,
`data.markets`.
Out: the panel with a market per ticker and exchange-local dates. One market is the rule; others are named by
the user, or found where a ticker's bars plainly follow another exchange's days. Nothing is cut off: an offset
is applied.
"""

import fnmatch
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kronos.config import DataConfig
from kronos.data.calendar import ALWAYS_OPEN, FOLDER, SessionRules
from kronos.data.price_panel import Panel
from kronos.data.row_places import owner_of
from kronos.errors import KitError

log = logging.getLogger(__name__)

ZONES = {"NYSE": "America/New_York", "XSHG": "Asia/Shanghai", "XHKG": "Asia/Hong_Kong", ALWAYS_OPEN: "UTC"}
LONG_BARS = ("daily", "weekly", "monthly")
"""Frequencies whose bars are dated by a day."""
JUDGED_DAYS = 300
"""So many of a ticker's last days show its calendar."""
FEWEST_DAYS = 60
FEWEST_ALWAYS_OPEN = 10
"""Days that show a market which never closes, both days of a weekend among them."""
STRANGE = 0.02
"""Share of a ticker's days on which its market is closed, above which another market is looked for."""
FITS, BETTER = 0.05, 0.01
"""A market fits when at most so many days differ, and is taken when it is so much better than the configured
one.
"""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Market:
    """A calendar of `data.calendar` and the zone of its exchange's clocks."""

    calendar: str
    zone: str


def assign(panel: Panel, data: DataConfig, named: Mapping[str, str]) -> None:
    """Give each ticker its market and each row its exchange-local date, in place. named {ticker: value of the
    market column}.

    Raises KitError when a market is unknown, when dates contradict it, or when tickers follow calendars that
    nobody named.
    """
    markets = [Market(name, zone_of(name, data)) for name in _calendars(data)]
    chosen = _named(panel, data, named, [market.calendar for market in markets])
    if panel.frequency in ("weekly", "monthly"):
        chosen[chosen < 0] = 0
    else:
        _find(panel, markets, chosen)
    used = np.unique(chosen)
    panel.markets = tuple(markets[g] for g in used.tolist())
    panel.market = np.searchsorted(used, chosen).astype(np.int16)
    localise(panel)
    if panel.has_zone:
        _refuse_closed_days(panel)


def _calendars(data: DataConfig) -> list[str]:
    """Every calendar, the configured one first."""
    names = [*sorted(path.stem for path in FOLDER.glob("*.txt")), ALWAYS_OPEN]
    return [data.calendar, *(name for name in names if name != data.calendar)]


def zone_of(calendar: str, data: DataConfig) -> str:
    """The zone of a calendar's clocks; data.timezone for the configured one. Raises KitError for no zone."""
    if calendar != data.calendar or not data.timezone:
        return ZONES[calendar]
    try:
        pl.Series([0]).cast(pl.Datetime("ms", data.timezone))
        pl.Series([0]).cast(pl.Datetime("ms", "UTC")).dt.convert_time_zone(data.timezone)
    except pl.exceptions.PolarsError as error:
        raise KitError(
            f"data.timezone: expected a zone like Asia/Shanghai or UTC, found {data.timezone!r}"
        ) from error
    return data.timezone


# -- named by the user ---------------------------------------------------------------------------------------
def _named(
    panel: Panel, data: DataConfig, named: Mapping[str, str], calendars: list[str]
) -> NDArray[np.int64]:
    """(K,) position among the calendars; -1 where nobody says."""
    chosen = np.full(len(panel.tickers), -1, dtype=np.int64)
    rules = _rules(data, calendars)
    for k, ticker in enumerate(panel.tickers):
        if rules or ticker in named:
            chosen[k] = _of_ticker(ticker, named.get(ticker), rules, calendars)
    listed = {name for value in data.markets.values() if isinstance(value, list) for name in value}
    unknown = sorted(listed - set(panel.tickers))
    if unknown:
        raise KitError(
            f"data.markets: expected tickers of {panel.name}, found {unknown[0]!r}; write names as in the file, in quotes"
        )
    return chosen


def _rules(data: DataConfig, calendars: list[str]) -> dict[str, int]:
    """{ticker, suffix, pattern or value of the market column: position of its calendar}."""
    rules: dict[str, int] = {}
    for key, value in data.markets.items():
        names, calendar = (value, key) if isinstance(value, list) else ([key], value)
        if calendar not in calendars:
            raise KitError(
                f"data.markets: expected a calendar among {', '.join(calendars)}, found {calendar!r}"
            )
        for name in names:
            rules[name] = calendars.index(calendar)
    return rules


def _of_ticker(ticker: str, said: str | None, rules: Mapping[str, int], calendars: list[str]) -> int:
    if said is not None:
        if said in rules:
            return rules[said]
        if said in calendars:
            return calendars.index(said)
        raise KitError(
            f"data.columns.market: expected one of {', '.join(calendars)} for {ticker}, found {said!r}; "
            f"say what it means: data.markets: {{{said}: {calendars[0]}}}"
        )
    if ticker in rules:
        return rules[ticker]
    fitting = [
        name
        for name in rules
        if ticker.lower().endswith(name.lower()) or fnmatch.fnmatch(ticker.lower(), name.lower())
    ]
    return rules[max(fitting, key=len)] if fitting else -1


# -- found by the bars ---------------------------------------------------------------------------------------
def _find(panel: Panel, markets: list[Market], chosen: NDArray[np.int64]) -> None:
    """Fill the unnamed tickers: the configured market, or the one whose days their bars plainly follow."""
    row = _one_row_a_day(panel)
    owner = owner_of(panel.offsets, row)
    session = panel.session[row]
    scores = np.full((len(markets), len(panel.tickers)), np.inf)
    scores[0], strange = _differences(panel, markets[0], owner, session)
    days = np.bincount(owner, minlength=len(panel.tickers))
    doubtful = (chosen < 0) & (strange > STRANGE) & (days >= FEWEST_ALWAYS_OPEN)
    chosen[chosen < 0] = 0
    if not doubtful.any():
        return
    some = doubtful[owner]
    for place, market in enumerate(markets[1:], 1):
        scores[place], _ = _differences(panel, market, owner[some], session[some])
    best = scores.argmin(axis=0)
    least = scores[best, np.arange(len(best))]
    found = doubtful & (least <= FITS) & (least + BETTER < scores[0])
    always = np.array([market.calendar == ALWAYS_OPEN for market in markets])[best]
    found &= np.where(always, _whole_weekends(panel, owner, session), days >= FEWEST_DAYS)
    chosen[found] = best[found]
    for place in np.unique(best[found]).tolist():
        which = np.flatnonzero(found & (best == place))
        log.info(
            "market: %s of %s tickers follow the days of %s and not of data.calendar %s, e.g. %s; their horizons count its days",
            f"{len(which):,}", f"{len(panel.tickers):,}", markets[place].calendar, markets[0].calendar, panel.tickers[which[0]]
        )  # fmt: skip


def _whole_weekends(panel: Panel, owner: NDArray[np.int64], session: NDArray[np.int32]) -> Mask:
    """(K,) whether a ticker has bars on Saturdays and on Sundays."""
    weekday = (panel.sessions.astype("datetime64[D]").astype(np.int64) + 3) % 7
    both = [np.bincount(owner[weekday[session] == day], minlength=len(panel.tickers)) > 0 for day in (5, 6)]
    return both[0] & both[1]


def _one_row_a_day(panel: Panel) -> NDArray[np.int64]:
    """Rows that begin a new day of their ticker, of its last JUDGED_DAYS days."""
    if panel.frequency == "daily":
        first, end = np.maximum(panel.offsets[:-1], panel.offsets[1:] - JUDGED_DAYS), panel.offsets[1:]
        count = end - first
        return np.arange(count.sum()) + np.repeat(first - (np.cumsum(count) - count), count)
    day = panel.sessions.astype("datetime64[D]").astype(np.int32)[panel.session]
    begins = np.ones(len(day), dtype=bool)
    begins[1:] = day[1:] != day[:-1]
    begins[panel.offsets[:-1][np.diff(panel.offsets) > 0]] = True
    rows = np.flatnonzero(begins)
    owner = owner_of(panel.offsets, rows)
    left = np.bincount(owner, minlength=len(panel.tickers))
    from_end = np.cumsum(left)[owner] - np.arange(len(rows))
    return rows[from_end <= JUDGED_DAYS]


def _differences(
    panel: Panel, market: Market, owner: NDArray[np.int64], session: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far tickers' days are from a market's: share of days that only one of them has, and share of days
    when it is closed.

    owner, session (n,): one row per day of a ticker, in order; both (K,) as shares of the ticker's days, 0
    without any.
    """
    tickers = len(panel.tickers)
    rules = SessionRules.load(market.calendar)
    day = _local(panel, market.zone).astype("datetime64[D]")
    is_open = rules.is_open(day) | (day < rules.first) | (day > rules.last)
    number = rules.days_between(np.full(len(day), day[0]), day).astype(
        np.int32
    )  # open days up to each session
    days = np.maximum(np.bincount(owner, minlength=tickers), 1)
    closed = np.bincount(owner[~is_open[session]], minlength=tickers)
    own = number[session]
    left_out = np.maximum(np.diff(own) - 1, 0)  # open days between a row and the next
    left_out[owner[1:] != owner[:-1]] = 0
    missing = np.bincount(owner[1:], weights=left_out, minlength=tickers)
    return (closed + missing) / days, closed / days


# -- dates of the exchange -----------------------------------------------------------------------------------
def _local(panel: Panel, zone: str) -> NDArray[np.datetime64]:
    """(D,) the panel's times on a market's clocks, datetime64[s]: as written where the files name no zone."""
    return to_zone(panel.sessions, zone) if panel.has_zone else panel.sessions


def to_zone(moments: NDArray[np.datetime64], zone: str) -> NDArray[np.datetime64]:
    """UTC times as a zone's clocks show them, same shape, datetime64[s]."""
    utc = pl.Series(moments.astype("datetime64[ms]")).dt.replace_time_zone("UTC")
    return utc.dt.convert_time_zone(zone).dt.replace_time_zone(None).to_numpy().astype("datetime64[s]")


def localise(panel: Panel) -> None:
    """Exchange-local dates in place of what was read: whole days for daily and longer bars. Raises KitError
    where two bars of a market would have one time."""
    long_bars = panel.frequency in LONG_BARS
    tables = []
    for number, market in enumerate(panel.markets):
        local = _local(panel, market.zone)
        if panel.has_zone and not long_bars:
            _refuse_doubled_hour(panel, number, market, local)
        tables.append(local.astype("datetime64[D]").astype("datetime64[s]") if long_bars else local)
    if len(tables) == 1 and np.array_equal(tables[0], panel.sessions):
        return
    sessions, place = np.unique(np.concatenate(tables), return_inverse=True)
    places = place.reshape(len(tables), -1).astype(np.int32)
    if len(tables) == 1:
        panel.session = places[0][panel.session]
    else:
        panel.session = places[np.repeat(panel.market, np.diff(panel.offsets)), panel.session]
    panel.sessions = sessions
    used = np.zeros(len(sessions), dtype=bool)
    used[panel.session] = True
    if not used.all():
        panel.session = (np.cumsum(used, dtype=np.int32) - 1)[panel.session]
        panel.sessions = sessions[used]


def _refuse_doubled_hour(panel: Panel, number: int, market: Market, local: NDArray[np.datetime64]) -> None:
    """An hour that clocks show twice at the end of summer time would give two bars one time."""
    back = np.flatnonzero(local[1:] <= local[:-1]) + 1
    if not len(back):
        return
    rows = np.flatnonzero(np.isin(panel.session, back))
    if (panel.market[owner_of(panel.offsets, rows)] == number).any():
        raise KitError(
            f"{panel.name}: expected bars of {market.calendar}, whose clocks ({market.zone}) show each time once, found bars in "
            f"the hour that repeats, {local[back[0]]}; set data.calendar or data.timezone (24/7 and UTC for what never closes)"
        )


def _refuse_closed_days(panel: Panel) -> None:
    """Times with a zone that fall on many closed days of their market are those of another market."""
    weekend = ~np.is_busday(panel.sessions.astype("datetime64[D]"))
    if not weekend.any() or panel.frequency in ("weekly", "monthly"):
        return
    rows = np.flatnonzero(weekend[panel.session])
    owner = owner_of(panel.offsets, rows)
    counts = np.bincount(owner, minlength=len(panel.tickers))
    closed = np.array([market.calendar != ALWAYS_OPEN for market in panel.markets])[panel.market]
    bad = np.flatnonzero(closed & (counts > STRANGE * np.diff(panel.offsets)))
    if len(bad):
        k, market = int(bad[0]), panel.markets[panel.market[bad[0]]]
        date = str(panel.sessions[panel.session[rows[owner == k][0]]]).removesuffix("T00:00:00")
        raise KitError(
            f"{panel.name}: expected days of {market.calendar} in {market.zone}, found {len(bad):,} tickers with weekend bars, "
            f"e.g. {panel.tickers[k]} on {date}; set data.calendar (24/7: never closed), data.timezone (e.g. Asia/Tokyo) "
            "or data.markets"
        )
