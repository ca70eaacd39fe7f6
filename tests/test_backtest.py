"""The backtest as a whole, on a small market: what it may know, what it keeps, what it says."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from backtests import DAYS, changed, finished_run, small_world

from kronos.bars import CLOSE
from kronos.config import Config
from kronos.data.splits import split_sessions
from kronos.data.store import BarStore, write_store
from kronos.errors import KitError
from kronos.evaluation.backtest import BLEND, Options, blend_entry, network_entry, run_backtest
from kronos.evaluation.baselines import CONSTANTS, FITTED, RULES, folds
from kronos.evaluation.calibration import fit_calibration
from kronos.evaluation.forecasts import closes_on, forecast_dates, load_network, plan_date, probabilities_on, ties_on
from kronos.evaluation.panel import build_panel
from kronos.evaluation.scores import FIGURES
from kronos.forecasting.calibration import FILE, smoothed
from kronos.forecasting.rows import plan_rows
from kronos.forecasting.team import Team
from kronos.submission import forecast_rows

World = tuple[Config, BarStore]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return small_world(tmp_path)


def with_bars(store: BarStore, folder: Path, bars: np.ndarray) -> BarStore:
    arrays = {name: getattr(store, name) for name in ("session", "sessions", "offsets", "segments", "tickers")}
    return write_store(folder, bars=bars, **arrays)


def test_report_says_what_was_done(world: World) -> None:
    """A page without its baselines, dates or cautions is what users cannot judge."""
    config, _ = world
    done = run_backtest(config)
    assert done.path == config.run_dir / "backtest" / "report.json"
    tree = json.loads(done.path.read_text())
    names = [e["name"] for e in tree["entries"]]
    assert names[:2] == [config.model_paths.exp_name, "random-init"]
    assert {*CONSTANTS, *RULES, *FITTED, "drift over volatility"} <= set(names)
    assert tree["verdict"]["skill"] == 0 and tree["verdict"]["headline"].startswith("No evidence of skill")
    assert (tree["dates"]["test"], tree["dates"]["effective"], tree["dates"]["horizon"]) == (24, 24, 3)
    assert tree["dates"]["parts"]["unseen"] >= 20
    assert set(tree["entries"][0]["figures"]) == set(FIGURES)
    assert set(tree["comparisons"]["accuracy"][0]) == {"baseline", "difference", "p_holm", "better", "words"}
    assert len(tree["per_date"]["origins"]) == len(tree["per_date"]["entries"][names[0]]["accuracy"]) == 24
    assert [b["name"] for b in tree["timeline"]] == ["train", "embargo", "validation", "calibrate", "gap", "test"]
    example = tree["examples"][0]
    assert len(example["forecast"]["quantiles"]["50"]) == len(example["future"]["close"]) == 3
    assert example["history"]["dates"][-1] == example["origin"] < example["future"]["dates"][0]
    assert config.model_paths.exp_name in done.text() and "gradient boosting" in done.text()


def test_dates_of_training_are_never_scored(world: World) -> None:
    """The summary's boundary decides, not the configuration that happens to be passed."""
    config, store = world
    tree = run_backtest(changed(config, evaluation__every=4, data__train_ratio=0.05)).tree
    assert tree["per_date"]["origins"][0] > str(store.sessions[101].astype("datetime64[D]"))
    assert tree["excluded"]["days"]["in training, or before its end"] == 100
    with pytest.raises(KitError, match="days of training"):
        run_backtest(changed(config, evaluation__horizon=DAYS - 102))


def test_later_bars_change_no_answer(world: World, tmp_path: Path) -> None:
    """Everything an origin is answered with, networks and baselines alike, is bit-identical whatever came later."""
    config, store = world
    middle = 200
    bars = np.array(store.bars)
    later = store.session > middle
    bars[later] = bars[later] * 3 + 1
    other = with_bars(store, tmp_path / "other", bars)
    network = load_network(config)
    early = np.arange(150, middle + 1, 10)
    one, two = (forecast_dates([network], s, early, 3, None)[network.name] for s in (store, other))
    for a, b in zip(one, two, strict=True):
        assert a.closes.tobytes() == b.closes.tobytes()
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


