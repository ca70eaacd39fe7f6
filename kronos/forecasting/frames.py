"""From a user's table to arrays: bars and stamps, checked row by row before anything is computed.

In: a pandas or polars table with open, high, low, close (volume and amount if there are any), stamps of its
rows and of the bars to come. Out: a `Known` series. Everything that cannot give a sound forecast is refused
with its row and column.
Neither library is needed: polars tables are known by their methods.
Source: the interface of the published predictor; `kronos.bars` for what a missing volume or amount becomes.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kronos.bars import FEATURES, FloatArray, amount_from
from kronos.errors import KitError
from kronos.forecasting.stamps import next_sessions, read_stamps

if TYPE_CHECKING:
    import pandas as pd

PRICES = FEATURES[:4]
TICKERS = ("ticker", "symbol")
"""Columns that name the stock of a row, in any case of letters."""


@dataclass(frozen=True)
class Known:
    """One series as the forecaster takes it: L known bars and H stamps ahead."""

    bars: FloatArray
    """(L, 6) float32, price units, oldest first."""
    dates: NDArray[np.datetime64]
    """(L,) datetime64[s], exchange-local."""
    future: NDArray[np.datetime64]
    """(H,) datetime64[s]; empty where only the known bars are wanted."""
    given: "pd.DatetimeIndex"
    """(H,) the same as they were given: with their time zone."""
    amount_alone: bool = False
    """An amount came without a volume (see `bars_of`)."""


@dataclass(frozen=True)
class Ahead:
    """The bars to come, where no stamps of them are given."""

    count: int
    calendar: str
    """Whose sessions follow the last known bar."""


def read_series(
    df: Any, x_timestamp: Any, y_timestamp: Any = (), *, drop_lone_amount: bool = False, name: str = "df"
) -> Known:
    """Check one series and turn it into arrays. Raises KitError naming the row and the column.

    df: L rows, oldest first, columns open, high, low, close, and volume and amount if known, in any order,
    among others: a pandas table (columns of two levels, of one ticker, too) or a polars one. x_timestamp (L):
    see `stamps.read_stamps`; the name of a column of df; or None for df's own index. y_timestamp (H): the
    same, or `Ahead`. Strictly increasing, y after x. A time
    zone is taken off: the networks know the exchange's wall time. drop_lone_amount: see `bars_of`.
    """
    table = Table.of(df, name)
    bars, alone = bars_of(table, drop_lone_amount)
    known = read_stamps(table.stamps(x_timestamp), f"{name}: x_timestamp")
    if len(known) != len(bars):
        raise KitError(f"{name}: expected one x_timestamp per row, found {len(known)} for {len(bars)} rows")
    if isinstance(y_timestamp, Ahead):
        future = next_sessions(known, y_timestamp.count, y_timestamp.calendar)
    else:
        future = read_stamps(y_timestamp, f"{name}: y_timestamp")
    given = future
    if len(future):
        future = _same_clock(known, future, name)
        if future[0] <= known[-1]:
            raise KitError(
                f"{name}: expected every y_timestamp after the last x_timestamp {known[-1]}, found {future[0]}"
            )
    return Known(bars, _wall_time(known), _wall_time(future), given, alone)


# -- tables --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Table:
    """The columns of one series, whatever library holds them."""

    name: str
    """What messages call it."""
    columns: dict[str, Any]
    """pandas or polars columns, by name."""
    index: Any
    """Labels of the rows; None: numbers from 0."""

    @classmethod
    def of(cls, df: Any, name: str) -> "Table":
        """Raises KitError on what is no table, and on several tickers at once."""
        if not hasattr(df, "shape"):
            hint = "; collect() it first" if hasattr(df, "collect") else ""
            raise KitError(f"{name}: expected a DataFrame, found {type(df).__name__}{hint}")
        if hasattr(df, "get_columns"):
            table = cls(name, {column.name: column for column in df.get_columns()}, None)
        else:
            flat = _one_ticker(df, name)
            if flat.columns.duplicated().any():
                twice = flat.columns[flat.columns.duplicated()][0]
                raise KitError(f"{name}: expected every column once, found {twice!r} twice")
            table = cls(name, {str(column): flat[column] for column in flat.columns}, df.index)
        table._check_tickers()
        return table

    def column(self, name: str) -> Any:
        """The column of that name; else the one of that name in other letters ("Close"); else None."""
        if name in self.columns:
            return self.columns[name]
        alike = [other for other in self.columns if other.lower() == name]
        if len(alike) > 1:
            raise KitError(
                f"{self.name}: expected one column {name}, found {' and '.join(alike)}; rename one of them"
            )
        return self.columns[alike[0]] if alike else None

    def stamps(self, given: Any) -> Any:
        """The stamps of the rows: as given, the column that is named, or the index (None)."""
        if isinstance(given, str) and given in self.columns:
            return self.columns[given]
        if given is not None:
            return given
        if self.index is None:
            raise KitError(
                f"{self.name}: expected x_timestamp, found none, and a table without an index; name its column"
            )
        return self.index

    def row(self, number: int) -> str:
        """What a row is called: its number, and its label where there is one."""
        return f"row {number}" if self.index is None else f"row {number} ({self.index[number]})"

    def _check_tickers(self) -> None:
        for name, column in self.columns.items():
            if name.lower() in TICKERS and len(found := sorted(map(str, set(column.to_list())))) > 1:
                raise _several(
                    self.name,
                    found,
                    f"give a list of tables, one per ticker, e.g. the rows where {name} is {found[0]!r}",
                )


def _one_ticker(df: Any, name: str) -> Any:
    """A pandas table without the level of its columns that names the ticker (yfinance writes two levels)."""
    levels = df.columns.nlevels
    if levels == 1:
        return df
    names = [{str(label).lower() for label in df.columns.get_level_values(level)} for level in range(levels)]
    holding = [level for level in range(levels) if set(PRICES) <= names[level]]
    if levels != 2 or len(holding) != 1:
        raise KitError(
            f"{name}: expected columns of one level, or of two (a price and a ticker), found {levels} levels"
        )
    tickers = list(dict.fromkeys(map(str, df.columns.get_level_values(1 - holding[0]))))
    if len(tickers) > 1:
        raise _several(
            name,
            tickers,
            f"pick one with df.xs({tickers[0]!r}, axis=1, level={1 - holding[0]}), or give a list of tables",
        )
    return df.droplevel(1 - holding[0], axis=1)


def _several(name: str, tickers: list[str], remedy: str) -> KitError:
    shown = ", ".join(tickers[:3]) + (", ..." if len(tickers) > 3 else "")
    return KitError(f"{name}: expected one ticker, found {len(tickers)} ({shown}); {remedy}")


def bars_of(table: Table, drop_lone_amount: bool) -> tuple[FloatArray, bool]:
    """(L, 6) float32 bars of a table, and whether an amount came without a volume.

    Neither volume nor amount: both are 0. Volume alone: amount = volume x mean price, both as the networks
    were trained. Amount
    alone: volume = amount / mean price, which undoes that rule; with `drop_lone_amount` both are 0, as the
    original has it.
    """
    found = {name: table.column(name) for name in FEATURES}
    if missing := [name for name in PRICES if found[name] is None]:
        raise KitError(
            f"{table.name}: expected the columns {', '.join(PRICES)}, found no {', '.join(missing)}; rename yours"
        )
    length = len(found[PRICES[0]])
    if length < 2:
        raise KitError(f"{table.name}: expected at least 2 rows of history, found {length}")
    columns = {name: _numbers(table, name, column) for name, column in found.items() if column is not None}
    prices = np.stack([columns[name] for name in PRICES], axis=-1)
    volume, amount = columns.get("volume"), columns.get("amount")
    alone = volume is None and amount is not None
    if alone and drop_lone_amount:
        amount = None
    return completed(prices, volume, amount), alone


def completed(prices: NDArray, volume: NDArray | None, amount: NDArray | None) -> FloatArray:
    """(L, 6) float32 bars of prices (L, 4), volume (L,) and amount (L,), where a missing one is made of the
    other as `bars_of` says.
    """
    if volume is None:
        volume = np.zeros(len(prices))
        if amount is None:
            amount = volume
        else:
            mean = prices.mean(axis=-1)
            volume = np.divide(amount, mean, out=volume, where=mean > 0)
    elif amount is None:
        amount = amount_from(volume, prices)
    return np.concatenate([prices, volume[:, None], amount[:, None]], axis=-1).astype(np.float32)


def _numbers(table: Table, name: str, column: Any) -> NDArray[np.float64]:
    """A column as float64; refuses text, missing values, and what is infinite or too large for float32."""
    try:
        values = _as_floats(column)
    except (TypeError, ValueError) as error:
        raise KitError(f"{table.name}: expected numbers in column {name}, found {error}") from error
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(values.astype(np.float32))
    if bad.any():
        row = int(bad.argmax())
        raise KitError(
            f"{table.name}: expected finite numbers, found {values[row]} in {table.row(row)}, column {name}, and "
            f"{int(bad.sum())} such values in it; drop or fill these rows"
        )
    return values


def _as_floats(column: Any) -> NDArray[np.float64]:
    """pandas columns of every kind (nullable, of pyarrow), and polars ones; a missing value is NaN."""
    if not type(column).__module__.startswith("polars"):
        return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
    if not (column.dtype.is_numeric() or column.dtype.is_decimal()):
        raise TypeError(f"the type {column.dtype}")
    return np.array(column.to_list(), dtype=np.float64)  # a missing value is None, which becomes NaN


# -- clocks --------------------------------------------------------------------------------------------------
def _same_clock(known: "pd.DatetimeIndex", future: "pd.DatetimeIndex", name: str) -> "pd.DatetimeIndex":
    """The future stamps in the time zone of the known ones."""
    if (known.tz is None) != (future.tz is None):
        zones = [str(index.tz or "none") for index in (known, future)]
        raise KitError(
            f"{name}: expected a time zone on both x_timestamp and y_timestamp or on neither, found {zones}"
        )
    return future if known.tz is None else future.tz_convert(known.tz)


def _wall_time(index: "pd.DatetimeIndex") -> NDArray[np.datetime64]:
    return index.tz_localize(None).to_numpy().astype("datetime64[s]")
