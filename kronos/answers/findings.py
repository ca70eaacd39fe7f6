"""What a backtest leaves for the submission: of each answerer its decision and the evidence for it, one file
per horizon.

In: a run folder. Out: `Findings`, every value checked when it is read, and `choose`: the answerer that the
evidence prefers.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from kronos import files, records
from kronos.answers.answerer import Kind
from kronos.answers.decision import Decision
from kronos.answers.simple import ALL_FALL, ALL_RISE, CONSTANTS
from kronos.errors import KitError

FOLDER, FITS = "decisions", "fits"
LEVEL = 0.05
"""Share of backtests without any skill in which `choose` finds some, at most."""
EQUAL = 0.001
"""Rank ICs whose lower ends are this near are equally good; the simpler answerer is taken."""
REMEDY = "run scripts/run_backtest.py --save again"


@dataclass(frozen=True)
class Figure:
    """A mean over dates with its 95 % interval, as `evaluation.significance.Interval`."""

    value: float
    low: float | None = None
    high: float | None = None
    p: Annotated[float, "0 to 1"] | None = None
    dates: Annotated[int, ">= 0"] = 0

    def shown(self) -> str:
        """51.2 % (50.3 to 52.1 %, 40 dates)"""
        width = "no interval: too few dates"
        if self.low is not None and self.high is not None:
            width = f"95 % interval {100 * self.low:.1f} to {100 * self.high:.1f} %"
        return f"{100 * self.value:.1f} % ({width}, {self.dates} dates)"


@dataclass(frozen=True)
class Evidence:
    """What the backtest found about one answerer, and how its answers are decided."""

    name: str
    kind: Kind
    simplicity: Annotated[int, ">= 0"]
    accuracy: Figure
    """Expected on a date like those of the backtest."""
    within: Figure | None = None
    rank_ic: Figure | None = None
    decision: Decision | None = None
    members: list[str] = field(default_factory=list)
    """Of a blend."""
    weights: list[Annotated[float, "0 to 1"]] | None = None
    """Of a blend with fitted weights: one for each member, fitted on all dates of the backtest."""


@dataclass(frozen=True)
class Findings:
    """One backtest."""

    version: Literal[1]
    horizon: Annotated[int, "> 0"]
    created: str
    data: str
    """Digest of the store."""
    first: str
    last: str
    dates: Annotated[int, "> 0"]
    effective: Annotated[int, ">= 0"]
    history_rate: Annotated[float, "0 to 1"]
    """P(rise, if the price moves) in all history."""
    least_skill: Annotated[float, "0 to 1"] | None
    """The smallest within-date accuracy that these dates could have told from 50 %; None: they are too
    few.
    """
    main: str
    answerers: list[Evidence] = field(default_factory=list)

    def of(self, name: str) -> Evidence | None:
        """What was found about an answerer, None where it was not scored."""
        return next((item for item in self.answerers if item.name == name), None)

    def networks(self) -> list[dict[str, Any]]:
        """The keys of all networks that a decision of these findings rests on; [] where none does."""
        found: list[dict[str, Any]] = []
        for item in self.answerers:
            if item.decision is not None:
                _add_networks(item.decision.key, found)
        return found

    def save(self, run: Path) -> Path:
        """Write it into the run's folder, in place of an earlier one of this horizon."""
        path = path_of(run, self.horizon)
        files.write_json(path, asdict(self))
        return path


def _add_networks(key: dict[str, Any], found: list[dict[str, Any]]) -> None:
    """Add a key that names a network, or those of a blend's members."""
    if "model" in key:
        found.append(key)
        return
    for part in key.values():
        if isinstance(part, dict):
            _add_networks(part, found)


def path_of(run: Path, horizon: int) -> Path:
    """Where the findings of a horizon lie."""
    return run / FOLDER / f"horizon-{horizon}.json"


def read_findings(run: Path, horizon: int) -> Findings | None:
    """The findings of a run and horizon, None where there are none. Raises KitError where they are not what
    they should be.
    """
    path = path_of(run, horizon)
    if not path.is_file():
        return None
    found = records.read(path, Findings, remedy=REMEDY)
    names = [item.name for item in found.answerers]
    if found.horizon != horizon or len(set(names)) != len(names):
        raise KitError(
            f"{path}: expected one entry per answerer, {horizon} trading days ahead, found others; {REMEDY}"
        )
    for item in found.answerers:
        if item.decision is not None and item.decision.horizon != horizon:
            wrong = item.decision.horizon
            raise KitError(
                f"{path}: {item.name}: expected a decision {horizon} trading days ahead, found {wrong}; {REMEDY}"
            )
    return found


# -- the choice ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Choice:
    """Which answerer is submitted, and why in words."""

    name: str
    why: str
    skilled: bool
    """Whether there is evidence that it orders the rows of a date better than chance."""


def choose(findings: Findings, usable: set[str]) -> Choice:
    """The answerer that the evidence prefers, of those that can be asked now (`usable`).

    Of the answerers whose rank IC within dates excludes 0 after Holm's correction the one with the highest
    lower end; of equal ones the simplest; where there is none the constant that all history prefers. The
    level of the decision is the same for all answerers, so the market's luck on the dates chooses nothing.
    """
    able = [item for item in findings.answerers if item.name not in CONSTANTS and item.rank_ic is not None]
    corrected = holm([item.rank_ic.p if item.rank_ic else None for item in able])
    skilled = []
    for item, p in zip(able, corrected, strict=True):
        low = item.rank_ic.low if item.rank_ic else None
        if p is not None and p <= LEVEL and low is not None and low > 0 and item.name in usable:
            skilled.append((item, low))
    if not skilled:
        name = ALL_RISE if findings.history_rate > 0.5 else ALL_FALL
        rate = f"{100 * findings.history_rate:.1f} % of all past moves over {findings.horizon} trading days were rises"
        why = f"of {len(able)} answerers none has a rank IC above 0 after Holm's correction on {findings.dates} dates; {rate}"
        return Choice(name, why, False)
    best = max(low for _, low in skilled)
    equal = [item for item, low in skilled if low >= best - EQUAL]
    item = min(equal, key=lambda e: (e.simplicity, e.name))
    ic = item.rank_ic
    assert ic is not None and ic.low is not None and ic.high is not None
    why = (
        f"rank IC {ic.value:+.3f} ({ic.low:+.3f} to {ic.high:+.3f}) on {ic.dates} dates, "
        f"the highest lower end of {len(skilled)}"
    )
    return Choice(item.name, f"{why} with evidence, of {len(able)} tried", True)


def holm(p_values: list[float | None]) -> list[float | None]:
    """Holm's step-down correction (Scand. J. Statist. 6, 1979) of those that are there; None stays None."""
    order = sorted((p, k) for k, p in enumerate(p_values) if p is not None)
    result: list[float | None] = [None] * len(p_values)
    worst = 0.0
    for rank, (p, k) in enumerate(order):
        worst = max(worst, min(1.0, p * (len(order) - rank)))
        result[k] = worst
    return result