def test_forecasts_are_the_submissions(world: World) -> None:
    """A backtest of another forecaster than the one that submits measures nothing."""
    config, store = world
    session, horizon = 180, 3
    own = plan_date(store, session, np.arange(len(store.tickers)), horizon, config)
    target = store.sessions[session] + np.timedelta64(1, "D")  # the next day is asked for: the same bars are known
    theirs = plan_rows(
        store, store.tickers, np.repeat(target, len(store.tickers)), calendar="24/7", lookback=12, max_context=512,
        horizon=horizon, ids=own.ids,
    )  # fmt: skip
    for a, b in zip(own.batches(4), theirs.batches(4), strict=True):
        for x, y in zip(vars(a).values(), vars(b).values(), strict=True):
            assert x.tobytes() == y.tobytes()
    assert store.session[own.end - 1].tolist() == [session] * len(own.end), "the origin's bar is the last one known"


@pytest.mark.parametrize("horizon", [1, 3])
def test_probabilities_are_the_submissions(world: World, horizon: int) -> None:
    """One step ahead the submission lists outcomes: a backtest of sampled shares would score, and calibrate, another answer."""
    config, store = world
    network, session = load_network(config), 180
    (found,) = forecast_dates([network], store, np.array([session]), horizon, None)[network.name]
    plan = plan_date(store, session, found.ticker, horizon, config)
    own = forecast_rows(plan, network.forecaster, Team())
    prob, mass, reason = own.prob, own.mass, own.reason
    assert (reason == "").all() and np.isfinite(found.closes).all()
    assert np.isfinite(mass).all() if horizon == 1 else np.isnan(mass).all()
    assert found.prob == pytest.approx(prob if horizon == 1 else smoothed(prob, 21), rel=1e-6)
    panel = build_panel(store, np.array([session]), horizon)
    assert found.ties.tolist() == own.ties.tolist()
    expected = (found.prob * (1 - found.ties))[panel.ticker]
    assert network_entry(store, panel, network, [found], None).prob.tolist() == expected.tolist()
    steps = changed(config, inference__probability="enumerated")
    if horizon > 1:
        with pytest.raises(KitError, match="expected one step ahead to enumerate"):
            forecast_dates([load_network(steps)], store, np.array([session]), horizon, None)


def test_an_interrupted_backtest_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours of forecasts must not be lost to a closed laptop; nor may another model's be taken for this one's."""
    config, store = world
    network = load_network(config)
    sessions, cache = np.array([150, 160]), config.run_dir / "cache"
    first = forecast_dates([network], store, sessions, 3, cache)[network.name]
    monkeypatch.setattr(network.forecaster, "_batch", lambda *_: pytest.fail("computed again"))
    again = forecast_dates([network], store, sessions, 3, cache)[network.name]
    for a, b in zip(first, again, strict=True):
        assert a.closes.tobytes() == b.closes.tobytes() and a.reason.tolist() == b.reason.tolist()
    for other in (replace(network, digest="other"), replace(network, config=changed(config, inference__temperature=0.5))):
        with pytest.raises(pytest.fail.Exception):
            forecast_dates([other], store, sessions, 3, cache)


def test_a_backtest_ends_in_time(world: World) -> None:
    """It follows hours of training: one that outlasts a session of Kaggle's takes the models and the submission with it."""
    config, _ = world
    with pytest.raises(KitError, match=r"within evaluation\.time_limit, found 0 of .* rows done"):
        run_backtest(changed(config, evaluation__time_limit=1e-9))
    assert not (config.run_dir / "backtest" / "report.json").exists()
    assert run_backtest(changed(config, evaluation__time_limit=1.0)).path.is_file()


def test_negative_controls_find_nothing(world: World) -> None:
    """What shows skill without any information has seen an answer; and forecasts must not move with the future."""
    config, _ = world
    for control in ("shuffle-labels", "future-noise"):
        done = run_backtest(config, Options(control=control))
        assert done.tree["control"] == control and not done.failed_control and done.results.skill <= 0
        assert done.tree["changed_forecasts"] == 0
        assert done.path.name == f"report-{control}.json", "a control does not replace the report"
    assert not (config.basemodel_dir / FILE).exists(), "nor leaves a calibration behind"


def test_future_noise_compares_what_is_rounded_alike(world: World) -> None:
    """Forecasts kept from batches of another size differ in their last bits, which was called a leak."""
    config, _ = world
    run_backtest(changed(config, inference__batch_size=9))
    done = run_backtest(changed(config, inference__batch_size=2), Options(control="future-noise"))
    assert done.tree["changed_forecasts"] == 0 and not done.failed_control


