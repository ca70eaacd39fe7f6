"""The whole policy for dirty rows, in one place: what counts as dirty, what happens to it, and how often it
did.

In: a `Panel` as read, a `CleaningConfig`. Out: the same arrays with repaired values, a mask of the rows that
stay, the segments that training windows may not leave, and a `Tally` for the manifest. Rows read = rows kept
+ rows dropped, by reason.

Causality. A repair uses the row itself and nothing else. Whether a row stays depends on rows up to it (its
ticker's earlier rows, and others of the same date). Segments do look ahead (a run of idle days is long or
not), but they only say which windows are trained on; no value depends on them, and forecasts do not read
them. Nothing is filled, forwards or backwards.
Thresholds and words: `policy`; segments: `segments`.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronos.bars import AMOUNT, CLOSE, HIGH, LOW, OPEN, VOLUME, amount_from
from kronos.config import CleaningConfig
from kronos.data.policy import PROBLEMS, SPLIT_QUIET_BARS, SPLIT_RATIOS, SPLIT_TOLERANCE, Limits, Tally
from kronos.data.price_panel import Panel
from kronos.data.row_places import name_of
from kronos.data.segments import segments_of
from kronos.errors import KitError

Mask = NDArray[np.bool_]
PIECE_ROWS = 1 << 15  # temporaries stay in the cache, and in the heap instead of fresh pages


@dataclass
class Cleaned:
    """What stays of a panel. `panel.values` holds the repaired bars; offsets and segments count kept rows
    only.
    """

    keep: Mask
    """(N,) rows of the panel that stay."""
    offsets: NDArray[np.int64]
    """(K + 1,) of the panel's tickers; one that lost every row is empty."""
    segments: NDArray[np.int64]
    tally: Tally
    limits: Limits
    ordinals: NDArray[np.int32] | None = None
    """(G, D) as `BarStore.ordinals`; None where there is one market."""


def clean(
    panel: Panel, config: CleaningConfig, frequency: str, write: Callable[[NDArray[np.float32]], None]
) -> Cleaned:
    """Apply the policy: repairs `panel.values` in place, leaves dates without a kept row out of
    `panel.sessions`.

    write is given the kept bars (n, 6) piece by piece, in order, while the next pieces are judged.
    Raises KitError where an action is 'stop', and when no row stays.
    """
    limits = Limits.of(config, frequency)
    keep, cut = np.empty(len(panel.session), dtype=bool), np.empty(len(panel.session), dtype=bool)
    used = np.zeros(
        (max(len(panel.markets), 1), len(panel.sessions)), dtype=bool
    )  # dates of rows that stay, by market
    tally = Tally()
    tally.add("missing_key", panel.missing_key, dropped=panel.missing_key)
    tally.add("unsorted", panel.unsorted, repaired=panel.unsorted)
    pieces = list(_pieces(panel.offsets))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy works outside the interpreter's lock
        for found, rows in pool.map(lambda piece: _judge(panel, piece, keep, cut, used, limits), pieces):
            tally.merge(found)
            write(panel.values[rows] if not found.dropped else panel.values[rows][keep[rows]])
        if not keep.any():
            raise KitError(
                f"{panel.name}: expected bars with a Close above 0, found none in {panel.read:,} rows"
            )
        ordinals = _forget_unused_sessions(panel, used)
        spans = []
        start = 0
        for found, part, kept in pool.map(
            lambda piece: _segments(panel, piece, keep, cut, limits, ordinals), pieces
        ):
            tally.merge(found)
            spans.append(part + start)
            start += kept
    dropped_before = np.searchsorted(np.flatnonzero(~keep), panel.offsets)
    return Cleaned(keep, panel.offsets - dropped_before, np.concatenate(spans), tally, limits, ordinals)


def _forget_unused_sessions(panel: Panel, used: Mask) -> NDArray[np.int32] | None:
    """The calendar of the past holds the dates on which a bar was kept: a stray date must not count as a
    trading day.

    used (G, D) by market. Returns how many sessions of each market lie at or before each session that is
    left, (G, D); None for one market.
    """
    anywhere = used.any(axis=0)
    if not anywhere.all():
        panel.sessions = panel.sessions[anywhere]
        panel.session = (np.cumsum(anywhere, dtype=np.int32) - 1)[panel.session]
    return np.cumsum(used[:, anywhere], axis=1, dtype=np.int32) if len(used) > 1 else None


