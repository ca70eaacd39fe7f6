"""Fitting a `Decision` on dates whose labels are known: slope within dates, level from history, date slope
only where proved.

In: z of n samples, their dates, what became of them, the base rate of history. Out: a `Decision`. NumPy and
SciPy.
The date is the unit of evidence: every date weighs the same, and errors count overlapping horizons as what
they share.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from kronos.answers.decision import Decision, Fitted, centred, kept, logit, of_dates, sigmoid

FloatArray = NDArray[np.float64]

SLOPE_PRIOR = 0.25
"""Standard deviation of the slope of a standardised z, before any date is seen: 0.1 is a rank IC of about
0.05.
"""
LEAST_SLOPE = 0.002
"""Slope of a standardised z below which it ranked nothing; kept above 0, so that the order of answers
stays.
"""
LEVEL_PRIOR = 0.01
"""How far the base rate of the years to come may lie from that of all history: the dates of the fit move it
only within that.
"""
SHARE_SPREAD = 0.18
"""Standard deviation over dates of the share of rises, 30 trading days ahead on US stocks; taken where the
dates show less.
"""
LEAST_DATES = 6
"""Fewest dates without overlap for a slope, and fewest for a date slope."""
LEAST_DATES_FOR_TIMING = 30
ROUNDS = 50


@dataclass(frozen=True, eq=False)
class Samples:
    """n rows with known labels, as a fit needs them."""

    z: FloatArray
    """(n,) see `decision.z_of`; NaN where there was no answer."""
    date: NDArray[np.int64]
    """(n,) position in `sessions`."""
    sessions: NDArray[np.int64]
    """(D,) the dates as positions in the trading calendar, rising."""
    rise: NDArray[np.bool_]
    """(n,) the price rose."""
    moved: NDArray[np.bool_]
    """(n,) the price did not end where it was."""
    noise: FloatArray | None = None
    """(n,) variance of z from finitely many paths."""
    order: bool = False
    """z is only an order within each date, whose mean says nothing about the market."""


def fit_decision(
    samples: Samples, history: float, horizon: int, prior_slope: float, **fixed: object
) -> Decision:
    """The decision that the samples and all history support.

    history: P(rise, if the price moves) over all history before the decision is used. prior_slope: taken
    where there are too few dates for a slope. fixed: other fields of `Decision` (key, threshold).
    """
    usable = np.isfinite(samples.z) & samples.moved
    date, rise = samples.date[usable], samples.rise[usable]
    z, noise = samples.z[usable], None if samples.noise is None else samples.noise[usable]
    effective = without_overlap(samples.sessions, horizon)
    level, dates_rate = fit_level(samples, history, horizon)
    account: dict[str, Any] = {
        "dates": len(samples.sessions),
        "effective": effective,
        "rows": int(np.isfinite(samples.z).sum()),
        "ties": int((np.isfinite(samples.z) & ~samples.moved).sum()),
        "history_rate": history,
        "dates_rate": dates_rate,
    }
    away, mean = centred(z, date)
    spread = noise_free(away, noise)
    found = fit_slope(away * kept(spread, noise, len(away)), date, rise, samples.sessions, horizon)
    timing, centre = fit_date_slope(mean, date, rise, samples.sessions, horizon)
    timing = 0.0 if samples.order else timing
    scale = math.sqrt(spread) if spread > 0 else 1.0
    if effective < LEAST_DATES or found is None:
        return Decision(
            horizon=horizon,
            level=level,
            slope=prior_slope,
            centre=centre,
            spread=spread,
            fitted=Fitted(**account, note="too few dates for a slope: the prior one is used"),
            **fixed,  # type: ignore[arg-type]
        )
    drawn = found.value / (1 + (found.error * scale / SLOPE_PRIOR) ** 2)
    note = "" if drawn * scale > LEAST_SLOPE else "the order of the answers was worth nothing on these dates"
    return Decision(
        horizon=horizon,
        level=level,
        slope=max(drawn, LEAST_SLOPE / scale),
        date_slope=timing,
        centre=centre,
        spread=spread,
        fitted=Fitted(**account, slope=found.value, slope_error=found.error, note=note),
        **fixed,  # type: ignore[arg-type]
    )


def noise_free(away: FloatArray, noise: FloatArray | None) -> float:
    """Variance of z within dates (m,) less that of the noise; at least a twentieth of it, so that a slope
    stays finite.
    """
    if not len(away):
        return 0.0
    seen = float(np.mean(away**2))
    return seen if noise is None else max(seen - float(np.mean(noise)), seen / 20)


# -- the level -----------------------------------------------------------------------------------------------
def fit_level(samples: Samples, history: float, horizon: int) -> tuple[float, float | None]:
    """Log odds of a rise, if the price moves, and the share of rises on the dates of the fit (None without
    any).

    All history is thousands of dates; those of the fit are a few and move together, so they move it by a
    hundredth or so.
    """
    share, sessions = _shares_by_date(
        samples.date[samples.moved], samples.rise[samples.moved], samples.sessions
    )
    if not len(share):
        return _log_odds(history), None
    mean = float(share.mean())
    error = _error_of_mean(share, sessions, horizon)
    weight = LEVEL_PRIOR**2 / (LEVEL_PRIOR**2 + error**2)
    return _log_odds(history + weight * (mean - history)), mean


def _log_odds(rate: float) -> float:
    return float(logit(np.clip(rate, 0.02, 0.98)))


def _shares_by_date(
    date: NDArray[np.int64], rise: NDArray[np.bool_], sessions: NDArray[np.int64]
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Share of rises of each date that has rows, and the dates' sessions."""
    count = np.bincount(date, minlength=len(sessions))
    up = np.bincount(date, rise.astype(np.float64), minlength=len(sessions))
    have = count > 0
    return up[have] / count[have], sessions[have]


