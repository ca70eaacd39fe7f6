"""Probabilities made honest: known answers, what is too little to fit, what a submission may use."""

import json
from pathlib import Path

import numpy as np
import pytest
from backtests import changed, small_world
from scipy.special import expit

from kronos.config import Config, EvaluationConfig
from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.evaluation.backtest import run_backtest
from kronos.evaluation.calibration import (
    LEAST_SLOPE,
    blend,
    choose_threshold,
    date_weights,
    fit_calibration,
    fit_logit,
    fit_width,
    reliability,
)
from kronos.evaluation.panel import Panel
from kronos.evaluation.significance import DateBootstrap
from kronos.forecasting.calibration import FILE, Calibration, logit, read_calibration, smoothed, threshold_of, uncertain, widened
from kronos.submission import make_submission

KEY = {"model": "a", "temperature": 1.0}


def panel_of(label: np.ndarray, every: int = 5, horizon: int = 5) -> Panel:
    """A panel with labels (dates, shares)."""
    dates, shares = label.shape
    days = np.datetime64("2020-01-01") + np.arange(dates) * every
    last = np.full(label.size, 100.0)
    return Panel(
        tickers=[f"t{k}" for k in range(shares)], horizon=horizon, sessions=np.arange(dates) * every,
        origins=days.astype("datetime64[s]"), targets=(days + horizon).astype("datetime64[s]"),
        origin=np.repeat(np.arange(dates), shares).astype(np.int32), ticker=np.tile(np.arange(shares), dates).astype(np.int32),
        row=np.arange(label.size), last_close=last, future_close=np.where(label.ravel() == 1, 101.0, 99.0), excluded={},
    )  # fmt: skip


def sampled(rng: np.random.Generator, dates: int, shares: int, slope: float, shift: float = 0.0) -> tuple[Panel, np.ndarray]:
    """Labels whose true log odds are slope x logit(p) + shift, and p."""
    p = np.clip(expit(rng.normal(0, 1.5, (dates, shares))), 0.01, 0.99)
    truth = expit(slope * np.log(p / (1 - p)) + shift)
    return panel_of((rng.random(p.shape) < truth).astype(int)), p.ravel()


def fitted(panel: Panel, p: np.ndarray, **settings: object) -> Calibration:
    closes = np.full((len(p), 3), 100, np.float32)
    return fit_calibration(panel, p, np.zeros(len(p)), closes, EvaluationConfig(draws=300, **settings), KEY)


def test_finitely_many_paths_are_never_certain() -> None:
    """33 of 33 rising paths are not a probability of 1: its logarithm is infinite."""
    assert smoothed(np.array([1.0, 0.0, 0.5]), 33) == pytest.approx([33.5 / 34, 0.5 / 34, 0.5])
    mass = np.array([np.nan, 1.0, 0.99, 0.99, np.nan])
    given = np.array([1.0, 1.0, 0.0, 0.7, np.nan])
    assert uncertain(given, mass, 33) == pytest.approx([33.5 / 34, 0.999, 0.001, 0.7, np.nan], nan_ok=True)
    with pytest.raises(ValueError, match="strictly between"):
        logit(np.array([1.0]))


def test_temperature_and_shift_are_recovered() -> None:
    """Over-confidence (a slope below 1) is what is known of sampled paths; it has to be found, and the shift with it."""
    rng = np.random.default_rng(0)
    found = fitted(*sampled(rng, 40, 200, slope=0.4, shift=0.3))
    assert (found.method, found.threshold) == ("platt", 0.5)
    assert (found.slope, found.intercept) == (pytest.approx(0.4, abs=0.05), pytest.approx(0.3, abs=0.06))
    few = fitted(*sampled(rng, 12, 200, slope=0.4))
    assert (few.method, few.intercept) == ("temperature", 0.0) and few.slope == pytest.approx(0.4, abs=0.08)
    assert few.prob(np.array([0.5])) == pytest.approx([0.5]), "a temperature alone changes no answer"
    assert found.fitted["dates"] == 40 and found.fitted["last_label"] > found.fitted["last"]


