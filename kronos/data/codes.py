"""A column of texts as small whole numbers and the distinct texts that they mean.

In: the strings of one piece of a file. Out: (n,) codes, -1 where nothing stands, and the distinct strings.
Dates of a file that is ordered by date, and tickers of one that is ordered by ticker, stand in runs: then only
the first row of each run is looked at, which takes a fifth of the time.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kronos.data.price_panel import narrow

LOOK_ROWS = 1_000
"""Rows at the start of a piece that show whether it stands in runs."""
FEWEST_IN_A_RUN = 4

Codes = tuple[NDArray[np.integer], pl.Series]


def encode(text: pl.Series) -> Codes:
    """(n,) codes and the distinct strings they mean, of one piece by itself."""
    if _stands_in_runs(text):
        return _encode_runs(text)
    return _encode_each(text)


def _encode_each(text: pl.Series) -> Codes:
    coded = text.cast(pl.Categorical).to_physical()
    if coded.null_count():
        codes, distinct = _encode_each(text.drop_nulls())
        full = np.full(len(text), -1, dtype=codes.dtype)
        full[text.is_not_null().to_numpy()] = codes
        return full, distinct
    physical = coded.to_numpy()
    # A row of each string; -1 where a string is of another piece.
    example = np.full(int(physical.max(initial=0)) + 1, -1, dtype=np.int32)
    example[physical] = np.arange(len(physical), dtype=np.int32)
    present = np.flatnonzero(example >= 0)
    table = np.empty_like(example)
    table[present] = np.arange(len(present))
    return narrow(table, len(present))[physical], text.gather(example[present])


def _stands_in_runs(text: pl.Series) -> bool:
    start = text.head(LOOK_ROWS)
    return len(start) >= FEWEST_IN_A_RUN * len(start.rle())


def _encode_runs(text: pl.Series) -> Codes:
    runs = text.rle().struct
    codes, distinct = _encode_each(runs.field("value"))
    return np.repeat(codes, runs.field("len").to_numpy()), distinct
