"""A synthetic stock market in the competition's layout, with a planted signal whose best attainable accuracy
is known.

In: `MarketConfig`. Out: `Market`, prices and what is true about them; `market_files` writes both. The process
is ours; the inversion formula is J. Gil-Pelaez, Biometrika 38 (1951).

The process, per ticker i and trading day t, in units of the ticker's own daily volatility c_i:

    r[t+1] = v[t] * (signal * s[t] + sqrt(COMMON) * f[t+1] + sqrt(1 - COMMON) * e[t+1])      f, e standard normal

* s is +1 or -1 and keeps its sign from one day to the next with probability STAY. It is in plain sight:
  volume is high while s is +1 and low while it is -1, and the two never overlap. Prices rise, on average, on
  heavy volume.
* v is a volatility level that walks up and down a ladder: volatility clusters and returns have fat tails.
* f is shared by all tickers on a date: shares rise and fall together. It is independent over time, so no past
  tells it.

P(rise) given the whole past depends on (s[t], v[t]) alone and is exact (`rise_probability`); the best class
is the sign of s[t] and needs only volume. The default signal is an annual Sharpe ratio of about 6 in every
share, far stronger than in any
real market: it shows that the machinery learns what there is to learn, and nothing about real prices. signal
0 is a driftless random walk of log prices, on which nothing can be right more than half of the time.
"""

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronos.config import MarketConfig
from kronos.data.calendar import SessionRules

log = logging.getLogger(__name__)

BEFORE_FIRST = np.datetime64("2021-01-01")
"""The market opens on the first trading day after this date."""
STAY = 0.9
COMMON = 0.03
"""Share of the common factor in a day's variance: far less than in a real market, or the one test date would
be such a matter of luck that a demonstration on it could show nothing."""
VOLATILITY_LEVELS = np.exp(np.linspace(-0.5, 0.5, 5))
VOLATILITY_MOVE = 0.05
"""Probability of one step up the ladder of levels, and of one step down."""
VOLUME_STEP, VOLUME_NOISE = 0.6, 0.05
"""Log volume is base + VOLUME_STEP * s + noise; the noise is cut at 3 standard deviations, below
VOLUME_STEP.
"""
WORLDS = 1000
"""Simulated futures of the test date, for the accuracy against the date's median (no closed form)."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Market:
    """One simulated market. D = days + horizon trading days, N tickers; ticker i is called `ticker_{i+1}`.

    sessions (D,) datetime64[s]; scale (N,) is c_i; open, high, low, close, volume (D, N); state (D, N) int8
    is s; level (D, N) int8 indexes VOLATILITY_LEVELS; prob_up (D, N) is P(close[t + horizon] > close[t] |
    everything up to t).
    """

    config: MarketConfig
    sessions: NDArray[np.datetime64]
    scale: FloatArray
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray
    state: NDArray[np.int8]
    level: NDArray[np.int8]
    prob_up: FloatArray

    @property
    def tickers(self) -> list[str]:
        """Names of the stocks."""
        return [f"ticker_{i + 1}" for i in range(self.config.tickers)]

    @property
    def labels(self) -> NDArray[np.bool_]:
        """(D - horizon, N): whether close is greater `horizon` days later; a tie is no rise."""
        return self.close[self.config.horizon :] > self.close[: -self.config.horizon]


# -- the process ---------------------------------------------------------------------------------------------
def simulate(config: MarketConfig, calendar: str = "NYSE") -> Market:
    """Simulate `days` training days and `horizon` more. Same config, same numbers."""
    rng = np.random.default_rng(config.seed)
    days, tickers = config.days + config.horizon, config.tickers
    state, level = _states(rng, days, tickers)
    scale = 0.015 * np.exp(0.3 * rng.standard_normal(tickers))
    returns = np.zeros((days, tickers))
    returns[1:] = scale * _shocks(rng, config.signal, state[:-1], level[:-1])
    close = np.exp(np.log(rng.uniform(15, 150, tickers)) + returns.cumsum(axis=0))
    opened, high, low = _candle(rng, close, returns, scale * VOLATILITY_LEVELS[level])
    noise = np.clip(rng.standard_normal((days, tickers)), -3, 3)
    volume = np.exp(rng.normal(13, 1, tickers) + VOLUME_STEP * state + VOLUME_NOISE * noise)
    table = rise_probability(config.signal, config.horizon)
    return Market(
        config=config,
        sessions=_trading_days(calendar, days),
        scale=scale,
        open=opened.round(6),
        high=high.round(6),
        low=low.round(6),
        close=close.round(6),
        volume=volume.round(),
        state=state,
        level=level,
        prob_up=table[(state > 0).astype(int), level],
    )


def _trading_days(calendar: str, days: int) -> NDArray[np.datetime64]:
    """The first `days` trading days after BEFORE_FIRST, datetime64[s]. Raises KitError beyond what is known
    of the exchange.
    """
    rules = SessionRules.load(calendar)
    first = BEFORE_FIRST + np.timedelta64(1, "D")
    last = min(BEFORE_FIRST + np.timedelta64(2 * days + 30, "D"), rules.last)
    opened = rules.open_days(first, last)[:days]
    if len(opened) < days:
        raise rules.unknown(rules.last + np.timedelta64(1, "D"))
    return opened.astype("datetime64[s]")


def _states(rng: np.random.Generator, days: int, tickers: int) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """s (days, tickers) in {-1, 1} and the volatility level, both started in their stationary law."""
    flips = np.where(rng.random((days, tickers)) < STAY, 1, -1).astype(np.int8)
    flips[0] = np.where(rng.random(tickers) < 0.5, 1, -1)
    moves = _ladder_moves(rng.random((days, tickers)))
    level = np.empty((days, tickers), np.int8)
    level[0] = rng.integers(0, len(VOLATILITY_LEVELS), tickers)
    for day in range(1, days):
        level[day] = np.clip(level[day - 1] + moves[day], 0, len(VOLATILITY_LEVELS) - 1)
    return np.cumprod(flips, axis=0, dtype=np.int8), level


def _ladder_moves(uniform: FloatArray) -> NDArray[np.int8]:
    """-1, 0 or 1 for uniforms in [0, 1). At an end of the ladder the outward move stays put: all levels are
    equally common.
    """
    return (uniform > 1 - VOLATILITY_MOVE).astype(np.int8) - (uniform < VOLATILITY_MOVE).astype(np.int8)


def _shocks(rng: np.random.Generator, signal: float, state: NDArray, level: NDArray) -> FloatArray:
    """Next day's returns in units of c_i, given the day's states. state, level: (..., N); the factor is
    shared along N.
    """
    common = rng.standard_normal((*state.shape[:-1], 1))
    own = rng.standard_normal(state.shape)
    return VOLATILITY_LEVELS[level] * (signal * state + np.sqrt(COMMON) * common + np.sqrt(1 - COMMON) * own)


def _candle(
    rng: np.random.Generator, close: FloatArray, returns: FloatArray, spread: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Open, high and low around the closes: open is last close plus part of the day's move, the range
    contains both.
    """
    opened = close * np.exp(-0.7 * returns + 0.2 * spread * rng.standard_normal(close.shape))
    reach = 0.4 * spread * np.abs(rng.standard_normal((2, *close.shape)))
    high = np.maximum(opened, close) * np.exp(reach[0])
    low = np.minimum(opened, close) * np.exp(-reach[1])
    return opened, high, low


