"""What a person should know before a long run: at most ten lines, from the counts that a store already has.

In: an open store, the configuration. Out: `CheckResult`s, like those of the full checks
(`kronos.data.data_checks`), without reading
a price file: under two seconds whatever the number of rows.
"""

import numpy as np

from kronos.config import Config
from kronos.data import competition
from kronos.data.calendar import ALWAYS_OPEN, TradingCalendar
from kronos.data.check_result import CheckResult
from kronos.data.column_roles import shown
from kronos.data.row_places import owner_of
from kronos.data.store import BarStore
from kronos.data.survey import date_text
from kronos.errors import KitError

MANY_DROPPED = 0.01
"""Share of dropped rows above which a person should look."""
MANY_WITHOUT = 0.5
"""Share of tickers without a window above which a person should look."""


def quick_checks(store: BarStore, config: Config) -> list[CheckResult]:
    """The quick checks of a prepared store, at most ten lines. Raises KitError when the test file cannot be
    read.
    """
    results = [_rows(store), _windows(store, config), _dates(store, config), _markets(store, config)]
    results += _columns(store)
    if config.data.test_path:
        results += _test_file(store, config)
    return results


def refuse_warnings(results: list[CheckResult]) -> None:
    """`--strict`: raise KitError naming every check that is not ok."""
    bad = [result.line for result in results if result.status in ("warn", "fail")]
    if bad:
        raise KitError(f"--strict: expected no warning, found {len(bad)}: {'; '.join(bad)}")


def _rows(store: BarStore) -> CheckResult:
    rows = store.manifest["rows"]
    dropped = rows.get("dropped", 0)
    share = dropped / max(rows["read"], 1)
    found = f"{rows['read']:,} read, {dropped:,} dropped ({share:.2%})"
    if share <= MANY_DROPPED:
        return CheckResult("rows", "ok", found)
    return CheckResult("rows", "warn", found, "look at the table of prepare_data, by reason")


def _windows(store: BarStore, config: Config) -> CheckResult:
    fits = store.segments[:, 1] - store.segments[:, 0] >= config.window
    owner = owner_of(store.offsets, store.segments[fits, 0])
    without = len(store.tickers) - len(np.unique(owner))
    found = f"{len(store.tickers):,}, of which {without:,} hold no window of {config.window} bars"
    if without <= MANY_WITHOUT * len(store.tickers):
        return CheckResult("tickers", "ok", found)
    return CheckResult("tickers", "warn", found, "shorten data.lookback_window or loosen data.cleaning")


def _dates(store: BarStore, config: Config) -> CheckResult:
    found = f"{len(store.sessions):,} {store.frequency} dates, {date_text(store.sessions[0])} to {date_text(store.sessions[-1])}"
    closed = [c for c in store.calendars(config.data.calendar) if c != ALWAYS_OPEN]
    weekend = 0
    if (
        closed
        and len(closed) == len(store.calendars(config.data.calendar))
        and store.frequency not in ("weekly", "monthly")
    ):
        weekend = int((~np.is_busday(store.sessions.astype("datetime64[D]"))).sum())
    if not weekend:
        return CheckResult("dates", "ok", found)
    remedy = f"{closed[0]} is closed then; set data.calendar, data.timezone or data.markets"
    return CheckResult("dates", "warn", f"{found}, {weekend:,} on a weekend", remedy)


def _markets(store: BarStore, config: Config) -> CheckResult:
    known = store.manifest.get("markets", [])
    found = ", ".join(
        f"{m['calendar']} ({m['tickers']:,} tickers, {m['sessions']:,} sessions)" for m in known
    )
    if not found or known[0]["calendar"] == config.data.calendar:
        return CheckResult("markets", "ok", found or config.data.calendar)
    return CheckResult(
        "markets", "warn", found, f"data.calendar is {config.data.calendar}; set it to what the bars follow"
    )


def _columns(store: BarStore) -> list[CheckResult]:
    columns = store.manifest.get("columns")
    if columns is None:
        return []
    found = f"read {', '.join(columns['read'])}"
    if columns["ignored"]:
        found += f"; not read: {shown(columns['ignored'])}"
    if "volume" in columns["read"]:
        return [CheckResult("columns", "ok", found)]
    return [CheckResult("columns", "warn", f"{found}; no volume", "data.columns: {volume: NAME} names it")]


def _test_file(store: BarStore, config: Config) -> list[CheckResult]:
    test = competition.read_test(config.data.test_path, config.data)
    unknown = [
        name
        for name, place in zip(test["ID"], store.index_of(test["ID"].to_list()).tolist(), strict=True)
        if place < 0
    ]
    found = f"{len(test):,} IDs, {len(unknown):,} without a history"
    ids = CheckResult("test IDs", "ok", found)
    if unknown:
        ids = CheckResult(
            "test IDs", "warn", f"{found}, e.g. {unknown[0]}", "they get the base rate's answer"
        )
    asked = test["Date"].to_numpy().astype("datetime64[s]")
    steps = []
    for number, name in enumerate(store.calendars(config.data.calendar)):
        sessions = store.sessions_of(number)
        calendar = TradingCalendar(sessions, name, store.frequency)
        ahead = calendar.steps_between(np.repeat(sessions[-1], 2), np.array([asked.min(), asked.max()]))
        steps.append(f"{ahead[0]}" if ahead[0] == ahead[1] else f"{ahead[0]} to {ahead[1]}")
    found = f"{' / '.join(steps)} bars after the last one, {date_text(store.sessions[-1])}, to {date_text(asked.max())}"
    if asked.min() > store.sessions[-1]:
        return [ids, CheckResult("horizon", "ok", found)]
    return [
        ids,
        CheckResult("horizon", "warn", found, "the price file reaches the dates that are asked about"),
    ]
