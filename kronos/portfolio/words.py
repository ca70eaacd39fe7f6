"""What a reader of a portfolio has to know beside its figures: one line each, counted.

In: outcomes of signals, what was asked. Out: lines for the console and the page.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronos.portfolio.outcome import Outcome, Request
from kronos.portfolio.scene import Scene
from kronos.portfolio.signals import Signal, day_text

ONE_YEAR_RATIO = 2.2
"""Half the width of a 95 % interval of an information ratio from one year of days (docs/portfolio.md)."""


def lines_of(
    outcomes: list[Outcome],
    scene: Scene,
    request: Request,
    wrong: float | None,
    empty: int,
    curves: dict[str, Any],
) -> list[str]:
    """All lines, each once.

    wrong: what dealing at the scores' own close would have added a year (`look_ahead`). empty: days without a
    universe. curves: the band of noise.
    """
    lines = _together([(outcome.signal.name, outcome.signal.lines) for outcome in outcomes])
    lines += _of_the_data(outcomes, scene, request, empty)
    years = len(scene.benchmark) / scene.year
    half = ONE_YEAR_RATIO / math.sqrt(max(years, 1e-9))
    lines.append(
        f"{years:.1f} years of days tell an information ratio to about +-{half:.1f}; one year to about +-{ONE_YEAR_RATIO}"
    )
    if curves:
        ratios = curves["information ratios"]
        lines.append(
            f"luck: {len(ratios)} signals of noise that change as slowly had information ratios from "
            f"{min(ratios):+.2f} to {max(ratios):+.2f} after cost"
        )
    if wrong is not None:
        lines.append(
            f"dealing at the same close that the score needs (a mistake) would have added {wrong:+.1%} a year"
        )
    tried, runs = len(outcomes) + len(request.tried), 1 + request.other_runs
    if tried > 1:
        of = f"{tried} signals"
        if runs > 1:
            of = f"{tried} signals of {runs} runs"
        lines.append(f"{of} were tried: the best is flattered; read its deflated Sharpe ratio")
    return lines + _together([(outcome.signal.name, _of_one(outcome, scene)) for outcome in outcomes])


def _of_the_data(outcomes: list[Outcome], scene: Scene, request: Request, empty: int) -> list[str]:
    """What the prices, the benchmark and the universe do not know."""
    count, lines = len(scene.benchmark), []
    if scene.rules.name == "CN" and scene.prices.factor is None:
        lines.append(
            "CN: the store does not know what was dealt before splits: lots of 100 are lots of adjusted shares"
        )
    missing = int((~scene.known).sum())
    if missing:
        lines.append(
            f"benchmark: {missing:,} of {count:,} days have no value: they are left out of every comparison"
        )
    if empty:
        lines.append(
            f"universe: {empty:,} of {count:,} days have no stock that may be held: nothing is bought"
        )
    fewest = min(int(np.median(_scored_a_day(outcome.signal))) for outcome in outcomes)
    if fewest <= scene.plan.topk:
        lines.append(
            f"--topk {scene.plan.topk}: a day has scores of {fewest:,} stocks (median): all of them are held, nothing is chosen"
        )
    if not request.money:
        lines.append("capacity: the unit of the money dealt is not known (--money): not shown")
    return lines


def _scored_a_day(signal: Signal) -> NDArray[np.int64]:
    """Stocks with a score, on each day that has any."""
    count = np.isfinite(signal.score).sum(axis=1)
    return count[count > 0]


def _of_one(outcome: Outcome, scene: Scene) -> list[str]:
    """Of one signal, without its name: orders that were not dealt, scores that are old, what the control found."""
    lines = []
    last = outcome.last_scored(scene)
    if last < scene.days.stop - 1:
        known, day = (day_text(scene.prices.dates[place]) for place in (last, scene.days.stop - 1))
        lines.append(
            f"the last scores are of {known}, the last prices of {day}: what is held rests, and orders.csv asks for nothing"
        )
    if outcome.daily.refused.sum():
        reasons = ", ".join(f"{count:,} {name}" for name, count in sorted(outcome.daily.reasons.items()))
        lines.append(f"{int(outcome.daily.refused.sum()):,} orders were not dealt ({reasons})")
    if outcome.check is not None:
        lines.append(outcome.check.line(scene.rules.name))
    return lines


def _together(said: list[tuple[str, list[str]]]) -> list[str]:
    """One line for what is said of several signals, with their names before it."""
    owners: dict[str, list[str]] = {}
    for name, lines in said:
        for line in lines:
            owners.setdefault(line, []).append(name)
    found = []
    for line, names in owners.items():
        who = ", ".join(names)
        if len(names) == len(said) > 1:
            who = f"all {len(names)} signals"
        found.append(f"{who}: {line}")
    return found
