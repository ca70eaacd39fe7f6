"""Every source against a service that misbehaves: what was kept is not asked again, no half file, one line a
failure, and more failures than source.max_failed stop. Sina's are in test_sources.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from price_server import BLOCK, CUT, CUT_SILENTLY, ELSEWHERE, HTML, SLOW, PriceServer, alone, serving
from test_source_packages import DAYS, Answer, yahoo_frame
from test_sources import candles, raw, serve_month

from kronos import configfile
from kronos.config import Config
from kronos.data import sources
from kronos.data.sources import binance, fetch, packages
from kronos.errors import KitError

MONTHS = ("2024-10", "2024-11", "2024-12")


def config_of(name: str, symbols: str, *more: str, calendar: str = "24/7") -> Config:
    Path("config.yaml").write_text(
        f"data: {{lookback_window: 20, predict_window: 5, calendar: '{calendar}'}}\n"
        "experiment: {pre_trained: false}\n"
        f"source: {{name: {name}, symbols: '{symbols}', pause: 0}}\n"
    )
    return configfile.load("config.yaml", more)


def one_warning(caplog: pytest.LogCaptureFixture, symbol: str) -> str:
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and symbol in r.getMessage()]
    assert len(said) == 1 and "\n" not in said[0]
    return said[0]


# -- Binance: a loopback server ------------------------------------------------------------------------------
@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PriceServer]:
    alone(tmp_path, monkeypatch)
    with serving() as server:
        monkeypatch.setattr(binance, "BASE", f"{server.url}/spot")
        for month in MONTHS:
            serve_month(server, month, candles(month, "ms"))
        yield server


def archive(month: str, pair: str = "BTCUSDT") -> str:
    return f"/spot/monthly/klines/{pair}/1d/{pair}-1d-{month}.zip"


def three_months(symbols: str = "BTCUSDT", *more: str) -> Config:
    return config_of("binance", symbols, "source.begin=2024-10-01", "source.end=2024-12-31", *more)


@pytest.mark.parametrize("what", ["zip", "checksum"])
@pytest.mark.parametrize("step", [503, 429, CUT, CUT_SILENTLY, SLOW], ids=str)
def test_binance_a_second_try_helps(
    service: PriceServer, step: Any, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy server, a cut body and one that drips, for the archive itself and for its digest."""
    monkeypatch.setattr(fetch, "DEADLINE", 0.5)
    path = archive("2024-11") + (".CHECKSUM" if what == "checksum" else "")
    service.whole = whole = service.answers[path]
    if what == "checksum":
        whole = service.whole = whole[:64]
    service.answers[path] = [step, whole]
    config = three_months()
    sources.gather(config)
    assert service.asked.count(path) == 2 and len(raw(config)) == 3


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (403, "HTTP 403"),
        (503, "HTTP 503"),
        (b"null", "SHA-256"),
        (b"callback([1]);", "SHA-256"),
        (HTML, "web page"),
        (CUT, "cut off"),
        (CUT_SILENTLY, "SHA-256"),
        (SLOW, "not complete"),
        (ELSEWHERE, "another place"),
        (b"", "empty answer"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_binance_a_failure_is_one_line_and_goes_on_from_there(
    service: PriceServer,
    step: Any,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Keeps out: a month quietly missing, half a zip, months asked for twice."""
    monkeypatch.setattr(fetch, "DEADLINE", 0.3)
    path = archive("2024-11")
    service.whole = whole = service.answers[path]
    service.answers[path] = step
    config = three_months()
    with pytest.raises(KitError, match=rf"at most 0 of 1 symbols.*BTCUSDT: .*{said}") as error:
        sources.gather(config)
    assert "\n" not in str(error.value) and said in one_warning(caplog, "BTCUSDT")
    assert raw(config) == ["BTCUSDT.daily.2024-10.zip"]
    service.answers[path] = whole
    service.asked.clear()
    sources.gather(config)
    assert archive("2024-10") not in service.asked and len(raw(config)) == 3


def test_binance_a_pair_may_fail(service: PriceServer) -> None:
    """source.max_failed lets the others through; what failed is in the receipt."""
    for month in MONTHS:
        serve_month(service, month, candles(month, "ms"), "ETHUSDT")
    service.answers[archive("2024-11", "ETHUSDT")] = 403
    config = three_months("BTCUSDT,ETHUSDT", "source.max_failed=0.5")
    sources.gather(config)
    text = Path("data/binance/source.json").read_text()
    assert "HTTP 403" in text and '"tickers": 1' in text


KILLED = """
import sys
from kronos import configfile
from kronos.data import sources
from kronos.data.sources import binance
binance.BASE = sys.argv[1] + "/spot"
sources.gather(configfile.load("config.yaml", sys.argv[2:]))
"""


def test_binance_a_kill_in_the_middle_leaves_whole_files(service: PriceServer, root: Path) -> None:
    path = archive("2024-11")
    service.whole = whole = service.answers[path]
    service.answers[path] = BLOCK
    dates = ("source.begin=2024-10-01", "source.end=2024-12-31")
    config = three_months()
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, service.url, *dates], env=os.environ | {"PYTHONPATH": str(root)}
    )
    deadline = time.monotonic() + 60
    while path not in service.asked and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert raw(config) == ["BTCUSDT.daily.2024-10.zip"] and not Path("data/binance/source.json").exists()
    service.open.set()
    service.answers[path] = whole
    service.asked.clear()
    sources.gather(config)
    assert archive("2024-10") not in service.asked and len(raw(config)) == 3


# -- packages: stand-ins with the real frames' columns -------------------------------------------------------
class Service:
    """What a stand-in gives about a symbol: frames, or what the package raises."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.steps: dict[str, list[Any]] = {}

    def give(self, symbol: str, whole: Callable[[], Any]) -> Any:
        self.asked.append(symbol)
        steps = self.steps.get(symbol, [])
        step = steps.pop(0) if len(steps) > 1 else (steps[0] if steps else None)
        if isinstance(step, BaseException):
            raise step
        return whole() if step is None else step


def eastmoney() -> pd.DataFrame:
    days = [day.date() for day in DAYS]
    prices = {"股票代码": "600000", "开盘": 10.0, "收盘": 10.5, "最高": 11.0, "最低": 9.0}
    rest = {"成交量": 1, "成交额": 1050.0, "振幅": 1.0, "涨跌幅": 1.0, "涨跌额": 0.1, "换手率": 0.5}
    return pd.DataFrame({"日期": days, **prices, **rest})


def baostock_rows(names: str) -> Answer:
    rows = [[str(day.date()), "x", "10", "11", "9", "10", "100", "1000", "1", "1", "0"] for day in DAYS]
    return Answer(names.split(","), rows)


def candles_of(since: int, limit: int) -> list[list[float]]:
    first = int(pd.Timestamp("2024-01-01").timestamp() * 1000)
    rows = [[first + i * 86_400_000, 1.0, 2.0, 0.5, 1.5, 10.0] for i in range(60)]
    return [row for row in rows if row[0] >= since][:limit]


def stand_in(name: str, service: Service) -> ModuleType:
    """The package of a source, as far as the source calls it."""
    module = ModuleType(name)
    if name == "yfinance":
        index = pd.DatetimeIndex(DAYS.tz_localize("America/New_York"), name="Date")
        module.Ticker = lambda symbol: SimpleNamespace(  # type: ignore[attr-defined]
            history=lambda **question: service.give(symbol, lambda: yahoo_frame(index))
        )
    elif name == "akshare":
        module.stock_zh_a_hist = lambda **q: service.give(q["symbol"], eastmoney)  # type: ignore[attr-defined]
    elif name == "baostock":
        module.login = lambda: Answer([], [])  # type: ignore[attr-defined]
        module.logout = lambda: None  # type: ignore[attr-defined]
        module.query_history_k_data_plus = (
            lambda code, names, **q: service.give(  # type: ignore[attr-defined]
                code[3:], lambda: baostock_rows(names)
            )
        )
    else:
        module.BaseError = type("BaseError", (Exception,), {})  # type: ignore[attr-defined]
        module.exchanges = ["kraken"]  # type: ignore[attr-defined]
        module.kraken = lambda settings: SimpleNamespace(  # type: ignore[attr-defined]
            fetch_ohlcv=lambda symbol, step, since, limit: service.give(
                symbol, lambda: candles_of(since, limit)
            )
        )
    return module


SOURCES = {
    # name: package, good symbol, bad symbol, settings, calendar, an answer without bars
    "yahoo": ("yfinance", "AAPL", "MSFT", (), "NYSE", yahoo_frame(DAYS[:0])),
    "akshare": ("akshare", "600000", "600001", (), "XSHG", pd.DataFrame()),
    "baostock": ("baostock", "600000", "600001", (), "XSHG", Answer(["date"], [])),
    "ccxt": ("ccxt", "BTC/USDT", "ETH/USDT", ("source.path=kraken",), "24/7", []),
}


@pytest.fixture(params=SOURCES)
def packaged(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Service]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(packages, "BACK_OFF", 0.0)
    service = Service()
    package = SOURCES[request.param][0]
    monkeypatch.setitem(sys.modules, package, stand_in(package, service))
    return request.param, service


def asked_for(name: str, *more: str) -> tuple[Config, str, str]:
    _, good, bad, settings, calendar, _ = SOURCES[name]
    return config_of(name, f"{good},{bad}", *settings, *more, calendar=calendar), good, bad


def test_a_package_that_is_busy_is_asked_again_and_only_for_what_is_missing(
    packaged: tuple[str, Service],
) -> None:
    name, service = packaged
    config, _, bad = asked_for(name)
    service.steps[bad] = [ConnectionError("one moment"), ConnectionError("one moment"), None]
    sources.gather(config)
    assert len(raw(config)) == 2 and service.asked.count(bad) >= 3
    service.asked.clear()
    sources.gather(config)
    assert not service.asked


@pytest.mark.parametrize("step", ["no bars", "error", "strange"])
def test_a_package_without_an_answer_is_one_line_and_max_failed_decides(
    packaged: tuple[str, Service], step: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Keeps out: an empty frame kept as an answer, a traceback of a package, a symbol quietly missing."""
    name, service = packaged
    config, good, bad = asked_for(name)
    answers = {
        "no bars": SOURCES[name][5],
        "error": ConnectionError("two\nlines"),
        "strange": KeyError("data"),
    }
    service.steps[bad] = [answers[step]]
    with pytest.raises(KitError, match=rf"at most 0 of 2 symbols.*{bad}") as error:
        sources.gather(config)
    assert "\n" not in str(error.value)
    one_warning(caplog, bad)
    assert len(raw(config)) == 1, "nothing is kept of a symbol without bars"
    service.asked.clear()
    tolerant, _, _ = asked_for(name, "source.max_failed=0.5")
    sources.gather(tolerant)
    assert set(service.asked) == {bad}
    assert (
        good in Path(f"data/{name}/pool.csv").read_text()
        and bad in Path(f"data/{name}/source.json").read_text()
    )


def test_a_kill_while_a_package_answers_leaves_whole_files(packaged: tuple[str, Service]) -> None:
    """What arrived before is whole, and nothing has the name of what had not arrived."""
    name, service = packaged
    config, _, bad = asked_for(name)
    service.steps[bad] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        sources.gather(config)
    assert len(raw(config)) == 1 and not Path(f"data/{name}/source.json").exists()
    service.steps.clear()
    service.asked.clear()
    sources.gather(config)
    assert set(service.asked) == {bad} and len(raw(config)) == 2
