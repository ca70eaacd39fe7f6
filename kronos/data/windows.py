"""Training windows: lookback + predict consecutive bars of one ticker, and their statistics from the lookback
alone.

In: a `BarStore` and a `Part`. Out: `WindowIndex`, which numbers the windows without listing them (its memory
grows with the segments, not with the rows), and `WindowReader`, which reads a batch of them with array
operations. NumPy only.
Source: Kronos paper (arXiv 2508.02739), section 3 and appendix on data; docs/architecture.md, "Order of
windows".
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from kronos import bars
from kronos.bars import EpsilonKind
from kronos.data.row_places import owner_of
from kronos.data.splits import Part
from kronos.data.store import BarStore
from kronos.errors import KitError

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class LeftOut:
    """Why segments and tickers of a store give no window to a part; counts."""

    segments: int
    """Segments in the store."""
    short_segments: int
    """Shorter than one window."""
    outside_segments: int
    """Long enough, but no window of theirs lies in the part."""
    tickers: int
    """Tickers in the store."""
    empty_tickers: int
    """Tickers without a window."""


@dataclass(frozen=True, eq=False)
class WindowIndex:
    """All windows of a part, numbered in store order: by ticker, then by date.

    first (S,): first row of the first window of each segment that has any. ends (S,): number of windows up to
    and with it.
    """

    lookback: int
    predict: int
    part: Part
    first: IntArray
    ends: IntArray
    ticker_windows: IntArray
    """(K,) windows of each ticker of the store."""
    left_out: LeftOut

    @classmethod
    def build(cls, store: BarStore, lookback: int, predict: int, part: Part) -> "WindowIndex":
        """Find the windows whose predicted bars lie in `part` (the whole window, where `part.whole`), inside
        one segment, and
        that are asked on a day on which the ticker may be: the last bar of the lookback
        (`BarStore.members`)."""
        if lookback < 1 or predict < 1:
            raise ValueError(
                f"WindowIndex: lookback and predict must be at least 1, found {lookback} and {predict}"
            )
        start, end = store.segments[:, 0], store.segments[:, 1]
        length = lookback + predict
        inside = _first_row_at(store.session, start, end, part.first)
        first = np.maximum(start, inside if part.whole else inside - lookback)
        count = np.maximum(_first_row_at(store.session, start, end, part.last + 1) - length - first + 1, 0)
        count[inside == end] = 0  # no bar of this segment is as late as the part
        segment, first, count = _asked_about(store, first, count, lookback)
        ticker = owner_of(store.offsets, first)
        per_ticker = np.bincount(ticker, weights=count, minlength=len(store.tickers)).astype(np.int64)
        has_any = np.bincount(segment, weights=count, minlength=len(start)) > 0
        short = end - start < length
        left_out = LeftOut(
            segments=len(start),
            short_segments=int(short.sum()),
            outside_segments=int((~short & ~has_any).sum()),
            tickers=len(per_ticker),
            empty_tickers=int((per_ticker == 0).sum()),
        )
        return cls(lookback, predict, part, first, np.cumsum(count), per_ticker, left_out)

    @property
    def length(self) -> int:
        """T: bars of a window."""
        return self.lookback + self.predict

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def rows(self, indices: NDArray[np.integer]) -> IntArray:
        """First store row of each window. indices: (B,) in [0, len(self)) -> (B,) int64."""
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"window {indices.min()}..{indices.max()} of {len(self)}")
        segment = np.searchsorted(self.ends, indices, side="right")
        before = np.where(segment > 0, self.ends[segment - 1], 0)
        return self.first[segment] + indices - before

    def describe(self) -> str:
        """One line: windows, tickers, and what gave none and why."""
        out = self.left_out
        return (
            f"{self.part.name}: {len(self):,} windows of {self.lookback} + {self.predict} bars from "
            f"{out.tickers - out.empty_tickers:,} of {out.tickers:,} tickers; of {out.segments:,} runs of bars "
            f"{out.short_segments:,} are shorter than a window and {out.outside_segments:,} have none inside the part"
        )


def require_windows(indices: Iterable[WindowIndex]) -> None:
    """Refuse before training when a part has no window. Raises KitError naming every empty part and the
    remedy.
    """
    empty = [index for index in indices if not len(index)]
    if empty:
        remedies = {"train": "train_ratio", "validation": "val_ratio", "test": "test_ratio"}
        keys = ", ".join(f"data.{remedies.get(i.part.name, 'train_ratio')}" for i in empty)
        found = "; ".join(i.describe() for i in empty)
        raise KitError(
            f"expected at least one window in every part, found {found}. Lower data.lookback_window or raise {keys}"
        )


def _asked_about(
    store: BarStore, first: IntArray, count: IntArray, lookback: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Runs of windows cut to those whose last lookback bar lies on a day on which the ticker may be asked
    about.

    first, count: (M,) of each segment. Returns (R,) segment, first row and number of windows of each run that
    has any, rising.
    """
    runs = store.member_rows
    last = (
        first + lookback - 1
    )  # the last lookback bar of the first window; the run of these rows is [last, last + count)
    low = np.searchsorted(runs[:, 1], last, side="right")
    high = np.searchsorted(runs[:, 0], last + count, side="left")
    pairs = np.where(count > 0, np.maximum(high - low, 0), 0)
    segment = np.repeat(np.arange(len(first)), pairs)
    before = np.repeat(np.cumsum(pairs) - pairs, pairs)
    run = np.repeat(low, pairs) + np.arange(len(segment)) - before
    begin = np.maximum(last[segment], runs[run, 0])
    end = np.minimum(last[segment] + count[segment], runs[run, 1])
    kept = end > begin
    return segment[kept], begin[kept] - lookback + 1, (end - begin)[kept]


