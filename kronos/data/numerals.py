"""Numbers as they are written in price files.

In: strings, or numbers of any width. Out: Float32, null where nothing is known, or one line naming file,
column and row. How a file writes numbers (`1,234.5`, `1.234,5`, `57.9K`) is looked for only where plain
reading failed, in all its number columns at once, and holds for the whole file.
"""

from collections.abc import Sequence
from typing import Literal

import polars as pl

from kronos.errors import KitError

LARGEST = 1e18
"""Prices and volumes up to this size keep their products inside float32."""
MISSING_WORDS = ("", "na", "n/a", "nan", "null", "none", "-", "--")
Marks = Literal["plain", "comma thousands", "comma decimals"]
"""What , and . mean: plain: no comma occurs; comma thousands: 1,234.5; comma decimals: 1.234,5."""

_SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12, "万": 1e4, "亿": 1e8}
_GROUPED = r"^[+-]?\d{1,3}(?:[ \u00a0\u202f']\d{3})+(?:[.,]\d+)?$"
_INDIAN = r"\d{1,2}(?:,\d{2})+,\d{3}"
"""12,34,567 is 1234567."""
_COMMA_THOUSANDS = (
    rf"^[+-]?\d{{1,3}}(?:,\d{{3}})+\.\d+$|^[+-]?\d{{1,3}}(?:,\d{{3}}){{2,}}$|^[+-]?{_INDIAN}(?:\.\d+)?$"
)
_COMMA_DECIMALS = (
    r"^[+-]?\d+,\d{1,2}$|^[+-]?\d+,\d{4,}$|^[+-]?0+,\d+$|^[+-]?\d{4,},\d+$"
    r"|^[+-]?\d{1,3}(?:\.\d{3})+,\d+$|^[+-]?\d{1,3}(?:\.\d{3}){2,}$"
)
_POINT_DECIMALS = r"^[+-]?\d+\.(?:\d{1,2}|\d{4,})$|^[+-]?0+\.\d+$|^[+-]?\d{4,}\.\d+$"
_ONE_COMMA = r"^[+-]?\d{1,3},\d{3}$"


def marks_of(path: object, columns: Sequence[pl.Series]) -> Marks:
    """What commas and points mean in a file, from the number columns of one of its pieces (strings).

    Raises KitError where the numbers contradict each other, or where `1,234` may be a thousand or a little
    more than one.
    """
    text = pl.concat([_bare(column).drop_nulls().alias("x") for column in columns])
    with_comma = text.filter(text.str.contains(",", literal=True))
    if not len(with_comma):
        return "plain"
    decimals = with_comma.filter(with_comma.str.contains(_COMMA_DECIMALS))
    thousands = with_comma.filter(with_comma.str.contains(_COMMA_THOUSANDS))
    points = text.filter(text.str.contains(_POINT_DECIMALS))
    if len(decimals) and (len(thousands) or len(points)):
        other = (thousands if len(thousands) else points)[0]
        raise KitError(
            f"{path}: expected one way to write numbers, found {shown_value(decimals[0])} and {shown_value(other)}; "
            "write all with a decimal point and without thousands separators"
        )
    if len(decimals):
        return "comma decimals"
    if len(thousands) or len(points):
        return "comma thousands"
    unclear = with_comma.filter(with_comma.str.contains(_ONE_COMMA))
    if len(unclear):
        raise KitError(
            f"{path}: is {shown_value(unclear[0])} a thousand and more, or one and a fraction? No other number tells; "
            "write numbers with a decimal point and without thousands separators"
        )
    return "plain"


