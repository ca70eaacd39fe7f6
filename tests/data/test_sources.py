"""Sources against a loopback server: what is kept, what is refused, what a kill leaves, what is never asked
twice.
"""

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from price_server import (
    BLOCK,
    CUT,
    CUT_SILENTLY,
    ELSEWHERE,
    HTML,
    SAME_HOST,
    SLOW,
    PriceServer,
    alone,
    serving,
)

from kronos import configfile
from kronos.config import Config
from kronos.data import sources
from kronos.data.prepare import open_store, prepare
from kronos.data.sources import binance, fetch, sina
from kronos.data.sources.answers import json_of
from kronos.errors import KitError

DAYS = [str(day) for day in np.arange("2024-01-01", "2024-07-01", dtype="datetime64[D]") if np.is_busday(day)]


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PriceServer]:
    alone(tmp_path, monkeypatch)
    with serving() as server:
        monkeypatch.setattr(sina, "US", f"{server.url}/us")
        monkeypatch.setattr(sina, "CN", f"{server.url}/cn")
        monkeypatch.setattr(sina, "FACTORS", f"{server.url}/factors")
        monkeypatch.setattr(binance, "BASE", f"{server.url}/spot")
        yield server


def config_of(name: str, symbols: str = "", *more: str) -> Config:
    path = Path("config.yaml")
    path.write_text(
        "data: {lookback_window: 20, predict_window: 5}\nexperiment: {pre_trained: false}\n"
        f"source: {{name: {name}, symbols: '{symbols}', pause: 0}}\n"
    )
    return configfile.load(path, more)


def us_bars(scale: float = 1.0, days: list[str] = DAYS) -> bytes:
    """Sina's US form: all numbers are text."""
    rows = [
        {"d": day, "o": f"{scale * (10 + i):.4f}", "h": f"{scale * (12 + i):.4f}", "l": f"{scale * (9 + i):.4f}",
         "c": f"{scale * (11 + i):.4f}", "v": str(1000 + i)}
        for i, day in enumerate(days)
    ]  # fmt: skip
    return json.dumps(rows).encode()


def us(symbol: str) -> str:
    return f"/us?symbol={symbol}&___qn=3n"


def bars(config: Config) -> pl.DataFrame:
    return pl.read_parquet(str(config.data.data_path))


def receipt(config: Config) -> dict[str, Any]:
    return json.loads((Path(str(config.data.data_path)).parent / "source.json").read_text())


def raw(config: Config) -> list[str]:
    return sorted(path.name for path in (Path(str(config.data.data_path)).parent / "raw").iterdir())


# -- US stocks of Sina ---------------------------------------------------------------------------------------
def test_what_is_kept_is_not_asked_again(service: PriceServer) -> None:
    """Keeps out: a rerun that asks everything again, text for numbers, a store of another day."""
    service.answers = {us("AAPL"): us_bars(), us("MSFT"): us_bars(3)}
    config = config_of("sina", "AAPL,MSFT")
    store = prepare(config)
    assert store.tickers == ["AAPL", "MSFT"] and len(store) == 2 * len(DAYS)
    assert len(service.asked) == 2 and all("Mozilla" in headers["User-Agent"] for headers in service.headers)
    assert raw(config) == ["AAPL.daily.json", "MSFT.daily.json"]
    assert (Path("data/sina/raw/AAPL.daily.json")).read_bytes() == us_bars()  # the service's own answer
    frame = bars(config).filter(pl.col("ticker") == "MSFT")
    assert frame["close"][0] == 33.0 and str(frame["date"][0]) == DAYS[0] and frame["volume"][1] == 1001.0
    facts = receipt(config)
    assert (facts["volume"], facts["money"], facts["zone"]) == (
        "shares",
        "USD",
        "America/New_York",
    ) and facts["failed"] == {}
    assert set(facts["raw"]) == set(raw(config)) and facts["digests"].keys() == {"bars.parquet", "pool.csv"}
    written = Path("data/sina/bars.parquet").stat().st_mtime_ns
    again = prepare(config)
    assert again.digest == store.digest and len(service.asked) == 2
    assert Path("data/sina/bars.parquet").stat().st_mtime_ns == written
    assert open_store(config).digest == store.digest


