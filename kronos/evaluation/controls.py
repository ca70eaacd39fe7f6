"""Backtests that must find nothing: labels that belong to other dates, and a future made of noise.

In: a panel, a store. Out: the same with what happened replaced. A model that shows skill here has seen an
answer.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kronos.bars import CLOSE, VOLUME
from kronos.data.store import BarStore
from kronos.evaluation.panel import Panel

DAILY_NOISE = 0.02
"""Standard deviation of a day's return of the noise."""


def shuffled_labels(panel: Panel, seed: int) -> Panel:
    """Every origin gets the returns of another origin, dealt out to its tickers at random: neither day nor
    share fits.
    """
    rng = np.random.default_rng([seed, 1])
    parts = panel.slices()
    ret = panel.ret
    future = panel.future_close.copy()
    for part, other in zip(parts, rng.permutation(len(parts)), strict=True):
        source, count = ret[parts[other]], part.stop - part.start
        if len(source):
            future[part] = panel.last_close[part] * (
                1 + rng.choice(source, count, replace=len(source) < count)
            )
    return replace(panel, future_close=future)


def noisy_futures(store: BarStore, sessions: NDArray[np.int64], seed: int) -> Iterator[tuple[int, BarStore]]:
    """For each origin, latest first: its position in `sessions`, and a store whose bars after it are a random
    walk.

    A walk starts at the ticker's last known close, so that its label is a fair coin. The stores share memory:
    use one up before the next.
    """
    bars = np.array(store.bars)
    changed = replace(store, bars=bars)
    ticker = np.repeat(np.arange(len(store.tickers)), np.diff(store.offsets))
    for place in np.argsort(sessions)[::-1].tolist():
        rng = np.random.default_rng([seed, 2, place])
        later = np.flatnonzero(store.session > sessions[place])
        first = np.full(len(store.tickers), len(bars))
        np.minimum.at(first, ticker[later], later)
        known = np.maximum(first - 1, store.offsets[:-1])[
            ticker[later]
        ]  # a ticker that begins later walks from its first close
        days = store.session[later] - sessions[place]
        close = bars[known, CLOSE] * np.exp(DAILY_NOISE * np.sqrt(days) * rng.standard_normal(len(later)))
        bars[later, :VOLUME] = close[:, None] * np.array([1, 1.01, 0.99, 1])
        bars[later, VOLUME:] = rng.lognormal(10, 1, (len(later), 1)) * np.stack(
            [np.ones(len(later)), close], axis=1
        )
        yield place, changed
