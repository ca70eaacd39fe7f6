"""A forecaster that several callers share: the networks' steps together, the decoder for each caller alone.

In: which rows of a call belong to which caller. Out: the same bits that each caller would get alone. Tokens are
whole numbers, the same whoever shares the call; a decoder rounds its sums by how many rows and steps it is
given, so it is given one caller's at a time. That costs little: a decoder runs once, the predictor every step.

Letters: B series of a call, S paths, H steps.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kronos.bars import FEATURES, FloatArray, WindowStats
from kronos.forecasting.forecaster import Forecaster


@dataclass(frozen=True)
class Share:
    """What one caller has of a call."""

    rows: slice
    paths: int
    steps: int


@dataclass(frozen=True, eq=False)
class SharedForecaster(Forecaster):
    """For one call of series of one length: `shares` are its rows in order, none left out."""

    shares: tuple[Share, ...] = ()

    def decode(
        self,
        s1: Tensor,
        s2: Tensor,
        future_s1: Tensor,
        future_s2: Tensor,
        stats: WindowStats,
        last_close: NDArray,
    ) -> FloatArray:
        """As `Forecaster.decode`, caller by caller; NaN in paths and steps that a caller did not ask for.

        Where memory ran out and the call was halved, what is left of it is decoded together: the same to 1e-6.
        """
        if len(self.shares) < 2 or len(s1) != self.shares[-1].rows.stop:
            return super().decode(s1, s2, future_s1, future_s2, stats, last_close)
        found = np.full((*future_s1.shape, len(FEATURES)), np.nan, np.float32)
        for one in self.shares:
            rows, own = one.rows, (one.rows, slice(one.paths), slice(one.steps))
            part = WindowStats(stats.mean[rows], stats.scale[rows])
            given = (s1[rows], s2[rows], future_s1[own], future_s2[own])
            found[own] = super().decode(*given, part, last_close[rows])
        return found
