"""From a user's table to arrays: bars and stamps, checked row by row before anything is computed.

In: a DataFrame with open, high, low, close (volume and amount if there are any), stamps of its rows and of the bars to
come. Out: a `Known` series. Everything that cannot give a sound forecast is refused with its row and column.
Source: the interface of the published predictor; `kronos.bars` for what a missing volume or amount becomes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kronos.bars import FEATURES, FloatArray, amount_from
from kronos.errors import KitError

if TYPE_CHECKING:
    import pandas as pd

PRICES = FEATURES[:4]


@dataclass(frozen=True)
class Known:
    """One series as the forecaster takes it: L known bars and H stamps ahead."""

    bars: FloatArray
    """(L, 6) float32, price units, oldest first."""
    dates: NDArray[np.datetime64]
    """(L,) datetime64[s], exchange-local."""
    future: NDArray[np.datetime64]
    """(H,) datetime64[s]; empty where only the known bars are wanted."""
    amount_alone: bool = False
    """An amount came without a volume (see `bars_of`)."""


def read_series(
    df: "pd.DataFrame", x_timestamp: Any, y_timestamp: Any = (), *, drop_lone_amount: bool = False, name: str = "df"
) -> Known:
    """Check one series and turn it into arrays. Raises KitError naming the row and the column.

    df: L rows, oldest first, columns open, high, low, close, and volume and amount if known, in any order, among others.
    x_timestamp (L), y_timestamp (H): DatetimeIndex, Series, array or list of stamps, strictly increasing, y after x. A
    time zone is taken off: the networks know the exchange's wall time. drop_lone_amount: see `bars_of`.
    """
    bars, alone = bars_of(df, drop_lone_amount, name)
    known, future = _stamps(x_timestamp, f"{name}: x_timestamp"), _stamps(y_timestamp, f"{name}: y_timestamp")
    if len(known) != len(bars):
        raise KitError(f"{name}: expected one x_timestamp per row, found {len(known)} for {len(bars)} rows")
    if len(future):
        future = _same_clock(known, future, name)
        if future[0] <= known[-1]:
            raise KitError(f"{name}: expected every y_timestamp after the last x_timestamp {known[-1]}, found {future[0]}")
    return Known(bars, _wall_time(known), _wall_time(future), alone)


def bars_of(df: "pd.DataFrame", drop_lone_amount: bool, name: str) -> tuple[FloatArray, bool]:
    """(L, 6) float32 bars of a table, and whether an amount came without a volume.

    Neither volume nor amount: both are 0. Volume alone: amount = volume x mean price, both as the networks were trained. Amount
    alone: volume = amount / mean price, which undoes that rule; with `drop_lone_amount` both are 0, as the original has it.
    """
    if not hasattr(df, "columns"):
        raise KitError(f"{name}: expected a DataFrame, found {type(df).__name__}")
    if df.columns.duplicated().any():
        raise KitError(f"{name}: expected every column once, found {df.columns[df.columns.duplicated()][0]!r} twice")
    if missing := [column for column in PRICES if column not in df.columns]:
        raise KitError(f"{name}: expected the columns {', '.join(PRICES)}, found no {', '.join(missing)}; rename yours")
    if len(df) < 2:
        raise KitError(f"{name}: expected at least 2 rows of history, found {len(df)}")
    columns = {column: _numbers(df, column, name) for column in FEATURES if column in df.columns}
    prices = np.stack([columns[column] for column in PRICES], axis=-1)
    volume, amount = columns.get("volume"), columns.get("amount")
    alone = volume is None and amount is not None
    if volume is None:
        volume = np.zeros(len(df))
        if amount is not None and not drop_lone_amount:
            mean = prices.mean(axis=-1)
            volume = np.divide(amount, mean, out=volume, where=mean > 0)
        else:
            amount = volume
    elif amount is None:
        amount = amount_from(volume, prices)
    return np.concatenate([prices, volume[:, None], amount[:, None]], axis=-1).astype(np.float32), alone


def _numbers(df: "pd.DataFrame", column: str, name: str) -> NDArray[np.float64]:
    """A column as float64; refuses text, missing values, and what is infinite or too large for float32."""
    try:
        values = df[column].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise KitError(f"{name}: expected numbers in column {column}, found {error}") from error
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(values.astype(np.float32))
    if bad.any():
        row = int(bad.argmax())
        raise KitError(
            f"{name}: expected finite numbers, found {values[row]} in row {row} ({df.index[row]}), column {column}, and "
            f"{int(bad.sum())} such values in it; drop or fill these rows"
        )
    return values


# -- stamps ------------------------------------------------------------------------------------------------------------
def _stamps(stamps: Any, where: str) -> "pd.DatetimeIndex":
    """Strictly increasing stamps. Numbers are refused: pandas would take them for nanoseconds since 1970."""
    import pandas as pd

    if isinstance(stamps, (str, bytes)) or not (isinstance(stamps, Sequence) or hasattr(stamps, "__array__")):
        raise KitError(f"{where}: expected a DatetimeIndex, a Series or a list of stamps, found {type(stamps).__name__}")
    plain = pd.Index(list(stamps) if isinstance(stamps, Sequence) else stamps)
    if len(plain) and plain.inferred_type not in ("datetime64", "datetime", "date", "string"):
        raise KitError(f"{where}: expected dates, found {plain.inferred_type} values, e.g. {plain[0]!r} in row 0")
    try:
        index = pd.DatetimeIndex(plain)
    except (TypeError, ValueError) as error:
        raise KitError(f"{where}: expected dates of one time zone, found {' '.join(str(error).split())[:200]}") from error
    if index.hasnans:
        raise KitError(f"{where}: expected a date in every row, found none in row {int(np.argmax(index.isna()))}")
    order = np.diff(index.asi8)
    if (order <= 0).any():
        row = int(np.argmax(order <= 0)) + 1
        raise KitError(f"{where}: expected rising stamps, each once, found {index[row]} after {index[row - 1]} in row {row}")
    return index


def _same_clock(known: "pd.DatetimeIndex", future: "pd.DatetimeIndex", name: str) -> "pd.DatetimeIndex":
    """The future stamps in the time zone of the known ones."""
    if (known.tz is None) != (future.tz is None):
        zones = [str(index.tz or "none") for index in (known, future)]
        raise KitError(f"{name}: expected a time zone on both x_timestamp and y_timestamp or on neither, found {zones}")
    return future if known.tz is None else future.tz_convert(known.tz)


def _wall_time(index: "pd.DatetimeIndex") -> NDArray[np.datetime64]:
    return index.tz_localize(None).to_numpy().astype("datetime64[s]")
