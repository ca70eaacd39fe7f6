"""Portfolios of runs side by side, and two of them day by day.

In: run folders that hold a portfolio (`kept`). Out: tables. The difference of two portfolios is that of their
returns after cost on the same days, so that it needs no benchmark.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kronos.evaluation.earned import cell
from kronos.evaluation.significance import DateBootstrap, Interval
from kronos.portfolio.kept import FILE, FOLDER, Kept, KeptSignal, read_portfolio
from kronos.portfolio.performance import annualised, days_a_year

SHOWN = ("excess before cost", "excess after cost", "information ratio", "turnover", "break-even cost")
SAME = ("plan", "every", "market", "cost_bp", "benchmark", "pool", "least_price", "least_amount")
"""What two portfolios have to share for their difference to be that of their signals."""


@dataclass(frozen=True)
class Owned:
    """The portfolio of a run."""

    run: str
    kept: Kept

    def signals(self) -> dict[str, KeptSignal]:
        """By name, the run's own network as 'network': it has the run's name."""
        found = {}
        for signal in self.kept.signals:
            own = signal.name == self.run or signal.name.startswith(f"{self.run}.")
            name = f"network{signal.name.removeprefix(self.run)}" if own else signal.name
            found[name] = signal
        return found


def owned(folder: Path) -> Owned | None:
    """The portfolio of a run's folder; None where it has none. Raises KitError for one of another form."""
    path = folder / FOLDER / FILE
    return Owned(folder.name, read_portfolio(path)) if path.is_file() else None


def earnings_rows(runs: Sequence[Owned]) -> list[dict[str, str]]:
    """One line for each signal of each run: days and figures with their intervals."""
    rows = []
    for run in runs:
        for signal in run.kept.signals:
            days = f"{len(run.kept.dates):,} to {run.kept.dates[-1]}"
            row = {"run": run.run, "signal": signal.name, "days": days}
            for name in SHOWN:
                figure = signal.figures.get(name)
                row[name] = "" if figure is None else cell(figure)
            rows.append(row)
    return rows


def pairs_of(one: Owned, other: Owned) -> tuple[list[dict[str, str]], list[str]]:
    """(a line for each signal that both have, what else has to be said).

    A line: what each earned above its benchmark, and the difference of the returns after cost on the common
    days, a year, with its 95 % interval over blocks of days.
    """
    mine, theirs = one.signals(), other.signals()
    common = [name for name in mine if name in theirs]
    said = []
    different = [key for key in SAME if one.kept.request.get(key) != other.kept.request.get(key)]
    if different:
        said.append(f"The portfolios were dealt in other ways: {', '.join(different)} differ.")
    alone = sorted(set(mine) ^ set(theirs))
    if alone:
        said.append(f"Only one of the two has a portfolio of {', '.join(alone)}.")
    rows = []
    for name in common:
        difference = paired(one.kept, mine[name], other.kept, theirs[name])
        if difference is None:
            return [], [*said, "The portfolios have no days in common."]
        rows.append(_row(name, (one.run, mine[name]), (other.run, theirs[name]), difference))
    return rows, said


def paired(one: Kept, own: KeptSignal, other: Kept, their: KeptSignal) -> Interval | None:
    """Own less their return after cost on the days that both have, a year; None without such days."""
    days = sorted(set(one.dates) & set(other.dates))
    if not days:
        return None
    calendar = sorted({*one.dates, *other.dates})
    place = {day: number for number, day in enumerate(calendar)}
    values = []
    for kept, signal in ((one, own), (other, their)):
        by_day = dict(zip(kept.dates, signal.returns, strict=True))
        values.append(np.array([by_day[day] for day in days]))
    horizon = max(one.hold, other.hold, 5)
    bootstrap = DateBootstrap(tuple(place[day] for day in days), horizon)
    year = days_a_year(np.array(days, "datetime64[D]"))
    return annualised(values[0] - values[1], bootstrap, year)


def _row(
    name: str, one: tuple[str, KeptSignal], other: tuple[str, KeptSignal], difference: Interval
) -> dict[str, str]:
    """One line of the table: what both earned, and their difference."""
    row = {"signal": name}
    for run, signal in (one, other):
        row[run] = cell(signal.figures["excess after cost"])
    interval = "too few days"
    if difference.low is not None and difference.high is not None:
        interval = f"{difference.low:+.2%} to {difference.high:+.2%}"
    row["difference a year"] = f"{difference.value:+.2%}"
    row["95 % interval"] = interval
    row["days"] = f"{difference.dates:,}"
    row["better"] = {1: one[0], -1: other[0]}.get(difference.excludes(0.0), "no evidence")
    return row
