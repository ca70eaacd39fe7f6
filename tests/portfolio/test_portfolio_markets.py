"""Portfolios of a store with several markets: shares from Monday to Friday, coins on every day."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kronos.data.store import BarStore
from kronos.data.store_writer import store_from_dict
from kronos.portfolio.earnings import run_portfolio
from kronos.portfolio.exchange import rules_of
from kronos.portfolio.outcome import Report, Request
from kronos.portfolio.performance import days_a_year
from kronos.portfolio.prices import PriceTable
from kronos.portfolio.strategies import TopkDropout
from kronos.portfolio.topk import carried, topk_dropout
from kronos.portfolio.universe import benchmark_returns

ALL = np.datetime64("2021-01-04") + np.arange(280)  # begins on a Monday
WEEKDAYS = ALL[np.is_busday(ALL)]
SHARES, COINS = [f"A{k}" for k in range(12)], ["ZCOIN1", "ZCOIN2", "ZCOIN3"]
PLAN = TopkDropout(4, 2, 1, 1e6)


def series(seed: int, coins: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    found = {}
    for name in [*SHARES, *COINS]:
        dates = ALL if name in COINS else WEEKDAYS
        close = 30 * np.exp(np.cumsum(rng.normal(0, 0.02, len(dates))))
        bars = np.stack([close] * 4 + [np.full(len(dates), 1e5), 1e5 * close], axis=1).astype(np.float32)
        if coins or name in SHARES:
            found[name] = (dates, bars)
    return found


def store_of(folder: Path, coins: bool) -> BarStore:
    store = store_from_dict(folder, series(0, coins), frequency="daily")
    if not coins:
        return store
    weekday = np.is_busday(store.sessions.astype("datetime64[D]"))
    ordinals = np.stack([np.cumsum(weekday), np.arange(1, len(weekday) + 1)]).astype(np.int32)
    market = np.array([int(name in COINS) for name in store.tickers], np.int16)
    return replace(store, ordinals=ordinals, market=market)


def scores(path: Path, tickers: list[str]) -> Path:
    rng = np.random.default_rng(1)
    lines = ["date,ticker,score"]
    for name in tickers:
        for day in ALL if name in COINS else WEEKDAYS:
            lines.append(f"{day},{name},{rng.normal():.4f}")
    path.write_text("\n".join(lines))
    return path


def dealt(folder: Path, coins: bool, tickers: list[str], benchmark: str = "equal") -> Report:
    folder.mkdir()
    path = scores(folder / "signal.csv", tickers)
    request = Request(signal_file=str(path), plan=PLAN, market="US", noise=2, benchmark=benchmark)
    return run_portfolio(store_of(folder / "store", coins), request, folder / "out")


def test_days_on_which_no_held_market_trades_are_no_days(tmp_path: Path) -> None:
    """Scores of shares alone, in a store that has coins, too: every figure is that of a store without coins."""
    alone = dealt(tmp_path / "alone", False, SHARES)
    beside = dealt(tmp_path / "beside", True, SHARES)
    trees = []
    for name in ("alone", "beside"):
        tree = json.loads((tmp_path / name / "out/portfolio.json").read_text())
        del tree["request"]
        trees.append(tree)
    (line,) = [line for line in trees[1]["lines"] if line.startswith("markets: ")]
    assert "3 tickers belong to markets without any score" in line and "80 days" in line
    trees[1]["lines"].remove(line)
    assert trees[0] == trees[1]
    assert trees[1]["days"]["a year"] == 252 and trees[1]["days"]["count"] == len(WEEKDAYS) - 1
    assert alone.outcomes[0].daily.reasons == beside.outcomes[0].daily.reasons == {}


def test_coins_alone_have_years_of_365_days(tmp_path: Path) -> None:
    report = dealt(tmp_path / "coins", True, COINS)
    assert report.tree["days"] == report.tree["days"] | {"a year": 365, "count": len(ALL) - 1}
    figures = report.tree["signals"][0]["figures"]
    mean = np.mean(report.outcomes[0].daily.net)
    assert figures["return"]["value"] == pytest.approx(365 * mean)
    assert "times 365" in figures["return"]["meaning"]


def test_a_benchmark_may_belong_to_another_market(tmp_path: Path) -> None:
    """A coin beside shares: its return from one day of the shares to the next, a weekend included."""
    report = dealt(tmp_path / "x", True, SHARES, benchmark="ZCOIN1")
    dates, bars = series(0, True)["ZCOIN1"]
    close = bars[np.isin(dates, WEEKDAYS), 3].astype(np.float64)
    assert report.scene.benchmark == pytest.approx(close[1:] / close[:-1] - 1)


def test_shares_rest_while_only_coins_trade(tmp_path: Path) -> None:
    """Both have scores: nothing is dealt in shares at a weekend, and Friday's scores are dealt on Monday."""
    report = dealt(tmp_path / "both", True, [*SHARES, *COINS])
    (outcome,) = report.outcomes
    assert len(outcome.daily.dates) == len(ALL) - 1 and report.tree["days"]["a year"] == 365
    assert outcome.daily.reasons == {}, "no order is refused because a market is closed"
    prices = report.scene.prices
    score = carried(outcome.signal.score, prices)
    friday, sunday = 4, 6
    shares = np.array([name in SHARES for name in prices.tickers])
    assert np.array_equal(score[sunday, shares], outcome.signal.score[friday, shares])
    assert np.isnan(score[friday, shares]).all() and np.isfinite(score[friday, ~shares]).all()


