"""The log of what was submitted: one CSV file, one row a submission, beside what the backtest expected.

In: rows. Out: `ledger.csv`, replaced as a whole under a lock, so that a reader or a kill sees the old file or
the new one and two writers lose nothing. Columns that a person adds are kept. See docs/kaggle.md.
"""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kronos import files
from kronos.delivery.tables import table
from kronos.errors import KitError

COLUMNS = (
    "date",
    "competition",
    "file",
    "sha256",
    "run",
    "message",
    "ref",
    "status",
    "public",
    "private",
    "expected",
    "problem",
)
SHOWN = ("date", "file", "run", "public", "private", "expected", "status", "ref", "message")
OPEN = ("sending", "unclear", "pending")
"""States that the next look at Kaggle may end: being sent, perhaps sent, not scored yet."""
REFUSED = ("refused", "failed")
"""States in which Kaggle does not have the file."""
Row = dict[str, str]


class Ledger:
    """The rows of one file; a missing file has none."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def rows(self) -> list[Row]:
        """All rows in file order. Raises KitError when the file is not a ledger."""
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle, strict=True)
            try:
                missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
                if missing:
                    raise KitError(
                        f"{self.path}: expected a ledger with the column {missing[0]}, found none; name another file"
                    )
                return [{str(name): value or "" for name, value in row.items()} for row in reader]
            except csv.Error as error:
                raise KitError(
                    f"{self.path}: expected CSV, found {error} in line {reader.line_num}; mend it"
                ) from error
            except UnicodeDecodeError as error:
                raise KitError(
                    f'{self.path}: expected UTF-8, found {error}; save it as "CSV UTF-8" in the program that wrote it'
                ) from error

    @contextmanager
    def edit(self) -> Iterator[list[Row]]:
        """Yield the rows to change; they are written when the block ends without an error. One process at a
        time.
        """
        lock = self.path.parent / f".{self.path.name}.lock"
        with files.locked(lock, f"another process writes {self.path}: waiting for it"):
            rows = self.rows()
            before = _text(rows)
            yield rows
            if (after := _text(rows)) != before:
                files.write_text(self.path, after)

    def set(self, row: Row, **values: str) -> Row:
        """Change one row, found by its date and digest, and return it as it is now."""
        changed = row | values
        with self.edit() as rows:
            rows[:] = [current | values if same(current, row) else current for current in rows]
        return changed

    def table(self) -> str:
        """The ledger for people, oldest first."""
        rows = [{name: _cell(name, row[name]) for name in SHOWN} for row in self.rows()]
        return f"{self.path}\n{table(rows, SHOWN)}"


def same(one: Row, other: Row) -> bool:
    """Whether two rows stand for the same attempt to submit."""
    return (one["date"], one["sha256"]) == (other["date"], other["sha256"])


def _cell(name: str, value: str) -> str:
    return Path(value).name if name in ("file", "run") else " ".join(value.split())


def _text(rows: list[Row]) -> str:
    own = [name for row in rows for name in row if name not in COLUMNS]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *dict.fromkeys(own)], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