# -- the truth -----------------------------------------------------------------------------------------------
def rise_probability(signal: float, horizon: int, nodes: int = 400) -> FloatArray:
    """P(log price is higher after `horizon` days), exactly. Returns (2, levels): row 0 for s = -1, row 1 for
    s = +1.

    The sum of the returns is normal given the path of (s, v), a Markov chain: its characteristic function is
    a product of `horizon` small matrices, and P = 1/2 + 1/pi * integral of Im phi(u) / u over u > 0
    (Gil-Pelaez 1951).
    """
    levels = len(VOLATILITY_LEVELS)
    sign = np.repeat([-1.0, 1.0], levels)
    volatility = np.tile(VOLATILITY_LEVELS, 2)
    points, weights = np.polynomial.legendre.leggauss(nodes)
    end = 10 / (volatility.min() * np.sqrt(horizon))  # beyond it |phi| < exp(-50)
    u = (points + 1) / 2 * end
    one_day = np.exp(1j * u[:, None] * signal * sign * volatility - (u[:, None] * volatility) ** 2 / 2)
    phi = one_day
    for _ in range(horizon - 1):
        phi = one_day * (phi @ _transition().T)
    integral = (weights * end / 2) @ (phi.imag / u[:, None])
    return (0.5 + integral / np.pi).reshape(2, levels)


def _transition() -> FloatArray:
    """Transition matrix of (s, level), s slowest: entry [a, b] is P(b tomorrow | a today)."""
    levels = len(VOLATILITY_LEVELS)
    ladder = (1 - 2 * VOLATILITY_MOVE) * np.eye(levels) + VOLATILITY_MOVE * (
        np.eye(levels, k=1) + np.eye(levels, k=-1)
    )
    ladder[0, 0] += VOLATILITY_MOVE
    ladder[-1, -1] += VOLATILITY_MOVE
    return np.kron(np.array([[STAY, 1 - STAY], [1 - STAY, STAY]]), ladder)


def attainable(prob_up: FloatArray) -> float:
    """Expected accuracy of the best possible classifier over rows with these probabilities: mean of max(p, 1
    - p).
    """
    return float(np.maximum(prob_up, 1 - prob_up).mean())


def attainable_within_date(market: Market, worlds: int = WORLDS) -> tuple[float, float]:
    """The best classifier's accuracy against the test date's median return, simulated from the last training
    day.

    Returns (mean, standard error) over `worlds` independent futures. The common factor moves all tickers
    alike, so the median removes most of it.
    """
    rng = np.random.default_rng([market.config.seed, 1])
    last = market.config.days - 1
    state = np.broadcast_to(market.state[last], (worlds, market.config.tickers))
    level = np.broadcast_to(market.level[last], state.shape).astype(int)
    best, total = state > 0, np.zeros(state.shape)
    for _ in range(market.config.horizon):
        total += market.scale * _shocks(rng, market.config.signal, state, level)
        state = np.where(rng.random(state.shape) < STAY, state, -state)
        level = np.clip(level + _ladder_moves(rng.random(state.shape)), 0, len(VOLATILITY_LEVELS) - 1)
    right = (best == (total > np.median(total, axis=1, keepdims=True))).mean(axis=1)
    return float(right.mean()), float(right.std(ddof=1) / np.sqrt(worlds))
