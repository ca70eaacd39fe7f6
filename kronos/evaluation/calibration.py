"""Probabilities and bands made honest, on dates that end a horizon before the test; and how honest they are.

In: a panel of calibration dates, P(rise) as the networks gave it, sampled closes. Out: a `Calibration` (see
`kronos.forecasting.calibration`), reliability curves, expected calibration error. Every date weighs the same.
Source: Platt 1999; Guo et al. 2017 (arXiv 1706.04599) for the temperature and the calibration error.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from kronos.config import EvaluationConfig
from kronos.data.survey import date_text
from kronos.evaluation.panel import Panel
from kronos.evaluation.scores import crps
from kronos.evaluation.significance import DateBootstrap, Interval
from kronos.forecasting.calibration import Calibration, Method, logit, sigmoid

PLATT_DATES = 30
"""Dates without overlap from which the shift of the base rate is estimated too: on fewer it is the luck of a few months."""
ISOTONIC_DATES, ISOTONIC_ROWS = 60, 10_000
"""Fewest dates without overlap, and rows, of an isotonic table."""
LEAST_SLOPE = 0.05
"""A slope at or below it means that P(rise) ranked nothing; kept positive, so that the order of answers stays."""
WIDTHS = np.geomspace(0.25, 8, 81)
THRESHOLDS = np.round(np.arange(0.3, 0.701, 0.01), 2)
BINS = np.linspace(0, 1, 11)

FloatArray = NDArray[np.float64]


def fit_calibration(
    panel: Panel, raw: FloatArray, ties: FloatArray, closes: NDArray[np.float32], config: EvaluationConfig, key: dict[str, Any]
) -> Calibration:
    """Fit on the rows of a panel that have a forecast and whose price moved: how often it does not is told by its past (`ties`).

    raw (n,): P(rise) of a price that moves, as `uncertain` gives it, else NaN; ties (n,): P(tie); closes (n, S).
    """
    have = np.isfinite(raw)
    moved = have & (panel.future_close != panel.last_close)
    bootstrap = DateBootstrap(tuple(panel.sessions.tolist()), panel.horizon, config.draws, config.seed)
    weight, label, x = date_weights(panel.origin[moved], panel.dates), panel.label[moved], logit(raw[moved])
    method, note = _method(config, bootstrap.effective, int(moved.sum()))
    if len(np.unique(label)) < 2:
        method, note = "temperature", "all labels alike: P(rise) is left as it is"
    width = fit_width(closes[have], panel.future_close[have], date_weights(panel.origin[have], panel.dates))
    made = Calibration(method=method, horizon=panel.horizon, key=key, width=width)
    if method == "isotonic":
        made = replace(made, knots=_isotonic(x, label, weight))
    elif len(np.unique(label)) == 2:
        slope, intercept = fit_logit(x, label, weight, shift=method == "platt")
        if slope <= LEAST_SLOPE:
            slope, note = LEAST_SLOPE, "P(rise) ranked nothing on these dates: its slope is held at 0.05"
        made = replace(made, slope=slope, intercept=intercept)
    prob = made.prob(raw[have]) * (1 - ties[have])
    threshold = choose_threshold(panel.only_rows(have), prob, config)
    return replace(made, threshold=threshold, fitted=_account(panel, have, moved, bootstrap, note))


def _method(config: EvaluationConfig, effective: int, rows: int) -> tuple[Method, str]:
    enough = effective >= ISOTONIC_DATES and rows >= ISOTONIC_ROWS
    if config.calibration == "isotonic" and not enough:
        return "platt", f"isotonic needs {ISOTONIC_DATES} dates without overlap and {ISOTONIC_ROWS} rows: Platt's instead"
    if config.calibration == "auto":
        return ("platt" if effective >= PLATT_DATES else "temperature"), ""
    assert config.calibration != "off"
    return config.calibration, ""


def _account(
    panel: Panel, have: NDArray[np.bool_], moved: NDArray[np.bool_], bootstrap: DateBootstrap, note: str
) -> dict[str, Any]:
    return {
        "dates": panel.dates,
        "effective": bootstrap.effective,
        "first": date_text(panel.origins[0]),
        "last": date_text(panel.origins[-1]),
        "last_label": date_text(panel.targets[-1]),
        "rows": int(have.sum()),
        "ties": int((have & ~moved).sum()),
        "note": note,
    }


def date_weights(origin: NDArray[np.integer], dates: int) -> FloatArray:
    """Weights (n,) that sum to 1 and give every date that has rows the same part."""
    count = np.bincount(origin, minlength=dates)
    return 1 / (count[origin] * (count > 0).sum())


def fit_logit(x: FloatArray, label: NDArray[np.int64], weight: FloatArray, shift: bool) -> tuple[float, float]:
    """Slope and intercept of the weighted logistic regression of the label on logit(p); intercept 0 unless `shift`."""
    model = LogisticRegression(C=1e6, fit_intercept=shift, max_iter=500)  # no penalty to speak of
    model.fit(x[:, None], label, sample_weight=weight * len(x))
    return float(model.coef_[0, 0]), float(model.intercept_[0]) if shift else 0.0


def _isotonic(x: FloatArray, label: NDArray[np.int64], weight: FloatArray) -> list[list[float]]:
    model = IsotonicRegression(y_min=0.01, y_max=0.99, out_of_bounds="clip").fit(x, label, sample_weight=weight)
    return [[float(a), float(b)] for a, b in zip(model.X_thresholds_, model.y_thresholds_, strict=True)]


def fit_width(closes: NDArray[np.float32], future: FloatArray, weight: FloatArray) -> float:
    """The factor of `WIDTHS` with which the paths' log closes have the least CRPS; 1 where paths have no spread or no log."""
    usable = (closes > 0).all(axis=1) & (future > 0) & (np.ptp(closes, axis=1) > 0) if closes.shape[1] > 1 else np.zeros(0, bool)
    if not usable.any():
        return 1.0
    logs, truth, weight = np.log(closes[usable].astype(np.float64)), np.log(future[usable]), weight[usable]
    middle = np.median(logs, axis=1, keepdims=True)
    away, target = logs - middle, truth - middle[:, 0]
    spread = float(weight @ (crps(away, target) - np.abs(away - target[:, None]).mean(axis=1)))  # minus half the mean distance
    losses = [float(weight @ np.abs(w * away - target[:, None]).mean(axis=1)) + w * spread for w in WIDTHS]
    best = int(np.argmin(losses))
    return float(WIDTHS[best]) if losses[best] < losses[int(np.abs(WIDTHS - 1).argmin())] else 1.0