def test_a_changed_source_is_not_taken_for_the_old_one(service: PriceServer) -> None:
    """Keeps out: a training process that reads prices of other settings, or asks a service by itself."""
    service.answers = {us("AAPL"): us_bars()}
    prepare(config_of("sina", "AAPL"))
    changed = config_of("sina", "AAPL", "source.begin=2024-03-01")
    with pytest.raises(KitError, match=r"prepare_data\.py"):
        open_store(changed)
    store = prepare(changed)
    assert str(store.sessions[0])[:10] == "2024-03-01" and len(service.asked) == 1
    taken = config_of("sina", "AAPL", "source.skip=true")
    assert open_store(taken).digest == store.digest == prepare(taken).digest
    Path("data/sina/bars.parquet").write_bytes(b"damaged")
    assert prepare(changed).digest == store.digest


@pytest.mark.parametrize("step", [503, 429, CUT, CUT_SILENTLY, SLOW], ids=str)
def test_a_second_try_helps(service: PriceServer, step: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Busy, too many requests, a body cut off with and without a length, a body that drips."""
    monkeypatch.setattr(fetch, "DEADLINE", 0.5)
    service.whole = us_bars()
    service.answers = {us("AAPL"): [step, us_bars()]}
    prepare(config_of("sina", "AAPL"))
    assert len(service.asked) == 2


@pytest.mark.parametrize(
    ("step", "said", "tries"),
    [
        (403, "HTTP 403", 1),
        (404, "HTTP 404", 1),
        (503, "HTTP 503", fetch.TRIES),
        (b"null", "knows no bars", 1),
        (b"[]", "knows no bars", 1),
        (HTML, "web page", 1),
        (b'{"a": 1}', "list of bars", 1),
        (b'[{"day": "2024-01-02"}]', "none named d", 1),
        (b'[{"d": "2024-01-02", "o": "1', "only a part", fetch.TRIES),
        (b"[" * 5000, "no JSON", fetch.TRIES),
        (CUT, "cut off", fetch.TRIES),
        (SLOW, "not complete", fetch.TRIES),
        (ELSEWHERE, "another place", 1),
        (b"", "empty answer", fetch.TRIES),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_failure_is_one_line_and_stops_above_max_failed(
    service: PriceServer,
    step: Any,
    said: str,
    tries: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Keeps out: a page for people read as prices, a share quietly missing, a half file, an endless wait."""
    monkeypatch.setattr(fetch, "DEADLINE", 0.3)
    service.whole = us_bars()
    service.answers = {us("GOOD"): us_bars(), us("BAD"): step}
    config = config_of("sina", "GOOD,BAD")
    with pytest.raises(KitError, match=rf"at most 0 of 2 symbols.*BAD: .*{said}") as error:
        prepare(config)
    assert "\n" not in str(error.value) and len(service.asked) == 1 + tries
    assert raw(config) == ["GOOD.daily.json"]
    warnings = [
        record.getMessage()
        for record in caplog.records
        if record.levelname == "WARNING" and "BAD" in record.message
    ]
    assert len(warnings) == 1 and "\n" not in warnings[0]
    service.asked.clear()
    tolerant = config_of("sina", "GOOD,BAD", "source.max_failed=0.5")
    assert prepare(tolerant).tickers == ["GOOD"]
    assert said in receipt(tolerant)["failed"]["BAD"] and us("GOOD") not in service.asked


def test_redirects_stay_on_the_host_and_sizes_are_bounded(service: PriceServer) -> None:
    fetcher = fetch.Fetcher(0)
    service.answers = {"/same": SAME_HOST, "/loop": SAME_HOST, "/big": b"x" * 5000}
    assert fetcher.get(f"{service.url}/same") == service.whole
    with pytest.raises(fetch.Refused, match="more than 4,000 bytes"):
        fetcher.get(f"{service.url}/big", largest=4000)
    for address in ("http://example.com/a", "file:///etc/passwd", "ftp://example.com/a"):
        with pytest.raises(KitError, match="https"):
            fetcher.get(address)


def test_the_pause_is_kept(service: PriceServer) -> None:
    service.answers = {"/a": b"1"}
    fetcher = fetch.Fetcher(0.15)
    started = time.monotonic()
    for _ in range(3):
        fetcher.get(f"{service.url}/a")
    assert time.monotonic() - started >= 0.3


KILLED = """
import sys
from pathlib import Path
from kronos import configfile
from kronos.data import sources
from kronos.data.sources import sina
sina.US = sys.argv[1] + "/us"
sources.gather(configfile.load("config.yaml"))
"""


def test_a_kill_in_the_middle_leaves_whole_files(service: PriceServer, root: Path) -> None:
    """Keeps out: a half answer under the name of a whole one, and starting over."""
    service.whole = us_bars(7)
    service.answers = {us("A"): us_bars(), us("B"): BLOCK, us("C"): us_bars(2)}
    config = config_of("sina", "A,B,C")
    environment = os.environ | {"PYTHONPATH": str(root)}
    child = subprocess.Popen([sys.executable, "-c", KILLED, service.url], env=environment)
    deadline = time.monotonic() + 60
    while us("B") not in service.asked and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert raw(config) == ["A.daily.json"] and not Path("data/sina/source.json").exists()
    service.open.set()
    service.asked.clear()
    store = prepare(config)
    assert store.tickers == ["A", "B", "C"] and service.asked == [us("B"), us("C")]


def test_symbols_come_from_a_list_a_text_or_a_column(service: PriceServer) -> None:
    Path("names.csv").write_text("name,symbol\nApple,AAPL\nPoint,BRK.B\n")
    service.answers = {"/us": us_bars()}
    assert prepare(config_of("sina", "names.csv")).tickers == ["AAPL", "BRK.B"]
    assert prepare(config_of("sina", "", "source.symbols=[MSFT, 'A/../B']")).tickers == ["A/../B", "MSFT"]
    assert all(
        path.parent == Path("data/sina/raw")
        for path in Path("data").rglob("*.json")
        if path.name != "source.json"
    )


def test_what_cannot_be_asked_is_said_before_anything_is(service: PriceServer, tmp_path: Path) -> None:
    for config, said in [
        (config_of("sina"), "source.symbols: sina expects what to ask for"),
        (config_of("binance"), "pairs such as BTCUSDT"),
        (config_of("sina", "AAPL,sh600519"), "US stocks or A-shares, found both"),
        (config_of("sina", "AAPL", "source.frequency=5min"), "daily bars of US stocks"),
        (config_of("sina", "AAPL", "source.adjust=qfq"), "no factors of US stocks"),
        (config_of("sina", "sh600519", "source.frequency=1min"), "source.frequency: sina has"),
        (config_of("sina", "none.csv"), "no file none.csv"),
        (config_of("nowhere", "AAPL"), "expected csv, qlib, sina"),
        (config_of("qlib", "", "source.path=nothing"), "expected a Qlib folder"),
        (config_of("mine", "A", "source.plugin=none.py"), "expected a Python file"),
    ]:
        with pytest.raises(KitError, match=said.replace(".", r"\.")):
            sources.check(config)
    assert not service.asked
    for override, said in [
        ("source.begin=yesterday", "source.begin: expected a day"),
        ("data.data_path=prices.csv", "ending in .parquet"),
        ("source.end=2020-02-30", "source.end"),
    ]:
        with pytest.raises(KitError, match=said):
            config_of("sina", "AAPL", override)
    with pytest.raises(KitError, match=r"source\.begin: expected a source that reads it"):
        config_of("csv", "", "source.begin=2020-01-01")


# -- A-shares of Sina ----------------------------------------------------------------------------------------
def cn_bars(days: list[str], price: float = 10.0) -> bytes:
    rows = [
        {
            "day": day,
            "open": f"{price}",
            "high": f"{price + 1}",
            "low": f"{price - 1}",
            "close": f"{price}",
            "volume": "100",
        }
        for day in days
    ]
    return json.dumps(rows).encode()


def jsonp(body: bytes) -> bytes:
    return b"/*<script>location.href='//sina.com';</script>*/\nvar _sh600519=(" + body + b");"


@pytest.mark.parametrize(
    "wrap", [bytes, jsonp, lambda body: b"callback(" + body + b");"], ids=["json", "var", "call"]
)
@pytest.mark.parametrize(("adjust", "before", "after"), [("none", 10, 10), ("qfq", 5, 10), ("hfq", 10, 20)])
def test_a_shares_are_adjusted_by_sinas_factors(
    service: PriceServer, wrap: Any, adjust: str, before: float, after: float
) -> None:
    """qfq: price / factor; hfq: price x factor; each from its day on. JSONP is unwrapped, never run."""
    factors = {
        "qfq": [{"d": DAYS[60], "f": "1.0"}, {"d": "1900-01-01", "f": "2.0"}],
        "hfq": [{"d": DAYS[60], "f": "2.0"}, {"d": "1900-01-01", "f": "1.0"}],
    }
    service.answers = {"/cn": wrap(cn_bars(DAYS))}
    for name, rows in factors.items():
        text = json.dumps({"total": 2, "data": rows}).encode()
        service.answers[f"/factors/sh600519/{name}.js"] = (
            b"var sh600519" + name.encode() + b"=" + text + b"\n/* comment */"
        )
    config = config_of("sina", "600519.SH", f"source.adjust={adjust}", "data.calendar=XSHG")
    sources.gather(config)
    close = bars(config)["close"].to_list()
    assert close[59] == before and close[60] == after and set(bars(config)["ticker"]) == {"600519.SH"}
    assert (
        "symbol=sh600519" in service.asked[0]
        and "scale=240" in service.asked[0]
        and receipt(config)["money"] == "CNY"
    )
    assert len(service.asked) == (1 if adjust == "none" else 2)
    assert service.headers[0]["Referer"].startswith("https://finance.sina")


def test_minutes_of_a_shares_and_the_limit_are_said(service: PriceServer) -> None:
    times = [
        f"{day} {hour}:{minute:02}:00"
        for day in DAYS
        for hour in ("09", "10", "13", "14")
        for minute in range(0, 60, 5)
    ]
    service.answers = {"/cn": cn_bars(times[: sina.MOST_BARS])}
    config = config_of("sina", "sz000001", "source.frequency=5min", "data.calendar=XSHG")
    sources.gather(config)
    assert (
        bars(config)["date"].dtype == pl.Datetime("ms")
        and str(bars(config)["date"][1]) == f"{DAYS[0]} 09:05:00"
    )
    assert "1,970 bars" in " ".join(receipt(config)["remarks"])
    names = ("600519", "000001.sz", "SH688001", "830799", "920001", "300750", "AAPL", "60051")
    assert [sina.a_share(name) for name in names] == [
        "sh600519", "sz000001", "sh688001", "bj830799", "bj920001", "sz300750", None, None,
    ]  # fmt: skip


def test_a_share_without_its_factors_fails(service: PriceServer) -> None:
    """Keeps out: unadjusted prices among adjusted ones."""
    service.answers = {
        "/cn": cn_bars(DAYS),
        "/factors/sh600000/qfq.js": b'var a={"data":[{"d":"1900-01-01","f":"1"}]}',
    }
    config = config_of("sina", "sh600000,sh600519", "source.adjust=qfq", "source.max_failed=0.5")
    sources.gather(config)
    assert set(bars(config)["ticker"]) == {"sh600000"} and "HTTP 404" in receipt(config)["failed"]["sh600519"]


def test_javascript_is_not_run() -> None:
    assert json_of(b"var x = null;") is None
    for text in (b"alert(1);[1]", b"var a=1;var b=[2];", b"eval([1].map(f))"):
        with pytest.raises(fetch.Refused):
            json_of(text)


# -- Binance -------------------------------------------------------------------------------------------------
def candles(month: str, unit: str, header: bool = False, step: str = "D") -> bytes:
    first = np.datetime64(month, "M")
    times = (
        np.arange(first, first + 1, dtype=f"datetime64[{step}]")
        .astype(f"datetime64[{unit}]")
        .astype(np.int64)
    )
    lines = [f"{time},10,12,9,11,{i + 1}.5,{time + 999},{100 + i},7,1,1,0" for i, time in enumerate(times)]
    if header:
        lines.insert(0, "open_time,open,high,low,close,volume,close_time,quote_volume,count,a,b,ignore")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"BTCUSDT-1d-{month}.csv", "\n".join(lines))
    return packed.getvalue()


