"""The portfolio as one HTML page: what was earned after cost, beside the band of luck, then everything that
it rests on.

In: the tree of portfolio.json (docs/portfolio.md). Out: one page that opens without a network. It computes no
figure.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from kronos import page
from kronos.evaluation.earned import LINES, about, cell, cells, days_of, drawn, excess_figure, headline, shown
from kronos.page import draw, percent
from kronos.palette import BLUE, INK

SHOWN = (
    "return",
    "excess after cost",
    "excess before cost",
    "information ratio",
    "information ratio before cost",
    "Sharpe ratio",
    "volatility",
    "turnover",
    "cost",
    "break-even cost",
    "days won",
    "positions won",
    "holding",
    "held",
    "cash",
    "beta",
    "alpha",
)
"""Figures of the first table, in this order."""


def write_page(tree: dict[str, Any], path: str | Path) -> Path:
    """Write the page of a portfolio.json tree atomically. Returns its path."""
    best, first = drawn(tree)[0], tree["signals"][0]
    names = [signal["name"] for signal in tree["signals"]]
    page.write(
        path,
        "kronos.portfolio",
        title=f"Portfolio: {', '.join(names[:4])}{' and more' if len(names) > 4 else ''}",
        tree=tree,
        about=about(tree),
        headline=headline(tree),
        facts=_facts(tree, best),
        names=names,
        rows=[(name, *_line(tree, name)) for name in SHOWN if name in first["figures"]],
        more=list(_more(tree)),
        figures=list(_figures(tree)),
    )
    return Path(path)


def _facts(tree: dict[str, Any], signal: dict[str, Any]) -> dict[str, str]:
    """What stands in the boxes at the top."""
    names = ("excess after cost", "excess before cost", "turnover")
    found = {"days": f"{tree['days']['count']:,}"}
    for name in names:
        figure = signal["figures"][name]
        found[name] = shown(figure["value"], figure["unit"])
    found["largest drawdown"] = shown(signal["facts"]["largest drawdown"]["value"], "share")
    return found


def _line(tree: dict[str, Any], name: str) -> tuple[str, list[str]]:
    """(meaning, cell of each signal) of a figure."""
    meaning = tree["signals"][0]["figures"][name]["meaning"]
    return meaning, [cells(signal, (name,))[0] for signal in tree["signals"]]


Line = tuple[str, str, list[str]]
"""(name, meaning, cell of each signal)"""


def _more(tree: dict[str, Any]) -> Iterator[Line]:
    """What is told beside the figures."""
    facts = [signal["facts"] for signal in tree["signals"]]
    falls = [fact["largest drawdown"] for fact in facts]
    words = "of the compounded value after cost: from its peak to its bottom"
    shares = [f"{shown(fall['value'], 'share')} ({fall['from']} to {fall['to']})" for fall in falls]
    yield "largest drawdown", words, shares
    yield "return, compounded", "of all days", [shown(fact["compounded return"], "share") for fact in facts]
    yield (
        "excess, summed",
        "of all days, after cost",
        [shown(fact["summed excess"], "share") for fact in facts],
    )
    words = "P(better than the best of as many tries without skill)"
    yield "deflated Sharpe", words, [_deflated(fact["deflated Sharpe"]) for fact in facts]
    yield from _of_the_signal(facts)
    yield from _of_groups([fact["quantiles"] for fact in facts])
    sleeves = [cell(fact["sleeves"]["return a year after cost"] | {"unit": "share"}) for fact in facts]
    yield "overlapping sleeves", "return a year after cost, each stock held for exactly the days", sleeves
    words = "one order as a share of the money dealt in a stock on a median day"
    for account in facts[0]["capacity"]:
        yield f"capacity, {account}", words, [shown(f["capacity"][account], "part") for f in facts]


def _of_the_signal(facts: list[dict[str, Any]]) -> Iterator[Line]:
    """Rank IC, autocorrelation and exposures."""
    words = "rank correlation of the score with the return of so many days that begin with the next close"
    for days in facts[0]["rank IC by days ahead"]:
        values = [_ratio(fact["rank IC by days ahead"][days]) for fact in facts]
        yield f"rank IC, {days} days ahead", words, values
    words = "rank correlation of the scores of one day with those of the next"
    yield "autocorrelation", words, [_ratio(fact["autocorrelation"]) for fact in facts]
    words = "mean rank of the best stocks in it, from -0.5 (lowest) to 0.5 (highest)"
    for name in facts[0]["exposure"]:
        yield f"exposure to {name}", words, [_ratio(fact["exposure"][name]) for fact in facts]


def _of_groups(groups: list[dict[str, Any]]) -> Iterator[Line]:
    """Quantile portfolios."""
    spreads, steps = [], []
    for group in groups:
        spreads.append(cell(group["highest less lowest"] | {"unit": "share"}) if group else "–")
        steps.append(shown(group["monotonicity"], "ratio") if group else "–")
    yield "highest less lowest quantile", "equal weights, before cost, a year", spreads
    yield "monotonicity", "1: each quantile earned more than the one below", steps


def _ratio(figure: dict[str, Any]) -> str:
    """A figure with three digits and its interval."""
    if figure["value"] is None:
        return "not defined"
    if figure["low"] is None:
        return f"{figure['value']:+.3f}"
    return f"{figure['value']:+.3f} [{figure['low']:+.3f}, {figure['high']:+.3f}]"


def _deflated(found: dict[str, Any] | None) -> str:
    """The deflated Sharpe ratio and its number of tries."""
    return "one try" if found is None else f"{found['probability']:.2f} of {found['tried']} tries"


# -- figures -------------------------------------------------------------------------------------------------
def _figures(tree: dict[str, Any]) -> Iterator[tuple[str, str, Markup]]:
    """(title, what it says, SVG) of each plot."""
    best = drawn(tree)[0]
    yield excess_figure(tree)
    yield (
        "Fall from the peak",
        "Of the compounded value after cost.",
        draw(lambda axes: _plot_falls(axes, tree)),
    )
    quantiles = best["facts"]["quantiles"]
    if quantiles:
        yield (
            f"Quantiles of {best['name']}",
            "Equal-weighted, before cost, summed. A signal that ranks well orders them from bottom to top.",
            draw(lambda axes: _plot_quantiles(axes, tree, quantiles["curves"])),
        )
    yield (
        "Rank IC by days ahead",
        "Rank correlation of the score with the return that follows, with 95 % intervals.",
        draw(lambda axes: _plot_decay(axes, tree)),
    )
    yield (
        "Turnover",
        "Purchases and sales of a day as a share of the value; mean of 20 days.",
        draw(lambda axes: _plot_turnover(axes, tree)),
    )
    yield (
        "Exposure",
        "Mean rank of the best stocks in what usually explains returns, with 95 % intervals; 0 is like the market.",
        draw(lambda axes: _plot_exposure(axes, tree)),
    )


def _plot_falls(axes: Axes, tree: dict[str, Any]) -> None:
    """How far below its peak each portfolio stood."""
    for colour, signal in zip(LINES, drawn(tree), strict=False):
        curve = 1 + np.array(signal["compounded by day"])
        peak = np.maximum.accumulate(np.maximum(curve, 1.0))
        axes.plot(days_of(tree), curve / peak - 1, color=colour, linewidth=1.0, label=signal["name"])
    axes.tick_params(axis="x", labelrotation=20)
    percent(axes)


def _plot_quantiles(axes: Axes, tree: dict[str, Any], curves: list[list[float]]) -> None:
    """One curve for each quantile, the highest darkest."""
    shades = np.linspace(0.35, 1.0, len(curves))
    for number, (curve, shade) in enumerate(zip(curves, shades, strict=True), start=1):
        axes.plot(days_of(tree), curve, color=BLUE, alpha=shade, linewidth=1.1, label=f"{number}")
    axes.legend(frameon=False, loc="best", ncols=len(curves), title="lowest to highest", title_fontsize=8)
    axes.tick_params(axis="x", labelrotation=20)
    percent(axes)


def _plot_decay(axes: Axes, tree: dict[str, Any]) -> None:
    """Rank IC by days ahead."""
    horizons = list(tree["signals"][0]["facts"]["rank IC by days ahead"])
    for place, (colour, signal) in enumerate(zip(LINES, drawn(tree), strict=False)):
        found = [signal["facts"]["rank IC by days ahead"][horizon] for horizon in horizons]
        _plot_intervals(axes, found, 0.12 * place, colour)
    axes.set_xticks(range(len(horizons)), horizons)
    axes.axhline(0, color=INK, linewidth=0.6)
    axes.set_xlabel("days ahead")


def _plot_exposure(axes: Axes, tree: dict[str, Any]) -> None:
    """Exposures of each signal."""
    names = list(tree["signals"][0]["facts"]["exposure"])
    for place, (colour, signal) in enumerate(zip(LINES, drawn(tree), strict=False)):
        found = [signal["facts"]["exposure"][name] for name in names]
        _plot_intervals(axes, found, 0.12 * place, colour)
    axes.set_xticks(range(len(names)), names)
    axes.axhline(0, color=INK, linewidth=0.6)


def _plot_intervals(axes: Axes, found: list[dict[str, Any]], shift: float, colour: str) -> None:
    """A dot and its interval for each figure that is defined, side by side."""
    for number, interval in enumerate(found):
        if interval["value"] is None:
            continue
        axes.plot([number + shift], [interval["value"]], "o", color=colour, markersize=4)
        if interval["low"] is not None:
            axes.plot([number + shift] * 2, [interval["low"], interval["high"]], color=colour, linewidth=1.2)


def _plot_turnover(axes: Axes, tree: dict[str, Any]) -> None:
    """Turnover, mean of 20 days."""
    for colour, signal in zip(LINES, drawn(tree), strict=False):
        values = np.array(signal["turnover by day"])
        width = min(20, len(values))
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        axes.plot(days_of(tree)[width - 1 :], smooth, color=colour, linewidth=1.0)
    axes.tick_params(axis="x", labelrotation=20)
    percent(axes)
