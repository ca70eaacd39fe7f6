"""Answers that need neither a network nor a fit: constants and rules of thumb.

In: a store and rows. Out: `Constant`, `Rule` and `Drift` answerers. One owner for the backtest, the
submission and the score.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from kronos.answers.answerer import SIMPLICITY, Answer, Answerer, Kind, Rows
from kronos.answers.decision import EDGE
from kronos.answers.features import YEAR, past_bars, past_return
from kronos.answers.history import base_rates
from kronos.bars import CLOSE
from kronos.data.store import BarStore
from kronos.forecasting.context import MIN_BARS
from kronos.forecasting.rows import FEW_BARS

ALL_RISE, ALL_FALL, MAJORITY = "all rise", "all fall", "majority in training"
CONSTANTS = frozenset({ALL_RISE, ALL_FALL, MAJORITY})
DRIFT = "drift over volatility"
MONTH, FAR = 21, 30

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Constant:
    """The same answer for every row of a date: always a rise, always a fall, or what prices did more often in
    all history.
    """

    name: str
    prob: float | None
    """P(rise); None: the base rate of all history before the date."""
    kind: Kind = "constant"

    @property
    def simplicity(self) -> int:
        """Place in the order from simple to complex; lower is simpler."""
        return SIMPLICITY["constant"]

    def answer(self, store: BarStore, rows: Rows) -> Answer:
        """No order among the rows: score 0."""
        prob = np.full(len(rows), 0.5 if self.prob is None else self.prob)
        if self.prob is None:
            for steps in np.unique(rows.horizon).tolist():
                own = rows.horizon == steps
                prob[own] = base_rates(store, rows.asof[own], steps)
        return Answer(np.zeros(len(rows)), prob, np.full(len(rows), "", "<U32"))


@dataclass(frozen=True)
class Rule:
    """A past return that is followed or faded: the close `near` bars back against the one `far` bars back."""

    name: str
    near: int
    far: int
    sign: int
    kind: Kind = "rule"

    @property
    def simplicity(self) -> int:
        """Place in the order from simple to complex; lower is simpler."""
        return SIMPLICITY["rule"]

    def answer(self, store: BarStore, rows: Rows) -> Answer:
        """The return, in the rule's direction; no answer where history is too short."""
        score, have = np.full(len(rows), np.nan), rows.open
        score[have] = self.scores(store, rows.last[have])
        return Answer(score, None, _reasons(rows, score))

    def scores(self, store: BarStore, last: NDArray[np.int64]) -> FloatArray:
        """(n,) positive for a rise; NaN where history is too short. last (n,): store row of the last known
        bar.
        """
        return self.sign * past_return(store, last, self.near, self.far)


@dataclass(frozen=True)
class Drift:
    """P(rise) of a stock whose returns go on as in the last year: Phi((mu - sigma^2 / 2) sqrt(h) / sigma)."""

    name: str = DRIFT
    kind: Kind = "rule"

    @property
    def simplicity(self) -> int:
        """Place in the order from simple to complex; lower is simpler."""
        return SIMPLICITY["rule"] + 1

    def answer(self, store: BarStore, rows: Rows) -> Answer:
        """No answer below 32 bars, or where no close ever changed."""
        prob, have = np.full(len(rows), np.nan), rows.open
        prob[have] = drift_probability(store, rows.last[have], rows.horizon[have])
        return Answer(prob, np.clip(prob, EDGE, 1 - EDGE), _reasons(rows, prob))


RULES = (
    Rule("last return's sign", 0, 1, 1),
    Rule("last return reversed", 0, 1, -1),
    Rule("30-day momentum", 0, FAR, 1),
    Rule("30-day reversal", 0, FAR, -1),
    Rule("12-1 momentum", MONTH, YEAR, 1),
)


def simple_answerers() -> list[Answerer]:
    """Constants, rules, drift over volatility."""
    constants = [Constant(ALL_RISE, 1.0), Constant(ALL_FALL, 0.0), Constant(MAJORITY, None)]
    return [*constants, *RULES, Drift()]


def drift_probability(
    store: BarStore, last: NDArray[np.int64], horizon: NDArray[np.int64] | int
) -> FloatArray:
    """`Drift`'s probability, (n,). mu, sigma: mean and deviation of daily returns over up to 252 days.

    NaN below 32 bars or without any change. last (n,): store rows; horizon: trading days, one or (n,).
    """
    parts = []
    for first in range(0, len(last), 4096):
        close = past_bars(store, last[first : first + 4096], YEAR + 1)[:, :, CLOSE]
        change = close[:, 1:] / close[:, :-1] - 1
        known = np.isfinite(change)
        count = known.sum(axis=1)
        filled = np.where(known, change, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = filled.sum(axis=1) / count
            variance = np.where(known, (change - mean[:, None]) ** 2, 0).sum(axis=1) / (count - 1)
            part = (mean - variance / 2) / np.sqrt(variance)
        parts.append(np.where((count + 1 >= MIN_BARS) & (variance > 0), part, np.nan))
    return ndtr(np.concatenate([*parts, np.empty(0)]) * np.sqrt(horizon))


def _reasons(rows: Rows, values: FloatArray) -> NDArray[np.str_]:
    """Why a row has no answer."""
    missing = rows.open & ~np.isfinite(values)
    return np.where(missing, FEW_BARS, rows.reason)
