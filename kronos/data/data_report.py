"""The data report: one HTML page that says what was prepared, what was cleaned, and what a person should look
at.

In: a prepared store and the configuration it was made from. Out: one self-contained file, figures embedded as
SVG, for a screen and for paper. The table of checks is the one of `pytest tests/data_checks --data`.
"""

from pathlib import Path

import matplotlib.ticker
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from kronos import page
from kronos.config import Config
from kronos.data.check_result import CheckResult
from kronos.data.data_checks import run_checks
from kronos.data.policy import PROBLEMS
from kronos.data.store import BarStore
from kronos.data.survey import WORST, Survey, date_text, survey
from kronos.page import draw, percent
from kronos.palette import BLUE, GREY, INK, RED

FEW_CHANGES = 5
"""Dates with fewer changes are left out of the plot of rises: a share of three tickers says nothing."""
MONTH = 21
"""Trading days of the line that smooths the daily shares."""


def write_report(store: BarStore, config: Config, path: str | Path) -> Path:
    """Run the checks, survey the store, write the page atomically. Returns its path."""
    found = survey(store)
    page.write(
        path,
        "kronos.data",
        title=f"Data report: {config.experiment.name or 'data'}",
        facts=_facts(store, found),
        verdict=_verdict(results := run_checks(config)),
        results=results,
        figures=_figures(store, found),
        cleaning=_counts(store),
        moves=[(m["ticker"], m["date"], f"{m['change']:+,.1%}") for m in found.worst_moves],
        gaps=[(g["ticker"], g["after"], f"{g['trading_days']:,}") for g in found.worst_gaps],
        shortest=_shortest(store, found),
        illiquid=_illiquid(store, found),
        sources=store.manifest["sources"],
        digest=store.digest,
    )
    return Path(path)


# -- tables --------------------------------------------------------------------------------------------------
def _facts(store: BarStore, found: Survey) -> dict[str, str]:
    return {
        "bars": f"{len(store):,}",
        "tickers": f"{len(store.tickers):,}",
        "dates": f"{len(store.sessions):,}",
        "from": date_text(store.sessions[0]),
        "to": date_text(store.sessions[-1]),
        "frequency": store.frequency,
        "rises": f"{found.rises / max(found.changes, 1):.1%}",
        "unchanged": f"{found.unchanged / max(found.changes, 1):.1%}",
    }


def _verdict(results: list[CheckResult]) -> tuple[str, str]:
    """(status, sentence) over all checks."""
    failed, warned = ([r.name for r in results if r.status == status] for status in ("fail", "warn"))
    if failed:
        return "fail", f"Look first: {', '.join(failed)}."
    if warned:
        return "warn", f"Usable; cleaning deals with {', '.join(warned)}."
    return "ok", "Nothing to complain about."


def _counts(store: BarStore) -> list[tuple[str, list[str]]]:
    """The manifest's account of cleaning: (problem, how many rows were found, repaired, dropped, kept from
    training).
    """
    tally, limits = store.manifest["cleaning"], store.manifest["limits"]
    return [
        (
            words.format(**limits),
            [f"{tally[name][what]:,}" for what in ("found", "repaired", "dropped", "excluded")],
        )
        for name, words in PROBLEMS.items()
        if name in tally and tally[name]["found"]
    ]


def _shortest(store: BarStore, found: Survey) -> list[tuple[str, str]]:
    order = np.argsort(found.lengths, kind="stable")[:WORST]
    return [(store.tickers[k], f"{found.lengths[k]:,}") for k in order]


def _illiquid(store: BarStore, found: Survey) -> list[tuple[str, str]]:
    order = np.argsort(-found.zero_volume, kind="stable")[:WORST]
    return [(store.tickers[k], f"{found.zero_volume[k]:.1%}") for k in order if found.zero_volume[k] > 0]


# -- figures -------------------------------------------------------------------------------------------------
def _figures(store: BarStore, found: Survey) -> list[tuple[str, str, Markup]]:
    """(title, what it says, SVG) of each plot."""
    return [
        (
            "Rows per year",
            "Bars in the store, by calendar year.",
            draw(lambda axes: _plot_years(axes, found)),
        ),
        (
            "Share of rises per date",
            f"Close above the bar before, over all tickers of a date; the line is the mean of {MONTH} dates. "
            "How far the dots spread is how much one test date can be luck.",
            draw(lambda axes: _plot_rises(axes, store, found)),
        ),
        ("History lengths", "Bars per ticker.", draw(lambda axes: _plot_lengths(axes, found))),
        (
            "Rises per year",
            "Share of rises, year by year; the line is one half.",
            draw(lambda axes: _plot_balance(axes, found)),
        ),
    ]


def _plot_years(axes: Axes, found: Survey) -> None:
    axes.bar(found.years, found.rows_per_year, color=BLUE, width=0.8)
    axes.set_ylabel("bars")
    _whole_years(axes, found.years)


def _plot_rises(axes: Axes, store: BarStore, found: Survey) -> None:
    shown = np.flatnonzero(found.changes_per_date >= FEW_CHANGES)
    share = found.rises_per_date[shown] / found.changes_per_date[shown]
    dates = store.sessions[shown].astype("datetime64[s]").astype(object)
    axes.plot(dates, share, ".", color=GREY, markersize=2, rasterized=True)
    if len(share) >= MONTH:
        axes.plot(
            dates[MONTH - 1 :],
            np.convolve(share, np.full(MONTH, 1 / MONTH), "valid"),
            color=BLUE,
            linewidth=1,
        )
    axes.axhline(0.5, color=INK, linewidth=0.6)
    percent(axes)
    axes.set_ylim(0, 1)


def _plot_lengths(axes: Axes, found: Survey) -> None:
    axes.hist(found.lengths, bins=min(40, max(5, len(found.lengths) // 3)), color=BLUE)
    axes.set_xlabel("bars")
    axes.set_ylabel("tickers")


def _plot_balance(axes: Axes, found: Survey) -> None:
    shown = found.changes_per_year > 0
    share = found.rises_per_year[shown] / found.changes_per_year[shown]
    axes.bar(
        found.years[shown], share, color=np.where(np.abs(share - 0.5) > 0.15, RED, BLUE).tolist(), width=0.8
    )
    axes.axhline(0.5, color=INK, linewidth=0.6)
    percent(axes)
    _whole_years(axes, found.years)


def _whole_years(axes: Axes, years: NDArray[np.int64]) -> None:
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.set_xlim(years[0] - 0.6, years[-1] + 0.6)
