"""What a package promises of its forecasts: the figures of its backtest, or the level itself.

In: a package's facts. Out: `Promise`, asked figure by figure. Standard library only.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Promised:
    """What a figure should be: between low and high; beyond them by chance only."""

    low: float
    high: float
    source: str
    """Where the promise comes from: the backtest, or the level itself."""


@dataclass(frozen=True)
class Promise:
    """What a package says of its own quality."""

    train_end: str | None = None
    horizon: int | None = None
    """Horizon of the backtest."""
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Figures of the backtest's network: name -> value, low, high."""

    @classmethod
    def of(cls, train_end: str | None, backtest: dict[str, Any] | None) -> "Promise":
        """From a package's facts. The network is the backtest's first entry, where that is one of paths."""
        entries = [] if backtest is None else backtest["entries"]
        if backtest is None or not entries or entries[0]["kind"] not in ("paths", "enumeration"):
            return cls(train_end)
        return cls(train_end, int(backtest["dates"]["horizon"]), entries[0]["figures"])

    def coverage(self, level: float, step: int) -> Promised:
        """What a level's intervals should cover: at the backtest's step what it measured, else the level."""
        found = self.figures.get(f"coverage_{100 * level:g}")
        if step == self.horizon and found is not None and found["value"] is not None:
            return _around(found, "backtest")
        return Promised(level, level, "level")

    def accuracy(self, horizon: int) -> Promised | None:
        """The backtest's within-date accuracy or more; None where it tested no such horizon."""
        found = self.figures.get("within_date_accuracy")
        if horizon != self.horizon or found is None or found["value"] is None:
            return None
        return Promised(_around(found, "backtest").low, 1.0, "backtest")

    def shown(self) -> dict[str, Any] | None:
        """For JSON: horizon, accuracy and coverage of the backtest; None where there is none."""
        if self.horizon is None:
            return None
        names = [name for name in self.figures if name.startswith(("coverage_", "within_date"))]
        return {"horizon": self.horizon, **{name: self.figures[name] for name in names}}


def _around(found: dict[str, Any], source: str) -> Promised:
    """A figure's interval, or its value alone where the backtest had too few dates for one."""
    if found["low"] is None or found["high"] is None:
        return Promised(found["value"], found["value"], source)
    return Promised(found["low"], found["high"], source)
