"""How good a submission was, beside answers that need no model.

In: a submission file, the known answers, the store that the baselines read (only bars before each row's
Date). Out: a `Score`. Baselines and the reading of a score: ../shared/competition.md is the source,
docs/forecasting.md the user's page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from kronos import records
from kronos.answers.answerer import Rows, ask
from kronos.answers.decide import rates
from kronos.answers.simple import ALL_FALL, ALL_RISE, MAJORITY, RULES
from kronos.config import Config
from kronos.data.competition import check_ids, read_answers, read_rows
from kronos.data.market_files import market_path
from kronos.data.prepare import open_store
from kronos.data.store import BarStore
from kronos.errors import KitError


@dataclass(frozen=True)
class Score:
    """Accuracies over the rows of one submission, each in [0, 1]."""

    rows: int
    dates: int
    """Distinct test dates: the number of independent observations, however many rows there are."""
    accuracy: float
    baselines: dict[str, float]
    rises: float
    """Share of rises in the truth."""
    predicted_rises: float
    attainable: float | None
    """Expected accuracy of the best possible forecaster on these rows: known for a synthetic market only."""

    def table(self) -> str:
        """The score, its baselines, and what it can and cannot say."""
        lines = {"submission": self.accuracy} | self.baselines
        if self.attainable is not None:
            lines["attainable (expected)"] = self.attainable
        body = "\n".join(f"  {name:<24} {value:6.1%}" for name, value in lines.items())
        rose = f"{self.rises:.1%} rose, {self.predicted_rises:.1%} predicted"
        head = f"Accuracy over {self.rows} rows of {self.dates} date(s); {rose}"
        return f"{head}\n{body}\n{self.caveat()}"

    def caveat(self) -> str:
        """Why no error bar is printed."""
        if self.dates == 1:
            return (
                "One date is one observation: stocks move together, so this measures that day's market as much as the model,\n"
                "and an error bar over rows would be false. Judge a model by a backtest over many dates."
            )
        return f"The rows of one date move together: these are {self.dates} observations, fewer where horizons overlap."


def score_submission(config: Config, path: str | Path) -> Score:
    """Compare a submission with `data.solution_path`. Raises KitError when IDs do not match or a value is not
    0 or 1.
    """
    if not config.data.solution_path:
        raise KitError(
            "data.solution_path: expected the known answers (ID, Label) to score against, found no path"
        )
    ids, dates = read_rows(config)
    truth = _in_order(ids, config.data.solution_path, "Label")
    pred = _in_order(ids, path, "Pred")
    store = open_store(config)
    rows = ask(store, ids, dates, config.data.calendar, config.inference.horizon)
    return Score(
        rows=len(ids),
        dates=len(np.unique(dates)),
        accuracy=_accuracy(pred, truth),
        baselines={name: _accuracy(answer, truth) for name, answer in baseline_answers(store, rows).items()},
        rises=float(truth.mean()),
        predicted_rises=float(pred.mean()),
        attainable=_attainable(config),
    )


def baseline_answers(store: BarStore, rows: Rows) -> dict[str, NDArray[np.int64]]:
    """Answers that need no model and no level, each (n,): constants, the majority of the past, the sign of
    past returns.

    A row whose history is too short for a rule, or whose close did not change, counts as a fall in both
    directions.
    """
    count = len(rows)
    majority = (rates(store, rows) > 0.5).astype(np.int64)
    found = {ALL_RISE: np.ones(count, np.int64), ALL_FALL: np.zeros(count, np.int64), MAJORITY: majority}
    for rule in RULES:
        score = rule.answer(store, rows).score
        found[rule.name] = (np.nan_to_num(score) > 0).astype(np.int64)
    return found


def _attainable(config: Config) -> float | None:
    path = market_path(config.data)
    if not path.is_file():
        return None
    return records.read(path, _Truth, remedy="remove it, or generate the market again").attainable_accuracy


@dataclass(frozen=True)
class _Truth:
    """What the synthetic market wrote about itself, as far as a score needs it."""

    attainable_accuracy: Annotated[float, "0 to 1"]


def _in_order(ids: Sequence[str], path: str | Path, column: str) -> NDArray[np.int64]:
    found, values = read_answers(path, column)
    check_ids(found, ids, path, "the test file")
    by_id = dict(zip(found, values.tolist(), strict=True))
    return np.array([by_id[name] for name in ids], dtype=np.int64)


def _accuracy(answer: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    return float((answer == truth).mean())
