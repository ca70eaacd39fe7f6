"""Several markets in one data set, from the files to a submission: every step counts each ticker's own days."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from test_markets import ZONES, bars
from tiny import tiny_config

from kronos.bars import CLOSE
from kronos.config import Config
from kronos.data.calendar import open_days
from kronos.data.date_batches import future_returns
from kronos.data.prepare import prepare
from kronos.data.store import BarStore
from kronos.evaluation.backtest import Options, run_backtest
from kronos.evaluation.panel import build_panel
from kronos.submission import make_submission
from kronos.training.facts import STAGES
from kronos.training.stages import run_stage

FIRST, LAST = "2022-01-03", "2023-06-16"
EXCHANGES = {"XSHG.*": "XSHG", "XHKG.*": "XHKG"}


def shares_and_coins() -> pl.DataFrame:
    """Four shares of New York and three coins, until a Friday."""
    shares = [bars(f"S{k}", open_days("NYSE", FIRST, LAST), k) for k in range(4)]
    every = np.arange(np.datetime64(FIRST), np.datetime64(LAST) + 1)
    return pl.concat([*shares, *(bars(f"C{k}-USD", every, 10 + k) for k in range(3))])


def exchanges(zone: bool) -> pl.DataFrame:
    """Three tickers on each of three exchanges: dates, or the same midnights in UTC."""
    parts = []
    for number, (calendar, name) in enumerate(ZONES.items()):
        for k in range(3):
            part = bars(f"{calendar}.{k}", open_days(calendar, FIRST, LAST), 3 * number + k)
            if zone:
                local = pl.col("Date").str.to_datetime("%Y-%m-%d", time_zone=name)
                text = local.dt.convert_time_zone("UTC").dt.strftime("%Y-%m-%d %H:%M:%S+00:00")
                part = part.with_columns(text.alias("Date"))
            parts.append(part)
    return pl.concat(parts).sort("Date")


def config_of(folder: Path, frame: pl.DataFrame, asked: str, **settings: Any) -> Config:
    """The smallest networks on a file; every ticker is asked about one day."""
    folder.mkdir()
    frame.write_csv(folder / "train.csv")
    names = frame["Ticker"].unique().sort()
    pl.DataFrame({"ID": names, "Date": [asked] * len(names)}).write_csv(folder / "test.csv")
    pl.DataFrame({"ID": names, "Pred": [0] * len(names)}).write_csv(folder / "sample.csv")
    base = {
        "data__data_path": str(folder / "train.csv"),
        "data__test_path": str(folder / "test.csv"),
        "data__sample_submission_path": str(folder / "sample.csv"),
        "training__tokenizer_epochs": 1,
        "training__basemodel_epochs": 1,
        "training__samples_per_epoch": 32,
        "evaluation__origins": 12,
        "evaluation__random_init": False,
        "inference__sample_count": 4,
    }
    return tiny_config(folder, **base | settings)


def whole_run(config: Config) -> tuple[BarStore, dict[str, Any], pl.DataFrame]:
    """Prepared, trained, backtested, submitted: the store, the report and the answers."""
    store = prepare(config)
    for stage in STAGES[:2]:
        assert run_stage(config, stage, store) == "complete"
    tree = run_backtest(config, Options(save=True)).tree
    made = make_submission(config, config.run_dir.parent / "answers.csv")
    return store, tree, pl.read_csv(made.path)


def check_panel(store: BarStore, horizon: int) -> None:
    """Labels are those of a plain loop over each ticker's own days."""
    span = store.span_of(horizon)
    origins = np.arange(len(store.sessions) - span - 40, len(store.sessions) - span)
    panel = build_panel(store, origins, horizon)
    seen = 0
    for d, k, future in zip(panel.origin, panel.ticker, panel.future_close, strict=True):
        rows = np.arange(store.offsets[k], store.offsets[k + 1])
        at = rows[store.session[rows] == origins[d]][0]
        assert future == store.bars[at + horizon, CLOSE], "these tickers have a bar on each of their days"
        assert store.session[at + horizon] <= origins[d] + span
        seen += 1
    markets = store.market_of(panel.ticker)
    assert seen > 100 and len(np.unique(markets)) == len(store.calendars(""))
    assert panel.excluded["no bar on the origin"] == 0, "a day on which a market is closed is no day of it"
    assert panel.excluded["no bar on the target date"] == 0


def test_labels_are_of_each_tickers_own_days(tmp_path: Path) -> None:
    """Keeps out: a label of a share that ends on a coin's Sunday, or after half of its horizon."""
    store = prepare(config_of(tmp_path / "a", shares_and_coins(), "2023-06-20"))
    check_panel(store, 5)
    ends = store.offsets[1:] - 1
    rows = np.concatenate([ends - 8, ends - 3])
    returns = future_returns(store, rows, [3, 4])
    close = store.bars[:, CLOSE].astype(np.float64)
    expected = np.log(close[rows + 3] / close[rows])
    assert np.allclose(returns[:, 0], expected, rtol=1e-6)
    assert np.isnan(returns[len(ends) :, 1]).all() and np.isfinite(returns[: len(ends), 1]).all()


@pytest.mark.long
def test_shares_and_coins_are_trained_backtested_and_submitted(tmp_path: Path) -> None:
    """Keeps out: a backtest that refuses a file of shares and coins, or counts a coin's days for both.

    Friday to Tuesday (Monday the 19th is a holiday) is one session of the share, and four days of the coin.
    """
    config = config_of(tmp_path / "a", shares_and_coins(), "2023-06-20")
    store, tree, answers = whole_run(config)
    assert store.calendars("NYSE") == ["NYSE", "24/7"] and len(answers) == 7
    origins = np.array(tree["per_date"]["origins"], "datetime64[D]")
    assert np.is_busday(origins).all() and tree["per_date"]["rows"] == [7] * len(origins)
    assert tree["dates"]["span"] >= tree["dates"]["horizon"] + 2
    table = pl.read_parquet(config.run_dir / "backtest" / "predictions.parquet")
    assert table["date"].n_unique() > 10 and set(table["ticker"]) == set(answers["ID"])


@pytest.mark.long
def test_three_exchanges_in_utc_submit_what_their_twin_submits(tmp_path: Path) -> None:
    """Keeps out: days of three zones that differ anywhere between the file and the submission."""
    found = []
    for zone in (False, True):
        folder = tmp_path / ("utc" if zone else "plain")
        config = config_of(folder, exchanges(zone), "2023-06-21", data__markets=EXCHANGES)
        found.append(whole_run(config))
    (store, tree, answers), (other, other_tree, other_answers) = found
    assert store.digest == other.digest and answers.equals(other_answers) and len(answers) == 9
    assert tree["per_date"] == other_tree["per_date"]
    written = [(tmp_path / name / "answers.csv").read_bytes() for name in ("plain", "utc")]
    assert written[0] == written[1]


def test_one_market_counts_as_before(tmp_path: Path) -> None:
    """The session arithmetic of one market is that of positions, and no day is left out."""
    frame = bars("A", open_days("NYSE", FIRST, LAST), 1)
    store = prepare(config_of(tmp_path / "one", frame, "2023-06-20"))
    place = np.arange(len(store.sessions))
    assert store.ordinals is None and store.all_open().all()
    assert (store.ahead(place, np.zeros_like(place), 3) == np.minimum(place + 3, len(place))).all()
    several = replace(store, ordinals=(place + 1)[None].astype(np.int32), market=np.zeros(1, np.int16))
    assert (
        several.ahead(place, np.zeros_like(place), 3) == store.ahead(place, np.zeros_like(place), 3)
    ).all()
