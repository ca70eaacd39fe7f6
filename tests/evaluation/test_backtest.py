"""The backtest as a whole, on a small market: what it may know, what it keeps, what it says."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from backtests import DAYS, changed, finished_run, small_world
from scipy.stats import norm, rankdata

from kronos.answers.answerer import Rows
from kronos.answers.decide import decide
from kronos.answers.decision import z_of
from kronos.answers.findings import path_of
from kronos.answers.fit import Samples, fit_decision
from kronos.answers.fitted import Fitting, fitters
from kronos.answers.history import base_rates, tie_shares
from kronos.answers.network import NetworkAnswerer, load_network
from kronos.answers.simple import CONSTANTS, RULES
from kronos.bars import CLOSE
from kronos.config import Config
from kronos.data.splits import split_sessions
from kronos.data.store import BarStore
from kronos.data.store_writer import write_store
from kronos.errors import KitError
from kronos.evaluation.asking import ENSEMBLE
from kronos.evaluation.backtest import Options, run_backtest
from kronos.evaluation.contest import ask_on, folds
from kronos.evaluation.panel import build_panel
from kronos.evaluation.scores import FIGURES

World = tuple[Config, BarStore]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return small_world(tmp_path)


def with_bars(store: BarStore, folder: Path, bars: np.ndarray) -> BarStore:
    arrays = {
        name: getattr(store, name) for name in ("session", "sessions", "offsets", "segments", "tickers")
    }
    return write_store(folder, bars=bars, **arrays)


def test_report_says_what_was_done(world: World) -> None:
    """A page without its baselines, dates or cautions is what users cannot judge."""
    config, _ = world
    done = run_backtest(config)
    assert done.path == config.run_dir / "backtest" / "report.json"
    tree = json.loads(done.path.read_text())
    names = [e["name"] for e in tree["entries"]]
    assert names[:2] == [config.model_paths.exp_name, "random-init"]
    fits = {fitter.name for fitter in fitters(Fitting())}
    assert {
        *CONSTANTS,
        *(rule.name for rule in RULES),
        *fits,
        "drift over volatility",
        "blend:network+boosting",
    } <= set(names)
    assert tree["verdict"]["skill"] == 0 and tree["verdict"]["headline"].startswith("No evidence of skill")
    assert (tree["dates"]["test"], tree["dates"]["effective"], tree["dates"]["horizon"]) == (24, 24, 3)
    assert tree["dates"]["parts"]["unseen"] >= 20
    assert set(tree["entries"][0]["figures"]) == set(FIGURES)
    assert set(tree["comparisons"]["accuracy"][0]) == {"baseline", "difference", "p_holm", "better", "words"}
    assert len(tree["per_date"]["origins"]) == len(tree["per_date"]["entries"][names[0]]["accuracy"]) == 24
    assert [b["name"] for b in tree["timeline"]] == [
        "train",
        "embargo",
        "validation",
        "calibrate",
        "gap",
        "test",
    ]
    example = tree["examples"][0]
    assert len(example["forecast"]["quantiles"]["50"]) == len(example["future"]["close"]) == 3
    assert example["history"]["dates"][-1] == example["origin"] < example["future"]["dates"][0]
    assert config.model_paths.exp_name in done.text() and "boosting" in done.text()
    table = pl.read_parquet(done.path.with_name("predictions.parquet"))
    assert {"date", "ticker", "horizon", names[0], f"{names[0]}.last", f"{names[0]}.prob", "boosting"} <= set(
        table.columns
    )
    assert table["date"].n_unique() > tree["dates"]["test"], "calibration dates are answered, too"
    assert table.select("date", "ticker").is_duplicated().sum() == 0


def test_one_series_ends_in_a_page_and_a_table(world: World) -> None:
    """Most users have one series, which has no order within a date: a traceback of 32 lines, no page, no table."""
    config, _ = world
    one = changed(config, evaluation__tickers=1, evaluation__random_init=False, evaluation__origins=8)
    done = run_backtest(one)
    assert done.path.with_name("report.html").stat().st_size > 10_000
    assert (
        "not defined" in done.text() and done.results.overall[done.results.main.name].get("rank_ic") is None
    )
    assert {entry["figures"].get("rank_ic") for entry in done.tree["entries"]} == {None}


def test_dates_of_training_are_never_scored(world: World) -> None:
    """The summary's boundary decides, not the configuration that happens to be passed."""
    config, store = world
    tree = run_backtest(changed(config, evaluation__every=4, data__train_ratio=0.05)).tree
    assert tree["per_date"]["origins"][0] > str(store.sessions[101].astype("datetime64[D]"))
    assert tree["excluded"]["days"]["in training, or before its end"] == 100
    with pytest.raises(KitError, match="days of training"):
        run_backtest(changed(config, evaluation__horizon=DAYS - 102))


