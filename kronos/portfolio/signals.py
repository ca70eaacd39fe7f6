"""Signals: for every day and ticker a score that is known in the evening of that day.

In: a CSV (date, ticker, score, perhaps deal), or the predictions that a backtest left. Out: `Signal`, aligned
to a price table, and lines that say what did not fit. A score is dealt on a later day at the earliest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kronos.errors import KitError
from kronos.portfolio.prices import PriceTable

FloatArray = NDArray[np.float64]

FORMS = ("last", "mean", "max", "min", "median", "prob")
"""What can be read from a network's paths, each a column NAME.FORM of the predictions: returns from the last
known close to the paths' last, mean, highest and lowest close; the median of their last closes; P(rise)."""
NORMALISED = ".z"
"""Ending of a form in the original's units: standard deviations of the closes of the context."""


@dataclass(frozen=True, eq=False)
class Signal:
    """Scores of one kind for all days and tickers of a price table."""

    name: str
    score: FloatArray
    """(D, K) higher is better; NaN where a ticker has no score. Known after the day's close."""
    lines: list[str] = field(default_factory=list)
    """What was left out, and why, in words, without the name."""

    @property
    def days(self) -> NDArray[np.int64]:
        """Positions of the days that have any score."""
        return np.flatnonzero(np.isfinite(self.score).any(axis=1))


def read_signal_file(path: str | Path, prices: PriceTable) -> Signal:
    """A CSV with the columns date, ticker, score. Raises KitError when it is none, or when nothing of it fits
    the prices.
    """
    path = Path(path)
    if not path.is_file():
        raise KitError(
            f"--signal-file {path}: expected a CSV (date, ticker, score), found no file; correct the path"
        )
    try:
        table = pl.read_csv(path, schema_overrides={"ticker": pl.String}, try_parse_dates=True)
    except pl.exceptions.PolarsError as error:
        first = str(error).splitlines()[0]
        raise KitError(
            f"--signal-file {path}: expected a CSV with the columns date, ticker, score; {first}"
        ) from None
    missing = {"date", "ticker", "score"} - set(table.columns)
    if missing:
        raise KitError(
            f"--signal-file {path}: expected the columns date, ticker, score, found {', '.join(table.columns)}; rename them"
        )
    if not table["date"].dtype.is_temporal():
        raise KitError(
            f"--signal-file {path}: date: expected days such as 2024-01-31, found {table['date'][0]!r}"
        )
    if not table["score"].dtype.is_numeric():
        raise KitError(f"--signal-file {path}: score: expected numbers, found {table['score'].dtype}")
    return align(path.stem, table, prices, f"--signal-file {path}")


def read_predictions(path: Path, answer: str, signals: Sequence[str], prices: PriceTable) -> list[Signal]:
    """Columns of a backtest's predictions.parquet as signals.

    answer: one answerer, '' for all. signals: `FORMS`, with `NORMALISED` or without, of that answerer or of all
    that have them, or whole names of columns; none: the answers' own scores. Raises KitError.
    """
    if not path.is_file():
        raise KitError(
            f"{path}: expected the predictions of a backtest, found none; "
            "run scripts/run_backtest.py first, or give --signal-file"
        )
    try:
        table = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        first = str(error).splitlines()[0]
        raise KitError(
            f"{path}: expected the predictions of a backtest; {first}; run the backtest again"
        ) from None
    names = chosen_columns(table.columns, answer, signals, str(path))
    return [
        align(name, table.select("date", "ticker", pl.col(name).alias("score")), prices, f"{path}: {name}")
        for name in names
    ]


def chosen_columns(columns: Sequence[str], answer: str, signals: Sequence[str], where: str) -> list[str]:
    """The columns that an answer and signals mean (`read_predictions`). Raises KitError for what is not
    there.
    """
    there = [name for name in columns if name not in {"date", "ticker", "horizon"}]
    answers = [name for name in there if not _is_form(name, there)]
    if answer and answer not in answers:
        raise KitError(f"{where}: expected one of the answers {', '.join(answers)}, found --answer {answer}")
    owners = [answer] if answer else answers
    if not signals:
        return owners
    found = []
    for signal in signals:
        own = [f"{name}.{signal}" for name in owners if f"{name}.{signal}" in there]
        if not own and signal in there:
            own = [signal]
        if not own:
            forms: set[str] = set()
            for one in owners:
                forms.update(name.removeprefix(f"{one}.") for name in there if _of(name, one))
            known = ", ".join(sorted(forms) + there)
            raise KitError(
                f"{where}: expected one of the signals {known}, found --signal {signal}; choose one of them"
            )
        found += own
    return list(dict.fromkeys(found))


def _of(column: str, answer: str) -> bool:
    """Whether a column is a form of an answer."""
    form = column.removeprefix(f"{answer}.").removesuffix(NORMALISED)
    return column.startswith(f"{answer}.") and form in FORMS


