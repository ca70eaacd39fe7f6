#!/usr/bin/env python3
"""What is a trained head worth alone, and what does it add to features?

    python scripts/study/study_head.py --config runs/panel/pipeline_config.json --heads runs/a/head runs/b/head
    --from 2006-10-01

Every date without overlap, --horizon days ahead. Ridge and boosting learn the return's rank from the ranked
features, on every --every-th trading day whose label ended before, once before the first date ("once") and
again every 26 dates. A row: accuracy within dates in per cent and rank IC, each with one standard error over
dates, and the gain over the features fitted in the same way. Blends are means of within-date ranks. --out:
scores of every head as FOLDER/NAME.npz with date (n,), ticker (n,) and score (n,), for other blends.
docs/findings.md says what came out.
"""

import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a clone, without an installation

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge

from kronos import cli, configfile
from kronos.answers.answerer import Rows
from kronos.answers.features import ranked, raw_features
from kronos.answers.head import HeadAnswerer
from kronos.data.date_batches import future_returns, rank_within, rows_by_date
from kronos.data.store import BarStore

Array = NDArray[np.float64]
REFIT = 26
"""Dates after which the features are fitted again."""
TREES = {"max_iter": 150, "learning_rate": 0.05, "max_leaf_nodes": 15, "min_samples_leaf": 500}


def main() -> None:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--heads", nargs="+", required=True, metavar="F", help="folders of head stages")
    parser.add_argument(
        "--from", dest="first", required=True, metavar="DATE", help="first date that is scored"
    )
    parser.add_argument(
        "--horizon", type=int, default=30, metavar="H", help="trading days ahead (default: %(default)s)"
    )
    parser.add_argument(
        "--every", type=int, default=5, metavar="N", help="days between fit dates (default: %(default)s)"
    )
    parser.add_argument("--out", default="", metavar="F", help="folder for the scores (default: none)")
    arguments = parser.parse_args()
    cli.setup_logging()
    store = BarStore.open(configfile.load(arguments.config, arguments.overrides).data.store)
    h = arguments.horizon
    first = int(np.searchsorted(store.sessions, np.datetime64(arguments.first, "s")))
    test = Samples(store, np.arange(first, len(store.sessions) - h, h), h)
    print(f"{len(test.sessions)} dates, {len(test.row):,} samples, {h} trading days ahead; {test.rises()}")
    heads = {
        folder: test.ranks(head_scores(store, folder, test, h, arguments.out)) for folder in arguments.heads
    }
    if len(heads) > 1:
        heads["mean of the heads"] = test.ranks(np.mean(list(heads.values()), axis=0))
    for name, score in heads.items():
        print(test.line(name, score))
    fit = Samples(store, np.arange(first % arguments.every, test.sessions[-1], arguments.every), h)
    known, asked = fit.features(), test.features()
    for refit in (len(test.sessions), REFIT):
        title = "once" if refit > REFIT else f"every {refit} dates"
        features = feature_scores(test, fit, known, asked, refit)
        for name, score in features.items():
            print(test.line(f"{name} on features, {title}", score))
        both = test.ranks(np.mean(list(features.values()), axis=0))
        print(test.line(f"ridge and boosting, {title}", both))
        for (name, score), share in itertools.product(heads.items(), (0.25, 0.5)):
            blend = test.ranks((1 - share) * both + share * score)
            print(test.line(f"  with {share:g} of {name}", blend, both))


