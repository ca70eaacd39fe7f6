"""Dates as they are written in price files: one form per data set.

In: strings. Out: `Parsed`: the time as written, and the moment it means where the text says so (an offset, or
seconds since 1970). Which day of which exchange that is, `kronos.data.zones` decides: nothing is cut off
here.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from kronos.errors import KitError

EPOCH = "epoch"
"""The format of a number of seconds, milli-, micro- or nanoseconds since 1970 (UTC); the size of each number
says which.
"""
_OFFSET_TEXT = r"\s*(?:Z|UTC|GMT|(?:UTC|GMT)?[+-]\d{2}:?\d{2})$"
_OFFSET = re.compile(rf"(?<=\d){_OFFSET_TEXT}")
_EPOCH_TEXT = r"^\d{9,10}(?:\.\d+)?$|^(?:\d{12,13}|\d{15,16}|\d{18,19})(?:\.0+)?$"
_CLOCK = re.compile(r"^(.*?\d\D?)(?:([T\s]\s*)(\d{1,2}:\d{2}.*|\d{4}|\d{6}))$", re.S)
_DAYS = {  # digits written as Y (four), d (one or two) or n (more); b: name of a month, a: of a weekday
    "Y-d-d": ["%Y-%m-%d"],
    "Y- d- d": ["%Y- %m- %d"],
    "Y/d/d": ["%Y/%m/%d"],
    "Y.d.d": ["%Y.%m.%d"],
    "Y年d月d日": ["%Y年%m月%d日"],
    "d/d/Y": ["%m/%d/%Y", "%d/%m/%Y"],
    "d-d-Y": ["%m-%d-%Y", "%d-%m-%Y"],
    "d.d.Y": ["%d.%m.%Y"],
    "n8": ["%Y%m%d"],
    "d-b-Y": ["%d-%B-%Y"],  # %B reads long and short names
    "d b Y": ["%d %B %Y"],
    "b d, Y": ["%B %d, %Y"],
    "a d b Y": ["%a %d %B %Y"],
    "a, d b Y": ["%a, %d %B %Y"],
    "Y-b-d": ["%Y-%B-%d"],
}
_TIMES = {
    "": "", "d:d": "%H:%M", "d:d:d": "%H:%M:%S", "d:d:d.f": "%H:%M:%S%.f", "Y": "%H%M", "n6": "%H%M%S",
    "d:d p": "%I:%M %p", "d:d:d p": "%I:%M:%S %p",
}  # fmt: skip
_WHOLE = {"n12": "%Y%m%d%H%M", "n14": "%Y%m%d%H%M%S", "n17": "%Y%m%d%H%M%S%3f"}
_LONG_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_MONTHS = {*_LONG_MONTHS, *(name[:3] for name in _LONG_MONTHS)}
_WEEKDAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
FIRST_YEAR, LAST_YEAR = 1900, 2100
_EARLIEST, _LATEST = 300_000_000, 4_200_000_000  # seconds: 1979 to 2103


@dataclass(frozen=True)
class DateForm:
    """How dates are written: a strptime format (or EPOCH), and whether an offset follows."""

    format: str
    offset: bool
    example: str

    @property
    def has_zone(self) -> bool:
        """Whether a date means a moment, wherever one stands."""
        return self.offset or self.format == EPOCH

    @property
    def has_time(self) -> bool:
        """Whether a date says more than the day."""
        return self.format == EPOCH or any(mark in self.format for mark in ("%H", "%I"))


@dataclass(frozen=True)
class Parsed:
    """n dates. Null stays null."""

    wall: pl.Series
    """Datetime in milliseconds, as written."""
    moment: pl.Series | None
    """Datetime in milliseconds, UTC; None where the form has no zone."""
    bad: int | None
    """Position of the first string of another form."""


def detect(path: Path, values: pl.Series) -> DateForm:
    """The form of a file's dates, from its first rows. Raises KitError when there is none, or when day and
    month are unclear.
    """
    values = values.drop_nulls().unique(maintain_order=True).str.strip_chars()
    values = values.filter(values != "")
    if not len(values):
        raise KitError(f"{path}: expected dates, found a date column without a single value")
    example = values[0]
    body, offset = _OFFSET.subn("", example)
    if offset and not any(DateForm(text, True, example).has_time for text in _formats(body)):
        body, offset = example, 0  # 03-01-2023 ends like an offset
    if not offset and values.str.contains(_EPOCH_TEXT).all():
        form = DateForm(EPOCH, False, example)
        if parse(values, form).bad is None:
            return form
    forms = [DateForm(text, bool(offset), example) for text in _formats(body)]
    if not forms:
        raise KitError(
            f"{path}: no parseable dates: expected YYYY-MM-DD (with or without a time), found {_short(example)}{_hint(example)}"
        )
    fitting = [form for form in forms if parse(values, form).bad is None] if len(forms) > 1 else forms
    if len(fitting) != 1:
        found = "both fit" if fitting else "neither fits"
        raise KitError(
            f"{path}: is {_short(example)} day or month first? {found} the first {len(values)} dates; write them as YYYY-MM-DD"
        )
    return fitting[0]


def _hint(example: str) -> str:
    """What to do about dates that programs write and that do not say what they mean."""
    if re.fullmatch(r"\d{5}(\.\d+)?", example):
        return "; if these are Excel's day numbers, format the column as a date and save the file again"
    if re.match(r"\d{3}[-/.]\d{1,2}[-/.]\d{1,2}$", example):
        return "; if these are years of the Republic of China, add 1911 to them"
    if re.match(r"\d{1,2}[-/. ](\d{1,2}|[A-Za-z]{3,9})[-/. ]\d{2}(\D|$)|\d{6}(\D|$)", example):
        return "; write years with four digits"
    if re.search(r"\d\s*[A-Za-z]{2,}(/[A-Za-z_]+)?$", example):
        return "; cut off the name of the zone where these are the exchange's times, else write an offset (+00:00)"
    return ""


def _formats(body: str) -> list[str]:
    """The strptime formats that a date without its offset may have; none where it is no date."""
    if whole := _WHOLE.get(_shape(body)):
        return [whole]
    found = None if _shape(body) in _DAYS else _CLOCK.match(body)
    day, between, time = found.groups() if found else (body, "", "")
    clock = _TIMES.get(_shape(time))
    if clock is None:
        return []
    return [f"{text}{between}{clock}" for text in _DAYS.get(_shape(day), [])]


def parse(values: pl.Series, form: DateForm) -> Parsed:
    """Strings of one form to times; `Parsed.bad` is the first one of another form."""
    text = values.str.strip_chars()
    present = values.is_not_null() & (text != "")
    if form.format == EPOCH:
        instant = _moments(text)
        wrong = present & instant.is_null()
        return Parsed(instant, instant, wrong.arg_max() if wrong.any() else None)
    body, wrong_offset = text, pl.repeat(False, len(values), eager=True)
    if form.offset:
        body = text.str.replace(_OFFSET_TEXT, "")
        wrong_offset = body == text
    dtype: type[pl.Date] | pl.Datetime = pl.Datetime("ms") if form.has_time else pl.Date
    wall = body.str.strptime(dtype, form.format, strict=False).cast(pl.Datetime("ms"))
    bad = present & (wall.is_null() | wrong_offset)
    moment = wall - _offsets(text) if form.offset else None
    return Parsed(wall, moment, bad.arg_max() if bad.any() else None)


def refuse_other_years(path: Path, parsed: Parsed, form: DateForm) -> None:
    """Raise KitError where no date is of a year from 1900 to 2100: then the years are counted from elsewhere.
    A stray one is the data checks' matter."""
    year = parsed.wall.dt.year().drop_nulls()
    if not len(year) or year.is_between(FIRST_YEAR, LAST_YEAR).any():
        return
    remedy = "write them as YYYY-MM-DD"
    if year[0] - 543 in range(FIRST_YEAR, LAST_YEAR):
        remedy = "if these are Buddhist years, take off 543"
    elif year[0] + 1911 in range(FIRST_YEAR, LAST_YEAR):
        remedy = "if these are years of the Republic of China, add 1911 to them"
    raise KitError(
        f"{path}: no parseable dates: expected years {FIRST_YEAR} to {LAST_YEAR}, found {year[0]} ({_short(form.example)}); "
        + remedy
    )


