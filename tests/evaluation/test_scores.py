"""Figures with known answers, and rows that a panel must hold or leave out."""

from pathlib import Path

import numpy as np
import pytest
from panels import random_series, store_in_memory, store_of
from scipy.stats import norm, rankdata, spearmanr

from kronos.answers.bands import crps
from kronos.answers.decide import Decided
from kronos.evaluation.panel import (
    NO_ORIGIN_BAR,
    NO_TARGET_BAR,
    NOT_DRAWN,
    Panel,
    build_panel,
    drawn,
    rows_on,
    within_date,
)
from kronos.evaluation.scores import (
    FIGURES,
    correlation,
    coverage,
    path_figures,
    pooled,
    score_dates,
    within_accuracy,
)
from kronos.forecasting.rows import series_keys

NAN = float("nan")


@pytest.fixture
def panel(tmp_path: Path) -> Panel:
    """Two origins, two days ahead: days 1 and 3."""
    closes = {
        "a": [1, 1, 2, 2, 3, 1],
        "b": [5, 5, 5, 5, 5, 5],  # a tie is no rise
        "c": [1, 2, 3, 4, 5, 6],
        "gap": [1, NAN, 3, 4, 5, 6],  # no bar on the first origin
        "over": [4, 4, 3, 2],  # ends before the second target
        "late": [NAN, NAN, NAN, NAN, 1, 2],  # begins after both origins: not counted
    }
    return build_panel(store_of(tmp_path / "store", closes), np.array([1, 3]), 2)


def test_panel_holds_the_competitions_label(panel: Panel) -> None:
    """A tie counted as a rise, or rows aligned by position instead of by date, would score other
    questions.
    """
    names = [panel.tickers[k] for k in panel.ticker]
    assert list(zip(panel.origin.tolist(), names, strict=True)) == [
        *((0, name) for name in ("a", "b", "c", "over")),
        *((1, name) for name in ("a", "b", "c", "gap")),
    ]
    assert panel.label.tolist() == [1, 0, 1, 0, 0, 0, 1, 1]
    assert panel.ret == pytest.approx([1, 0, 1, -0.5, -0.5, 0, 0.5, 0.5])
    assert panel.excluded == {NO_ORIGIN_BAR: 1, NO_TARGET_BAR: 1, NOT_DRAWN: 0}
    assert str(panel.targets[1]).startswith("2024-01-06")
    second = panel.only(np.array([False, True]))
    assert second.label.tolist() == [0, 0, 1, 1] and second.origin.tolist() == [0] * 4 and second.dates == 1
    assert within_date(second, second.ret) == pytest.approx(second.ret - 0.25)


@pytest.mark.parametrize("seed", range(20))
def test_panel_agrees_with_a_loop_over_tickers(seed: int) -> None:
    """Histories with gaps, late starts and early ends: the vectorised join keeps every ticker's rows
    together.
    """
    rng = np.random.default_rng(seed)
    store = store_in_memory(random_series(rng, 7, 60))
    horizon = int(rng.integers(1, 6))
    sessions = np.unique(rng.integers(0, len(store.sessions) - horizon, 6))
    expected = []
    for date in sessions:
        for k in range(len(store.tickers)):
            own = slice(store.offsets[k], store.offsets[k + 1])
            known = dict(zip(store.session[own].tolist(), store.bars[own, 3].tolist(), strict=True))
            if date in known and date + horizon in known:
                expected.append((store.sessions[date], k, known[date], known[date + horizon]))
    panel = build_panel(store, sessions, horizon)
    found = zip(
        panel.origins[panel.origin], panel.ticker.tolist(), panel.last_close, panel.future_close, strict=True
    )
    assert list(found) == expected


