"""The words and numbers of the cleaning policy: problems, limits by bar frequency, and the tally of what was
found.

In: the configuration, the data's frequency. Out: `Limits` for `cleaning` and `segments`, `Tally` for manifest
and console.
Source of the thresholds: Kronos paper (arXiv 2508.02739), appendix on data cleaning, by bar frequency.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kronos.config import CleaningConfig
from kronos.data.frequency import SECONDS


@dataclass(frozen=True)
class Thresholds:
    """The paper's limits for one bar frequency."""

    min_length: int
    max_jump: float
    illiquid_run: int
    stagnant_run: int


PAPER = {
    "1min": Thresholds(2048, 0.10, 15, 45),
    "5min": Thresholds(1024, 0.15, 3, 10),
    "15min": Thresholds(512, 0.15, 2, 5),
    "30min": Thresholds(512, 0.20, 2, 3),
    "60min": Thresholds(256, 0.20, 1, 3),
    "daily": Thresholds(128, 0.30, 1, 3),
    "weekly": Thresholds(16, 0.50, 0, 2),
}
SPLIT_RATIOS = np.array([1.5, 2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 25, 30, 40, 50, 100])
SPLIT_TOLERANCE = 0.03
"""A split day also moves with the market: a ratio within 3 % of a simple one is taken for a split."""
SPLIT_QUIET_BARS = 20
"""A jump within this many bars of the one before it is no split."""

PROBLEMS = {  # name -> what the table on the console says; the order is the order of the checks
    "missing_key": "no ticker or no date",
    "missing_price": "missing or infinite price",
    "non_positive_price": "price <= 0",
    "inconsistent_bar": "Open or Close outside [Low, High]",
    "bad_volume": "missing, negative or infinite volume",
    "bad_amount": "missing, negative or infinite amount",
    "duplicate": "same ticker and date again",
    "jump": "close moves by more than {max_jump:.0%}",
    "unadjusted_split": "jump near a simple ratio, no split named",
    "illiquid": "more than {illiquid_run} zero-volume bars in a row",
    "stagnant": "more than {stagnant_run} equal closes in a row",
    "gap": "more than {max_gap} trading days missing",
    "short": "run of bars shorter than {min_length}",
    "unsorted": "follows a later date of its ticker",
}


def nearest_in_paper(frequency: str) -> str:
    """The frequency whose limits hold for bars of a length that the paper does not have: the nearest one it
    has.
    """
    return min(PAPER, key=lambda name: abs(np.log(SECONDS[name] / SECONDS[frequency])))


@dataclass
class Tally:
    """How often each problem was found, and what was done: rows found, repaired, dropped, kept out of
    training windows.
    """

    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, problem: str, found: int | np.integer, **done: int | np.integer) -> None:
        """Count what was found of a problem, and what became of it."""
        row = self.counts.setdefault(problem, {"found": 0, "repaired": 0, "dropped": 0, "excluded": 0})
        for name, number in {"found": found, **done}.items():
            row[name] += int(number)

    def merge(self, other: "Tally") -> None:
        """Add another tally's counts."""
        for problem, row in other.counts.items():
            self.add(problem, **row)

    @property
    def dropped(self) -> int:
        """Rows that were left out."""
        return sum(row["dropped"] for row in self.counts.values())


@dataclass(frozen=True)
class Limits:
    """The configuration with the paper's values filled in for the data's frequency."""

    actions: CleaningConfig
    max_jump: float
    illiquid_run: int
    stagnant_run: int
    min_length: int
    max_gap: int

    @classmethod
    def of(cls, config: CleaningConfig, frequency: str) -> "Limits":
        """A configuration's limits, the paper's where it gives none."""
        paper = PAPER[nearest_in_paper(frequency)]
        return cls(
            actions=config,
            max_jump=paper.max_jump if config.max_jump is None else config.max_jump,
            illiquid_run=paper.illiquid_run if config.illiquid_run is None else config.illiquid_run,
            stagnant_run=paper.stagnant_run if config.stagnant_run is None else config.stagnant_run,
            min_length=1 if config.min_length is None else config.min_length,
            max_gap=config.max_gap,
        )


def table(tally: Tally, limits: Limits) -> list[str]:
    """The console's lines: problem, rows found, what happened. One line when nothing was found."""
    values: dict[str, Any] = {
        name: getattr(limits, name)
        for name in ("max_jump", "illiquid_run", "stagnant_run", "max_gap", "min_length")
    }
    if not any(row["found"] for row in tally.counts.values()):
        return ["  no problem found in any row"]
    lines = [f"  {'':<50} {'found':>12} {'repaired':>12} {'dropped':>12} {'not trained on':>15}"]
    for problem, words in PROBLEMS.items():
        row = tally.counts.get(problem)
        if row and row["found"]:
            numbers = (
                f"{row['found']:>12,} {row['repaired']:>12,} {row['dropped']:>12,} {row['excluded']:>15,}"
            )
            lines.append(f"  {words.format(**values):<50} {numbers}")
    return lines