def _is_form(column: str, columns: Sequence[str]) -> bool:
    """Whether a column is a form of any answer among the columns."""
    return any(_of(column, other) for other in columns)


def align(name: str, table: pl.DataFrame, prices: PriceTable, where: str) -> Signal:
    """Scores (date, ticker, score) laid on the days and tickers of a price table. where: the source, for
    messages.

    A column `deal`, where there is one, is the day on which a score is meant to be dealt: it is laid on the
    trading day before, and left out where it was not known by then.
    """
    column = _places(table["ticker"].cast(pl.String), prices.tickers, -1)
    score = table["score"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    dates = table["date"]
    late = 0
    if "deal" in table.columns:
        dates, score, late = _evening_before(table, score, prices, where)
    day = _places(dates.cast(pl.Datetime("ms")), prices.dates.astype("datetime64[ms]"), -1)
    lines = _left_out(prices, dates, column, day, score, late)
    kept = (day >= 0) & (column >= 0) & np.isfinite(score)
    if not kept.any():
        raise KitError(
            f"{where}: expected scores on days and of tickers that have prices, found none; "
            + "; ".join(lines)
        )
    found = np.full(prices.close.shape, np.nan)
    found[day[kept], column[kept]] = score[kept]
    if np.isfinite(found).sum() < kept.sum():
        key = day[kept] * len(prices.tickers) + column[kept]
        unique, count = np.unique(key, return_counts=True)
        twice = unique[count.argmax()]
        shown = f"{prices.tickers[twice % len(prices.tickers)]} on {day_text(prices.dates[twice // len(prices.tickers)])}"
        raise KitError(
            f"{where}: expected one score for each ticker and day, found {count.max()} of {shown}; keep one"
        )
    return Signal(name, found, lines)


def _places(values: pl.Series, known: Any, missing: int) -> NDArray[np.int64]:
    """(N,) position of each value among the `known` ones, `missing` where it is none of them."""
    table = pl.DataFrame({"value": pl.Series(known), "place": np.arange(len(known))})
    table = table.with_columns(pl.col("value").cast(values.dtype))
    found = pl.DataFrame({"value": values}).join(table, on="value", how="left", maintain_order="left")
    return found["place"].fill_null(missing).to_numpy()


def _evening_before(
    table: pl.DataFrame, score: FloatArray, prices: PriceTable, where: str
) -> tuple[pl.Series, FloatArray, int]:
    """(trading day before each deal, scores, how many were not known by then and are NaN)."""
    if not table["deal"].dtype.is_temporal():
        raise KitError(f"{where}: deal: expected days such as 2024-01-31, found {table['deal'][0]!r}")
    known, deal = (
        table[name].cast(pl.Datetime("ms")).to_numpy().astype("datetime64[s]") for name in ("date", "deal")
    )
    before = np.maximum(np.searchsorted(prices.dates, deal) - 1, 0)
    evening = prices.dates[before]
    late = (known > evening) | (known >= deal)
    return pl.Series(evening.astype("datetime64[ms]")), np.where(late, np.nan, score), int(late.sum())


def _left_out(
    prices: PriceTable,
    dates: pl.Series,
    column: NDArray[np.int64],
    day: NDArray[np.int64],
    score: FloatArray,
    late: int,
) -> list[str]:
    """One line for each kind of score that cannot be used. late: dated in the future of their deal."""
    last = prices.dates[-1].astype("datetime64[ms]").item()
    later = (dates.cast(pl.Datetime("ms")) > last).fill_null(False).to_numpy()
    counts = {
        f"are dated after the last price, {day_text(prices.dates[-1])}": later.sum(),
        "are dated in the future of their deal": late,
        "lie on days without any price": ((day < 0) & ~later).sum(),
        "are of tickers without prices": (column < 0).sum(),
        "are empty or no numbers": (~np.isfinite(score)).sum() - late,
    }
    return [f"{count:,} scores {what}: not used" for what, count in counts.items() if count]


def within_universe(signal: Signal, member: NDArray[np.bool_]) -> Signal:
    """The signal without the scores of tickers that are outside the universe on the day. member: (D, K)."""
    outside = np.isfinite(signal.score) & ~member
    if not outside.any():
        return signal
    kept = np.where(member, signal.score, np.nan)
    if not np.isfinite(kept).any():
        raise KitError(
            f"{signal.name}: expected a score inside the universe on some day, found none; widen the universe"
        )
    line = f"{outside.sum():,} scores lie outside the universe of their day: not used"
    return Signal(signal.name, kept, [*signal.lines, line])


def day_text(day: np.datetime64) -> str:
    """A day as people write it."""
    return str(day.astype("datetime64[D]"))