def test_some_tickers_are_drawn_alike_on_every_date() -> None:
    """A draw that depended on who is alive later would look ahead; one that changed by date would follow no
    share.
    """
    store = store_in_memory(random_series(np.random.default_rng(1), 30, 200))
    sessions = np.arange(20, 150, 10)
    row, key = rows_on(store, sessions)
    kept = drawn(store, key, 3)
    assert (
        np.bincount((key // 30)[kept]).max() == 3
        and drawn(store, key, 99).all()
        and drawn(store, key, None).all()
    )
    order = np.argsort(series_keys(store.tickers))
    for date in range(len(sessions)):
        own = key // 30 == date
        alive = set((key[own] % 30).tolist())
        assert sorted((key[own & kept] % 30).tolist()) == sorted([k for k in order if k in alive][:3])
    whole, few = (build_panel(store, sessions, 5, n) for n in (None, 3))
    assert len(few) + sum(few.excluded.values()) == len(whole) + sum(whole.excluded.values())
    assert set(few.row) <= set(whole.row) and len(row) == len(key)


def test_scores_with_known_answers(panel: Panel) -> None:
    """Dates weigh alike, whatever their number of rows; what a date cannot tell is NaN."""
    prob = np.array([0.9, 0.4, 0.2, 0.4, 0.1, 0.1, 0.8, 0.9])
    found = score_dates(panel, Decided("x", "paths", (prob > 0.5).astype(int), prob, prob))
    assert set(found) == set(FIGURES)
    assert found["accuracy"] == pytest.approx([0.75, 1])
    assert found["balanced_accuracy"] == pytest.approx([0.75, 1])
    assert found["auc"] == pytest.approx([0.5, 1])
    assert found["brier"] == pytest.approx([(0.01 + 0.16 + 0.64 + 0.16) / 4, (0.01 + 0.01 + 0.04 + 0.01) / 4])
    assert found["log_loss"] == pytest.approx(
        [-np.log([0.9, 0.6, 0.2, 0.6]).mean(), -np.log([0.9, 0.9, 0.8, 0.9]).mean()]
    )
    assert found["predicted_rises"] == pytest.approx([0.25, 0.5]) and found["true_rises"] == pytest.approx(
        [0.5, 0.5]
    )
    assert np.isnan(found["crps"]).all()
    only_rises = score_dates(
        panel.only(np.array([False, True])), Decided("x", "constant", np.ones(4, int), np.ones(4))
    )
    assert only_rises["within_date_accuracy"] == pytest.approx([0.5]) and np.isnan(only_rises["rank_ic"][0])


def test_a_date_of_one_class_has_no_auc(tmp_path: Path) -> None:
    """On a day on which all shares rose an AUC of 0 or 0.5 would be an invention."""
    panel = build_panel(store_of(tmp_path / "store", {"a": [1, 2], "b": [1, 3]}), np.array([0]), 1)
    found = score_dates(
        panel, Decided("x", "paths", np.array([1, 0]), np.array([0.7, 0.3]), np.array([0.7, 0.3]))
    )
    assert np.isnan(found["auc"][0]) and np.isnan(found["balanced_accuracy"][0])
    assert found["accuracy"] == pytest.approx([0.5]) and np.isfinite(found["log_loss"][0])


def test_within_date_accuracy_takes_the_market_out() -> None:
    """A rising market must not look like skill: a common shift of all returns, or of all scores, changes
    nothing.
    """
    rng = np.random.default_rng(0)
    score, ret = rng.standard_normal(101), rng.standard_normal(101)
    assert within_accuracy(score + 5, ret - 9) == within_accuracy(score, ret)
    assert within_accuracy(np.full(101, 0.3), ret) == 0.5
    assert within_accuracy(ret, ret) == pytest.approx(1 - 0.5 / 101)
    assert within_accuracy(-ret, ret) == pytest.approx(0.5 / 101)
    assert correlation(rankdata(score), rankdata(np.exp(score))) == pytest.approx(1)
    assert correlation(score, -score) == pytest.approx(-1) and np.isnan(correlation(score, np.ones(101)))


@pytest.mark.parametrize("seed", range(10))
def test_figures_of_one_date_are_scikit_learns(tmp_path: Path, seed: int) -> None:
    """The fast formulas beside the well-kept ones: ties, probabilities of 0 and 1, unbalanced classes."""
    rng = np.random.default_rng(seed)
    closes = {f"t{k:02d}": [1.0, float(np.round(rng.lognormal(0, 0.05), 2))] for k in range(60)}
    panel = build_panel(store_of(tmp_path / "store", closes), np.array([0]), 1)
    prob = np.round(rng.random(60), 1)
    entry = Decided("x", "paths", (prob > rng.choice([0.2, 0.5, 0.8])).astype(int), prob, prob)
    found, expected = score_dates(panel, entry), pooled(panel, entry)
    assert len(expected) == 5
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value, rel=1e-12), name
    assert found["rank_ic"][0] == pytest.approx(spearmanr(prob, panel.ret).statistic, rel=1e-12)


def test_crps_of_a_normal_forecast() -> None:
    """The closed form for a normal law: sigma (z (2 F(z) - 1) + 2 f(z) - 1/sqrt(pi)). A biased estimate
    prefers narrow paths.
    """
    rng = np.random.default_rng(0)
    truth = np.array([-1.0, 0.0, 2.0])
    samples = rng.standard_normal((3, 200_000))
    expected = truth * (2 * norm.cdf(truth) - 1) + 2 * norm.pdf(truth) - 1 / np.sqrt(np.pi)
    assert crps(samples, truth) == pytest.approx(expected, abs=0.005)
    few = rng.standard_normal((60_000, 5))
    assert crps(few, np.full(60_000, 2.0)).mean() == pytest.approx(expected[2], abs=0.01), (
        "unbiased with five paths"
    )


def test_bands_cover_what_they_say() -> None:
    """Ends at plain sample quantiles of 33 paths would hold 85 % instead of 90."""
    rng = np.random.default_rng(0)
    samples, truth = rng.standard_normal((20_000, 34))[:, :33], rng.standard_normal(20_000)
    for band in (0.5, 0.8, 0.9):
        assert coverage(samples, truth, band) == pytest.approx(band, abs=0.012)
    assert np.isnan(coverage(samples[:, :9], truth, 0.9)), "nine paths have no 90 % band"


def test_price_error_is_that_of_the_last_price() -> None:
    """'Worse than the last price' is the complaint: paths that stay at it have a ratio of exactly 1."""
    last, future = np.array([10.0, 20.0]), np.array([11.0, 19.0])
    assert path_figures(np.repeat(last[:, None], 5, axis=1), last, future)[
        "price_mae_ratio"
    ] == pytest.approx(1)
    assert path_figures(np.repeat(future[:, None], 5, axis=1), last, future)["price_mae_ratio"] == 0
    assert path_figures(np.full((2, 5), np.nan), last, future) == {}
