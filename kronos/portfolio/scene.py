"""What all portfolios of one command share: prices, rules, strategy, days, benchmark.

In: what was asked. Out: `Scene`, which says what a portfolio earned above the benchmark.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kronos.portfolio.exchange import Rules
from kronos.portfolio.performance import days_a_year
from kronos.portfolio.prices import PriceTable
from kronos.portfolio.strategies import Daily, TopkDropout

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scene:
    """Where all signals of one command are dealt."""

    prices: PriceTable
    rules: Rules
    plan: TopkDropout
    days: slice
    """Positions of the T days on which is dealt."""
    benchmark: FloatArray
    """(T,) daily returns; NaN where it is not known."""

    @cached_property
    def year(self) -> int:
        """Days of a year on which is traded."""
        return days_a_year(self.prices.dates)

    @property
    def known(self) -> NDArray[np.bool_]:
        """(T,) the days on which the benchmark is known."""
        return np.isfinite(self.benchmark)

    @property
    def hold(self) -> int:
        """Days that a position is held at least, 1 or more."""
        return max(self.plan.hold, 1)

    def excess(self, daily: Daily) -> FloatArray:
        """Return after cost less the benchmark's, on the days on which that is known."""
        return (daily.net - self.benchmark)[self.known]

    def filled_excess(self, daily: Daily) -> FloatArray:
        """(T,) the same on all days, 0 where the benchmark is not known."""
        return np.where(self.known, daily.net - self.benchmark, 0.0)
