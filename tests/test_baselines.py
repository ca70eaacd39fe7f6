"""Answers without a network: known values, no look ahead, nothing fitted on what it is asked about."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from panels import random_series, store_in_memory, store_of
from scipy.stats import norm

from kronos.answers.features import NAMES, past_return, ranked, raw_features
from kronos.config import EvaluationConfig
from kronos.data.store import BarStore
from kronos.evaluation.baselines import (
    ALL_RISE,
    DRIFT,
    FITTED,
    MAJORITY,
    RULES,
    answers,
    drift_probability,
    fit_sessions,
    fitted_entries,
    folds,
    known_features,
    rule_scores,
    simple_entries,
    training_samples,
)
from kronos.evaluation.controls import noisy_futures, shuffled_labels
from kronos.evaluation.panel import build_panel

CONFIG = EvaluationConfig(baseline_rows=400, folds=3)


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
    found = {name: answers(score).tolist() for name, score in rule_scores(store, rows).items()}
    assert found == {
        "last return's sign": [1, 0, 0], "last return reversed": [0, 1, 0], "30-day momentum": [1, 1, 0],
        "30-day reversal": [0, 0, 0], "12-1 momentum": [1, 1, 0],
    }  # fmt: skip
    assert set(found) == set(RULES)
    assert past_return(store, rows[:1], 21, 252) == pytest.approx([up[-22] / up[-253] - 1])
    assert np.isnan(past_return(store, rows, 0, 30)[2]), "history too short"


def test_drift_over_volatility_is_the_formula() -> None:
    """Phi((mu - sigma^2 / 2) sqrt(h) / sigma)."""
    store = walks(tickers=2, drift=0.001)
    row = np.array([399])
    change = np.diff(store.bars[147:400, 3].astype(float)) / store.bars[147:399, 3]
    mu, sigma = change.mean(), change.std(ddof=1)
    assert drift_probability(store, row, 10) == pytest.approx([norm.cdf((mu - sigma**2 / 2) * np.sqrt(10) / sigma)], rel=1e-5)
    assert np.isnan(drift_probability(store, np.array([20]), 10)).all()


def test_simple_entries_share_the_panel() -> None:
    """Baselines on other rows than the model's compare nothing."""
    store = walks(drift=0.004)
    panel = build_panel(store, np.array([300, 320, 340]), 5)
    entries = {e.name: e for e in simple_entries(store, panel, CONFIG)}
    assert all(len(e.pred) == len(e.score) == len(panel) for e in entries.values())
    assert entries[ALL_RISE].pred.all() and entries[DRIFT].prob is not None
    first = [store.bars[a:b, 3][:300] for a, b in zip(store.offsets[:-1], store.offsets[1:], strict=True)]
    rate = np.mean([c[5:] > c[:-5] for c in first])
    assert entries[MAJORITY].prob is not None and entries[MAJORITY].prob[0] == pytest.approx(rate)


# -- purge and embargo -------------------------------------------------------------------------------------------------
@settings(max_examples=300, deadline=None)
@given(first=st.integers(0, 3000), horizon=st.integers(1, 40), embargo=st.integers(0, 20))
def test_fitted_samples_end_before_the_block(first: int, horizon: int, embargo: int) -> None:
    """A training label that ends inside the block it is tested on has seen it: t + horizon + embargo < a, in trading days."""
    found = fit_sessions(first, horizon, embargo)
    assert (found >= 0).all() and (found + horizon + embargo < first).all()
    if len(found):
        assert found[-1] + horizon + embargo == first - 1, "and nothing that is known is left out at the end"


@given(dates=st.integers(1, 80), count=st.integers(1, 10))
def test_folds_cover_the_dates(dates: int, count: int) -> None:
    """A date in no fold would silently be answered 0.5."""
    parts = [np.arange(dates)[fold] for fold in folds(dates, count)]
    assert np.concatenate(parts).tolist() == list(range(dates)) and all(len(p) for p in parts)


