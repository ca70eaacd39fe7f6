"""From sampled paths to the probability of a rise, and from the probability to the answer.

In: paths in price units, the known closes. Out: P(rise) per series, and 0 or 1. NumPy only.
The label that it answers: 1 when the close on the target date is greater than the last known close, so a tie is no rise:
P(rise) = P(rise | the price moves), which networks know and which is calibrated, times 1 - P(tie), which the past knows.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kronos.bars import CLOSE

Probability = Literal["auto", "sampled", "enumerated"]


def enumerates(probability: Probability, horizon: int) -> bool:
    """Whether P(rise) so many steps ahead is found by listing outcomes (`next_step`), not from sampled paths."""
    return horizon == 1 if probability == "auto" else probability == "enumerated"


def prob_up(paths: NDArray, last_close: NDArray, step: int = -1) -> NDArray[np.float64]:
    """Share of the paths whose close is strictly above the last known close.

    paths (B, S, H, 6), last_close (B,), both in currency; step: which of the H steps, -1 the last. Returns (B,) in [0, 1].
    Raises ValueError on a close that is not finite: NaN is above nothing and would count as a fall.
    """
    closes = paths[:, :, step, CLOSE]
    if not (np.isfinite(closes).all() and np.isfinite(last_close).all()):
        raise ValueError("prob_up: a close is not finite, so it is neither a rise nor a fall")
    return (closes > last_close[:, None]).mean(axis=1, dtype=np.float64)


TIE_PRIOR = 0.01
"""Share of ties in the one observation that a context is given beside its own: at 30 of 32 bars ahead it has two."""


def tie_share(closes: NDArray, horizon: int) -> NDArray[np.float64]:
    """P(the close `horizon` bars on equals the last one), from the context's own moves over as many bars.

    closes (B, L) -> (B,) in (0, 1). Networks put a close near the last one a little above or below it, never on it: of a share
    that trades on one day in ten they make a coin flip, though a tie, which is no rise, is its likeliest outcome.
    """
    step = min(horizon, closes.shape[1] - 1)
    same = closes[:, step:] == closes[:, : closes.shape[1] - step] if step else np.zeros((len(closes), 0), bool)
    return (same.sum(axis=1) + TIE_PRIOR) / (same.shape[1] + 1)


def decide(prob: NDArray, threshold: float | NDArray = 0.5) -> NDArray[np.int64]:
    """1 where P(rise) is strictly above the threshold, one or (B,), else 0. prob (B,) -> (B,) int64.

    With an even number of paths P can be exactly 0.5 (14 % of coin-flip rows at 32 paths), and all those rows become
    falls; an odd number has no such rows, so the default `inference.sample_count` is odd. Raises ValueError on NaN.
    """
    if np.isnan(prob).any():
        raise ValueError("decide: a probability is missing (NaN)")
    return (np.asarray(prob) > threshold).astype(np.int64)
