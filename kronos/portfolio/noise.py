"""Signals of pure noise that change as slowly as a real one: what luck alone would have shown.

In: a signal. Out: signals of the same shape, gaps and autocorrelation that know nothing, and the band of
their curves.
"""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def noise_like(score: FloatArray, days: NDArray[np.int64], correlation: float, seed: int) -> FloatArray:
    """A signal (D, K) of noise with scores where `score` has any.

    Each ticker's noise is a first-order autoregression over the days that have scores. correlation: of a day
    with the next one, cut to 0 to 0.999.
    """
    rng = np.random.default_rng(seed)
    keep = float(np.clip(np.nan_to_num(correlation), 0.0, 0.999))
    fresh = np.sqrt(1 - keep**2)
    found = np.full(score.shape, np.nan, np.float32)
    state = rng.standard_normal(score.shape[1], dtype=np.float32)
    for day in days.tolist():
        state = keep * state + fresh * rng.standard_normal(score.shape[1], dtype=np.float32)
        found[day] = np.where(np.isfinite(score[day]), state, np.nan)
    return found.astype(np.float64)


def band(curves: list[FloatArray]) -> dict[str, FloatArray]:
    """Lowest, middle and highest of N curves (T,) on every day."""
    stacked = np.array(curves)
    return {"low": stacked.min(axis=0), "middle": np.median(stacked, axis=0), "high": stacked.max(axis=0)}
