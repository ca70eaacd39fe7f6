"""Whether served forecasts have left what the backtest promised: looked at every 20th date, rarely wrong.

In: a figure's value on each date, what was promised. Out: a line for each figure that left it. NumPy, SciPy.

Method: after every `EVERY` dates the last `WINDOW` of them are tested against the promise. A year of 250 dates
is looked at 12 times, for at most three figures of a level; each test is so strict that a right model is
flagged in at most 5 % of the years (Bonferroni). Tests: the block bootstrap of `significance`, whose p-value
is never below Student's; for coverage also the binomial one that counts each date once, since dates on which
everything was covered do not vary. Simulated in tests/service/test_quality.py.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from kronos.evaluation.significance import DateBootstrap
from kronos.service.promise import Promised

EVERY, WINDOW, YEAR = 20, 60, 250
FALSE_ALARMS = 0.05
"""Share of years in which a right model is flagged, at most."""
FIGURES = 3
"""Accuracy, coverage of the first and of the last step."""
LIMIT = FALSE_ALARMS / (FIGURES * YEAR / EVERY)
"""Largest p-value of an alert."""


def watch(
    name: str,
    dates: NDArray[np.int64],
    values: NDArray[np.float64],
    sessions: NDArray[np.int64],
    horizon: int,
    promised: Promised | None,
) -> list[str]:
    """A line where the figure left the promise, found at the newest look or any of the year before; else none.

    dates, values (D,): as-of dates and the figure of each; sessions: all dates, sorted. No line while there are
    fewer than `EVERY` dates, or too few without overlap to tell.
    """
    have = np.isfinite(values)
    if promised is None or have.sum() < EVERY:
        return []
    places = np.searchsorted(sessions, dates[have])
    values = values[have]
    looks = list(range(EVERY, len(values) + 1, EVERY))[-YEAR // EVERY :]
    for end in reversed(looks):
        first = max(0, end - WINDOW)
        p, mean = p_value(
            values[first:end], places[first:end].tolist(), horizon, promised, name.startswith("cov")
        )
        if p < LIMIT:
            since = np.datetime64(int(dates[have][first]), "s").astype("datetime64[D]")
            until = np.datetime64(int(dates[have][end - 1]), "s").astype("datetime64[D]")
            return [
                f"{name}: expected {_words(promised)} ({promised.source}), found {mean:.3f} on {end - first} dates "
                f"from {since} to {until}; look at the prices, then go back to the version before or train again"
            ]
    return []


def p_value(
    values: NDArray[np.float64], places: Sequence[int], horizon: int, promised: Promised, share: bool
) -> tuple[float, float]:
    """(p, mean): how likely a mean as far beyond the promise is by chance; 1 inside it or where nobody can tell.

    share: the figure is one of yes and no, so its chance is at least that of one yes or no a date.
    """
    mean = float(values.mean())
    if promised.low <= mean <= promised.high:
        return 1.0, mean
    edge = promised.low
    if mean > promised.high:
        edge = promised.high
    least = 0.0
    if share:
        least = float(stats.binomtest(round(mean * len(values)), len(values), edge).pvalue)
    if least >= LIMIT:
        return least, mean  # already no alert: the bootstrap can only raise it
    found = DateBootstrap(tuple(places), horizon).interval(values, null=edge)
    if found.p is None:
        return 1.0, mean
    return max(found.p, least), mean


def _words(promised: Promised) -> str:
    if promised.low == promised.high:
        return f"{promised.low:.3f}"
    if promised.high == 1.0:
        return f"at least {promised.low:.3f}"
    return f"{promised.low:.3f} to {promised.high:.3f}"
