"""P(rise) of one series from its paths, as the package's decision says it; no other series is needed.

In: sampled closes, known closes, the decision of the horizon. Out: P(rise) and whether it is calibrated.

A decision is fitted within dates: it takes the mean over a date's tickers away. A request may hold one series
only, so the mean of past dates (`Decision.centre`) stands for it. So an answer does not depend on who else is
asked about, and a move that all tickers of the date share stays in it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronos.answers.decision import EDGE, Decision, kept, logit, sigmoid
from kronos.answers.history import TIE_BARS
from kronos.answers.reading import SHAPING, read_paths
from kronos.delivery.package_facts import Facts
from kronos.forecasting.decide import TIE_PRIOR

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Known:
    """What is known of n series about their rise."""

    closes: NDArray[np.float32]
    """(n, S) sampled closes of the last step."""
    last: NDArray[np.float32]
    """(n,) last known closes."""
    ties: FloatArray
    """(n,) P(tie)"""
    listed: FloatArray | None = None
    """(n,) P(rise) by enumeration, where outcomes are listed."""


def decision_of(facts: Facts, horizon: int) -> tuple[Decision | None, str]:
    """The decision of a horizon, and why there is none or it does not belong to what is sampled here."""
    decision = facts.decisions.get(horizon)
    if decision is None:
        return None, ""
    wrong = [name for name in SHAPING if decision.key.get(name) != getattr(facts.sampling, name)]
    if wrong:
        return None, f"the decision of horizon {horizon} was fitted with another {wrong[0]}: it is not used"
    return decision, ""


def prob_up(known: Known, decision: Decision | None) -> FloatArray:
    """P(rise), (n,).

    Without a decision: by enumeration, or the share of paths above the last close. With one: calibrated.
    """
    if decision is None:
        share: FloatArray = (known.closes > known.last[:, None]).mean(axis=1, dtype=np.float64)
        return share if known.listed is None else known.listed
    if known.listed is None:
        _, prob, noise = read_paths(known.closes, known.last)
    else:
        prob, noise = known.listed, np.zeros(len(known.last))
    z = logit(np.clip(prob, EDGE, 1 - EDGE))
    away = decision.slope * kept(decision.spread, noise, len(z)) * (z - decision.centre)
    return sigmoid(away + decision.level) * (1 - known.ties)


def tie_share(close: NDArray, horizon: int) -> float:
    """P(the close `horizon` bars on equals the last one), from the last closes (L,) of one series, as
    `answers.history.tie_shares` counts it.
    """
    kept_closes = close[-TIE_BARS:]
    step = min(horizon, len(close) - 1)
    same = kept_closes[step:] == kept_closes[: len(kept_closes) - step]
    if step == 0:
        return TIE_PRIOR
    return float((same.sum() + TIE_PRIOR) / (len(same) + 1))