def test_isotonic_needs_many_dates() -> None:
    """A free-form curve through a few dates learns those dates by heart."""
    rng = np.random.default_rng(0)
    few = fitted(*sampled(rng, 40, 300, slope=0.5), calibration="isotonic")
    assert few.method == "platt" and "isotonic needs" in few.fitted["note"]
    many = fitted(*sampled(rng, 70, 150, slope=0.5), calibration="isotonic")
    grid = np.linspace(0.05, 0.95, 19)
    assert many.method == "isotonic" and (np.diff(many.prob(grid)) >= 0).all()
    assert np.abs(many.prob(grid) - expit(0.5 * np.log(grid / (1 - grid)))).max() < 0.12


def test_probabilities_that_rank_nothing_stay_in_order() -> None:
    """A negative slope would turn a model around on the strength of a few months."""
    rng = np.random.default_rng(0)
    found = fitted(*sampled(rng, 20, 100, slope=-0.5))
    assert found.slope == LEAST_SLOPE and "ranked nothing" in found.fitted["note"]
    constant = panel_of(np.ones((10, 5), int))
    assert "alike" in fitted(constant, np.full(50, 0.7)).fitted["note"]


def test_dates_weigh_alike() -> None:
    """A date with more shares is no more evidence."""
    weights = date_weights(np.array([0, 0, 0, 2]), 3)
    assert weights == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    label = np.array([1] * 30 + [0])
    _, shift = fit_logit(np.zeros(31), label, date_weights(np.array([0] * 30 + [1]), 2), shift=True)
    assert shift == pytest.approx(0, abs=1e-3)


def test_bands_are_widened_to_what_happened() -> None:
    """A 90 % band that held 25 % was the finding about sampled paths: paths a third as wide as the truth get a factor of 3."""
    rng = np.random.default_rng(0)
    closes = (100 * np.exp(0.02 * rng.standard_normal((3000, 33)))).astype(np.float32)
    future = 100 * np.exp(0.06 * rng.standard_normal(3000))
    weight = np.full(3000, 1 / 3000)
    assert fit_width(closes, future, weight) == pytest.approx(3, rel=0.1)
    assert fit_width(closes, 100 * np.exp(0.02 * rng.standard_normal(3000)), weight) == pytest.approx(1, rel=0.1)
    wide = widened(closes, 3.0)
    assert np.median(wide, axis=1) == pytest.approx(np.median(closes, axis=1), rel=1e-5)
    assert np.log(wide).std() == pytest.approx(3 * np.log(closes).std(), rel=0.05)
    assert ((wide > 100) == (closes > 100)).mean() > 0.9
    assert fit_width(np.full((4, 3), 5, np.float32), np.full(4, 6.0), np.full(4, 0.25)) == 1.0
    below = np.array([[1.0, -1.0, 2.0]], np.float32)
    assert widened(below, 2.0).tolist() == below.tolist(), "a path below zero has no logarithm"


def test_a_threshold_has_to_survive_other_dates() -> None:
    """The best of 41 thresholds always looks better on the dates it was chosen on."""
    rng = np.random.default_rng(0)
    config = EvaluationConfig(draws=300)
    chance = [choose_threshold(panel_of(rng.integers(0, 2, (40, 30))), rng.random(1200), config) for _ in range(30)]
    assert sum(t != 0.5 for t in chance) <= 3
    panel, p = sampled(rng, 40, 300, slope=2.0, shift=-0.8)
    assert 0.55 < choose_threshold(panel, p, config) < 0.7
    assert choose_threshold(panel_of(np.ones((1, 4), int)), np.full(4, 0.4), config) == 0.5
    kept = Calibration("temperature", 5, KEY, threshold=0.6)
    assert [threshold_of(0.5, kept), threshold_of(0.4, kept), threshold_of(0.5, None)] == [0.6, 0.4, 0.5]


def test_reliability_of_honest_and_of_loud_probabilities() -> None:
    """The curve has to lie on the diagonal where probabilities are true, and its bands to hold it."""
    rng = np.random.default_rng(0)
    for slope, worst in ((1.0, 0.03), (0.3, 1.0)):
        panel, p = sampled(rng, 60, 100, slope=slope)
        bins, error = reliability(panel, p, DateBootstrap(tuple(panel.sessions.tolist()), 5, draws=300))
        assert sum(b.rows for b in bins) == len(panel)
        inside = [b.observed.low <= b.predicted <= b.observed.high for b in bins]
        assert (np.mean(inside) >= 0.8) == (slope == 1.0)
        assert error.low <= error.value <= worst and (error.value > 0.1) == (slope < 1)


