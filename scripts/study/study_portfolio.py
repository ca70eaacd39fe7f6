#!/usr/bin/env python3
"""What would answers have earned, before and after costs?

    python scripts/study/study_portfolio.py --data prices.parquet --work runs/portfolio-study [--scores head.csv ...]

Ridge and boosting are fitted anew on the first trading day of every year, on labels --horizon days ahead that
ended before it, and score every stock on every day of the year; rules need no fit; a blend is the mean of
normal scores within the day. Each signal is dealt at the open after it in three ways: the best --topk bought
anew every 21 days, every day, and at most 5 of them exchanged a day. A row of the table: excess over the
equal-weighted mean of the universe, before and after --cost-bp basis points a side, with its 95 % interval over
blocks of days. The universe of a day: stocks whose last close is at least --least-price and in which at least
--least-amount is dealt a day (mean of 20 days). Scores are kept in --work and not computed again. --scores: more
signals, each a CSV of date, ticker, score. docs/findings.md says what came out.
"""

import argparse
import logging
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a clone, without an installation

import numpy as np
from numpy.typing import NDArray

from kronos import cli, files
from kronos.answers import fitted
from kronos.answers.answerer import Answer
from kronos.answers.decision import z_of
from kronos.answers.features import NAMES
from kronos.config import Config
from kronos.data.prepare import prepare
from kronos.data.store import BarStore
from kronos.portfolio import performance
from kronos.portfolio.exchange import rules_of
from kronos.portfolio.noise import noise_like
from kronos.portfolio.prices import PriceTable
from kronos.portfolio.scene import Scene
from kronos.portfolio.signal_figures import autocorrelation
from kronos.portfolio.signals import read_signal_file
from kronos.portfolio.strategies import Daily, TopkDropout
from kronos.portfolio.topk import topk_dropout
from kronos.portfolio.universe import benchmark_returns, universe
from scripts.study import study_answers

Array = NDArray[np.float64]
RULES = {name: figure for name, figure in study_answers.RULES.items() if name != "near the year's high"}
FITS = ("ridge", "boosting")
MONTH = 21


@dataclass(frozen=True)
class Way:
    """How the best stocks are held."""

    name: str
    every: int
    drop: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, metavar="F", help="daily prices: CSV, Parquet or a folder")
    parser.add_argument("--work", required=True, metavar="F", help="folder for the prepared data")
    parser.add_argument(
        "--from", dest="first", default="2000-01-01", metavar="DATE", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--horizon", type=int, default=30, metavar="H", help="days ahead (default: %(default)s)"
    )
    parser.add_argument("--topk", type=int, default=100, help="stocks that are held (default: %(default)s)")
    parser.add_argument(
        "--cost-bp", type=float, default=10.0, help="basis points a side (default: %(default)s)"
    )
    parser.add_argument("--least-price", type=float, default=5.0, help="(default: %(default)s)")
    parser.add_argument("--least-amount", type=float, default=1e6, help="(default: %(default)s)")
    parser.add_argument("--noise", type=int, default=10, help="signals of noise (default: %(default)s)")
    parser.add_argument("--scores", nargs="*", default=[], metavar="F", help="CSV files of more signals")
    arguments = parser.parse_args()
    cli.setup_logging()
    logging.getLogger("kronos").setLevel(logging.WARNING)
    config = Config()
    data = replace(config.data, data_path=arguments.data, store=f"{arguments.work}/store")
    store = prepare(replace(config, data=data))
    kept = Path(arguments.work) / f"scores-{arguments.first}-{arguments.horizon}.npz"
    if not kept.is_file():
        with files.atomic(kept) as temporary, temporary.open("wb") as handle:
            np.savez(handle, **scores_of(store, arguments.first, arguments.horizon))
    with np.load(kept) as saved:
        signals = {name: saved[name].astype(np.float64) for name in saved.files}
    prices = PriceTable.of_store(store)
    for path in arguments.scores:
        signals[Path(path).stem] = read_signal_file(path, prices).score
    table(prices, signals, arguments)


# -- signals -------------------------------------------------------------------------------------------------
def scores_of(store: BarStore, first: str, horizon: int) -> dict[str, Any]:
    """Scores (D, K) float32 of every signal on all days from `first` on."""
    names = [*RULES, *FITS, "ridge + boosting"]
    shape = (len(store.sessions), len(store.tickers))
    found = {name: np.full(shape, np.nan, np.float32) for name in names}
    fitting = fitted.Fitting(every=30, rows=10**9)
    years = store.sessions.astype("datetime64[Y]")
    start = np.searchsorted(store.sessions, np.datetime64(first, "s"))
    for year in np.unique(years[start:]):
        days = np.flatnonzero(years == year)
        days = days[days >= start]
        began = time.process_time()
        for name, score in year_scores(store, days, horizon, fitting).items():
            found[name][days] = score
        print(f"{year}: {len(days)} days, {time.process_time() - began:.0f} s of computing", flush=True)
    return found