class Samples:
    """Every stock with a bar on some trading days and one `horizon` days later, by date."""

    def __init__(self, store: BarStore, sessions: NDArray[np.int64], horizon: int) -> None:
        row, date = rows_by_date(store, sessions)
        change = future_returns(store, row, [horizon])[:, 0]
        known = np.isfinite(change)
        self.store, self.sessions, self.horizon = store, sessions, horizon
        self.row, self.date, self.change = row[known], date[known], change[known]
        self.bounds = np.searchsorted(self.date, np.arange(len(sessions) + 1))
        self.target = self.ranks(self.change)

    def ranks(self, values: Array) -> Array:
        """Ranks within each date in (-0.5, 0.5), (n,); what is not known stands in the middle."""
        parts = [rank_within(values[a:b]) for a, b in itertools.pairwise(self.bounds)]
        return np.nan_to_num(np.concatenate(parts))

    def features(self) -> Array:
        """(n, F) ranked features."""
        return ranked(raw_features(self.store, self.row), self.bounds)

    def by_date(self, score: Array) -> Array:
        """Accuracy within dates in per cent and rank IC, (dates, 2)."""
        figures = []
        for a, b in itertools.pairwise(self.bounds):
            right = np.mean((score[a:b] > np.median(score[a:b])) == (self.target[a:b] > 0))
            figures.append((100 * right, np.corrcoef(score[a:b], self.target[a:b])[0, 1]))
        return np.array(figures)

    def line(self, name: str, score: Array, base: Array | None = None) -> str:
        """Means over dates with one standard error; base: the gain over these scores."""
        found = self.by_date(score)
        text = f"{name:<60} {shown(found[:, 0], 2)} %   IC {shown(found[:, 1], 4)} (t {t_value(found[:, 1]):.1f})"
        if base is None:
            return text
        gain = found - self.by_date(base)
        return f"{text}   gain {shown(gain[:, 0], 2)} points, IC {shown(gain[:, 1], 4)}"

    def rises(self) -> str:
        """How many stocks rise on an average date, and how much that differs between dates."""
        share = np.array([np.mean(self.change[a:b] > 0) for a, b in itertools.pairwise(self.bounds)])
        return f"{100 * share.mean():.1f} % of the stocks rise, standard deviation over dates {100 * share.std():.1f} points"


def shown(values: Array, digits: int) -> str:
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1) / np.sqrt(len(values)):.{digits}f}"


def t_value(values: Array) -> float:
    return float(values.mean() / values.std(ddof=1) * np.sqrt(len(values)))


def head_scores(store: BarStore, folder: str, test: Samples, horizon: int, out: str) -> Array:
    """Scores (n,) of a head; NaN where it has none."""
    n = len(test.row)
    ticker = np.searchsorted(store.offsets, test.row, side="right") - 1
    session = store.session[test.row].astype(np.int64)
    rows = Rows(
        ticker,
        test.row,
        session,
        np.full(n, horizon),
        np.full(n, "", "<U1"),
        store.sessions[session],
        [""] * n,
    )
    answer = HeadAnswerer.open(Path(folder) / "best_model", torch.device("cpu")).answer(store, rows)
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        names = np.array(store.tickers)[ticker]
        name = Path(folder).parent.name
        np.savez(Path(out) / f"{name}.npz", date=store.sessions[session], ticker=names, score=answer.score)
    return answer.score


def feature_scores(test: Samples, fit: Samples, known: Array, asked: Array, refit: int) -> dict[str, Array]:
    """Within-date ranks (n,) of ridge and boosting, fitted every `refit` dates on labels that ended before.

    known (m, F), asked (n, F): ranked features of the samples to fit on and to answer.
    """
    scores = {"ridge": np.zeros(len(test.row)), "boosting": np.zeros(len(test.row))}
    for start in range(0, len(test.sessions), refit):
        past = slice(0, fit.bounds[np.searchsorted(fit.sessions + fit.horizon, test.sessions[start])])
        block = slice(test.bounds[start], test.bounds[min(start + refit, len(test.sessions))])
        scores["ridge"][block] = Ridge(1.0).fit(known[past], fit.target[past]).predict(asked[block])
        trees = HistGradientBoostingRegressor(**TREES, random_state=0)
        scores["boosting"][block] = trees.fit(known[past], fit.target[past]).predict(asked[block])
    return {name: test.ranks(score) for name, score in scores.items()}


if __name__ == "__main__":
    cli.run(main)
