"""Figures with error bars, comparisons, and what they say in words.

In: entries over one panel. Out: `Results`; sentences; the compact table for a terminal.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronos.answers.decide import Decided
from kronos.answers.simple import CONSTANTS
from kronos.evaluation.panel import Panel
from kronos.evaluation.scores import SMALLER_IS_BETTER, over_dates, score_dates
from kronos.evaluation.significance import MIN_EFFECTIVE, Comparison, DateBootstrap, Interval, compare, skill

COMPARED = ("accuracy", "within_date_accuracy", "rank_ic", "auc", "brier", "log_loss", "crps")
ALARM_WITHIN, ALARM_IC = 0.53, 0.08
"""Above these a result on real prices is likelier a leak than a discovery, where the fits on the same rows
find less for sure.
"""
LIMIT_WITHIN, LIMIT_IC = 0.54, 0.10
"""Lower ends above these are a leak whatever else was found, in a fit as in a network: a leak in the data
lifts them all.
"""
CHECKS = (
    "run it with --future-noise: forecasts must not change by one bit, and no skill may be left",
    "run it with --shuffle-labels: no skill may be left",
    "is the store's last training day (summary.json: train_end) before the first date scored?",
    "do prices hold adjustments made later (splits, dividends), or only shares that survived?",
    "does the same share stand under several tickers?",
)


@dataclass(frozen=True, eq=False)
class Results:
    """Every entry's figures on every date, and what follows from them. The first entry is the main one."""

    panel: Panel
    entries: list[Decided]
    bootstrap: DateBootstrap
    planted: bool = False
    """The market is synthetic: what would be an alarm on real prices is its planted signal."""

    @property
    def main(self) -> Decided:
        """The answerer that the report is about."""
        return self.entries[0]

    @cached_property
    def per_date(self) -> dict[str, dict[str, NDArray[np.float64]]]:
        """{entry: {figure: (D,)}}"""
        return {e.name: score_dates(self.panel, e) for e in self.entries}

    @cached_property
    def overall(self) -> dict[str, dict[str, Interval]]:
        """{entry: {figure: interval}}; figures that an entry does not have are absent."""
        return {
            name: {f: over_dates(self.bootstrap, f, v) for f, v in figures.items() if np.isfinite(v).any()}
            for name, figures in self.per_date.items()
        }

    @cached_property
    def comparisons(self) -> dict[str, list[Comparison]]:
        """Main less each other entry, Holm-corrected within a figure."""
        own, others = self.per_date[self.main.name], [e for e in self.entries[1:] if not e.model]
        result = {}
        for figure in COMPARED:
            values = {
                e.name: self.per_date[e.name][figure]
                for e in others
                if np.isfinite(self.per_date[e.name][figure]).any()
            }
            if figure in self.overall[self.main.name]:
                result[figure] = compare(
                    self.bootstrap, figure, own[figure], values, figure in SMALLER_IS_BETTER
                )
        return result

    @property
    def within(self) -> Interval:
        """The main answerer's within-date accuracy."""
        return self.overall[self.main.name].get("within_date_accuracy", Interval(float("nan")))

    @property
    def skill(self) -> int:
        """1: evidence of skill; 0: none; -1: worse than chance."""
        return skill(self.within, self.comparisons["accuracy"], set(CONSTANTS))

    # -- words -----------------------------------------------------------------------------------------------
    @property
    def headline(self) -> str:
        """The verdict in one sentence."""
        dates, effective = self.panel.dates, self.bootstrap.effective
        within = f"within-date accuracy {_percent(self.within)}"
        if dates == 1:
            return f"One date: this score measures the market of that day, and says nothing about skill ({within})."
        if effective < MIN_EFFECTIVE:
            return f"Too few dates to tell: {dates}, of which {effective} do not overlap ({within})."
        word = {1: "Evidence of skill", 0: "No evidence of skill", -1: "Worse than chance"}[self.skill]
        if self.suspicious:
            if self.planted and self.skill == 1:
                word = "The planted signal is found, stronger than any on real prices"
            elif self.planted:
                word = f"{word}; other answerers find the planted signal"
            else:
                word = "Too good to be believed, see the alarm"
        return f"{word}: {within} over {dates} dates ({effective} without overlap), {self.panel.horizon} trading days ahead."

    @property
    def lines(self) -> list[str]:
        """Comparisons of accuracy, one sentence a kind."""
        found = self.comparisons["accuracy"]
        kinds = {
            1: "Accuracy better than: ",
            0: "No evidence of a difference to: ",
            -1: "Accuracy worse than: ",
        }
        return [
            text + ", ".join(c.baseline for c in found if c.better == side) + "."
            for side, text in kinds.items()
            if any(c.better == side for c in found)
        ]

    @cached_property
    def suspicious(self) -> list[str]:
        """Why the result is too good to be believed on real prices; empty where it is not.

        A single lucky figure is none: an interval has to exclude what the best fit reaches on the same rows,
        or a limit.
        """
        found = []
        for figure, alarm, limit in (
            ("within_date_accuracy", ALARM_WITHIN, LIMIT_WITHIN),
            ("rank_ic", ALARM_IC, LIMIT_IC),
        ):
            own = self.overall[self.main.name].get(figure)
            best = max([alarm, *self.fitted(figure)])
            if own is not None and own.excludes(best) > 0:
                text = f"{NAMED[figure]} {_shown(figure, own)} excludes {_short(figure, best)}"
                found.append(f"{text}, more than the fits reach on the same rows")
            found += self.above(figure, limit)
        return found

    def above(self, figure: str, limit: float) -> list[str]:
        """One line for the answerers whose whole interval of a figure lies above a limit: the highest, and how
        many more; no line where there is none.
        """
        names = []
        for e in self.entries:
            i = self.overall[e.name].get(figure)
            if i is not None and i.excludes(limit) > 0:
                names.append(e.name)
        if not names:
            return []
        highest = max(names, key=lambda name: self.overall[name][figure].value)
        more = ""
        if len(names) > 1:
            more = f", and that of {len(names) - 1} more"
        shown = _shown(figure, self.overall[highest][figure])
        return [f"{NAMED[figure]} of {highest}, {shown}{more}, lies above {_short(figure, limit)}"]

    def fitted(self, figure: str) -> list[float]:
        """What fits on the past, other than the main entry, reach in a figure."""
        fits = [e.name for e in self.entries[1:] if e.kind == "fitted" and not e.model]
        return [self.overall[name][figure].value for name in fits if figure in self.overall[name]]

    def table(self) -> str:
        """Every entry with its figures and 95 % intervals, for a terminal."""
        rows = [("", "accuracy", "within date", "rank IC", "Brier", "rises", "accuracy of the model is")]
        words = {c.baseline: c for c in self.comparisons["accuracy"]}
        for e in self.entries:
            f = self.overall[e.name]
            told = words.get(e.name)
            verdict = "" if told is None else {1: "better", 0: "no different", -1: "worse"}[told.better]
            cells = (_percent(f["accuracy"]), _percent(f["within_date_accuracy"]), _number(f.get("rank_ic")))
            rows.append(
                (e.name, *cells, _plain(f.get("brier")), f"{f['predicted_rises'].value:.0%}", verdict)
            )
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