# -- the slope within dates ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Slope:
    """An estimate with its standard error over dates."""

    value: float
    error: float
    dates: int
    """Dates that said something: with rises and falls among their rows."""
    freedom: float
    """Degrees of freedom of Student's t for its interval."""

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Student's interval."""
        half = float(stats.t.ppf((1 + level) / 2, self.freedom)) * self.error
        return self.value - half, self.value + half


def fit_slope(
    x: FloatArray, date: NDArray[np.int64], rise: NDArray[np.bool_], sessions: NDArray[np.int64], horizon: int
) -> Slope | None:
    """Slope of the logistic regression of the rise on x with an intercept for every date; None where no date
    tells.

    x, rise, date: (m,). Newton's method on slope and intercepts at once. A date of m rows estimates its own
    intercept, which stretches the slope by m / (m - 1); that is taken back.
    """
    parts = _telling(x, date, rise)
    if not parts:
        return None
    told, count = np.concatenate(parts), len(parts)
    sizes = np.array([len(rows) for rows in parts], np.float64)
    place = np.repeat(np.arange(count), sizes.astype(np.int64))
    x, y = x[told], rise[told].astype(np.float64)
    weight = (1 / sizes)[place]
    slope, level = 0.0, logit((np.bincount(place, y, count) + 0.5) / (sizes + 1))
    for _ in range(ROUNDS):
        p = sigmoid(slope * x + level[place])
        pq = weight * p * (1 - p)
        curve = np.maximum(np.bincount(place, pq, count), 1e-12)
        mean = np.bincount(place, pq * x, count) / curve
        gap = weight * (y - p)
        information = float((pq * (x - mean[place]) ** 2).sum())
        if information <= 1e-12:
            return None
        step = float((gap * (x - mean[place])).sum()) / information
        step = min(max(step, -2.0), 2.0)
        level = level + np.clip(np.bincount(place, gap, count) / curve - mean * step, -2, 2)
        slope += step
        if abs(step) < 1e-9:
            break
    shrink = float(np.mean((sizes - 1) / sizes))
    scores = np.bincount(place, gap * (x - mean[place]), count).astype(np.float64)
    days = sessions[np.unique(date[told])]
    effective = without_overlap(days, horizon)
    if effective < 2:
        return None
    variance = _overlapping(scores, days, horizon) * effective / (effective - 1)
    return Slope(slope * shrink, math.sqrt(variance) / information * shrink, count, effective - 1)


def _telling(x: FloatArray, date: NDArray[np.int64], rise: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Positions of the rows of each date that has rises and falls, and different x."""
    parts = []
    for rows in of_dates(date):
        up = int(rise[rows].sum())
        if 0 < up < len(rows) and np.ptp(x[rows]) > 0:
            parts.append(rows)
    return parts


# -- the slope of the date's mean ----------------------------------------------------------------------------
def fit_date_slope(
    mean: FloatArray,
    date: NDArray[np.int64],
    rise: NDArray[np.bool_],
    sessions: NDArray[np.int64],
    horizon: int,
) -> tuple[float, float]:
    """(slope of the date's mean of z, centre of the means). The slope is 0 unless its 95 % interval lies
    above 0, and then it is drawn towards 0 by what its error suggests. mean (m,): of each row's date."""
    days, first = np.unique(date, return_index=True)
    if not len(days):
        return 0.0, 0.0
    centre = float(mean[first].mean())
    x = mean[first] - centre
    effective = without_overlap(sessions[days], horizon)
    spread = float((x**2).sum())
    if effective < LEAST_DATES_FOR_TIMING or spread <= 1e-12:
        return 0.0, centre
    count = np.bincount(date)[days]
    up = np.bincount(date, rise.astype(np.float64))[days]
    y = logit((up + 0.5) / (count + 1))
    slope = float((x * (y - y.mean())).sum()) / spread
    parts = x * (y - y.mean() - slope * x)
    error = math.sqrt(_overlapping(parts, sessions[days], horizon) * effective / (effective - 2)) / spread
    if slope - float(stats.t.ppf(0.975, effective - 2)) * error <= 0:
        return 0.0, centre
    return slope * (1 - (error / slope) ** 2), centre


# -- dates that overlap --------------------------------------------------------------------------------------
def without_overlap(sessions: NDArray[np.int64], horizon: int) -> int:
    """Dates that can be chosen so that no two horizons overlap."""
    count, free = 0, -math.inf
    for session in np.asarray(sessions).tolist():
        if session >= free:
            count, free = count + 1, session + horizon
    return count


def _overlapping(parts: FloatArray, sessions: NDArray[np.int64], horizon: int) -> float:
    """Variance of the sum of parts (D,), one a date: two dates count as far as their horizons have days in
    common.
    """
    place = sessions.astype(np.float64)
    common = np.maximum(0, 1 - np.abs(place[:, None] - place) / horizon)
    return float(parts @ common @ parts)


def _error_of_mean(values: FloatArray, sessions: NDArray[np.int64], horizon: int) -> float:
    """Standard error of the mean of shares (D,), one a date; 0.5, all that is possible, where there are fewer
    than two.
    """
    effective = without_overlap(sessions, horizon)
    if effective < 2:
        return 0.5
    variance = _overlapping(values - values.mean(), sessions, horizon) * effective / (effective - 1)
    # Dates that look alike by luck are not that sure: on real markets the share of rises swings by 18 points
    # from date to date.
    return max(math.sqrt(variance) / len(values), SHARE_SPREAD / math.sqrt(effective))
