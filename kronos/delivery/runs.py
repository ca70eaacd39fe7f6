"""Experiments side by side: the runs under one folder, and two of them date by date.

In: run folders (docs/architecture.md) and their backtests (docs/evaluation.md). Out: tables. Best first
means: by the lower end of the interval of within-date accuracy, since the best of many point estimates is
mostly luck; runs without a backtest follow by their validation loss, which compares only runs on the same
data and window.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronos.config import Config, to_dict
from kronos.data.calendar import open_days
from kronos.delivery.expectation import main_figure, shown
from kronos.delivery.tables import table
from kronos.errors import KitError
from kronos.evaluation.scores import SMALLER_IS_BETTER
from kronos.evaluation.significance import DateBootstrap, Interval
from kronos.runfolder import CONFIG, STAGES, RunFolder

RANKED = "within_date_accuracy"
COMPARED = ("within_date_accuracy", "accuracy", "rank_ic", "brier")
PLACES = {"base_path", "base_save_path", "exp_name", "finetuned_tokenizer", "store", "name", "description"}
"""Settings that say where a run lies or what it is called, not how it was made."""


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: Path
    changed: dict[str, Any]
    """Settings that differ from the defaults, {section.key: value}."""
    status: dict[str, str]
    """{stage: complete | interrupted | running}."""
    losses: dict[str, float]
    """Best validation value by stage."""
    hours: float
    """Training time of both stages."""
    report: dict[str, Any] | None
    """The backtest of the weights that lie in the folder now."""
    no_report: str
    """Why there is none, '' where there is one."""

    @property
    def rank(self) -> tuple[int, float]:
        """Sorts best first."""
        found = main_figure(self.report, RANKED) if self.report else None
        if found:
            return 0, -(found["low"] if found["low"] is not None else found["value"] - 1)
        return 1, self.losses.get("basemodel", math.inf)

    def cells(self, price: float | None) -> dict[str, str]:
        """The row of a table. price: per hour of training."""
        open_stages = [f"{stage} {status}" for stage, status in self.status.items() if status != "complete"]
        cells = {
            "run": self.folder.name,
            "within-date accuracy": shown(main_figure(self.report, RANKED))
            if self.report
            else self.no_report,
            "accuracy": shown(main_figure(self.report, "accuracy")) if self.report else "",
            "loss": "; ".join(f"{stage} {value:.4g}" for stage, value in self.losses.items()),
            "hours": f"{self.hours:.2f}",
        }
        cost = {} if price is None else {"cost": f"{self.hours * price:.2f}"}
        changes = ", ".join(f"{key}={_brief(value)}" for key, value in self.changed.items())
        return (
            cells
            | cost
            | {"status": ", ".join(open_stages) or "complete", "changed settings": changes or "none"}
        )


# -- all runs ------------------------------------------------------------------------------------------------
def find_runs(base: Path) -> list[Run]:
    """Every run directly under `base`, best first. Raises KitError where there is none."""
    folders = sorted(path.parent for path in base.glob(f"*/{CONFIG}"))
    if not folders:
        raise KitError(
            f"{base}: expected run folders (with pipeline_config.json), found none; train one, or set model_paths.base_path"
        )
    return sorted((read_run(folder) for folder in folders), key=lambda run: (run.rank, run.folder.name))


def read_run(folder: Path) -> Run:
    """A run as its folder tells it. Raises KitError for a folder that is none."""
    run = RunFolder(folder)
    tree = run.tree
    found = {stage: run.summary(stage) for stage in STAGES}
    summaries = {stage: summary for stage, summary in found.items() if summary is not None}
    own = summaries.get("basemodel")
    report, no_report = run.report(None if own is None else own.get("model_digest") or "")
    return Run(
        folder=folder,
        changed=dict(_changes(tree, to_dict(Config()))),
        status={stage: str(summary["status"]) for stage, summary in summaries.items()}
        or {"training": "not begun"},
        losses={stage: float(s["best"]["value"]) for stage, s in summaries.items() if s.get("best")},
        hours=sum(float(summary.get("seconds") or 0.0) for summary in summaries.values()) / 3600,
        report=report,
        no_report=no_report,
    )


def _changes(tree: dict[str, Any], defaults: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of `tree` that differ from `defaults`, places left out; keys of another version count as
    changed.
    """
    for key, value in tree.items():
        if isinstance(value, dict) and isinstance(defaults.get(key), dict):
            yield from _changes(value, defaults[key], f"{prefix}{key}.")
        elif key not in PLACES and (key not in defaults or value != defaults[key]):
            yield f"{prefix}{key}", value