def test_at_a_weekend_a_share_is_neither_sold_nor_bought() -> None:
    """Two shares are held on Friday; a coin with a better score comes on Saturday and waits for a free place."""
    dates = np.datetime64("2021-01-07", "s") + np.arange(5) * np.timedelta64(86400, "s")  # Thursday to Monday
    close = np.full((5, 4), 10.0)
    close[2:4, :3] = np.nan
    market = np.array([0, 0, 0, 1], np.int16)
    trades = np.array([[True, True, False, False, True], [True] * 5])
    prices = PriceTable(dates, ["A", "B", "C", "Z"], close, close, close * 1e6, market=market, trades=trades)
    score = np.array([[3.0, 2, 1, 0], [3, 1, 2, 9], [np.nan] * 3 + [9], [np.nan] * 3 + [9], [3, 2, 1, 9]])
    made = topk_dropout("x", score, prices, rules_of("none"), TopkDropout(2, 1, 0, 1000), slice(1, 5))
    assert made.turnover[1] == made.turnover[2] == 0, "the book is full of shares, which rest"
    assert made.turnover[3] > 0 and [one.ticker for one in made.held_at_end] == ["A", "Z"]
    assert made.reasons == {}


def test_the_equal_benchmark_counts_what_rests() -> None:
    """On a Saturday a share has not moved; the mean of all is not that of the coins alone."""
    dates = np.datetime64("2021-01-08", "s") + np.arange(2) * np.timedelta64(86400, "s")
    close = np.array([[10.0, 10, 10], [np.nan, np.nan, 13]])
    market, trades = np.array([0, 0, 1], np.int16), np.array([[True, False], [True, True]])
    prices = PriceTable(dates, ["A", "B", "Z"], close, close, close, market=market, trades=trades)
    assert benchmark_returns("equal", prices)[1] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("dates", "days"),
    [
        (ALL, 365),
        (WEEKDAYS, 252),
        (WEEKDAYS[:3], 252),
        (ALL[::7], 52),
        (np.array([f"2020-{month:02d}-28" for month in range(1, 13)], "datetime64[D]"), 12),
    ],
)
def test_days_of_a_year(dates: np.ndarray, days: int) -> None:
    assert days_a_year(dates.astype("datetime64[s]")) == days
