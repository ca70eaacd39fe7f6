"""How a CSV file is written, found out only where it is not the plain form.

In: the start of a file whose header the plain reading could not use. Out: a `Form` (encoding, separator,
lines before the rows) and the `Layout` of its columns; or None, and the first error stands. The plain form is
UTF-8 with commas and one line of names. Nothing here runs for a plain file, and nothing is guessed: a form
counts only where its column names are known, or where numbers without names can only be the bars of one
order.
"""

import csv
import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kronos.data.column_roles import PRICES, ROLES, Layout, layout_of, plain, shown
from kronos.errors import KitError

log = logging.getLogger(__name__)

HEAD_BYTES = 1 << 18
TITLE_LINES = 20
"""Lines before the names that may be a title, or terms of use."""
KNOWN = frozenset(name for tiers in ROLES.values() for tier in tiers for name in tier)
FEWEST_KNOWN = 3
"""So many known names make a line one of names, even if others are missing."""
SEPARATORS = (",", ";", "\t", "|")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
_DATE = re.compile(
    r"\d{1,2}/\d{1,2}/\d{4}( .*)?|\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?|\d{8}( \d{4,6})?"
    r"|\d{9,10}(\.\d+)?|\d{12,13}|\d{15,16}|\d{18,19}"
)
_TIME = re.compile(r"\d{1,2}:\d{2}(:\d{2})?")


@dataclass(frozen=True)
class Form:
    """How a CSV file is written."""

    encoding: str = "utf-8"
    separator: str = ","
    skipped: int = 1
    """Lines before the first row."""


PLAIN = Form()


def diagnose(path: Path, head: bytes, columns: Mapping[str, str | int]) -> tuple[Form, Layout] | None:
    """The form in which the start of a file makes sense; None where there is none. columns: `data.columns`.

    Raises KitError where the names are known well enough to say what is missing among them.
    """
    first: list[str] = []
    nearly: dict[int, KitError] = {}
    is_strange = False
    for encoding in _encodings(head):
        text = head.decode(encoding, errors="ignore")
        lines = text.removeprefix("\ufeff").splitlines()[: TITLE_LINES + 200]
        for separator in SEPARATORS:
            rows = [_fields(line, separator) for line in lines]
            first = max(first, rows[0] if rows else [], key=len)
            found = (
                _three_headers(path, rows)
                or _with_names(path, rows, columns, nearly)
                or _without_names(path, rows, columns)
            )
            if found is None:
                continue
            form, layout = Form(encoding, separator, found[0]), found[1]
            if _is_sure(encoding, layout):
                return form, layout
            # A comma and one line of names: the plain reading has said which byte of which line is none of UTF-8.
            is_strange = is_strange or (separator, form.skipped) != (PLAIN.separator, PLAIN.skipped)
    if is_strange:
        raise KitError(
            f"{path}: expected UTF-8 text, found another encoding, and no name that tells which; save the file as UTF-8"
        )
    if sum(bool(_NUMBER.fullmatch(value.strip())) for value in first) >= len(PRICES):
        raise KitError(
            f"{path}: expected a line of column names, found {shown(first)}; add one, or say which column is which by its "
            "number: data.columns: {date: 1, open: N, high: N, low: N, close: N, volume: N}"
        )
    if nearly:
        raise nearly[max(nearly)]
    return None


def with_ticks(path: Path, head: bytes, form: Form, layout: Layout, ticks: int) -> Layout:
    """The layout with the ticks as volume, where the volume of the file's start is 0 in every row.

    MetaTrader writes both, and knows no volume of currencies.
    """
    lines = head.decode(form.encoding, errors="ignore").splitlines()[form.skipped : -1]
    rows = [_fields(line, form.separator) for line in lines]
    place = layout.roles["volume"]
    values = [row[place].strip() for row in rows if len(row) > place]
    if not values or any(value.strip("0.,") for value in values):
        return layout
    log.info(
        "%s: %s is 0 in the first %d rows: %s is read as the volume",
        path.name,
        layout.names[place],
        len(values),
        layout.names[ticks],
    )
    return replace(layout, roles=layout.roles | {"volume": ticks})