def runs_table(runs: Sequence[Run], price: float | None = None) -> str:
    """One line a run, and what the order means."""
    note = (
        "Best first: by the lower end of the interval (95 %) of within-date accuracy (50 % knows nothing); then by loss.\n"
        "The best of many runs looks better than it is: choose by the backtest, confirm on dates that no choice has seen."
    )
    return f"{table([run.cells(price) for run in runs])}\n{note}"


# -- two runs ------------------------------------------------------------------------------------------------
def against(one: Run, other: Run) -> str:
    """Two runs on the dates that both backtests have: differences with paired intervals over dates, and what
    was changed.
    """
    reports = [_needed(run) for run in (one, other)]
    dates = common_dates(reports)
    of_first = reports[0]["dates"]
    bootstrap = DateBootstrap(sessions_of(reports[0], dates), int(of_first.get("span", of_first["horizon"])))
    rows = []
    for figure in COMPARED:
        values = [values_on(report, figure, dates) for report in reports]
        if not np.isfinite(values[0] - values[1]).any():
            continue
        difference = bootstrap.interval(values[0] - values[1], null=0.0)
        rows.append(
            {
                "figure": figure,
                one.folder.name: f"{np.nanmean(values[0]):.4f}",
                other.folder.name: f"{np.nanmean(values[1]):.4f}",
            }
        )
        rows[-1] |= {
            "difference": f"{difference.value:+.4f}",
            "95 % interval": _width(difference),
            "better": _better(figure, one, other, difference),
        }
    head = f"{one.folder.name} against {other.folder.name}: {len(dates)} common dates ({bootstrap.effective} without overlap)"
    return f"{head}, {dates[0]} to {dates[-1]}\n{table(rows)}\n{_different(one, other)}"


def _needed(run: Run) -> dict[str, Any]:
    if run.report is None:
        raise KitError(
            f"{run.folder}: expected backtest/report.json of its weights, found {run.no_report}; "
            "python scripts/run_backtest.py makes it"
        )
    return run.report


def common_dates(reports: Sequence[dict[str, Any]]) -> list[str]:
    """Origins that both have, in order. Raises KitError when the two cannot be compared."""
    horizons = [report["dates"]["horizon"] for report in reports]
    if horizons[0] != horizons[1]:
        raise KitError(
            f"expected two backtests of one horizon, found {horizons[0]} and {horizons[1]} trading days; set --horizon"
        )
    both = set(reports[0]["per_date"]["origins"]) & set(reports[1]["per_date"]["origins"])
    if not both:
        raise KitError(
            "expected backtests with dates in common, found none; run both with the same --origins or --every"
        )
    return sorted(both)


def sessions_of(report: dict[str, Any], dates: Sequence[str]) -> tuple[int, ...]:
    """Positions of the dates in the trading calendar; of dates that it does not know (intraday) by their
    order and stride.
    """
    days = open_days(report["config"]["data"]["calendar"], dates[0], dates[-1]).astype("datetime64[D]")
    wanted = np.array(dates, "datetime64[s]")
    if np.isin(wanted, days).all():
        return tuple(int(place) for place in np.searchsorted(days, wanted))
    order = {date: place for place, date in enumerate(report["per_date"]["origins"])}
    return tuple(order[date] * int(report["dates"]["stride"]) for date in dates)


def values_on(report: dict[str, Any], figure: str, dates: Sequence[str]) -> NDArray[np.float64]:
    """The main entry's figure on each of the dates, (D,); NaN where it is not defined."""
    origins = report["per_date"]["origins"]
    series = report["per_date"]["entries"][report["main"]].get(figure) or [None] * len(origins)
    by_date = dict(zip(origins, series, strict=True))
    return np.array([math.nan if by_date[date] is None else by_date[date] for date in dates], np.float64)


def _width(interval: Interval) -> str:
    return "too few dates" if interval.low is None else f"{interval.low:+.4f} to {interval.high:+.4f}"


def _better(figure: str, one: Run, other: Run, difference: Interval) -> str:
    sign = difference.excludes(0.0) * (-1 if figure in SMALLER_IS_BETTER else 1)
    return {1: one.folder.name, -1: other.folder.name}.get(sign, "no evidence")


def _different(one: Run, other: Run) -> str:
    keys = sorted(
        key for key in {*one.changed, *other.changed} if one.changed.get(key) != other.changed.get(key)
    )
    default = dict(_leaves(to_dict(Config())))
    rows = [
        {"setting": key}
        | {run.folder.name: _brief(run.changed.get(key, default.get(key))) for run in (one, other)}
        for key in keys
    ]
    return table(rows) if rows else "The settings are the same."


# -- small things --------------------------------------------------------------------------------------------
def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"...{text[-37:]}"
