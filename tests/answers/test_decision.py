"""Level, slope and what they are worth: known answers, simulated markets, files that say what cannot be."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from kronos import files, records
from kronos.answers.answerer import Answer
from kronos.answers.decision import Decision, answers, centred, logit, share_noise, z_of
from kronos.answers.fit import Samples, fit_date_slope, fit_decision, fit_slope, without_overlap
from kronos.errors import KitError

MEAN, SPREAD = 0.2, 0.78
"""Log odds of a date's share of rises: 54.5 % rise on an average date, with a standard deviation of 18
points.
"""
STRENGTH, SIZE = 0.30, 0.3
"""True slope, and standard deviation of a network's log odds within a date: about 51 % within a date."""
HORIZON = 30


def market(
    rng: np.random.Generator, dates: int, names: int, bias: float = 0.0, timing: float = 0.0
) -> tuple[np.ndarray, ...]:
    """z, rises and true log odds (dates, names) of a biased network on a market with a base rate."""
    level = rng.normal(MEAN, SPREAD, (dates, 1))
    away = rng.normal(0, SIZE, (dates, names))
    z = away + bias + rng.normal(0, 0.1, (dates, 1)) + timing * level
    odds = STRENGTH * away + level
    return z, rng.random(z.shape) < expit(odds), odds


def samples_of(z: np.ndarray, rise: np.ndarray, noise: np.ndarray | None = None) -> Samples:
    dates, names = z.shape
    number = np.repeat(np.arange(dates), names)
    flat = None if noise is None else noise.ravel()
    return Samples(z.ravel(), number, np.arange(dates) * HORIZON, rise.ravel(), np.ones(z.size, bool), flat)


def history(rng: np.random.Generator) -> float:
    """The base rate that 3,000 past dates, 100 of them without overlap, would show."""
    return float(expit(rng.normal(MEAN, SPREAD, 3000)).mean())


def accuracy(decision: Decision, z: np.ndarray, odds: np.ndarray) -> float:
    """Expected share of right answers, dates weighing alike."""
    date = np.repeat(np.arange(len(z)), z.shape[1])
    rise = decision.prob(z.ravel(), date, np.zeros(z.size)).reshape(z.shape) > 0.5
    p = expit(odds)
    return float(np.where(rise, p, 1 - p).mean())


# -- what a decision does ------------------------------------------------------------------------------------
def test_the_level_is_not_the_networks() -> None:
    """A network's own mean says which way it leans, and cost ten points of accuracy: a shift of all log odds
    does nothing.
    """
    rng = np.random.default_rng(0)
    decision = Decision(horizon=5, level=0.3, slope=0.5)
    z, date = rng.normal(0, 1, 60), np.repeat(np.arange(6), 10)
    ties = np.zeros(60)
    base = decision.prob(z, date, ties)
    for shift in (-0.3, 0.3, 5.0):
        assert decision.prob(z + shift, date, ties) == pytest.approx(base, abs=1e-12)
    away, mean = centred(z, date)
    assert base == pytest.approx(expit(0.5 * away + 0.3)) and mean[:10] == pytest.approx(z[:10].mean())
    timed = replace(decision, date_slope=2.0, centre=0.1)
    assert timed.prob(z, date, ties) == pytest.approx(expit(0.5 * away + 2.0 * (mean - 0.1) + 0.3))
    assert decision.prob(z, date, ties + 0.25) == pytest.approx(0.75 * base), "a tie is no rise"


def test_the_order_of_rows_changes_no_bit() -> None:
    """A submission has its own order, a backtest another: sums that round by order would give another answer
    here and there.
    """
    rng = np.random.default_rng(0)
    z, date = rng.normal(0, 1, 500), rng.integers(0, 3, 500)
    z[::17] = np.nan
    decision, ties = Decision(horizon=5, level=0.1, slope=0.7), rng.random(500) / 10
    base = decision.prob(z, date, ties)
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(500)
        assert decision.prob(z[order], date[order], ties[order]).tobytes() == base[order].tobytes()
    only = date == 1
    assert decision.prob(z[only], date[only], ties[only]).tobytes() == base[only].tobytes(), (
        "nor do other dates"
    )


def test_rows_without_an_answer_get_the_level() -> None:
    """A row that cannot be forecast is one of the average stocks of its date."""
    decision = Decision(horizon=5, level=0.2, slope=0.5)
    prob = decision.prob(np.array([np.nan, 1.0, -1.0, np.nan]), np.array([0, 0, 0, 1]), np.zeros(4))
    assert prob[[0, 3]] == pytest.approx(expit(0.2)) and prob[1] > prob[0] > prob[2]
    with pytest.raises(ValueError, match="NaN"):
        answers(np.array([0.2, np.nan]))