def _offsets(text: pl.Series) -> pl.Series:
    """What to take off a written time to have UTC, as durations."""
    hours = text.str.extract(r"([+-]\d{2}):?\d{2}$").cast(pl.Int64, strict=False).fill_null(0)
    minutes = text.str.extract(r"[+-]\d{2}:?(\d{2})$").cast(pl.Int64, strict=False).fill_null(0)
    sign = text.str.contains(r"-\d{2}:?\d{2}$").cast(pl.Int64) * -2 + 1
    return ((hours.abs() * 60 + minutes) * sign * 60_000).cast(pl.Duration("ms"))


def _moments(text: pl.Series) -> pl.Series:
    """Seconds to nanoseconds since 1970, by their size, as Datetime in milliseconds; null for anything
    else.
    """
    whole = text.str.extract(r"^(\d{9,19})(?:\.\d+)?$").cast(pl.Int64, strict=False)
    result: pl.Series = pl.repeat(None, len(text), dtype=pl.Int64, eager=True)
    for per_second in (1, 10**3, 10**6, 10**9):
        inside = (whole >= _EARLIEST * per_second) & (whole <= _LATEST * per_second)
        scaled = whole * 1000 if per_second == 1 else whole // (per_second // 1000)
        result = scaled.zip_with(inside.fill_null(False), result)
    return result.cast(pl.Datetime("ms"))


def joined(day: pl.Series, time: pl.Series) -> pl.Series:
    """Dates and times of day in two columns as one string; a date that has a time already stays as it is.

    Times of digits alone may have lost zeros at the front: 93000 is 09:30:00, 0 is midnight.
    """
    time = time.str.strip_chars()
    digits = time.str.contains(r"^\d{1,6}$").fill_null(False)
    width = 4 if time.str.contains(r"^.{0,4}$").fill_null(True).all() else 6
    time = time.zip_with(~digits, time.str.zfill(width))
    day = day.str.strip_chars()
    return day.zip_with(day.str.contains(r"\d:\d").fill_null(False), day + " " + time)


def _shape(text: str) -> str:
    text = re.sub(r"\.\d+$", ".f", text) if ":" in text else text
    text = re.sub(r"\s+([AaPp][Mm])$", " p", text) if ":" in text else text
    text = re.sub(r"[A-Za-z]{3,9}", _word, text)
    return re.sub(r"\d+", lambda m: {1: "d", 2: "d", 4: "Y"}.get(len(m[0]), f"n{len(m[0])}"), text)


def _word(found: re.Match[str]) -> str:
    word = found[0].lower()
    if word in _MONTHS:
        return "b"
    return "a" if word in _WEEKDAYS else found[0]


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
