"""Price files as people have them (tests/cases): each is read right, or refused in one line that says what to
do.

The layouts are those of public reports and services; the values are random walks made for this project.
"""

import logging
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from kronos.config import Config, DataConfig
from kronos.data import ingest, price_files
from kronos.data.calendar import TradingCalendar
from kronos.data.prepare import prepare
from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.forecasting.rows import plan_rows

CASES = Path(__file__).parents[1] / "cases"
PLAIN = pl.read_csv(CASES / "date_writings" / "ymd_slash_nopad.csv")
"""The walk that most of the files hold: 120 days from 2023-01-02."""
DAYS = np.arange("2023-01-02", "2023-06-17", dtype="datetime64[D]")
DAYS = DAYS[np.is_busday(DAYS)]


def read(name: str, **settings: object) -> ingest.Panel:
    return ingest.read(price_files.find_sources(str(CASES / name)), DataConfig(**settings))  # type: ignore[arg-type]


def prepared(name: str, folder: Path, **settings: object) -> BarStore:
    data = DataConfig(
        data_path=str(CASES / name), store=str(folder / "store"), lookback_window=30, **settings
    )  # type: ignore[arg-type]
    return prepare(Config(data=data))


# file -> (ticker, volume column is there)
SAME_WALK = [
    "akshare/000001_cn.csv",
    "akshare/000001_cn_gbk.csv",
    "date_writings/1digit_hour.csv",
    "date_writings/ampm.csv",
    "date_writings/cn.csv",
    "date_writings/gsheet.csv",
    "date_writings/mixed_pad.csv",
    "date_writings/nse.csv",
    "date_writings/rfc.csv",
    "date_writings/us_short.csv",
    "date_writings/us_words.csv",
    "date_writings/ymd_slash_nopad.csv",
    "decimal_comma/quoted.csv",
    "decimal_comma/semicolons.csv",
    "footer/barchart.csv",
    "footer/renamed.csv",
    "tradingview/NASDAQ_AAPL_1D_unix.csv",
]


@pytest.mark.parametrize("name", SAME_WALK)
def test_the_same_days_and_prices_come_out_of_every_writing(name: str) -> None:
    """Keeps out: days shifted by a zone, 100,38 read as 10038, a footer taken for a bar, GBK or Chinese names
    refused.
    """
    panel = read(name)
    expected = PLAIN.select(pl.col("Open", "High", "Low", "Close", "Volume").cast(pl.Float32)).to_numpy()
    np.testing.assert_array_equal(panel.values[:, :5], expected)
    np.testing.assert_array_equal(panel.sessions.astype("datetime64[D]"), DAYS)
    assert panel.frequency == "daily" and len(panel.tickers) == 1


@pytest.mark.parametrize(
    "name", ["yfinance_three_headers/AAPL.csv", "yfinance_three_headers/user_renamed_first_cell.csv"]
)
def test_three_lines_of_names(name: str) -> None:
    """Keeps out: yfinance's download refused, or its ticker lost."""
    panel = read(name)
    assert panel.tickers == ["AAPL"] and panel.read == 120
    np.testing.assert_allclose(panel.values[:, 3], PLAIN["Close"].to_numpy(), atol=0.006)


def test_tickers_side_by_side() -> None:
    """Keeps out: the columns of the second ticker lost or mixed with those of the first."""
    panel = read("yfinance_three_headers/group_by_ticker.csv")
    assert panel.tickers == ["AAPL", "MSFT"] and panel.offsets.tolist() == [0, 120, 240]
    np.testing.assert_allclose(panel.values[120:, :4], 2 * panel.values[:120, :4], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("date_writings/two_digit.csv", "expected YYYY-MM-DD"),
        ("date_writings/edt.csv", "expected YYYY-MM-DD"),
        ("utc_daily/cn.csv", "data.timezone"),
        ("mixed_frequency/prices", "BTC_1d.csv (daily), ETH_1w.csv (weekly)"),
    ],
)
def test_what_is_not_certain_stops_with_its_remedy(name: str, remedy: str) -> None:
    """Keeps out: dates a day early, weeks and hours as days, a guess at a century."""
    with pytest.raises(KitError) as caught:
        read(name)
    assert remedy in str(caught.value) and "\n" not in str(caught.value)