def choose_threshold(panel: Panel, prob: FloatArray, config: EvaluationConfig) -> float:
    """0.5, unless another threshold, best on the earlier half of the dates, is better on the later half beyond chance.

    The halves are a horizon apart. Chosen and judged on the same dates, one threshold of 41 would always win.
    """
    half = panel.dates // 2
    later = panel.sessions >= (panel.sessions[half] if panel.dates > 1 else 0) + panel.horizon
    early = np.arange(panel.dates) < half
    if not early.any() or not later.any():
        return 0.5
    gain = np.stack([_accuracies(panel, prob, t) - _accuracies(panel, prob, 0.5) for t in THRESHOLDS])
    best = int(np.nanmean(gain[:, early], axis=1).argmax())
    judge = DateBootstrap(tuple(panel.sessions[later].tolist()), panel.horizon, config.draws, config.seed)
    return float(THRESHOLDS[best]) if judge.interval(gain[best, later]).excludes(0.0) > 0 else 0.5


def _accuracies(panel: Panel, prob: FloatArray, threshold: float) -> FloatArray:
    """Accuracy per date, (D,); NaN on a date without rows."""
    right = ((prob > threshold) == panel.label.astype(bool)).astype(np.float64)
    count = np.bincount(panel.origin, minlength=panel.dates)
    with np.errstate(invalid="ignore"):
        return np.bincount(panel.origin, right, minlength=panel.dates) / count


def blend(probs: list[FloatArray]) -> FloatArray:
    """Average of calibrated logits, as a probability, (n,)."""
    return sigmoid(np.mean([logit(np.clip(p, 1e-6, 1 - 1e-6)) for p in probs], axis=0))


# -- how honest --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Bin:
    """Rows whose P(rise) lies in (low, high]."""

    low: float
    high: float
    rows: int
    predicted: float
    """Their mean P(rise)."""
    observed: Interval
    """Share that rose."""


def reliability(panel: Panel, prob: FloatArray, bootstrap: DateBootstrap) -> tuple[list[Bin], Interval]:
    """The reliability curve with date-bootstrap bands, and the expected calibration error over it.

    The error is a mean of absolute values: above 0 by chance alone, so its band says how large, not whether. Empty bins are
    left out.
    """
    place = np.clip(np.digitize(prob, BINS, right=True) - 1, 0, len(BINS) - 2)
    flat = panel.origin.astype(np.int64) * (len(BINS) - 1) + place
    shape = (panel.dates, len(BINS) - 1)
    count, rises, sums = (np.bincount(flat, w, minlength=shape[0] * shape[1]).reshape(shape) for w in (None, panel.label, prob))
    bins = []
    for k in np.flatnonzero(count.sum(axis=0)):
        observed = bootstrap.ratio(rises[:, k].astype(np.float64), count[:, k].astype(np.float64))
        total = count[:, k].sum()
        bins.append(Bin(float(BINS[k]), float(BINS[k + 1]), int(total), float(sums[:, k].sum() / total), observed))
    return bins, bootstrap.percentiles(np.stack([count.astype(float), rises, sums], axis=1), _calibration_error)


def _calibration_error(totals: FloatArray) -> FloatArray:
    """Expected calibration error from (..., 3, bins) counts, rises and sums of P."""
    count, rises, sums = np.moveaxis(totals, -2, 0)
    return np.abs(rises - sums).sum(axis=-1) / count.sum(axis=-1)
