"""The backtest: ask every answerer about past dates as the submission would, and say what it shows.

In: a configuration, the run folders to score, options. Out: `Backtest`: report.json in the output folder
(docs/evaluation.md has its form), the table and the verdict; with `save` the findings that the submission
chooses by. Fit < calibrate < test; each later block begins after the earlier block's last label.
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kronos import files
from kronos.answers.catalogue import fit_path
from kronos.answers.findings import Evidence, Figure, Findings, choose
from kronos.answers.history import base_rates
from kronos.answers.network import NetworkAnswerer, load_network, own_name
from kronos.config import Config
from kronos.data import competition
from kronos.data.calendar import TradingCalendar
from kronos.data.prepare import open_store
from kronos.data.store import BarStore
from kronos.data.survey import date_text
from kronos.errors import KitError
from kronos.evaluation.asking import ask_head, ask_networks, ask_others, final_fits
from kronos.evaluation.contest import Contestant, Judged, Setup, contest, judge, set_up
from kronos.evaluation.origins import (
    CALIBRATION_SHARE,
    Boundary,
    boundary_of,
    latest,
    on_open_days,
    plan_timeline,
)
from kronos.evaluation.panel import build_panel
from kronos.evaluation.predictions import write_predictions
from kronos.evaluation.report_tree import interval, report_tree
from kronos.evaluation.significance import DateBootstrap, Interval
from kronos.evaluation.term import by_horizon
from kronos.evaluation.verdict import Results, alarm_lines
from kronos.forecasting.context import MIN_BARS
from kronos.runfolder import RunFolder
from kronos.training.folder import read_summary

log = logging.getLogger(__name__)

Control = Literal["shuffle-labels", "future-noise"]


@dataclass(frozen=True)
class Options:
    """What a call of the backtest asks for beside the configuration."""

    models: tuple[str, ...] = ()
    """Run folders; none: the configuration's own run. Several are scored side by side and blended."""
    output: str = ""
    """Folder of the report; empty: backtest/ in the (first) run's folder."""
    control: Control | None = None
    refit: bool = False
    """Train anew before each fold of the test dates."""
    allow_incomplete: bool = False
    save: bool = False
    """Leave the findings in the run's folder, for the submission to choose by."""
    network: bool = True
    """False: score what needs no predictor: rules, fits, and the run's head where it has one."""


@dataclass(frozen=True, eq=False)
class Backtest:
    """A written report."""

    path: Path
    tree: dict[str, Any]
    results: Results
    judged: list[Judged]
    findings: Findings
    saved: Path | None = None
    """Where the findings were left."""

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

    Raises KitError, with no report written, when there is no model, no date after its training, or no row to
    score.
    """
    options, started = options or Options(), time.monotonic()
    store = open_store(config)
    horizon = horizon_of(config, store)
    networks, boundary = _networks(config, options, store, horizon)
    setup = _setup(config, options, store, boundary, networks, started)
    _say_plan(setup)
    setup, contestants, networks, changed = _ask_all(setup, options, networks)
    judged = [judge(setup, one) for one in contestants]
    test = setup.panel.only(setup.is_test)
    if not len(test):
        raise KitError(
            "backtest: expected rows with a bar on an as-of date and on its target, found none; choose another horizon"
        )
    own = config.evaluation
    bootstrap = DateBootstrap(tuple(test.sessions.tolist()), test.span, own.draws)
    results = Results(test, [one.decided for one in judged], bootstrap, planted=config.market.generate)
    findings = _findings(setup, results, judged)
    tree = report_tree(setup, options, results, judged, networks)
    tree |= {
        "by_horizon": [row | {"rank_ic": interval(row["rank_ic"])} for row in by_horizon(setup, contestants)],
        "changed_forecasts": changed,
        "alarm": _alarm(setup, options, results, changed),
        "choice": asdict(choose(findings, {c.name for c in contestants if c.candidate})),
        "least_skill": findings.least_skill,
        "seconds": round(time.monotonic() - started, 1),
    }
    path = setup.folder / _report_name(options)
    files.write_json(path, tree)
    made = Backtest(path, tree, results, judged, findings)
    made.write_page()
    if options.control or options.refit:
        return made
    log.info("every answer: %s", write_predictions(setup, contestants, setup.folder))
    return replace(made, saved=_save(setup, findings, contestants, networks)) if options.save else made


def _ask_all(
    setup: Setup, options: Options, networks: list[NetworkAnswerer]
) -> tuple[Setup, list[Contestant], list[NetworkAnswerer], int]:
    """(the setup with the labels of a control, everybody's answers, the one that the report is about first;
    the networks; rows that a changed future changed).
    """
    config, changed = setup.config, 0
    networks = [
        replace(n, cache=setup.folder / "cache", deadline=setup.deadline, paths=True, by_date=True)
        for n in networks
    ]
    if options.refit:
        from kronos.evaluation.refit import RefitFitter

        fitter = RefitFitter(config, setup.folder / "cache", setup.deadline)
        contestants = [contest(setup, fitter, model=True, candidate=False)]
        networks = fitter.made[-1:]
    else:
        setup, contestants, changed = ask_networks(setup, options.control, networks)
        contestants += _heads(setup, _run_of(config, networks))
    contestants += ask_others(setup, contestants)
    if any(c.model for c in contestants):
        return setup, contestants, networks, changed
    for k, one in enumerate(
        contestants
    ):  # without a network the report is about the head, else the first fit
        if one.kind in ("head", "fitted"):
            contestants.insert(0, replace(contestants.pop(k), model=True))
            return setup, contestants, networks, changed
    raise KitError(
        "backtest: expected a network, a head or evaluation.fitted_baselines to report about, found none"
    )


def _save(
    setup: Setup, findings: Findings, contestants: list[Contestant], networks: list[NetworkAnswerer]
) -> Path:
    """Leave the findings in the run's folder, and the fits that only a backtest can make."""
    config = _run_of(setup.config, networks)
    for name, fit in final_fits(setup, [one for one in contestants if one.candidate]).items():
        fit.save(fit_path(config, name, setup.panel.horizon))
    saved = findings.save(config.run_dir)
    log.info("decisions of %d answerers: %s", len(findings.answerers), saved)
    return saved


