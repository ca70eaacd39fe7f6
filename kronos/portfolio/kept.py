"""Portfolios as runs keep them: what of portfolio.json is read back, and what a source says of its money.

In: folders. Out: `Kept`, tries of other runs, a currency.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronos import records
from kronos.errors import KitError

log = logging.getLogger(__name__)

VERSION = 2
"""Of portfolio.json."""
FOLDER, FILE = "portfolio", "portfolio.json"
SOURCE = "source.json"


@dataclass(frozen=True)
class KeptSignal:
    """One signal's portfolio."""

    name: str
    figures: dict[str, dict[str, Any]]
    excess: list[float | None] = field(default_factory=list)
    """Daily return after cost less the benchmark's; None where that is not known."""
    ratio: float = 0.0
    """Mean over standard deviation of these, of a day."""

    @property
    def by_day(self) -> NDArray[np.float64]:
        """(T,) excess, NaN where it is not known."""
        return np.array(self.excess, np.float64)


@dataclass(frozen=True)
class Kept:
    """portfolio.json, as far as it is read back."""

    dates: list[str]
    signals: list[KeptSignal]
    market: str = ""
    plan: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Written:
    version: int
    dates: list[str]
    signals: list[dict[str, Any]]
    request: dict[str, Any]


@dataclass(frozen=True)
class _Source:
    money: str = ""


def read_portfolio(path: Path) -> Kept:
    """The portfolio of a run. Raises KitError for another version, or another form."""
    remedy = "run scripts/run_portfolio.py again"
    found = records.read(path, _Written, remedy=remedy)
    if found.version != VERSION:
        raise KitError(f"{path}: expected version {VERSION}, found {found.version}; {remedy}")
    signals = []
    for number, tree in enumerate(found.signals):
        own = {
            "name": tree.get("name"),
            "figures": tree.get("figures"),
            "excess": tree.get("excess by day"),
            "ratio": tree.get("daily ratio"),
        }
        signals.append(records.check(own, KeptSignal, f"{path}: signals[{number}]", remedy=remedy))
        if len(signals[-1].excess) != len(found.dates):
            raise KitError(
                f"{path}: expected {len(found.dates)} days of {signals[-1].name}, found {len(signals[-1].excess)}; {remedy}"
            )
    return Kept(
        found.dates, signals, str(found.request.get("market", "")), dict(found.request.get("plan", {}))
    )


def tries_of_others(base: Path, own: Path) -> tuple[tuple[float, ...], int]:
    """(daily ratios of all signals of the other runs under a folder, how many runs these are).

    own: the folder of the run itself. A portfolio that cannot be read is said and left out.
    """
    ratios: list[float] = []
    runs = 0
    for path in sorted(base.glob(f"*/{FOLDER}/{FILE}")):
        if path.parent.parent.resolve() == own.resolve():
            continue
        try:
            kept = read_portfolio(path)
        except KitError as error:
            log.warning("%s; it does not count as a try", error)
            continue
        runs += 1
        ratios += [signal.ratio for signal in kept.signals]
    return tuple(ratios), runs


def money_of(data_path: str) -> str:
    """The currency of a store's amounts, as the source of its prices says; '' where that is not known.

    An amount that is adjusted is no money that was dealt.
    """
    path = Path(data_path).parent / SOURCE if data_path else Path()
    if not data_path or not path.is_file():
        return ""
    money = records.read(path, _Source, remedy="run kaggle/prepare_data.py again").money
    return "" if "adjusted" in money else money