def _encodings(head: bytes) -> Iterator[str]:
    """Encodings that the bytes allow, likeliest first."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        yield "utf-16"
        return
    pairs = head[: len(head) // 2 * 2]
    zeros = (pairs[0::2].count(0), pairs[1::2].count(0))
    if max(zeros) > len(pairs) // 8 and min(zeros) == 0:
        yield "utf-16-be" if zeros[0] else "utf-16-le"
        return
    try:
        head[:-4].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 8:
            yield "gb18030"
            yield "cp1252"
            return
    yield "utf-8-sig"


def _is_sure(encoding: str, layout: Layout) -> bool:
    """Nearly every byte sequence is GB 18030, or Windows' Western European; it is that for sure where column
    names that we know come out.
    """
    if encoding not in ("gb18030", "cp1252"):
        return True
    return any(not layout.names[position].isascii() for position in layout.roles.values())


def _fields(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(line), delimiter=separator), [])
    except csv.Error:
        return []


# -- names below a title -------------------------------------------------------------------------------------
def _with_names(
    path: Path,
    rows: Sequence[list[str]],
    columns: Mapping[str, str | int],
    nearly: dict[int, KitError],
) -> tuple[int, Layout] | None:
    """The first line whose names make a layout, when the lines before it have fewer fields.

    nearly {known names: error}, in place: why lines make none that have some of the names.
    """
    for number, names in enumerate(rows[: TITLE_LINES + 1]):
        printable = all(name.isprintable() for name in names)
        if not printable or len(names) < len(PRICES) or any(len(row) >= len(names) for row in rows[:number]):
            continue
        try:
            return number + 1, layout_of(path, [name.strip() for name in names], columns)
        except KitError as error:
            known = sum(plain(name) in KNOWN for name in names)
            if known >= FEWEST_KNOWN:
                nearly.setdefault(known, error)
    return None


# -- yfinance ------------------------------------------------------------------------------------------------
def _three_headers(path: Path, rows: Sequence[list[str]]) -> tuple[int, Layout] | None:
    """Prices, tickers and 'Date' in three lines of names, for one ticker or several (yfinance's download)."""
    if (
        len(rows) < 4
        or not rows[2]
        or rows[2][0].strip().lower() not in ("date", "datetime")
        or any(rows[2][1:])
    ):
        return None
    top, second = rows[0], rows[1]
    if len({len(row) for row in (*rows[:3], rows[3])}) != 1:
        return None
    if second[0].strip().lower() == "ticker":
        fields, tickers = top, second
    elif top[0].strip().lower() == "ticker":
        fields, tickers = second, top
    else:
        return None
    groups: dict[str, dict[str, int]] = {}
    for position in range(1, len(fields)):
        groups.setdefault(tickers[position].strip(), {"date": 0}).update(_role_at(fields[position], position))
    names = ("Date", *(f"{tickers[p].strip()} {fields[p].strip()}" for p in range(1, len(fields))))
    complete = [roles for roles in groups.values() if all(price in roles for price in PRICES)]
    if not all(groups) or len(complete) != len(groups):
        return None
    return 3, Layout(names, complete[0], groups=tuple(groups.items()))


def _role_at(name: str, position: int) -> dict[str, int]:
    role = next((role for role in (*PRICES, "volume") if plain(name) in ROLES[role][0]), None)
    return {role: position} if role else {}


# -- no names ------------------------------------------------------------------------------------------------
def _without_names(
    path: Path, rows: Sequence[list[str]], columns: Mapping[str, str | int]
) -> tuple[int, Layout] | None:
    """Rows that begin at once: [ticker,] date [, time], open, high, low, close [, volume]. The columns are
    called 1, 2, 3 ...

    Certain only where in every row of the start the second price is the highest and the third the lowest of
    four.
    """
    rows = [row for row in rows[:-1] if row] if len(rows) > 1 else list(rows)
    if not rows or len({len(row) for row in rows}) != 1 or len(rows[0]) < 5:
        return None
    first = [value.strip() for value in rows[0]]
    if sum(bool(_NUMBER.fullmatch(value)) for value in first) < len(PRICES):
        return None
    names = [str(position + 1) for position in range(len(first))]
    if columns:
        return 0, layout_of(path, names, columns)
    date = next((position for position in range(2) if _DATE.fullmatch(first[position])), None)
    if date is None:
        return None
    roles = {"date": date} if date == 0 else {"ticker": 0, "date": 1}
    begin = date + 1
    if _TIME.fullmatch(first[begin]):
        roles["time"] = begin
        begin += 1
    if not _are_bars(rows, begin):
        return None
    roles |= {role: begin + place for place, role in enumerate(PRICES)}
    if begin + 4 < len(first) and _NUMBER.fullmatch(first[begin + 4]):
        roles["volume"] = begin + 4
    if len(first) == 12 and date == 0 and first[6].isdigit() and len(first[6]) == len(first[0]):
        roles["amount"] = 7  # Binance's archive: open time, bar, volume, close time, quote volume, ...
    return 0, Layout(tuple(names), roles)


def _are_bars(rows: Sequence[list[str]], begin: int) -> bool:
    """Whether four columns can only be open, high, low, close."""
    moved = False
    for row in rows:
        text = [value.strip() for value in row[begin : begin + 4]]
        if len(text) < 4 or not all(_NUMBER.fullmatch(value) for value in text):
            return False
        opened, high, low, close = map(float, text)
        if not low <= min(opened, close) <= max(opened, close) <= high:
            return False
        moved = moved or low < min(opened, close) or high > max(opened, close)
    return moved
