"""Fitted weights of a blend, columns of networks, and rank IC by horizon: what they learn and from when."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from backtests import changed, small_world
from panels import store_of

from kronos.answers.answerer import Answer, Rows
from kronos.answers.blend import blended
from kronos.answers.catalogue import WEIGHTED, WITH_NETWORK, fit_path
from kronos.answers.columns import NetworkColumns, Remembered, columns_of
from kronos.answers.decision import z_of
from kronos.answers.findings import read_findings
from kronos.answers.weights import LEAST_DATES, equal_weights, fit_weights
from kronos.errors import KitError
from kronos.evaluation.backtest import Options, run_backtest
from kronos.evaluation.significance import Interval
from kronos.evaluation.term import gains
from kronos.predictor import KronosPredictor
from kronos.submission import make_submission


def sample(rng: np.random.Generator, dates: int, skill: list[float], rows: int = 200):  # type: ignore[no-untyped-def]
    """(z (n, M), rank (n,), date (n,)): members with these correlations to the rank."""
    date = np.repeat(np.arange(dates), rows)
    rank = z_of(Answer(rng.normal(size=len(date))), date)
    z = np.stack(
        [z_of(Answer(s * rank + np.sqrt(1 - s**2) * rng.normal(size=len(date))), date) for s in skill], axis=1
    )
    return z, rank, date


def test_weights_go_to_who_knows_something() -> None:
    """A blend that gives noise as much as skill throws half of the skill away; one that shorts a member is a
    bet.
    """
    rng = np.random.default_rng(0)
    weights = fit_weights(*sample(rng, 400, [0.1, 0.0, -0.1]))
    assert weights[0] > 0.85 and (weights >= 0).all() and weights.sum() == pytest.approx(1)
    assert weights[2] < 0.05
    even = fit_weights(*sample(rng, 400, [0.05, 0.05]))
    assert abs(even - 0.5).max() < 0.15


def test_few_dates_leave_equal_parts() -> None:
    """Weights from a handful of dates are luck."""
    rng = np.random.default_rng(1)
    z, rank, date = sample(rng, LEAST_DATES - 1, [0.3, 0.0])
    assert fit_weights(z, rank, date).tolist() == equal_weights(2).tolist()
    z, rank, date = sample(rng, 2 * LEAST_DATES, [0.3, 0.0])
    assert fit_weights(z, rank, date, overlap=0.4).tolist() == [0.5, 0.5], "overlapping dates are fewer"
    few, many = fit_weights(z, rank, date), fit_weights(*sample(rng, 300, [0.3, 0.0]))
    assert 0.5 < few[0] < many[0], "the prior's share falls with the dates"


def test_a_weighted_blend_is_its_parts() -> None:
    """Weights in another order than the members' answer for somebody else."""
    rows = Rows(*(np.zeros(4, np.int64) for _ in range(4)), np.full(4, ""), np.full(4, "2020-01-01", "M8[s]"))
    one, other = Answer(np.array([1.0, 2, 3, 4])), Answer(np.array([4.0, 3, 1, 2]))
    assert blended([one, other], rows, [1.0, 0.0]).score.tolist() == z_of(one, rows.asof).tolist()
    assert blended([one, other], rows, [0.0, 1.0]).score.tolist() == z_of(other, rows.asof).tolist()
    assert np.allclose(blended([one, other], rows, [0.5, 0.5]).score, blended([one, other], rows).score)


def test_columns_are_looked_up_by_ticker_and_date(tmp_path: Path) -> None:
    """The answer of another date would be a look ahead."""
    store = store_of(tmp_path / "s", {"A": [1, 2, 3.0, 4], "B": [1, 2, 3.0, 4]})
    asked = Rows(
        np.array([0, 1, 0, 1]),
        np.array([1, 5, 2, 6]),
        np.array([1, 1, 2, 2]),
        np.ones(4, np.int64),
        np.full(4, ""),
        np.full(4, "2024-01-03", "M8[s]"),
        list("abcd"),
    )
    given = Answer(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.5, 0.6, 0.7, 0.8]))
    columns = NetworkColumns((Remembered("head", "head", 30, asked, given),), np.array([1, 2]))
    assert columns.names == ("head score", "head P(rise)")
    wanted = asked.only(np.array([3, 0]))
    assert columns.values(store, wanted).tolist() == [[0.4, 0.8], [0.1, 0.5]]
    later = replace(wanted, asof=np.array([3, 0]))
    assert np.isnan(columns.values(store, later)).all()
    closes = np.array([[2.0, 8.0, 8.0]], np.float32)
    paths = columns_of(
        "paths", Answer(np.array([0.3]), np.array([0.6]), closes=closes), store, asked.only([1])
    )
    assert paths[0, :2].tolist() == [0.3, 2 / 3] and paths[0, 2] == pytest.approx(np.log(closes).std())


