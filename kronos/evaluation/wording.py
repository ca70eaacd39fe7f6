"""Figures of a backtest as people write them.

In: a figure's name and value, or its interval. Out: text for the page and its plots.
"""

from typing import Any

import numpy as np

PERCENT = {"accuracy", "within_date_accuracy", "balanced_accuracy", "predicted_rises", "true_rises"} | {
    f"coverage_{level}" for level in (50, 80, 90)
}
"""Figures that are shares."""


def number(name: str, value: float | None) -> str:
    """A figure as people write it: shares in per cent; a dash for one that is not defined."""
    if value is None or not np.isfinite(value):
        return "–"
    return f"{value:.1%}".replace("%", " %") if name in PERCENT else f"{value:.3f}"


def spread(name: str, interval: dict[str, Any] | None) -> str:
    """The interval beside a figure, without units; empty where there is none."""
    if not interval or interval["low"] is None:
        return ""
    scale, digits = (100, 1) if name in PERCENT else (1, 3)
    return f"{interval['low'] * scale:.{digits}f} to {interval['high'] * scale:.{digits}f}"
