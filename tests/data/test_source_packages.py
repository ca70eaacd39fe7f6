"""Sources behind packages, against stand-ins whose frames have the real columns and types; without the
package, one line.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
import polars as pl
import pytest

from kronos import configfile
from kronos.config import Config
from kronos.data import sources
from kronos.data.sources import packages
from kronos.errors import KitError

DAYS = pd.bdate_range("2024-01-02", periods=60)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(packages, "BACK_OFF", 0.0)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a module of that name, with these attributes, in the place of the package."""

    def put(name: str, **attributes: Any) -> None:
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)

    return put


def config_of(name: str, symbols: str, *overrides: str, calendar: str = "XSHG") -> Config:
    Path("c.yaml").write_text(
        f"data: {{calendar: '{calendar}', predict_window: 5}}\nexperiment: {{pre_trained: false}}\n"
        f"source: {{name: {name}, symbols: '{symbols}', pause: 0, end: 2024-03-22}}\n"
    )
    return configfile.load("c.yaml", overrides)


def bars(config: Config) -> pl.DataFrame:
    sources.gather(config)
    return pl.read_parquet(str(config.data.data_path))


@pytest.mark.parametrize(
    ("name", "package", "symbol"),
    [
        ("yahoo", "yfinance", "AAPL"),
        ("akshare", "akshare", "600000"),
        ("baostock", "baostock", "600000"),
        ("ccxt", "ccxt", "A/B"),
    ],
)
def test_a_missing_package_is_one_line(
    name: str, package: str, symbol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def absent(asked: str) -> ModuleType:
        if asked == package:
            raise ModuleNotFoundError(f"No module named {asked!r}", name=asked)
        return real(asked)

    monkeypatch.setattr(packages.importlib, "import_module", absent)
    with pytest.raises(
        KitError, match=rf"{name}: expected the package {package}, found none; run: pip install {package}"
    ) as error:
        sources.check(config_of(name, symbol))
    assert "\n" not in str(error.value)


# -- yfinance: Ticker.history --------------------------------------------------------------------------------
def yahoo_frame(index: pd.DatetimeIndex) -> pd.DataFrame:
    close = pd.Series(range(len(index)), index=index, dtype=float) + 100
    return pd.DataFrame({"Open": close, "High": close + 1, "Low": close - 1, "Close": close, "Volume": 10})


def test_yahoo_dates_are_local_and_asked_once(install: Callable[..., None]) -> None:
    """The index has a zone: New York's midnight is not the day before in UTC. Its end is exclusive."""
    asked: list[dict[str, Any]] = []

    class Ticker:
        def __init__(self, symbol: str) -> None:
            self.symbol = symbol

        def history(self, **question: Any) -> pd.DataFrame:
            asked.append(question)
            index = pd.DatetimeIndex(DAYS.tz_localize("America/New_York"), name="Date")
            return yahoo_frame(index if self.symbol == "AAPL" else index[:0])

    install("yfinance", Ticker=Ticker)
    config = config_of("yahoo", "AAPL,NONE", "source.max_failed=0.5", calendar="NYSE")
    frame = bars(config)
    assert [str(day) for day in frame["date"]] == [
        str(day.date()) for day in DAYS if day <= pd.Timestamp("2024-03-22")
    ]
    assert frame["close"][0] == 100.0 and asked[0]["end"] == "2024-03-23" and asked[0]["auto_adjust"] is True
    assert "knows no bars" in Path("data/yahoo/source.json").read_text()
    count = len(asked)
    bars(config)
    assert len(asked) == count + 1  # only what failed


def test_yahoo_minutes(install: Callable[..., None]) -> None:
    times = pd.DatetimeIndex(
        pd.date_range("2024-01-02 09:30", periods=78, freq="5min", tz="America/New_York"), name="Datetime"
    )
    install("yfinance", Ticker=lambda symbol: SimpleNamespace(history=lambda **question: yahoo_frame(times)))
    frame = bars(config_of("yahoo", "AAPL", "source.frequency=5min", calendar="NYSE"))
    assert str(frame["date"][0]) == "2024-01-02 09:30:00" and frame.height == 78


# -- akshare: stock_zh_a_hist, stock_zh_a_hist_min_em --------------------------------------------------------
def test_akshare_lots_become_shares(install: Callable[..., None]) -> None:
    asked: list[dict[str, Any]] = []

    def stock_zh_a_hist(**question: Any) -> pd.DataFrame:
        asked.append(question)
        return pd.DataFrame(
            {
                "日期": [day.date() for day in DAYS], "股票代码": "600000", "开盘": 10.0, "收盘": 10.5, "最高": 11.0, "最低": 9.0,
                "成交量": 123, "成交额": 129150.0, "振幅": 1.0, "涨跌幅": 1.0, "涨跌额": 0.1, "换手率": 0.5,
            }
        )  # fmt: skip

    install("akshare", stock_zh_a_hist=stock_zh_a_hist)
    frame = bars(config_of("akshare", "sh600000", "source.begin=2024-01-02"))
    assert (frame["volume"][0], frame["amount"][0], frame["close"][0], frame["ticker"][0]) == (
        12300.0,
        129150.0,
        10.5,
        "sh600000",
    )
    assert asked == [
        {
            "symbol": "600000",
            "period": "daily",
            "start_date": "20240102",
            "end_date": "20240322",
            "adjust": "qfq",
        }
    ]


def test_akshare_minutes(install: Callable[..., None]) -> None:
    times = [f"2024-01-02 09:{minute}:00" for minute in range(35, 60, 5)]
    frame = pd.DataFrame(
        {
            "时间": times,
            "开盘": 1.0,
            "收盘": 1.0,
            "最高": 1.0,
            "最低": 1.0,
            "涨跌幅": 0.0,
            "涨跌额": 0.0,
            "成交量": 1,
            "成交额": 100.0,
            "振幅": 0.0,
        }
    )
    install("akshare", stock_zh_a_hist_min_em=lambda **question: frame)
    found = bars(config_of("akshare", "600000", "source.frequency=5min", "source.adjust=none"))
    assert str(found["date"][0]) == "2024-01-02 09:35:00" and found["volume"].to_list() == [100.0] * 5


# -- baostock: result sets of text ---------------------------------------------------------------------------
class Answer:
    def __init__(
        self, fields: list[str], rows: list[list[str]], code: str = "0", said: str = "success"
    ) -> None:
        self.fields, self.rows, self.error_code, self.error_msg, self.place = fields, rows, code, said, -1

    def next(self) -> bool:
        self.place += 1
        return self.place < len(self.rows)

    def get_row_data(self) -> list[str]:
        return self.rows[self.place]


def baostock(install: Callable[..., None], **attributes: Any) -> list[Any]:
    asked: list[Any] = []

    def query(code: str, names: str, **question: Any) -> Answer:
        asked.append((code, question))
        fields = names.split(",")
        if "time" in fields:
            rows = [["2024-01-02", "20240102093500000", code, "1", "2", "1", "2", "100", "150.0", "3"]]
            return Answer(fields, rows)
        rows = [
            [str(day.date()), code, "10.0", "11.0", "9.0", "10.5", "100", "1050.0", "1", "1", "0"]
            for day in DAYS
        ]
        rows[3][-2], rows[3][6], rows[3][7] = "0", "", ""
        return Answer(fields, rows)

    usual = {
        "login": lambda: Answer([], []), "logout": lambda: None, "query_history_k_data_plus": query,
    }  # fmt: skip
    install("baostock", **usual, **attributes)
    return asked


def test_baostock_leaves_suspended_days_out(install: Callable[..., None]) -> None:
    asked = baostock(install)
    frame = bars(config_of("baostock", "sh.600000", "source.begin=2024-01-02"))
    assert (
        frame.height == 59 - 1
        and frame["volume"].to_list() == [100.0] * 58
        and frame["ticker"][0] == "sh.600000"
    )
    assert asked[0][0] == "sh.600000" and asked[0][1]["adjustflag"] == "1" and asked[0][1]["frequency"] == "d"
    assert "suspended" in Path("data/baostock/source.json").read_text()
    minutes = bars(config_of("baostock", "000001", "source.frequency=5min", "data.data_path=m/bars.parquet"))
    assert str(minutes["date"][0]) == "2024-01-02 09:35:00"


def test_baostock_knows_the_members_of_csi300(install: Callable[..., None]) -> None:
    """Whoever was in the index at the start of a month belongs to it for that month, and is asked for."""

    def members(day: str) -> Answer:
        codes = ["sh.600000", "sh.600001"] if day < "2024-02" else ["sh.600001", "sh.600002"]
        return Answer(["updateDate", "code", "code_name"], [[day, code, "name"] for code in codes])

    asked = baostock(install, query_hs300_stocks=members)
    config = config_of("baostock", "", "source.pool=csi300", "source.begin=2024-01-02")
    assert set(bars(config)["ticker"]) == {"sh.600000", "sh.600001", "sh.600002"} and len(asked) == 3
    pool = pl.read_csv("data/baostock/pool.csv")
    assert pool.filter(pl.col("ticker") == "sh.600000").rows() == [("sh.600000", "2024-01-01", "2024-01-31")]
    assert pool.filter(pl.col("ticker") == "sh.600002").rows()[0] == ("sh.600002", "2024-02-01", "2024-02-29")
    bars(config)
    assert len(asked) == 3


def test_baostock_errors_are_one_line(install: Callable[..., None]) -> None:
    install("baostock", login=lambda: Answer([], [], "10001", "no network"), logout=lambda: None)
    with pytest.raises(KitError, match="baostock: expected a login, found 10001: no network"):
        sources.gather(config_of("baostock", "600000"))


# -- ccxt: pages of candles ----------------------------------------------------------------------------------
def test_ccxt_pages_until_the_end_without_the_open_candle(install: Callable[..., None]) -> None:
    day = 86_400_000
    now = int(pd.Timestamp.now("UTC").normalize().timestamp() * 1000)
    first = now - 1500 * day
    calls: list[int] = []

    class Kraken:
        def __init__(self, settings: dict[str, Any]) -> None:
            assert settings == {"enableRateLimit": True}

        def fetch_ohlcv(self, symbol: str, step: str, since: int, limit: int) -> list[list[float]]:
            calls.append(since)
            if len(calls) == 1:
                raise Busy("one moment")
            start = max(0, -(-(since - first) // day))
            return [
                [first + i * day, 1.0, 2.0, 0.5, 1.5, 10.0 + i]
                for i in range(start, min(start + limit, 1501))
            ]

    class Busy(Exception):
        pass

    install("ccxt", exchanges=["kraken"], kraken=Kraken, BaseError=Busy)
    config = config_of("ccxt", "BTC/USDT", "source.path=kraken", "source.end=", calendar="24/7")
    frame = bars(config)
    assert frame.height == 1500 and frame["date"].is_sorted() and frame["date"].n_unique() == 1500
    assert frame["ticker"][0] == "BTC/USDT" and [path.name for path in Path("data/ccxt/raw").iterdir()] == [
        "BTC%2FUSDT.daily.none.first.last.json"
    ]
    with pytest.raises(KitError, match="expects an exchange such as kraken"):
        sources.check(config_of("ccxt", "BTC/USDT", "source.path=nowhere"))
