"""Is one package worse than another? On the dates that the backtests of both have, with paired intervals.

In: two packages (each holds backtest.json, the figures of every date), or one backtest's report that scored
the networks of both. Out: `Difference`s: candidate minus production, and whether the dates show that the
candidate is worse.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from kronos import records
from kronos.delivery.package_facts import BACKTEST, REMEDY, Facts
from kronos.delivery.runs import common_dates, sessions_of, values_on
from kronos.errors import KitError
from kronos.evaluation.scores import SMALLER_IS_BETTER
from kronos.evaluation.significance import DateBootstrap, Interval

JUDGED = ("within_date_accuracy", "rank_ic", "brier")
"""Figures of a gate. Plain accuracy is not among them: it moves with the market's luck on the dates."""
BOTH = "score both at once: scripts/run_backtest.py --model RUN_A --model RUN_B, and give its report.json as --report"


@dataclass(frozen=True)
class Difference:
    """One figure of two packages on the same dates."""

    figure: str
    candidate: float
    production: float
    difference: Interval
    """candidate minus production, a mean over dates with its 95 % interval."""

    @property
    def worse(self) -> bool:
        """Whether the interval shows that the candidate is worse."""
        sign = -1 if self.figure in SMALLER_IS_BETTER else 1
        return sign * self.difference.excludes(0.0) < 0

    def line(self) -> str:
        """within_date_accuracy 0.5210 against 0.5190: +0.0020 (-0.0010 to +0.0050)"""
        width = "no interval: too few dates"
        if self.difference.low is not None and self.difference.high is not None:
            width = f"{self.difference.low:+.4f} to {self.difference.high:+.4f}"
        values = f"{self.candidate:.4f} against {self.production:.4f}"
        return f"{self.figure} {values}: {self.difference.value:+.4f} ({width})"


@dataclass(frozen=True)
class Compared:
    """All figures that both have."""

    dates: int
    first: str
    last: str
    differences: list[Difference]


def compare(candidate: Facts, production: Facts, report: Path | None = None) -> Compared:
    """Two packages on their common dates. report: a backtest's report.json that scored both networks; None:
    the packages' own backtests.

    Raises KitError where a backtest is missing, or they have no date or no figure in common.
    """
    if report is None:
        trees = [_own(candidate), _own(production)]
    else:
        trees = [_of_report(report, facts) for facts in (candidate, production)]
    try:
        dates = common_dates(trees)
    except KitError as error:
        raise KitError(f"{candidate.version} against {production.version}: {error}; or {BOTH}") from error
    of_first = trees[0]["dates"]
    bootstrap = DateBootstrap(sessions_of(trees[0], dates), int(of_first.get("span", of_first["horizon"])))
    differences = []
    for figure in JUDGED:
        one, other = (values_on(tree, figure, dates) for tree in trees)
        both = np.isfinite(one - other)
        if not both.any():
            continue
        interval = bootstrap.interval(one - other, null=0.0)
        means = (float(one[both].mean()), float(other[both].mean()))
        differences.append(Difference(figure, *means, interval))
    if not differences:
        raise KitError(
            f"{candidate.version} against {production.version}: expected one of {', '.join(JUDGED)} in both "
            f"backtests, found none; {BOTH}"
        )
    return Compared(len(dates), dates[0], dates[-1], differences)


# -- what a backtest left ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Dates:
    horizon: Annotated[int, "> 0"]
    stride: Annotated[int, "> 0"]


@dataclass(frozen=True)
class _PerDate:
    origins: list[str]
    entries: dict[str, dict[str, list[float | None]]]


@dataclass(frozen=True)
class _Data:
    calendar: str


@dataclass(frozen=True)
class _Config:
    data: _Data


@dataclass(frozen=True)
class _Model:
    name: str
    digest: str


@dataclass(frozen=True)
class _Backtest:
    """As much of report.json, or of backtest.json, as is read here."""

    main: str
    dates: _Dates
    per_date: _PerDate
    config: _Config
    models: list[_Model]
    control: Literal["shuffle-labels", "future-noise"] | None = None


def _own(facts: Facts) -> dict[str, Any]:
    path = facts.folder / BACKTEST
    if not path.is_file():
        raise KitError(
            f"{path}: expected the backtest of {facts.version}, found none; run scripts/run_backtest.py and "
            f"package again, or {BOTH}"
        )
    found = _read(path)
    return _tree(found, found.main, path)


def _of_report(path: Path, facts: Facts) -> dict[str, Any]:
    """One package's part of a report that scored several networks."""
    if not path.is_file():
        raise KitError(f"{path}: expected a backtest's report.json, found no such file; {BOTH}")
    found = _read(path)
    if found.control:
        raise KitError(f"{path}: expected a backtest, found a negative control ({found.control})")
    names = [model.name for model in found.models if model.digest == facts.networks["predictor"]]
    if not names:
        raise KitError(
            f"{path}: expected the network of {facts.version} ({facts.networks['predictor'][:12]}) among the "
            f"scored ones, found {', '.join(model.digest[:12] for model in found.models) or 'none'}; {BOTH}"
        )
    return _tree(found, names[0], path)


def _read(path: Path) -> _Backtest:
    return records.read(path, _Backtest, remedy=REMEDY)


def _tree(found: _Backtest, name: str, path: Path) -> dict[str, Any]:
    """In the form of a report whose main entry is `name`. Raises KitError where it has no such entry."""
    series = found.per_date.entries.get(name)
    if series is None:
        names = ", ".join(found.per_date.entries)
        raise KitError(f"{path}: expected figures of {name} on each date, found those of {names}; {REMEDY}")
    origins = found.per_date.origins
    for figure, values in series.items():
        if len(values) != len(origins):
            raise KitError(
                f"{path}: {figure}: expected {len(origins)} values, one a date, found {len(values)}; {REMEDY}"
            )
    return {
        "main": name,
        "dates": vars(found.dates),
        "per_date": {"origins": origins, "entries": {name: series}},
        "config": {"data": vars(found.config.data)},
    }