def _report_name(options: Options) -> str:
    """A control and a walk-forward are not about the run's own networks."""
    special = options.control or ("refit" if options.refit else "")
    return f"report-{special}.json" if special else "report.json"


def horizon_of(config: Config, store: BarStore) -> int:
    """Trading days ahead: evaluation.horizon, else inference.horizon, else the test file's, else
    data.predict_window.
    """
    if given := config.evaluation.horizon or config.inference.horizon:
        return given
    if not (config.data.test_path and Path(config.data.test_path).is_file()):
        return config.data.predict_window
    dates = (
        competition.read_test(config.data.test_path, config.data)["Date"].to_numpy().astype("datetime64[s]")
    )
    days, count = np.unique(dates, return_counts=True)
    market = 0 if store.market is None else int(np.bincount(store.market).argmax())  # that of most tickers
    sessions = store.sessions_of(market)
    calendar = TradingCalendar(sessions, store.calendars(config.data.calendar)[market], store.frequency)
    steps = int(calendar.steps_between(sessions[-1:], days[[count.argmax()]])[0])
    return steps if steps > 0 else config.data.predict_window


# -- networks ------------------------------------------------------------------------------------------------
def _networks(
    config: Config, options: Options, store: BarStore, horizon: int
) -> tuple[list[NetworkAnswerer], Boundary]:
    """The networks to score, and the days that they have seen."""
    if options.refit:
        from kronos.evaluation.refit import planned_boundary

        return [], planned_boundary(config, store)
    networks = load_networks(config, options, horizon) if options.network else []
    head = _head_summary(_run_of(config, networks))
    seen = [network.summary for network in networks] + ([head] if head else [])
    return networks, latest([boundary_of(store, summary) for summary in seen]) if seen else Boundary()


def _run_of(config: Config, networks: list[NetworkAnswerer]) -> Config:
    """The configuration of the run whose head is scored."""
    return networks[0].config if networks else config


def _head_summary(config: Config) -> dict[str, Any] | None:
    """Of the run's head, where its stage has ended."""
    summary = read_summary(config.head_dir)  # without training there need not be a run folder
    return summary if summary is not None and summary["status"] == "complete" else None


def _heads(setup: Setup, config: Config) -> list[Contestant]:
    """The head of the run, where its stage has ended."""
    return [ask_head(setup, config)] if _head_summary(config) is not None else []


def load_networks(config: Config, options: Options, horizon: int) -> list[NetworkAnswerer]:
    """The models to score: the configuration's own run, or those of --model, with names of their own."""
    if not options.models:
        return [load_network(config, horizon, allow_incomplete=options.allow_incomplete)]
    names = _names(options.models)
    return [
        load_network(RunFolder(Path(folder)).config_for(config), horizon, name, options.allow_incomplete)
        for folder, name in zip(options.models, names, strict=True)
    ]


