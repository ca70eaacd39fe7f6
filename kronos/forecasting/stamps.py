"""Stamps of a user's table: from whatever holds them to rising dates of one clock.

In: a DatetimeIndex, a Series (pandas or polars), an array, a list, a table of one column, or the name of a
column; as dates or as text. Out: a DatetimeIndex. Text that can be read in two ways is refused: 03/06/2024 is
a day in March or in June.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kronos.data.calendar import TradingCalendar
from kronos.errors import KitError

if TYPE_CHECKING:
    import pandas as pd

_DATE = re.compile(r"\s*(\d{1,4})([-/.])(\d{1,2})\2(\d{1,4})(?!\d)")
"""The first three numbers of a date in digits."""


def read_stamps(stamps: Any, where: str) -> "pd.DatetimeIndex":
    """Strictly increasing stamps. Raises KitError naming `where` and the row.

    Numbers are refused: pandas would take them for nanoseconds since 1970.
    """
    import pandas as pd

    values = _values(stamps, where)
    plain = pd.Index(values)
    if len(plain) and plain.inferred_type not in ("datetime64", "datetime", "date", "string"):
        raise KitError(
            f"{where}: expected dates, found {plain.inferred_type} values, e.g. {plain[0]!r} in row 0"
        )
    as_text = plain.inferred_type == "string"
    index = _from_text([str(text) for text in plain], where) if as_text else _parsed(plain, {}, where)
    if index.hasnans:
        raise KitError(
            f"{where}: expected a date in every row, found none in row {int(np.argmax(index.isna()))}"
        )
    order = np.diff(index.asi8)
    if (order <= 0).any():
        row = int(np.argmax(order <= 0)) + 1
        raise KitError(
            f"{where}: expected rising stamps, each once, found {index[row]} after {index[row - 1]} in row {row}"
        )
    return index


def next_sessions(known: "pd.DatetimeIndex", count: int, calendar: str) -> "pd.DatetimeIndex":
    """The `count` sessions of an exchange after the last of the known stamps, on the same clock.

    The bar length is the commonest step between the known stamps, and intraday bars have the times of day
    that they had.
    """
    import pandas as pd

    wall = known.tz_localize(None).to_numpy().astype("datetime64[s]")
    steps, seen = np.unique(np.diff(wall), return_counts=True)
    commonest = steps[seen.argmax()]
    frequency = "intraday"
    if commonest >= np.timedelta64(5, "D"):
        frequency = "weekly"
    elif commonest >= np.timedelta64(1, "D"):
        frequency = "daily"
    ahead = TradingCalendar(np.unique(wall), calendar, frequency).future(wall[-1], count)
    return pd.DatetimeIndex(ahead).tz_localize(known.tz)


# -- what holds them -----------------------------------------------------------------------------------------
def _values(stamps: Any, where: str) -> Any:
    """Something that pandas makes an index of."""
    if hasattr(stamps, "columns"):
        stamps = _only_column(stamps, where)
    if isinstance(stamps, (str, bytes)) or not (isinstance(stamps, Sequence) or hasattr(stamps, "__array__")):
        raise KitError(
            f"{where}: expected a DatetimeIndex, a Series or a list of stamps, found {type(stamps).__name__}"
        )
    if type(stamps).__module__.startswith("polars"):
        return stamps.to_list()  # as an array, a polars column would lose its time zone
    return list(stamps) if isinstance(stamps, Sequence) else stamps


def _only_column(table: Any, where: str) -> Any:
    names = list(table.columns)
    if len(names) != 1:
        raise KitError(
            f"{where}: expected stamps, found a table of {len(names)} columns ({names[:3]}); give one of its columns"
        )
    return table[names[0]]


# -- text ----------------------------------------------------------------------------------------------------
def _from_text(texts: list[str], where: str) -> "pd.DatetimeIndex":
    """Dates as text: the year first, or day and month in an order that the texts themselves settle, or with
    named months.
    """
    import pandas as pd

    matches = [_DATE.match(text) for text in texts]
    if not all(matches):
        return _parsed(pd.Index(texts), {}, where)
    parts = [match.groups() for match in matches if match]
    if all(len(first) == 4 for first, *_ in parts):
        return _parsed(pd.Index(texts), {}, where)
    if not all(len(year) == 4 for *_, year in parts):
        raise KitError(
            f"{where}: expected dates with years of four digits, found {texts[0]!r}; write them as YYYY-MM-DD"
        )
    return _parsed(pd.Index(texts), {"dayfirst": _day_first(parts, texts, where)}, where)


def _day_first(parts: list[Any], texts: list[str], where: str) -> bool:
    """Whether the first number is the day. With dots it always is; else a number above 12 must say so."""
    if all(sign == "." for _, sign, *_ in parts):
        return True
    firsts, seconds = ([int(part[place]) for part in parts] for place in (0, 2))
    if (max(firsts) > 12) == (max(seconds) > 12):
        found = "of both orders" if max(firsts) > 12 else "which is a day in either of two months"
        raise KitError(
            f"{where}: expected dates that can be read in one way, found {texts[0]!r}, {found}; write them as YYYY-MM-DD, or "
            "give pd.to_datetime(..., dayfirst=True) or (..., dayfirst=False)"
        )
    return max(firsts) > 12


def _parsed(plain: "pd.Index", options: dict[str, bool], where: str) -> "pd.DatetimeIndex":
    import pandas as pd

    try:
        if options:
            return pd.DatetimeIndex(pd.to_datetime(plain, **options))  # type: ignore[call-overload]
        return pd.DatetimeIndex(plain)
    except (TypeError, ValueError) as error:
        raise KitError(
            f"{where}: expected dates of one time zone, found {' '.join(str(error).split())[:200]}"
        ) from error
