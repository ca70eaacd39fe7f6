"""Which stocks to sell and which to buy: the rule of the best k with at most n exchanged.

In: scores, what is held. Out: positions of tickers.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating[Any]]
LEADER_DAYS = 256
"""Days whose scores are ordered at once."""


def choose(
    score: Scores, held: NDArray[np.int64], topk: int, drop: int, free: list[int] | None = None
) -> tuple[list[int], list[int]]:
    """(what to sell, in the order of `held`; what to buy, best first).

    score: (K,), NaN without a score. held: in the order in which they were bought. free: the best stocks that
    are not held, best first, where the caller knows them. The best `drop + topk - len(held)` stocks that are
    not held stand beside the held ones; of all these the worst `drop` are sold if they are held. A held stock
    without a score is worse than any; among several of these the last ones by name go first.
    """
    count = len(held)
    wanted = max(drop + topk - count, 0)
    if free is None:
        others = score.copy()
        others[held] = np.nan
        best = leaders(others[None], wanted)[0].tolist()
        free = [ticker for ticker in best if ticker >= 0]
    candidates = free[:wanted]
    together = np.concatenate([held, np.array(candidates, np.int64)])
    order = np.lexsort((together, -score[together]))  # NaN last; of equal ones the first by name is better
    worst = sorted(order[len(order) - drop :].tolist())
    sell = [held.item(place) for place in worst if place < count]
    return sell, candidates[: max(len(sell) + topk - count, 0)]


def leaders(score: Scores, count: int) -> NDArray[np.int64]:
    """(D, count) positions of the highest finite scores of each day, best first; of equal ones the first by
    name; -1 where a day has fewer.

    score: (D, K). The stocks that a day may buy are among them: it holds some and looks at `count` less these.
    """
    days, tickers = score.shape
    found = np.full((days, count), -1, np.int64)
    count = min(count, tickers)
    if not count:
        return found
    for first in range(0, days, LEADER_DAYS):
        part = -score[first : first + LEADER_DAYS]
        part[~np.isfinite(part)] = np.inf
        last = np.partition(part, count - 1, axis=1)[:, count - 1 : count]  # the worst that may be a leader
        cell = np.flatnonzero((part <= last) & (part < np.inf))  # by day, then by name
        row, ticker = np.divmod(cell, tickers)
        place = np.arange(len(cell)) - np.searchsorted(row, row)
        widest = max(count, int(place.max(initial=0)) + 1)  # equal to the last leader's may be many
        badness = np.full((len(part), widest), np.inf, part.dtype)
        names = np.full((len(part), widest), -1, np.int64)
        badness[row, place], names[row, place] = part.ravel()[cell], ticker
        order = np.argsort(badness, axis=1, kind="stable")[:, :count]
        found[first : first + LEADER_DAYS, :count] = np.take_along_axis(names, order, axis=1)
    return found
