"""Dates as they are written in price files: one form per data set, times as the exchange's clocks showed them.

In: strings. Out: datetimes without a zone. '1962-01-02 00:00:00-05:00' is midnight in New York and stays midnight: the
offset is dropped, never applied.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from kronos.errors import KitError

_OFFSET = re.compile(r"(?<=\d)\s*(Z|UTC|[+-]\d{2}:?\d{2})$")
_DAYS = {  # digits written as Y (four) or d (one or two)
    "Y-d-d": ["%Y-%m-%d"],
    "Y/d/d": ["%Y/%m/%d"],
    "Y.d.d": ["%Y.%m.%d"],
    "d/d/Y": ["%m/%d/%Y", "%d/%m/%Y"],
    "d-d-Y": ["%m-%d-%Y", "%d-%m-%Y"],
    "d.d.Y": ["%d.%m.%Y"],
    "n8": ["%Y%m%d"],
}
_TIMES = {"": "", "d:d": "%H:%M", "d:d:d": "%H:%M:%S", "d:d:d.f": "%H:%M:%S%.f"}


@dataclass(frozen=True)
class DateForm:
    """How dates are written: a strptime format, and whether an offset follows that is to be dropped."""

    format: str
    offset: bool
    example: str


def detect(path: Path, values: pl.Series) -> DateForm:
    """The form of a file's dates, from its first rows. Raises KitError when there is none, or when day and month are unclear."""
    values = values.drop_nulls().unique(maintain_order=True).str.strip_chars()
    values = values.filter(values != "")
    if not len(values):
        raise KitError(f"{path}: expected dates, found a date column without a single value")
    example = values[0]
    body, offset = _OFFSET.subn("", example)
    day, between, time = re.match(r"([^T\s]*)([T\s]?)(.*)", body, re.S).groups()  # type: ignore[union-attr]
    shape, clock = _shape(day), _shape(time)
    if shape not in _DAYS or clock not in _TIMES or bool(offset and not time):
        raise KitError(f"{path}: no parseable dates: expected YYYY-MM-DD (with or without a time), found {_short(example)}")
    forms = [DateForm(f"{d}{between}{_TIMES[clock]}", bool(offset), example) for d in _DAYS[shape]]
    fitting = [form for form in forms if parse(values, form)[1] is None] if len(forms) > 1 else forms
    if len(fitting) != 1:
        found = "both fit" if fitting else "neither fits"
        raise KitError(
            f"{path}: is {_short(example)} day or month first? {found} the first {len(values)} dates; write them as YYYY-MM-DD"
        )
    return fitting[0]


def parse(values: pl.Series, form: DateForm) -> tuple[pl.Series, int | None]:
    """Strings -> (Datetime in milliseconds, position of the first string of another form or None). Null stays null."""
    text = values.str.strip_chars()
    if form.offset:
        text = text.str.replace(r"\s*(Z|UTC|[+-]\d{2}:?\d{2})$", "")
        wrong_offset = text == values.str.strip_chars()
    else:
        wrong_offset = pl.repeat(False, len(values), eager=True)
    day_only = "%H" not in form.format
    dtype: type[pl.Date] | pl.Datetime = pl.Date if day_only else pl.Datetime("ms")
    parsed = text.str.strptime(dtype, form.format, strict=False).cast(pl.Datetime("ms"))
    bad = values.is_not_null() & (text != "") & (parsed.is_null() | wrong_offset)
    return parsed, bad.arg_max() if bad.any() else None


def _shape(text: str) -> str:
    text = re.sub(r"\.\d+$", ".f", text) if ":" in text else text
    text = re.sub(r"\d+", lambda m: {1: "d", 2: "d", 4: "Y", 8: "n8"}.get(len(m[0]), "?"), text)
    return text


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
