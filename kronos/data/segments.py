"""Which runs of bars training windows may be cut from.

In: columns of rows that are judged. Out: (M, 2) segments, counted in kept rows: a ticker's rows, cut at long
gaps and at what the policy splits, without the runs that it leaves out. They say which windows are trained
on, nothing else: no value depends on them.
"""

import numpy as np
from numpy.typing import NDArray

from kronos.data.policy import Limits, Tally

Mask = NDArray[np.bool_]


def segments_of(
    close: NDArray[np.float32],
    volume: NDArray[np.float32] | None,
    session: NDArray[np.int32],
    owner: NDArray[np.int32],
    cut: Mask,
    limits: Limits,
) -> tuple[NDArray[np.int64], Tally]:
    """Segments of the n kept rows of some whole tickers.

    close, volume (n,), None where the files have no volume; session (n,) positions of their dates; owner (n,)
    their tickers; cut (n,) no window crosses into a row. Returns (M, 2) positions among the n rows, first and
    end (exclusive), and what was found on the way.
    """
    tally = Tally()
    begins = np.ones(len(close), dtype=bool)
    begins[1:] = owner[1:] != owner[:-1]
    gap = np.zeros_like(begins)
    gap[1:] = (session[1:] - session[:-1] > limits.max_gap + 1) & ~begins[1:]
    tally.add("gap", np.count_nonzero(gap))
    idle = volume == 0 if volume is not None else np.zeros_like(begins)
    left_out = _long_runs("illiquid", idle, begins, limits.illiquid_run, limits, tally)
    moves = begins.copy()
    moves[1:] |= close[1:] != close[:-1]
    left_out |= _long_runs("stagnant", np.ones_like(begins), moves, limits.stagnant_run, limits, tally)
    return _spans(begins | gap | cut, ~left_out, limits.min_length, tally), tally


def _long_runs(problem: str, flag: Mask, begins: Mask, limit: int, limits: Limits, tally: Tally) -> Mask:
    """Rows of runs of `flag` longer than `limit`; a run ends where `begins` is set. Empty when the action is
    'keep'.
    """
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