def year_scores(
    store: BarStore, days: NDArray[np.int64], horizon: int, fitting: fitted.Fitting
) -> dict[str, Array]:
    """{signal: (len(days), K)} of a year's days."""
    row, date = fitted.bars_on(store, days)
    rows = fitted.as_rows(store, row, days[date], horizon)
    ticker = np.searchsorted(store.offsets, row, side="right") - 1
    figures = fitted.known_figures(store, rows.last, rows.asof)
    scores = {name: sign * figures[:, NAMES.index(figure)] for name, (figure, sign) in RULES.items()}
    for fitter in fitted.fitters(fitting):
        if fitter.name in FITS:
            model = fitter.fit(store, int(days[0]), horizon)
            scores[fitter.name] = model.answer(store, rows).score
    scores["ridge + boosting"] = np.mean([z_of(Answer(scores[name]), date) for name in FITS], axis=0)
    found = {}
    for name, values in scores.items():
        found[name] = np.full((len(days), len(store.tickers)), np.nan)
        found[name][date, ticker] = values
    return found


# -- table ---------------------------------------------------------------------------------------------------
def table(prices: PriceTable, signals: dict[str, Array], arguments: argparse.Namespace) -> None:
    """A line of Markdown for each signal and way."""
    start = int(np.searchsorted(prices.dates, np.datetime64(arguments.first, "s"))) + 1
    days = slice(start, len(prices.dates))
    member = universe(prices, least_price=arguments.least_price, least_amount=arguments.least_amount)
    if member is not None:
        signals = {name: np.where(member, score, np.nan) for name, score in signals.items()}
    benchmark = benchmark_returns("equal", prices, member)[days]
    rules = rules_of("none", arguments.cost_bp)
    first, last = (str(prices.dates[place])[:10] for place in (start, len(prices.dates) - 1))
    own = float(np.nanmean(benchmark)) * performance.DAYS_A_YEAR
    held = int(np.isfinite(signals["ridge"][days]).sum(axis=1).mean())
    print(
        f"\n{len(benchmark):,} days, {first} to {last}; {held} stocks a day, equal weights: {own:+.1%} a year"
    )
    print(
        "\n| signal | dealt | turnover a day | excess before cost, % a year | after | IR after | break-even, bp a side |"
    )
    print("|---|---|---|---|---|---|---|")
    slowest = signals["ridge + boosting"]
    for way in ways(arguments.topk):
        plan = TopkDropout(arguments.topk, way.drop, 1)
        scene = Scene(prices, rules, plan, days, benchmark)
        for name, score in signals.items():
            daily = dealt(scene, score, way)
            print(f"| {name} | {way.name} | {line(scene, daily)} |", flush=True)
        days_with = np.flatnonzero(np.isfinite(slowest).any(axis=1))
        keep = autocorrelation(slowest, days_with).value
        noise = []
        for seed in range(arguments.noise):
            like = noise_like(slowest, days_with, keep, seed)
            noise.append(dealt(scene, like.astype(np.float64), way))
        print(f"| {arguments.noise} signals of noise | {way.name} | {noise_line(scene, noise)} |", flush=True)


def ways(topk: int) -> list[Way]:
    return [Way("every 21 days", MONTH, topk), Way("every day", 1, topk), Way("5 a day", 1, 5)]


def dealt(scene: Scene, score: Array, way: Way) -> Daily:
    """The portfolio of a signal, its scores used on every n-th day."""
    used = score
    if way.every > 1:
        used = np.full_like(score, np.nan)
        begin = scene.days.start - 1
        used[begin :: way.every] = score[begin :: way.every]
    return topk_dropout("study", used, scene.prices, scene.rules, scene.plan, scene.days)


def line(scene: Scene, daily: Daily) -> str:
    """The figures of one portfolio, as cells."""
    known = {figure.name: figure.interval for figure in performance.figures(daily, scene.benchmark, MONTH)}
    cells = [f"{known['turnover'].value:.1%}".replace("%", " %")]
    for name in ("excess before cost", "excess after cost"):
        found = known[name]
        cells.append(f"{100 * found.value:+.1f} ({_bound(found.low, 100)} to {_bound(found.high, 100)})")
    ratio, even = known["information ratio"], known["break-even cost"]
    cells.append(f"{ratio.value:+.2f} ({_bound(ratio.low, 1, 2)} to {_bound(ratio.high, 1, 2)})")
    return " | ".join([*cells, f"{even.value:.1f}"])


def _bound(value: float | None, scale: float, digits: int = 1) -> str:
    return "?" if value is None else f"{scale * value:+.{digits}f}"


def noise_line(scene: Scene, noise: list[Daily]) -> str:
    """Middle, lowest and highest of portfolios that know nothing."""
    year = performance.DAYS_A_YEAR
    before = [100 * year * float(np.mean(daily.gross - scene.benchmark)) for daily in noise]
    after = [100 * year * float(np.mean(scene.excess(daily))) for daily in noise]
    ratios = [performance.daily_ratio(scene.excess(daily)) * year**0.5 for daily in noise]
    turnover = f"{np.mean([daily.turnover.mean() for daily in noise]):.1%}".replace("%", " %")
    cells = [
        f"{np.median(values):+.{digits}f} ({min(values):+.{digits}f} to {max(values):+.{digits}f})"
        for values, digits in ((before, 1), (after, 1), (ratios, 2))
    ]
    return " | ".join([turnover, *cells, ""])


if __name__ == "__main__":
    cli.run(main)