def test_an_order_alone_is_standardised() -> None:
    """A rule's score is a return, with a scale of its own and tails that one stock could fill."""
    score = np.array([5.0, -1.0, 1e6, np.nan, 3.0])
    z = z_of(Answer(score), np.zeros(5, np.int64))
    assert np.argsort(z).tolist() == [1, 4, 0, 2, 3] and np.isnan(z[3]) and np.nansum(z) == pytest.approx(0)
    assert z_of(Answer(score * 7), np.zeros(5, np.int64)).tobytes() == z.tobytes()
    sure = z_of(Answer(score, np.array([1.0, 0.0, 0.5, np.nan, 0.25])), np.zeros(5, np.int64))
    assert sure[:3] == pytest.approx([np.log(999), -np.log(999), 0.0], abs=1e-2) and np.isnan(sure[3])


# -- what a fit finds ----------------------------------------------------------------------------------------
def test_slope_is_recovered_within_its_interval() -> None:
    """A slope whose error bar is a guess makes a market timer of luck: 200 worlds, of each the interval and
    the truth.
    """
    held, found = 0, []
    for world in range(200):
        rng = np.random.default_rng(world)
        z, rise, _ = market(rng, 40, 150, bias=rng.uniform(-0.4, 0.4))
        samples = samples_of(z, rise)
        slope = fit_slope(
            centred(samples.z, samples.date)[0], samples.date, samples.rise, samples.sessions, HORIZON
        )
        assert slope is not None
        low, high = slope.interval()
        held += low < STRENGTH < high
        found.append(slope.value)
    assert 0.91 <= held / 200 <= 0.98
    assert np.mean(found) == pytest.approx(STRENGTH, abs=0.02)


@pytest.mark.parametrize("bias", [-0.4, -0.2, 0.0, 0.2, 0.4])
def test_a_decision_is_as_good_as_the_best_simple_answer(bias: float) -> None:
    """With the network's bias for the level, accuracy fell to 45 % where a constant has 54.5: within half a
    point of the best of the constants and of the decision that knows the truth, at every bias, from 15
    dates."""
    own, rise_all, best = [], [], []
    for world in range(40):
        rng = np.random.default_rng(world)
        z, rise, _ = market(rng, 15, 150, bias)
        decision = fit_decision(samples_of(z, rise), history(rng), HORIZON, 1.0)
        later, _, odds = market(rng, 150, 150, bias)
        own.append(accuracy(decision, later, odds))
        rise_all.append(float(expit(odds).mean()))
        best.append(
            accuracy(Decision(HORIZON, level=float(logit(np.array(0.545))), slope=STRENGTH), later, odds)
        )
        assert decision.date_slope == 0, "15 dates prove no market timing"
    assert np.mean(own) > max(np.mean(rise_all), 1 - np.mean(rise_all), np.mean(best)) - 0.005


def test_a_network_that_knows_nothing_is_the_better_constant() -> None:
    """Noise that ranks nothing must not cost the base rate."""
    own, rise_all = [], []
    for world in range(40):
        rng = np.random.default_rng(world)
        z, rise, _ = market(rng, 15, 100)
        noise = rng.normal(0.3, 0.5, z.shape)
        decision = fit_decision(samples_of(noise, rise), history(rng), HORIZON, 1.0)
        _, _, odds = market(rng, 150, 100)
        own.append(accuracy(decision, rng.normal(0.3, 0.5, odds.shape), odds))
        rise_all.append(float(expit(odds).mean()))
    assert np.mean(own) > np.mean(rise_all) - 0.005


def test_probabilities_are_honest_within_a_date() -> None:
    """Expected calibration error of at most 1.5 points, the date's own luck taken out."""
    rng = np.random.default_rng(1)
    z, rise, _ = market(rng, 40, 200)
    decision = fit_decision(samples_of(3 * z, rise), history(rng), HORIZON, 1.0)
    later, truth, _ = market(rng, 400, 200)
    date = np.repeat(np.arange(400), 200)
    prob = decision.prob(3 * later.ravel(), date, np.zeros(later.size)).reshape(later.shape)
    said, seen = (
        (prob - prob.mean(axis=1, keepdims=True)).ravel(),
        (truth - truth.mean(axis=1, keepdims=True)).ravel(),
    )
    order = np.argsort(said)
    bins = [(said[part].mean(), seen[part].mean()) for part in np.array_split(order, 10)]
    assert np.mean([abs(a - b) for a, b in bins]) <= 0.015


def test_paths_bring_noise_that_a_slope_knows() -> None:
    """33 paths blur a network's probabilities: a slope fitted on them is of the network's own log odds,
    whatever their number, so a submission may take more paths than the backtest did."""
    slopes, errors = {}, {}
    for count in (33, 333):
        found, miss = [], []
        for world in range(30):
            rng = np.random.default_rng(world)
            z, rise, _ = market(rng, 60, 150)
            p = rng.binomial(count, expit(z)) / count
            seen = logit((p * count + 0.5) / (count + 1))
            decision = fit_decision(samples_of(seen, rise, share_noise(p, count)), 0.545, HORIZON, 1.0)
            assert decision.fitted.slope is not None
            found.append(decision.fitted.slope)
            later, _, odds = market(rng, 100, 100)
            again = rng.binomial(333, expit(later)) / 333
            sharp = logit((again * 333 + 0.5) / 334)
            date = np.repeat(np.arange(100), 100)
            prob = decision.prob(sharp.ravel(), date, np.zeros(10_000), share_noise(again, 333).ravel())
            within = (expit(odds) - expit(odds).mean(axis=1, keepdims=True)).ravel()
            said = (prob.reshape(100, 100) - prob.reshape(100, 100).mean(axis=1, keepdims=True)).ravel()
            miss.append(float(said @ within / (said @ said)))
        slopes[count], errors[count] = np.mean(found), np.mean(miss)
    assert slopes[33] == pytest.approx(STRENGTH, abs=0.05) and slopes[333] == pytest.approx(
        STRENGTH, abs=0.03
    )
    assert errors[33] == pytest.approx(errors[333], abs=0.25)