def test_blend_averages_log_odds() -> None:
    """The mean of 0.9 and 0.1 is 0.5; two that agree on 0.8 stay at 0.8."""
    assert blend([np.array([0.9, 0.8]), np.array([0.1, 0.8])]) == pytest.approx([0.5, 0.8])


# -- kept with the model -----------------------------------------------------------------------------------------------
@pytest.fixture
def submitted(tmp_path: Path) -> tuple[Config, BarStore]:
    """A world with a backtest behind it and test rows three days ahead."""
    config, store = small_world(tmp_path, evaluation__random_init=False, evaluation__fitted_baselines=False)
    run_backtest(config)
    date = store.sessions[-1].astype("datetime64[D]") + 3
    (tmp_path / "test.csv").write_text("ID,Date\n" + "".join(f"{name},{date}\n" for name in store.tickers))
    return changed(config, data__test_path=str(tmp_path / "test.csv")), store


def manifest_of(config: Config, folder: Path) -> tuple[dict, np.ndarray]:
    """The manifest, and P(rise) of every row if its price moves: no price here ever stood still, so P(tie) is one for all."""
    path = make_submission(config, folder / "out.csv").path
    prob = np.loadtxt(path.with_name("out-prob.csv"), delimiter=",", skiprows=1, usecols=2)
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert manifest["ties"]["mean"] < 0.002
    return manifest, prob / (1 - manifest["ties"]["mean"])


def test_a_submission_uses_what_fits(submitted: tuple[Config, BarStore], tmp_path: Path) -> None:
    """A calibration of another network, horizon or sampling would distort what it was meant to mend; silence would hide which."""
    config, _ = submitted
    made = read_calibration(config.basemodel_dir)
    assert made is not None and made.horizon == 3
    manifest, prob = manifest_of(config, tmp_path)
    assert manifest["calibration"]["used"] and manifest["calibration"]["rows"] == len(prob)
    raw_manifest, raw = manifest_of(changed(config, inference__calibration="off"), tmp_path)
    assert raw_manifest["calibration"] == {"used": False, "why": "inference.calibration is off"}
    assert prob == pytest.approx(made.prob(smoothed(raw, config.inference.sample_count)))
    others = {"inference__temperature": 0.9, "inference__sample_count": 11, "inference__horizon": 2}
    for name, value in others.items():
        refused, _ = manifest_of(changed(config, **{name: value}), tmp_path)
        assert not refused["calibration"]["used"] and name.split("__")[1] in refused["calibration"]["why"]
    (config.basemodel_dir / FILE).write_text("{}")
    with pytest.raises(KitError, match="run the backtest again"):
        make_submission(config, tmp_path / "out.csv")
    (config.basemodel_dir / FILE).unlink()
    assert "none there" in manifest_of(config, tmp_path)[0]["calibration"]["why"]


def test_one_step_ahead_the_listed_probability_is_calibrated(submitted: tuple[Config, BarStore], tmp_path: Path) -> None:
    """A calibration of sampled shares on listed probabilities, or the reverse, corrects an error that is not there."""
    config, store = submitted
    run_backtest(changed(config, evaluation__horizon=1))
    made = read_calibration(config.basemodel_dir)
    assert made is not None and made.horizon == 1 and made.key["probability"] == "enumerated"
    near = changed(config, inference__horizon=1)
    manifest, prob = manifest_of(near, tmp_path)
    assert manifest["calibration"]["rows"] == manifest["enumerated"]["rows"] == len(store.tickers)
    _, raw = manifest_of(changed(near, inference__calibration="off"), tmp_path)
    assert prob == pytest.approx(made.prob(np.clip(raw, 0.001, 0.999))) and (prob != raw).any()
    for name, value in {"probability": "sampled", "enumeration_pairs": 7}.items():
        refused, _ = manifest_of(changed(near, **{f"inference__{name}": value}), tmp_path)
        assert not refused["calibration"]["used"] and name.removeprefix("enumeration_") in refused["calibration"]["why"]


def test_calibration_dates_end_before_the_test(submitted: tuple[Config, BarStore]) -> None:
    """Fitted on the dates it is judged on, any calibration looks honest."""
    config, _ = submitted
    tree = json.loads((config.run_dir / "backtest" / "report.json").read_text())
    own = tree["calibration"][config.model_paths.exp_name]
    assert own["last_label"] < tree["per_date"]["origins"][0]
    assert tree["reliability"]["raw"]["bins"] != tree["reliability"]["calibrated"]["bins"]