def _names(folders: Sequence[str]) -> list[str]:
    """The folders' own names, or their paths where two have the same. Raises KitError on one folder twice."""
    short = [own_name(Path(f).resolve().name) for f in folders]
    if len({Path(f).resolve() for f in folders}) < len(folders):
        raise KitError(f"--model: expected different run folders, found {', '.join(folders)}")
    return short if len(set(short)) == len(short) else [str(f) for f in folders]


def _setup(
    config: Config,
    options: Options,
    store: BarStore,
    boundary: Boundary,
    networks: list[NetworkAnswerer],
    started: float,
) -> Setup:
    """Dates and rows."""
    own, horizon = config.evaluation, horizon_of(config, store)
    share = CALIBRATION_SHARE
    if config.inference.calibration == "off" or options.refit:
        share = 0.0
    timeline = plan_timeline(
        len(store.sessions),
        boundary,
        store.span_of(horizon),
        origins=own.origins,
        every=own.every,
        calibration_share=share,
        history=min(MIN_BARS, config.data.lookback_window),
    )
    timeline = on_open_days(timeline, store.all_open())
    panel = build_panel(store, np.concatenate([timeline.calibrate, timeline.test]), horizon, own.tickers)
    owner = networks[0].config if networks else config
    folder = owner.run_dir / "backtest"
    if options.output:
        folder = Path(options.output)
    deadline = math.inf if own.time_limit is None else started + own.time_limit * 3600
    return set_up(config, store, timeline, panel, folder, deadline)


# -- what is found -------------------------------------------------------------------------------------------
def _findings(setup: Setup, results: Results, judged: list[Judged]) -> Findings:
    """What the submission chooses by: of every answerer that could be asked again."""
    answerers = []
    for one in judged:
        who = one.contestant
        if not who.candidate:
            continue
        figures = results.overall[who.name]
        answerers.append(
            Evidence(
                name=who.name,
                kind=who.kind,
                simplicity=who.simplicity,
                accuracy=_figure(figures["accuracy"]) or Figure(0.5),
                within=_figure(figures.get("within_date_accuracy")),
                rank_ic=_figure(figures.get("rank_ic")),
                decision=None if who.kind == "constant" else one.final,
                members=who.members,
                weights=who.weights,
            )
        )
    panel, within = results.panel, results.within
    least = None
    if within.low is not None and within.high is not None:
        least = min(1.0, 0.5 + (within.high - within.low) / 2)
    last = np.array([len(setup.store.sessions) - 1])
    return Findings(
        version=1,
        horizon=panel.horizon,
        created=time.strftime("%Y-%m-%d %H:%M:%S"),
        data=setup.store.digest,
        first=date_text(panel.origins[0]),
        last=date_text(panel.origins[-1]),
        dates=panel.dates,
        effective=results.bootstrap.effective,
        history_rate=float(base_rates(setup.store, last, panel.horizon)[0]),
        least_skill=least,
        main=results.main.name,
        answerers=answerers,
    )


def _figure(i: Interval | None) -> Figure | None:
    """A figure that is defined; None for the others."""
    if i is None or not math.isfinite(i.value):
        return None
    return Figure(i.value, i.low, i.high, i.p, i.dates)


# -- words ---------------------------------------------------------------------------------------------------
def _say_plan(setup: Setup) -> None:
    t, sessions = setup.timeline, setup.store.sessions
    parts = [
        f"{len(t.test)} dates from {sessions[t.test[0]]} to {sessions[t.test[-1]]}, {setup.panel.horizon} trading days ahead"
    ]
    if len(t.calibrate):
        parts.append(f"decisions begin with {len(t.calibrate)} dates until {sessions[t.calibrate[-1]]}")
    log.info("backtest: %s; %d rows", "; ".join(parts).replace("T00:00:00", ""), len(setup.panel))
    for note in t.notes:
        log.info("%s", note)


def _alarm(setup: Setup, options: Options, results: Results, changed: int) -> dict[str, Any] | None:
    """Too good, or not blind to the future: what to check. Expected on the planted market, and said all the
    same.
    """
    if changed:
        return {
            "lines": [f"LEAK: {changed} forecasts changed when bars after their origin did."],
            "expected": False,
        }
    if options.control and results.skill > 0:
        return {"lines": [f"LEAK: skill on a negative control ({options.control})."], "expected": False}
    if not results.suspicious:
        return None
    return alarm_lines(results.suspicious, planted=setup.config.market.generate)
