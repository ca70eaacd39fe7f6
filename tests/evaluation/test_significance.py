"""Error bars over dates: they cover what they promise, and chance is not called skill."""

import itertools

import numpy as np
import pytest

from kronos.evaluation.significance import DateBootstrap, compare, holm, skill

HORIZON = 5


def market(
    rng: np.random.Generator, days: int, shares: int, signal: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Persistent scores (days, shares); returns over HORIZON days that overlap, share a factor and drift by
    `signal` x score.
    """
    score = np.empty((days, shares))
    score[0] = rng.standard_normal(shares)
    for day in range(1, days):
        score[day] = 0.97 * score[day - 1] + np.sqrt(1 - 0.97**2) * rng.standard_normal(shares)
    daily = 0.6 * rng.standard_normal((days + HORIZON, 1)) + rng.standard_normal((days + HORIZON, shares))
    daily[:days] += signal * score
    level = np.vstack([np.zeros((1, shares)), np.cumsum(daily, axis=0)])
    return score, level[HORIZON : HORIZON + days] - level[:days]


def figures(score: np.ndarray, ret: np.ndarray) -> dict[str, np.ndarray]:
    """Within-date accuracy, accuracy, and the share of rises, each (days,)."""
    above = np.sign(score - np.median(score, axis=1, keepdims=True)) * np.sign(
        ret - np.median(ret, axis=1, keepdims=True)
    )
    rises = ret > 0
    return {
        "within": (0.5 + 0.5 * above).mean(axis=1),
        "accuracy": ((score > 0) == rises).mean(axis=1),
        "all rise": rises.mean(axis=1),
        "all fall": 1 - rises.mean(axis=1),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("days", "every"), [(240, 1), (120, 5)])
def test_intervals_cover_what_they_promise(days: int, every: int) -> None:
    """An interval that is too short calls luck skill: 95 % intervals hold the true value in 93 to 97 % of 500
    markets.

    Overlapping labels every day, and without overlap but with 24 dates only.
    """
    rng = np.random.default_rng(days)
    trials = [figures(*(part[::every] for part in market(rng, days, 40, signal=0.02))) for _ in range(500)]
    bootstrap = DateBootstrap(tuple(range(0, days, every)), HORIZON, draws=400)
    truth = {
        name: float(np.mean([trial[name].mean() for trial in trials])) for name in ("within", "accuracy")
    }
    for name, true in truth.items():
        intervals = [bootstrap.interval(trial[name]) for trial in trials]
        covered = np.mean([i.low <= true <= i.high for i in intervals])
        assert 0.93 <= covered <= 0.97, f"{name}: {covered:.3f}"


@pytest.mark.slow
def test_labels_shuffled_by_date_show_no_skill() -> None:
    """Without any information a verdict of skill must be rare: at most 6 % of 500 markets."""
    rng = np.random.default_rng(3)
    bootstrap = DateBootstrap(tuple(range(0, 200, 2)), HORIZON, draws=400)
    found = []
    for _ in range(500):
        score, ret = (part[::2] for part in market(rng, 200, 40, signal=0.2))
        shuffled = rng.permuted(ret[rng.permutation(len(ret))], axis=1)
        own = figures(score, shuffled)
        against = compare(
            bootstrap, "accuracy", own["accuracy"], {name: own[name] for name in ("all rise", "all fall")}
        )
        found.append(skill(bootstrap.interval(own["within"], null=0.5), against, {"all rise", "all fall"}))
    assert np.mean(np.array(found) == 1) <= 0.06


def test_a_real_signal_is_found() -> None:
    """A test that never finds skill would pass the ones above."""
    bootstrap = DateBootstrap(tuple(range(0, 200, 2)), HORIZON, draws=400)
    score, ret = market(np.random.default_rng(0), 200, 40, signal=0.2)
    own = {name: values[::2] for name, values in figures(score, ret).items()}
    assert skill(bootstrap.interval(own["within"], null=0.5), [], set()) == 1
    opposite = {**own, "within": 1 - own["within"]}
    assert skill(bootstrap.interval(opposite["within"], null=0.5), [], set()) == -1


def test_blocks_span_two_horizons_and_dates_without_overlap_are_counted() -> None:
    """Shorter blocks take overlapping labels for independent ones; 100 daily dates 20 days ahead are five
    observations.
    """
    daily = DateBootstrap(tuple(range(100)), 20)
    assert (daily.block, daily.effective) == (40, 5)
    assert daily.interval(np.arange(100.0)).low is None, "five observations carry no interval"
    monthly = DateBootstrap(tuple(range(0, 600, 20)), 20)
    assert (monthly.block, monthly.effective) == (2, 30)
    uneven = DateBootstrap((0, 30, 33, 60), 10)
    assert uneven.block * 3 >= 20 and uneven.effective == 3


def test_overlap_widens_the_interval() -> None:
    """The same values, seen every day instead of every fifth, are no more evidence."""
    values = np.random.default_rng(1).standard_normal(60)
    apart = DateBootstrap(tuple(range(0, 300, 5)), HORIZON).interval(values)
    repeated = DateBootstrap(tuple(range(300)), HORIZON).interval(values.repeat(5))
    assert repeated.high - repeated.low > 0.9 * (apart.high - apart.low)
    naive = 2 * 1.96 * values.repeat(5).std() / np.sqrt(300)
    assert repeated.high - repeated.low > 1.8 * naive


def test_one_date_has_no_interval() -> None:
    """One date measures that day's market."""
    one = DateBootstrap((7,), HORIZON).interval(np.array([0.6]), null=0.5)
    assert (one.value, one.low, one.p) == (0.6, None, None)


def test_dates_without_a_figure_are_left_out() -> None:
    """A date on which all rose has no AUC: neither 0 nor 0.5 may take its place."""
    values = np.linspace(0, 1, 40)
    holes = np.where(np.arange(40) % 10 == 0, np.nan, values)
    found = DateBootstrap(tuple(range(0, 200, 5)), HORIZON).interval(holes)
    assert (
        found.dates == 36
        and found.value == pytest.approx(np.nanmean(holes))
        and found.low < found.value < found.high
    )


def test_holm_known_values() -> None:
    """Fifteen comparisons find something by chance: p 0.01, 0.04, 0.03, 0.005 become 0.03, 0.06, 0.06,
    0.02.
    """
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02], nan_ok=True)


def test_p_values_agree_with_intervals() -> None:
    """A verdict from p and an interval that says otherwise would confuse whoever reads both."""
    bootstrap = DateBootstrap(tuple(range(0, 150, 5)), HORIZON, draws=1000)
    rng = np.random.default_rng(0)
    for _, shift in itertools.product(range(20), (0.0, 0.2, 0.5)):
        found = bootstrap.interval(rng.standard_normal(30) + shift, null=0.0)
        assert found.low is not None and found.p is not None
        if abs(found.p - 0.05) > 0.004:
            assert (found.p < 0.05) == (found.excludes(0.0) != 0)


def test_a_loss_is_better_when_smaller() -> None:
    """A sign error would praise the worse model."""
    bootstrap = DateBootstrap(tuple(range(0, 200, 5)), HORIZON)
    noise = np.random.default_rng(0).standard_normal(40) * 0.01
    better = compare(bootstrap, "brier", 0.2 + noise, {"base": np.full(40, 0.25)}, smaller_is_better=True)
    worse = compare(bootstrap, "accuracy", 0.2 + noise, {"base": np.full(40, 0.25)})
    assert (better[0].better, worse[0].better) == (1, -1)
    assert better[0].words == "better than base"
