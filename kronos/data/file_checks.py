"""Data checks of the files' form: columns, types, dates, repeated rows.

In: `Evidence`. Out: a `Finding` a check.
"""

import numpy as np

from kronos.bars import VOLUME
from kronos.data.calendar import ALWAYS_OPEN
from kronos.data.check_result import Evidence, Finding, example, panel_of, severity, share
from kronos.data.column_roles import ROLES, shown
from kronos.data.dates import FIRST_YEAR, LAST_YEAR
from kronos.data.row_places import followers
from kronos.data.survey import date_text

MANY_MISSING = 0.05
"""Share of the rows above which a person should look."""


def columns(evidence: Evidence) -> Finding:
    """Which columns there are; the required ones are checked while reading."""
    panel = panel_of(evidence)
    found = f"{', '.join(role for role in ROLES if role in panel.roles)}"
    if panel.ignored:
        found += f" (nothing reads {shown(panel.ignored)})"
    absent = [role for role in ("ticker", "volume") if role not in panel.roles]
    if not absent:
        return "ok", found, ""
    return (
        "warn",
        f"{found}; no {' and no '.join(absent)} column",
        "each file is taken as one ticker, missing volume as 0",
    )


def types(evidence: Evidence) -> Finding:
    """Every value is a number where one is expected; how many are missing or infinite."""
    panel = panel_of(evidence)
    missing = ~np.isfinite(panel.values[:, :4]).all(axis=1)
    no_volume = ~np.isfinite(panel.values[:, VOLUME]) if "volume" in panel.roles else np.zeros(1, bool)
    bad, rows = int(missing.sum()) + panel.missing_key, max(panel.read, 1)
    volumes = int(no_volume.sum())
    found = f"{share(bad, rows)} lack a ticker, a date or a finite price, {volumes:,} lack a volume"
    if not bad and not volumes:
        return "ok", found, ""
    return severity(
        bad, rows, MANY_MISSING, found, "such rows are left out (volume: set to 0); look where they come from"
    )


def dates(evidence: Evidence) -> Finding:
    """Range, order and trading days of the dates."""
    panel = panel_of(evidence)
    first, last = panel.sessions[0], panel.sessions[-1]
    found = f"{date_text(first)} to {date_text(last)}, {len(panel.sessions):,} dates, {panel.unsorted:,} rows out of order"
    year = panel.sessions.astype("datetime64[Y]").astype(int) + 1970
    if year[0] < FIRST_YEAR or year[-1] > LAST_YEAR:
        return "fail", found, f"expected years {FIRST_YEAR} to {LAST_YEAR}; correct the dates"
    closing = np.array([market.calendar != ALWAYS_OPEN for market in panel.markets])
    if closing.any():
        weekend = ~np.is_busday(panel.sessions.astype("datetime64[D]"))
        there = np.zeros(len(weekend), bool)
        there[panel.session[closing[panel.market].repeat(np.diff(panel.offsets))]] = True
        weekends = int((weekend & there).sum())
        if weekends:
            name = next(market.calendar for market in panel.markets if market.calendar != ALWAYS_OPEN)
            remedy = f"{name} is closed then; set data.calendar, or drop those rows"
            return "warn", f"{found}, {weekends:,} on a weekend", remedy
    return ("warn", found, "they are sorted") if panel.unsorted else ("ok", found, "")


def duplicates(evidence: Evidence) -> Finding:
    """Rows that repeat a ticker and a date, and whether they agree."""
    panel = panel_of(evidence)
    rows = followers(panel.offsets)
    rows = rows[panel.session[rows] == panel.session[rows - 1]]
    if not len(rows):
        return "ok", "every ticker and date once", ""
    a, b = panel.values[rows], panel.values[rows - 1]
    differ = ~((a == b) | (np.isnan(a) & np.isnan(b))).all(axis=1)
    found = f"{len(rows):,} rows repeat a ticker and a date, e.g. {example(panel, rows[np.argmax(differ)])}"
    if differ.any():
        return (
            "fail",
            f"{found}; {int(differ.sum()):,} with other numbers",
            "decide which are right (data.cleaning.duplicate)",
        )
    return "warn", found, "identical copies are dropped"
