"""What an answer shows of sampled paths: mean, median and bounds as columns of JSON numbers.

In: a repaired `Forecast`, the level, the decision. Out: one dictionary per series. NumPy only.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronos.answers.bands import band_edges, widened
from kronos.answers.decision import Decision
from kronos.bars import FEATURES, FloatArray
from kronos.forecasting.result import Forecast
from kronos.service.schema import PRICES


def predictions(forecast: Forecast, level: float, decision: Decision | None) -> list[dict[str, Any]]:
    """Of each series what its paths say; bounds are spread as the decision's backtest found right."""
    width = 1.0 if decision is None else decision.width
    bounds = _bounds(forecast, level, width)
    mean, median = forecast.mean(), forecast.median()
    result = []
    for row in range(len(forecast.paths)):
        result.append(
            {
                "last_close": float(forecast.last_close[row]),
                "mean": _columns(mean[row]),
                "median": _columns(median[row]),
                "confidence_intervals": {} if bounds is None else _intervals(bounds[:, row]),
                "intervals_calibrated": decision is not None and decision.fitted.dates > 0,
                "measured_coverage": None,
            }
        )
    return result


def date_texts(dates: NDArray[np.datetime64]) -> list[str]:
    """YYYY-MM-DD where all are midnights, else YYYY-MM-DDTHH:MM:SS."""
    days = dates.astype("datetime64[D]")
    if (days == dates).all():
        return [str(day) for day in days]
    return [str(date) for date in dates]


def _bounds(forecast: Forecast, level: float, width: float) -> FloatArray | None:
    """Lower and upper bounds (2, B, H, 6) of the central interval of `level`, prices spread by `width`, at the
    ranks that the backtest measures coverage with; None where there are too few paths for it.
    """
    if width != 1:
        forecast = replace(forecast, paths=_spread(forecast.paths, width))
    last = np.moveaxis(forecast.paths, 1, -1)
    edges = band_edges(last.reshape(-1, last.shape[-1]), level)
    return None if edges is None else edges.reshape(2, *last.shape[:-1]).astype(np.float32)


def _spread(paths: FloatArray, width: float) -> FloatArray:
    """Paths (B, S, H, 6) whose prices lie `width` times as far from their median, in logs."""
    result = paths.copy()
    for column in range(len(PRICES)):
        values = paths[..., column].swapaxes(1, 2)  # (B, H, S)
        spread = widened(values.reshape(-1, values.shape[-1]), width).reshape(values.shape)
        result[..., column] = spread.swapaxes(1, 2)
    return result


def _intervals(bounds: FloatArray) -> dict[str, dict[str, list[float]]]:
    """Bounds (2, H, 6) of one series as columns."""
    return {
        name: {"lower": bounds[0, :, i].tolist(), "upper": bounds[1, :, i].tolist()}
        for i, name in enumerate(FEATURES)
    }


def _columns(view: FloatArray) -> dict[str, list[float]]:
    return {name: view[:, i].tolist() for i, name in enumerate(FEATURES)}