def test_later_bars_change_no_answer(world: World, tmp_path: Path) -> None:
    """Everything an origin is answered with, networks and baselines alike, is bit-identical whatever came
    later.
    """
    config, store = world
    middle = 200
    bars = np.array(store.bars)
    later = store.session > middle
    bars[later] = bars[later] * 3 + 1
    other = with_bars(store, tmp_path / "other", bars)
    network = load_network(config, 3)
    early = np.arange(150, middle + 1, 10)
    a, b = (network.answer(s, ask_on(s, early, 3)[0]) for s in (store, other))
    assert a.closes.tobytes() == b.closes.tobytes() and a.score.tobytes() == b.score.tobytes()
    assert np.isfinite(a.closes).all() and len(np.unique(a.closes)) > 100
    found = []
    for s in (store, other):
        own = changed(config, data__store=str(s.path), evaluation__every=10)
        for stage in ("tokenizer", "basemodel"):  # the boundary by position: both stores have the same days
            path = own.run_dir / stage / "summary.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"data_digest": s.digest}))
        found.append(run_backtest(own, Options(output=str(tmp_path / s.path.name))).results)
    a, b = found
    known = a.panel.sessions <= middle
    assert known.sum() >= 3 and a.panel.sessions.tolist() == b.panel.sessions.tolist()
    rows = known[a.panel.origin]
    for x, y in zip(a.entries, b.entries, strict=True):
        assert x.name == y.name
        assert x.score[rows].tobytes() == y.score[rows].tobytes(), x.name
        assert x.pred[rows].tolist() == y.pred[rows].tolist(), x.name
        assert x.prob is None or x.prob[rows].tobytes() == y.prob[rows].tobytes(), x.name


@pytest.mark.parametrize("horizon", [1, 3])
def test_one_step_ahead_outcomes_are_listed(world: World, horizon: int) -> None:
    """One step ahead the submission lists outcomes: a backtest of sampled shares would score, and decide,
    another answer.
    """
    config, store = world
    network = replace(load_network(config, horizon), paths=True)
    rows, _ = ask_on(store, np.array([180]), horizon)
    given = network.answer(store, rows)
    assert (given.reason == "").all() and np.isfinite(given.closes).all()
    assert np.isfinite(given.mass).all() if horizon == 1 else np.isnan(given.mass).all()
    assert (given.noise == 0).all() if horizon == 1 else (given.noise > 0).all()
    without = replace(network, paths=False).answer(store, rows)
    assert without.prob.tobytes() == given.prob.tobytes() and (without.closes is None) is (horizon == 1)
    raw = decide(store, rows, network, given, None)
    assert raw.prob.tolist() == (given.prob * (1 - tie_shares(store, rows))).tolist() == raw.raw.tolist()
    steps = changed(config, inference__probability="enumerated")
    if horizon > 1:
        with pytest.raises(KitError, match="expected one step ahead to enumerate"):
            load_network(steps, horizon).answer(store, rows)


