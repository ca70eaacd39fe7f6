"""Answers without a network: known values, no look ahead, nothing fitted on what it is asked about."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from panels import random_series, store_in_memory, store_of
from scipy.stats import norm

from kronos.answers.answerer import Fitter
from kronos.answers.features import past_return
from kronos.answers.fitted import Fitting, fitters
from kronos.answers.history import base_rates
from kronos.answers.simple import ALL_RISE, DRIFT, MAJORITY, RULES, drift_probability, simple_answerers
from kronos.config import Config, EvaluationConfig
from kronos.data.store import BarStore
from kronos.evaluation.contest import Setup, ask_on, contest, folds, judge, set_up
from kronos.evaluation.controls import noisy_futures, shuffled_labels
from kronos.evaluation.origins import Boundary, Timeline
from kronos.evaluation.panel import build_panel

CONFIG = EvaluationConfig(folds=3)


def walks(seed: int = 0, tickers: int = 12, days: int = 500, drift: float = 0.0) -> BarStore:
    """A store of random walks without gaps."""
    rng = np.random.default_rng(seed)
    dates = np.datetime64("2019-01-01") + np.arange(days)
    series = {}
    for k in range(tickers):
        close = 50 * np.exp(np.cumsum(rng.normal(drift, 0.02, days)))
        volume = rng.lognormal(10, 0.5, days)
        bars = np.stack([close * 0.999, close * 1.01, close * 0.98, close, volume, volume * close], axis=1)
        series[f"t{k:02d}"] = (dates, bars.astype(np.float32))
    return store_in_memory(series)


def test_rules_with_known_answers(tmp_path: Path) -> None:
    """A sign the wrong way round would praise reversal for momentum's work."""
    up = list(np.linspace(10, 20, 300))
    turned = [*up[:-1], 19.0]
    store = store_of(tmp_path / "s", {"a": up, "b": turned, "c": [5.0, 5.0]})
    rows = store.offsets[1:] - 1
    found = {rule.name: (np.nan_to_num(rule.scores(store, rows)) > 0).astype(int).tolist() for rule in RULES}
    assert found == {
        "last return's sign": [1, 0, 0], "last return reversed": [0, 1, 0], "30-day momentum": [1, 1, 0],
        "30-day reversal": [0, 0, 0], "12-1 momentum": [1, 1, 0],
    }  # fmt: skip
    assert len(found) == len(RULES)
    assert past_return(store, rows[:1], 21, 252) == pytest.approx([up[-22] / up[-253] - 1])
    assert np.isnan(past_return(store, rows, 0, 30)[2]), "history too short"


def test_drift_over_volatility_is_the_formula() -> None:
    """Phi((mu - sigma^2 / 2) sqrt(h) / sigma)."""
    store = walks(tickers=2, drift=0.001)
    row = np.array([399])
    change = np.diff(store.bars[147:400, 3].astype(float)) / store.bars[147:399, 3]
    mu, sigma = change.mean(), change.std(ddof=1)
    assert drift_probability(store, row, 10) == pytest.approx(
        [norm.cdf((mu - sigma**2 / 2) * np.sqrt(10) / sigma)], rel=1e-5
    )
    assert np.isnan(drift_probability(store, np.array([20]), 10)).all()


def setup_of(store: BarStore, sessions: np.ndarray, horizon: int, own: EvaluationConfig = CONFIG) -> Setup:
    """A backtest that scores all of these dates."""
    panel = build_panel(store, sessions, horizon, own.tickers)
    timeline = Timeline(horizon, Boundary(), np.empty(0, np.int64), np.asarray(sessions), 1, {})
    return set_up(Config(evaluation=own), store, timeline, panel, Path("nowhere"), np.inf)


def test_simple_answers_share_the_panel() -> None:
    """Baselines on other rows than the model's compare nothing."""
    store = walks(drift=0.004)
    setup = setup_of(store, np.array([300, 320, 340]), 5)
    entries = {a.name: judge(setup, contest(setup, a)).decided for a in simple_answerers()}
    assert all(len(e.pred) == len(e.score) == len(setup.panel) for e in entries.values())
    assert entries[ALL_RISE].pred.all() and entries[DRIFT].prob is not None
    days = [np.mean([c[d] > c[d - 5] for c in store.bars[:, 3].reshape(12, -1)]) for d in range(5, 301)]
    assert entries[MAJORITY].prob is not None and entries[MAJORITY].prob[0] == pytest.approx(np.mean(days))
    assert base_rates(store, np.array([-1, 4]), 5).tolist() == [0.5, 0.5], "nothing is known yet"


# -- purge and embargo ---------------------------------------------------------------------------------------
@given(dates=st.integers(1, 80), count=st.integers(1, 10))
def test_folds_cover_the_dates(dates: int, count: int) -> None:
    """A date in no fold would silently be answered 0.5."""
    parts = [np.arange(dates)[fold] for fold in folds(dates, count)]
    assert np.concatenate(parts).tolist() == list(range(dates)) and all(len(p) for p in parts)