def test_market_timing_has_to_be_proved() -> None:
    """A date's mean is one observation a date: a slope on it is 0 unless 60 dates say otherwise, and then it
    is used.
    """
    chance = 0
    for world in range(200):
        rng = np.random.default_rng(world)
        z, rise, _ = market(rng, 60, 50, bias=0.3)
        date = np.repeat(np.arange(60), 50)
        slope, _ = fit_date_slope(
            centred(z.ravel(), date)[1], date, rise.ravel(), np.arange(60) * HORIZON, HORIZON
        )
        chance += slope > 0
    assert chance <= 12
    rng = np.random.default_rng(0)
    z, rise, _ = market(rng, 60, 50, timing=0.8)
    decision = fit_decision(samples_of(z, rise), 0.545, HORIZON, 1.0)
    assert decision.date_slope > 0.3


def test_overlapping_dates_are_not_so_many() -> None:
    """120 dates a day apart, 30 days ahead, are four observations: too few for a slope, and no reason to move
    the level.
    """
    rng = np.random.default_rng(0)
    z, rise, _ = market(rng, 120, 30)
    close = replace(samples_of(z, rise), sessions=np.arange(120))
    assert without_overlap(close.sessions, HORIZON) == 4
    decision = fit_decision(close, 0.545, HORIZON, 0.7)
    assert decision.slope == 0.7 and "too few dates" in decision.fitted.note
    lucky = fit_decision(samples_of(z[:15], np.ones_like(rise[:15])), 0.545, HORIZON, 1.0)
    assert expit(lucky.level) - 0.545 < 0.025, "fifteen dates of rises only are one bull market"


def test_dates_weigh_alike_and_ties_say_nothing() -> None:
    """A date with more stocks is no more evidence; a price that stood still tells no slope."""
    rng = np.random.default_rng(0)
    z, rise, _ = market(rng, 20, 40)
    one = samples_of(z, rise)
    twice = Samples(*(np.concatenate([a, a[:40]]) for a in (one.z, one.date)), one.sessions,  # type: ignore[misc]
                    *(np.concatenate([a, a[:40]]) for a in (one.rise, one.moved)))  # fmt: skip
    assert fit_decision(twice, 0.5, HORIZON, 1.0).slope == pytest.approx(
        fit_decision(one, 0.5, HORIZON, 1.0).slope, rel=0.02
    )
    tied = replace(one, moved=np.arange(800) % 10 > 0)
    moved = tied.moved
    less = Samples(one.z[moved], one.date[moved], one.sessions, one.rise[moved], moved[moved])
    assert fit_decision(tied, 0.5, HORIZON, 1.0).slope == fit_decision(less, 0.5, HORIZON, 1.0).slope
    alike = fit_decision(samples_of(np.ones((20, 40)), rise), 0.5, HORIZON, 1.0)
    assert alike.prob(np.ones(3), np.zeros(3, np.int64), np.zeros(3)) == pytest.approx(expit(alike.level))


def test_a_reversed_order_is_not_turned_around() -> None:
    """A negative slope would turn a model around on the strength of a few months."""
    rng = np.random.default_rng(0)
    z, rise, _ = market(rng, 20, 200)
    found = fit_decision(samples_of(-5 * z, rise), 0.5, HORIZON, 1.0)
    assert 0 < found.slope < 0.01 and "worth nothing" in found.fitted.note


# -- kept on disk --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"threshold": 5}, "threshold: expected 0 to 1, found 5"),
        ({"slope": -1.0}, "slope: expected > 0, found -1"),
        ({"slope": 1e9}, "slope: expected 0 to 1000"),
        ({"level": 40.0}, "level: expected -5 to 5, found 40"),
        ({"width": 0.0}, "width: expected > 0"),
        ({"horizon": 0}, "horizon: expected > 0"),
        ({"date_slope": "much"}, "date_slope: expected a number"),
        ({"level": None}, "level: expected a number, found None"),
        ({"fitted": {"dates": -3}}, "fitted.dates: expected >= 0"),
        ({"spread": -0.1}, "spread: expected >= 0"),
    ],
)
def test_values_are_checked_when_they_are_read(tmp_path: Path, change: dict[str, object], words: str) -> None:
    """A threshold of 5 answered no rise at all, and exited with 0."""
    path = tmp_path / "d.json"
    files.write_json(path, asdict(Decision(horizon=5)))
    assert records.read(path, Decision) == Decision(horizon=5)
    path.write_text(json.dumps(asdict(Decision(horizon=5)) | change))
    with pytest.raises(KitError, match=words):
        records.read(path, Decision)
