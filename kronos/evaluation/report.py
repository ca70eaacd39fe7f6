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

from kronos import page
from kronos.evaluation.earned import section
from kronos.evaluation.report_plots import (
    SMOOTH,
    plot_accuracy,
    plot_coverage,
    plot_entries,
    plot_example,
    plot_horizons,
    plot_reliability,
    plot_timeline,
    plot_within,
    plot_years,
)
from kronos.evaluation.wording import PERCENT, number, spread
from kronos.page import draw

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
COMPARED = ("accuracy", "within_date_accuracy", "rank_ic")
SKILL = {1: "ok", 0: "skip", -1: "fail"}


def write_page(tree: dict[str, Any], path: str | Path) -> Path:
    """Write the page of a report.json tree atomically. Returns its path."""
    page.write(
        path,
        "kronos.evaluation",
        title=f"Backtest: {tree['title']}",
        tree=tree,
        facts=_facts(tree),
        scored=_scored(tree),
        explained=_explained(tree),
        chart=_chart(tree),
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
        timeline=draw(lambda axes: plot_timeline(axes, tree["timeline"]), size=(11.4, 1.6)),
        tickers=[
            (name, [_ticker(t) for t in tree["tickers"][key]])
            for name, key in (("Best", "best"), ("Worst", "worst"))
        ],
        right=sum(e["pred"] == e["label"] for e in tree["examples"]),
        examples=[(_caption(e), draw(lambda axes, e=e: plot_example(axes, e))) for e in tree["examples"]],  # type: ignore[misc]
        config=json.dumps(tree["config"], indent=1),
        earned=section(tree["portfolio"]) if tree.get("portfolio") else None,
    )
    return Path(path)


# -- text ----------------------------------------------------------------------------------------------------
def _facts(tree: dict[str, Any]) -> dict[str, str]:
    """The five numbers of the first screen: three figures of the model, the dates, the horizon."""
    dates = tree["dates"]
    main = _entry(tree, tree["main"])["figures"]
    shown = {}
    for name in COMPARED:
        value = None
        if name in main:
            value = main[name]["value"]
        shown[COLUMNS[name]] = number(name, value)
    shown["dates without overlap"] = f"{dates['effective']:,}"
    shown["horizon"] = f"{dates['horizon']} days"
    return shown


def _scored(tree: dict[str, Any]) -> str:
    """What was scored, in one sentence."""
    dates = tree["dates"]
    return (
        f"{tree['main']} scored on {dates['test']:,} dates from {dates['first']} to {dates['last']}, "
        f"{dates['rows']:,} rows."
    )


def _explained(tree: dict[str, Any]) -> list[str]:
    """What a reader of the demonstration asks: the alarm, the fits that are better, the untrained row."""
    found = []
    if tree["config"].get("market", {}).get("generate"):
        found.append(
            "This market is synthetic. A signal was planted in it, so that there is something to find and one can see "
            "that the kit finds it. On real prices such a result would point at a mistake, hence the alarm."
        )
        better = _fits_that_are_better(tree)
        if better:
            found.append(
                f"Better than the network here: {', '.join(better)}. A fit is given today's volume as a figure of its own, "
                "and that is where the signal lies. The network has to learn it from whole bars in a few minutes."
            )
    if any(entry["name"] == "random-init" for entry in tree["entries"]):
        found.append(
            "random-init is the same network without training. What it scores is what training did not add."
        )
    return found


def _fits_that_are_better(tree: dict[str, Any]) -> list[str]:
    """Names of fitted answerers whose accuracy is above that of the main one, by the intervals."""
    fits = {entry["name"] for entry in tree["entries"] if entry["kind"] == "fitted"}
    found = []
    for comparison in tree["comparisons"].get("accuracy", []):
        if comparison["better"] == -1 and comparison["baseline"] in fits:
            found.append(comparison["baseline"])
    return found


def _chart(tree: dict[str, Any]) -> tuple[str, Markup]:
    """The chart of the first screen: every answerer's accuracy with its interval."""
    text = "Accuracy of every answerer with its 95 % interval over dates; the line is 50 %."
    height = 1.2 + 0.2 * len(tree["entries"])
    return text, draw(lambda axes: plot_entries(axes, tree), size=(5.6, min(height, 5.0)))


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
        draw(lambda axes: plot_accuracy(axes, per_date, main)),
    )
    yield (
        "Within-date accuracy",
        "Against the date's median return, so that the market's direction does not count; 50 % knows nothing.",
        draw(lambda axes: plot_within(axes, per_date, main)),
    )
    if any(tree["reliability"].values()):
        yield (
            "Reliability",
            "Ten bins of equally many rows by P(rise) less the date's mean, and how many rose, less the date's share; both plus "
            "the mean share of rises. 95 % bands over dates. On the line is calibrated.",
            draw(lambda axes: plot_reliability(axes, tree["reliability"])),
        )
    yield (
        "Rank IC by year",
        "Spearman correlation of score and return within a date, its mean and 95 % interval over the dates of a year.",
        draw(lambda axes: plot_years(axes, tree["by_year"])),
    )
    terms = [row for row in tree["by_horizon"] if row["name"] == main]
    if len(terms) > 1:
        text = "Rank IC of one forecast at each horizon that it speaks of, with 95 % intervals over the same dates."
        yield "Rank IC by horizon", text, draw(lambda axes: plot_horizons(axes, terms))
    figures = _entry(tree, main)["figures"]
    if "coverage_90" in figures:
        text = "How many closes fell inside the paths' central bands, with 95 % intervals; on the marks is honest."
        yield "Coverage", text, draw(lambda axes: plot_coverage(axes, figures))