def answers_of(
    store: BarStore, fitter: Fitter, sessions: np.ndarray, own: EvaluationConfig = CONFIG
) -> np.ndarray:
    """Scores of every row asked on the sessions."""
    return contest(setup_of(store, sessions, 5, own), fitter).given.score


def test_fitted_baselines_never_see_the_future() -> None:
    """Labels, features and ranks before a date, bit for bit, whatever its future; and no sample's label
    reaches into a fold.
    """
    store, sessions = walks(), np.arange(300, 480, 20)
    bars = np.array(store.bars)
    bars[store.session >= 400] *= 7
    changed = BarStore(**{**vars(store), "bars": bars})
    early = ask_on(store, sessions, 5)[0].asof < 400
    for fitter in fitters(Fitting()):
        before, after = answers_of(store, fitter, sessions), answers_of(changed, fitter, sessions)
        assert before[early].tobytes() == after[early].tobytes(), fitter.name
        assert not np.array_equal(before[~early], after[~early]), "the comparison can fail"


@pytest.mark.parametrize("drawn", [None, 9])
def test_a_share_that_ends_stays_among_the_ranks(drawn: int | None) -> None:
    """Ranked among the shares that will still trade on the target date, a baseline would know which of them
    will.
    """
    store, sessions = walks(), np.array([300, 350])
    panel = build_panel(store, sessions, 5, drawn)
    gone = (store.session > 350) & (
        np.searchsorted(store.offsets, np.arange(len(store)), side="right") - 1 == panel.ticker[-1]
    )
    offsets = np.concatenate(
        [[0], np.cumsum([(~gone)[a:b].sum() for a, b in itertools.pairwise(store.offsets)])]
    )
    kept = {"bars": store.bars[~gone], "session": store.session[~gone], "offsets": offsets}
    ended = BarStore(**{**vars(store), **kept, "segments": np.stack([offsets[:-1], offsets[1:]], axis=1)})
    shorter = build_panel(ended, sessions, 5, drawn)
    assert len(shorter) == len(panel) - 1
    own = EvaluationConfig(tickers=drawn)
    fitter = fitters(Fitting())[0]
    one, two = (contest(setup_of(s, sessions, 5, own), fitter) for s in (ended, store))
    places = [setup_of(s, sessions, 5, own).place for s in (ended, store)]
    np.testing.assert_array_equal(one.given.score[places[0]], two.given.score[places[1]][:-1])


def test_boosting_and_regression_find_a_planted_pattern() -> None:
    """A baseline that cannot learn is no baseline."""
    rng = np.random.default_rng(0)
    dates = np.datetime64("2019-01-01") + np.arange(400)
    series = {}
    for k in range(40):
        volume = rng.lognormal(10, 0.5, 400)
        shock = np.where(volume > np.exp(10), 0.01, -0.01) + rng.normal(0, 0.01, 400)
        close = 50 * np.exp(np.cumsum(np.append(0, shock[:-1])))  # today's volume tells tomorrow's return
        bars = np.stack([close, close * 1.01, close * 0.99, close, volume, volume * close], axis=1)
        series[f"t{k:02d}"] = (dates, bars.astype(np.float32))
    store = store_in_memory(series)
    setup = setup_of(store, np.arange(330, 399, 2), 1, EvaluationConfig(folds=1))
    for fitter in fitters(Fitting()):
        found = judge(setup, contest(setup, fitter)).decided
        assert (found.pred == setup.panel.label).mean() > 0.75, fitter.name


# -- negative controls ---------------------------------------------------------------------------------------
def test_shuffled_labels_keep_neither_day_nor_share() -> None:
    """Returns dealt out within their own date would leave a model that times the market its skill."""
    store = store_in_memory(random_series(np.random.default_rng(3), 20, 300))
    panel = build_panel(store, np.arange(100, 200, 10), 5)
    mixed = shuffled_labels(panel, seed=1)
    assert mixed.last_close.tolist() == panel.last_close.tolist()
    known = {round(float(r), 9) for r in panel.ret}
    assert {round(float(r), 9) for r in mixed.ret} <= known
    same = [
        np.isin(mixed.ret[p].round(9), panel.ret[p].round(9)).all()
        for p in panel.slices()
        if p.stop - p.start > 3
    ]
    assert sum(same) <= 2, "a date hardly keeps its own returns"


def test_noise_begins_after_the_origin() -> None:
    """Noise that reached the past would change forecasts for the wrong reason; noise that stopped early would
    hide a leak.
    """
    store = store_in_memory(random_series(np.random.default_rng(4), 15, 200))
    sessions = np.array([60, 100, 140])
    panel = build_panel(store, sessions, 5)
    seen = []
    for place, noisy in noisy_futures(store, sessions, seed=1):
        seen.append(place)
        past = store.session <= sessions[place]
        assert np.array_equal(noisy.bars[past], store.bars[past])
        assert (noisy.bars[~past, :4] != store.bars[~past, :4]).all() and np.isfinite(noisy.bars).all()
        own = build_panel(noisy, sessions[place : place + 1], 5)
        assert own.last_close.tolist() == panel.last_close[panel.slices()[place]].tolist()
        assert np.abs(np.log1p(own.ret)).max() < 0.3
    assert seen == [2, 1, 0]
