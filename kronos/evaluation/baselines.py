"""Answers that need no network: constants, rules of thumb, and classical models fitted on the past.

In: a store and the row of each sample's last known bar (rules), a `Panel` (entries). Out: `Entry` objects. Fitted ones follow the
purge: only samples whose label ended before the first date they answer. One owner for the backtest and for `kronos.scoring`.
"""

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from kronos.answers.features import YEAR, past_bars, past_return, ranked, raw_features
from kronos.config import EvaluationConfig
from kronos.data.store import BarStore
from kronos.evaluation.entry import Entry
from kronos.evaluation.panel import Panel, build_panel, drawn, rows_on
from kronos.forecasting.context import MIN_BARS
from kronos.forecasting.rows import base_rate

log = logging.getLogger(__name__)

ALL_RISE, ALL_FALL, MAJORITY = "all rise", "all fall", "majority in training"
CONSTANTS = frozenset({ALL_RISE, ALL_FALL, MAJORITY})
MONTH, FAR = 21, 30
FIT_DATES, FIT_SPAN = 250, 1250
"""Most dates, and trading days back, that a fitted baseline learns from."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """A past return that is followed or faded: the close `near` bars back against the one `far` bars back."""

    near: int
    far: int
    sign: int


RULES = {
    "last return's sign": Rule(0, 1, 1),
    "last return reversed": Rule(0, 1, -1),
    "30-day momentum": Rule(0, FAR, 1),
    "30-day reversal": Rule(0, FAR, -1),
    "12-1 momentum": Rule(MONTH, YEAR, 1),
}
DRIFT = "drift over volatility"


def rule_scores(store: BarStore, rows: NDArray[np.int64]) -> dict[str, FloatArray]:
    """Each rule's score (n,), positive for a rise; NaN where history is too short. rows (n,): last known bar of each sample."""
    return {name: rule.sign * past_return(store, rows, rule.near, rule.far) for name, rule in RULES.items()}


def answers(score: FloatArray) -> NDArray[np.int64]:
    """1 where a score is positive. No history and no change both count as a fall, in either direction of a rule."""
    return (np.nan_to_num(score) > 0).astype(np.int64)


def drift_probability(store: BarStore, rows: NDArray[np.int64], horizon: NDArray[np.int64] | int) -> FloatArray:
    """P(rise) of a share whose returns go on as in the last year: Phi((mu - sigma^2 / 2) sqrt(h) / sigma), (n,).

    mu, sigma: mean and deviation of daily returns over up to 252 days; NaN below 32 bars or without any change.
    """
    parts = []
    for first in range(0, len(rows), 4096):
        close = past_bars(store, rows[first : first + 4096], YEAR + 1)[:, :, 3]
        change = close[:, 1:] / close[:, :-1] - 1
        known = np.isfinite(change)
        count = known.sum(axis=1)
        filled = np.where(known, change, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = filled.sum(axis=1) / count
            variance = np.where(known, (change - mean[:, None]) ** 2, 0).sum(axis=1) / (count - 1)
            part = (mean - variance / 2) / np.sqrt(variance)
        parts.append(np.where((count + 1 >= MIN_BARS) & (variance > 0), part, np.nan))
    return norm.cdf(np.concatenate([*parts, np.empty(0)]) * np.sqrt(horizon))


# -- entries -----------------------------------------------------------------------------------------------------------
def simple_entries(store: BarStore, panel: Panel, config: EvaluationConfig) -> list[Entry]:
    """Constants, the training base rate, rules, drift over volatility."""
    rows = len(panel)
    rate = _base_rates(store, panel, config)
    constants = [
        Entry(ALL_RISE, "constant", np.ones(rows, np.int64), np.zeros(rows)),
        Entry(ALL_FALL, "constant", np.zeros(rows, np.int64), np.zeros(rows)),
        Entry(MAJORITY, "constant", (rate > 0.5).astype(np.int64), rate, rate),
    ]
    rules = [_rule_entry(name, score) for name, score in rule_scores(store, panel.row).items()]
    prob = drift_probability(store, panel.row, panel.horizon)
    filled = np.where(np.isnan(prob), 0.5, prob)
    drift = Entry(DRIFT, "rule", (filled > 0.5).astype(np.int64), filled, filled, fallback=int(np.isnan(prob).sum()))
    return [*constants, *rules, drift]


def _rule_entry(name: str, score: FloatArray) -> Entry:
    return Entry(name, "rule", answers(score), np.nan_to_num(score), fallback=int(np.isnan(score).sum()))


def _base_rates(store: BarStore, panel: Panel, config: EvaluationConfig) -> FloatArray:
    """Share of rises over the horizon among all labels that ended before each fold, per sample."""
    rate = np.zeros(panel.dates)
    for fold in folds(panel.dates, config.folds):
        rate[fold] = base_rate(store, panel.origins[fold.start], panel.horizon)[0]
    return rate[panel.origin]


def folds(dates: int, count: int) -> list[slice]:
    """Contiguous parts of the origins, as equal as can be; fewer where there are fewer dates."""
    edges = np.unique(np.linspace(0, dates, min(count, dates) + 1).round().astype(int))
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]


