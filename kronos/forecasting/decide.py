"""From sampled paths to the probability of a rise.

In: paths in price units, the known closes. Out: P(rise) per series. NumPy only. How it becomes an answer:
`kronos.answers`.
The label that is asked for: 1 when the close on the target date is greater than the last known close, so a
tie is no rise: P(rise) = P(rise | the price moves), which networks know, times 1 - P(tie), which the past
knows.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kronos.bars import CLOSE

Probability = Literal["auto", "sampled", "enumerated"]


def enumerates(probability: Probability, horizon: int) -> bool:
    """Whether P(rise) so many steps ahead is found by listing outcomes (`next_step`), not from sampled
    paths.
    """
    return horizon == 1 if probability == "auto" else probability == "enumerated"


def prob_up(paths: NDArray, last_close: NDArray, step: int = -1) -> NDArray[np.float64]:
    """Share of the paths whose close is strictly above the last known close.

    paths (B, S, H, 6), last_close (B,), both in currency; step: which of the H steps, -1 the last. Returns
    (B,) in [0, 1].
    Raises ValueError on a close that is not finite: NaN is above nothing and would count as a fall.
    """
    closes = paths[:, :, step, CLOSE]
    if not (np.isfinite(closes).all() and np.isfinite(last_close).all()):
        raise ValueError("prob_up: a close is not finite, so it is neither a rise nor a fall")
    return (closes > last_close[:, None]).mean(axis=1, dtype=np.float64)


TIE_PRIOR = 0.01
"""Share of ties in the one observation that a row is given beside its own: with few closes it has two."""
