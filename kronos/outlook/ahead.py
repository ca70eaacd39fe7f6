"""The next trading days of every ticker: quantiles of each day, P(rise) of the last one, moves that stand out.

In: a configuration whose run has networks, a prepared store, which tickers. Out: an `Outlook`. It starts from
the market's last trading day in the store, and the answers are those that a submission would give: the same
answerer, the same decision.
"""

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronos.answers.answerer import Answer, Rows, ask, moment_after
from kronos.answers.bands import widened
from kronos.answers.decide import Decided, decide
from kronos.answers.decision import Decision
from kronos.answers.history import tie_shares
from kronos.answers.network import NetworkAnswerer, load_network
from kronos.answers.reading import read_paths
from kronos.bars import CLOSE, FEATURES
from kronos.config import Config
from kronos.data.prepare import open_store
from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.forecasting.memory import Fits
from kronos.forecasting.result import Forecast
from kronos.forecasting.rows import BAD_FORECAST, Batch, RowPlan
from kronos.forecasting.team import Team
from kronos.progress import progress
from kronos.submission import Picked, pick

log = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
HISTORY = 60
"""Known bars that are kept for a picture."""
LOOKED_BACK = 250
"""Bars from which a ticker's usual move is taken."""
UNUSUAL = 3.0
"""Robust deviations from the median ticker, from which on a move is listed as unusual."""
FEWEST = 10
"""Tickers below which no move can be called unusual beside the others."""
STALE = "no bar on the market's last trading day"


@dataclass(frozen=True, eq=False)
class Outlook:
    """n tickers, H trading days ahead; prices in currency."""

    tickers: list[str]
    groups: list[str]
    """Of each ticker; '' without groups."""
    days: int
    last_day: NDArray[np.datetime64]
    """(n,) the last trading day that is known."""
    dates: NDArray[np.datetime64]
    """(n, H)"""
    last_close: FloatArray
    """(n,)"""
    closes: FloatArray
    """(n, Q, H) quantiles of the close, `QUANTILES` order."""
    median: FloatArray
    """(n, H, 6) median of every feature, `bars.FEATURES` order."""
    prob_up: FloatArray
    """(n,) P(the close of the last day is above the last known one)."""
    strange: FloatArray
    """(n,) how far the expected move stands out among the tickers, in robust deviations; NaN: too few."""
    pictures: Forecast | None
    """Paths and history of the tickers that are drawn."""
    left_out: dict[str, int]
    """Tickers without a forecast, by reason."""
    answer: dict[str, Any]
    """Who answered, why, and how: for the manifest."""

    @property
    def move(self) -> FloatArray:
        """(n,) median of the last day's close over the last known close, less 1."""
        return self.closes[:, QUANTILES.index(0.5), -1] / self.last_close - 1

    def unusual(self) -> NDArray[np.int64]:
        """Positions of the tickers whose move stands out, the strangest first."""
        found = np.flatnonzero(np.abs(np.nan_to_num(self.strange)) >= UNUSUAL)
        return found[np.argsort(-np.abs(self.strange[found]), kind="stable")]


def look_ahead(
    config: Config,
    days: int,
    tickers: list[str] | None = None,
    groups: dict[str, str] | None = None,
    pictures: int = 8,
) -> Outlook:
    """Forecast the next `days` trading days.

    tickers: only these; None: all of the store. groups: a group of each ticker. pictures: how many tickers
    get one, those whose moves stand out first. Raises KitError for tickers that the store does not have,
    where no ticker can be forecast, and where the run has no finished networks.
    """
    store = open_store(config)
    names = _known(store, tickers)
    rows, left_out = _newest_rows(config, store, names, days)
    picked = pick(config, store, rows, Team())
    network = picked.network or load_network(config, days)
    plan = network.plan(store, rows)
    width = _width(picked)
    views = _forecast(network, plan, width)
    answer = _answer(picked, network, store, rows, views)
    decision = picked.decision_for(config, store, rows, answer)
    ties = tie_shares(store, rows)
    decided = decide(store, rows, picked.answerer, answer, decision, ties, config.inference.threshold)
    left_out += Counter(reason for reason in views.reason.tolist() if reason)
    if not views.done.any():
        raise KitError(f"forecast: expected a ticker that can be forecast, found none: {counted(left_out)}")
    asked = _Asked(store, rows, network, plan, views)
    return Outlook(
        **_columns(asked, decided, groups or {}, pictures),
        days=days,
        left_out=dict(left_out),
        answer=_account(picked, decision, width, network),
    )