def test_fitted_baselines_never_see_the_future() -> None:
    """Labels, features and ranks before a date, bit for bit, whatever its future; and no sample's label reaches into a fold."""
    store = walks()
    panel = build_panel(store, np.arange(300, 480, 20), 5)
    before = {e.name: e.score for e in fitted_entries(store, panel, CONFIG)}
    assert set(before) == set(FITTED)
    bars = np.array(store.bars)
    bars[store.session >= 400] *= 7
    changed = BarStore(**{**vars(store), "bars": bars})
    after = {e.name: e.score for e in fitted_entries(changed, panel, CONFIG)}
    early = panel.sessions[panel.origin] < 400
    fold = int(panel.sessions[folds(panel.dates, CONFIG.folds)[2].start])
    for name, score in before.items():
        assert score[early].tobytes() == after[name][early].tobytes(), name
        assert not np.array_equal(score[~early], after[name][~early]), "the comparison can fail"
    x, y = training_samples(store, fold, 5, CONFIG, 2)
    assert x.shape == (400, len(NAMES)) and len(y) == 400


@pytest.mark.parametrize("drawn", [None, 9])
def test_a_share_that_ends_stays_among_the_ranks(drawn: int | None) -> None:
    """Ranked among the shares that will still trade on the target date, a baseline would know which of them will."""
    store, sessions = walks(), np.array([300, 350])
    panel = build_panel(store, sessions, 5, drawn)
    gone = (store.session > 350) & (np.searchsorted(store.offsets, np.arange(len(store)), side="right") - 1 == panel.ticker[-1])
    offsets = np.concatenate([[0], np.cumsum([(~gone)[a:b].sum() for a, b in itertools.pairwise(store.offsets)])])
    kept = {"bars": store.bars[~gone], "session": store.session[~gone], "offsets": offsets}
    ended = BarStore(**{**vars(store), **kept, "segments": np.stack([offsets[:-1], offsets[1:]], axis=1)})
    shorter = build_panel(ended, sessions, 5, drawn)
    assert len(shorter) == len(panel) - 1
    np.testing.assert_array_equal(known_features(ended, shorter, drawn), known_features(store, panel, drawn)[:-1])


def test_features_are_ranks_of_the_past() -> None:
    """Values of the row's future or of other dates must not move a feature; ranks hold whatever the unit of a price."""
    store = walks(tickers=6)
    panel = build_panel(store, np.array([300, 350]), 5)
    raw = raw_features(store, panel.row)
    assert np.isfinite(raw).all() and raw.shape == (12, len(NAMES))
    later = np.array(store.bars)
    later[store.session > 300] = 1.0
    assert raw_features(BarStore(**{**vars(store), "bars": later}), panel.row[:6]).tobytes() == raw[:6].tobytes()
    ranks = ranked(raw, panel.bounds)
    assert np.sort(ranks[:6, 0]) == pytest.approx(np.arange(1, 7) / 7 - 0.5)
    assert ranks[:6].tobytes() == ranked(raw[:6], np.array([0, 6])).tobytes()
    young = raw_features(store, np.array([40]))
    assert np.isnan(young[0, NAMES.index("return over 252 days")]) and np.isfinite(young[0, 0])
    assert ranked(young, np.array([0, 1]))[0, NAMES.index("return over 252 days")] == 0


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
    panel = build_panel(store, np.arange(330, 399, 2), 1)
    for entry in fitted_entries(store, panel, EvaluationConfig(baseline_rows=4000, folds=1)):
        assert (entry.pred == panel.label).mean() > 0.75, entry.name


# -- negative controls -------------------------------------------------------------------------------------------------
def test_shuffled_labels_keep_neither_day_nor_share() -> None:
    """Returns dealt out within their own date would leave a model that times the market its skill."""
    store = store_in_memory(random_series(np.random.default_rng(3), 20, 300))
    panel = build_panel(store, np.arange(100, 200, 10), 5)
    mixed = shuffled_labels(panel, seed=1)
    assert mixed.last_close.tolist() == panel.last_close.tolist()
    known = {round(float(r), 9) for r in panel.ret}
    assert {round(float(r), 9) for r in mixed.ret} <= known
    same = [np.isin(mixed.ret[p].round(9), panel.ret[p].round(9)).all() for p in panel.slices() if p.stop - p.start > 3]
    assert sum(same) <= 2, "a date hardly keeps its own returns"


def test_noise_begins_after_the_origin() -> None:
    """Noise that reached the past would change forecasts for the wrong reason; noise that stopped early would hide a leak."""
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
