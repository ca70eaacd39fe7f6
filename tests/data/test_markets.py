"""Several markets in one data set: each ticker's horizon, gaps and dates are those of its own exchange."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from kronos.config import CleaningConfig, Config, DataConfig
from kronos.data import competition, data_checks
from kronos.data.calendar import open_days
from kronos.data.prepare import prepare
from kronos.data.quick import quick_checks, refuse_warnings
from kronos.data.store import BarStore
from kronos.data.survey import survey
from kronos.errors import KitError
from kronos.forecasting.rows import plan_rows

FIRST, LAST = "2023-01-03", "2023-06-16"
"""The 16th of June 2023 is a Friday; Monday the 19th is a holiday in New York, so the tests ask about other
weeks.
"""
ZONES = {"NYSE": "America/New_York", "XSHG": "Asia/Shanghai", "XHKG": "Asia/Hong_Kong"}


def bars(ticker: str, days: np.ndarray, seed: int) -> pl.DataFrame:
    close = 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.01, len(days))))
    prices = {
        "Open": close,
        "High": close + 1,
        "Low": close - 1,
        "Close": close,
        "Volume": np.arange(len(days)) + 100.0,
    }
    return pl.DataFrame({"Ticker": [ticker] * len(days), "Date": days.astype(str), **prices})


def prepared(frame: pl.DataFrame, folder: Path, **settings: object) -> BarStore:
    folder.mkdir(exist_ok=True)
    frame.write_csv(folder / "train.csv")
    data = DataConfig(
        data_path=str(folder / "train.csv"), store=str(folder / "store"), lookback_window=30, **settings
    )  # type: ignore[arg-type]
    return prepare(Config(data=data))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> BarStore:
    """A share and a coin in one file, until Friday the 9th of June 2023."""
    share = bars("AAPL", open_days("NYSE", FIRST, "2023-06-09"), 1)
    coin = bars("BTC", np.arange(np.datetime64(FIRST), np.datetime64("2023-06-10")), 2)
    return prepared(pl.concat([share, coin]), tmp_path_factory.mktemp("mixed"))


def test_friday_to_tuesday_is_two_sessions_of_a_share_and_four_of_a_coin(mixed: BarStore) -> None:
    """Keeps out: a coin's weekends as trading days of a share, which double its horizon."""
    asked = np.array(["2023-06-13"] * 2, "datetime64[s]")
    plan = plan_rows(mixed, ["AAPL", "BTC"], asked, calendar="NYSE", lookback=30, max_context=64)
    assert plan.horizon.tolist() == [2, 4]
    again = np.array(
        ["2023-05-02"] * 2, "datetime64[s]"
    )  # inside the data: Monday's close of the share is known then
    assert plan_rows(
        mixed, ["AAPL", "BTC"], again, calendar="NYSE", lookback=30, max_context=64
    ).horizon.tolist() == [1, 1]


def test_a_store_says_its_markets_and_weekends_are_no_gap_of_a_share(mixed: BarStore, tmp_path: Path) -> None:
    """Keeps out: a window of shares cut at weekends, where only the coin trades; an embargo of fewer own
    sessions than asked.
    """
    assert mixed.calendars("NYSE") == ["NYSE", "24/7"] and mixed.market is not None
    assert {entry["calendar"]: entry["tickers"] for entry in mixed.manifest["markets"]} == {
        "NYSE": 1,
        "24/7": 1,
    }
    frame = pl.read_csv(mixed.path.parent / "train.csv")
    strict = prepared(frame, tmp_path / "strict", cleaning=CleaningConfig(max_gap=0))
    assert len(strict.segments) == 2, "no session of its own market is missing in either ticker"
    assert mixed.span_of(5) >= 8 and mixed.span_of(0) == 0
    ahead = BarStore.open(mixed.path)
    assert (
        ahead.sessions_of(0).tolist()
        == open_days("NYSE", FIRST, "2023-06-09").astype("datetime64[s]").tolist()
    )


def exchanges(zone: bool) -> pl.DataFrame:
    """Three exchanges: dates, or the same midnights in UTC."""
    parts = []
    for number, (calendar, name) in enumerate(ZONES.items()):
        days = open_days(calendar, FIRST, LAST)
        part = bars(f"{calendar}.{number}", days, number)
        if zone:
            local = pl.col("Date").str.to_datetime("%Y-%m-%d", time_zone=name)
            part = part.with_columns(
                local.dt.convert_time_zone("UTC").dt.strftime("%Y-%m-%d %H:%M:%S+00:00").alias("Date")
            )
        parts.append(part)
    return pl.concat(parts).sort("Date")


def test_three_exchanges_in_utc_are_their_twin_with_dates(tmp_path: Path) -> None:
    """Keeps out: 120 days that become 360 because three midnights differ in UTC; Chinese dates a day
    early.
    """
    markets = {"XSHG.*": "XSHG", "XHKG.*": "XHKG"}
    twin = prepared(exchanges(zone=False), tmp_path / "twin", markets=markets)
    utc = prepared(exchanges(zone=True), tmp_path / "utc", markets=markets)
    assert utc.digest == twin.digest and utc.manifest["markets"] == twin.manifest["markets"]
    assert len(utc.sessions) < 125
    asked = np.array(["2023-06-21"] * 3, "datetime64[s]")
    for store in (twin, utc):
        plan = plan_rows(store, store.tickers, asked, calendar="NYSE", lookback=30, max_context=64)
        assert dict(zip(store.tickers, plan.horizon.tolist(), strict=True)) == {
            "NYSE.0": 2,
            "XHKG.2": 3,
            "XSHG.1": 3,
        }


