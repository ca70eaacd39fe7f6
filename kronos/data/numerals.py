"""Numbers as they are written in price files.

In: strings, or numbers of any width. Out: Float32, null where nothing is known, or one line naming file, column and row.
"""

import polars as pl

from kronos.errors import KitError

LARGEST = 1e18
"""Prices and volumes up to this size keep their products inside float32."""
MISSING_WORDS = ("", "na", "n/a", "nan", "null", "none", "-")


def numbers_from_text(text: pl.Series, place: str, first_row: int) -> pl.Series:
    """Strings to Float32, missing words to null. place: a message's start with {row}. Raises KitError at the first misfit."""
    stripped = text.str.strip_chars()
    present = stripped.is_not_null() & ~stripped.str.to_lowercase().is_in(MISSING_WORDS)
    plain = stripped.zip_with(present, pl.Series([None], dtype=pl.String))
    wide = plain.cast(pl.Float64, strict=False)
    bad = present.fill_null(False) & wide.is_null()
    if bad.any():
        row = bad.arg_max() or 0
        hint = "; write numbers without thousands separators" if "," in text[row] else ""
        raise KitError(f"{place.format(row=row + first_row)}: expected a number, found {shown_value(text[row])}{hint}")
    if text.name != "split":
        refuse_huge(wide, text, place, first_row)
    return wide.cast(pl.Float32).alias(text.name)


def refuse_huge(wide: pl.Series, written: pl.Series, place: str, first_row: int) -> None:
    """Finite numbers above LARGEST stop; infinities written as such are values for the cleaning policy."""
    infinite_word = written.str.to_lowercase().str.contains("inf") if written.dtype == pl.String else wide.is_infinite()
    bad = (wide.abs() > LARGEST) & ~infinite_word & wide.is_not_nan()
    if bad.any():
        row = bad.arg_max() or 0
        found = shown_value(str(written[row]))
        raise KitError(f"{place.format(row=row + first_row)}: expected a number below {LARGEST:g}, found {found}")


def largest_of(values: pl.Series) -> float:
    """Largest magnitude, infinity included; NaN and null do not count."""
    top, bottom = values.max(), values.min()
    return max(abs(float(v)) for v in (top, bottom) if v is not None) if top is not None else 0.0  # type: ignore[arg-type]


def shown_value(text: str) -> str:
    """A value for a message, quoted and shortened."""
    return repr(text if len(text) <= 40 else text[:37] + "...")
