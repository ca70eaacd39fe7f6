"""Portfolios as runs keep them: what of portfolio.json is read back, and what a source says of its money.

In: folders. Out: `Kept`, tries of other runs, a currency.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    returns: list[float] = field(default_factory=list)
    """Daily return after cost."""
    ratio: float = 0.0
    """Mean over standard deviation of the excess, of a day."""


@dataclass(frozen=True)
class Kept:
    """portfolio.json, as far as it is read back."""

    dates: list[str]
    signals: list[KeptSignal]
    request: dict[str, Any]
    """What was asked: strategy, rules, days."""

    @property
    def hold(self) -> int:
        """Days that a position is held at least."""
        plan = records.check(self.request.get("plan"), dict[str, Any], "portfolio.json: request.plan")
        return records.check(plan.get("hold"), int, "portfolio.json: request.plan.hold")


@dataclass(frozen=True)
class _Written:
    """The parts of portfolio.json that are read."""

    version: int
    dates: list[str]
    signals: list[dict[str, Any]]
    request: dict[str, Any]


@dataclass(frozen=True)
class _Source:
    """The part of source.json that is read."""

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
            "returns": tree.get("return by day"),
            "ratio": tree.get("daily ratio"),
        }
        signals.append(records.check(own, KeptSignal, f"{path}: signals[{number}]", remedy=remedy))
        if len(signals[-1].returns) != len(found.dates):
            raise KitError(
                f"{path}: expected {len(found.dates)} days of {signals[-1].name}, found {len(signals[-1].returns)}; {remedy}"
            )
    return Kept(found.dates, signals, found.request)


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