def test_an_interrupted_backtest_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours of forecasts must not be lost to a closed laptop; nor may another model's, or older code's, be
    taken for them.
    """
    config, store = world
    network = replace(load_network(config, 3), cache=config.run_dir / "cache")
    rows, _ = ask_on(store, np.array([150, 160]), 3)
    first = network.answer(store, rows)
    monkeypatch.setattr(type(network.forecaster), "_batch", lambda *_: pytest.fail("computed again"))
    again = network.answer(store, rows)
    for name, value in vars(first).items():
        assert np.asarray(value).tobytes() == np.asarray(getattr(again, name)).tobytes(), name
    other = changed(config, inference__temperature=0.5)
    for stranger in (replace(network, digest="other"), replace(network, config=other)):
        with pytest.raises(pytest.fail.Exception):
            stranger.answer(store, rows)
    monkeypatch.setattr("kronos.answers.network.CODE", 0)
    with pytest.raises(pytest.fail.Exception):
        network.answer(store, rows)


def test_a_backtest_ends_in_time(world: World) -> None:
    """It follows hours of training: one that outlasts a session of Kaggle's takes the models and the
    submission with it.
    """
    config, _ = world
    with pytest.raises(KitError, match=r"within evaluation\.time_limit, found 0 of .* rows done"):
        run_backtest(changed(config, evaluation__time_limit=1e-9))
    assert not (config.run_dir / "backtest" / "report.json").exists()
    assert run_backtest(changed(config, evaluation__time_limit=1.0)).path.is_file()


def test_negative_controls_find_nothing(world: World) -> None:
    """What shows skill without any information has seen an answer; and forecasts must not move with the
    future.
    """
    config, _ = world
    for control in ("shuffle-labels", "future-noise"):
        done = run_backtest(config, Options(control=control, save=True))
        assert done.tree["control"] == control and not done.failed_control and done.results.skill <= 0
        assert done.tree["changed_forecasts"] == 0
        assert done.path.name == f"report-{control}.json", "a control does not replace the report"
        assert done.saved is None and not path_of(config.run_dir, 3).exists(), "nor leaves decisions behind"


def test_future_noise_compares_what_is_rounded_alike(world: World) -> None:
    """Forecasts kept from batches of another size differ in their last bits, which was called a leak."""
    config, _ = world
    run_backtest(changed(config, inference__batch_size=9))
    done = run_backtest(changed(config, inference__batch_size=2), Options(control="future-noise"))
    assert done.tree["changed_forecasts"] == 0 and not done.failed_control


def test_future_noise_catches_a_forecaster_that_looks_ahead(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control can fail: a plan that reads one day too many is found out."""
    config, _ = world
    honest = NetworkAnswerer.plan

    def looks_ahead(self: NetworkAnswerer, store: BarStore, rows: Rows) -> object:
        plan = honest(self, store, rows)
        return replace(plan, end=plan.end + 1)

    monkeypatch.setattr(NetworkAnswerer, "plan", looks_ahead)
    done = run_backtest(config, Options(control="future-noise"))
    assert done.failed_control and done.tree["alarm"]["lines"][0].startswith("LEAK")


def test_ensembles_stand_beside_their_members(world: World, tmp_path: Path) -> None:
    """Runs of different lookbacks, trained until different days: all are scored on dates that none of them
    has seen.
    """
    config, store = world
    second = changed(config, model_paths__base_save_path=str(tmp_path / "second"), data__lookback_window=20)
    second = changed(
        second, model_paths__finetuned_tokenizer=str(tmp_path / "second" / "tokenizer" / "best_model")
    )
    finished_run(second, store, seed=5, train_end=119)
    done = run_backtest(config, Options(models=(str(config.run_dir), str(tmp_path / "second"))))
    kinds = [(e.name, e.kind) for e in done.results.entries[:3]]
    assert kinds == [(ENSEMBLE, "blend"), ("run", "paths"), ("second", "paths")]
    assert done.tree["main"] == ENSEMBLE and [m["lookback"] for m in done.tree["models"][:2]] == [12, 20]
    a, b, c = (e.score for e in done.results.entries[:3])
    for part in done.results.panel.slices():
        ranks = [norm.ppf(rankdata(score[part]) / (part.stop - part.start + 1)) for score in (b, c)]
        assert a[part] == pytest.approx(np.mean(ranks, axis=0)), "the mean of the members' ranks"
    assert done.results.entries[0].closes.shape[1] == 42, "the paths of both"
    assert done.tree["timeline"][0]["last"] == str(store.sessions[119].astype("datetime64[D]"))
    with pytest.raises(KitError, match="expected a run folder"):
        run_backtest(config, Options(models=(str(tmp_path / "nowhere"),)))


