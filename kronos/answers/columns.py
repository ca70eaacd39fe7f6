"""What a network says, as columns beside the ranked figures of a fit.

In: answerers of networks. Out: `NetworkColumns` (a `fitted.Columns`): of paths the mean over deviation of
their log returns, the share that rises and the deviation; of listed outcomes P(rise); of a head its score and
P(rise). A fit may learn from them only on dates that their network has not been trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronos.answers.answerer import Answer, Answerer, Kind, Rows
from kronos.bars import CLOSE
from kronos.data.store import BarStore

COLUMNS: dict[Kind, tuple[str, ...]] = {
    "paths": ("mean over deviation", "share of rises", "deviation"),
    "enumeration": ("listed P(rise)",),
    "head": ("score", "P(rise)"),
}
"""Of each kind of network."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NetworkColumns:
    """The columns of one or more networks."""

    answerers: tuple[Answerer, ...]
    sessions: NDArray[np.int64]
    """Sessions on which a fit may use them, rising."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        found = []
        for answerer in self.answerers:
            found += [f"{label(answerer.kind)} {name}" for name in COLUMNS[answerer.kind]]
        return tuple(found)

    def values(self, store: BarStore, rows: Rows) -> FloatArray:
        """(N, k), NaN where there is none."""
        parts = [columns_of(one.kind, one.answer(store, rows), store, rows) for one in self.answerers]
        return np.concatenate(parts, axis=1)


def label(kind: Kind) -> str:
    """What the network of a kind is called in a column's name, whatever the run is called."""
    return "head" if kind == "head" else "network"


def columns_of(kind: Kind, answer: Answer, store: BarStore, rows: Rows) -> FloatArray:
    """The columns of one answer, (N, k)."""
    if kind == "head":
        assert answer.prob is not None, "a head gives P(rise)"
        return np.stack([answer.score, answer.prob], axis=1)
    if kind == "enumeration":
        assert answer.prob is not None, "listed outcomes give P(rise)"
        return answer.prob[:, None]
    spread, share = np.full((2, len(rows)), np.nan)
    if answer.closes is not None:
        have = np.isfinite(answer.closes).all(axis=1) & (answer.closes > 0).all(axis=1) & (rows.last >= 0)
        closes = answer.closes[have].astype(np.float64)
        spread[have] = np.log(closes).std(axis=1)
        share[have] = (closes > store.bars[rows.last[have], CLOSE][:, None]).mean(axis=1)
    return np.stack([answer.score, share, spread], axis=1)


@dataclass(frozen=True, eq=False)
class Remembered:
    """Answers that were given already, by ticker and date: nobody is asked twice."""

    name: str
    kind: Kind
    simplicity: int
    asked: Rows
    given: Answer

    def answer(self, store: BarStore, rows: Rows) -> Answer:
        """What was answered to the same tickers on the same dates; NaN for others."""
        span = len(store.sessions) + 1
        known = self.asked.ticker * span + self.asked.asof
        order = np.argsort(known, kind="stable")
        wanted = rows.ticker * span + rows.asof
        place = order[np.minimum(np.searchsorted(known[order], wanted), len(known) - 1)]
        there = known[place] == wanted
        prob = None if self.given.prob is None else np.where(there, self.given.prob[place], np.nan)
        closes = None
        if self.given.closes is not None:
            closes = self.given.closes[place].copy()
            closes[~there] = np.nan
        return Answer(np.where(there, self.given.score[place], np.nan), prob, rows.reason, closes)


def remembered(answerers: Sequence[Answerer], asked: Rows, given: Sequence[Answer]) -> tuple[Remembered, ...]:
    """Answerers together with the answers that they gave to the rows `asked`."""
    return tuple(
        Remembered(one.name, one.kind, one.simplicity, asked, answer)
        for one, answer in zip(answerers, given, strict=True)
    )
