"""The one way from an answer to rise or fall, for the backtest, the submission, packages and Python.

In: rows, an answerer's `Answer`, its `Decision` (or None, for raw probabilities). Out: `Decided`.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronos.answers.answerer import Answer, Answerer, Kind, Rows
from kronos.answers.bands import widened
from kronos.answers.decision import RANK_SLOPE, Decision, answers, logit, of_dates, z_of
from kronos.answers.history import base_rates, tie_shares
from kronos.data.store import BarStore

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Decided:
    """One answerer's answers to n rows."""

    name: str
    kind: Kind
    pred: NDArray[np.int64]
    """(n,) 0 or 1."""
    score: FloatArray
    """(n,) larger means likelier to rise; only its order within a date counts. A row without an answer has
    its date's median.
    """
    prob: FloatArray | None = None
    """(n,) P(rise); None: a constant that gives none."""
    closes: NDArray[np.float32] | None = None
    """(n, S) sampled closes on the target date, price units; NaN for rows without paths."""
    raw: FloatArray | None = None
    """(n,) P(rise) as the answerer gave it, times 1 - P(tie); 0.5 where it gave none."""
    fallback: int = 0
    """Rows answered without the method."""
    note: str = ""
    """What a reader has to know about it."""
    model: bool = False
    """Whether it is what the report is about, or stands beside it."""

    def only(self, which: NDArray) -> "Decided":
        """The answers to some samples, by positions or a mask (n,)."""
        columns: dict[str, Any] = {}
        for name in ("pred", "score", "prob", "closes", "raw"):
            values = getattr(self, name)
            columns[name] = None if values is None else values[which]
        return replace(self, **columns)


def decide(
    store: BarStore,
    rows: Rows,
    answerer: Answerer,
    answer: Answer,
    decision: Decision | None,
    ties: FloatArray | None = None,
    threshold: float = 0.5,
) -> Decided:
    """P(rise) and the answer of every row. The same rows, answer and decision give the same bits, whoever
    asks.

    decision None: the raw probabilities, or 0.5 where there is only an order. A row without an answer gets
    the base rate. ties: `tie_shares(store, rows)`, where they are known already. threshold: in place of the
    decision's where that is 0.5 and where there is no decision. A constant's own probability stays as it is.
    """
    ties = tie_shares(store, rows) if ties is None else ties
    missing = ~np.isfinite(answer.score)
    about: dict[str, Any] = {"name": answerer.name, "kind": answerer.kind, "fallback": int(missing.sum())}
    score = filled(answer.score, rows.asof)
    if answerer.kind == "constant":
        prob = np.full(len(rows), 0.5) if answer.prob is None else answer.prob
        return Decided(**about, pred=answers(prob), score=score, prob=prob if 0 < prob.mean() < 1 else None)
    z = z_of(answer, rows.asof)
    plain = (
        np.full(len(rows), 0.5)
        if answer.prob is None
        else np.where(np.isfinite(answer.prob), answer.prob, 0.5)
    )
    raw = plain * (1 - ties)
    if decision is None:
        prob = np.where(missing, rates(store, rows) * (1 - ties), raw)
        return Decided(
            **about, pred=answers(prob, threshold), score=score, prob=prob, closes=answer.closes, raw=raw
        )
    prob = decision.prob(z, rows.asof, ties, answer.noise, levels(store, rows, decision))
    limit = threshold if decision.threshold == 0.5 else decision.threshold
    closes = None if answer.closes is None else widened(answer.closes, decision.width)
    return Decided(**about, pred=answers(prob, limit), score=score, prob=prob, closes=closes, raw=raw)


def plain_decision(store: BarStore, asof: int, horizon: int, answer: Answer) -> Decision:
    """The decision where no backtest has said anything: the level of all history up to session `asof`, the
    slope as given.
    """
    rate = float(base_rates(store, np.array([asof]), horizon)[0])
    slope = RANK_SLOPE if answer.prob is None else 1.0
    return Decision(horizon=horizon, level=float(logit(np.clip(rate, 0.02, 0.98))), slope=slope)


def levels(store: BarStore, rows: Rows, decision: Decision) -> FloatArray:
    """The level of each row, (N,): the decision's own at its horizon, that of all history at another."""
    level = np.full(len(rows), decision.level)
    other = rows.horizon != decision.horizon
    if other.any():
        level[other] = logit(np.clip(rates(store, rows.only(other)), 0.02, 0.98))
    return level


def rates(store: BarStore, rows: Rows) -> FloatArray:
    """P(rise, if the price moves) in all history before each row's date, (N,)."""
    rate = np.full(len(rows), 0.5)
    for steps in np.unique(rows.horizon).tolist():
        own = rows.horizon == steps
        rate[own] = base_rates(store, rows.asof[own], steps)
    return rate


def filled(score: FloatArray, date: NDArray[np.int64]) -> FloatArray:
    """Scores with the median of the date where there is none, 0 where a date has none at all."""
    result = score.copy()
    for rows in of_dates(date):
        own = score[rows]
        known = own[np.isfinite(own)]
        result[rows] = np.where(np.isfinite(own), own, np.median(known) if len(known) else 0.0)
    return result
