"""Whose a row is, and which rows have one of the same ticker before them: one place for panels and stores.

In: `offsets` (K + 1,), where the rows of ticker k are offsets[k]:offsets[k + 1]. NumPy only.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def owner_of(offsets: NDArray[np.int64], rows: NDArray[np.integer]) -> NDArray[np.int64]:
    """The ticker of each row, (n,)."""
    return np.searchsorted(offsets, rows, side="right") - 1


def name_of(offsets: NDArray[np.int64], tickers: Sequence[str], row: int | np.integer) -> str:
    """The name of a row's ticker."""
    return tickers[int(np.searchsorted(offsets, row, side="right")) - 1]


def same_ticker(offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(N - 1,) whether each row but the first belongs to the ticker of the row before."""
    rows = int(offsets[-1])
    same = np.ones(max(rows - 1, 0), dtype=bool)
    begins = offsets[1:-1]
    same[begins[(begins > 0) & (begins < rows)] - 1] = False
    return same


def followers(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows whose ticker has a row before them, rising."""
    return np.flatnonzero(same_ticker(offsets)) + 1