def test_markets_are_found_or_the_run_stops(tmp_path: Path) -> None:
    """Keeps out: three exchanges of one file counted in the days of the first, without a word."""
    found = prepared(exchanges(zone=False), tmp_path / "found")
    assert {m["calendar"]: m["tickers"] for m in found.manifest["markets"]} == {
        "NYSE": 1,
        "XHKG": 1,
        "XSHG": 1,
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"markets": {".X": "LSE"}}, "expected a calendar among"),
        ({"markets": {"XSHG": ["nobody"]}}, "'nobody'"),
        ({"columns": {"market": "exchange"}}, "data.columns.market"),
        ({"timezone": "Mars/Olympus"}, "data.timezone"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(KitError, match=words):
        prepared(exchanges(zone=True).head(200), tmp_path, **settings)


def test_a_column_names_the_market(tmp_path: Path) -> None:
    frame = exchanges(zone=False).with_columns(
        exchange=pl.col("Ticker").str.slice(0, 4).replace({"NYSE": "New York"})
    )
    settings = {"columns": {"market": "exchange"}, "markets": {"New York": "NYSE"}}
    store = prepared(frame, tmp_path, **settings)
    assert store.calendars("NYSE") == ["NYSE", "XHKG", "XSHG"]


def test_quick_checks_are_few_lines_and_strict_stops(mixed: BarStore, tmp_path: Path) -> None:
    """Keeps out: a run of hours that begins with a horizon, a market or a column that nobody looked at."""
    (tmp_path / "test.csv").write_text("ID,Date\nAAPL,2023-06-13\nBTC,2023-06-13\n")
    config = Config(data=DataConfig(lookback_window=30, test_path=str(tmp_path / "test.csv")))
    results = quick_checks(mixed, config)
    assert len(results) <= 10 and {r.status for r in results} == {"ok"}
    assert "2 / 4 bars after the last one" in " ".join(r.line for r in results)
    refuse_warnings(results)
    (tmp_path / "test.csv").write_text("ID,Date\nAAPL,2023-06-13\nZZZ,2023-06-13\n")
    with pytest.raises(KitError, match=r"--strict.*ZZZ"):
        refuse_warnings(quick_checks(mixed, config))


@pytest.mark.parametrize(
    ("written", "calendar", "day"),
    [
        ("2023-06-20T16:00:00Z", "XSHG", "2023-06-21"),
        ("2023-06-20 16:00:00+00:00", "NYSE", "2023-06-20"),
        ("1687276800", "XSHG", "2023-06-21"),
        ("2023-06-21 00:00:00+08:00", "NYSE", "2023-06-21"),
        ("2023-06-21", "XSHG", "2023-06-21"),
    ],
)
def test_dates_of_the_test_file_are_the_exchanges(
    written: str, calendar: str, day: str, mixed: BarStore, tmp_path: Path
) -> None:
    """Keeps out: a test file in UTC that asks about the day before, while the prices are dated right."""
    (tmp_path / "test.csv").write_text(f"ID,Date\nA,{written}\n")
    data = DataConfig(calendar=calendar, store=str(tmp_path / "store"))
    found = competition.read_test(tmp_path / "test.csv", data)["Date"].to_numpy()
    assert found.astype("datetime64[D]")[0] == np.datetime64(day)
    if written[-1] == "Z":
        with pytest.raises(KitError, match=r"several markets \(NYSE, 24/7\).*write the day"):
            competition.read_test(tmp_path / "test.csv", DataConfig(store=str(mixed.path)))


def test_the_checks_count_each_tickers_own_days(mixed: BarStore, tmp_path: Path) -> None:
    """Keeps out: weekends as gaps of a share, a coin's weekend as a closed day, a Friday that "ends early"."""
    (tmp_path / "test.csv").write_text("ID,Date\nAAPL,2023-06-13\nBTC,2023-06-13\n")
    frame = pl.read_csv(mixed.path.parent / "train.csv")
    sunday = bars("BTC", np.array(["2023-06-10", "2023-06-11"], "datetime64[D]"), 3)
    pl.concat([frame, sunday]).write_csv(tmp_path / "train.csv")
    data = DataConfig(
        data_path=str(tmp_path / "train.csv"),
        test_path=str(tmp_path / "test.csv"),
        lookback_window=30,
        cleaning=CleaningConfig(max_gap=0),
    )
    evidence = data_checks.gather(Config(data=data))
    assert not evidence.problems
    for name in ("gaps", "one as-of day"):
        assert data_checks.check(name, evidence).status == "ok", data_checks.check(name, evidence).line
    assert "weekend" not in data_checks.check("dates", evidence).line
    assert survey(mixed).worst_gaps == []
