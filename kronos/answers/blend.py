"""Several answerers as one: the mean of their ranks within a date, with equal weights or fitted ones.

In: answerers. Out: a `Blend`. Ranks, since answers of different kinds have different scales, and their levels
do not count. How weights are fitted: `kronos.answers.weights`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kronos.answers.answerer import SIMPLICITY, Answer, Answerer, Kind, Rows
from kronos.answers.decision import z_of
from kronos.data.store import BarStore


@dataclass(frozen=True, eq=False)
class Blend:
    """Members, and how much of each."""

    name: str
    members: tuple[Answerer, ...]
    weights: tuple[float, ...] | None = None
    """One for each member; None: equal ones."""
    kind: Kind = "blend"

    @property
    def simplicity(self) -> int:
        """Place in the order from simple to complex; lower is simpler."""
        return SIMPLICITY["blend"] + min(len(self.members), 9)

    def answer(self, store: BarStore, rows: Rows) -> Answer:
        """Every member is asked; see `blended`."""
        return blended([member.answer(store, rows) for member in self.members], rows, self.weights)


def blended(answers: Sequence[Answer], rows: Rows, weights: Sequence[float] | None = None) -> Answer:
    """The mean of the members' normal scores within each date, weighted where weights are given; a row has an
    answer where all members have one.

    The paths of all members together are its paths.
    """
    orders = [z_of(Answer(answer.score), rows.asof) for answer in answers]
    score = np.mean(orders, axis=0)
    if weights is not None:
        score = np.zeros(len(rows))
        for order, weight in zip(orders, weights, strict=True):
            score += weight * order
    reason = np.array(answers[0].reason, dtype="<U64")
    for answer in answers[1:]:
        reason = np.where(reason == "", answer.reason, reason)
    paths = [answer.closes for answer in answers if answer.closes is not None]
    return Answer(score, None, reason, np.concatenate(paths, axis=1) if paths else None)