# -- one piece -----------------------------------------------------------------------------------------------
def _pieces(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of tickers (first, last + 1) with about PIECE_ROWS rows each."""
    rows = int(offsets[-1])
    cuts = np.searchsorted(offsets, np.arange(PIECE_ROWS, rows, PIECE_ROWS))
    edges = np.unique(np.concatenate([[0], cuts, [len(offsets) - 1]]))
    yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)


def _judge(
    panel: Panel, piece: tuple[int, int], keep: Mask, cut: Mask, used: Mask, limits: Limits
) -> tuple[Tally, slice]:
    """Repair and judge the rows of whole tickers: fills their part of values, keep and cut, marks the dates
    of kept rows as used, and says which part that is."""
    work = _Piece(panel, piece, limits)
    work.check_rows()
    work.check_sequence()
    panel.values[work.part] = work.columns.T
    keep[work.part], cut[work.part] = work.keep, work.cut
    kept = _chosen(work.keep)
    if len(used) == 1:
        used[0, work.session[kept]] = True
    else:
        used[panel.market[piece[0] : piece[1]][work.owner[kept]], work.session[kept]] = True
    return work.tally, work.part


def _segments(
    panel: Panel,
    piece: tuple[int, int],
    keep: Mask,
    cut: Mask,
    limits: Limits,
    ordinals: NDArray[np.int32] | None,
) -> tuple[Tally, NDArray[np.int64], int]:
    """Segments of whole tickers, counted from the piece's first kept row, and the number of kept rows."""
    offsets = panel.offsets[piece[0] : piece[1] + 1]
    part, owner = slice(int(offsets[0]), int(offsets[-1])), _owners(offsets)
    kept = _chosen(keep[part])
    session, volume = panel.session[part][kept], None
    if ordinals is not None:
        session = ordinals[panel.market[piece[0] : piece[1]][owner[kept]], session]
    if "volume" in panel.roles:
        volume = panel.values[part, VOLUME][kept]
    close = panel.values[part, CLOSE][kept]
    spans, found = segments_of(close, volume, session, owner[kept], cut[part][kept], limits)
    return found, spans, int(np.count_nonzero(keep[part]))


def _owners(offsets: NDArray[np.int64]) -> NDArray[np.int32]:
    """The ticker of each row, counted from 0."""
    return np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))


def _chosen(keep: Mask) -> slice | NDArray[np.int64]:
    """An index of the rows that stay; all of them without a copy."""
    return slice(None) if keep.all() else np.flatnonzero(keep)


