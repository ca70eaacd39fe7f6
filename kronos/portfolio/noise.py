"""Signals of pure noise that change as slowly as a real one: what luck alone would have shown.

In: a signal. Out: signals of the same shape, gaps and autocorrelation that know nothing, and the band of
their curves.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronos.portfolio.performance import daily_ratio
from kronos.portfolio.scene import Scene
from kronos.portfolio.signal_figures import autocorrelation
from kronos.portfolio.topk import topk_dropout

FloatArray = NDArray[np.float64]


def noise_like(
    score: FloatArray, days: NDArray[np.int64], correlation: float, seed: int
) -> NDArray[np.float32]:
    """A signal (D, K) of noise with scores where `score` has any.

    Each ticker's noise is a first-order autoregression over the days that have scores. correlation: of a day
    with the next one, cut to 0 to 0.999.
    """
    rng = np.random.default_rng(seed)
    keep = float(np.clip(np.nan_to_num(correlation), 0.0, 0.999))
    drawn = rng.standard_normal((1 + len(days), score.shape[1]), dtype=np.float32)
    drawn[1:] *= math.sqrt(1 - keep**2)
    for number in range(1, len(drawn)):
        drawn[number] += keep * drawn[number - 1]
    found = np.full(score.shape, np.nan, np.float32)
    found[days] = np.where(np.isfinite(score[days]), drawn[1:], np.float32(np.nan))
    return found


def noise_band(scene: Scene, score: FloatArray, days: NDArray[np.int64], count: int) -> dict[str, Any]:
    """Curves and ratios of `count` signals that know nothing and change as slowly as the scores (D, K).

    days: positions of the days that have scores. Empty for a count of 0.
    """
    if count < 1:
        return {}
    correlation = autocorrelation(score, days).value
    curves, ratios = [], []
    for seed in range(count):
        noise = noise_like(score, days, correlation, seed)
        daily = topk_dropout("noise", noise, scene.prices, scene.rules, scene.plan, scene.days)
        curves.append(np.cumsum(scene.filled_excess(daily)))
        ratios.append(daily_ratio(scene.excess(daily)) * math.sqrt(scene.year))
    found = band(curves)
    return {
        "signals": count,
        "information ratios": ratios,
        "curves": {name: curve.tolist() for name, curve in found.items()},
    }


def band(curves: list[FloatArray]) -> dict[str, FloatArray]:
    """Lowest, middle and highest of N curves (T,) on every day."""
    stacked = np.array(curves)
    return {"low": stacked.min(axis=0), "middle": np.median(stacked, axis=0), "high": stacked.max(axis=0)}
