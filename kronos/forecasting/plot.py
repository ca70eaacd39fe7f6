"""One series as a picture: candlesticks of what is known, and the fan of what may follow.

In: a `Forecast` and a position in it. Out: a matplotlib figure that belongs to nobody (no pyplot, so no
global state); show it in a notebook, or `figure.savefig(...)`.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kronos.bars import CLOSE, HIGH, LOW, OPEN
from kronos.forecasting.result import Forecast
from kronos.palette import BLUE, GREY, INK, RED

BANDS = ((0.05, 0.95, 0.18), (0.25, 0.75, 0.3))
"""Lower and upper quantile, opacity."""
THIN_PATHS = 12
"""Paths that are drawn one by one, thinly: what a single future looks like."""


def plot_forecast(forecast: Forecast, position: int) -> Figure:
    """Candlesticks of the history (where it was kept), bands of the closes' quantiles, their median, a few
    paths.
    """
    one = forecast.only(np.array([position]))
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    draw_outlook(axes, forecast, position)
    up = (
        f"P(close above {one.last_close[0]:.6g}) = {one.prob_up()[0]:.2f}"
        if np.isfinite(one.paths).all()
        else "not finite"
    )
    name = forecast.name(position).replace("$", r"\$")  # two of them would begin and end a formula
    axes.set_title(f"{name}: {one.paths.shape[1]} paths, {up}", fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def draw_outlook(axes: Axes, forecast: Forecast, position: int) -> None:
    """Candlesticks of the history of one series and the fan of its paths, on given axes."""
    one = forecast.only(np.array([position]))
    past = _history(one)
    draw_candles(axes, past, np.arange(1 - len(past), 1))
    _draw_fan(axes, one)
    axes.axhline(float(one.last_close[0]), color=GREY, linewidth=0.8, linestyle=":", zorder=0)
    axes.set_xlabel(_caption(one))
    axes.set_ylabel("price")


def draw_candles(axes: Axes, bars: NDArray, x: NDArray) -> None:
    """Candlesticks of bars (K, 6) at x (K,): blue where the close is at or above the open, else red."""
    rising = bars[:, CLOSE] >= bars[:, OPEN]
    for chosen, color in ((rising, BLUE), (~rising, RED)):
        some, at = bars[chosen], x[chosen]
        axes.vlines(at, some[:, LOW], some[:, HIGH], color=color, linewidth=0.8)
        body = np.abs(some[:, CLOSE] - some[:, OPEN])
        axes.bar(
            at,
            body,
            0.6,
            bottom=np.minimum(some[:, OPEN], some[:, CLOSE]),
            color=color,
            edgecolor=color,
            linewidth=0.5,
        )


def _draw_fan(axes: Axes, one: Forecast) -> None:
    """Everything starts at the last known close, at 0."""
    start, steps = np.full((1, one.paths.shape[1]), one.last_close[0]), np.arange(one.paths.shape[2] + 1)
    closes = np.concatenate([start, one.paths[0, :, :, CLOSE].T])  # (H + 1, S)
    for low, high, alpha in BANDS:
        edges = np.quantile(closes, [low, high], axis=1)
        label = f"{high - low:.0%} of the paths"
        axes.fill_between(steps, edges[0], edges[1], color=BLUE, alpha=alpha, linewidth=0, label=label)
    axes.plot(steps, closes[:, :THIN_PATHS], color=INK, alpha=0.25, linewidth=0.5)
    axes.plot(steps, np.median(closes, axis=1), color=INK, linewidth=1.4, label="median")


def _history(one: Forecast) -> NDArray:
    """The known bars (K, 6) of the only series, without the padding in front."""
    if one.history is None:
        return np.empty((0, 6))
    return one.history[0][np.isfinite(one.history[0]).all(axis=1)]


def _caption(one: Forecast) -> str:
    if one.dates is None:
        return "bars from the last known one"
    first, last = (str(day).replace("T", " ").removesuffix(" 00:00:00") for day in one.dates[0, [0, -1]])
    return f"bars from the last known one ({first} to {last})"