def serve_month(service: PriceServer, month: str, body: bytes, pair: str = "BTCUSDT") -> None:
    name = f"/spot/monthly/klines/{pair}/1d/{pair}-1d-{month}.zip"
    service.answers[name] = body
    service.answers[f"{name}.CHECKSUM"] = f"{sha256(body).hexdigest()}  {name.rsplit('/', 1)[1]}\n".encode()


def test_binance_months_in_both_units(service: PriceServer) -> None:
    """Milliseconds until 2024, microseconds since, a header or none; months before the listing are asked for
    once.
    """
    for month, unit in (("2024-11", "ms"), ("2024-12", "ms"), ("2025-01", "us")):
        serve_month(service, month, candles(month, unit, header=month == "2025-01"))
    config = config_of(
        "binance", "BTCUSDT", "source.begin=2024-09-15", "source.end=2025-01-20", "data.calendar='24/7'"
    )
    store = prepare(config)
    frame = bars(config)
    days = np.arange("2024-11-01", "2025-01-21", dtype="datetime64[D]")
    assert (
        frame["date"].to_list() == days.tolist() and frame["amount"][1] == 101.0 and frame["volume"][0] == 1.5
    )
    assert len(store) == len(days) and receipt(config)["zone"] == "UTC"
    assert [name for name in raw(config) if name.endswith(".none")] == [
        "BTCUSDT.daily.2024-09.none", "BTCUSDT.daily.2024-10.none",
    ]  # fmt: skip
    service.asked.clear()
    prepare(config)
    assert not service.asked