def _first_row_at(session: NDArray[np.int32], start: IntArray, end: IntArray, wanted: int) -> IntArray:
    """In each run of rows [start, end), the first row dated at session `wanted` or later; end when there is
    none. (M,).
    """
    low, high = start.copy(), end.copy()
    while (searching := np.flatnonzero(low < high)).size:  # one bisection for all runs at once
        middle = (low[searching] + high[searching]) // 2
        early = session[middle] < wanted
        low[searching[early]] = middle[early] + 1
        high[searching[~early]] = middle[~early]
    return low


@dataclass(frozen=True, eq=False)
class Windows:
    """A batch of windows; T = lookback + predict."""

    x: FloatArray
    """(B, T, 6) normalised and clipped."""
    stamp: FloatArray
    """(B, T, 5) calendar fields, `bars.STAMP_FIELDS` order."""
    weight: FloatArray
    """(B, T) 1 for bars dated in the part, 0 for bars before it."""
    ticker: IntArray
    """(B,) position of the ticker in the store."""
    row: IntArray
    """(B,) first row in the store."""
    mean: NDArray[np.floating]
    """(B, 6) of the lookback, float64."""
    scale: NDArray[np.floating]
    """(B, 6) of the lookback, float64; x = (bars - mean) / scale."""


class WindowReader:
    """Reads windows from a store's memory map; holds the stamps of all its sessions (D x 5 numbers) and
    nothing per row.
    """

    def __init__(
        self,
        store: BarStore,
        lookback: int,
        predict: int,
        *,
        clip: float,
        epsilon: EpsilonKind,
        first_session: int,
    ):
        """first_session: bars dated before it get weight 0. clip, epsilon: see `bars.normalise`,
        `bars.window_stats`.
        """
        self.store, self.lookback, self.length = store, lookback, lookback + predict
        self.clip, self.epsilon, self.first_session = clip, epsilon, first_session
        self.stamps = bars.calendar_stamps(store.sessions)

    def __call__(self, rows: IntArray) -> Windows:
        """rows: (B,) first rows of windows that lie inside the store -> Windows."""
        rows = np.asarray(rows, dtype=np.int64)
        raw = gather(self.store.bars, rows, self.length)
        session = gather(self.store.session, rows, self.length)
        stats = bars.window_stats(raw[:, : self.lookback], self.epsilon)
        return Windows(
            x=bars.normalise(raw, stats, self.clip),
            stamp=np.take(self.stamps, session, axis=0),
            weight=(session >= self.first_session).astype(np.float32),
            ticker=owner_of(self.store.offsets, rows),
            row=rows,
            mean=stats.mean,
            scale=stats.scale,
        )


def gather(column: NDArray, rows: IntArray, length: int) -> NDArray:
    """Copy `length` consecutive entries from each row: column (N, ...), rows (B,) -> (B, length, ...).

    The overlapping windows are a view with one window per row, so that a batch is a single indexed copy of
    whole windows.
    """
    if len(rows) and (rows.min() < 0 or rows.max() + length > len(column)):
        raise IndexError(f"rows {rows.min()}..{rows.max()} + {length} of {len(column)}")
    step = column.strides[0]
    assert column.flags.c_contiguous
    if not len(rows):
        return np.empty((0, length, *column.shape[1:]), dtype=column.dtype)
    flat = as_strided(
        column, (len(column) - length + 1, length * (step // column.itemsize)), (step, column.itemsize)
    )
    return flat[rows].reshape(len(rows), length, *column.shape[1:])
