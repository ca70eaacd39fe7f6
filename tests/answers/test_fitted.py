"""Fitted answerers: they learn what is there, see no future, and come back from disk to the bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from panels import WEEKDAYS, store_in_memory
from threadpoolctl import threadpool_limits

from kronos.answers import fitted
from kronos.answers.answerer import Rows, ask
from kronos.answers.features import NAMES
from kronos.answers.fit import Samples, fit_decision
from kronos.answers.fitted import (
    FittedModel,
    Fitting,
    TooLittle,
    bars_on,
    fitters,
    overlap_weights,
    samples_before,
)
from kronos.answers.trees import trees_of
from kronos.bars import CLOSE
from kronos.data.store import BarStore
from kronos.errors import KitError

FITTING = Fitting()
HORIZON, BEFORE = 5, 400


def market(
    signal: float = 1.0, tickers: int = 40, days: int = 480, seed: int = 0, last: int | None = None
) -> BarStore:
    """Stocks whose returns follow yesterday's volume; some begin late, some end early."""
    rng = np.random.default_rng(seed)
    series = {}
    for k in range(tickers):
        volume = rng.normal(size=days)
        change = 0.01 * rng.normal(size=days)
        change[1:] += 0.01 * signal * volume[:-1]
        close = 50 * np.exp(np.cumsum(change))
        open_ = np.concatenate([[50], close[:-1]]) * np.exp(0.002 * rng.normal(size=days))
        high, low = np.maximum(open_, close) * 1.004, np.minimum(open_, close) * 0.997
        traded = np.exp(12 + volume)
        bars = np.stack([open_, high, low, close, traded, traded * close], axis=1).astype(np.float32)
        begin = 0 if k % 5 else int(rng.integers(0, 200))
        end = days if k % 7 else int(rng.integers(300, days))
        series[f"T{k:02d}"] = (WEEKDAYS[begin : min(end, last or days)], bars[begin : min(end, last or days)])
    store = store_in_memory({name: part for name, part in series.items() if len(part[0])})
    return replace(store, manifest=store.manifest | {"digest": f"{signal} {seed} {last}"})


def rows_at(store: BarStore, session: int, horizon: int = HORIZON) -> Rows:
    """Every ticker of a store, asked when `session` is the last day that is known."""
    date = store.sessions[session] + np.timedelta64(1, "D")
    rows = ask(store, store.tickers, np.full(len(store.tickers), date), "24/7", horizon=horizon)
    assert (rows.asof == session).all()
    return rows


def fit_all(store: BarStore, before: int = BEFORE, horizon: int = HORIZON) -> list[FittedModel]:
    return [fitter.fit(store, before, horizon) for fitter in fitters(FITTING)]


def gain(store: BarStore, session: int) -> np.ndarray:
    """What the tickers with bars on both dates gained after a session, NaN for others."""
    closes = []
    for day in (session, session + HORIZON):
        row, _ = bars_on(store, np.array([day]))
        close = np.full(len(store.tickers), np.nan)
        close[np.searchsorted(store.offsets, row, side="right") - 1] = store.bars[row, CLOSE]
        closes.append(close)
    return closes[1] / closes[0] - 1


def test_each_model_finds_what_was_planted() -> None:
    """A fit on shuffled or misaligned labels has a plausible look and no skill."""
    store = market()
    for model in fit_all(store):
        right = []
        for session in range(BEFORE, 470, HORIZON):
            score, ret = model.answer(store, rows_at(store, session)).score, gain(store, session)
            both = np.isfinite(score) & np.isfinite(ret)
            right.append(np.corrcoef(score[both], ret[both])[0, 1])
        assert np.mean(right) > 0.15, f"{model.name}: {np.mean(right):.2f}"


def test_no_label_reaches_the_first_session_that_is_not_to_be_seen() -> None:
    """One day too many is a leak of one day's return."""
    store = market()
    own = Fitting(every=1)
    found = samples_before(store, BEFORE, HORIZON, own)
    assert found.session.max() == BEFORE - 1 - HORIZON
    recipe = fitters(own)[0].fit(store, BEFORE, HORIZON).recipe
    assert recipe.last_label == str(store.sessions[BEFORE - 1])[:10]


def test_a_fit_does_not_know_what_comes_after_it() -> None:
    """The same fit, coefficient by coefficient and tree by tree, from a store that ends where the fit may
    look.
    """
    whole, ended = market(), market(last=BEFORE)
    assert len(ended) < len(whole)
    for before, after in zip(fit_all(ended), fit_all(whole), strict=True):
        assert (before.linear, before.trees) == (after.linear, after.trees)