def test_gains_are_those_of_the_session_asked_for(tmp_path: Path) -> None:
    """A ticker without a bar on the day has no return there, not that of the next one."""
    store = store_of(tmp_path / "s", {"A": [1, 2, 4.0, 8], "B": [1, np.nan, 3.0, 5]})
    ticker, last = np.array([0, 1, 0]), np.array([0, 4, 2])
    asof = np.array([0, 0, 2])
    assert gains(store, ticker, last, asof, 2).tolist()[:2] == [3.0, 2.0]
    found = gains(store, ticker, last, asof, 1)
    assert found[0] == 1.0 and np.isnan(found[1]) and found[2] == 1.0
    assert np.isnan(gains(store, ticker, last, asof, 9)).all()


def test_the_interval_of_a_share_stays_a_share() -> None:
    """One ticker's accuracy was given as up to 104 %."""
    assert Interval(0.9, 0.7, 1.1).of_share() == Interval(0.9, 0.7, 1.0)
    assert Interval(0.1, -0.2, 0.4).of_share() == Interval(0.1, 0.0, 0.4)
    assert Interval(0.5).of_share() == Interval(0.5)


def test_a_backtest_fits_weights_and_columns_for_the_submission(tmp_path: Path) -> None:
    """What is scored can be submitted, from the weights and the fit that the backtest left; horizons stand in
    the report.
    """
    config, store = small_world(
        tmp_path,
        evaluation__random_init=False,
        evaluation__draws=100,
        evaluation__blends=["network+boosting"],
        evaluation__every=3,
        evaluation__origins=60,
    )
    done = run_backtest(config, Options(save=True))
    terms = [row["horizon"] for row in done.tree["by_horizon"] if row["name"] == done.tree["main"]]
    assert terms == [1, 2, 3]
    last = done.tree["by_horizon"][-1]["rank_ic"]
    own = next(e for e in done.tree["entries"] if e["name"] == done.tree["main"])["figures"]["rank_ic"]
    assert last["value"] == pytest.approx(own["value"], abs=1e-6), "the last horizon is the report's own"
    findings = read_findings(config.run_dir, 3)
    assert findings is not None
    name = f"{WEIGHTED}network+boosting"
    weights = findings.of(name).weights  # type: ignore[union-attr]
    assert weights is not None and sum(weights) == pytest.approx(1)
    (tmp_path / "test.csv").write_text(
        "ID,Date\n" + "".join(f"{t},{store.sessions[-1].astype('M8[D]') + 3}\n" for t in store.tickers)
    )
    asked = changed(config, data__test_path=str(tmp_path / "test.csv"))
    for answer in (name, *WITH_NETWORK):
        made = make_submission(changed(asked, inference__answer=answer), tmp_path / "out.csv")
        assert made.manifest["answer"]["name"] == answer and made.manifest["decision"]["used"], answer
    fit_path(config, "ridge with network", 3).unlink()
    with pytest.raises(KitError, match="expected a fitted model, found no file"):
        make_submission(changed(asked, inference__answer="ridge with network"), tmp_path / "no.csv")
    replace(findings, answerers=[replace(e, weights=None) for e in findings.answerers]).save(config.run_dir)
    with pytest.raises(KitError, match="expected weights that a backtest has fitted, found none"):
        make_submission(changed(asked, inference__answer=name), tmp_path / "no.csv")
    assert not list(tmp_path.glob("no*"))
    assert KronosPredictor.from_run(config.run_dir, device="cpu").source is not None
