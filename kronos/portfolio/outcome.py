"""What a command about portfolios is asked, and what it found: the forms that pass between its parts.

In: the user's words (`Request`). Out: `Outcome` of each signal, `Report` of all.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronos.errors import KitError
from kronos.evaluation.earned import about, headline
from kronos.evaluation.significance import Interval
from kronos.portfolio.controls import NoiseCheck
from kronos.portfolio.performance import Deflated, Figure
from kronos.portfolio.scene import Scene
from kronos.portfolio.signals import Signal
from kronos.portfolio.strategies import Daily, TopkDropout

FloatArray = NDArray[np.float64]

NOISE_SIGNALS = 20


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    signal_file: str = ""
    predictions: str = ""
    """A backtest's predictions.parquet; its columns are the signals."""
    answer: str = ""
    """One answerer of the predictions; empty: all of them."""
    signals: tuple[str, ...] = ()
    """What to read of an answerer's paths, or columns of the predictions; empty: the answers' own scores."""
    plan: TopkDropout = field(default_factory=TopkDropout)
    every: int = 1
    """Use the scores of every n-th day that has any."""
    market: str = "none"
    cost_bp: float | None = None
    benchmark: str = "equal"
    """'equal', a ticker of the store, or a CSV with date and return."""
    start: str = ""
    end: str = ""
    quantiles: int = 5
    pool: str = ""
    """CSV of membership: ticker, first, last (days inclusive); begin and end are read as these."""
    least_price: float = 0.0
    least_amount: float = 0.0
    """Money dealt a day, mean of the last 20 days."""
    money: str = ""
    """Currency of the store's amounts; empty: not known, and no capacity is shown."""
    noise: int = NOISE_SIGNALS
    future_noise: bool = False
    """Also deal again with another future (`controls.future_noise`)."""
    tried: tuple[float, ...] = ()
    """Daily ratios of the signals of other runs, which count as tries."""
    other_runs: int = 0
    """How many runs these come from."""

    def __post_init__(self) -> None:
        if self.signal_file and (self.answer or self.signals):
            raise KitError(
                "--signal-file: expected a file or parts of the backtest's predictions (--answer, --signal), found both; "
                "leave one of them out"
            )
        if self.start and self.end and np.datetime64(self.start) > np.datetime64(self.end):
            raise KitError(
                f"--start, --end: expected a first day and a later last one, found {self.start} and {self.end}; exchange them"
            )
        if self.every < 1:
            raise KitError(f"--every: expected a number of days of at least 1, found {self.every}")
        if self.quantiles < 2:
            raise KitError(f"--quantiles: expected at least 2, found {self.quantiles}")


@dataclass(frozen=True, eq=False)
class Facts:
    """What else is told of a signal and its portfolio."""

    drawdown: tuple[float, str, str]
    """Largest fall of the compounded curve, the day of its peak, the day of its bottom."""
    compounded: float
    """Return of all days, multiplied."""
    summed: float
    """Excess of all days, added."""
    decay: dict[int, Interval]
    """Rank IC by days ahead."""
    autocorrelation: Interval
    exposure: dict[str, Interval]
    capacity: dict[str, float]
    """Empty where the money dealt is not known."""
    quantiles: dict[str, Any]
    sleeves: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Outcome:
    """One signal's portfolio and figures."""

    signal: Signal
    daily: Daily
    figures: list[Figure]
    facts: Facts
    deflated: Deflated | None = None
    check: NoiseCheck | None = None

    def last_scored(self, scene: Scene) -> int:
        """Position of the last day with scores, up to the last day that is dealt."""
        days = self.signal.days
        return int(days[days < scene.days.stop][-1])


@dataclass(frozen=True, eq=False)
class Report:
    """All signals, and what they are compared with."""

    outcomes: list[Outcome]
    scene: Scene
    lines: list[str]
    tree: dict[str, Any]
    folder: Path

    @property
    def leaks(self) -> bool:
        """Whether a later price or score decided a deal."""
        return any(outcome.check is not None and outcome.check.changed > 0 for outcome in self.outcomes)

    def table(self) -> str:
        """What was dealt, the verdict, and the figures that decide, one line a signal."""
        shown = ("excess before cost", "excess after cost", "information ratio", "turnover")
        width = max(len(outcome.signal.name) for outcome in self.outcomes) + 2
        lines = [about(self.tree), headline(self.tree)[1], ""]
        lines += [" " * width + "".join(f"{name:<28}" for name in shown)]
        for outcome in self.outcomes:
            found = {figure.name: figure for figure in outcome.figures}
            cells = "".join(f"{found[name].words():<28}" for name in shown)
            lines.append(f"{outcome.signal.name:<{width}}{cells}")
        return "\n".join(lines)