# -- what is asked -------------------------------------------------------------------------------------------
def _known(store: BarStore, tickers: list[str] | None) -> list[str]:
    if tickers is None:
        return list(store.tickers)
    names = list(dict.fromkeys(tickers))
    unknown = [name for name, place in zip(names, store.index_of(names).tolist(), strict=True) if place < 0]
    if unknown:
        shown = ", ".join(unknown[:5])
        raise KitError(
            f"{store.path}: expected tickers of the prepared data, found {len(unknown)} that it does not have ({shown}); "
            f"it has {len(store.tickers):,}, for instance {', '.join(store.tickers[:3])}"
        )
    return names


def _newest_rows(config: Config, store: BarStore, names: list[str], days: int) -> tuple[Rows, Counter[str]]:
    """The rows that ask for the close `days` trading days after each market's last day, and who is left out."""
    market = store.market_of(store.index_of(names))
    last = np.array([store.sessions_of(number)[-1] for number in market.tolist()])
    after = moment_after(store, np.searchsorted(store.sessions, last))
    rows = ask(store, names, after, config.data.calendar, days)
    have = rows.last >= 0
    fresh = np.zeros(len(rows), bool)
    fresh[have] = store.dates(rows.last[have]) == last[have]
    left_out: Counter[str] = Counter()
    if not fresh.all():
        left_out[STALE] = int((~fresh).sum())
        log.warning("%d of %d tickers are left out: %s", (~fresh).sum(), len(rows), STALE)
    return rows.only(fresh), left_out


# -- forecasting ---------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class _Views:
    """Of n rows; NaN where there is no forecast."""

    closes: FloatArray
    median: FloatArray
    ends: NDArray[np.float32]
    """(n, S) the last close of every path, as the networks gave it."""
    dates: NDArray[np.datetime64]
    reason: NDArray[np.str_]

    @property
    def done(self) -> NDArray[np.bool_]:
        return np.asarray(self.reason == "")


def _forecast(network: NetworkAnswerer, plan: RowPlan, width: float) -> _Views:
    """Every row's paths, kept as quantiles. width: what the backtest found the bands to need."""
    n, forecaster, fits = len(plan.ids), network.forecaster, Fits()
    _, steps = plan.extent()
    closes = np.full((n, len(QUANTILES), steps), np.nan)
    median = np.full((n, steps, len(FEATURES)), np.nan)
    ends = np.full((n, forecaster.sampling.sample_count), np.nan, np.float32)
    dates = np.full((n, steps), np.datetime64("NaT", "s"))
    reason = plan.reason.copy()
    with progress("forecast", int((reason == "").sum()), "tickers") as bar:
        for batch in plan.batches(forecaster.memory_plan(*plan.extent()).series):
            found = _of_batch(network, batch, fits)
            sound = found.finite
            reason[batch.rows[~sound]] = BAD_FORECAST
            rows, paths = batch.rows[sound], found.paths[sound]
            ends[rows] = paths[:, :, -1, CLOSE]
            for step in range(steps):
                wide = widened(paths[:, :, step, CLOSE], width)
                closes[rows, :, step] = np.quantile(wide, QUANTILES, axis=1).T
            median[rows] = np.median(paths, axis=1)
            dates[batch.rows] = plan.future_dates(batch.rows)
            bar.update(len(batch.rows))
    return _Views(closes, median, ends, dates, reason)


def _of_batch(network: NetworkAnswerer, batch: Batch, fits: Fits) -> Forecast:
    given = batch.bars, batch.stamps, batch.future_stamps, batch.series
    forecast = network.forecaster.forecast(*given, fits=fits)
    return forecast.repaired()


def _answer(picked: Picked, network: NetworkAnswerer, store: BarStore, rows: Rows, views: _Views) -> Answer:
    """What the picked answerer says; a network's paths are there already and are not sampled again."""
    if picked.answerer is not network or network.kind != "paths":
        return picked.answerer.answer(store, rows)
    score, prob, noise = np.full((3, len(rows)), np.nan)
    done = views.done
    last = store.bars[rows.last[done], CLOSE]
    score[done], prob[done], noise[done] = read_paths(views.ends[done], last)
    return Answer(score, prob, views.reason, views.ends, noise)


def _width(picked: Picked) -> float:
    """How much wider the backtest found that the paths have to be; 1 where it said nothing of a network."""
    if picked.evidence is None or picked.evidence.decision is None or picked.no_decision:
        return 1.0
    return picked.evidence.decision.width


# -- what is shown -------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class _Asked:
    """All that a forecast started from, and what the networks said."""

    store: BarStore
    rows: Rows
    network: NetworkAnswerer
    plan: RowPlan
    views: _Views


