"""Which runs of bars training windows may be cut from.

In: a panel whose rows are judged. Out: (M, 2) segments, counted in kept rows: a ticker's rows, cut at long gaps and at what the
policy splits, without the runs that it leaves out. They say which windows are trained on, nothing else: no value depends on them.
"""

import numpy as np
from numpy.typing import NDArray

from kronos.bars import CLOSE, VOLUME
from kronos.data.panel import Panel
from kronos.data.policy import Limits, Tally

Mask = NDArray[np.bool_]


def segments_of(
    panel: Panel, rows: NDArray[np.int64], owner: NDArray[np.int32], cut: Mask, limits: Limits
) -> tuple[NDArray, Tally]:
    """Segments of some whole tickers. rows (n,) the kept ones, owner (n,) their tickers, cut (n,) no window crosses into a row.

    Returns (M, 2) int64 positions in `rows`, first and end (exclusive), and what was found on the way.
    """
    tally = Tally()
    session = panel.session[rows]
    begins = np.ones(len(rows), dtype=bool)
    begins[1:] = owner[1:] != owner[:-1]
    gap = np.zeros_like(begins)
    gap[1:] = ~begins[1:] & (session[1:] - session[:-1] - 1 > limits.max_gap)
    tally.add("gap", np.count_nonzero(gap))
    idle = panel.values[rows, VOLUME] == 0 if "volume" in panel.roles else np.zeros_like(begins)
    left_out = _long_runs("illiquid", idle, begins, limits.illiquid_run, limits, tally)
    close = panel.values[rows, CLOSE]
    moves = begins.copy()
    moves[1:] |= close[1:] != close[:-1]
    left_out |= _long_runs("stagnant", np.ones_like(begins), moves, limits.stagnant_run, limits, tally)
    return _spans(begins | gap | cut, ~left_out, limits.min_length, tally), tally


def _long_runs(problem: str, flag: Mask, begins: Mask, limit: int, limits: Limits, tally: Tally) -> Mask:
    """Rows of runs of `flag` longer than `limit`; a run ends where `begins` is set. Empty when the action is 'keep'."""
    edge = begins.copy()
    edge[1:] |= flag[1:] != flag[:-1]
    first = np.flatnonzero(edge)
    length = np.diff(np.append(first, len(flag)))
    inside = np.repeat(flag[first] & (length > limit), length)
    found, split = np.count_nonzero(inside), getattr(limits.actions, problem) == "split"
    tally.add(problem, found, excluded=found if split else 0)
    return inside if split else np.zeros_like(inside)


def _spans(begins: Mask, inside: Mask, min_length: int, tally: Tally) -> NDArray[np.int64]:
    """Runs of `inside` rows that `begins` does not cut, of at least min_length rows."""
    left_before = ~np.concatenate([[False], inside])[: len(inside)]
    cut_after = np.concatenate([~inside | begins, [True]])[1 : len(inside) + 1]
    first = np.flatnonzero(inside & (begins | left_before))
    end = np.flatnonzero(inside & cut_after) + 1
    short = end - first < min_length
    tally.add("short", np.count_nonzero(short), excluded=(end - first)[short].sum())
    return np.stack([first, end], axis=1)[~short].astype(np.int64)
