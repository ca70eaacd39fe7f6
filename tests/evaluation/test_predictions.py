"""What a backtest leaves for other tools: every answer, a network's paths in short, and portfolios of them."""

import csv
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from backtests import small_world

from kronos.answers.network import load_network
from kronos.bars import CLOSE
from kronos.config import Config
from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.evaluation.backtest import run_backtest
from kronos.evaluation.contest import ask_on
from kronos.portfolio.earnings import run_portfolio
from kronos.portfolio.outcome import Request
from kronos.portfolio.signals import chosen_columns
from kronos.portfolio.strategies import TopkDropout

pytestmark = pytest.mark.slow

World = tuple[Config, BarStore, Path, pl.DataFrame]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    config, store = small_world(
        tmp_path_factory.mktemp("world"),
        evaluation__origins=None,
        evaluation__every=4,
        evaluation__folds=1,
        evaluation__fitted_baselines=True,
        evaluation__random_init=False,
        inference__sample_count=5,
    )
    run_backtest(config)
    path = config.run_dir / "backtest" / "predictions.parquet"
    return config, store, path, pl.read_parquet(path)


def test_every_answerer_and_blend_has_a_column(world: World) -> None:
    config, _, _, table = world
    name = config.model_paths.exp_name
    for column in (name, "ridge", "boosting", "blend:ridge+boosting", "blend:network+boosting"):
        assert column in table.columns, column
    assert not [column for column in table.columns if column.startswith("blend") and "." in column]
    assert {"date", "ticker", "horizon", f"{name}.last", f"{name}.mean", f"{name}.max.z"} <= set(
        table.columns
    )
    assert not [column for column in table.columns if column.startswith("ridge.")]
    assert table.select("date", "ticker").is_unique().all()


def test_signals_of_paths_are_those_of_the_forecaster(world: World) -> None:
    """A plain computation from the paths of one date: of the mean path, as the guides do it."""
    config, store, _, table = world
    network, name = load_network(config, 3), config.model_paths.exp_name
    date = table["date"].unique().sort()[4]
    session = int(np.searchsorted(store.sessions, np.datetime64(date, "s")))
    rows, _ = ask_on(store, np.array([session]), 3)
    own = table.filter(pl.col("date") == date)
    assert own["ticker"].to_list() == [store.tickers[k] for k in rows.ticker]
    seen = 0
    for batch in network.plan(store, rows).batches(64):
        paths = network.forecaster.forecast(batch.bars, batch.stamps, batch.future_stamps, batch.series).paths
        for place, row in enumerate(batch.rows.tolist()):
            known = float(batch.bars[place, -1, CLOSE])
            mean = [float(np.mean(paths[place, :, step, CLOSE])) for step in range(3)]
            deviation = float(np.std(batch.bars[place, :, CLOSE].astype(np.float64))) + 1e-5
            plain = {
                "last": mean[-1],
                "mean": sum(mean) / 3,
                "max": max(mean),
                "min": min(mean),
                "median": float(np.median(paths[place, :, -1, CLOSE])),
            }
            for form, price in plain.items():
                assert own[f"{name}.{form}"][row] == pytest.approx(price / known - 1, abs=2e-6)
            for form in ("last", "mean", "max", "min"):
                expected = (plain[form] - known) / deviation
                assert own[f"{name}.{form}.z"][row] == pytest.approx(expected, abs=1e-4)
            assert 0 < own[f"{name}.prob"][row] < 1
            seen += 1
    assert seen == 9
    assert (own[f"{name}.min"] <= own[f"{name}.mean"]).all() and (
        own[f"{name}.mean"] <= own[f"{name}.max"]
    ).all()


def test_what_was_kept_without_the_course_is_not_taken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of kept answers changes with the version of what is kept."""
    config, store, _, _ = world
    network = load_network(config, 3)
    now = network._folder(store)
    monkeypatch.setattr("kronos.answers.network.KEPT", 1)
    assert network._folder(store) != now


def test_a_portfolio_of_every_answer_and_orders_of_the_last_date(world: World, tmp_path: Path) -> None:
    config, store, path, table = world
    plan = TopkDropout(3, 1, 1, 1e6)
    report = run_portfolio(store, Request(predictions=str(path), plan=plan, noise=2), tmp_path / "all")
    names = [outcome.signal.name for outcome in report.outcomes]
    assert "blend:ridge+boosting" in names and config.model_paths.exp_name in names
    assert not [name for name in names if name.endswith((".last", ".z", ".prob"))]
    with (tmp_path / "all/orders.csv").open() as file:
        orders = list(csv.DictReader(file))
    assert {order["signal"] for order in orders} == set(names)
    assert {order["known"] for order in orders} == {str(table["date"].max())[:10]}
    assert all(order["action"] in ("buy", "sell", "hold") for order in orders)


def test_signals_by_their_short_names(world: World, tmp_path: Path) -> None:
    config, store, path, table = world
    name = config.model_paths.exp_name
    request = Request(
        predictions=str(path), signals=("last", "min.z", "prob"), plan=TopkDropout(3, 1, 1, 1e6), noise=1
    )
    report = run_portfolio(store, request, tmp_path / "short")
    found = [outcome.signal.name for outcome in report.outcomes]
    assert found[:2] == [f"{name}.last", f"{name}.min.z"] and f"{name}.prob" in found
    columns = table.columns
    assert chosen_columns(columns, "ridge", (), "here") == ["ridge"]
    assert chosen_columns(columns, name, ("mean",), "here") == [f"{name}.mean"]
    assert chosen_columns(columns, "", ("ridge",), "here") == ["ridge"]
    for answer, signals, said in (("nobody", (), "--answer nobody"), ("ridge", ("last",), "--signal last")):
        with pytest.raises(KitError, match=said):
            chosen_columns(columns, answer, signals, "here")
