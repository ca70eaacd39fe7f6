"""One command's worth of work: signals, strategy, controls and figures of a portfolio, written to a folder.

In: a store, `Request`. Out: `portfolio.json` (every figure), `portfolio.csv` (every day), `orders.csv` (what
to hold next) and `portfolio.html`. What does not fit (days without a benchmark, scores without prices) is
counted and said.
"""

import io
import logging
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kronos import files
from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.evaluation.significance import Interval
from kronos.portfolio import performance
from kronos.portfolio.exchange import Rules, rules_of
from kronos.portfolio.noise import band, noise_like
from kronos.portfolio.performance import Figure
from kronos.portfolio.prices import PriceTable
from kronos.portfolio.signals import Signal, align, day_text, read_signal_file, within_universe
from kronos.portfolio.strategies import (
    Daily,
    TopkDropout,
    choose,
    combined,
    quantile_targets,
    sleeve_targets,
    topk_dropout,
    weighted,
)

log = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]

NOISE_SIGNALS = 20
ONE_YEAR_RATIO = 2.2
"""Half the width of a 95 % interval of an information ratio from one year of days (docs/portfolio.md)."""


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    signal_file: str = ""
    predictions: str = ""
    """A backtest's predictions.parquet; its columns are the signals."""
    signals: tuple[str, ...] = ()
    """Columns of the predictions; empty: all of them."""
    plan: TopkDropout = field(default_factory=TopkDropout)
    every: int = 1
    """Use the scores of every n-th day that has any."""
    market: str = "none"
    cost_bp: float | None = None
    benchmark: str = "equal"
    """'equal', a ticker of the store, or a CSV with date and return."""
    start: str = ""
    end: str = ""
    quantiles: int = 5
    pool: str = ""
    """CSV of membership: ticker, first, last (days inclusive); begin and end are read as these."""
    least_price: float = 0.0
    least_amount: float = 0.0
    """Money dealt a day, mean of the last 20 days."""
    noise: int = NOISE_SIGNALS


@dataclass(frozen=True, eq=False)
class Outcome:
    """One signal's portfolio and figures."""

    signal: Signal
    daily: Daily
    figures: list[Figure]
    facts: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Report:
    """All signals, and what they are compared with."""

    outcomes: list[Outcome]
    benchmark: FloatArray
    lines: list[str]
    tree: dict[str, Any]
    folder: Path

    def table(self) -> str:
        """The figures that decide, one line a signal."""
        shown = ("excess before cost", "excess after cost", "information ratio", "turnover")
        width = max(len(outcome.signal.name) for outcome in self.outcomes) + 2
        lines = [" " * width + "".join(f"{name:<28}" for name in shown)]
        for outcome in self.outcomes:
            found = {figure.name: figure for figure in outcome.figures}
            lines.append(
                f"{outcome.signal.name:<{width}}" + "".join(f"{words(found[name]):<28}" for name in shown)
            )
        return "\n".join(lines)


def run_portfolio(store: BarStore, request: Request, folder: Path) -> Report:
    """Do what the request says and write the files. Raises KitError, with nothing written, where it cannot be
    done.
    """
    prices = PriceTable.of_store(store)
    rules = rules_of(request.market, request.cost_bp)
    signals, lines = _signals(request, prices)
    start = np.datetime64(request.start, "s") if request.start else None
    end = np.datetime64(request.end, "s") if request.end else None
    days = _dealt_days(prices, signals, start, end)
    member = universe(prices, request)
    if member is not None:
        signals = [within_universe(signal, member) for signal in signals]
    signals = [_every(signal, request.every) for signal in signals]
    for signal in signals:
        lines += signal.lines
    benchmark = benchmark_returns(request.benchmark, prices, member)[days]
    if rules.name == "CN" and prices.factor is None:
        lines.append(
            "CN: the store does not know what was dealt before splits: lots of 100 are lots of adjusted shares"
        )
    outcomes = [_outcome(signal, prices, rules, request, days, benchmark) for signal in signals]
    tried = [_daily_ratio(outcome, benchmark) for outcome in outcomes]
    for outcome in outcomes:
        outcome.facts["deflated Sharpe"] = performance.deflated_sharpe(
            _excess(outcome.daily, benchmark), tried
        )
    best = outcomes[int(np.argmax(tried))]
    curves = _noise(best.signal, prices, rules, request, days, benchmark)
    look_ahead = _look_ahead(best, prices, rules, request, days, benchmark)
    lines += _cautions(outcomes, benchmark, look_ahead)
    lines = list(dict.fromkeys(lines))
    tree = _tree(outcomes, benchmark, lines, curves, look_ahead, request, rules)
    report = Report(outcomes, benchmark, lines, tree, folder)
    _write(report, prices, request, rules)
    return report


