"""Several answerers as one: the mean of their ranks within a date.

In: answerers. Out: a `Blend`. Ranks, since answers of different kinds have different scales, and their levels
do not count.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kronos.answers.answerer import SIMPLICITY, Answer, Answerer, Kind, Rows
from kronos.answers.decision import z_of
from kronos.data.store import BarStore


@dataclass(frozen=True, eq=False)
class Blend:
    """Members with equal weights."""

    name: str
    members: tuple[Answerer, ...]
    kind: Kind = "blend"

    @property
    def simplicity(self) -> int:
        return SIMPLICITY["blend"] + min(len(self.members), 9)

    def answer(self, store: BarStore, rows: Rows) -> Answer:
        """Every member is asked; see `blended`."""
        return blended([member.answer(store, rows) for member in self.members], rows)


def blended(answers: Sequence[Answer], rows: Rows) -> Answer:
    """The mean of the members' normal scores within each date; a row has an answer where all members have
    one.

    The paths of all members together are its paths.
    """
    orders = [z_of(Answer(answer.score), rows.asof) for answer in answers]
    score = np.mean(orders, axis=0)
    reason = np.array(answers[0].reason, dtype="<U64")
    for answer in answers[1:]:
        reason = np.where(reason == "", answer.reason, reason)
    paths = [answer.closes for answer in answers if answer.closes is not None]
    return Answer(score, None, reason, np.concatenate(paths, axis=1) if paths else None)
