"""From sampled paths to the probability of a rise, and from the probability to the answer.

In: paths in price units and the last known close. Out: P(rise) per series, and 0 or 1. NumPy only.
The label that it answers: 1 when the close on the target date is greater than the last known close, so a tie is no rise.
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


def decide(prob: NDArray, threshold: float | NDArray = 0.5) -> NDArray[np.int64]:
    """1 where P(rise) is strictly above the threshold, one or (B,), else 0. prob (B,) -> (B,) int64.

    With an even number of paths P can be exactly 0.5 (14 % of coin-flip rows at 32 paths), and all those rows become
    falls; an odd number has no such rows, so the default `inference.sample_count` is odd. Raises ValueError on NaN.
    """
    if np.isnan(prob).any():
        raise ValueError("decide: a probability is missing (NaN)")
    return (np.asarray(prob) > threshold).astype(np.int64)
