"""How much of each member a blend takes: fitted on earlier dates, never below 0, and drawn towards equal parts.

In: members' normal scores within dates, ranks of the returns. Out: weights that sum to 1. NumPy and SciPy.
The dates are the unit: every date weighs the same. Few dates know little about weights, so each weight is
drawn towards the equal one as if `PRIOR_DATES` further dates had asked for equal parts.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from kronos.answers.decision import of_dates

FloatArray = NDArray[np.float64]

PRIOR_DATES = 20
"""Dates' worth of belief in equal parts."""
LEAST_DATES = 12
"""Fewer dates without overlap leave equal parts."""


def equal_weights(members: int) -> FloatArray:
    """(M,) the same for each."""
    return np.full(members, 1 / members)


def fit_weights(z: FloatArray, rank: FloatArray, date: NDArray[np.int64], overlap: float = 1.0) -> FloatArray:
    """Weights (M,) of members, at least 0, that sum to 1.

    z (n, M): normal scores within the date, rows without one left out before. rank (n,): normal score of the
    return's rank within its date. date (n,). overlap: dates without overlap over dates, at most 1: what each
    date counts for. Least squares of rank on z over all dates, each with the same weight. Equal parts where
    nothing is learnt.
    """
    members = z.shape[1]
    parts = [rows for rows in of_dates(date) if len(rows) > 1]
    if len(parts) * overlap < LEAST_DATES:
        return equal_weights(members)
    gram, cross = np.zeros((members, members)), np.zeros(members)
    for rows in parts:
        own = z[rows] - z[rows].mean(axis=0)
        gram += overlap * own.T @ own / len(rows)
        cross += overlap * own.T @ (rank[rows] - rank[rows].mean()) / len(rows)
    # The prior's slope: how much an equal blend explains, so that it speaks of shares and not of size.
    equal = equal_weights(members)
    size = max(0.0, float(equal @ cross) / max(float(equal @ gram @ equal), 1e-12))
    gram += PRIOR_DATES * np.eye(members)
    cross += PRIOR_DATES * size * equal
    root = np.linalg.cholesky(gram)
    found, _ = nnls(root.T, np.linalg.solve(root, cross))
    total = float(found.sum())
    return found / total if total > 0 else equal
