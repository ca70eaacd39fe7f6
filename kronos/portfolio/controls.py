"""Controls of a portfolio: what a mistake would have added, and whether anything later decides what is dealt.

In: a scene, scores. Out: a figure, or the days on which noise in later prices changed a deal.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kronos.portfolio.prices import PriceTable
from kronos.portfolio.scene import Scene
from kronos.portfolio.strategies import Daily, Deal
from kronos.portfolio.topk import topk_dropout

FloatArray = NDArray[np.float64]

CHECKED_DAYS = 20
"""Days whose deals are made again with another future."""


def look_ahead(scene: Scene, score: FloatArray, honest: Daily) -> float | None:
    """What the mistake of dealing at the very close that the score needs would have added a year; None where
    it cannot be.

    score: (D, K). honest: the portfolio as it was dealt.
    """
    moved = np.full_like(score, np.nan)
    moved[:-1] = score[1:]  # the score of the day itself, dealt at its close
    if not np.isfinite(moved[max(scene.days.start - 1, 0) : scene.days.stop]).any():
        return None
    plan = replace(scene.plan, deal="close")
    wrong = topk_dropout("look-ahead", moved, scene.prices, scene.rules, plan, scene.days)
    return float((scene.excess(wrong) - scene.excess(honest)).mean() * scene.year)


@dataclass(frozen=True)
class NoiseCheck:
    """What another future changed."""

    checked: int
    """Days whose deals were made again."""
    changed: int
    """Days of them on which something was dealt otherwise, or a day before had another result."""

    def line(self, market: str) -> str:
        """The finding, as a line of the report."""
        if not self.changed:
            return f"future noise: noise after the deals of {self.checked} days changed none of them"
        why = ""
        if market == "qlib":
            why = " (qlib decides by the whole day's move)"
        return f"LEAK: noise after a deal changed the deals of {self.changed} of {self.checked} days{why}"


def future_noise(
    scene: Scene,
    score: FloatArray,
    within: Callable[[PriceTable], NDArray[np.bool_] | None],
    seed: int = 0,
) -> NoiseCheck:
    """Deal some days again with everything that came after each deal made noise: prices, and scores.

    score: (D, K) before the universe is applied. within: the universe of a price table. Shares, money, cost and
    all results of earlier days are compared bit by bit.
    """
    first, last = scene.days.start, scene.days.stop
    chosen = np.unique(np.linspace(first, last - 1, CHECKED_DAYS + 1).astype(int)[1:])
    rng = np.random.default_rng(seed)
    changed = 0
    before = _inside(score, within(scene.prices))
    for day in chosen.tolist():
        prices = noisy_after(scene.prices, day, scene.plan.deal, rng)
        noisy = score.copy()
        noisy[day:] = rng.standard_normal(noisy[day:].shape)
        noisy = _inside(noisy, within(prices))
        pair = []
        for table, scores in ((scene.prices, before), (prices, noisy)):
            if np.isfinite(scores[first - 1 : day]).any():
                pair.append(
                    topk_dropout("noise", scores, table, scene.rules, scene.plan, slice(first, day + 1))
                )
        if len(pair) == 2:
            changed += not _same(*pair)
    return NoiseCheck(len(chosen), changed)


def _inside(score: FloatArray, member: NDArray[np.bool_] | None) -> FloatArray:
    """The scores (D, K) of members alone."""
    return score if member is None else np.where(member, score, np.nan)


def _same(one: Daily, other: Daily) -> bool:
    """Whether both dealt the same on all days, and had the same results on all but the last."""
    if one.held_at_end != other.held_at_end or not np.array_equal(one.gross[:-1], other.gross[:-1]):
        return False
    columns = ("cost", "turnover", "cash", "positions", "refused")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in columns)


def noisy_after(prices: PriceTable, day: int, deal: Deal, rng: np.random.Generator) -> PriceTable:
    """The same prices until the deal of a day, and noise after it.

    The close of the day itself comes after a deal at the open or at the day's average; where a stock has no
    price of that kind and is dealt at its close, the close stays. Later bars are missing here and there.
    """
    begin = day + 1 if deal == "close" else day
    rest = prices.close[day:].shape
    factor = np.exp(rng.normal(0.0, 0.3, rest))
    factor[1:][rng.random(factor[1:].shape) < 0.1] = np.nan
    chosen = {"open": prices.open, "close": prices.close, "vwap": prices.vwap}[deal]
    if chosen is not None:
        factor[0][~np.isfinite(chosen[day])] = 1.0
    close, amount = prices.close.copy(), prices.amount.copy()
    close[begin:] *= factor[begin - day :]
    amount[begin:] *= factor[begin - day :]
    later = {}
    for name in ("open", "vwap"):
        table = getattr(prices, name)
        if table is not None:
            table = table.copy()
            table[day + 1 :] *= factor[1:]
        later[name] = table
    return replace(prices, open=later["open"], close=close, amount=amount, vwap=later["vwap"])
