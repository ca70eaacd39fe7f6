"""What is written about portfolios: portfolio.json, portfolio.csv, orders.csv, portfolio.html.

In: outcomes of signals. Out: files. The form of portfolio.json: docs/portfolio.md.
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from kronos import files
from kronos.evaluation.significance import Interval
from kronos.portfolio.choice import choose
from kronos.portfolio.kept import FILE, VERSION
from kronos.portfolio.outcome import Outcome, Report, Request
from kronos.portfolio.scene import Scene
from kronos.portfolio.signals import day_text


def tree_of(
    outcomes: list[Outcome],
    scene: Scene,
    request: Request,
    lines: list[str],
    curves: dict[str, Any],
    look_ahead: float | None,
    tried: list[float],
) -> dict[str, Any]:
    """portfolio.json, without NaN. curves: the band of noise. tried: daily ratio of each outcome."""
    dates = outcomes[0].daily.dates
    asked = asdict(request)
    del asked["tried"]
    tree = {
        "version": VERSION,
        "request": asked,
        "rules": asdict(scene.rules),
        "days": {
            "count": len(dates),
            "first": day_text(dates[0]),
            "last": day_text(dates[-1]),
            "a year": scene.year,
        },
        "dates": [day_text(day) for day in dates],
        "signals": [_signal(one, scene, ratio) for one, ratio in zip(outcomes, tried, strict=True)],
        "tried": {"signals": len(tried) + len(request.tried), "runs": 1 + request.other_runs},
        "noise": curves,
        "look-ahead a year": look_ahead,
        "lines": lines,
    }
    return defined(tree)


def _signal(outcome: Outcome, scene: Scene, ratio: float) -> dict[str, Any]:
    """Figures and curves of one signal."""
    facts, daily = outcome.facts, outcome.daily
    depth, peak, bottom = facts.drawdown
    figures = {
        figure.name: asdict(figure.interval) | {"unit": figure.unit, "meaning": figure.meaning}
        for figure in outcome.figures
    }
    deflated = None if outcome.deflated is None else asdict(outcome.deflated)
    return {
        "name": outcome.signal.name,
        "figures": figures,
        "facts": {
            "largest drawdown": {"value": depth, "from": peak, "to": bottom},
            "compounded return": facts.compounded,
            "summed excess": facts.summed,
            "rank IC by days ahead": facts.decay,
            "autocorrelation": facts.autocorrelation,
            "exposure": facts.exposure,
            "refused": daily.reasons,
            "capacity": facts.capacity,
            "quantiles": facts.quantiles,
            "sleeves": facts.sleeves,
            "deflated Sharpe": deflated,
            "future noise": None if outcome.check is None else asdict(outcome.check),
        },
        "daily ratio": ratio,
        "excess by day": np.where(scene.known, daily.net - scene.benchmark, np.nan),
        "return by day": daily.net,
        "summed excess by day": np.cumsum(scene.filled_excess(daily)),
        "compounded by day": np.cumprod(1 + daily.net) - 1,
        "turnover by day": daily.turnover,
    }


def defined(tree: Any) -> Any:
    """The tree as JSON has it: arrays as lists, intervals as groups, None for what is not defined."""
    if isinstance(tree, Interval):
        return defined(asdict(tree))
    if isinstance(tree, dict):
        return {str(key): defined(value) for key, value in tree.items()}
    if isinstance(tree, np.ndarray):
        return [defined(value) for value in tree.tolist()]
    if isinstance(tree, list | tuple):
        return [defined(value) for value in tree]
    if isinstance(tree, float) and not math.isfinite(tree):
        return None
    return tree


# -- files ---------------------------------------------------------------------------------------------------
def write_files(report: Report) -> None:
    """All files; the page last."""
    folder = Path(report.folder)
    files.write_text(folder / "portfolio.csv", _days_csv(report))
    files.write_text(folder / "orders.csv", _orders_csv(report))
    files.write_json(folder / FILE, report.tree)
    from kronos.portfolio.portfolio_page import write_page  # matplotlib takes a second to load

    write_page(report.tree, folder / "portfolio.html")


def _days_csv(report: Report) -> str:
    """One line for each day of each signal."""
    tables = []
    for outcome in report.outcomes:
        daily = outcome.daily
        columns = {
            "date": [day_text(day) for day in daily.dates],
            "signal": [outcome.signal.name] * len(daily.dates),
            "return": daily.gross,
            "cost": daily.cost,
            "turnover": daily.turnover,
            "benchmark": report.scene.benchmark,
            "positions": daily.positions,
            "cash": daily.cash,
            "refused": daily.refused,
        }
        tables.append(pl.DataFrame(columns))
    return pl.concat(tables).write_csv()


def _orders_csv(report: Report) -> str:
    """What each signal asks for on the next trading day, one line for each stock that is held or wanted."""
    rows = []
    for outcome in report.outcomes:
        rows += orders(outcome, report.scene)
    schema = {
        "signal": pl.String,
        "known": pl.String,
        "ticker": pl.String,
        "action": pl.String,
        "shares": pl.Float64,
        "value": pl.Float64,
        "score": pl.Float64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row").write_csv()


Order = tuple[str, str, str, str, float | None, float, float | None]
"""(signal, day of the score, ticker, action, shares that are held, value, score)"""


def orders(outcome: Outcome, scene: Scene) -> list[Order]:
    """What the last scores up to the last day ask for, on the next trading day.

    The value of what is held is that at its last close; of what is to be bought, the money for it. Scores that
    were dealt already ask for nothing: what is held rests until there are newer ones.
    """
    prices, plan = scene.prices, scene.plan
    place = {ticker: number for number, ticker in enumerate(prices.tickers)}
    holdings = {place[one.ticker]: one for one in outcome.daily.held_at_end}
    held = np.array(list(holdings), np.int64)
    day = outcome.last_scored(scene)
    score, close = outcome.signal.score[day], prices.last_close[scene.days.stop - 1]
    sell: list[int] = []
    buy: list[int] = []
    if day == scene.days.stop - 1:
        sell, buy = choose(score, held, plan.topk, plan.drop)
    known = day_text(prices.dates[day])
    rows: list[Order] = []
    money = float(outcome.daily.cash[-1])
    for ticker, one in holdings.items():
        value, action = one.shares * close.item(ticker), "hold"
        if ticker in sell and day + 1 - one.bought_on >= plan.hold:
            action = "sell"
            money += value
        rows.append(
            (outcome.signal.name, known, one.ticker, action, one.shares, value, _number(score[ticker]))
        )
    for ticker in buy:
        value = money * scene.rules.invested / len(buy)
        if scene.rules.round_lot(value / close.item(ticker), 1.0) * close.item(ticker) <= 1e-5:
            continue  # where a sale has to wait, there may be no money
        name = prices.tickers[ticker]
        rows.append((outcome.signal.name, known, name, "buy", None, value, _number(score[ticker])))
    return rows


def _number(value: float) -> float | None:
    """The value; None where there is none."""
    if not np.isfinite(value):
        return None
    return float(value)
