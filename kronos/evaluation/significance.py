"""Error bars that are true: the date is the observation, overlapping horizons make neighbouring dates one.

In: a figure's value on each of D dates, where the dates lie in the trading calendar, the horizon. Out:
intervals, p-values, Holm's correction, a verdict in words. NumPy and SciPy.

Method: circular block bootstrap over dates (Politis and Romano 1992), blocks of at least 2 x horizon,
studentised with the overlapping-block variance, so that few blocks give wide intervals (Goncalves and
Vogelsang 2011, Econometric Theory 27). Plain percentile intervals cover 75 to 93 % here. An interval is never
narrower than Student's t with the variance and degrees of freedom that overlapping horizons alone imply.
Coverage by simulation: docs/evaluation.md, tests/evaluation/test_significance.py.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

from kronos.answers.findings import holm

LEVEL = 0.95
MIN_EFFECTIVE = 6
"""Fewest dates without overlap for which an interval is given."""

DRAWS_AT_ONCE = 32
"""Draws that are worked out together: few enough for a processor's cache, for speed only."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean over dates with its 95 % interval; low and high are None where there are too few dates to
    tell.
    """

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    """Two-sided p-value against the null that was asked about; None without one."""
    dates: int = 0
    """Dates on which the figure is defined."""

    def excludes(self, null: float) -> int:
        """1 when the whole interval lies above `null`, -1 when below, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > null) - int(self.high < null)

    def of_share(self) -> "Interval":
        """The interval of a share: no end lies outside [0, 1], where no share can be."""
        if self.low is None or self.high is None:
            return self
        return replace(self, low=min(1.0, max(0.0, self.low)), high=min(1.0, max(0.0, self.high)))


@dataclass(frozen=True)
class DateBootstrap:
    """Intervals for figures of one set of dates."""

    sessions: tuple[int, ...]
    """(D,) positions of the dates in the trading calendar, rising."""
    horizon: int
    """Trading days that a label spans."""
    draws: int = 2000
    seed: int = 42

    @property
    def block(self) -> int:
        """Dates in a block: at least 2 x horizon trading days wherever it lies."""
        gaps = np.diff(self.sessions)
        return max(1, math.ceil(2 * self.horizon / gaps.min())) if len(gaps) else 1

    @cached_property
    def effective(self) -> int:
        """Dates that can be chosen without two horizons overlapping: the number of observations there really
        are.
        """
        count, free = 0, -math.inf
        for session in self.sessions:
            if session >= free:
                count, free = count + 1, session + self.horizon
        return count

    def interval(self, values: FloatArray, null: float | None = None) -> Interval:
        """The mean of `values` (D,) over the dates on which it is defined, its interval, and p against
        `null`.
        """
        defined = np.isfinite(values)
        if not defined.any():
            return Interval(float("nan"))
        own = (
            self
            if defined.all()
            else DateBootstrap(tuple(np.array(self.sessions)[defined]), self.horizon, self.draws, self.seed)
        )
        return own._interval(np.asarray(values, np.float64)[defined], null)

    def ratio(self, above: FloatArray, below: FloatArray) -> Interval:
        """Sum of `above` over sum of `below`, each (D,), with the interval of its linear approximation over
        dates.
        """
        value = float(above.sum() / below.sum())
        found = self.interval((above - value * below) / below.mean())
        if found.low is None or found.high is None:
            return Interval(value, dates=int((below > 0).sum()))
        return Interval(value, value + found.low, value + found.high, dates=int((below > 0).sum()))

    def percentiles(self, totals: FloatArray, figure: Callable[[FloatArray], FloatArray]) -> Interval:
        """A figure of sums over dates: totals (D, ...) -> (...) -> scalar. Its interval are percentiles of
        the draws.
        """
        dates, value = len(totals), float(figure(totals.sum(axis=0)))
        if self.effective < MIN_EFFECTIVE or dates < 2 * self.block:
            return Interval(value, dates=dates)
        draws = _draws(dates, self.block, self.draws, self.seed)
        values = figure(np.stack([totals[d].sum(axis=0) for d in draws]))
        low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Interval(value, float(low), float(high), dates=dates)

    def _interval(self, x: FloatArray, null: float | None) -> Interval:
        mean, dates = float(x.mean()), len(x)
        if self.effective < MIN_EFFECTIVE or dates < 2 * self.block:
            return Interval(mean, dates=dates)
        error = math.sqrt(float(_variance(x, self.block)))
        if error <= 1e-12 * max(1.0, abs(mean)):
            return Interval(
                mean, mean, mean, None if null is None else float(abs(mean - null) < 1e-12), dates
            )
        t = self._replicates(x, mean)
        if not np.isfinite(largest := float(np.quantile(t, LEVEL, method="higher"))):
            return Interval(mean, dates=dates)  # so many equal dates that whole draws do not vary
        ratio, freedom = overlap_model(self.sessions, self.horizon, self.block)
        least = stats.t.ppf((1 + LEVEL) / 2, freedom) * math.sqrt(ratio)
        half = error * max(largest, least)
        return Interval(
            mean,
            mean - half,
            mean + half,
            None if null is None else _p_value(t, mean - null, error, ratio, freedom),
            dates,
        )

    def _replicates(self, x: FloatArray, mean: float) -> FloatArray:
        """|t| of every bootstrap draw, (draws,)."""
        positions = _draws(len(x), self.block, self.draws, self.seed)
        error, away = np.empty(len(positions)), np.empty(len(positions))
        for first in range(0, len(positions), DRAWS_AT_ONCE):
            part = slice(first, first + DRAWS_AT_ONCE)
            drawn = x[positions[part]]
            error[part] = np.sqrt(_variance(drawn, self.block))
            away[part] = np.abs(drawn.mean(axis=1) - mean)
        still = error <= 1e-9 * math.sqrt(float(_variance(x, self.block)))
        return np.where(still, np.where(away > 0, np.inf, 0.0), away / np.where(still, 1.0, error))