def numbers_from_text(text: pl.Series, place: str, first_row: int, marks: Marks = "plain") -> pl.Series:
    """Strings to Float32, missing words to null. place: a message's start with {row}. Raises KitError at the
    first misfit.

    Read beside plain numbers: a currency sign before, K, M, B, 万, 亿 after, and thousands and decimals as
    `marks` says.
    """
    bare = _bare(text)
    wide = bare.cast(pl.Float64, strict=False)
    odd = bare.is_not_null() & (
        wide.is_null() | (bare.str.contains(".", literal=True) if marks == "comma decimals" else False)
    )
    if odd.any():
        wide = wide.zip_with(~odd, _written_otherwise(bare.zip_with(odd, _nothing()), marks))
    bad = bare.is_not_null() & wide.is_null()
    if bad.any():
        row = bad.arg_max() or 0
        hint = ""
        if any(word in text[row].lower() for word in ("dividend", "split")):
            hint = "; delete the lines of dividends and splits"
        elif place.endswith(f"column {text[row].strip()}"):
            hint = "; the line of names stands there again: delete it"
        raise KitError(
            f"{place.format(row=row + first_row)}: expected a number, found {shown_value(text[row])}{hint}"
        )
    if text.name != "split":
        refuse_huge(wide, text, place, first_row)
    return wide.cast(pl.Float32).alias(text.name)


def _bare(text: pl.Series) -> pl.Series:
    """The strings without blanks around them; null for the words that mean nothing."""
    stripped = text.str.strip_chars()
    present = stripped.is_not_null() & ~stripped.str.to_lowercase().is_in(MISSING_WORDS)
    return stripped.zip_with(present, _nothing())


def _nothing() -> pl.Series:
    return pl.Series([None], dtype=pl.String)


def _written_otherwise(text: pl.Series, marks: Marks) -> pl.Series:
    """Numbers with signs, suffixes and separators as Float64; null where they are not of that form."""
    body = text.str.replace(r"^([+-]?)\s*[$€£¥₹]\s*", "$1")
    suffix = body.str.extract(r"([kKmMbBtT万亿])$").str.to_lowercase()
    body = body.str.replace(r"\s*[kKmMbBtT万亿]$", "")
    grouped = body.str.contains(_GROUPED)
    body = body.zip_with(~grouped.fill_null(False), body.str.replace_all(r"[ \u00a0\u202f']", ""))
    if marks == "comma decimals":
        fits = body.str.contains(r"^[+-]?(?:\d+|\d{1,3}(?:\.\d{3})+)(?:,\d+)?$")
        body = body.str.replace_all(".", "", literal=True).str.replace_all(",", ".", literal=True)
    elif marks == "comma thousands":
        fits = body.str.contains(rf"^[+-]?(?:\d+|\d{{1,3}}(?:,\d{{3}})+|{_INDIAN})(?:\.\d*)?$|^[+-]?\.\d+$")
        body = body.str.replace_all(",", "", literal=True)
    else:
        fits = body.str.contains(r"^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$")
    values = body.cast(pl.Float64, strict=False).zip_with(
        fits.fill_null(False), pl.Series([None], dtype=pl.Float64)
    )
    return values * suffix.replace_strict(_SUFFIXES, default=1.0, return_dtype=pl.Float64)


def refuse_huge(wide: pl.Series, written: pl.Series, place: str, first_row: int) -> None:
    """Finite numbers above LARGEST stop; infinities written as such are values for the cleaning policy."""
    infinite_word = (
        written.str.to_lowercase().str.contains("inf") if written.dtype == pl.String else wide.is_infinite()
    )
    bad = (wide.abs() > LARGEST) & ~infinite_word & wide.is_not_nan()
    if bad.any():
        row = bad.arg_max() or 0
        found = shown_value(str(written[row]))
        raise KitError(
            f"{place.format(row=row + first_row)}: expected a number below {LARGEST:g}, found {found}"
        )


def largest_of(values: pl.Series) -> float:
    """Largest magnitude, infinity included; NaN and null do not count."""
    top, bottom = values.max(), values.min()
    return max(abs(float(v)) for v in (top, bottom) if v is not None) if top is not None else 0.0  # type: ignore[arg-type]


def shown_value(text: str) -> str:
    """A value for a message, quoted and shortened."""
    return repr(text if len(text) <= 40 else text[:37] + "...")