def test_a_pretrained_pair_is_scored_as_published(world: World, tmp_path: Path) -> None:
    """Zero-shot scores are asked for most; dates that the published weights have seen must be named."""
    config, _ = world
    folders = {
        "model_paths__pretrained_tokenizer": str(config.tokenizer_dir / "best_model"),
        "model_paths__pretrained_predictor": str(config.basemodel_dir / "best_model"),
    }
    zero = changed(
        config,
        experiment__train_basemodel=False,
        model_paths__base_save_path=str(tmp_path / "zero"),
        **folders,
    )
    done = run_backtest(changed(zero, evaluation__every=40, evaluation__fitted_baselines=False))
    assert not done.tree["models"][0]["trained"] and done.tree["timeline"][0]["name"] != "train"
    assert done.tree["dates"]["before_pretraining_end"] == done.tree["dates"]["test"]
    assert any("not out of sample" in line for line in done.tree["verdict"]["lines"])
    started = changed(
        config,
        experiment__pre_trained=True,
        evaluation__every=40,
        evaluation__fitted_baselines=False,
        **folders,
    )
    beside = run_backtest(started).results
    one, other = (
        next(e for e in beside.entries if e.name == name) for name in (beside.main.name, "pretrained")
    )
    middles = (np.median(e.closes, axis=1) for e in (one, other))  # decisions widen bands about the median
    assert next(middles) == pytest.approx(next(middles), rel=1e-5), "the same weights under both names"


def test_short_histories_get_the_base_rate(world: World, tmp_path: Path) -> None:
    """As in the submission: a ticker with too few bars is answered by the share of rises known then, and
    counted.
    """
    config, store = world
    short = store.session[: store.offsets[1]] >= 195  # ticker 0 begins on day 195
    kept = np.concatenate([np.flatnonzero(short), np.arange(store.offsets[1], len(store))])
    moved = store.offsets - np.append(0, np.full(len(store.tickers), store.offsets[1] - short.sum()))
    young = write_store(
        tmp_path / "young", bars=store.bars[kept], session=store.session[kept], sessions=store.sessions, offsets=moved,
        tickers=store.tickers,
    )  # fmt: skip
    network = load_network(config, 3)
    rows, _ = ask_on(young, np.array([200, 230]), 3)
    given = network.answer(young, rows)
    assert (
        np.isnan(given.closes[0]).all() and np.isfinite(given.closes[1:]).all() and np.isnan(given.score[0])
    )
    made = decide(young, rows, network, given, None)
    past = [
        young.bars[a:b][young.session[a:b] <= 200, CLOSE]
        for a, b in zip(young.offsets[:-1], young.offsets[1:], strict=True)
    ]
    days = [
        young.session[a:b][young.session[a:b] <= 200][3:]
        for a, b in zip(young.offsets[:-1], young.offsets[1:], strict=True)
    ]
    rises, day = np.concatenate([p[3:] > p[:-3] for p in past]), np.concatenate(days)
    by_day = [rises[day == d].mean() for d in np.unique(day)]
    tie = tie_shares(young, rows)[0]
    assert made.fallback == 1 and made.prob[0] == pytest.approx(np.mean(by_day) * (1 - tie))
    assert base_rates(young, np.array([200]), 3)[0] == pytest.approx(np.mean(by_day)), (
        "every day counts alike"
    )


