"""The backtest as one HTML page: the verdict first, then everything that it rests on.

In: the tree of report.json (docs/evaluation.md). Out: one self-contained page, figures embedded as SVG, for a
screen and for paper. It computes nothing but a smoothed line: every number on it stands in report.json.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from kronos import page
from kronos.evaluation.earned import section
from kronos.forecasting.plot import draw_candles
from kronos.page import draw, percent
from kronos.palette import BLUE, GREY, INK, RED

COLUMNS = {
    "accuracy": "accuracy",
    "within_date_accuracy": "within date",
    "rank_ic": "rank IC",
    "auc": "AUC",
    "brier": "Brier",
    "log_loss": "log loss",
    "predicted_rises": "rises said",
    "crps": "CRPS",
    "price_mae_ratio": "MAE ratio",
    "coverage_90": "90 % band",
}
"""Figures of the table and their short names; the others stand in report.json."""
PERCENT = {"accuracy", "within_date_accuracy", "balanced_accuracy", "predicted_rises", "true_rises"} | {
    f"coverage_{level}" for level in (50, 80, 90)
}
COMPARED = ("accuracy", "within_date_accuracy", "rank_ic")
SKILL = {1: "ok", 0: "skip", -1: "fail"}
SMOOTH = 9
"""Dates of the line that smooths figures per date."""
PHASES = {"train": BLUE, "validation": "#7aa6c8", "calibrate": "#d9a441", "test": RED}
"""Blocks of the time line that are coloured; the others are gaps."""


def write_page(tree: dict[str, Any], path: str | Path) -> Path:
    """Write the page of a report.json tree atomically. Returns its path."""
    page.write(
        path,
        "kronos.evaluation",
        title=f"Backtest: {tree['title']}",
        tree=tree,
        facts=_facts(tree),
        verdict=(SKILL[tree["verdict"]["skill"]], tree["verdict"]["headline"]),
        columns={name: (short, tree["figures"][name]) for name, short in COLUMNS.items()},
        rows=[_row(entry, tree["main"]) for entry in tree["entries"]],
        comparisons=[
            (COLUMNS[name], list(_comparisons(tree, name)))
            for name in COMPARED
            if tree["comparisons"].get(name)
        ],
        expected=[_expected(row) for row in tree["expected"]],
        decisions=[_decided(name, d) for name, d in tree["decisions"].items()],
        thirds=[
            (
                t["by"],
                t["third"],
                f"{t['rows']:,}",
                number("rank_ic", t["rank_ic"]["value"]),
                spread("rank_ic", t["rank_ic"]),
            )
            for t in tree["by_third"]
        ],
        figures=list(_figures(tree)),
        timeline=draw(lambda axes: _plot_timeline(axes, tree["timeline"]), size=(11.4, 1.6)),
        tickers=[
            (name, [_ticker(t) for t in tree["tickers"][key]])
            for name, key in (("Best", "best"), ("Worst", "worst"))
        ],
        examples=[(_caption(e), draw(lambda axes, e=e: _plot_example(axes, e))) for e in tree["examples"]],  # type: ignore[misc]
        config=json.dumps(tree["config"], indent=1),
        earned=section(tree["portfolio"]) if tree.get("portfolio") else None,
    )
    return Path(path)


# -- text ----------------------------------------------------------------------------------------------------
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


def _facts(tree: dict[str, Any]) -> dict[str, str]:
    dates = tree["dates"]
    main = _entry(tree, tree["main"])["figures"]
    shown = {COLUMNS[name]: number(name, main[name]["value"]) for name in COMPARED if name in main}
    scored = {
        "test dates": f"{dates['test']:,}",
        "without overlap": f"{dates['effective']:,}",
        "rows": f"{dates['rows']:,}",
    }
    return (
        scored | {"horizon": f"{dates['horizon']} days", "from": dates["first"], "to": dates["last"]} | shown
    )


def _entry(tree: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in tree["entries"] if entry["name"] == name)


def _row(entry: dict[str, Any], main: str) -> dict[str, Any]:
    """One line of the table: every cell is (figure, interval)."""
    figures = entry["figures"]
    cells = [
        (number(name, figures[name]["value"]), spread(name, figures[name])) if name in figures else ("", "")
        for name in COLUMNS
    ]
    note = "; ".join(
        filter(
            None,
            [entry["note"], f"{entry['fallback']:,} rows answered without it" if entry["fallback"] else ""],
        )
    )
    return {
        "name": entry["name"],
        "kind": entry["kind"],
        "note": note,
        "cells": cells,
        "main": entry["name"] == main,
    }


def _expected(row: dict[str, Any]) -> tuple[str, str, str]:
    """(answerer, expected accuracy, its interval)"""
    return row["name"], number("accuracy", row["value"]), spread("accuracy", row)


def _decided(name: str, d: dict[str, Any]) -> tuple[str, ...]:
    """(answerer, level as a share, slope, its estimate, date slope, answers changed by a shift, note)"""
    level = f"{1 / (1 + np.exp(-d['level'])):.1%}".replace("%", " %")
    estimate = "–" if d["slope_error"] is None else f"{d['fitted_slope']:.3f} ± {d['slope_error']:.3f}"
    return (
        name,
        level,
        f"{d['slope']:.3f}",
        estimate,
        f"{d['date_slope']:.3f}",
        f"{d['answers_changed_by_shift']:,}",
        d["note"],
    )


def _comparisons(tree: dict[str, Any], name: str) -> Iterator[tuple[str, str, str, str, str]]:
    """(baseline, difference, its interval, p after Holm, verdict)"""
    points = 100 if name in PERCENT else 1
    for c in tree["comparisons"][name]:
        d = c["difference"]
        low_high = "" if d["low"] is None else f"{d['low'] * points:+.2f} to {d['high'] * points:+.2f}"
        p = "" if c["p_holm"] is None else f"{c['p_holm']:.3f}"
        yield c["baseline"], f"{d['value'] * points:+.2f}", low_high, p, c["words"]


def _ticker(t: dict[str, Any]) -> tuple[str, str, str, str]:
    return (
        t["ticker"],
        f"{t['dates']:,}",
        number("accuracy", t["accuracy"]),
        number("accuracy", t["within_date_accuracy"]),
    )


def _caption(example: dict[str, Any]) -> str:
    answer = "rise" if example["pred"] else "fall"
    right = "right" if example["pred"] == example["label"] else "wrong"
    return f"{example['ticker']}, {example['origin']} to {example['target']}: P(rise) {example['prob_up']:.2f}, {answer}, {right}"


# -- figures -------------------------------------------------------------------------------------------------
def _figures(tree: dict[str, Any]) -> Iterator[tuple[str, str, Markup]]:
    """(title, what it says, SVG) of each plot."""
    main, per_date = tree["main"], tree["per_date"]
    constants = [e["name"] for e in tree["entries"] if e["kind"] == "constant"]
    yield (
        "Accuracy per date",
        f"Dots: {main} on each date; line: mean of {SMOOTH} dates; grey: the share that rose, which is what 'all rise' scores. "
        f"{'A constant answer swings this far by the market alone.' if constants else ''}",
        draw(lambda axes: _plot_accuracy(axes, per_date, main)),
    )
    yield (
        "Within-date accuracy",
        "Against the date's median return, so that the market's direction does not count; 50 % knows nothing.",
        draw(lambda axes: _plot_within(axes, per_date, main)),
    )
    if any(tree["reliability"].values()):
        yield (
            "Reliability",
            "Ten bins of equally many rows by P(rise) less the date's mean, and how many rose, less the date's share; both plus "
            "the mean share of rises. 95 % bands over dates. On the line is calibrated.",
            draw(lambda axes: _plot_reliability(axes, tree["reliability"])),
        )
    yield (
        "Rank IC by year",
        "Spearman correlation of score and return within a date, its mean and 95 % interval over the dates of a year.",
        draw(lambda axes: _plot_years(axes, tree["by_year"])),
    )
    terms = [row for row in tree["by_horizon"] if row["name"] == main]
    if len(terms) > 1:
        text = "Rank IC of one forecast at each horizon that it speaks of, with 95 % intervals over the same dates."
        yield "Rank IC by horizon", text, draw(lambda axes: _plot_horizons(axes, terms))
    figures = _entry(tree, main)["figures"]
    if "coverage_90" in figures:
        text = "How many closes fell inside the paths' central bands, with 95 % intervals; on the marks is honest."
        yield "Coverage", text, draw(lambda axes: _plot_coverage(axes, figures))


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


def _plot_accuracy(axes: Axes, per_date: dict[str, Any], main: str) -> None:
    days = _days(per_date["origins"])
    axes.plot(days, np.array(per_date["true_rises"], np.float64), color=GREY, linewidth=1)
    _dots_and_line(axes, days, _values(per_date, main, "accuracy"))
    _half(axes)


def _plot_within(axes: Axes, per_date: dict[str, Any], main: str) -> None:
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


def _plot_reliability(axes: Axes, reliability: dict[str, Any]) -> None:
    seen_at: list[float] = []
    for name, color in (("raw", GREY), ("decided", BLUE)):
        if not reliability.get(name):
            continue
        bins = [b for b in reliability[name]["bins"] if b["observed"]["value"] is not None]
        at, seen = [b["predicted"] for b in bins], [b["observed"]["value"] for b in bins]
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
        axes.plot([], [], color=color, label=f"{name}, ECE {number('', ece)}")
    ends = [min(seen_at, default=0.0), max(seen_at, default=1.0)]
    axes.plot(ends, ends, color=INK, linewidth=0.6)
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


def _plot_years(axes: Axes, by_year: list[dict[str, Any]]) -> None:
    years = [y["year"] for y in by_year]
    values = [y["figures"]["rank_ic"] for y in by_year]
    heights = [v["value"] if v["value"] is not None else 0.0 for v in values]
    axes.bar(years, heights, color=BLUE, width=0.5, alpha=0.6)
    axes.errorbar(years, heights, yerr=_errors(values), color=INK, fmt="none", linewidth=1, capsize=2)
    axes.axhline(0, color=INK, linewidth=0.6)
    axes.set_xticks(years, [str(year) for year in years])
    axes.set_xlim(min(years) - 0.8, max(years) + 0.8)


def _plot_horizons(axes: Axes, terms: list[dict[str, Any]]) -> None:
    known = [row for row in terms if row["rank_ic"]["value"] is not None]
    found = [row["rank_ic"] for row in known]
    at = [row["horizon"] for row in known]
    heights = [i["value"] for i in found]
    axes.errorbar(at, heights, yerr=_errors(found), color=BLUE, fmt="o-", markersize=3, linewidth=1)
    axes.axhline(0, color=INK, linewidth=0.6)
    axes.set_xlabel("trading days ahead")


def _plot_coverage(axes: Axes, figures: dict[str, Any]) -> None:
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


def _plot_timeline(axes: Axes, blocks: list[dict[str, Any]]) -> None:
    for place, block in enumerate(reversed(blocks)):
        first, last = (
            np.array([block["first"], block["last"]], dtype="datetime64[D]")
            .astype("datetime64[s]")
            .astype(object)
        )
        axes.barh(place, last - first, left=first, height=0.6, color=PHASES.get(block["name"], GREY))
    axes.set_yticks(range(len(blocks)), [f"{b['name']} ({b['days']:,} days)" for b in reversed(blocks)])
    axes.xaxis_date()


def _plot_example(axes: Axes, example: dict[str, Any]) -> None:
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