# -- what is asked -------------------------------------------------------------------------------------------
def _signals(request: Request, prices: PriceTable) -> tuple[list[Signal], list[str]]:
    if request.signal_file:
        return [read_signal_file(request.signal_file, prices)], []
    path = Path(request.predictions)
    if not path.is_file():
        raise KitError(
            f"{path}: expected the predictions of a backtest, found none; "
            "run scripts/run_backtest.py first, or give --signal-file"
        )
    table = pl.read_parquet(path)
    there = [name for name in table.columns if name not in {"date", "ticker", "horizon"}]
    wanted = list(request.signals) or there
    unknown = [name for name in wanted if name not in there]
    if unknown:
        raise KitError(
            f"{path}: expected one of the signals {', '.join(there)}, found {unknown[0]}; choose one of them"
        )
    found = []
    for name in wanted:
        column = table.select("date", "ticker", pl.col(name).alias("score"))
        found.append(align(name, column, prices, str(path)))
    return found, []


def _dealt_days(
    prices: PriceTable, signals: list[Signal], start: np.datetime64 | None, end: np.datetime64 | None
) -> slice:
    """From the day after the first score, or `start`, to `end`."""
    first = min(int(signal.days[0]) for signal in signals) + 1
    asked = prices.between(start, end)
    begin, stop = max(first, asked.start), asked.stop
    if stop - begin < 2:
        raise KitError(
            f"portfolio: expected at least two days after the first score ({day_text(prices.dates[first - 1])}), found "
            f"{max(stop - begin, 0)}; choose other days with --start and --end"
        )
    return slice(begin, stop)


def _every(signal: Signal, every: int) -> Signal:
    if every < 1:
        raise KitError(f"--every: expected a number of days of at least 1, found {every}")
    if every == 1:
        return signal
    score = np.full_like(signal.score, np.nan)
    chosen = signal.days[::every]
    score[chosen] = signal.score[chosen]
    return Signal(signal.name, score, signal.lines)


def universe(prices: PriceTable, request: Request) -> NDArray[np.bool_] | None:
    """(D, K) which tickers may be asked about and held on which days; None: all. Only what was known on the
    day counts.
    """
    if not (request.pool or request.least_price or request.least_amount):
        return None
    member = np.isfinite(prices.last_close)
    if request.least_price:
        member &= np.nan_to_num(prices.last_close) >= request.least_price
    if request.least_amount:
        amount = np.nan_to_num(prices.amount)
        total = np.cumsum(np.vstack([np.zeros(amount.shape[1]), amount]), axis=0)
        begin = np.maximum(np.arange(len(amount)) - 19, 0)
        mean = (total[1:] - total[begin]) / (np.arange(len(amount)) - begin + 1)[:, None]
        member &= mean >= request.least_amount
    if request.pool:
        member &= _pool(Path(request.pool), prices)
    return member


def _pool(path: Path, prices: PriceTable) -> NDArray[np.bool_]:
    if not path.is_file():
        raise KitError(
            f"--pool {path}: expected a CSV with the columns ticker, first, last, found no file; correct the path"
        )
    table = pl.read_csv(path, schema_overrides={"ticker": pl.String}, try_parse_dates=True)
    table = table.rename({"begin": "first", "end": "last"}, strict=False)
    if not {"ticker", "first", "last"} <= set(table.columns):
        raise KitError(
            f"--pool {path}: expected the columns ticker, first, last, found {', '.join(table.columns)}; rename them"
        )
    place = {ticker: number for number, ticker in enumerate(prices.tickers)}
    member = np.zeros(prices.close.shape, bool)
    for ticker, begin, end in table.select("ticker", "first", "last").iter_rows():
        if ticker in place:
            member[prices.between(np.datetime64(begin, "s"), np.datetime64(end, "s")), place[ticker]] = True
    return member


