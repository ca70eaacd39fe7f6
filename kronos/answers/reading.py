"""Sampled closes, read: a score, P(rise) and how sure it is.

In: the last closes of sampled paths, known closes. Out: figures per row. NumPy and scipy.special: who serves
forecasts does not wait for networks' whole answerer.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from kronos.answers.decision import EDGE, share_noise

SHAPING = ("temperature", "top_k", "top_p", "decode_rope", "anchor", "overflow")
"""Settings of `inference` that shape paths: part of a decision's key."""
SQRT_2_PI = np.sqrt(2 * np.pi)

FloatArray = NDArray[np.float64]


def read_paths(
    closes: NDArray[np.float32], last: NDArray[np.float32]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(score, P(rise), variance of its log odds) of B rows from the last closes of their paths (B, S) and
    known ones (B,).

    The score is the paths' mean log return over its deviation and P(rise) the normal probability of it: that
    keeps more of what a network knows than the share of rising paths (docs/forecasting.md). Where a path has
    no logarithm or all paths are alike, the share. NaN in rows without paths.
    """
    paths, known = closes.astype(np.float64), last.astype(np.float64)[:, None]
    count = closes.shape[1]
    finite = np.isfinite(paths).all(axis=1)
    share = ((paths > known).sum(axis=1) + 0.5) / (count + 1)
    usable = finite & (paths > 0).all(axis=1) & (known[:, 0] > 0) & (count > 2)
    away = np.log(np.where(usable[:, None], paths, 1.0) / np.where(usable[:, None], known, 1.0))
    deviation = away.std(axis=1, ddof=1) if count > 1 else np.zeros(len(paths))
    usable &= deviation > 1e-9
    t = away.mean(axis=1) / np.where(usable, deviation, 1.0)
    prob = np.where(usable, np.clip(ndtr(t), EDGE, 1 - EDGE), share)
    score = np.where(usable, t, ndtri(share))
    slope = np.exp(-(score**2) / 2) / SQRT_2_PI / (prob * (1 - prob))  # of the log odds in t
    noise = np.where(usable, slope**2 * (1 + t**2 / 2) / count, share_noise(share, count))
    return (np.where(finite, values, np.nan) for values in (score, prob, noise))  # type: ignore[return-value]
