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
from kronos.page import draw, percent
from kronos.palette import BLUE, GREY, INK, OTHERS, RED

LINES = (BLUE, RED, *OTHERS)
SHOWN = (
    "excess after cost",
    "excess before cost",
    "information ratio",
    "Sharpe ratio",
    "volatility",
    "turnover",
    "cost",
    "break-even cost",
    "days won",
    "holding",
    "held",
    "cash",
    "beta",
)
"""Figures of the table, in this order."""


def write_page(tree: dict[str, Any], path: str | Path) -> Path:
    """Write the page of a portfolio.json tree atomically. Returns its path."""
    first = tree["signals"][0]
    page.write(
        path,
        "kronos.portfolio",
        title=f"Portfolio: {', '.join(signal['name'] for signal in tree['signals'])}",
        tree=tree,
        headline=_headline(first),
        facts=_facts(tree, first),
        columns=SHOWN,
        rows=[_row(signal) for signal in tree["signals"]],
        figures=list(_figures(tree)),
        meanings={name: figure["meaning"] for name, figure in first["figures"].items()},
    )
    return Path(path)


def _headline(signal: dict[str, Any]) -> tuple[str, str]:
    """Class of the verdict's frame, and the verdict."""
    figure = signal["figures"]["information ratio"]
    shown = cell(figure)
    if figure["low"] is None:
        return "skip", f"Too few days to tell: information ratio {shown} after cost."
    if figure["low"] > 0:
        return "ok", f"{signal['name']} earned more than the benchmark after cost: information ratio {shown}."
    if figure["high"] < 0:
        return (
            "fail",
            f"{signal['name']} earned less than the benchmark after cost: information ratio {shown}.",
        )
    return (
        "skip",
        f"No evidence that {signal['name']} beats the benchmark after cost: information ratio {shown}.",
    )


def _facts(tree: dict[str, Any], signal: dict[str, Any]) -> dict[str, str]:
    names = ("excess after cost", "excess before cost", "turnover")
    shown = {name: _value(signal["figures"][name]) for name in names}
    fall = signal["facts"]["largest drawdown"]["value"]
    return (
        {"days": f"{tree['days']['count']:,}"}
        | shown
        | {"largest drawdown": f"{fall:.1%}".replace("%", " %")}
    )


def _value(figure: dict[str, Any]) -> str:
    value = figure["value"]
    if value is None:
        return "not defined"
    if figure["unit"] == "share":
        return f"{value:+.1%}".replace("%", " %")
    return f"{value:+.2f}" if figure["unit"] == "ratio" else f"{value:.1f}"


def cell(figure: dict[str, Any]) -> str:
    """A figure with its interval in brackets, where it has one."""
    if figure["low"] is None or figure["high"] is None:
        return _value(figure)
    ends = [_value({"value": figure[end], "unit": figure["unit"]}) for end in ("low", "high")]
    return f"{_value(figure)} [{ends[0]}, {ends[1]}]"


def _row(signal: dict[str, Any]) -> tuple[str, list[str]]:
    cells = []
    for name in SHOWN:
        figure = signal["figures"].get(name)
        cells.append(cell(figure) if figure else "–")
    deflated = signal["facts"].get("deflated Sharpe")
    note = (
        ""
        if deflated is None
        else f" (deflated Sharpe {deflated['probability']:.2f} of {deflated['tried']} tries)"
    )
    return signal["name"] + note, cells


# -- figures -------------------------------------------------------------------------------------------------
def _figures(tree: dict[str, Any]) -> Iterator[tuple[str, str, Markup]]:
    """(title, what it says, SVG) of each plot."""
    noise = tree["noise"].get("signals", 0)
    yield (
        "Excess after cost, summed",
        "Daily returns less the benchmark's, added up (not compounded). "
        f"Grey: all {noise} signals of noise that change as slowly. A curve inside the grey shows nothing.",
        draw(lambda axes: _plot_excess(axes, tree)),
    )
    yield (
        "Fall from the peak",
        "Of the compounded value after cost.",
        draw(lambda axes: _plot_falls(axes, tree)),
    )
    quantiles = tree["signals"][0]["facts"]["quantiles"]
    if quantiles:
        yield (
            "Quantiles of the score",
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


def _days(tree: dict[str, Any]) -> Any:
    return np.array(tree["dates"], "datetime64[D]")


def _plot_excess(axes: Axes, tree: dict[str, Any]) -> None:
    days = _days(tree)
    if tree["noise"]:
        curves = tree["noise"]["curves"]
        axes.fill_between(days, curves["low"], curves["high"], color=GREY, alpha=0.5, linewidth=0)
    for colour, signal in zip(LINES, tree["signals"], strict=False):
        axes.plot(days, signal["summed excess by day"], color=colour, linewidth=1.2, label=signal["name"])
    axes.axhline(0, color=INK, linewidth=0.6)
    axes.legend(frameon=False, loc="upper left")
    percent(axes)


def _plot_falls(axes: Axes, tree: dict[str, Any]) -> None:
    for colour, signal in zip(LINES, tree["signals"], strict=False):
        curve = 1 + np.array(signal["compounded by day"])
        peak = np.maximum.accumulate(np.maximum(curve, 1.0))
        axes.plot(_days(tree), curve / peak - 1, color=colour, linewidth=1.0, label=signal["name"])
    percent(axes)


def _plot_quantiles(axes: Axes, tree: dict[str, Any], curves: list[list[float]]) -> None:
    shades = np.linspace(0.35, 1.0, len(curves))
    for number, (curve, shade) in enumerate(zip(curves, shades, strict=True), start=1):
        axes.plot(_days(tree), curve, color=BLUE, alpha=shade, linewidth=1.1, label=f"{number}")
    axes.legend(
        frameon=False, loc="upper left", ncols=len(curves), title="lowest to highest", title_fontsize=8
    )
    percent(axes)


def _plot_decay(axes: Axes, tree: dict[str, Any]) -> None:
    for place, (colour, signal) in enumerate(zip(LINES, tree["signals"], strict=False)):
        found = signal["facts"]["rank IC by days ahead"]
        for number, interval in enumerate(found.values()):
            if interval["value"] is None:
                continue
            x = number + 0.12 * place
            axes.plot([x], [interval["value"]], "o", color=colour, markersize=4)
            if interval["low"] is not None:
                axes.plot([x, x], [interval["low"], interval["high"]], color=colour, linewidth=1.2)
        axes.set_xticks(range(len(found)), list(found))
    axes.axhline(0, color=INK, linewidth=0.6)
    axes.set_xlabel("days ahead")


def _plot_turnover(axes: Axes, tree: dict[str, Any]) -> None:
    for colour, signal in zip(LINES, tree["signals"], strict=False):
        values = np.array(signal["turnover by day"])
        width = min(20, len(values))
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        axes.plot(_days(tree)[width - 1 :], smooth, color=colour, linewidth=1.0)
    percent(axes)
