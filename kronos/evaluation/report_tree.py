"""What report.json holds: plain numbers and names, from which the page is drawn. Its form:
docs/evaluation.md.

In: the scene of a backtest and its `Results`. Out: a tree of dictionaries and lists without NaN.
"""

import math
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray

from kronos.answers.features import NAMES, raw_features
from kronos.answers.network import NetworkAnswerer
from kronos.bars import CLOSE, HIGH, LOW, OPEN
from kronos.config import to_dict
from kronos.data.store import BarStore
from kronos.data.survey import date_text
from kronos.evaluation.contest import Judged, Setup
from kronos.evaluation.origins import PRETRAINING_END, Timeline
from kronos.evaluation.panel import Panel
from kronos.evaluation.reliability import equal_bins, reliability
from kronos.evaluation.scores import FIGURES, over_dates, pooled, score_dates
from kronos.evaluation.significance import DateBootstrap, Interval
from kronos.evaluation.verdict import Results

VERSION = 2
YEARLY = ("accuracy", "within_date_accuracy", "rank_ic", "true_rises")
EXTREMES = 10
EXAMPLES, EXAMPLE_PATHS, EXAMPLE_HISTORY = 8, 20, 60
QUANTILES = (5, 25, 50, 75, 95)


def report_tree(
    setup: Setup, options: Any, results: Results, judged: list[Judged], networks: list[NetworkAnswerer]
) -> dict[str, Any]:
    """The whole report but for alarm, choice and duration. options: `backtest.Options`."""
    panel, store, timeline = results.panel, setup.store, setup.timeline
    dates = _dates(results, timeline, networks)
    return {
        "version": VERSION,
        "created": time.strftime("%Y-%m-%d %H:%M:%S"),
        "title": setup.config.experiment.name or setup.config.model_paths.exp_name,
        "control": options.control,
        "verdict": {
            "skill": results.skill,
            "headline": results.headline,
            "lines": results.lines + _cautions(setup, dates),
        },
        "dates": dates,
        "figures": FIGURES,
        "main": results.main.name,
        "entries": [_entry(results, k) for k in range(len(results.entries))],
        "comparisons": {
            figure: [
                {
                    "baseline": c.baseline,
                    "difference": interval(c.difference),
                    "p_holm": c.p_holm,
                    "better": c.better,
                    "words": c.words,
                }
                for c in found
            ]
            for figure, found in results.comparisons.items()
        },
        "per_date": _per_date(results),
        "decisions": {
            one.contestant.name: _decision(one) for one in judged if one.contestant.kind != "constant"
        },
        "expected": _expected(results),
        "reliability": {
            "decided": _curve(panel, results.main.prob, results.bootstrap),
            "raw": _curve(panel, results.main.raw, results.bootstrap),
        },
        "by_year": _by_year(results),
        "by_third": by_third(store, results),
        "tickers": _tickers(results),
        "examples": _examples(setup, results, networks[0], options.refit) if networks else [],
        "timeline": _timeline(store, timeline),
        "excluded": {"rows": panel.excluded, "days": timeline.excluded},
        "models": [n.describe() for n in networks],
        "digests": {"data": store.digest},
        "versions": _versions(),
        "config": to_dict(setup.config),
    }


# -- numbers -------------------------------------------------------------------------------------------------
def number(value: float | None) -> float | None:
    """A finite float, or None."""
    return None if value is None or not math.isfinite(value) else float(value)


def numbers(values: Sequence[float] | NDArray) -> list[float | None]:
    """Finite floats, None in place of the others."""
    return [number(float(v)) for v in values]


def interval(i: Interval) -> dict[str, Any]:
    """An interval as JSON."""
    return {
        "value": number(i.value),
        "low": number(i.low),
        "high": number(i.high),
        "p": number(i.p),
        "dates": i.dates,
    }


def texts(dates: NDArray[np.datetime64]) -> list[str]:
    """Dates as text."""
    return [date_text(d) for d in dates]


# -- parts ---------------------------------------------------------------------------------------------------
def _entry(results: Results, place: int) -> dict[str, Any]:
    e = results.entries[place]
    figures = {name: interval(i) for name, i in results.overall[e.name].items()}
    return {
        "name": e.name,
        "kind": e.kind,
        "note": e.note,
        "fallback": e.fallback,
        "figures": figures,
        "pooled": pooled(results.panel, e),
    }


def _per_date(results: Results) -> dict[str, Any]:
    panel = results.panel
    entries = {
        name: {figure: numbers(v) for figure, v in figures.items() if np.isfinite(v).any()}
        for name, figures in results.per_date.items()
    }
    rows = np.diff(panel.bounds).tolist()
    rises = numbers(results.per_date[results.main.name]["true_rises"])
    return {
        "origins": texts(panel.origins),
        "targets": texts(panel.targets),
        "rows": rows,
        "true_rises": rises,
        "entries": entries,
    }