def benchmark_returns(name: str, prices: PriceTable, member: NDArray[np.bool_] | None = None) -> FloatArray:
    """(D,) daily returns of the benchmark; NaN on days on which it is not known.

    'equal': the mean return of all stocks of the universe that have a bar; a ticker of the store; or a CSV
    with the columns date and return (or close). Raises KitError where it is none of these.
    """
    if name == "equal":
        moves = prices.change if member is None else np.where(member, prices.change, np.nan)
        count = np.isfinite(moves).sum(axis=1)
        return np.where(count > 0, np.nansum(moves, axis=1) / np.maximum(count, 1), np.nan)
    if name in prices.tickers:
        return prices.change[:, prices.tickers.index(name)]
    path = Path(name)
    if not path.is_file():
        raise KitError(
            f"--benchmark {name}: expected 'equal', a ticker of the store or a CSV, found none of these; correct it"
        )
    table = pl.read_csv(path, try_parse_dates=True)
    if "date" not in table.columns or not {"return", "close"} & set(table.columns):
        raise KitError(
            f"--benchmark {path}: expected the columns date and return (or close), found {', '.join(table.columns)}"
        )
    dates = table["date"].cast(pl.Datetime("ms")).to_numpy().astype("datetime64[s]")
    order = np.argsort(dates)
    if "return" in table.columns:
        moves = table["return"].cast(pl.Float64).to_numpy()[order]
    else:
        close = table["close"].cast(pl.Float64).to_numpy()[order]
        moves = np.concatenate([[np.nan], close[1:] / close[:-1] - 1])
    found = np.full(len(prices.dates), np.nan)
    day = np.searchsorted(prices.dates, dates[order])
    same = (day < len(prices.dates)) & (prices.dates[np.minimum(day, len(prices.dates) - 1)] == dates[order])
    found[day[same]] = moves[same]
    return found


# -- what comes out ------------------------------------------------------------------------------------------
def _outcome(
    signal: Signal, prices: PriceTable, rules: Rules, request: Request, days: slice, benchmark: FloatArray
) -> Outcome:
    plan = request.plan
    daily = topk_dropout(signal.name, signal.score, prices, rules, plan, days)
    known = np.isfinite(benchmark)
    if known.sum() < 2:
        raise KitError(
            "portfolio: expected a benchmark on at least two days, found none; choose another with --benchmark"
        )
    horizon = max(plan.hold, 1)
    found = performance.figures(only(daily, known), benchmark[known], horizon)
    scored = signal.days[(signal.days >= days.start - 1) & (signal.days < days.stop - 1)]
    depth, peak, bottom = performance.drawdown(daily.net, daily.dates)
    facts: dict[str, Any] = {
        "largest drawdown": {"value": depth, "from": peak, "to": bottom},
        "compounded return": float(np.prod(1 + daily.net) - 1),
        "summed excess": float((daily.net - benchmark)[known].sum()),
        "rank IC by days ahead": {
            str(h): asdict(i) for h, i in performance.decay(signal.score, prices, scored).items()
        },
        "autocorrelation": performance.autocorrelation(signal.score, scored),
        "exposure": performance.exposures(signal.score, prices, scored, plan.topk),
        "refused": daily.reasons,
        "capacity": performance.capacity(prices, 1 / plan.topk),
        "quantiles": _quantiles(signal, prices, rules, request, days, scored),
        "sleeves": _sleeves(signal, prices, rules, request, days, scored),
    }
    return Outcome(signal, daily, found, facts)


def only(daily: Daily, days: NDArray[np.bool_]) -> Daily:
    """A portfolio's record of some of its days."""
    columns = ("dates", "gross", "cost", "turnover", "value", "cash", "positions", "refused")
    kept = {name: getattr(daily, name)[days] for name in columns}
    return Daily(daily.name, **kept, held_days=daily.held_days, position_returns=daily.position_returns)


def _quantiles(
    signal: Signal, prices: PriceTable, rules: Rules, request: Request, days: slice, scored: NDArray[np.int64]
) -> dict[str, Any]:
    """Equal-weighted quantile portfolios without cost, and the highest less the lowest with its interval."""
    chosen = scored[:: max(request.plan.hold, 1)]
    targets = quantile_targets(signal.score, request.quantiles, chosen)
    if not targets[0]:
        return {}
    free = rules_of("none")
    parts = [
        weighted(f"quantile {k + 1}", one, prices, free, days, request.plan.deal)
        for k, one in enumerate(targets)
    ]
    bootstrap = performance.bootstrap_of(len(parts[0].dates), max(request.plan.hold, 1))
    means = [float(part.gross.mean() * performance.DAYS_A_YEAR) for part in parts]
    spread = performance.annualised(parts[-1].gross - parts[0].gross, bootstrap)
    return {
        "return a year before cost": means,
        "highest less lowest": asdict(spread),
        "monotonicity": performance.monotonicity(means),
        "curves": [np.cumsum(part.gross).tolist() for part in parts],
    }