NAMED = {"within_date_accuracy": "within-date accuracy", "rank_ic": "rank IC"}


def alarm_lines(why: list[str], planted: bool) -> dict[str, Any]:
    """The alarm as the report holds it. planted: a synthetic market, whose signal is meant to be found."""
    if planted:
        text = f"Leak alarm, as expected: {'; '.join(why)}. A signal was planted in this synthetic market."
        return {"lines": [text], "expected": True}
    checks = [f"  {number}. {check}" for number, check in enumerate(CHECKS, 1)]
    return {
        "lines": [f"LEAK ALARM: {'; '.join(why)}. On real prices look for the leak first:", *checks],
        "expected": False,
    }


def _shown(figure: str, i: Interval) -> str:
    return _percent(i) if figure == "within_date_accuracy" else _number(i)


def _short(figure: str, value: float) -> str:
    return f"{value:.1%}" if figure == "within_date_accuracy" else f"{value:.3f}"


def _percent(i: Interval) -> str:
    if not math.isfinite(i.value):
        return "not defined"
    return f"{i.value:.1%}" + ("" if i.low is None else f" [{100 * i.low:.1f}, {100 * (i.high or 0):.1f}]")


def _number(i: Interval | None) -> str:
    if i is None or not math.isfinite(i.value):
        return "not defined"
    return f"{i.value:+.3f}" + ("" if i.low is None else f" [{i.low:+.3f}, {i.high:+.3f}]")


def _plain(i: Interval | None) -> str:
    return "" if i is None else f"{i.value:.4f}"
