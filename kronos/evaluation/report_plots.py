"""The plots of the backtest's page.

In: axes of matplotlib, parts of the tree of report.json. Out: nothing; the axes are drawn on. Nothing is computed but a
smoothed line.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from kronos.evaluation.wording import number
from kronos.forecasting.plot import draw_candles
from kronos.page import percent
from kronos.palette import BLUE, GREY, INK, RED

SMOOTH = 9
"""Dates of the line that smooths figures per date."""
PHASES = {"train": BLUE, "validation": "#7aa6c8", "calibrate": "#d9a441", "test": RED}
"""Blocks of the time line that are coloured; the others are gaps."""


def _days(dates: list[str]) -> list[Any]:
    return np.array(dates, dtype="datetime64[s]").astype(object).tolist()


def _values(per_date: dict[str, Any], name: str, figure: str) -> NDArray[np.float64]:
    values = per_date["entries"][name].get(figure) or [None] * len(
        per_date["origins"]
    )  # a figure that no date defines is left out
    return np.array(values, dtype=np.float64)  # None becomes NaN


def _dots_and_line(axes: Axes, days: list[Any], values: NDArray[np.float64]) -> None:
    axes.plot(days, values, ".", color=BLUE, markersize=3, alpha=0.6)
    known = np.flatnonzero(np.isfinite(values))
    if len(known) >= SMOOTH:
        half = SMOOTH // 2
        smooth = np.convolve(values[known], np.full(SMOOTH, 1 / SMOOTH), "valid")
        axes.plot([days[k] for k in known[half : half + len(smooth)]], smooth, color=BLUE, linewidth=1.2)


def plot_entries(axes: Axes, tree: dict[str, Any]) -> None:
    """Accuracy of each answerer with its interval, the best on top; the main one in colour."""
    known = []
    for entry in tree["entries"]:
        if entry["figures"]["accuracy"]["value"] is not None:
            known.append(entry)
    known.sort(key=lambda entry: entry["figures"]["accuracy"]["value"])
    for place, entry in enumerate(known):
        found = entry["figures"]["accuracy"]
        color = GREY
        if entry["name"] == tree["main"]:
            color = BLUE
        axes.errorbar(
            found["value"], place, xerr=_errors([found]), color=color, fmt="o", markersize=4, linewidth=1.5
        )
    axes.set_yticks(range(len(known)), [entry["name"] for entry in known])
    axes.axvline(0.5, color=INK, linewidth=0.6)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")


def plot_accuracy(axes: Axes, per_date: dict[str, Any], main: str) -> None:
    """Accuracy of the main answerer and the share that rose, by date."""
    days = _days(per_date["origins"])
    axes.plot(days, np.array(per_date["true_rises"], np.float64), color=GREY, linewidth=1)
    _dots_and_line(axes, days, _values(per_date, main, "accuracy"))
    _half(axes)


def plot_within(axes: Axes, per_date: dict[str, Any], main: str) -> None:
    """Within-date accuracy of the main answerer by date, even around 50 %."""
    values = _values(per_date, main, "within_date_accuracy")
    _dots_and_line(axes, _days(per_date["origins"]), values)
    _half(axes)
    known = np.abs(values[np.isfinite(values)] - 0.5)
    far = float(np.max(known, initial=0.02))
    axes.set_ylim(0.5 - 1.1 * far, 0.5 + 1.1 * far)


def _half(axes: Axes) -> None:
    axes.axhline(0.5, color=INK, linewidth=0.6)
    percent(axes)
    axes.tick_params(axis="x", labelrotation=20)


def plot_reliability(axes: Axes, reliability: dict[str, Any]) -> None:
    """P(rise) against the share that rose, inside [0, 1], before and after the decision."""
    seen_at: list[float] = []
    for name, color in (("raw", GREY), ("decided", BLUE)):
        if not reliability.get(name):
            continue
        bins = [b for b in reliability[name]["bins"] if b["observed"]["value"] is not None]
        at = np.clip([b["predicted"] for b in bins], 0.0, 1.0).tolist()
        seen = [b["observed"]["value"] for b in bins]
        axes.errorbar(
            at,
            seen,
            yerr=_errors([b["observed"] for b in bins]),
            color=color,
            fmt="o-",
            markersize=3,
            linewidth=1,
        )
        seen_at += at
        ece = reliability[name]["ece"]["value"]
        axes.plot([], [], color=color, label=f"{name}, ECE {number('ece', ece)}")
    ends = [min(seen_at, default=0.0), max(seen_at, default=1.0)]
    axes.plot(ends, ends, color=INK, linewidth=0.6)
    for limits, change in ((axes.get_xlim(), axes.set_xlim), (axes.get_ylim(), axes.set_ylim)):
        change(max(0.0, limits[0]), min(1.0, limits[1]))
    axes.set_xlabel("P(rise)")
    axes.set_ylabel("share that rose")
    axes.legend(frameon=False)


def _errors(intervals: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Lengths below and above the values, (2, n); 0 where there is no interval, or no value."""
    below, above = [], []
    for i in intervals:
        sure = i["value"] is not None and i["low"] is not None
        below.append(
            max(0.0, i["value"] - i["low"]) if sure else 0.0
        )  # rounding alone may bring an end past the value
        above.append(max(0.0, i["high"] - i["value"]) if sure else 0.0)
    return np.array([below, above])


