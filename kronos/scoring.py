"""How good a submission was, beside answers that need no model.

In: a submission file, the known answers, the store that the baselines read (only bars before each row's Date). Out: a
`Score`. Baselines and the reading of a score: ../shared/competition.md is the source, docs/forecasting.md the user's page.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kronos.config import Config
from kronos.data.competition import check_ids, read_answers, read_rows
from kronos.data.market import market_path
from kronos.data.prepare import open_store
from kronos.errors import KitError
from kronos.evaluation.baselines import ALL_FALL, ALL_RISE, MAJORITY, answers, rule_scores
from kronos.forecasting.rows import RowPlan, base_rate
from kronos.submission import plan_test_rows


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
        head = (
            f"Accuracy over {self.rows} rows of {self.dates} date(s); {self.rises:.1%} rose, {self.predicted_rises:.1%} predicted"
        )
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
    """Compare a submission with `data.solution_path`. Raises KitError when IDs do not match or a value is not 0 or 1."""
    if not config.data.solution_path:
        raise KitError("data.solution_path: expected the known answers (ID, Label) to score against, found no path")
    ids, dates = read_rows(config)
    truth = _in_order(ids, config.data.solution_path, "Label")
    pred = _in_order(ids, path, "Pred")
    plan = plan_test_rows(config, open_store(config), ids, dates)
    return Score(
        rows=len(ids),
        dates=len(np.unique(dates)),
        accuracy=_accuracy(pred, truth),
        baselines={name: _accuracy(answer, truth) for name, answer in baseline_answers(plan).items()},
        rises=float(truth.mean()),
        predicted_rises=float(pred.mean()),
        attainable=_attainable(config),
    )


def baseline_answers(plan: RowPlan) -> dict[str, NDArray[np.int64]]:
    """Answers that need no model, each (n,): constants, the majority of the past, rules on past returns.

    A row whose history is too short for a rule, or whose close did not change, counts as a fall in both directions.
    """
    rows = len(plan.ids)
    known = plan.known > 0
    constants = {ALL_RISE: np.ones(rows, np.int64), ALL_FALL: np.zeros(rows, np.int64), MAJORITY: _majority(plan)}
    for name, score in rule_scores(plan.store, plan.end[known] - 1).items():
        constants[name] = np.zeros(rows, np.int64)
        constants[name][known] = answers(score)
    return constants


def _majority(plan: RowPlan) -> NDArray[np.int64]:
    """1 where most moves over the row's horizon were rises before its date."""
    answers = np.zeros(len(plan.ids), np.int64)
    keys = np.stack([plan.dates.astype(np.int64), plan.horizon], axis=1)
    distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
    for k, (date, horizon) in enumerate(distinct):
        rate, _ = base_rate(plan.store, date.astype("datetime64[s]"), int(horizon))
        answers[inverse.reshape(-1) == k] = rate > 0.5
    return answers


def _attainable(config: Config) -> float | None:
    path = market_path(config.data)
    return float(json.loads(path.read_text(encoding="utf-8"))["attainable_accuracy"]) if path.is_file() else None


def _in_order(ids: Sequence[str], path: str | Path, column: str) -> NDArray[np.int64]:
    found, values = read_answers(path, column)
    check_ids(found, ids, path, "the test file")
    by_id = dict(zip(found, values.tolist(), strict=True))
    return np.array([by_id[name] for name in ids], dtype=np.int64)


def _accuracy(answer: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    return float((answer == truth).mean())