def test_samples_that_overlap_weigh_less() -> None:
    """Labels 5 days apart and 30 days long are one observation told six times from either side."""
    ticker = np.repeat([0, 1, 2], [30, 5, 1])
    session = np.concatenate([np.arange(0, 150, 5), np.arange(0, 150, 30), [7]])
    weight = overlap_weights(ticker, session, 30)
    assert weight[15] == 1 / 11 and weight[0] == 1 / 6, "five on either side, and itself"
    assert (weight[30:] == 1).all(), "labels that only touch do not overlap"


@pytest.mark.parametrize("place", [0, 1, 2], ids=["ridge", "logistic", "boosting"])
def test_a_saved_model_answers_with_the_same_bits(tmp_path: Path, place: int) -> None:
    """A coefficient that loses its last digit changes the answers near the median."""
    store = market()
    model = fit_all(store)[place]
    model.save(tmp_path / "model.json")
    read = FittedModel.load(tmp_path / "model.json")
    assert (read.linear, read.trees, read.recipe, read.name) == (
        model.linear,
        model.trees,
        model.recipe,
        model.name,
    )
    rows = rows_at(store, 430)
    np.testing.assert_array_equal(read.answer(store, rows).score, model.answer(store, rows).score)
    again = fit_all(store)[place]
    assert (again.linear, again.trees) == (model.linear, model.trees), "the recipe gives the same fit"


def test_trees_are_scikit_learns_to_the_bit() -> None:
    """An evaluation of our own that differs in one leaf would never be noticed."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(5)
    x = np.round(rng.normal(size=(20_000, 6)), 2)
    y = rng.random(len(x)) < 1 / (1 + np.exp(-x[:, 0] * x[:, 1] - np.sin(3 * x[:, 2])))
    model = HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=15, early_stopping=False, random_state=1
    ).fit(x, y)
    trees = trees_of(model)
    assert len(trees.trees) == 60 and max(len(tree.value) for tree in trees.trees) == 15
    np.testing.assert_array_equal(trees.score(x), model.decision_function(x))
    on_edges = np.array([[tree.threshold[0]] * 6 for tree in trees.trees])
    np.testing.assert_array_equal(trees.score(on_edges), model.decision_function(on_edges))


def test_fits_do_not_depend_on_the_number_of_threads() -> None:
    """A fit on a machine with more cores must be the fit that the backtest scored."""
    store = market(tickers=60)
    one, two = [], []
    for threads, result in ((1, one), (2, two)):
        with threadpool_limits(threads):
            result += [(model.linear, model.trees) for model in fit_all(store)]
    assert one == two


@pytest.mark.slow
def test_future_rows_change_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 perturbed futures, every fitted answerer: not one bit of what was said before them."""
    monkeypatch.setattr(fitted, "TREES", 20)
    store = market(tickers=12)
    models, session = fit_all(store), 430
    rows = rows_at(store, session)
    wanted = [model.answer(store, rows).score for model in models]
    later = np.flatnonzero(np.asarray(store.session) > session)
    rng = np.random.default_rng(6)
    for _ in range(1000):
        bars = np.array(store.bars)
        hit = rng.choice(later, int(rng.integers(1, len(later))), replace=False)
        bars[hit] *= np.exp(rng.normal(size=(len(hit), 6))).astype(np.float32)
        other = replace(store, bars=bars)
        for model, score in zip(models, wanted, strict=True):
            np.testing.assert_array_equal(model.answer(other, rows).score, score)


def test_answers_do_not_depend_on_which_rows_are_asked() -> None:
    """A file of three tickers would else be ranked among three."""
    store = market()
    model = fit_all(store)[2]
    rows = rows_at(store, 430)
    whole, some = model.answer(store, rows).score, np.array([3, 11, 30])
    np.testing.assert_array_equal(model.answer(store, rows.only(some)).score, whole[some])
    stale = np.flatnonzero(store.session[np.maximum(rows.last, 0)] < rows.asof)
    assert len(stale) and np.isfinite(whole[stale]).all(), (
        "a stock whose history ended earlier is answered, too"
    )