def test_future_noise_catches_a_forecaster_that_looks_ahead(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control can fail: a plan that reads one day too many is found out."""
    config, _ = world
    from kronos.evaluation import forecasts

    honest = forecasts.plan_date

    def looks_ahead(store: BarStore, session: int, *rest: object) -> object:
        return replace(honest(store, session, *rest), end=honest(store, session, *rest).end + 1)

    monkeypatch.setattr(forecasts, "plan_date", looks_ahead)
    done = run_backtest(config, Options(control="future-noise"))
    assert done.failed_control and done.tree["alarm"]["lines"][0].startswith("LEAK")


def test_ensembles_stand_beside_their_members(world: World, tmp_path: Path) -> None:
    """Runs of different lookbacks, trained until different days: all are scored on dates that none of them has seen."""
    config, store = world
    second = changed(config, model_paths__base_save_path=str(tmp_path / "second"), data__lookback_window=20)
    second = changed(second, model_paths__finetuned_tokenizer=str(tmp_path / "second" / "tokenizer" / "best_model"))
    finished_run(second, store, seed=5, train_end=119)
    done = run_backtest(config, Options(models=(str(config.run_dir), str(tmp_path / "second"))))
    kinds = [(e.name, e.kind) for e in done.results.entries[:3]]
    assert kinds == [(BLEND, "blend"), ("run", "model"), ("second", "model")]
    assert done.tree["main"] == BLEND and [m["lookback"] for m in done.tree["models"][:2]] == [12, 20]
    a, b, c = (e.prob for e in done.results.entries[:3])
    odds = [np.log(p / (1 - p)) for p in (a, b, c)]
    assert odds[0] == pytest.approx((odds[1] + odds[2]) / 2)
    likelier = blend_entry(done.results.entries[1:3], threshold=float(np.median(a)))
    assert ((likelier.pred == 1) == (a > np.median(a))).all(), "the configured threshold decides for the blend as for its members"
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
    zero = changed(config, experiment__train_basemodel=False, model_paths__base_save_path=str(tmp_path / "zero"), **folders)
    done = run_backtest(changed(zero, evaluation__every=40, evaluation__fitted_baselines=False))
    assert not done.tree["models"][0]["trained"] and done.tree["timeline"][0]["name"] != "train"
    assert done.tree["dates"]["before_pretraining_end"] == done.tree["dates"]["test"]
    assert any("not out of sample" in line for line in done.tree["verdict"]["lines"])
    started = changed(config, experiment__pre_trained=True, evaluation__every=40, evaluation__fitted_baselines=False, **folders)
    beside = run_backtest(started).results
    one, other = (next(e for e in beside.entries if e.name == name) for name in (beside.main.name, "pretrained"))
    middles = (np.median(e.closes, axis=1) for e in (one, other))  # calibration widens bands about the median
    assert next(middles) == pytest.approx(next(middles), rel=1e-5), "the same weights under both names"


def test_short_histories_get_the_base_rate(world: World, tmp_path: Path) -> None:
    """As in the submission: a ticker with too few bars is answered by the share of rises known then, and counted."""
    config, store = world
    short = store.session[: store.offsets[1]] >= 195  # ticker 0 begins on day 195
    kept = np.concatenate([np.flatnonzero(short), np.arange(store.offsets[1], len(store))])
    moved = store.offsets - np.append(0, np.full(len(store.tickers), store.offsets[1] - short.sum()))
    young = write_store(
        tmp_path / "young", bars=store.bars[kept], session=store.session[kept], sessions=store.sessions, offsets=moved,
        tickers=store.tickers,
    )  # fmt: skip
    network = load_network(config)
    panel = build_panel(young, np.array([200, 230]), 3)
    closes = closes_on(panel, forecast_dates([network], young, panel.sessions, 3, None)[network.name])
    assert np.isnan(closes[0]).all() and np.isfinite(closes[1:]).all()
    dates = forecast_dates([network], young, panel.sessions, 3, None)[network.name]
    entry = network_entry(young, panel, network, dates, None)
    past = [young.bars[a:b][young.session[a:b] <= 200, CLOSE] for a, b in zip(young.offsets[:-1], young.offsets[1:], strict=True)]
    rises = np.concatenate([p[3:] > p[:-3] for p in past])
    assert entry.fallback == 1 and entry.prob[0] == pytest.approx(rises.mean())


def test_a_share_that_hardly_trades_is_a_fall(world: World, tmp_path: Path) -> None:
    """Networks make a coin flip of it, though its likeliest end, a tie, is no rise; nor may its ties pull at the calibration."""
    config, store = world
    bars = store.bars.copy()
    traded = np.arange(store.offsets[1]) % 12 == 0
    bars[: store.offsets[1]] = np.where(traded, 20.0 + np.arange(len(traded)) % 7, np.nan)[:, None]
    bars[: store.offsets[1]] = bars[np.flatnonzero(traded)[np.cumsum(traded) - 1]]
    dull = with_bars(store, tmp_path / "dull", bars)
    network, panel = load_network(config), build_panel(dull, np.arange(160, 230, 3), 3)
    dates = forecast_dates([network], dull, panel.sessions, 3, None)[network.name]
    entry, own = network_entry(dull, panel, network, dates, None), panel.ticker == 0
    prob, ties, closes = (of(panel, dates) for of in (probabilities_on, ties_on, closes_on))
    assert ties[own].min() > 0.5 and ties[~own].max() < 0.2 and entry.fallback == 0
    assert (entry.pred[own] == 0).all() and entry.pred[~own].any() and (prob[own] > 0.5).any()
    fit = [fit_calibration(p, prob[k], ties[k], closes[k], config.evaluation, {}) for p, k in
           ((panel, slice(None)), (panel.only_rows(~own | (panel.ret != 0)), ~own | (panel.ret != 0)))]  # fmt: skip
    assert fit[0].slope == fit[1].slope and fit[0].fitted["ties"] > fit[1].fitted["ties"] == 0


@pytest.mark.slow
def test_refit_trains_before_each_fold(tmp_path: Path) -> None:
    """A walk-forward of one network trained once says nothing about training again; a fold must not have seen its dates."""
    config, store = small_world(tmp_path, evaluation__origins=12, training__max_steps=3, evaluation__random_init=False)
    config = changed(config, data__train_ratio=0.4, data__val_ratio=0.1)
    done = run_backtest(config, Options(refit=True))
    first = {}
    for number, part in enumerate(folds(12, 2)):
        summary = json.loads((config.run_dir / "folds" / str(number) / "basemodel" / "summary.json").read_text())
        data = summary["config"]["data"]
        ended = split_sessions(len(store.sessions), data["train_ratio"], data["val_ratio"], 0.0, config.embargo).validation.last
        first[number] = int(done.results.panel.sessions[part.start])
        assert summary["status"] == "complete" and ended + config.embargo <= first[number]
        assert ended > first[number] - 8, "all that had ended is used"
    assert first[1] > first[0] and done.results.main.name == "model, trained anew"
    assert np.isfinite(done.results.main.closes).all() and done.tree["calibration"]["model, trained anew"] is None
    assert {e["origin"] for e in done.tree["examples"]} == {done.tree["per_date"]["origins"][-1]}, (
        "drawn by the network that answered"
    )
    stamps = [p.stat().st_mtime_ns for p in sorted((config.run_dir / "folds").rglob("model.safetensors"))]
    run_backtest(config, Options(refit=True))
    assert stamps == [p.stat().st_mtime_ns for p in sorted((config.run_dir / "folds").rglob("model.safetensors"))]


def test_script_prints_and_exits(world: World, root: Path, tmp_path: Path) -> None:
    """The command of the README, from another directory, with a space in a path."""
    config, _ = world
    command = [sys.executable, str(root / "scripts" / "run_backtest.py"), "--config", str(config.resolved_path)]
    more = ["--every", "9", "--horizon", "2", "--output", str(tmp_path / "a report"), "--set", "evaluation.random_init=false"]
    done = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout and "all rise" in done.stdout
    tree = json.loads((tmp_path / "a report" / "report.json").read_text())
    assert (tmp_path / "a report" / "report.html").is_file()
    assert tree["dates"]["stride"] == 9 and tree["dates"]["horizon"] == 2
    wrong = subprocess.run([*command, "--horizon", "999"], cwd=tmp_path, capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "lower --horizon" in wrong.stderr