def test_binance_files_must_have_their_digest(service: PriceServer) -> None:
    """Keeps out: a cut or exchanged zip."""
    serve_month(service, "2024-11", candles("2024-11", "ms"))
    service.answers["/spot/monthly/klines/BTCUSDT/1d/BTCUSDT-1d-2024-11.zip"] = candles("2024-11", "us")
    config = config_of("binance", "BTCUSDT", "source.begin=2024-11-01", "source.end=2024-11-30")
    with pytest.raises(KitError, match="differs from the archive's own SHA-256"):
        sources.gather(config)
    serve_month(service, "2024-11", b"no zip")
    with pytest.raises(KitError, match="sound zip archive"):
        sources.gather(config)


def test_a_pair_that_is_not_there_fails(service: PriceServer) -> None:
    config = config_of("binance", "NONE", "source.begin=2024-11-01", "source.end=2024-12-31")
    with pytest.raises(KitError, match="no file of this pair"):
        sources.gather(config)


# -- the question of the next forecast -----------------------------------------------------------------------
def test_the_source_asks_about_its_last_day(service: PriceServer) -> None:
    service.answers = {us("AAPL"): us_bars(), us("GONE"): us_bars(days=DAYS[:60])}
    config = config_of("sina", "AAPL,GONE")
    sources.gather(config)
    assert config.data.test_path == "data/sina/test.csv"
    test = pl.read_csv("data/sina/test.csv")
    assert test["ID"].to_list() == ["AAPL"] and test["Date"].to_list() == [
        "2024-07-08"
    ]  # July 4 is a holiday of the NYSE
    pool = pl.read_csv("data/sina/pool.csv")
    assert pool.filter(pl.col("ticker") == "GONE").row(0) == ("GONE", DAYS[0], DAYS[59])
