"""What answers earned, in a backtest's report: words, table and the curve over the band of luck.

In: the part `portfolio` of report.json, which scripts/run_portfolio.py adds, or the tree of portfolio.json. Out:
text and a plot. It computes no figure.
"""

from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from kronos.page import draw, percent
from kronos.palette import BLUE, GREY, INK, OTHERS, RED

LINES = (BLUE, RED, *OTHERS)
LEVEL = 0.05
"""p-value up to which a verdict says that a signal earned more than its benchmark."""
SHORT = ("excess before cost", "excess after cost", "information ratio", "turnover", "break-even cost")
"""Figures of the table in a backtest's report; the others stand on the portfolio's own page."""


def section(tree: dict[str, Any]) -> dict[str, Any]:
    """What the template shows. tree: the part `portfolio` of report.json."""
    return {
        "headline": headline(tree),
        "about": about(tree),
        "columns": SHORT,
        "rows": [(signal["name"], cells(signal, SHORT)) for signal in tree["signals"]],
        "lines": tree["lines"],
        "figure": excess_figure(tree),
    }


def about(tree: dict[str, Any]) -> str:
    """Days, rules and strategy, in one line."""
    request, plan = tree["request"], tree["request"]["plan"]
    return (
        f"{tree['days']['first']} to {tree['days']['last']} · rules {tree['rules']['name']} · best {plan['topk']}, at most "
        f"{plan['drop']} exchanged a day, held {plan['hold']} days · benchmark {request['benchmark']} · "
        f"dealt at the {plan['deal']} after the score"
    )


def headline(tree: dict[str, Any]) -> tuple[str, str]:
    """Class of the verdict's frame, and the verdict: of the best signal, corrected for all that were tried.

    One signal is judged by its interval. The best of several is judged by its p-value times their number
    (Bonferroni), so that the verdict of skill is as rare for many tries as for one.
    """
    best, tries = drawn(tree)[0], tree["tried"]["signals"]
    figure, name = best["figures"]["information ratio"], best["name"]
    ratio = f"information ratio {cell(figure)}"
    if figure["low"] is None or figure["p"] is None:
        return "skip", f"Too few days to tell: {name} has an {ratio} after cost."
    p = min(1.0, figure["p"] * tries)
    among = f", p {p:.3f} for the best of {tries} tries" if tries > 1 else ""
    if figure["low"] > 0 and p <= LEVEL:
        return "ok", f"{name} earned more than the benchmark after cost: {ratio}{among}."
    if figure["high"] < 0:
        best_of = f"{name}, the best of {tries} tries," if tries > 1 else name
        return "fail", f"{best_of} earned less than the benchmark after cost: {ratio}."
    return "skip", f"No evidence that {name} beats the benchmark after cost: {ratio}{among}."


def drawn(tree: dict[str, Any]) -> list[dict[str, Any]]:
    """The signals that have a colour of their own: of many the best by information ratio, best first."""

    def ratio(signal: dict[str, Any]) -> float:
        value = signal["figures"]["information ratio"]["value"]
        return -np.inf if value is None else value

    return sorted(tree["signals"], key=ratio, reverse=True)[: len(LINES)]


def excess_figure(tree: dict[str, Any]) -> tuple[str, str, Markup]:
    """(title, what it says, SVG) of the summed excess over the band of noise."""
    count, noise = len(tree["signals"]), tree["noise"].get("signals", 0)
    few = f" The {len(LINES)} best of {count} signals." if count > len(LINES) else ""
    return (
        "Excess after cost, summed",
        "Daily returns less the benchmark's, added up (not compounded). "
        f"Grey: all {noise} signals of noise that change as slowly. A curve inside the grey shows nothing.{few}",
        draw(lambda axes: _plot_excess(axes, tree)),
    )


def days_of(tree: dict[str, Any]) -> Any:
    """(T,) the days of the curves."""
    return np.array(tree["dates"], "datetime64[D]")


def _plot_excess(axes: Axes, tree: dict[str, Any]) -> None:
    days = days_of(tree)
    if tree["noise"]:
        curves = tree["noise"]["curves"]
        axes.fill_between(days, curves["low"], curves["high"], color=GREY, alpha=0.5, linewidth=0)
    for colour, signal in zip(LINES, drawn(tree), strict=False):
        axes.plot(days, signal["summed excess by day"], color=colour, linewidth=1.2, label=signal["name"])
    axes.axhline(0, color=INK, linewidth=0.6)
    axes.legend(frameon=False, loc="best")
    axes.tick_params(axis="x", labelrotation=20)
    percent(axes)


def cells(signal: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    """Figures of a signal with their intervals; a dash for one that it does not have."""
    found = [signal["figures"].get(name) for name in names]
    return ["–" if figure is None else cell(figure) for figure in found]


def cell(figure: dict[str, Any]) -> str:
    """A figure with its interval in brackets, where it has one."""
    unit = figure.get("unit", "ratio")
    if figure["low"] is None or figure["high"] is None:
        return shown(figure["value"], unit)
    return f"{shown(figure['value'], unit)} [{shown(figure['low'], unit)}, {shown(figure['high'], unit)}]"


def shown(value: float | None, unit: str) -> str:
    """A number in its unit: 'share' in per cent with its sign, 'part' in per cent."""
    if value is None:
        return "not defined"
    if unit == "part":
        return f"{value:.1%}".replace("%", " %")
    if unit == "share":
        return f"{value:+.1%}".replace("%", " %")
    return f"{value:+.2f}" if unit == "ratio" else f"{value:.1f}"