def test_a_share_that_hardly_trades_is_a_fall(world: World, tmp_path: Path) -> None:
    """Networks make a coin flip of it, though its likeliest end, a tie, is no rise; nor may its ties pull at
    the slope.
    """
    config, store = world
    bars = store.bars.copy()
    traded = np.arange(store.offsets[1]) % 12 == 0
    bars[: store.offsets[1]] = np.where(traded, 20.0 + np.arange(len(traded)) % 7, np.nan)[:, None]
    bars[: store.offsets[1]] = bars[np.flatnonzero(traded)[np.cumsum(traded) - 1]]
    dull = with_bars(store, tmp_path / "dull", bars)
    network, sessions = load_network(config, 3), np.arange(160, 230, 3)
    rows, _ = ask_on(dull, sessions, 3)
    given, ties, own = network.answer(dull, rows), tie_shares(dull, rows), rows.ticker == 0
    made = decide(dull, rows, network, given, None)
    assert ties[own].min() > 0.5 and ties[~own].max() < 0.2 and made.fallback == 0
    assert (made.pred[own] == 0).all() and made.pred[~own].any() and (given.prob[own] > 0.5).any()
    panel = build_panel(dull, sessions, 3)
    moved = panel.future_close != panel.last_close
    z, date, rise = z_of(given, rows.asof), panel.origin.astype(np.int64), panel.label == 1
    fits = []
    for kept in (np.ones(len(panel), bool), moved):
        samples = Samples(z[kept], date[kept], sessions, rise[kept], moved[kept])
        fits.append(fit_decision(samples, 0.5, 3, 1.0))
    assert fits[0].slope == fits[1].slope and fits[0].fitted.ties > fits[1].fitted.ties == 0


@pytest.mark.slow
def test_refit_trains_before_each_fold(tmp_path: Path) -> None:
    """A walk-forward of one network trained once says nothing about training again; a fold must not have seen
    its dates.
    """
    config, store = small_world(
        tmp_path, evaluation__origins=12, training__max_steps=3, evaluation__random_init=False
    )
    config = changed(config, data__train_ratio=0.4, data__val_ratio=0.1)
    done = run_backtest(config, Options(refit=True))
    first = {}
    for number, part in enumerate(folds(12, 2)):
        summary = json.loads(
            (config.run_dir / "folds" / str(number) / "basemodel" / "summary.json").read_text()
        )
        data = summary["config"]["data"]
        ended = split_sessions(
            len(store.sessions), data["train_ratio"], data["val_ratio"], 0.0, config.embargo
        ).validation.last
        first[number] = int(done.results.panel.sessions[part.start])
        assert summary["status"] == "complete" and ended + config.embargo <= first[number]
        assert ended > first[number] - 8, "all that had ended is used"
    assert first[1] > first[0] and done.results.main.name == "model, trained anew"
    assert np.isfinite(done.results.main.closes).all() and done.results.main.fallback == 0
    assert {e["origin"] for e in done.tree["examples"]} == {done.tree["per_date"]["origins"][-1]}, (
        "drawn by the network that answered"
    )
    stamps = [p.stat().st_mtime_ns for p in sorted((config.run_dir / "folds").rglob("model.safetensors"))]
    run_backtest(config, Options(refit=True))
    assert stamps == [
        p.stat().st_mtime_ns for p in sorted((config.run_dir / "folds").rglob("model.safetensors"))
    ]


def test_script_prints_and_exits(world: World, root: Path, tmp_path: Path) -> None:
    """The command of the README, from another directory, with a space in a path."""
    config, _ = world
    command = [
        sys.executable,
        str(root / "scripts" / "run_backtest.py"),
        "--config",
        str(config.resolved_path),
    ]
    more = [
        "--every",
        "9",
        "--horizon",
        "2",
        "--output",
        str(tmp_path / "a report"),
        "--set",
        "evaluation.random_init=false",
    ]
    done = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout and "all rise" in done.stdout
    tree = json.loads((tmp_path / "a report" / "report.json").read_text())
    assert (tmp_path / "a report" / "report.html").is_file()
    assert tree["dates"]["stride"] == 9 and tree["dates"]["horizon"] == 2
    wrong = subprocess.run([*command, "--horizon", "999"], cwd=tmp_path, capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "lower --horizon" in wrong.stderr
