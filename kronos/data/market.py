"""A synthetic stock market in the competition's layout, with a planted signal whose best attainable accuracy
is known.

In: `MarketConfig` and the paths of `DataConfig`. Out: train.csv, test.csv, sample_submission.csv,
solution.csv and market.json, which holds the truth. The process is ours; the inversion formula is J.
Gil-Pelaez, Biometrika 38 (1951).

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

import hashlib
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kronos import files, records
from kronos.config import DataConfig, MarketConfig
from kronos.data.calendar import SessionRules
from kronos.errors import KitError

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


# -- the files -----------------------------------------------------------------------------------------------
def market_path(data: DataConfig) -> Path:
    """Where the truth is written: beside the solution, or beside the prices when no solution is asked for."""
    return Path(data.solution_path or _single(data)).parent / RECORD


RECORD = "market.json"
ROLES = ("data_path", "test_path", "sample_submission_path", "solution_path")
"""The settings of `data` that name generated files."""


@dataclass(frozen=True)
class Record:
    """What the kit notes about the files that it generated: market.json."""

    settings: dict[str, Any]
    prices_sha256: str
    files: dict[str, list[str]] | None = None
    """Role (see ROLES) -> SHA-256 of what the kit wrote there; two while it is at work: the old content and
    the new.
    """


def ensure_market(config: MarketConfig, data: DataConfig) -> dict[str, Any]:
    """The truth of the generated files; writes them when they are missing or were generated with other
    settings.

    Raises KitError, before anything is written, when one of the four files is there and is not the kit's own.
    """
    prices = Path(_single(data))
    known = _up_to_date(config, data)
    if known is None:
        busy = f"another process is writing {prices}: waiting for it"
        with files.locked(
            prices.parent / f".{prices.name}.lock", busy
        ):  # else one takes away what the other has just written
            known = _up_to_date(config, data)
            known = write_market(config, data) if known is None else known
    return known


def check_market(config: MarketConfig, data: DataConfig) -> None:
    """What `ensure_market` refuses, without writing anything. Raises KitError."""
    _check_names(data)
    _up_to_date(config, data)


def _up_to_date(config: MarketConfig, data: DataConfig) -> dict[str, Any] | None:
    """The truth of the files that are there; None where they are to be written. Raises KitError as
    `ensure_market`.
    """
    truth = market_path(data)
    record = None
    if truth.is_file():
        record = records.read(
            truth,
            Record,
            remedy=f"if {truth} is not the kit's, name another data.solution_path; else remove it",
        )
    _check_foreign(config, data, record)
    missing = [path for path in _places(data).values() if not path.exists()]
    if record is None or missing or record.settings != _settings(config, data):
        return None
    return records.read_json(truth)


def _check_foreign(config: MarketConfig, data: DataConfig, record: Record | None) -> None:
    """Refuse to write over a file that the kit did not generate."""
    there = {role: path for role, path in _places(data).items() if path.exists()}
    if not there:
        return
    known = (record.files if record else None) or {}
    if (
        record and record.files is None
    ):  # written before the record held all four: what the same settings give again is known
        known = _content_digests(_old_config(config, record), data) | {"data_path": [record.prices_sha256]}
    for role, path in there.items():
        if path.is_dir() or files.digest(path) not in known.get(role, []):
            raise KitError(
                f"data.{role}: {path}: expected no file, or the one that market.generate wrote, found another, which is left as "
                f"it is; set market.generate to false to use your own files, or name another data.{role}"
                + _nearest(data)
            )


def _nearest(data: DataConfig) -> str:
    """That the prices are missing, and what is there under a similar name: '' when they are there."""
    prices = Path(_single(data))
    if prices.exists():
        return ""
    near = files.near_name(prices)
    return f". data.data_path: {prices} does not exist" + (f"; {near} does, is that meant?" if near else "")


def _check_names(data: DataConfig) -> None:
    """Refuse to generate prices beside a file of nearly the same name: the path is mistyped, then."""
    prices = Path(_single(data))
    near = None if prices.exists() else files.near_name(prices)
    if near is not None and near not in _places(data).values():
        raise KitError(
            f"data.data_path: expected a price file, found none at {prices}; {near} is there, is that meant? (market.generate "
            "would write a synthetic market; for that choose a name that is not so alike)"
        )


def _places(data: DataConfig) -> dict[str, Path]:
    """Role -> path of the files to generate."""
    named = {role: getattr(data, role) for role in ROLES}
    return {role: Path(path) for role, path in named.items() if path}


def _old_config(config: MarketConfig, record: Record) -> MarketConfig:
    """The market that an older record describes."""
    names = asdict(config).keys() & record.settings.keys()
    return replace(config, **{name: record.settings[name] for name in names})


def write_market(config: MarketConfig, data: DataConfig) -> dict[str, Any]:
    """Simulate and write all files, each atomically. Returns the truth, as in market.json.

    First the record says which contents are the kit's, the old ones and the new; then the old prices go, and
    the new ones come
    last: whoever is killed in between leaves files without prices, all of them known as the kit's own, which
    `ensure_market` writes again, and never prices of one market beside the truth of another. Does not look at
    what is there.
    """
    prices, record = Path(_single(data)), market_path(data)
    market = simulate(config, data.calendar)
    truth = _truth(market, _settings(config, data))
    contents = _contents(market, data)
    digests = {role: hashlib.sha256(content).hexdigest() for role, content in contents.items()}
    final = truth | {
        "prices_sha256": digests["data_path"],
        "files": {role: [digest] for role, digest in digests.items()},
    }
    before = {role: [files.digest(path)] for role, path in _places(data).items() if path.is_file()}
    both = {role: [*before.get(role, []), digest] for role, digest in digests.items()}
    files.write_json(record, final | {"files": both})
    prices.unlink(missing_ok=True)
    for role, content in contents.items():
        if role != "data_path":
            _write(_places(data)[role], content)
    _write(prices, contents["data_path"])
    files.write_json(record, final)
    log.info(
        "synthetic market: %d tickers x %d days in %s; best attainable accuracy %d day(s) ahead: %.1f %%",
        config.tickers, config.days, prices, config.horizon, 100 * truth["attainable_accuracy"],
    )  # fmt: skip
    return final


def _contents(market: Market, data: DataConfig) -> dict[str, bytes]:
    """Role -> the bytes of the file, for the files that are asked for."""
    ids = sorted(market.tickers)  # lexicographic, as in the competition
    day = str(market.sessions[-1].astype("datetime64[D]"))
    labels = dict(zip(market.tickers, market.labels[-1].astype(int).tolist(), strict=True))
    frames = {
        "data_path": _training_frame(market),
        "test_path": pl.DataFrame({"ID": ids, "Date": [day] * len(ids)}),
        "sample_submission_path": pl.DataFrame({"ID": ids, "Pred": [0] * len(ids)}),
        "solution_path": pl.DataFrame({"ID": ids, "Label": [labels[name] for name in ids]}),
    }
    return {role: frames[role].write_csv().encode() for role in _places(data)}


def _content_digests(config: MarketConfig, data: DataConfig) -> dict[str, list[str]]:
    contents = _contents(simulate(config, data.calendar), data)
    return {role: [hashlib.sha256(content).hexdigest()] for role, content in contents.items()}


def _settings(config: MarketConfig, data: DataConfig) -> dict[str, Any]:
    """All that the files depend on, the constants of the process included."""
    process = {
        "stay": STAY,
        "common": COMMON,
        "volatility_levels": VOLATILITY_LEVELS.tolist(),
        "volatility_move": VOLATILITY_MOVE,
        "volume_step": VOLUME_STEP,
        "volume_noise": VOLUME_NOISE,
    }
    chosen = {key: value for key, value in asdict(config).items() if key != "generate"}
    return chosen | {"calendar": data.calendar, "process": process}


def _single(data: DataConfig) -> str:
    if not isinstance(data.data_path, str) or not data.data_path:
        raise KitError(
            f"data.data_path: expected the one CSV file that market.generate writes, found {data.data_path!r}"
        )
    return data.data_path


def _truth(market: Market, settings: dict[str, Any]) -> dict[str, Any]:
    last = market.config.days - 1
    rises = market.labels[-1]
    within, error = attainable_within_date(market)
    return {
        "about": "synthetic market with a planted signal far stronger than any real one; see kronos/data/market.py",
        "settings": settings,
        "last_training_day": str(market.sessions[last].astype("datetime64[D]")),
        "test_day": str(market.sessions[-1].astype("datetime64[D]")),
        "attainable_accuracy": attainable(market.prob_up[last]),
        "attainable_accuracy_all_dates": attainable(market.prob_up[: last + 1]),
        "attainable_accuracy_next_day": attainable(rise_probability(market.config.signal, 1)),
        "attainable_accuracy_within_date": within,
        "attainable_accuracy_within_date_error": error,
        "oracle_accuracy_on_test_day": float(((market.state[last] > 0) == rises).mean()),
        "rise_share_on_test_day": float(rises.mean()),
    }


def _training_frame(market: Market) -> pl.DataFrame:
    """Rows ordered by date and shuffled within a date, as in the competition's file."""
    days, tickers = market.config.days, market.config.tickers
    shuffled = np.random.default_rng([market.config.seed, 2]).random((days, tickers)).argsort(axis=1)
    day = np.arange(days)[:, None]
    columns = {
        name: getattr(market, name.lower())[day, shuffled].ravel()
        for name in ("Open", "High", "Low", "Close", "Volume")
    }
    dates = market.sessions[:days].astype("datetime64[D]").astype(str).repeat(tickers)
    names = np.array(market.tickers)[shuffled.ravel()]
    nothing = np.zeros(days * tickers)
    return pl.DataFrame(
        {"Ticker": names, "Date": dates, **columns, "Dividends": nothing, "Stock Splits": nothing}
    )


def _write(path: Path, content: bytes) -> None:
    with files.atomic(path) as temporary:
        temporary.write_bytes(content)