def test_rows_without_history_have_a_reason() -> None:
    """A score of nothing would be ranked in the middle and counted as an answer."""
    store = market()
    rows = rows_at(store, 20)
    answer = fit_all(store)[0].answer(store, rows)
    assert np.isnan(answer.score).all() and (answer.reason != "").all()
    with_unknown = ask(store, ["T01", "nobody"], np.full(2, store.sessions[430]), "24/7", horizon=HORIZON)
    answer = fit_all(store)[0].answer(store, with_unknown)
    assert np.isfinite(answer.score).tolist() == [True, False] and answer.reason[1] == "unknown ID"


@pytest.mark.parametrize(
    ("before", "horizon", "found"),
    [(60, HORIZON, "found [1-9]"), (5, HORIZON, "found 0"), (BEFORE, 470, "found 0")],
)
def test_too_little_to_learn_from_is_one_line(before: int, horizon: int, found: str) -> None:
    """A date without history, a horizon without labels, too few dates: no fit, and nothing that looks like
    one.
    """
    for fitter in fitters(FITTING):
        with pytest.raises(
            TooLittle, match=rf"^{fitter.name}: expected labels {horizon} trading days ahead.*{found}"
        ) as error:
            fitter.fit(market(), before, horizon)
        assert "\n" not in str(error.value)


class Planted:
    """A column that knows the gain, on every tenth session only."""

    names = ("a network's P",)

    def __init__(self, store: BarStore) -> None:
        self.sessions = np.arange(100, len(store.sessions), 10)

    def values(self, store: BarStore, rows: Rows) -> np.ndarray:
        target = np.minimum(rows.last + HORIZON, store.offsets[rows.ticker + 1] - 1)
        return (store.bars[target, CLOSE] / store.bars[rows.last, CLOSE])[:, None].astype(np.float64)


def test_more_columns_are_learnt_on_their_own_dates_only(tmp_path: Path) -> None:
    """A network is no witness on the dates that trained it."""
    store = market(signal=0.0)
    extra = Planted(store)
    for fitter in fitters(FITTING, extra):
        model = fitter.fit(store, BEFORE, HORIZON)
        assert model.recipe.dates == len([s for s in extra.sessions if s + HORIZON < BEFORE])
        score, ret = model.answer(store, rows_at(store, 430)).score, gain(store, 430)
        both = np.isfinite(score) & np.isfinite(ret)
        assert np.corrcoef(score[both], ret[both])[0, 1] > 0.5
        model.save(tmp_path / "model.json")
        with pytest.raises(KitError, match="expected the columns of this version, found others"):
            FittedModel.load(tmp_path / "model.json")
        read = FittedModel.load(tmp_path / "model.json", extra)
        np.testing.assert_array_equal(
            read.answer(store, rows_at(store, 430)).score, model.answer(store, rows_at(store, 430)).score
        )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text[: len(text) // 2], "expected JSON"),
        (lambda text: text.replace('"model": "ridge"', '"model": "magic"'), "model: expected"),
        (lambda text: text.replace("12-1 momentum", "something"), "expected the columns of this version"),
        (
            lambda text: text.replace('"weights": [', '"weights": [0.5, '),
            "expected coefficients or trees of 23 columns",
        ),
        (lambda text: text.replace('"weights": [', '"weights": [NaN, '), "NaN"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change, expected: str) -> None:
    """A model of other columns answers, and means nothing."""
    path = tmp_path / "model.json"
    fit_all(market())[0].save(path)
    assert len(NAMES) == 23
    path.write_text(change(path.read_text()))
    with pytest.raises(KitError, match=expected):
        FittedModel.load(path)
    with pytest.raises(KitError, match="expected a fitted model, found no file"):
        FittedModel.load(tmp_path / "none.json")


def test_an_order_has_no_market_timing() -> None:
    """Rows whose price did not move are no part of a fit, so the mean of an order's z drifts with them."""
    rng = np.random.default_rng(7)
    days, stocks = 80, 50
    date = np.repeat(np.arange(days), stocks)
    market = np.repeat(rng.normal(size=days), stocks)
    z = (
        np.tile(np.linspace(-2, 2, stocks), days) + 0.05 * market
    )  # as if the unmoved ones had been the lowest
    samples = Samples(
        z, date, np.arange(days) * 5, rng.normal(size=len(z)) + 2 * market > 0, np.ones(len(z), bool)
    )
    assert fit_decision(samples, 0.5, 5, 0.1).date_slope > 0, (
        "the planted drift is found where z is a probability"
    )
    assert fit_decision(replace(samples, order=True), 0.5, 5, 0.1).date_slope == 0