def _dates(results: Results, timeline: Timeline, models: list[NetworkAnswerer]) -> dict[str, Any]:
    panel = results.panel
    parts: dict[str, int] = {}
    for session in panel.sessions.tolist():
        parts[timeline.part_of(session)] = parts.get(timeline.part_of(session), 0) + 1
    published = any(
        n.config.predictor_is_pretrained or n.config.tokenizer_is_pretrained or not n.pair.trained
        for n in models
    )
    return {
        "test": panel.dates,
        "effective": results.bootstrap.effective,
        "block": results.bootstrap.block,
        "first": date_text(panel.origins[0]),
        "last": date_text(panel.origins[-1]),
        "horizon": panel.horizon,
        "span": panel.span,
        "stride": timeline.stride,
        "calibrate": len(timeline.calibrate),
        "rows": len(panel),
        "parts": parts,
        "before_pretraining_end": int((panel.origins <= PRETRAINING_END).sum()) if published else 0,
    }


def _cautions(setup: Setup, dates: dict[str, Any]) -> list[str]:
    """What weakens the evidence, said beside it."""
    lines = list(setup.timeline.notes)
    if count := dates["parts"].get("validation"):
        lines.append(
            f"{count} of {dates['test']} dates lie in the validation part, which chose the checkpoint (among a few): "
            "slightly flattering."
        )
    if count := dates["before_pretraining_end"]:
        lines.append(
            f"{count} of {dates['test']} dates lie before {PRETRAINING_END}, until when the published weights are reported to "
            "have been trained: not out of sample for them."
        )
    return lines


def _decision(one: Judged) -> dict[str, Any]:
    """The decision for the time after all dates, and the slopes of the folds."""
    final = one.final
    own = {
        name: getattr(final, name)
        for name in ("horizon", "level", "slope", "date_slope", "centre", "spread", "threshold", "width")
    }
    folds = [None if decision is None else decision.slope for decision in one.decisions]
    account = asdict(final.fitted)
    account["fitted_slope"] = account.pop("slope")
    return own | account | {"folds": folds, "answers_changed_by_shift": one.shifted}


def _expected(results: Results) -> list[dict[str, Any]]:
    """Every answerer's expected accuracy on one more date, best first by the lower end of its interval."""
    rows = [
        {"name": e.name, "kind": e.kind} | interval(results.overall[e.name]["accuracy"])
        for e in results.entries
    ]
    return sorted(
        rows, key=lambda row: -(row["low"] if row["low"] is not None else (row["value"] or 0.0) - 1)
    )


def _curve(panel: Panel, prob: NDArray[np.float64] | None, bootstrap: DateBootstrap) -> dict[str, Any] | None:
    if prob is None:
        return None
    bins, error = reliability(panel, prob, bootstrap)
    return {"bins": [asdict(b) | {"observed": interval(b.observed)} for b in bins], "ece": interval(error)}


THIRDS = {
    "turnover": "traded value over 21 days",
    "volatility": "volatility over 63 days",
    "price": "last close",
}


def by_third(store: BarStore, results: Results) -> list[dict[str, Any]]:
    """Rank IC of the main entry among the lowest, middle and highest third of each date's stocks, by what is
    known then.
    """
    panel, main = results.panel, results.main
    raw = raw_features(store, panel.row)
    values = {
        "turnover": raw[:, NAMES.index("turnover over 21 days")],
        "volatility": raw[:, NAMES.index("volatility over 63 days")],
        "price": panel.last_close,
    }
    found = []
    for name, value in values.items():
        third = np.full(len(panel), -1)
        for part in panel.slices():
            known = np.flatnonzero(np.isfinite(value[part])) + part.start
            third[known] = equal_bins(value[known], 3)
        for number, words in enumerate(("lowest", "middle", "highest")):
            own = panel.only_rows(third == number)
            ic = score_dates(own, main.only(third == number))["rank_ic"]
            found.append(
                {
                    "by": THIRDS[name],
                    "third": words,
                    "rows": len(own),
                    "rank_ic": interval(results.bootstrap.interval(ic)),
                }
            )
    return found


def _by_year(results: Results) -> list[dict[str, Any]]:
    panel, own = results.panel, results.bootstrap
    years = panel.origins.astype("datetime64[Y]").astype(int) + 1970
    found = []
    for year in np.unique(years):
        which = years == year
        part = DateBootstrap(tuple(panel.sessions[which].tolist()), own.horizon, own.draws)
        values = {f: results.per_date[results.main.name][f][which] for f in YEARLY}
        figures = {f: interval(over_dates(part, f, v)) for f, v in values.items()}
        found.append(
            {"year": int(year), "dates": int(which.sum()), "effective": part.effective, "figures": figures}
        )
    return found


