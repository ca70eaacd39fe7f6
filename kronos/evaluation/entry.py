"""What is scored: one forecaster's answers to every row of a panel, be it a model, a rule or a constant.

In: arrays over a panel's n samples. Out: an `Entry`. NumPy only.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["model", "blend", "constant", "rule", "fitted", "network"]


@dataclass(frozen=True, eq=False)
class Entry:
    """n answers. What an entry does not give (None) is not scored by figures that need it."""

    name: str
    kind: Kind
    pred: NDArray[np.int64]
    """(n,) 0 or 1."""
    score: NDArray[np.float64]
    """(n,) larger means likelier to rise; only its order within a date counts."""
    prob: NDArray[np.float64] | None = None
    """(n,) P(rise)."""
    closes: NDArray[np.float32] | None = None
    """(n, S) sampled closes on the target date, price units; NaN for rows without paths."""
    fallback: int = 0
    """Rows answered without the method, for want of history."""
    note: str = ""
    """What a reader has to know about it."""

    def only(self, which: NDArray[np.bool_]) -> "Entry":
        """The answers to some samples, which (n,) bool."""
        prob = None if self.prob is None else self.prob[which]
        closes = None if self.closes is None else self.closes[which]
        return replace(self, pred=self.pred[which], score=self.score[which], prob=prob, closes=closes)
