"""One command's worth of work: signals, strategy, controls and figures of a portfolio, written to a folder.

In: a store, `Request`. Out: `portfolio.json` (every figure), `portfolio.csv` (every day), `orders.csv` (what
to hold next) and `portfolio.html`. What does not fit (days without a benchmark, scores without prices) is
counted and said.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.portfolio import performance, signal_figures
from kronos.portfolio.controls import NoiseCheck, future_noise, look_ahead
from kronos.portfolio.exchange import rules_of
from kronos.portfolio.noise import noise_band
from kronos.portfolio.outcome import Facts, Outcome, Report, Request
from kronos.portfolio.portfolio_tree import tree_of, write_files
from kronos.portfolio.prices import PriceTable
from kronos.portfolio.scene import Scene
from kronos.portfolio.signals import Signal, day_text, read_predictions, read_signal_file, within_universe
from kronos.portfolio.strategies import Daily
from kronos.portfolio.topk import topk_dropout
from kronos.portfolio.universe import benchmark_returns, empty_days, universe
from kronos.portfolio.weights import combined, quantile_targets, sleeve_targets, weighted
from kronos.portfolio.words import lines_of

FloatArray = NDArray[np.float64]


def run_portfolio(store: BarStore, request: Request, folder: Path) -> Report:
    """Do what the request says and write the files. Raises KitError, with nothing written, where it cannot be
    done.
    """
    rules = rules_of(request.market, request.cost_bp)
    everything = PriceTable.of_store(store)
    prices, raw, said = _scored_markets(request, everything)
    start = np.datetime64(request.start, "s") if request.start else None
    end = np.datetime64(request.end, "s") if request.end else None
    days = _dealt_days(prices, raw, start, end)
    raw = [_every(signal, request.every) for signal in raw]
    member = _universe(request, prices)
    signals = raw if member is None else [within_universe(signal, member) for signal in raw]
    benchmark = benchmark_returns(request.benchmark, prices, member, everything)[days]
    if np.isfinite(benchmark).sum() < 2:
        raise KitError(
            "portfolio: expected a benchmark on at least two days, found none; choose another with --benchmark"
        )
    scene = Scene(prices, rules, request.plan, days, benchmark)
    outcomes = [_outcome(scene, signal, request) for signal in signals]
    tried = [_daily_ratio(scene, outcome.daily) for outcome in outcomes]
    checks: list[NoiseCheck | None] = [None] * len(raw)
    if request.future_noise:
        checks = [future_noise(scene, one.score, lambda other: _universe(request, other)) for one in raw]
    outcomes = [
        _judged(scene, outcome, [*tried, *request.tried], check)
        for outcome, check in zip(outcomes, checks, strict=True)
    ]
    best = outcomes[int(np.argmax(tried))]
    curves = noise_band(scene, best.signal.score, best.signal.days, request.noise)
    wrong = look_ahead(scene, best.signal.score, best.daily)
    lines = said + lines_of(outcomes, scene, request, wrong, empty_days(member, days), curves)
    tree = tree_of(outcomes, scene, request, lines, curves, wrong, tried)
    report = Report(outcomes, scene, lines, tree, folder)
    write_files(report)
    return report


# -- what is asked -------------------------------------------------------------------------------------------
def _signals(request: Request, prices: PriceTable) -> list[Signal]:
    """The signals of the file, or of the predictions."""
    if request.signal_file:
        return [read_signal_file(request.signal_file, prices)]
    return read_predictions(Path(request.predictions), request.answer, request.signals, prices)


def _scored_markets(request: Request, everything: PriceTable) -> tuple[PriceTable, list[Signal], list[str]]:
    """(prices of the markets that have a score, signals laid on them, what was left out).

    A day on which no market trades that a signal can hold is not a day of its portfolio.
    """
    signals = _signals(request, everything)
    if everything.market is None or everything.trades is None:
        return everything, signals, []
    scored = np.zeros(len(everything.tickers), bool)
    for signal in signals:
        scored |= np.isfinite(signal.score).any(axis=0)
    which = np.unique(everything.market[scored]).astype(np.int64)
    if len(which) == len(everything.trades):
        return everything, signals, []
    prices = everything.of_markets(which)
    tickers = len(everything.tickers) - len(prices.tickers)
    days = len(everything.dates) - len(prices.dates)
    line = (
        f"markets: {tickers:,} tickers belong to markets without any score: they, and {days:,} days on which "
        "only they trade, are left out"
    )
    return prices, _signals(request, prices), [line]


def _universe(request: Request, prices: PriceTable) -> NDArray[np.bool_] | None:
    """(D, K) who may be held, by the pool and the floors that were asked for."""
    return universe(prices, request.pool, request.least_price, request.least_amount)


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
    """The signal with the scores of every n-th day that has any."""
    if every == 1:
        return signal
    score = np.full_like(signal.score, np.nan)
    chosen = signal.days[::every]
    score[chosen] = signal.score[chosen]
    return Signal(signal.name, score, signal.lines)


# -- what comes out ------------------------------------------------------------------------------------------
def _outcome(scene: Scene, signal: Signal, request: Request) -> Outcome:
    """One signal dealt, with its figures and facts."""
    prices, days, known = scene.prices, scene.days, scene.known
    daily = topk_dropout(signal.name, signal.score, prices, scene.rules, scene.plan, days)
    figures = performance.figures(only(daily, known), scene.benchmark[known], scene.hold, scene.year)
    scored = signal.days[(signal.days >= days.start - 1) & (signal.days < days.stop - 1)]
    money = signal_figures.capacity(prices, 1 / scene.plan.topk) if request.money else {}
    facts = Facts(
        drawdown=performance.drawdown(daily.net, daily.dates),
        compounded=float(np.prod(1 + daily.net) - 1),
        summed=float(scene.excess(daily).sum()),
        decay=signal_figures.decay(signal.score, prices, scored),
        autocorrelation=signal_figures.autocorrelation(signal.score, scored),
        exposure=signal_figures.exposures(signal.score, prices, scored, scene.plan.topk),
        capacity=money,
        quantiles=_quantiles(scene, signal, scored, request.quantiles),
        sleeves=_sleeves(scene, signal, scored),
    )
    return Outcome(signal, daily, figures, facts)


def _judged(scene: Scene, outcome: Outcome, tried: list[float], check: NoiseCheck | None) -> Outcome:
    """With the deflated Sharpe ratio among all tries, and what the control found."""
    deflated = performance.deflated_sharpe(scene.excess(outcome.daily), tried)
    return Outcome(outcome.signal, outcome.daily, outcome.figures, outcome.facts, deflated, check)


def only(daily: Daily, days: NDArray[np.bool_]) -> Daily:
    """A portfolio's record of some of its days, and of the positions that were closed on them."""
    columns = ("dates", "gross", "cost", "turnover", "value", "cash", "positions", "refused")
    kept = {name: getattr(daily, name)[days] for name in columns}
    closed = [place for place, day in enumerate(daily.closed_on) if days[day]]
    number = np.cumsum(days) - 1
    return Daily(
        daily.name,
        **kept,
        held_days=[daily.held_days[place] for place in closed],
        position_returns=[daily.position_returns[place] for place in closed],
        closed_on=[int(number[daily.closed_on[place]]) for place in closed],
    )