# -- fitted ------------------------------------------------------------------------------------------------------------
def logistic(seed: int, rows: int) -> Any:
    """Logistic regression of scikit-learn, on ranks, so that its own mild penalty suits every feature."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=500)


def boosting(seed: int, rows: int) -> Any:
    """Histogram gradient boosting of scikit-learn, kept small: financial signals are weak."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        learning_rate=0.05, max_iter=100, max_leaf_nodes=15, min_samples_leaf=max(20, rows // 500), random_state=seed
    )


FITTED: dict[str, Callable[[int, int], Any]] = {"logistic regression": logistic, "gradient boosting": boosting}


def fit_sessions(first_date: int, horizon: int, embargo: int) -> NDArray[np.int64]:
    """Origins to learn from before a block that begins at session `first_date`: t + horizon + embargo < first_date."""
    last = first_date - 1 - horizon - embargo
    first = max(0, last - FIT_SPAN)
    if last < first:
        return np.empty(0, np.int64)
    return np.unique(np.linspace(first, last, min(FIT_DATES, last - first + 1)).round().astype(np.int64))


def fitted_entries(store: BarStore, panel: Panel, config: EvaluationConfig) -> list[Entry]:
    """Classical models on ranked features, fitted anew before each fold of the panel's dates."""
    prob = {name: np.full(len(panel), 0.5) for name in FITTED}
    parts = known_features(store, panel, config.tickers)
    unfit = 0
    for number, fold in enumerate(folds(panel.dates, config.folds)):
        rows = slice(int(panel.bounds[fold.start]), int(panel.bounds[fold.stop]))
        x, y = training_samples(store, int(panel.sessions[fold.start]), panel.horizon, config, number)
        if len(np.unique(y)) < 2:
            unfit += rows.stop - rows.start
            continue
        for name, make in FITTED.items():
            model = make(config.seed, len(y)).fit(x, y)
            prob[name][rows] = model.predict_proba(parts[rows])[:, 1]
    note = f"fitted {len(folds(panel.dates, config.folds))} times, each on labels that ended before the dates it answers"
    return [Entry(name, "fitted", (p > 0.5).astype(np.int64), p, p, fallback=unfit, note=note) for name, p in prob.items()]


def known_features(store: BarStore, panel: Panel, tickers: int | None) -> FloatArray:
    """Features (n, F) of a panel's rows, ranked among all shares with a bar on the origin (`panel.drawn` of them), also those
    without one on the target date, which nobody knew."""
    row, key = rows_on(store, panel.sessions)
    kept = drawn(store, key, tickers)
    row, key = row[kept], key[kept]
    bounds = np.searchsorted(key // len(store.tickers), np.arange(panel.dates + 1))
    scored = np.isin(key, panel.origin.astype(np.int64) * len(store.tickers) + panel.ticker)
    return ranked(raw_features(store, row), bounds)[scored]


def training_samples(
    store: BarStore, first_date: int, horizon: int, config: EvaluationConfig, fold: int
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Ranked features (m, F) and labels (m,) whose last day lies before session `first_date` less the embargo."""
    past = build_panel(store, fit_sessions(first_date, horizon, config.embargo), horizon)
    if len(past) > config.baseline_rows:
        kept = np.zeros(len(past), bool)
        kept[np.random.default_rng([config.seed, fold]).choice(len(past), config.baseline_rows, replace=False)] = True
    else:
        kept = np.ones(len(past), bool)
    bounds = np.searchsorted(past.origin[kept], np.arange(past.dates + 1))
    return ranked(raw_features(store, past.row[kept]), bounds), past.label[kept]
