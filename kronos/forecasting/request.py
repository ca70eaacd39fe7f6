"""What is asked of a forecaster: series of any lengths, one horizon; and how they are grouped into batches of
one length.

In: bars, stamps and keys as arrays or lists. Out: a checked `Request` and the rows of its batches. NumPy
only.

Letters: B series, L bars of a context, H horizon steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronos.bars import CLOSE, FEATURES, STAMP_FIELDS, FloatArray
from kronos.errors import KitError

Arrays = NDArray | Sequence[NDArray]
"""(B, L, n), or B arrays (L_i, n)."""


@dataclass(frozen=True)
class Request:
    """B series, free of missing and infinite values."""

    bars: list[NDArray]
    """B times (L_i, 6), oldest first, price units."""
    stamps: list[NDArray]
    """B times (L_i, 5)."""
    future_stamps: NDArray
    """(B, H, 5)"""
    series: NDArray[np.int64]
    """(B,) keys of the random numbers."""

    @classmethod
    def of(cls, bars: Arrays, stamps: Arrays, future_stamps: NDArray, series: NDArray[np.int64]) -> "Request":
        """Check and wrap. Raises KitError on shapes that do not belong together and on values that are not
        finite.
        """
        request = cls(list(bars), list(stamps), np.asarray(future_stamps), np.asarray(series))
        request._check()
        return request

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(B,) known bars of each series."""
        return np.array([len(b) for b in self.bars], dtype=np.int64)

    @property
    def horizon(self) -> int:
        """Bars to forecast."""
        return self.future_stamps.shape[1]

    @property
    def last_close(self) -> FloatArray:
        """(B,) float32"""
        return np.array([b[-1, CLOSE] for b in self.bars], dtype=np.float32)

    def take(
        self, rows: NDArray[np.int64], length: int
    ) -> tuple[NDArray, NDArray, NDArray, NDArray[np.int64]]:
        """The last `length` bars (b, length, 6) and stamps of some rows, their future stamps and keys."""
        bars, stamps = (np.stack([things[i][-length:] for i in rows]) for things in (self.bars, self.stamps))
        return bars, stamps, self.future_stamps[rows], self.series[rows]

    def _check(self) -> None:
        count, fields = len(self.bars), len(STAMP_FIELDS)
        futures = self.future_stamps.shape
        lengths = [len(b) for b in self.bars]
        sound = (
            count > 0
            and futures == (count, futures[1] if len(futures) > 1 else 0, fields)
            and futures[1] > 0
            and min(lengths) > 0
            and self.series.shape == (count,)
            and [b.shape for b in self.bars] == [(n, len(FEATURES)) for n in lengths]
            and [s.shape for s in self.stamps] == [(n, fields) for n in lengths]
        )
        if not sound:
            found = [
                f"{len(arrays)} x {sorted({a.shape for a in arrays})[:3]}"
                for arrays in (self.bars, self.stamps)
            ]
            raise KitError(
                "forecast: expected bars (B, L, 6) or B times (L, 6), stamps (B, L, 5) alike, future stamps (B, H, 5) and keys "
                f"(B,), none of them empty; found {', '.join(found)}, {futures} and {self.series.shape}"
            )
        for row, bars in enumerate(self.bars):
            if not np.isfinite(bars).all():
                raise KitError(f"forecast: series {row} holds a value that is missing or infinite")


def batches(lengths: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Rows (b,) of batches of at most `size` series of one length, shortest first, in the caller's order
    within a length.
    """
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        for first in range(0, len(rows), size):
            yield rows[first : first + size]
