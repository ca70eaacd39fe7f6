"""Small random stores for the tests of windows, order and loading: tickers of unequal history, gaps, cut
segments.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from kronos.bars import EpsilonKind
from kronos.data.store import BarStore
from kronos.data.store_writer import store_from_dict, write_store
from kronos.data.windows import WindowReader, Windows

Series = dict[str, tuple[np.ndarray, np.ndarray]]
WEEKDAYS = np.arange("2015-01-01", "2022-01-01", dtype="datetime64[D]")
WEEKDAYS = WEEKDAYS[np.is_busday(WEEKDAYS)]


def random_series(rng: np.random.Generator, tickers: int, days: int) -> Series:
    """{name: (dates, bars)} of random walks that begin and end on random days and miss some days in
    between.
    """
    result = {}
    for k in range(tickers):
        first, last = np.sort(rng.integers(0, days, 2))
        dates = WEEKDAYS[first : last + 1]
        dates = dates[rng.random(len(dates)) > rng.choice([0.0, 0.1])]
        result[f"t{k:03d}"] = (dates, random_bars(rng, len(dates)))
    return result


def random_bars(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n, 6) float32: a price between cents and thousands, a volume, their product."""
    price = 10 ** rng.uniform(-1, 3) * np.exp(np.cumsum(rng.normal(0, 0.02, (n, 4)), axis=0))
    volume = rng.lognormal(10, 1, (n, 1))
    return np.hstack([price, volume, volume * price.mean(axis=1, keepdims=True)]).astype(np.float32)


def arrays_of(series: Series) -> dict[str, Any]:
    """The arrays of a store: as in BarStore, one segment per ticker."""
    names = sorted(series)
    dates = [series[name][0].astype("datetime64[s]") for name in names]
    sessions, session = np.unique(np.concatenate(dates), return_inverse=True)
    offsets = np.cumsum([0, *(len(d) for d in dates)])
    return {
        "bars": np.concatenate([series[name][1] for name in names]).reshape(-1, 6),
        "session": session.astype(np.int32),
        "sessions": sessions,
        "offsets": offsets,
        "segments": np.stack([offsets[:-1], offsets[1:]], axis=1),
        "tickers": names,
    }


def store_in_memory(series: Series) -> BarStore:
    """A BarStore over plain arrays, for tests that need thousands of them."""
    return BarStore(
        path=Path("nowhere"), manifest={"frequency": "daily", "digest": "in memory"}, **arrays_of(series)
    )


def cut_segments(rng: np.random.Generator, arrays: dict[str, Any]) -> np.ndarray:
    """Segments (M, 2) that leave out random runs of rows, as cleaning does."""
    pieces = []
    for start, end in arrays["segments"]:
        cuts = np.unique(rng.integers(start, end + 1, 4))
        pieces += [(a, b) for a, b in itertools.pairwise(cuts) if rng.random() < 0.8]
    return np.array(pieces, dtype=np.int64).reshape(-1, 2)


def random_store(path: Path, seed: int, tickers: int = 12, days: int = 300) -> BarStore:
    """A store on disk with cut segments."""
    rng = np.random.default_rng(seed)
    arrays = arrays_of(random_series(rng, tickers, days))
    return write_store(path, **{**arrays, "segments": cut_segments(rng, arrays)})


def read_windows(
    store: BarStore,
    rows: np.ndarray,
    lookback: int,
    predict: int,
    epsilon: EpsilonKind = "absolute",
    first_session: int = 0,
) -> Windows:
    """One batch of windows that begin at rows."""
    return WindowReader(store, lookback, predict, clip=5.0, epsilon=epsilon, first_session=first_session)(
        rows
    )


def store_of(path: Path, closes: dict[str, list[float]]) -> BarStore:
    """A store of daily closes; NaN: no bar that day."""
    days = np.datetime64("2024-01-01") + np.arange(max(map(len, closes.values())))
    series = {}
    for name, values in closes.items():
        close = np.array(values, np.float64)
        there = np.isfinite(close)
        series[name] = (days[: len(close)][there], np.repeat(close[there, None], 6, axis=1))
    return store_from_dict(path, series)