def _columns(asked: _Asked, decided: Decided, groups: dict[str, str], pictures: int) -> dict[str, Any]:
    """The columns of an `Outlook`: the tickers that have a forecast."""
    store, views = asked.store, asked.views
    done = np.flatnonzero(views.done)
    rows = asked.rows.only(done)
    names = [store.tickers[k] for k in rows.ticker.tolist()]
    last_close = store.bars[rows.last, CLOSE].astype(np.float64)
    prob = decided.prob
    if prob is None:  # a constant is sure of itself
        prob = decided.pred.astype(np.float64)
    middle = views.closes[done, QUANTILES.index(0.5), -1]
    steps = views.closes.shape[2]
    strange = standing_out(np.log(middle / last_close), usual_moves(store, rows, steps))
    drawn = _drawn(strange, prob[done], pictures)
    return {
        "tickers": names,
        "groups": [groups.get(name, "") for name in names],
        "last_day": store.dates(rows.last),
        "dates": views.dates[done],
        "last_close": last_close,
        "closes": views.closes[done],
        "median": views.median[done],
        "prob_up": prob[done],
        "strange": strange,
        "pictures": _pictures(asked, done[drawn]),
    }


def usual_moves(store: BarStore, rows: Rows, days: int) -> FloatArray:
    """(n,) deviation of a ticker's log return over `days` bars, from its last `LOOKED_BACK` bars."""
    usual = np.full(len(rows), np.nan)
    for place, (ticker, last) in enumerate(zip(rows.ticker.tolist(), rows.last.tolist(), strict=True)):
        first = max(int(store.offsets[ticker]), last + 1 - LOOKED_BACK)
        closes = store.bars[first : last + 1, CLOSE].astype(np.float64)
        if len(closes) > 2 and (closes > 0).all():
            usual[place] = np.diff(np.log(closes)).std(ddof=1) * np.sqrt(days)
    return usual


def standing_out(moves: FloatArray, usual: FloatArray) -> FloatArray:
    """(n,) how far each ticker's expected move, measured by its own usual move, lies from the median ticker.

    moves, usual: (n,) log returns. In robust deviations: 1.4826 times the median distance from the median.
    NaN for all where there are fewer than `FEWEST` tickers, and where a ticker's moves are not known.
    """
    nothing = np.full(len(moves), np.nan)
    known = np.isfinite(moves) & (usual > 0)
    if known.sum() < FEWEST:
        return nothing
    sized = moves[known] / usual[known]
    away = sized - np.median(sized)
    scale = 1.4826 * np.median(np.abs(away))
    if scale == 0:
        return nothing
    nothing[known] = away / scale
    return nothing


def _drawn(strange: FloatArray, prob: FloatArray, pictures: int) -> NDArray[np.int64]:
    """Positions of the tickers that get a picture: those that stand out, then the surest."""
    rank = np.abs(np.nan_to_num(strange)) + np.abs(prob - 0.5)
    return np.argsort(-rank, kind="stable")[:pictures]


def _pictures(asked: _Asked, rows: NDArray[np.int64]) -> Forecast | None:
    """The same paths once more for the rows that are drawn, with their history."""
    if not len(rows):
        return None
    plan, made, fits = asked.plan, [], Fits()
    for row in rows.tolist():
        end = int(plan.end[row])
        history = np.full((1, HISTORY, len(FEATURES)), np.nan, np.float32)
        known = asked.store.bars[max(end - HISTORY, end - int(plan.known[row])) : end]
        history[0, HISTORY - len(known) :] = known
        batch = plan.batch_of(row)
        made.append((_of_batch(asked.network, batch, fits), plan.future_dates(batch.rows), history))
    return Forecast(
        np.concatenate([found.paths for found, _, _ in made]),
        np.concatenate([found.last_close for found, _, _ in made]),
        names=np.array([plan.ids[row] for row in rows.tolist()]),
        dates=np.concatenate([dates for _, dates, _ in made]),
        history=np.concatenate([history for _, _, history in made]),
    )


def _account(
    picked: Picked, decision: Decision | None, width: float, network: NetworkAnswerer
) -> dict[str, Any]:
    expected = None
    if picked.evidence is not None and not picked.no_decision:
        expected = picked.evidence.accuracy.shown()
    return {
        "name": picked.answerer.name,
        "why": picked.why,
        "expected": expected,
        "calibrated": decision is not None and not picked.no_decision,
        "decision": picked.no_decision or "left by the backtest",
        "band_width": width,
        "paths": network.forecaster.sampling.sample_count,
        "network": network.pair.predictor,
        "digest": network.digest,
        "train_end": network.pair.train_end,
    }


def counted(counts: dict[str, int]) -> str:
    """'3 few bars, 1 ...' or 'none'."""
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if count) or "none"
