"""The backtest: forecast past dates as the submission would, beside everything that needs no model, and say what it shows.

In: a configuration, the run folders to score, options. Out: `Backtest`: report.json in the output folder (docs/evaluation.md has
its form), the table and the verdict. Fit < calibrate < test; each later block begins after the earlier block's last label.
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kronos import files
from kronos.config import Config
from kronos.data import competition
from kronos.data.calendar import TradingCalendar
from kronos.data.prepare import open_store
from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.evaluation.baselines import fitted_entries, simple_entries
from kronos.evaluation.calibration import blend, fit_calibration
from kronos.evaluation.controls import noisy_futures, shuffled_labels
from kronos.evaluation.entry import Entry
from kronos.evaluation.forecasts import (
    DateForecast,
    Network,
    closes_on,
    config_of_run,
    forecast_dates,
    load_network,
    pretrained,
    probabilities_on,
    random_init,
    ties_on,
)
from kronos.evaluation.origins import boundary_of, latest, plan_timeline
from kronos.evaluation.panel import Panel, build_panel
from kronos.evaluation.report_tree import report_tree
from kronos.evaluation.scene import Options, Scene
from kronos.evaluation.significance import DateBootstrap
from kronos.evaluation.verdict import CHECKS, Results
from kronos.forecasting.calibration import Calibration, threshold_of
from kronos.forecasting.context import MIN_BARS
from kronos.forecasting.decide import decide
from kronos.forecasting.rows import base_rate

log = logging.getLogger(__name__)

BLEND = "blend"


@dataclass(frozen=True, eq=False)
class Backtest:
    """A written report."""

    path: Path
    tree: dict[str, Any]
    results: Results

    @property
    def failed_control(self) -> bool:
        """Whether a negative control found what cannot be there."""
        control = self.tree["control"]
        return control is not None and (self.results.skill > 0 or self.tree["changed_forecasts"] > 0)

    def write_page(self) -> Path:
        """Draw report.html beside report.json. Returns its path."""
        from kronos.evaluation.report import write_page  # matplotlib takes a second to load

        return write_page(self.tree, self.path.with_suffix(".html"))

    def text(self) -> str:
        """The verdict, then the table, then what a reader has to know."""
        verdict, alarm = self.tree["verdict"], self.tree["alarm"]
        lines = [verdict["headline"], "", self.results.table(), "", *verdict["lines"]]
        return "\n".join([*lines, *(alarm["lines"] if alarm else [])])


def run_backtest(config: Config, options: Options | None = None) -> Backtest:
    """Score a configuration's run (or `options.models`) on past dates and write report.json.

    Raises KitError, with no report written, when there is no model, no date after its training, or no row to score.
    """
    options, started = options or Options(), time.monotonic()
    store = open_store(config)
    horizon = horizon_of(config, store)
    if options.refit:
        from kronos.evaluation.refit import planned_boundary, refit_forecasts

        networks: list[Network] = []
        boundary = planned_boundary(config, store)
    else:
        networks = load_networks(config, options)
        boundary = latest([boundary_of(store, n.summary) for n in networks])
    own = config.evaluation
    timeline = plan_timeline(
        len(store.sessions),
        boundary,
        horizon,
        origins=own.origins,
        every=own.every,
        calibration_share=0.0 if own.calibration == "off" or options.refit else own.calibration_share,
        embargo=own.embargo,
        history=min(MIN_BARS, config.data.lookback_window),
    )
    panel = build_panel(store, np.concatenate([timeline.calibrate, timeline.test]), horizon, own.tickers)
    folder = Path(options.output) if options.output else (networks[0].config if networks else config).run_dir / "backtest"
    deadline = math.inf if own.time_limit is None else started + own.time_limit * 3600
    scene = Scene(config, options, store, timeline, panel, folder, deadline)
    _say_plan(scene)
    if options.refit:
        networks, forecasts = refit_forecasts(config, store, panel, folder / "cache", deadline)
        changed = 0
    else:
        scene, forecasts, changed = _forecast(scene, networks)
    entries, calibrations = _entries(scene, networks, forecasts)
    test = _test_panel(scene)
    results = Results(test, entries, DateBootstrap(tuple(test.sessions.tolist()), horizon, own.draws, own.seed))
    first = _of_test(scene, forecasts[networks[0].name])
    raw = probabilities_on(test, first) * (1 - ties_on(test, first))
    tree = report_tree(scene, results, networks, calibrations, np.where(np.isnan(raw), 0.5, raw))
    tree |= {
        "changed_forecasts": changed,
        "alarm": _alarm(scene, results, changed),
        "seconds": round(time.monotonic() - started, 1),
    }
    special = options.control or ("refit" if options.refit else "")  # neither is about the run's own networks
    path = folder / (f"report-{special}.json" if special else "report.json")
    files.write_json(path, tree)
    from kronos.evaluation.report import write_page  # matplotlib takes a second to load

    write_page(tree, path.with_suffix(".html"))
    return Backtest(path, tree, results)


def horizon_of(config: Config, store: BarStore) -> int:
    """Trading days ahead: evaluation.horizon, else inference.horizon, else the test file's, else data.predict_window."""
    if given := config.evaluation.horizon or config.inference.horizon:
        return given
    if not (config.data.test_path and Path(config.data.test_path).is_file()):
        return config.data.predict_window
    dates = competition.read_test(config.data.test_path)["Date"].to_numpy().astype("datetime64[s]")
    days, count = np.unique(dates, return_counts=True)
    calendar = TradingCalendar(store.sessions, config.data.calendar, store.frequency)
    steps = int(calendar.steps_between(store.sessions[-1:], days[[count.argmax()]])[0])
    return steps if steps > 0 else config.data.predict_window