class _Piece:
    """Columns of whole tickers, contiguous, and the mask of rows that stay so far. n rows."""

    def __init__(self, panel: Panel, piece: tuple[int, int], limits: Limits) -> None:
        offsets = panel.offsets[piece[0] : piece[1] + 1]
        self.panel, self.limits = panel, limits
        self.part = slice(int(offsets[0]), int(offsets[-1]))
        self.columns = np.ascontiguousarray(panel.values[self.part].T)
        """(6, n)"""
        self.session = panel.session[self.part]
        self.owner = _owners(offsets)
        self.keep = np.ones(len(self.session), dtype=bool)
        self.cut = np.zeros(len(self.session), dtype=bool)
        self.tally = Tally()

    # -- rows by themselves --
    def check_rows(self) -> None:
        """Everything that a row shows on its own."""
        actions, prices = self.limits.actions, self.columns[:VOLUME]
        with np.errstate(invalid="ignore"):
            missing = ~np.isfinite(prices.sum(axis=0))
            self._drop("missing_price", missing, actions.missing_price)
            self._non_positive(prices, actions.non_positive_price)
            self._inconsistent(prices, actions.inconsistent_bar)
            self._volume(actions.bad_volume)

    def _drop(self, problem: str, bad: Mask, action: str, repaired: int = 0) -> None:
        """Take rows out, or stop at the first one."""
        bad = bad & self.keep
        found = np.count_nonzero(bad)
        if found and action == "stop":
            raise self._stop(problem, bad)
        if found:
            self.keep &= ~bad
        self.tally.add(problem, found + repaired, dropped=found, repaired=repaired)

    def _stop(self, problem: str, bad: Mask) -> KitError:
        row = int(np.argmax(bad)) + self.part.start
        ticker = name_of(self.panel.offsets, self.panel.tickers, row)
        bar = ", ".join(f"{value:g}" for value in self.columns[:AMOUNT, row - self.part.start])
        return KitError(
            f"{self.panel.name}: {ticker} on {self.panel.sessions[self.panel.session[row]]} ({bar}): {PROBLEMS[problem]}; "
            f"mend the file or set data.cleaning.{problem} to another action"
        )

    def _non_positive(self, prices: NDArray[np.float32], action: str) -> None:
        """Open, High or Low <= 0: from the row's other prices, when Close and one more are sound."""
        bad = ~(prices.min(axis=0) > 0) & self.keep
        if action != "repair":
            self._drop("non_positive_price", bad, action)
            return
        rows = np.flatnonzero(bad)
        price, good = prices[:, rows], prices[:, rows] > 0
        sound = good[CLOSE] & (good.sum(axis=0) >= 2)
        price[HIGH] = np.where(good[HIGH], price[HIGH], price.max(axis=0))
        price[LOW] = np.where(good[LOW], price[LOW], np.where(good, price, np.inf).min(axis=0))
        price[OPEN] = np.where(good[OPEN], price[OPEN], (price[HIGH] + price[LOW]) / 2)
        prices[:, rows] = price
        bad[rows[sound]] = False
        self._drop("non_positive_price", bad, "drop", repaired=int(sound.sum()))

    def _inconsistent(self, prices: NDArray[np.float32], action: str) -> None:
        """High and Low must enclose the bar: widen them."""
        top, bottom = prices.max(axis=0), prices.min(axis=0)
        bad = ((prices[HIGH] < top) | (prices[LOW] > bottom)) & self.keep
        if action != "repair":
            self._drop("inconsistent_bar", bad, action)
            return
        prices[HIGH, bad], prices[LOW, bad] = top[bad], bottom[bad]
        self.tally.add("inconsistent_bar", np.count_nonzero(bad), repaired=np.count_nonzero(bad))

    def _volume(self, action: str) -> None:
        """Volume and amount are finite and >= 0; an amount that is not there is volume x mean price."""
        volume, amount = self.columns[VOLUME], self.columns[AMOUNT]
        if "volume" in self.panel.roles:
            bad = ~((volume >= 0) & np.isfinite(volume)) & self.keep
            if action == "zero":
                self.tally.add("bad_volume", np.count_nonzero(bad), repaired=np.count_nonzero(bad))
            else:
                self._drop("bad_volume", bad, action)
            volume[bad] = 0
            amount[bad] = 0
        elif "amount" in self.panel.roles:  # as the forecaster's own interface has it
            mean = self.columns[:VOLUME].mean(axis=0)
            volume[:] = np.where((amount >= 0) & np.isfinite(amount) & (mean > 0), amount / mean, 0)
        else:
            volume[:] = 0
        derived = amount_from(volume, self.columns[:VOLUME].T)
        if "amount" in self.panel.roles:
            bad = ~((amount >= 0) & np.isfinite(amount)) & self.keep
            self.tally.add("bad_amount", np.count_nonzero(bad), repaired=np.count_nonzero(bad))
            amount[bad] = derived[bad]
        else:
            amount[:] = derived

    # -- rows beside their predecessors --
    def check_sequence(self) -> None:
        """Duplicates, then jumps between kept rows of one ticker."""
        self._duplicates(self.limits.actions.duplicate)
        kept = _chosen(self.keep)
        jump, split = self._jumps(kept)
        action = self.limits.actions.jump
        if action == "drop":
            bad = np.zeros_like(self.keep)
            bad[kept] = jump
            self._drop("jump", bad, action)
        else:
            self.tally.add("jump", np.count_nonzero(jump))
        self.tally.add("unadjusted_split", np.count_nonzero(split))
        self.cut[kept] = (jump & (action == "split")) | (
            split & (self.limits.actions.unadjusted_split == "split")
        )

    def _duplicates(self, action: str) -> None:
        kept = _chosen(self.keep)
        owner, session = self.owner[kept], self.session[kept]
        same = (session[1:] == session[:-1]) & (owner[1:] == owner[:-1])
        if not same.any():
            self.tally.add("duplicate", 0)
            return
        twice = np.zeros(len(session), dtype=bool)
        if action in ("last", "drop", "stop"):
            twice[:-1] |= same
        if action in ("first", "drop", "stop"):
            twice[1:] |= same
        bad = np.zeros_like(self.keep)
        bad[kept] = twice
        self._drop("duplicate", bad, action)

    def _jumps(self, kept: slice | NDArray[np.int64]) -> tuple[Mask, Mask]:
        """(kept,) the close jumps; it jumps by about a split's ratio and the row names no split."""
        close, owner = self.columns[CLOSE][kept].astype(np.float64), self.owner[kept]
        ratio = np.ones(len(close))
        np.divide(close[1:], close[:-1], out=ratio[1:], where=owner[1:] == owner[:-1])
        jump = np.abs(ratio - 1) > self.limits.max_jump
        at = np.flatnonzero(jump)
        size = np.maximum(ratio[at], 1 / ratio[at])
        simple = (np.abs(size[:, None] / SPLIT_RATIOS - 1) < SPLIT_TOLERANCE).any(axis=1)
        alone = np.ones(
            len(at), dtype=bool
        )  # a penny stock that flips between two ticks does not split every week
        alone[1:] = (np.diff(at) > SPLIT_QUIET_BARS) | (owner[at[1:]] != owner[at[:-1]])
        split = np.zeros_like(jump)
        split[at[simple & alone]] = True
        split &= ~self.panel.split[self.part][kept]
        return jump, split
