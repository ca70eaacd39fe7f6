"""Backtest, submission, package and Python: one way from rows to answers, the same bits everywhere."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from backtests import changed, small_world

from kronos import Kronos, KronosPredictor, KronosTokenizer
from kronos.answers.catalogue import NETWORK
from kronos.answers.decide import Decided, decide
from kronos.answers.findings import path_of, read_findings
from kronos.answers.network import load_network
from kronos.bars import FEATURES
from kronos.config import Config
from kronos.data.store import BarStore
from kronos.delivery.package import package_model
from kronos.errors import KitError
from kronos.evaluation.backtest import Options, run_backtest
from kronos.evaluation.contest import ask_on
from kronos.submission import make_submission

HORIZON = 3
NAMES = (NETWORK, "boosting", "30-day momentum", "blend:network+boosting", "majority in training")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, BarStore, Path]:
    """A run with a saved backtest, its store, and the run as a package."""
    folder = tmp_path_factory.mktemp("one way")
    config, store = small_world(folder, evaluation__random_init=False, evaluation__draws=100)
    assert run_backtest(config, Options(save=True)).saved
    return config, store, package_model(config, folder / "models", "other")


def tables(store: BarStore) -> list[pd.DataFrame]:
    """Every ticker's bars, by date."""
    found = []
    for first, end in zip(store.offsets[:-1], store.offsets[1:], strict=True):
        dates = pd.DatetimeIndex(store.sessions[store.session[first:end]])
        found.append(pd.DataFrame(np.asarray(store.bars[first:end]), columns=list(FEATURES), index=dates))
    return found


def by_the_backtest(config: Config, store: BarStore, name: str) -> Decided:
    """The answers to the last day's rows as the backtest asks, with the decision that it leaves."""
    from kronos.answers.catalogue import find

    findings = read_findings(config.run_dir, HORIZON)
    assert findings is not None
    last = len(store.sessions) - 1
    asked, _ = ask_on(store, np.array([last]), HORIZON)
    rows = replace(asked, ids=list(store.tickers))
    network = replace(load_network(config, HORIZON), by_date=True, paths=True)
    answerer = find(name, config, store, last + 1, HORIZON, lambda: network)
    evidence = findings.of(answerer.name)
    assert evidence is not None
    return decide(store, rows, answerer, answerer.answer(store, rows), evidence.decision)


def by_a_submission(
    config: Config, store: BarStore, name: str, folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """(P(rise), answers) of the files that a submission of the next day writes, rows asked in another
    order.
    """
    date = store.sessions[-1].astype("datetime64[D]") + 1
    (folder / "test.csv").write_text("ID,Date\n" + "".join(f"{t},{date}\n" for t in reversed(store.tickers)))
    asked: dict[str, Any] = {"inference__answer": name, "inference__horizon": HORIZON}
    made = make_submission(
        changed(config, data__test_path=str(folder / "test.csv"), **asked), folder / "out.csv"
    )
    assert made.manifest["decision"]["used"] is (name != "majority in training")
    prob = np.loadtxt(folder / "out-prob.csv", delimiter=",", skiprows=1, usecols=2)[::-1]
    return prob, np.loadtxt(folder / "out.csv", delimiter=",", skiprows=1, usecols=1).astype(int)[::-1]


def in_python(config: Config, package: Path) -> Iterator[KronosPredictor]:
    yield KronosPredictor.from_run(config.run_dir, device="cpu")
    yield KronosPredictor.from_package(package, device="cpu")


@pytest.mark.parametrize("name", NAMES)
def test_four_ways_give_the_same_bits(
    world: tuple[Config, BarStore, Path], tmp_path: Path, name: str
) -> None:
    """A backtest of another pipeline than the one that submits, or that a desk calls, measures nothing."""
    config, store, package = world
    expected = by_the_backtest(config, store, name)
    prob, pred = by_a_submission(config, store, name, tmp_path)
    assert expected.prob is not None
    assert expected.prob.tobytes() == prob.tobytes() and expected.pred.tolist() == pred.tolist()
    if name == "majority in training":
        return  # a constant's P(rise) is that of all history, which tables need not hold
    for predictor in in_python(config, package):
        found = predictor.decide(tables(store), names=store.tickers, horizon=HORIZON, answer=name)
        assert found.prob is not None and found.prob.tobytes() == prob.tobytes()
        assert found.pred.tolist() == pred.tolist()


def test_the_order_of_the_tables_changes_nothing(world: tuple[Config, BarStore, Path]) -> None:
    """A caller who sorts stocks in another way must not get other answers."""
    config, store, _ = world
    predictor = KronosPredictor.from_run(config.run_dir, device="cpu")
    one = predictor.decide(tables(store), names=store.tickers, horizon=HORIZON)
    other = predictor.decide(tables(store)[::-1], names=store.tickers[::-1], horizon=HORIZON)
    assert one.prob is not None and other.prob is not None
    assert one.prob.tobytes() == other.prob[::-1].tobytes()
    ids = [f"{name} elsewhere" for name in store.tickers]
    drawn = predictor.decide(tables(store), names=store.tickers, horizon=HORIZON, ids=ids)
    assert drawn.closes is not None and one.closes is not None and (drawn.closes != one.closes).any()


def test_a_decision_that_is_not_there_is_one_line(world: tuple[Config, BarStore, Path]) -> None:
    """Answers without a decision, or with that of other settings, look like answers."""
    config, store, package = world
    given = tables(store)
    predictor = KronosPredictor.from_run(config.run_dir, device="cpu")
    with pytest.raises(KitError, match=r"expected a decision 7 trading days ahead, found those of: 3"):
        predictor.decide(given, names=store.tickers, horizon=7)
    with pytest.raises(KitError, match=r"expected every ticker once, found T0 twice"):
        predictor.decide(given[:2], names=["T0", "T0"], horizon=HORIZON)
    with pytest.raises(KitError, match=r"--answer sorcery: expected auto, network"):
        predictor.decide(given, names=store.tickers, horizon=HORIZON, answer="sorcery")
    other = KronosPredictor.from_package(package, device="cpu", anchor=False)
    with pytest.raises(KitError, match=r"found none that fits: anchor 'last_close' instead of 'none'"):
        other.decide(given, names=store.tickers, horizon=HORIZON)
    alone = KronosPredictor(
        Kronos.from_pretrained(package / "predictor"),
        KronosTokenizer.from_pretrained(package / "tokenizer"),
        device="cpu",
    )
    with pytest.raises(KitError, match=r"from_run, from_package\), found networks alone"):
        alone.decide(given, names=store.tickers, horizon=HORIZON)
    assert path_of(config.run_dir, HORIZON).is_file()