def _sleeves(
    signal: Signal, prices: PriceTable, rules: Rules, request: Request, days: slice, scored: NDArray[np.int64]
) -> dict[str, Any]:
    """The same stocks held for exactly `hold` days in sleeves that overlap."""
    hold = max(request.plan.hold, 1)
    targets = sleeve_targets(signal.score, request.plan.topk, hold, scored)
    parts = [weighted("sleeve", one, prices, rules, days, request.plan.deal) for one in targets]
    whole = combined("sleeves", parts)
    return {
        "return a year after cost": float(whole.net.mean() * performance.DAYS_A_YEAR),
        "turnover": float(whole.turnover.mean()),
    }


def _excess(daily: Daily, benchmark: FloatArray) -> FloatArray:
    known = np.isfinite(benchmark)
    return (daily.net - benchmark)[known]


def _daily_ratio(outcome: Outcome, benchmark: FloatArray) -> float:
    excess = _excess(outcome.daily, benchmark)
    deviation = float(excess.std(ddof=1))
    return float(excess.mean() / deviation) if deviation > 0 else 0.0


def _noise(
    signal: Signal, prices: PriceTable, rules: Rules, request: Request, days: slice, benchmark: FloatArray
) -> dict[str, Any]:
    """Curves and ratios of signals that know nothing and change as slowly as this one."""
    if request.noise < 1:
        return {}
    correlation = performance.autocorrelation(signal.score, signal.days)
    curves, ratios = [], []
    for seed in range(request.noise):
        score = noise_like(signal.score, signal.days, correlation, seed)
        daily = topk_dropout("noise", score, prices, rules, request.plan, days)
        excess = np.where(np.isfinite(benchmark), daily.net - benchmark, 0.0)
        curves.append(np.cumsum(excess))
        ratios.append(float(excess.mean() / excess.std(ddof=1) * math.sqrt(performance.DAYS_A_YEAR)))
    found = band(curves)
    return {
        "signals": request.noise,
        "information ratios": ratios,
        "curves": {k: v.tolist() for k, v in found.items()},
    }


def _look_ahead(
    best: Outcome, prices: PriceTable, rules: Rules, request: Request, days: slice, benchmark: FloatArray
) -> float | None:
    """What the mistake of dealing at the very close that the score needs would have added a year; None where
    it cannot be.
    """
    moved = np.full_like(best.signal.score, np.nan)
    moved[:-1] = best.signal.score[1:]  # the score of the day itself, dealt at its close
    if not np.isfinite(moved[max(days.start - 1, 0) : days.stop]).any():
        return None
    plan = TopkDropout(request.plan.topk, request.plan.drop, request.plan.hold, request.plan.account, "close")
    wrong = topk_dropout("look-ahead", moved, prices, rules, plan, days)
    difference = _excess(wrong, benchmark) - _excess(best.daily, benchmark)
    return float(difference.mean() * performance.DAYS_A_YEAR)


def _cautions(outcomes: list[Outcome], benchmark: FloatArray, look_ahead: float | None) -> list[str]:
    count = len(benchmark)
    lines = []
    missing = int((~np.isfinite(benchmark)).sum())
    if missing:
        lines.append(
            f"benchmark: {missing:,} of {count:,} days have no value: they are left out of every comparison"
        )
    years = count / performance.DAYS_A_YEAR
    half = ONE_YEAR_RATIO / math.sqrt(max(years, 1e-9))
    lines.append(
        f"{years:.1f} years of days tell an information ratio to about +-{half:.1f}; one year to about +-{ONE_YEAR_RATIO}"
    )
    if look_ahead is not None:
        lines.append(
            f"dealing at the same close that the score needs (a mistake) would have added {look_ahead:+.1%} a year"
        )
    if len(outcomes) > 1:
        lines.append(
            f"{len(outcomes)} signals were tried: the best of them is flattered; read its deflated Sharpe ratio"
        )
    for outcome in outcomes:
        if outcome.daily.refused.sum():
            reasons = ", ".join(f"{count:,} {name}" for name, count in sorted(outcome.daily.reasons.items()))
            lines.append(
                f"{outcome.signal.name}: {int(outcome.daily.refused.sum()):,} orders were not dealt ({reasons})"
            )
    return lines


