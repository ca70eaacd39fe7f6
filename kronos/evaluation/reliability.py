"""How honest probabilities are, with the date's own luck taken out.

In: a panel, P(rise). Out: a curve in bins of equally many rows, and the expected calibration error over it.
On one date most stocks go one way: shares of rises by bin say more about the days than about P(rise). So each
row's P(rise) and outcome are taken less their date's means, and the mean over all dates is added again.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronos.evaluation.panel import Panel
from kronos.evaluation.significance import DateBootstrap, Interval

BINS = 10

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """A tenth of the rows, by P(rise) less the mean of its date."""

    rows: int
    predicted: float
    """Their mean P(rise) less their dates' means, plus the mean share of rises over dates."""
    observed: Interval
    """Share that rose, less their dates' shares, plus the mean share of rises over dates."""


def reliability(panel: Panel, prob: FloatArray, bootstrap: DateBootstrap) -> tuple[list[Bin], Interval]:
    """The reliability curve with date-bootstrap bands, and the expected calibration error over it.

    prob (n,). The error is a mean of absolute values: above 0 by chance alone, so its band says how large,
    not whether.
    """
    label = panel.label.astype(np.float64)
    count = np.bincount(panel.origin, minlength=panel.dates)
    safe = np.maximum(count, 1)
    said = prob - (np.bincount(panel.origin, prob, panel.dates) / safe)[panel.origin]
    rose = label - (np.bincount(panel.origin, label, panel.dates) / safe)[panel.origin]
    base = float((np.bincount(panel.origin, label, panel.dates) / safe)[count > 0].mean())
    place = equal_bins(said, BINS)
    flat = panel.origin.astype(np.int64) * BINS + place
    rows, outcomes, sums = (
        np.bincount(flat, weights, minlength=panel.dates * BINS).reshape(panel.dates, BINS)
        for weights in (None, rose, said)
    )
    bins = []
    for k in np.flatnonzero(rows.sum(axis=0)):
        total = int(rows[:, k].sum())
        found = bootstrap.ratio(outcomes[:, k] + base * rows[:, k], rows[:, k].astype(np.float64))
        bins.append(Bin(total, base + float(sums[:, k].sum()) / total, found.of_share()))
    return bins, bootstrap.percentiles(
        np.stack([rows.astype(float), outcomes, sums], axis=1), _calibration_error
    )


def equal_bins(values: FloatArray, bins: int) -> NDArray[np.int64]:
    """The bin of each value, (n,): equally many in each, equal values together."""
    edges = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]) if len(values) else np.zeros(bins - 1)
    return np.searchsorted(edges, values, side="right")


def _calibration_error(totals: FloatArray) -> FloatArray:
    """Expected calibration error from (..., 3, bins) counts, outcomes and sums of P."""
    count, outcomes, sums = np.moveaxis(totals, -2, 0)
    return np.abs(outcomes - sums).sum(axis=-1) / count.sum(axis=-1)
