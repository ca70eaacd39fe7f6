"""What a strategy is asked, and what a portfolio did on every day: the forms that all strategies share.

In: the user's numbers. Out: `TopkDropout`, `Daily` (one row a day), the prices of deals. The strategies: `topk`
(the best stocks, at most n exchanged a day), `weights` (quantiles, sleeves that overlap).
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kronos.errors import KitError
from kronos.portfolio.prices import PriceTable

FloatArray = NDArray[np.float64]
Deal = Literal["open", "close", "vwap"]


@dataclass(frozen=True)
class TopkDropout:
    """How many stocks are held, and how many are exchanged on a day."""

    topk: int = 50
    drop: int = 5
    hold: int = 5
    """Days that a stock is held at least."""
    account: float = 1e8
    """Money at the start."""
    deal: Deal = "open"

    def __post_init__(self) -> None:
        if self.topk < 1 or not 0 <= self.drop <= self.topk:
            raise KitError(
                f"--topk, --drop: expected topk >= 1 and drop from 0 to topk, found {self.topk} and {self.drop}"
            )
        if self.account <= 0 or self.hold < 0:
            raise KitError(
                f"--account, --hold: expected money > 0 and days >= 0, found {self.account:g} and {self.hold}"
            )


@dataclass(frozen=True)
class Holding:
    """A stock that is held."""

    ticker: str
    shares: float
    bought_on: int
    """Position of the day in the price table."""


@dataclass(frozen=True, eq=False)
class Daily:
    """What a portfolio did on each of T days. Shares are of the value in the evening before."""

    name: str
    dates: NDArray[np.datetime64]
    gross: FloatArray
    """(T,) return before cost."""
    cost: FloatArray
    """(T,)."""
    turnover: FloatArray
    """(T,) value of purchases and sales, both sides."""
    value: FloatArray
    """(T,) money and stocks in the evening."""
    cash: FloatArray
    """(T,)."""
    positions: NDArray[np.int64]
    """(T,) stocks held in the evening."""
    refused: NDArray[np.int64]
    """(T,) orders that could not be dealt."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Refused orders by reason, over all days."""
    held_days: list[int] = field(default_factory=list)
    """Days that each position that was closed had been held."""
    position_returns: list[float] = field(default_factory=list)
    """Return of each position that was closed, before cost."""
    closed_on: list[int] = field(default_factory=list)
    """Position among the T days of the day on which each of them was closed."""
    held_at_end: list[Holding] = field(default_factory=list)
    """In the order in which they were bought."""

    @property
    def net(self) -> FloatArray:
        """(T,) return after cost."""
        return self.gross - self.cost


def deal_prices(prices: PriceTable, deal: Deal) -> FloatArray:
    """(D, K) prices of deals. Raises KitError where the day's average price is asked for and not known."""
    table = {"open": prices.open, "close": prices.close, "vwap": prices.vwap}[deal]
    if table is None:
        raise KitError(
            "--deal vwap: expected volume and amount that give an average price, found none; use open or close"
        )
    return table