def _tickers(results: Results) -> dict[str, Any]:
    """Best and worst tickers by within-date accuracy, among those scored on at least half of the dates."""
    panel, main = results.panel, results.main
    right = (main.pred == panel.label).astype(float)
    ret, score = panel.ret, main.score
    above = np.concatenate(
        [
            0.5 + 0.5 * np.sign(ret[p] - np.median(ret[p])) * np.sign(score[p] - np.median(score[p]))
            for p in panel.slices()
            if p.stop > p.start
        ]
    )
    count = np.bincount(panel.ticker, minlength=len(panel.tickers))
    known = np.flatnonzero(count >= max(1, panel.dates / 2))
    accuracy, within = (
        np.bincount(panel.ticker, v, minlength=len(count))[known] / count[known] for v in (right, above)
    )
    order = np.lexsort((accuracy, within))
    listed = [
        {
            "ticker": panel.tickers[known[k]],
            "dates": int(count[known[k]]),
            "accuracy": float(accuracy[k]),
            "within_date_accuracy": float(within[k]),
        }
        for k in order
    ]
    most = min(EXTREMES, len(listed) // 2)
    spread = 0.5 / math.sqrt(results.bootstrap.effective) if results.bootstrap.effective else None
    return {
        "best": listed[::-1][:most],
        "worst": listed[:most],
        "tickers": len(known),
        "expected_spread": spread,
    }


def _timeline(store: BarStore, timeline: Timeline) -> list[dict[str, Any]]:
    """Blocks in days of the store; a label reaches `horizon` days beyond its block."""
    b, last = timeline.boundary, len(store.sessions) - 1
    blocks = [("train", 0, b.train_end), ("embargo", b.train_end + 1, b.first - 1)]
    if b.validation_end is not None:
        blocks.append(("validation", b.first, b.validation_end))
    if len(timeline.calibrate):
        blocks.append(("calibrate", int(timeline.calibrate[0]), int(timeline.calibrate[-1])))
        blocks.append(("gap", int(timeline.calibrate[-1]) + 1, int(timeline.test[0]) - 1))
    blocks.append(("test", int(timeline.test[0]), int(timeline.test[-1])))
    return [
        {
            "name": name,
            "first": date_text(store.sessions[first]),
            "last": date_text(store.sessions[min(end, last)]),
            "days": end - first + 1,
        }
        for name, first, end in blocks
        if end >= first
    ]


def _examples(setup: Setup, results: Results, network: NetworkAnswerer, refit: bool) -> list[dict[str, Any]]:
    """A few stocks on the middle date, with refit on the last one, which the network at hand answered: what
    was known, the fan of paths, what happened. Chosen by name, not by result."""
    panel, store = results.panel, setup.store
    date = panel.dates - 1 if refit else panel.dates // 2
    part = panel.slices()[date]
    rows = np.arange(part.start, part.stop)
    chosen = (
        rows[np.unique(np.linspace(0, len(rows) - 1, min(EXAMPLES, len(rows))).astype(int))]
        if len(rows)
        else rows
    )
    scored = setup.place[setup.is_test[setup.panel.origin]]
    plan = network.plan(store, setup.asked.only(scored[chosen]))
    found = []
    for batch in plan.batches(len(chosen) or 1):
        forecast = network.forecaster.forecast(batch.bars, batch.stamps, batch.future_stamps, batch.series)
        for place, row in enumerate(batch.rows.tolist()):
            closes = forecast.paths[place, :, :, CLOSE].astype(np.float64)
            if np.isfinite(closes).all():
                found.append(_example(store, results, int(chosen[row]), closes))
    return sorted(found, key=lambda e: e["ticker"])


def _example(store: BarStore, results: Results, row: int, closes: NDArray[np.float64]) -> dict[str, Any]:
    """closes (S, H): the paths of one share, uncalibrated."""
    panel, main = results.panel, results.main
    date, at = panel.origin[row], int(panel.row[row])
    first, end = int(store.offsets[panel.ticker[row]]), int(store.offsets[panel.ticker[row] + 1])
    session = int(panel.sessions[date])
    future = np.arange(at + 1, end)
    market = store.market_of(panel.ticker[[row]])
    origin = np.array([session])
    days = np.concatenate([store.ahead(origin, market, step) for step in range(1, panel.horizon + 1)])
    future = future[store.session[future] <= days[-1]]
    levels = np.quantile(closes, np.array(QUANTILES) / 100, axis=0)
    return {
        "ticker": panel.tickers[panel.ticker[row]],
        "origin": date_text(panel.origins[date]),
        "target": date_text(store.sessions[days[-1]]),
        "prob_up": number(float(main.score[row] if main.prob is None else main.prob[row])),
        "pred": int(main.pred[row]),
        "label": int(panel.label[row]),
        "last_close": float(panel.last_close[row]),
        "history": _bars(store, np.arange(max(first, at + 1 - EXAMPLE_HISTORY), at + 1)),
        "future": _bars(store, future),
        "forecast": {
            "dates": texts(store.sessions[days]),
            "quantiles": {str(q): numbers(v) for q, v in zip(QUANTILES, levels, strict=True)},
            "paths": [numbers(path) for path in closes[:EXAMPLE_PATHS]],
        },
    }


def _bars(store: BarStore, rows: NDArray[np.int64]) -> dict[str, Any]:
    columns = {"open": OPEN, "high": HIGH, "low": LOW, "close": CLOSE}
    return {"dates": texts(store.dates(rows))} | {
        name: numbers(store.bars[rows, k]) for name, k in columns.items()
    }


def _versions() -> dict[str, str]:
    own = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    return own | {"scikit-learn": sklearn.__version__}