def words(figure: Figure) -> str:
    """A figure with its interval, as people write it."""
    interval = figure.interval
    if not math.isfinite(interval.value):
        return "not defined"
    shown = _number(interval.value, figure.unit)
    if interval.low is None or interval.high is None:
        return shown
    return f"{shown} [{_number(interval.low, figure.unit)}, {_number(interval.high, figure.unit)}]"


def _number(value: float, unit: str) -> str:
    if unit == "share":
        return f"{value:+.1%}"
    return f"{value:+.2f}" if unit == "ratio" else f"{value:.1f}"


def _tree(
    outcomes: list[Outcome],
    benchmark: FloatArray,
    lines: list[str],
    curves: dict[str, Any],
    look_ahead: float | None,
    request: Request,
    rules: Rules,
) -> dict[str, Any]:
    first = outcomes[0].daily
    found = []
    for outcome in outcomes:
        values = {
            f.name: _plain(f.interval) | {"unit": f.unit, "meaning": f.meaning} for f in outcome.figures
        }
        excess = np.where(np.isfinite(benchmark), outcome.daily.net - benchmark, 0.0)
        found.append(
            {
                "name": outcome.signal.name,
                "figures": values,
                "facts": outcome.facts,
                "summed excess by day": np.cumsum(excess).tolist(),
                "compounded by day": (np.cumprod(1 + outcome.daily.net) - 1).tolist(),
                "turnover by day": outcome.daily.turnover.tolist(),
            }
        )
    tree = {
        "version": 1,
        "request": asdict(request),
        "rules": asdict(rules),
        "days": {
            "count": len(first.dates),
            "first": day_text(first.dates[0]),
            "last": day_text(first.dates[-1]),
        },
        "dates": [day_text(day) for day in first.dates],
        "signals": found,
        "noise": curves,
        "look-ahead a year": look_ahead,
        "lines": lines,
    }
    return defined(tree)


def defined(tree: Any) -> Any:
    """The tree with None for every figure that is not defined: JSON has no word for NaN."""
    if isinstance(tree, dict):
        return {str(key): defined(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [defined(value) for value in tree]
    if isinstance(tree, float) and not math.isfinite(tree):
        return None
    return tree


def _plain(interval: Interval) -> dict[str, Any]:
    return asdict(interval)


def _write(report: Report, prices: PriceTable, request: Request, rules: Rules) -> None:
    """All files; the page last."""
    folder = report.folder
    files.write_text(folder / "portfolio.csv", _days_csv(report))
    files.write_text(folder / "orders.csv", _orders_csv(report, prices, request))
    files.write_json(folder / "portfolio.json", report.tree)
    from kronos.portfolio.portfolio_page import write_page  # matplotlib takes a second to load

    write_page(report.tree, folder / "portfolio.html")


def _days_csv(report: Report) -> str:
    tables = []
    for outcome in report.outcomes:
        daily = outcome.daily
        columns = {
            "date": [day_text(day) for day in daily.dates],
            "signal": [outcome.signal.name] * len(daily.dates),
            "return": daily.gross,
            "cost": daily.cost,
            "turnover": daily.turnover,
            "benchmark": report.benchmark,
            "positions": daily.positions,
            "cash": daily.cash,
            "refused": daily.refused,
        }
        tables.append(pl.DataFrame(columns))
    return _csv(pl.concat(tables))


def _orders_csv(report: Report, prices: PriceTable, request: Request) -> str:
    """What each signal's last scores ask for on the next trading day."""
    rows = []
    place = {ticker: number for number, ticker in enumerate(prices.tickers)}
    for outcome in report.outcomes:
        held = [place[ticker] for ticker, _ in outcome.daily.last_targets]
        day = int(outcome.signal.days[-1])
        score = outcome.signal.score[day]
        sell, buy = choose(score, held, request.plan.topk, request.plan.drop)
        for ticker in [*held, *buy]:
            action = "sell" if ticker in sell else "hold"
            if ticker in buy:
                action = "buy"
            value = float(score[ticker]) if np.isfinite(score[ticker]) else None
            rows.append(
                (outcome.signal.name, day_text(prices.dates[day]), prices.tickers[ticker], action, value)
            )
    schema = {
        "signal": pl.String,
        "known": pl.String,
        "ticker": pl.String,
        "action": pl.String,
        "score": pl.Float64,
    }
    return _csv(pl.DataFrame(rows, schema=schema, orient="row"))


def _csv(table: pl.DataFrame) -> str:
    text = io.StringIO()
    text.write(table.write_csv())
    return text.getvalue()