def test_several_companies_by_code() -> None:
    """Keeps out: the worst of all, two companies' rows as one ticker that alternates between their prices."""
    panel = read("ts_code.csv")
    assert panel.tickers == ["sh.600000", "sz.000001"] and np.diff(panel.offsets).tolist() == [300, 300]
    assert panel.ignored == ["adjustflag", "turn", "tradestatus", "pctChg", "isST"]


def test_unknown_ticker_column_stops_and_is_named_by_the_mapping(tmp_path: Path) -> None:
    """Keeps out: a collapse into one ticker where the company column has a name that nobody knows."""
    table = (CASES / "ts_code.csv").read_text().replace("ts_code", "wertpapier", 1)
    (tmp_path / "a.csv").write_text(table)
    with pytest.raises(KitError, match=r"300 of 600 rows.*data\.columns: \{ticker: wertpapier\}"):
        ingest.read([tmp_path / "a.csv"])
    panel = ingest.read([tmp_path / "a.csv"], DataConfig(columns={"ticker": "Wertpapier"}))
    assert panel.tickers == ["sh.600000", "sz.000001"]


def test_money_is_told_from_a_ratio(caplog: pytest.LogCaptureFixture) -> None:
    """Keeps out: a turnover ratio of 0.001 stored as money."""
    caplog.set_level(logging.INFO)
    both = read("akshare/sina_daily.csv")
    assert {"volume", "amount"} <= both.roles and both.values[0, 5] > 1e8 and "turnover" in both.ignored
    ratio = read("akshare/tx_turnover_rate_only.csv")
    assert "amount" not in ratio.roles and "turnover" in ratio.ignored and "taken for a ratio" in caplog.text