def _quantiles(scene: Scene, signal: Signal, scored: NDArray[np.int64], groups: int) -> dict[str, Any]:
    """Equal-weighted quantile portfolios without cost, and the highest less the lowest with its interval."""
    targets = quantile_targets(signal.score, groups, scored[:: scene.hold])
    if not targets[0]:
        return {}
    free = rules_of("none")
    parts = weighted("quantile", targets, scene.prices, free, scene.days, scene.plan.deal)
    bootstrap = performance.bootstrap_of(len(parts[0].dates), scene.hold)
    means = [float(part.gross.mean() * scene.year) for part in parts]
    return {
        "return a year before cost": means,
        "highest less lowest": performance.annualised(
            parts[-1].gross - parts[0].gross, bootstrap, scene.year
        ),
        "monotonicity": signal_figures.monotonicity(means),
        "curves": [np.cumsum(part.gross).tolist() for part in parts],
    }


def _sleeves(scene: Scene, signal: Signal, scored: NDArray[np.int64]) -> dict[str, Any]:
    """The same stocks held for exactly `hold` days in sleeves that overlap."""
    targets = sleeve_targets(signal.score, scene.plan.topk, scene.hold, scored)
    parts = weighted("sleeve", targets, scene.prices, scene.rules, scene.days, scene.plan.deal)
    whole = combined("sleeves", parts)
    bootstrap = performance.bootstrap_of(len(whole.dates), scene.hold)
    return {
        "return a year after cost": performance.annualised(whole.net, bootstrap, scene.year),
        "turnover": bootstrap.interval(whole.turnover),
    }


def _daily_ratio(scene: Scene, daily: Daily) -> float:
    """Mean over standard deviation of the excess, of a day."""
    return performance.daily_ratio(scene.excess(daily))
