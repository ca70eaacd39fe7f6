"""The next days of every ticker: the answers of a submission, on days that will trade, in files that are whole."""

import csv
import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from backtests import changed, finished_run, small_world
from tiny import tiny_config

from kronos.config import Config, to_dict
from kronos.data.store import BarStore
from kronos.data.store_writer import store_from_dict
from kronos.errors import KitError
from kronos.outlook.ahead import STALE, look_ahead, standing_out, usual_moves
from kronos.outlook.ahead_page import manifest, write_outlook
from kronos.submission import make_submission


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, BarStore]:
    return small_world(tmp_path_factory.mktemp("outlook"), inference__answer="network")


def test_the_probabilities_are_those_of_a_submission(world: tuple[Config, BarStore], tmp_path: Path) -> None:
    """The same rows, the same networks, the same bits: a page must not say other than what was sent."""
    config, store = world
    date = store.sessions[-1].astype("datetime64[D]") + 3
    (tmp_path / "test.csv").write_text("ID,Date\n" + "".join(f"{name},{date}\n" for name in store.tickers))
    sent = make_submission(changed(config, data__test_path=str(tmp_path / "test.csv")), tmp_path / "out.csv")
    with sent.path.with_name("out-prob.csv").open() as handle:
        expected = {row["ID"]: float(row["ProbUp"]) for row in csv.DictReader(handle)}
    found = look_ahead(config, 3)
    assert dict(zip(found.tickers, found.prob_up.tolist(), strict=True)) == expected
    assert found.left_out == {}


def test_quantiles_are_those_of_the_paths(world: tuple[Config, BarStore]) -> None:
    config, _ = world
    found = look_ahead(config, 4, tickers=["T3", "T1"], pictures=2)
    drawn = found.pictures
    assert found.tickers == ["T3", "T1"] and drawn is not None
    for k, ticker in enumerate(found.tickers):
        paths = drawn.paths[drawn.position(ticker)]
        np.testing.assert_allclose(found.closes[k, 2], np.median(paths[:, :, 3], axis=0), rtol=1e-6)
        np.testing.assert_allclose(found.closes[k, 0], np.quantile(paths[:, :, 3], 0.05, axis=0), rtol=1e-5)
        np.testing.assert_allclose(found.median[k], np.median(paths, axis=0), rtol=1e-6)


def test_days_are_the_next_ones_of_the_exchange(tmp_path: Path) -> None:
    """Christmas and a weekend are no trading days; a ticker that stopped trading has no next day."""
    rng = np.random.default_rng(1)
    days = np.arange(np.datetime64("2023-06-01"), np.datetime64("2023-12-23"))
    days = days[np.is_busday(days, holidays=["2023-06-19", "2023-07-04", "2023-09-04", "2023-11-23"])]
    series = {}
    for name, last in (("A", len(days)), ("B", len(days)), ("GONE", len(days) - 5)):
        close = 50 * np.exp(np.cumsum(rng.normal(0, 0.01, last)))
        bars = np.stack([close, close, close, close, np.full(last, 9.0), close * 9], axis=1)
        series[name] = (days[:last], bars.astype(np.float32))
    store = store_from_dict(tmp_path / "store", series)
    config = finished_run(tiny_config(tmp_path, inference__answer="network"), store)
    found = look_ahead(config, 5)
    days = [str(day)[:10] for day in found.dates[0]]
    assert days == ["2023-12-26", "2023-12-27", "2023-12-28", "2023-12-29", "2024-01-02"]
    assert found.tickers == ["A", "B"] and found.left_out == {STALE: 1}


def test_what_stands_out_is_one_ticker_and_not_the_market() -> None:
    """A move that all tickers share is no news, nor is one that is usual for the ticker."""
    rng = np.random.default_rng(0)
    usual = rng.uniform(0.02, 0.1, 200)
    moves = 0.05 * usual * rng.normal(size=200) + 0.5 * usual
    moves[7] = 2.5 * usual[7]
    found = standing_out(moves, usual)
    assert np.nanargmax(np.abs(found)) == 7 and found[7] > 20
    np.testing.assert_allclose(found, standing_out(moves + 0.3 * usual, usual), atol=1e-9)
    assert np.isnan(standing_out(moves[:5], usual[:5])).all(), "five tickers are too few to compare with"