def test_amount_without_volume_follows_the_forecasters_rule(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Keeps out: a volume of 0 in the store where the Python interface derives one; a missing volume that
    nobody mentions.
    """
    caplog.set_level(logging.INFO)
    store = prepared("akshare/tx_amount_is_lots.csv", tmp_path)
    mean = store.bars[:, :4].astype(np.float64).mean(axis=1)
    np.testing.assert_allclose(store.bars[:, 4], store.bars[:, 5] / mean, rtol=1e-5)
    assert "no volume column: volume = amount / mean price" in caplog.text


@pytest.mark.parametrize("name", ["header", "noheader", "timestamp"])
def test_epochs_with_and_without_names(name: str) -> None:
    """Keeps out: milliseconds refused, an archive without names refused, hours of a coin counted in the days
    of an exchange.
    """
    panel = read(f"binance_epoch/BTCUSDT-1h-{name}.csv")
    assert (
        str(panel.sessions[0]) == "2024-09-10T00:00:00" and panel.frequency == "60min" and panel.read == 300
    )
    assert [market.calendar for market in panel.markets] == ["24/7"]
    np.testing.assert_allclose(
        panel.values[0], [100.00144886, 100.03134368, 99.9937, 100.01890713, 63983, 6399509.7346], rtol=1e-6
    )


@pytest.mark.parametrize("name", ["Bitstamp_BTCUSD_d.csv", "Bitstamp_BTCUSD_d_noline1.csv"])
def test_a_title_before_the_names(name: str) -> None:
    """Keeps out: a first line with an address that hides the names; two volumes, of which one is money."""
    panel = read(f"cryptodatadownload/{name}")
    assert panel.tickers == ["BTC/USD"] and panel.roles >= {"volume", "amount"} and panel.ignored == ["unix"]
    np.testing.assert_allclose(panel.values[-1, 3:], [93.99, 579.13, 54430.59], rtol=1e-6)


def test_suffixes_and_thousands() -> None:
    """Keeps out: 4,699.34 and 57.91K refused, or a volume that silently becomes 0 because it is called
    Vol.
    """
    panel = read("investing_com/historical_data.csv")
    np.testing.assert_allclose(panel.values[-1, :5], [4655.03, 4707.02, 4644.71, 4699.34, 57910], rtol=1e-6)


def test_numbers_that_plain_reading_takes_stay_plain() -> None:
    """30.373 beside 1003.82 is a number with a point: nothing in the file says otherwise."""
    assert read("decimal_comma/german_thousands_parquetless.csv").values[0, 4] == np.float32(30.373)


def test_stooq_in_two_columns() -> None:
    """Keeps out: names in <> refused, the time of day cut off so that 5 minutes become days."""
    daily, minutes = read("stooq/aapl.us.txt"), read("stooq/aapl5_nobrackets.csv")
    assert daily.tickers == minutes.tickers == ["AAPL.US"]
    assert daily.frequency == "daily" and minutes.frequency == "5min"
    assert str(minutes.sessions[0]) == "2024-01-02T15:30:00"


def test_hours_with_an_offset_are_the_exchanges() -> None:
    panel = read("tradingview/NASDAQ_AAPL_60_iso.csv")
    assert panel.frequency == "60min" and str(panel.sessions[0]) == "2024-01-02T09:30:00"


@pytest.mark.parametrize(("name", "calendar"), [("cn", "XSHG"), ("us", "NYSE")])
def test_days_in_utc_are_the_exchanges(name: str, calendar: str) -> None:
    """Keeps out: dates one day early, Sundays that trade."""
    panel = read(f"utc_daily/{name}.csv", calendar=calendar)
    np.testing.assert_array_equal(panel.sessions.astype("datetime64[D]"), DAYS)
    if name == "cn":
        zone = read("utc_daily/cn.csv", timezone="Asia/Tokyo")
        np.testing.assert_array_equal(zone.sessions.astype("datetime64[D]"), DAYS)


@pytest.mark.parametrize(("name", "date", "frequency", "steps"), [
    ("monthly", "2015-03-01", "monthly", 3), ("btc_4h", "2024-03-01T04:00", "240min", 2),
])  # fmt: skip
def test_odd_frequencies_have_right_horizons(
    name: str, date: str, frequency: str, steps: int, tmp_path: Path
) -> None:
    """Keeps out: a horizon of 12 weeks where 3 months are asked for; 4-hour bars refused."""
    store = prepared(f"odd_frequency/{name}.csv", tmp_path)
    assert store.frequency == frequency
    plan = plan_rows(
        store, [name], np.array([date], "datetime64[s]"), calendar="NYSE", lookback=30, max_context=64
    )
    assert plan.horizon.tolist() == [steps] and plan.reason.tolist() == [""]


def test_minutes_of_any_name() -> None:
    assert read("odd_frequency/btc_3m.csv").frequency == "3min"


def test_a_file_a_month_is_one_ticker(tmp_path: Path) -> None:
    """Keeps out: one coin as three tickers, of which none has the name that the test file asks for."""
    store = prepared(
        "monthly_files/BTCUSDT-1h", tmp_path, test_path=str(CASES / "monthly_files" / "test.csv")
    )
    assert store.tickers == ["BTCUSDT"] and len(store) == 2184 and store.calendars("NYSE") == ["24/7"]


def test_lost_zeros_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Keeps out: half of the IDs without a history, and no word that 000001 is there as 1."""
    caplog.set_level(logging.INFO)
    prepared("leading_zeros/train.csv", tmp_path, test_path=str(CASES / "leading_zeros" / "test.csv"))
    assert "000001 is 1 in the price file, which lost its zeros" in caplog.text


def test_names_that_look_like_nothing() -> None:
    panel = read("null_like_tickers/train.csv")
    assert {"NA", "NAN", "NULL", "None", "N/A", "-", "INF", "TRUE", "1E5", "00700"} == set(panel.tickers)


def test_negative_prices_halts_and_the_future(tmp_path: Path) -> None:
    """Rows that no bar can be made of are dropped and counted, halted days are repaired from their close."""
    oil = prepared("negative_oil/CL=F.csv", tmp_path / "oil")
    assert (oil.bars[:, :4] > 0).all() and oil.manifest["cleaning"]["non_positive_price"]["found"] > 0
    halted = prepared("halted_zero_ohl/day_all.csv", tmp_path / "halted")
    assert (halted.bars[:, :4] > 0).all()
    future = prepared("yahoo_future_nan/TGT.csv", tmp_path / "future")
    assert (
        str(future.sessions[-1])[:10] == "2023-06-16"
        and future.manifest["cleaning"]["duplicate"]["dropped"] == 1
    )
    prepared("yahoo_future_nan/ATR.WA.csv", tmp_path / "warsaw")


def test_a_lunch_break_is_no_gap(tmp_path: Path) -> None:
    store = prepared("lunch_break/600977.csv", tmp_path, calendar="XSHG")
    assert store.frequency == "5min" and len(store.segments) == 1
    calendar = TradingCalendar(store.sessions, "XSHG", "5min")
    ahead = calendar.future(store.sessions[-1], 30).astype(str).tolist()
    assert ahead[0].endswith("09:35:00") and ahead[24].endswith("13:05:00")
