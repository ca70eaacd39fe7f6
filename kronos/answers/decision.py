"""From an answerer's scores to P(rise) and the answer: the level from history, the slope from within dates.

In: z (N,), the log odds of an answerer's raw P(rise) (or a standardised rank where it gives only an order),
the date of each row, P(tie). Out: P(rise) and 0 or 1. NumPy only; how a decision is fitted:
`kronos.answers.fit`.

    P(rise) = sigmoid(slope * (z - mean z of the date) + date_slope * (mean z of the date - centre) + level) * (1 - P(tie))

A network's own mean says little about the market and much about its bias, so it does not enter unless it has
proved itself: `level` is the log odds of the base rate over all history before the date, `date_slope` is 0
unless the dates prove it.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from kronos.answers.answerer import Answer

FloatArray = NDArray[np.float64]

EDGE = 1e-3
"""A probability is taken as at least this far from 0 and 1: one certain row would bend a whole fit."""
RANK_SLOPE = 0.1
"""Slope of an order (a standardised rank) of which no backtest has said anything: a rank IC of about 0.05."""


@dataclass(frozen=True)
class Fitted:
    """What a decision was fitted on: for a reader, and for whoever asks how sure it is."""

    dates: Annotated[int, ">= 0"] = 0
    effective: Annotated[int, ">= 0"] = 0
    """Dates without overlapping horizons."""
    rows: Annotated[int, ">= 0"] = 0
    ties: Annotated[int, ">= 0"] = 0
    """Rows whose price did not move; they say nothing about the slope."""
    first: str = ""
    last: str = ""
    last_label: str = ""
    """Day on which the last label ended: the decision may answer rows dated after it."""
    slope: float | None = None
    """The slope as estimated, before it is drawn towards 0; None: there were too few dates."""
    slope_error: float | None = None
    """Its standard error over dates."""
    history_rate: float | None = None
    """Share of rises among prices that moved, in all history before the decision."""
    dates_rate: float | None = None
    """The same on the dates of the fit."""
    note: str = ""


@dataclass(frozen=True)
class Decision:
    """How one answerer's z becomes P(rise), for one horizon. Every value is checked when it is read."""

    horizon: Annotated[int, "> 0"]
    """Trading days ahead."""
    level: Annotated[float, "-5 to 5"] = 0.0
    """Log odds of a rise, if the price moves, where nothing is known about the row."""
    slope: Annotated[float, "> 0", "0 to 1000"] = 1.0
    """Within dates, of z without the noise of finitely many paths."""
    date_slope: Annotated[float, "0 to 1000"] = 0.0
    """Of the date's mean of z; 0 unless the dates prove it."""
    centre: Annotated[float, "-50 to 50"] = 0.0
    """The mean of the dates' means of z."""
    spread: Annotated[float, ">= 0"] = 0.0
    """Variance of z within a date without noise; 0: unknown, then noise is not looked at."""
    threshold: Annotated[float, "0 to 1"] = 0.5
    """Rise when P(rise) is above it."""
    width: Annotated[float, "> 0", "0 to 100"] = 1.0
    """Factor of the paths' log distance from their median."""
    key: dict[str, Any] = field(default_factory=dict)
    """What it belongs to: digests and settings of the answerer."""
    fitted: Fitted = field(default_factory=Fitted)

    def prob(
        self,
        z: FloatArray,
        date: NDArray[np.int64],
        ties: FloatArray,
        noise: FloatArray | None = None,
        level: FloatArray | None = None,
    ) -> FloatArray:
        """P(rise) of N rows, (N,). z: NaN where there is no answer, which gets the level. date (N,): equal
        for rows of one date.

        ties (N,): P(tie). noise (N,): variance of z from finitely many paths. level (N,): in place of the
        decision's own, for rows of another horizon.
        """
        away, mean = centred(z, date)
        with np.errstate(invalid="ignore"):
            x = self.slope * kept(self.spread, noise, len(z)) * away + self.date_slope * (mean - self.centre)
        x = np.where(np.isfinite(x), x, 0.0) + (self.level if level is None else level)
        return sigmoid(x) * (1 - ties)

    def answers(self, prob: FloatArray) -> NDArray[np.int64]:
        """1 where P(rise) is strictly above the threshold, else 0. Raises ValueError on NaN."""
        return answers(prob, self.threshold)

    def difference(self, key: dict[str, Any]) -> list[str]:
        """Why it does not belong to an answerer with this key; empty where it does."""
        return [f"{k} {self.key.get(k)!r} instead of {key[k]!r}" for k in key if self.key.get(k) != key[k]]


def answers(prob: FloatArray, threshold: float = 0.5) -> NDArray[np.int64]:
    """1 where prob (N,) is strictly above the threshold, else 0; (N,) int64. Raises ValueError on NaN."""
    if np.isnan(prob).any():
        raise ValueError("answers: a probability is missing (NaN)")
    return (prob > threshold).astype(np.int64)


def z_of(answer: Answer, date: NDArray[np.int64]) -> FloatArray:
    """z of N rows, (N,): the log odds of `prob`, or where there is only an order the normal score of the rank
    within the date.

    NaN where there is no answer. date (N,): equal for rows of one date.
    """
    if answer.prob is not None:
        return logit(np.clip(answer.prob, EDGE, 1 - EDGE))
    from scipy.stats import rankdata  # late: scipy.stats takes a second, and a service has no orders

    z = np.full(len(date), np.nan)
    for rows in of_dates(date):
        known = rows[np.isfinite(answer.score[rows])]
        if len(known):
            z[known] = ndtri(rankdata(answer.score[known]) / (len(known) + 1))
    return z


def centred(z: FloatArray, date: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
    """z less the mean of its date, and that mean, each (N,); NaN where z is, the mean also where no row of
    the date has one.

    The sums are exact, so neither the order of the rows nor other dates change a bit.
    """
    mean = np.full(len(z), np.nan)
    for rows in of_dates(date):
        known = z[rows]
        known = known[np.isfinite(known)]
        if len(known):
            mean[rows] = math.fsum(known.tolist()) / len(known)
    return z - mean, mean


def of_dates(date: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Positions of the rows of each date, in the order of the rows."""
    order = np.argsort(date, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(date[order])) + 1) if len(date) else []


def kept(spread: float, noise: FloatArray | None, rows: int) -> FloatArray:
    """Share of a row's distance from the date's mean that is no noise, (rows,): spread / (spread + noise)."""
    if noise is None or spread <= 0:
        return np.ones(rows)
    return spread / (spread + np.where(np.isfinite(noise), noise, 0.0))


def share_noise(prob: FloatArray, count: int) -> FloatArray:
    """Variance of the log odds of a share prob (N,) of `count` paths that is written as (k + 0.5) / (count +
    1), (N,).

    At p a little nearer to 0.5 than the share itself (Agresti and Coull 1998), since 1 / p (1 - p) at a noisy
    share is too large.
    """
    p = (prob * count + 2) / (count + 4)
    return count / ((count + 1) ** 2 * p * (1 - p))


def logit(prob: FloatArray) -> FloatArray:
    """ln(p / (1 - p)). Raises ValueError where p is not strictly between 0 and 1; NaN stays NaN."""
    if ((prob <= 0) | (prob >= 1)).any():
        raise ValueError("logit: a probability is not strictly between 0 and 1")
    return np.log(prob) - np.log1p(-prob)


def sigmoid(x: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x))."""
    return 0.5 * (1 + np.tanh(x / 2))