def test_a_usual_move_is_of_the_known_bars(world: tuple[Config, BarStore]) -> None:
    _, store = world
    from kronos.answers.answerer import ask

    date = store.sessions[100:101]
    rows = ask(store, ["T2"], date, "24/7", 4)
    place = int(rows.last[0])
    first = int(store.offsets[rows.ticker[0]])
    closes = store.bars[first : place + 1, 3].astype(float)
    expected = np.diff(np.log(closes)).std(ddof=1) * 2
    assert usual_moves(store, rows, 4)[0] == pytest.approx(expected)


def test_files_are_whole_or_not_there(
    world: tuple[Config, BarStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, store = world
    found = look_ahead(config, 3, groups={name: "even" for name in store.tickers[::2]}, pictures=2)
    with monkeypatch.context() as patch:
        patch.setattr("kronos.outlook.ahead_page.page.write", lambda *args, **values: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_outlook(found, tmp_path / "made")
    assert not list(tmp_path.iterdir())
    write_outlook(found, tmp_path / "made")
    with pytest.raises(KitError, match="expected a new folder"):
        write_outlook(found, tmp_path / "made")
    lines = list(csv.DictReader((tmp_path / "made" / "forecast.csv").open()))
    probs = [float(line["prob_up"]) for line in lines]
    assert probs == sorted(probs, reverse=True) and len(lines) == len(store.tickers)
    assert {line["group"] for line in lines} == {"even", ""}
    bars = list(csv.DictReader((tmp_path / "made" / "bars.csv").open()))
    assert len(bars) == 3 * len(store.tickers)
    for bar in bars:
        assert float(bar["low"]) <= float(bar["close"]) <= float(bar["high"])
        ends = [float(bar[name]) for name in bar if name.startswith("close_q")]
        assert ends == sorted(ends)
    text = (tmp_path / "made" / "index.html").read_text()
    assert text.count("<svg") == 2 and "P(rise) is not calibrated" in text and "even" in text
    assert "src=" not in text and 'href="http' not in text, "the page opens without a network"
    assert json.loads((tmp_path / "made" / "forecast.json").read_text()) == manifest(found)


def test_unusual_moves_are_listed_first(world: tuple[Config, BarStore], tmp_path: Path) -> None:
    config, _ = world
    found = look_ahead(config, 2, pictures=0)
    strange = np.zeros(len(found.tickers))
    strange[4], strange[2] = -9, 4
    changed_one = replace(found, strange=strange)
    assert changed_one.unusual().tolist() == [4, 2]
    write_outlook(changed_one, tmp_path / "made")
    text = (tmp_path / "made" / "index.html").read_text()
    part = text[text.index("Unusual expected moves") :]
    assert part.index(found.tickers[4]) < part.index(found.tickers[2]) < part.index("<h2>Tickers")


@pytest.mark.slow
def test_the_script_and_its_refusals(world: tuple[Config, BarStore], tmp_path: Path, root: Path) -> None:
    config, _store = world
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    (tmp_path / "pool.csv").write_text("ticker,sector\nT0,x\nT5,y\n")

    def run(*given: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, str(root / "scripts" / "forecast.py"), "--config", "config.json", *given]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    done = run("--days", "2", "--pool", "pool.csv", "--group", "sector", "--output", "out")
    assert done.returncode == 0 and "2 tickers, 2 trading days" in done.stdout, done.stderr
    assert (tmp_path / "out" / "index.html").is_file()
    done = run("--tickers", "NONE")
    assert done.returncode == 2 and "found 1 that it does not have (NONE)" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "forecasts").exists()


def test_a_pool_needs_its_columns(root: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("forecast_script", root / "scripts" / "forecast.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    pool, bad = str(tmp_path / "pool.csv"), str(tmp_path / "bad.csv")
    Path(pool).write_text("\ufeffticker,sector\nT0,x\nT5,\n", encoding="utf-8")
    Path(bad).write_text("name\nT0\n")
    assert script.chosen(None, pool, "sector") == (["T0", "T5"], {"T0": "x", "T5": ""})
    assert script.chosen("A, B,", None, None) == (["A", "B"], {})
    assert script.chosen(None, None, None) == (None, {})
    refusals = [
        ((None, None, "sector"), "--group: expected --pool FILE"),
        ((None, bad, None), "expected a column 'ticker', found name"),
        ((None, pool, "index"), "expected a column 'index', found ticker, sector"),
        (("A", pool, None), "expected --tickers or --pool, found both"),
    ]
    for given, line in refusals:
        with pytest.raises(KitError, match=re.escape(line)):
            script.chosen(*given)
