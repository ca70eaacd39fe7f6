"""How good answers were, date by date: the date is the unit of evidence, since shares of one date move
together.

In: a `Panel` and a `Decided`. Out: {figure: (D,) values}, NaN where a figure is not defined on a date. The
value over all dates
is their plain mean: what a score on one more date would be expected to show. Ranks are SciPy's, pooled
metrics scikit-learn's.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import accuracy_score, balanced_accuracy_score, brier_score_loss, log_loss, roc_auc_score

from kronos.answers.bands import band_edges, crps
from kronos.answers.decide import Decided
from kronos.evaluation.panel import Panel
from kronos.evaluation.significance import DateBootstrap, Interval

FIGURES = {
    "accuracy": "share of right answers",
    "within_date_accuracy": "share of rows on the right side of their date's median return; 50 % knows nothing",
    "rank_ic": "Spearman correlation of score and return within a date",
    "balanced_accuracy": "mean of the accuracies among rises and among falls",
    "auc": "chance that a riser is ranked above a faller of its date",
    "brier": "mean squared error of P(rise); 0.25 for always 0.5",
    "log_loss": "mean of -ln(probability of what happened); 0.693 for always 0.5",
    "predicted_rises": "share of rises answered",
    "true_rises": "share of rises that happened",
    "crps": "continuous ranked probability score of the paths, as a share of the last price",
    "price_mae_ratio": "absolute error of the paths' median / that of the last price; below 1 is better than no change",
    "coverage_50": "share of closes inside the paths' central 50 % band",
    "coverage_80": "share of closes inside the paths' central 80 % band",
    "coverage_90": "share of closes inside the paths' central 90 % band",
}
"""Every figure and what it means, in the order of a report."""
SMALLER_IS_BETTER = frozenset({"brier", "log_loss", "crps", "price_mae_ratio"})
SHARES = frozenset(FIGURES) - {"rank_ic", "log_loss", "crps", "price_mae_ratio"}
"""Figures that lie in [0, 1], and so do their intervals."""
CHANCE = {"within_date_accuracy": 0.5, "rank_ic": 0.0, "balanced_accuracy": 0.5, "auc": 0.5}
"""What an entry that knows nothing expects."""
BANDS = (0.5, 0.8, 0.9)


def score_dates(panel: Panel, entry: Decided) -> dict[str, NDArray[np.float64]]:
    """Every figure of an entry on every date, {name: (D,)}; all NaN for what the entry does not give."""
    label, ret = panel.label, panel.ret
    rows = []
    for part in panel.slices():
        figures = dict.fromkeys(FIGURES, float("nan"))
        if part.stop > part.start:
            figures |= _classes(label[part], entry.pred[part])
            figures |= _order(label[part], ret[part], entry.score[part])
            if entry.prob is not None:
                figures |= _probabilities(label[part], entry.prob[part])
            if entry.closes is not None:
                figures |= path_figures(entry.closes[part], panel.last_close[part], panel.future_close[part])
        rows.append(figures)
    return {name: np.array([row[name] for row in rows]) for name in FIGURES}


def over_dates(bootstrap: DateBootstrap, figure: str, values: NDArray[np.float64]) -> Interval:
    """The mean of a figure's values (D,) with its interval, and p against what knows nothing."""
    found = bootstrap.interval(values, CHANCE.get(figure))
    return found.of_share() if figure in SHARES else found


def pooled(panel: Panel, entry: Decided) -> dict[str, float]:
    """scikit-learn's metrics over all rows at once: for comparison with other texts, where a date with more
    rows weighs more.

    Its calls take milliseconds each, so `score_dates` computes the same per date in NumPy; tests compare the
    two.
    """
    label = panel.label
    found = {"accuracy": accuracy_score(label, entry.pred)}
    if 0 < label.sum() < len(label):
        found["balanced_accuracy"] = balanced_accuracy_score(label, entry.pred)
        found["auc"] = roc_auc_score(label, entry.score)
    if entry.prob is not None:
        found["brier"] = brier_score_loss(label, entry.prob, pos_label=1)
        found["log_loss"] = log_loss(label, entry.prob, labels=[0, 1])
    return {name: float(value) for name, value in found.items()}


def _classes(label: NDArray[np.int64], pred: NDArray[np.int64]) -> dict[str, float]:
    """A date on which all rose or all fell has no balanced accuracy: it compares the two."""
    right, rises = label == pred, label == 1
    both = 0 < rises.sum() < len(label)
    return {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float((right[rises].mean() + right[~rises].mean()) / 2)
        if both
        else float("nan"),
        "predicted_rises": float(pred.mean()),
        "true_rises": float(label.mean()),
    }


def _order(
    label: NDArray[np.int64], ret: NDArray[np.float64], score: NDArray[np.float64]
) -> dict[str, float]:
    ranks, rises = rankdata(score), int(label.sum())
    pairs = rises * (len(label) - rises)
    return {
        "auc": float((ranks[label == 1].sum() - rises * (rises + 1) / 2) / pairs) if pairs else float("nan"),
        "within_date_accuracy": within_accuracy(score, ret),
        "rank_ic": correlation(ranks, rankdata(ret)),
    }


def _probabilities(label: NDArray[np.int64], prob: NDArray[np.float64]) -> dict[str, float]:
    least = np.finfo(np.float64).eps  # as scikit-learn cuts them
    chance = np.clip(np.where(label == 1, prob, 1 - prob), least, 1 - least)
    return {"brier": float(((prob - label) ** 2).mean()), "log_loss": float(-np.log(chance).mean())}


def within_accuracy(score: NDArray[np.float64], ret: NDArray[np.float64]) -> float:
    """Share of a date's rows whose score and return lie on the same side of the date's medians; on a median
    counts half.

    So a constant score has exactly 0.5. score, ret: (m,).
    """
    return float((0.5 + 0.5 * np.sign(score - np.median(score)) * np.sign(ret - np.median(ret))).mean())


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Pearson's correlation, of ranks Spearman's; NaN where either is constant. a, b: (m,)."""
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 0 else float("nan")


# -- paths ---------------------------------------------------------------------------------------------------
def path_figures(closes: NDArray, last: NDArray, future: NDArray) -> dict[str, float]:
    """Figures of sampled closes (m, S) against what happened (m,); rows without paths are left out, NaN when
    none is left.
    """
    have = np.isfinite(closes).all(axis=1)
    if not have.any():
        return {}
    closes, last, future = closes[have].astype(np.float64), last[have], future[have]
    still = np.abs(future / last - 1).mean()
    error = np.abs(np.median(closes, axis=1) - future) / last
    figures = {
        "crps": float((crps(closes, future) / last).mean()) if closes.shape[1] > 1 else float("nan"),
        "price_mae_ratio": float(error.mean() / still) if still > 0 else float("nan"),
    }
    return figures | {f"coverage_{100 * band:.0f}": coverage(closes, future, band) for band in BANDS}


def coverage(samples: NDArray, truth: NDArray, band: float) -> float:
    """Share of the truths (m,) inside the central band of their samples (m, S); NaN where S is too small for
    it.
    """
    edges = band_edges(samples, band)
    return float("nan") if edges is None else float(((edges[0] <= truth) & (truth <= edges[1])).mean())