# -- networks ----------------------------------------------------------------------------------------------------------
def load_networks(config: Config, options: Options) -> list[Network]:
    """The models to score: the configuration's own run, or those of --model, with names of their own."""
    if not options.models:
        return [load_network(config, allow_incomplete=options.allow_incomplete)]
    names = _names(options.models)
    return [
        load_network(config_of_run(folder, config), name, options.allow_incomplete)
        for folder, name in zip(options.models, names, strict=True)
    ]


def _names(folders: Sequence[str]) -> list[str]:
    """The folders' own names, or their paths where two have the same."""
    short = [Path(f).resolve().name for f in folders]
    if len(set(map(str, map(Path, folders)))) < len(folders):
        raise KitError(f"--model: expected different run folders, found {', '.join(folders)}")
    return short if len(set(short)) == len(short) else [str(f) for f in folders]


def _baseline_networks(config: Config, main: Network) -> list[Network]:
    own = config.evaluation
    found = [random_init(main, own.seed)] if own.random_init else []
    published = pretrained(main) if own.pretrained else None
    return found + ([published] if published else [])


# -- forecasts ---------------------------------------------------------------------------------------------------------
def _forecast(scene: Scene, networks: list[Network]) -> tuple[Scene, dict[str, list[DateForecast]], int]:
    """All networks' answers, the scene with the labels of a control, and how many rows a changed future changed."""
    cache, config, store = scene.folder / "cache", scene.config, scene.store
    horizon, test, limit = scene.timeline.horizon, scene.timeline.test, config.evaluation.tickers
    fresh = scene.options.control == "future-noise"
    if fresh:  # compared bit by bit with forecasts to come: other batches would round in another way
        for network in networks:
            network.forecaster.batch_size = network.forecaster.memory_plan(config.data.lookback_window, horizon).series
    forecasts = forecast_dates(networks, store, scene.sessions, horizon, None if fresh else cache, limit, scene.deadline)
    extra = _baseline_networks(config, networks[0])
    forecasts |= forecast_dates(extra, store, test, horizon, cache, limit, scene.deadline)
    networks += extra
    if scene.options.control == "shuffle-labels":
        return replace(scene, panel=shuffled_labels(scene.panel, config.evaluation.seed)), forecasts, 0
    if fresh:
        models = [n for n in networks if n.kind == "model"]
        panel, noisy = _with_noise(scene, models)
        changed = sum(_differences(forecasts[n.name], noisy[n.name]) for n in models)
        return replace(scene, panel=panel), forecasts | noisy, changed
    return scene, forecasts, 0


def _with_noise(scene: Scene, models: list[Network]) -> tuple[Panel, dict[str, list[DateForecast]]]:
    """The panel with what the noise became, and forecasts made while everything after each origin was noise. Never cached."""
    future, limit, horizon = scene.panel.future_close.copy(), scene.config.evaluation.tickers, scene.timeline.horizon
    found: dict[str, list[Any]] = {n.name: [None] * scene.panel.dates for n in models}
    for place, store in noisy_futures(scene.store, scene.sessions, scene.config.evaluation.seed):
        one = scene.sessions[place : place + 1]
        future[scene.panel.slices()[place]] = build_panel(store, one, horizon, limit).future_close
        for name, dates in forecast_dates(models, store, one, horizon, None, limit, scene.deadline).items():
            found[name][place] = dates[0]
    return replace(scene.panel, future_close=future), found


def _differences(a: list[DateForecast], b: list[DateForecast]) -> int:
    """Rows of which P(rise) or any sampled close differs in any bit."""
    both = ((np.column_stack([d.closes, d.prob]) for d in pair) for pair in zip(a, b, strict=True))
    return sum(int((~((x == y) | (np.isnan(x) & np.isnan(y))).all(axis=1)).sum()) for x, y in both)


# -- entries -----------------------------------------------------------------------------------------------------------
def _test_panel(scene: Scene) -> Panel:
    panel = scene.panel.only(scene.is_test)
    if not len(panel):
        raise KitError(
            "backtest: expected rows with a bar on an as-of date and on its target, found none; choose another horizon"
        )
    return panel