def _p_value(t: FloatArray, away: float, error: float, ratio: float, freedom: float) -> float:
    """The larger of the bootstrap's p-value and Student's: agrees with the interval, which is the wider of
    both.
    """
    own = (1 + int((t >= abs(away) / error).sum())) / (1 + len(t))
    return float(max(own, 2 * stats.t.sf(abs(away) / (error * math.sqrt(ratio)), freedom)))


def _variance(x: FloatArray, block: int) -> FloatArray:
    """Variance of the mean of x (..., D) from sums over all circular blocks, (...,)."""
    count = x.shape[-1]
    away = x - x.mean(axis=-1, keepdims=True)
    sums = np.cumsum(
        np.concatenate([np.zeros_like(away[..., :1]), away, away[..., : block - 1]], axis=-1), axis=-1
    )
    return ((sums[..., block:] - sums[..., :-block]) ** 2).mean(axis=-1) / (block * count)


@lru_cache(maxsize=8)
def _draws(count: int, block: int, draws: int, seed: int) -> NDArray[np.int64]:
    """Positions (draws, count): circular blocks, the last one cut."""
    starts = np.random.default_rng(seed).integers(0, count, (draws, math.ceil(count / block), 1))
    return ((starts + np.arange(block)) % count).reshape(draws, -1)[:, :count]


@lru_cache(maxsize=32)
def overlap_model(sessions: tuple[int, ...], horizon: int, block: int) -> tuple[float, float]:
    """What overlap alone does to `_variance`: (true variance / expected estimate, degrees of freedom).

    The model: the figure of a date is a sum over the days of its horizon, so that two dates correlate by the
    share of days they have in common. Exact for normal values; the degrees of freedom are Satterthwaite's.
    """
    place = np.array(sessions, np.float64)
    count = len(place)
    shared = _shared(place, horizon)
    step = np.arange(block)
    rows = np.repeat(np.arange(count), block)
    sums = sparse.csr_array(
        (np.ones(count * block), (rows, (rows + np.tile(step, count)) % count)), (count, count)
    )
    # The estimate's matrix is sums' sums less the mean, that is less block^2 / count everywhere; only the
    # first part is kept, which has few entries, and the constant is worked out by hand.
    product = (sums.T @ sums) @ shared
    constant, row_sums = block**2 / count, shared.sum(axis=0)
    total = float(shared.sum())
    trace = float(product.trace()) - constant * total
    squares = float((product * product.T).sum()) - 2 * constant * float(row_sums @ (product.sum(axis=1)))
    squares += constant**2 * total**2
    scale = count * count * block
    expected = trace / scale
    return float(total / count**2 / expected), float(expected**2 / (squares / scale**2))


def _shared(place: FloatArray, horizon: int) -> sparse.csr_array:
    """(D, D) share of days that two dates' horizons have in common; few entries are not 0."""
    reach = np.searchsorted(place, place + horizon)
    counts = reach - np.arange(len(place))
    rows = np.repeat(np.arange(len(place)), counts)
    columns = rows + np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    values = 1 - (place[columns] - place[rows]) / horizon
    upper = sparse.csr_array((values, (rows, columns)), (len(place), len(place)))
    return upper + upper.T - sparse.diags_array(np.ones(len(place)))


# -- several comparisons -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Comparison:
    """One figure of the model less that of a baseline, over the dates on which both are defined."""

    baseline: str
    figure: str
    difference: Interval
    p_holm: float | None
    smaller_is_better: bool = False

    @property
    def better(self) -> int:
        """1: the model is better, after Holm's correction; -1: worse; 0: no evidence of a difference."""
        if self.p_holm is None or self.p_holm > 1 - LEVEL:
            return 0
        return int(np.sign(self.difference.value)) * (-1 if self.smaller_is_better else 1)

    @property
    def words(self) -> str:
        """The comparison in words."""
        return {
            1: f"better than {self.baseline}",
            0: f"no evidence against {self.baseline}",
            -1: f"worse than {self.baseline}",
        }[self.better]


def compare(
    bootstrap: DateBootstrap,
    figure: str,
    own: FloatArray,
    others: dict[str, FloatArray],
    smaller_is_better: bool = False,
) -> list[Comparison]:
    """The model's values of a figure (D,) against each baseline's, with Holm's correction over the
    baselines.
    """
    differences = {name: bootstrap.interval(own - values, null=0.0) for name, values in others.items()}
    adjusted = holm([d.p for d in differences.values()])
    return [
        Comparison(name, figure, d, p, smaller_is_better)
        for (name, d), p in zip(differences.items(), adjusted, strict=True)
        if math.isfinite(d.value)
    ]


def skill(within: Interval, accuracy: list[Comparison], constants: set[str]) -> int:
    """1: evidence of skill; -1: worse than chance; 0: no evidence either way.

    Skill is shown by within-date accuracy above 50 %, or by an accuracy above that of every constant answer,
    whatever share of shares rose. Each errs in at most 2.5 % of cases without skill; beating one constant
    alone says which way the market went.
    """
    against = [c.better for c in accuracy if c.baseline in constants]
    if within.excludes(0.5) > 0 or (against and min(against) > 0):
        return 1
    return -1 if within.excludes(0.5) < 0 or (against and max(against) < 0) else 0