def plot_years(axes: Axes, by_year: list[dict[str, Any]]) -> None:
    """Rank IC of each year with its interval."""
    years = [y["year"] for y in by_year]
    values = [y["figures"]["rank_ic"] for y in by_year]
    heights = [v["value"] if v["value"] is not None else 0.0 for v in values]
    axes.bar(years, heights, color=BLUE, width=0.5, alpha=0.6)
    axes.errorbar(years, heights, yerr=_errors(values), color=INK, fmt="none", linewidth=1, capsize=2)
    axes.axhline(0, color=INK, linewidth=0.6)
    axes.set_xticks(years, [str(year) for year in years])
    axes.set_xlim(min(years) - 0.8, max(years) + 0.8)


def plot_horizons(axes: Axes, terms: list[dict[str, Any]]) -> None:
    """Rank IC at each horizon of one forecast."""
    known = [row for row in terms if row["rank_ic"]["value"] is not None]
    found = [row["rank_ic"] for row in known]
    at = [row["horizon"] for row in known]
    heights = [i["value"] for i in found]
    axes.errorbar(at, heights, yerr=_errors(found), color=BLUE, fmt="o-", markersize=3, linewidth=1)
    axes.axhline(0, color=INK, linewidth=0.6)
    axes.set_xlabel("trading days ahead")


def plot_coverage(axes: Axes, figures: dict[str, Any]) -> None:
    """Share of closes inside each band, beside the share that it promises."""
    levels = [
        level for level in (50, 80, 90) if f"coverage_{level}" in figures
    ]  # few paths have no wide band
    found = [figures[f"coverage_{level}"] for level in levels]
    names = [f"{level} % band" for level in levels]
    axes.barh(
        names, [f["value"] for f in found], xerr=_errors(found), color=BLUE, height=0.5, alpha=0.6, ecolor=INK
    )
    for place, level in enumerate(levels):
        axes.plot([level / 100] * 2, [place - 0.35, place + 0.35], color=RED, linewidth=2)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")


def plot_timeline(axes: Axes, blocks: list[dict[str, Any]]) -> None:
    """The blocks of days: training, validation, calibration, test."""
    for place, block in enumerate(reversed(blocks)):
        first, last = (
            np.array([block["first"], block["last"]], dtype="datetime64[D]")
            .astype("datetime64[s]")
            .astype(object)
        )
        axes.barh(place, last - first, left=first, height=0.6, color=PHASES.get(block["name"], GREY))
    axes.set_yticks(range(len(blocks)), [f"{b['name']} ({b['days']:,} days)" for b in reversed(blocks)])
    axes.xaxis_date()


def plot_example(axes: Axes, example: dict[str, Any]) -> None:
    """Candles of what was known (left of 0) and of what happened, over the fan of the paths."""
    past, future = (_bars(example[key]) for key in ("history", "future"))
    quantiles = {
        int(q): np.array([example["last_close"], *closes])
        for q, closes in example["forecast"]["quantiles"].items()
    }
    steps = np.arange(len(quantiles[50]))
    for low, high, alpha in ((5, 95, 0.15), (25, 75, 0.3)):
        axes.fill_between(steps, quantiles[low], quantiles[high], color=BLUE, alpha=alpha, linewidth=0)
    axes.plot(steps, quantiles[50], color=INK, linewidth=1.2)
    draw_candles(axes, past, np.arange(1 - len(past), 1))
    draw_candles(axes, future, np.arange(1, len(future) + 1))
    axes.axvline(0.5, color=GREY, linewidth=0.8)
    axes.axhline(example["last_close"], color=GREY, linewidth=0.8, linestyle=":")
    axes.set_xlabel("bars from the origin")


def _bars(bars: dict[str, Any]) -> NDArray[np.float64]:
    return np.array([bars[name] for name in ("open", "high", "low", "close")], dtype=np.float64).T