def _of_test(scene: Scene, dates: list[DateForecast]) -> list[DateForecast]:
    """A network's answers to the scored dates: the last ones, since calibration comes first."""
    return dates[-int(scene.is_test.sum()) :]


def _entries(
    scene: Scene, networks: list[Network], forecasts: dict[str, list[DateForecast]]
) -> tuple[list[Entry], dict[str, Calibration | None]]:
    """The main entry first, then its members, then everything without a model."""
    test, own = _test_panel(scene), scene.config.evaluation
    models = [n for n in networks if n.kind == "model"]
    calibrations = {n.name: _calibrate(scene, n, forecasts[n.name]) for n in models}
    entries = [
        network_entry(scene.store, test, n, _of_test(scene, forecasts[n.name]), calibrations.get(n.name)) for n in networks
    ]
    members = [e for e in entries if e.kind == "model"]
    if len(members) > 1:
        entries.insert(0, blend_entry(members, threshold_of(scene.config.inference.threshold, None)))
    entries += simple_entries(scene.store, test, own)
    if own.fitted_baselines:
        entries += fitted_entries(scene.store, test, own)
    return entries, calibrations


def _calibrate(scene: Scene, network: Network, dates: list[DateForecast]) -> Calibration | None:
    """Fitted on the calibration dates, and saved in the run's predictor folder unless this is a control."""
    count = len(scene.timeline.calibrate)
    if not count:
        return None
    panel = scene.panel.only(~scene.is_test)
    dates = dates[:count]
    closes, prob, ties = closes_on(panel, dates), probabilities_on(panel, dates), ties_on(panel, dates)
    if not np.isfinite(prob).any():
        return None
    made = fit_calibration(panel, prob, ties, closes, scene.config.evaluation, network.key(panel.horizon))
    if scene.options.control is None:
        log.info("calibration of %s: %s", network.name, made.save(network.config.basemodel_dir))
    return made


def network_entry(
    store: BarStore, panel: Panel, network: Network, dates: list[DateForecast], calibration: Calibration | None
) -> Entry:
    """A network's answers; rows that it cannot forecast get the base rate known at their origin, as in the submission."""
    closes, prob = closes_on(panel, dates), probabilities_on(panel, dates)
    have = np.isfinite(prob)
    if calibration is not None:
        prob[have] = calibration.prob(prob[have])
        closes[have] = calibration.widen(closes[have])
    prob *= 1 - ties_on(panel, dates)
    for date in np.unique(panel.origin[~have]):
        rate, _ = base_rate(store, panel.origins[date] + np.timedelta64(1, "s"), panel.horizon)
        prob[~have & (panel.origin == date)] = rate
    threshold = threshold_of(network.config.inference.threshold, calibration)
    return Entry(
        network.name, network.kind, decide(prob, threshold), prob, prob, closes, fallback=int((~have).sum()), note=network.note
    )


def blend_entry(members: list[Entry], threshold: float = 0.5) -> Entry:
    """Averaged calibrated logits; the paths of all members together."""
    prob = blend([e.prob for e in members if e.prob is not None])
    closes = np.concatenate([e.closes for e in members if e.closes is not None], axis=1)
    note = f"mean of the calibrated logits of {', '.join(e.name for e in members)}"
    return Entry(
        BLEND, "blend", decide(prob, threshold), prob, prob, closes, fallback=max(e.fallback for e in members), note=note
    )


# -- words -------------------------------------------------------------------------------------------------------------
def _say_plan(scene: Scene) -> None:
    t, sessions = scene.timeline, scene.store.sessions
    parts = [f"{len(t.test)} dates from {sessions[t.test[0]]} to {sessions[t.test[-1]]}, {t.horizon} trading days ahead"]
    if len(t.calibrate):
        parts.append(f"calibration on {len(t.calibrate)} dates until {sessions[t.calibrate[-1]]}")
    log.info("backtest: %s; %d rows", "; ".join(parts).replace("T00:00:00", ""), len(scene.panel))
    for note in t.notes:
        log.info("%s", note)


def _alarm(scene: Scene, results: Results, changed: int) -> dict[str, Any] | None:
    """Too good, or not blind to the future: what to check. Expected on the planted market, and said all the same."""
    if changed:
        return {"lines": [f"LEAK: {changed} forecasts changed when bars after their origin did."], "expected": False}
    if scene.options.control and results.skill > 0:
        return {"lines": [f"LEAK: skill on a negative control ({scene.options.control})."], "expected": False}
    if not results.suspicious:
        return None
    why = " and ".join(results.suspicious)
    if scene.config.market.generate:
        return {"lines": [f"Leak alarm, as expected: {why}; a signal was planted in this synthetic market."], "expected": True}
    checks = [f"  {number}. {check}" for number, check in enumerate(CHECKS, 1)]
    return {"lines": [f"LEAK ALARM: {why}. On real prices look for the leak first:", *checks], "expected": False}
