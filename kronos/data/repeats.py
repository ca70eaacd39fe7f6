"""Rows that repeat a ticker and a date with other numbers: a few are dirt, many mean that a file was misread.

In: a panel, the share that is allowed (`data.cleaning.max_duplicates`). Out: nothing, or one line with the
likely cause: a column that tells the repeated rows apart. The files are looked at again only then.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kronos.data import blocks
from kronos.data.column_roles import Layout
from kronos.data.price_panel import Panel
from kronos.data.row_places import name_of, same_ticker
from kronos.errors import KitError

LOOK_ROWS = 200_000
"""Rows of a file that are searched for the cause."""


def contradicting(panel: Panel) -> NDArray[np.int64]:
    """Rows that have the ticker and date of the row before, and other numbers."""
    rows = np.flatnonzero(same_ticker(panel.offsets) & (panel.session[1:] == panel.session[:-1])) + 1
    if not len(rows):
        return rows
    a, b = panel.values[rows], panel.values[rows - 1]
    return rows[~((a == b) | (np.isnan(a) & np.isnan(b))).all(axis=1)]


def refuse(panel: Panel, allowed: float, opened: list[tuple[blocks.Source, Layout]]) -> None:
    """Raise KitError when more than a share `allowed` of the rows, and more than one, contradict the row
    before.
    """
    rows = contradicting(panel)
    if len(rows) <= max(
        allowed * len(panel.session), 1
    ):  # one row is no share: Yahoo repeats a day that is not over
        return
    ticker = name_of(panel.offsets, panel.tickers, rows[0])
    date = str(panel.sessions[panel.session[rows[0]]]).removesuffix("T00:00:00")
    found = f"{len(rows):,} of {len(panel.session):,} rows that repeat one with other numbers, e.g. {ticker} on {date}"
    raise KitError(f"{panel.name}: expected each ticker and date once, found {found}; {_cause(opened)}")


def _cause(opened: list[tuple[blocks.Source, Layout]]) -> str:
    """What to do, from the columns that nothing reads."""
    for source, layout in opened[:3]:
        frame = _unread_columns(source, layout)
        keys: list[str] = [name for name in ("ticker", "date", "time") if name in frame.columns]
        free = [name for name in frame.columns if name not in keys]
        for name in free:
            if _looks_like_times(frame[name]) and _tells_apart(frame, keys, name):
                return f"column {name[1:]!r} holds times of day: data.columns: {{time: {name[1:]}}}"
        likely = [name for name in free if _looks_like_names(frame[name]) and _tells_apart(frame, keys, name)]
        if likely:
            name = min(likely, key=lambda column: (frame[column].str.contains(r"^[\d.]+$").any(), column))
            return (
                f"column {name[1:]!r} ({frame[name].n_unique():,} values) tells them apart: "
                f"data.columns: {{ticker: {name[1:]}}}"
            )
    return (
        "is a column of tickers or times missing, or are these several files of one ticker? Name it in data.columns, or keep "
        "one row of each; data.cleaning.max_duplicates allows more"
    )


def _unread_columns(source: blocks.Source, layout: Layout) -> pl.DataFrame:
    """The start of a file as strings: ticker, date and time, and every unread column with a space before its
    name.
    """
    roles: dict[str, int] = {
        role: layout.roles[role] for role in ("ticker", "date", "time") if role in layout.roles
    }
    taken = set(layout.roles.values())
    for position, name in enumerate(layout.names):
        if position not in taken and name and f" {name}" not in roles:
            roles[f" {name}"] = position
    frame = next(source.frames(roles, numbers=()))[1].head(LOOK_ROWS)
    plain = [c for c, kind in frame.schema.items() if not kind.is_nested()]
    return frame.select(pl.col(plain).cast(pl.String))


def _looks_like_times(values: pl.Series) -> bool:
    present = values.drop_nulls().str.strip_chars()
    return bool(len(present)) and bool(
        present.str.contains(r"^\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( [AaPp][Mm])?$").all()
    )


def _looks_like_names(values: pl.Series) -> bool:
    """Text or whole numbers, few distinct ones."""
    present = values.drop_nulls()
    distinct = present.n_unique()
    if not len(present) or distinct < 2 or distinct > max(len(present) // 5, 2):
        return False
    return not present.str.contains(r"^[+-]?\d*\.\d+([eE][+-]?\d+)?$").any()


def _tells_apart(frame: pl.DataFrame, keys: list[str], name: str) -> bool:
    """Whether nearly every row is alone when the column counts, too."""
    with_it = frame.select([*keys, name]).n_unique()
    without = frame.select(keys).n_unique()
    return with_it > without and with_it > 0.99 * len(frame)
