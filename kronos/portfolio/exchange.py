"""The rules under which orders are dealt: lots, costs, price limits, and what cannot be dealt at all.

In: a name. Out: `Rules`. `CN` and `US` are meant to be lived with, `none` deals everything for nothing but
costs in basis points, `qlib` repeats what Qlib 0.9.7 does, its quirks included, so that figures can be
compared.

Sources of the Chinese rules: stamp duty is paid by the seller alone since 2008-09-19, 0.1 %, and 0.05 % since
2023-08-28; daily price limits are 10 % on the main boards, 20 % on STAR (since 2019-07-22) and ChiNext (since
2020-08-24, 10 % before), 30 % in Beijing (since 2021-11-15). A stock under special treatment has 5 %, which
prices alone do not tell.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from kronos.errors import KitError

MarketName = Literal["CN", "US", "none", "qlib"]

STAMP_DUTY = (("2008-09-19", 0.001), ("2023-08-28", 0.0005))
"""(first day, share of a sale's value), for sales at Chinese exchanges."""
EARLIER_DUTY = 0.001
"""Before the first day of the table; it was higher at times, and buyers paid it, too."""

LIMITS: tuple[tuple[tuple[str, ...], str, float], ...] = (
    (("SH688", "SH689", "688", "689"), "2019-07-22", 0.2),
    (("SZ300", "SZ301", "300", "301"), "2020-08-24", 0.2),
    (("BJ", "8", "4", "92"), "2021-11-15", 0.3),
)
"""(how a ticker of the board begins, first day, daily limit); all others 10 %."""
MAIN_LIMIT = 0.1
TICK = 0.01


@dataclass(frozen=True)
class Rules:
    """How one exchange deals."""

    name: MarketName
    lot: int
    """Shares of a lot; 0: any part of a share."""
    buy_cost: float
    """Share of a purchase's value."""
    sell_cost: float
    """Share of a sale's value, stamp duty not included."""
    least_cost: float
    """Least cost of an order, in money."""
    duty: bool
    """Stamp duty on sales, by date."""
    limits: Literal["none", "dealt price", "day's change"]
    """none: no price limits.
    dealt price: nothing is bought where the price of the deal stands at the upper limit, nothing is sold at
    the lower one. day's change: nothing is dealt in a stock whose close moved by `threshold`, as Qlib
    does."""
    threshold: float = 0.095
    invested: float = 0.95
    """Share of the free cash that a day's purchases may use."""

    def sale_cost(self, day: np.datetime64) -> float:
        """Share of a sale's value that is paid on a day."""
        return self.sell_cost + (stamp_duty(day) if self.duty else 0.0)

    def round_lot(self, shares: float, factor: float) -> float:
        """Shares rounded down to whole lots. factor: adjusted price over the price that was dealt."""
        if not self.lot:
            return shares
        return (
            (shares * factor + 0.1) // self.lot * self.lot / factor
        )  # the tenth of a share keeps whole lots whole


def rules_of(name: str, cost_bp: float | None = None) -> Rules:
    """The rules of a market. cost_bp: basis points a side in place of its own costs. Raises KitError."""
    known = {
        "CN": Rules("CN", 100, 0.001, 0.001, 5.0, True, "dealt price"),
        "US": Rules("US", 1, 0.0005, 0.0005, 0.0, False, "none"),
        "none": Rules("none", 0, 0.0, 0.0, 0.0, False, "none", invested=1.0),
        "qlib": Rules("qlib", 100, 0.001, 0.0015, 5.0, False, "day's change"),
    }
    if name not in known:
        raise KitError(f"--market: expected one of {', '.join(known)}, found {name}")
    rules = known[name]
    if cost_bp is None:
        return rules
    if not 0 <= cost_bp < 10_000:
        raise KitError(f"--cost-bp: expected basis points from 0 to below 10000, found {cost_bp:g}")
    return replace(rules, buy_cost=cost_bp / 1e4, sell_cost=cost_bp / 1e4, least_cost=0.0, duty=False)


def stamp_duty(day: np.datetime64) -> float:
    """Share of a sale's value that is taken as stamp duty on a day."""
    rate = EARLIER_DUTY
    for first, value in STAMP_DUTY:
        if day >= np.datetime64(first):
            rate = value
    return rate


def limit_of(ticker: str, day: np.datetime64) -> float:
    """The largest move of a ticker's price on a day, as a share of the close before."""
    for beginnings, first, value in LIMITS:
        if ticker.startswith(beginnings) and day >= np.datetime64(first):
            return value
    return MAIN_LIMIT


def at_limits(price: float, before: float, factor: float, limit: float) -> tuple[bool, bool]:
    """Whether a price stands at its upper limit, and whether at its lower one.

    before: the last close. Both are adjusted; `factor` turns them into those that were dealt, whose limits
    are rounded to the tick. Half a tick of room keeps rounding from hiding a limit. Without a close before
    there is no limit.
    """
    if not math.isfinite(before):
        return False, False
    dealt, last = price / factor, before / factor
    upper = math.floor(last * (1 + limit) / TICK + 0.5) * TICK
    lower = math.floor(last * (1 - limit) / TICK + 0.5) * TICK
    return dealt >= upper - TICK / 2, dealt <= lower + TICK / 2
