"""How wide paths are spread: the factor that makes their bands hold what they say.

In: sampled closes, what happened. Out: a width, and closes spread by it. NumPy only.
"""

import numpy as np
from numpy.typing import NDArray

WIDTHS = np.geomspace(0.25, 8, 81)

FloatArray = NDArray[np.float64]


def widened(closes: NDArray, width: float) -> NDArray[np.float32]:
    """Closes (n, S) spread by `width` about their median in logs; a path at or below 0 has no log and keeps
    its row as it is.
    """
    if width == 1:
        return closes.astype(np.float32)
    positive = (closes > 0).all(axis=1)
    result = closes.astype(np.float64)
    logs = np.log(result[positive])
    middle = np.median(logs, axis=1, keepdims=True)
    result[positive] = np.exp(middle + width * (logs - middle))
    return result.astype(np.float32)


def band_edges(samples: NDArray, band: float) -> NDArray[np.float64] | None:
    """Ends (2, m) of the central band of S samples, at ranks q (S + 1), between which a further sample falls
    with that probability; None where S is too small for the band."""
    tail = (1 - band) / 2
    if tail * (samples.shape[1] + 1) < 1:
        return None
    return np.quantile(samples, [tail, 1 - tail], axis=1, method="weibull")


def fit_width(closes: NDArray[np.float32], future: FloatArray, weight: FloatArray) -> float:
    """The factor of `WIDTHS` with which the paths' log closes have the least CRPS; 1 where paths have no
    spread or no log.

    closes (n, S), future (n,) what happened, weight (n,).
    """
    if closes.shape[1] < 2:
        return 1.0
    usable = (closes > 0).all(axis=1) & (future > 0) & (np.ptp(closes, axis=1) > 0)
    if not usable.any():
        return 1.0
    logs, truth, weight = np.log(closes[usable].astype(np.float64)), np.log(future[usable]), weight[usable]
    middle = np.median(logs, axis=1, keepdims=True)
    away, target = logs - middle, truth - middle[:, 0]
    spread = float(
        weight @ (crps(away, target) - np.abs(away - target[:, None]).mean(axis=1))
    )  # minus half the mean distance
    losses = [float(weight @ np.abs(w * away - target[:, None]).mean(axis=1)) + w * spread for w in WIDTHS]
    best = int(np.argmin(losses))
    return float(WIDTHS[best]) if losses[best] < losses[int(np.abs(WIDTHS - 1).argmin())] else 1.0


def crps(samples: FloatArray, truth: FloatArray) -> FloatArray:
    """Continuous ranked probability score of each row, the fair estimate from S samples: E|X - y| - E|X - X'|
    / 2.

    samples (m, S), S > 1; truth (m,). Returns (m,). Source: Ferro 2014, Q. J. R. Meteorol. Soc. 140, equation
    6.
    """
    count = samples.shape[1]
    weights = 2 * np.arange(1, count + 1) - count - 1
    spread = (np.sort(samples, axis=1) * weights).sum(axis=1) / (
        count * (count - 1)
    )  # half the mean |X - X'|
    return np.abs(samples - truth[:, None]).mean(axis=1) - spread
