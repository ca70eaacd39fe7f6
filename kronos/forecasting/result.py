"""What a forecast is: every sampled path of some series, and views of them.

In: paths (B, S, H, 6) in price units and the last known closes. Out: mean, median, quantiles, P(rise). NumPy only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronos.bars import FloatArray
from kronos.forecasting import decide


@dataclass(frozen=True)
class Forecast:
    """Sampled futures of B series: S paths of H bars, and views of them. All in price units."""

    paths: FloatArray
    """(B, S, H, 6) float32, `bars.FEATURES` order."""
    last_close: FloatArray
    """(B,) the last close that was known."""

    def only(self, which: NDArray[np.int64]) -> "Forecast":
        """The series at the positions `which`."""
        return Forecast(self.paths[which], self.last_close[which])

    def mean(self) -> FloatArray:
        """Mean path, (B, H, 6)."""
        return self.paths.mean(axis=1)

    def median(self) -> FloatArray:
        """Median path (per feature and step), (B, H, 6)."""
        return np.median(self.paths, axis=1)

    def quantile(self, q: float) -> FloatArray:
        """The q-quantile over the paths, per feature and step, (B, H, 6); 0 <= q <= 1."""
        return np.quantile(self.paths, q, axis=1).astype(np.float32)

    def prob_up(self, step: int = -1) -> NDArray[np.float64]:
        """(B,) share of the paths whose close at `step` is strictly above the last known close."""
        return decide.prob_up(self.paths, self.last_close, step)
