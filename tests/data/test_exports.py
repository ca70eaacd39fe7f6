"""Exports of programs and brokers, written as they write them: read to the same bars, or one line that helps."""

from pathlib import Path

import numpy as np
import pytest

from kronos.config import DataConfig
from kronos.data import ingest, price_files
from kronos.data.calendar import open_days
from kronos.errors import KitError

DAYS = [str(day) for day in open_days("NYSE", "2023-01-03", "2023-05-31")]
BARS = np.array([(100 + i / 2, 103 + i / 2, 99 + i / 2, 101 + i / 2, 1000 + i) for i in range(len(DAYS))])
MT5 = "<DATE>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n"
READ = {
    # name: file name, first lines, a line a bar (`fields`), last lines
    "MetaTrader 5": ("EURUSDDaily.csv", MT5, "{Y}.{m}.{d}\t{o}\t{h}\t{l}\t{c}\t{v}\t0\t2", ""),
    "MetaTrader 4": ("EURUSD1440.csv", "", "{Y}.{m}.{d},00:00,{o},{h},{l},{c},{v}", ""),
    "HistData": ("a.csv", "", "{Y}{m}{d} 000000;{o};{h};{l};{c};{v}", ""),
    "Stooq, bulk": (
        "aapl.us.txt",
        "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>\n",
        "AAPL.US,D,{Y}{m}{d},000000,{o},{h},{l},{c},{v},0",
        "",
    ),
    "Stooq, Polish": (
        "kgh_d.csv",
        "Data,Otwarcie,Najwyzszy,Najnizszy,Zamkniecie,Wolumen\n",
        "{day},{o},{h},{l},{c},{v}",
        "",
    ),
    "Investing.com, German": (
        "SAP Historische Kurse.csv",
        '\ufeff"Datum","Zuletzt","Eröffn.","Hoch","Tief","Vol.","+/- %"\n',
        '"{d}.{m}.{Y}","{c_}","{o_}","{h_}","{l_}","{v},00","0,50%"',
        "",
    ),
    "Ariva": (
        "wkn_716460_historic.csv",
        "\ufeffDatum;Erster;Hoch;Tief;Schlusskurs;Stuecke;Volumen\n",
        "{day};{o_};{h_};{l_};{c_};{v};{v}00",
        "",
    ),
    "Nasdaq.com": (
        "HistoricalData_1.csv",
        "Date,Close/Last,Volume,Open,High,Low\n",
        "{m}/{d}/{Y},${c},{v},${o},${h},${l}",
        "",
    ),
    "Excel's separator": (
        "a.csv",
        "sep=;\nDate;Open;High;Low;Close;Volume\n",
        "{day};{o};{h};{l};{c};{v}",
        "",
    ),
    "an index without a name": (
        "a.csv",
        ",open,close,high,low,volume,money\n",
        "{day},{o},{c},{h},{l},{v},{v}00",
        "",
    ),
    "a numbered index": (
        "a.csv",
        ",time,code,open,close,high,low,volume\n",
        "{v},{day},X,{o},{c},{h},{l},{v}",
        "",
    ),
    "Polygon, flat file": (
        "a.csv",
        "ticker,volume,open,close,high,low,window_start,transactions\n",
        "X,{v},{o},{c},{h},{l},{noon}000000000,9",
        "",
    ),
    "NSE": (
        "a.csv",
        "SYMBOL, SERIES, DATE1, PREV_CLOSE, OPEN_PRICE, HIGH_PRICE, LOW_PRICE, CLOSE_PRICE, TTL_TRD_QNTY\n",
        "X, EQ, {d}-{b}-{Y}, 1, {o}, {h}, {l}, {c}, {v}",
        "",
    ),
    "Tongdaxin": (
        "SH#600000.txt",
        "600000 浦发银行 日线 前复权\n    日期\t    开盘\t    最高\t    最低\t    收盘\t  成交量\t  成交额\n",
        "{Y}/{m}/{d}\t{o}\t{h}\t{l}\t{c}\t{v}\t{v}00",
        "数据来源:通达信\n",
    ),
    "Wind": (
        "a.csv",
        "代码,名称,日期,开盘价(元),最高价(元),最低价(元),收盘价(元),成交额(百万),成交量(股)\n",
        "600519.SH,贵州茅台,{day},{o},{h},{l},{c},0.1,{v}",
        "数据来源：Wind\n",
    ),
    "Japanese": ("7203.csv", "日付,始値,高値,安値,終値,出来高\n", "{day},{o},{h},{l},{c},{v}", ""),
    "Korean": (
        "005930.csv",
        "일자,종가,대비,등락률,시가,고가,저가,거래량,거래대금\n",
        "{day},{c},0,0,{o},{h},{l},{v},{v}00",
        "",
    ),
    "Dukascopy, with its offset": (
        "EURUSD.csv",
        "Local time,Open,High,Low,Close,Volume\n",
        "{d}.{m}.{Y} 12:00:00.000 GMT-0500,{o},{h},{l},{c},{v}",
        "",
    ),
}
CHINESE = ("Tongdaxin", "Wind")
"""Written in GBK."""
REFUSED = {
    # name: first line, a line a bar, what is said
    "Excel's days": ("Date,Open,High,Low,Close\n", "4{v},{o},{h},{l},{c}", "Excel's day numbers"),
    "names of zones": (
        "date,open,high,low,close\n",
        "{Y}{m}{d} 09:30:00 US/Eastern,{o},{h},{l},{c}",
        "cut off the name",
    ),
    "dividends between the rows": (
        "Date,Open,High,Low,Close Close price adjusted for splits.,Volume\n",
        "{day},{o},{h},{l},{c},{v}\n{day},0.24 Dividend,,,,",
        "delete the lines of dividends",
    ),
    "names between the rows": (
        "Date,Open,High,Low,Close\n",
        "{day},{o},{h},{l},{c}\nDate,Open,High,Low,Close",
        "line of names stands there again",
    ),
    "unknown names behind semicolons": (
        "Datum;A;Hoch;Tief;B\n",
        "{day};{o};{h};{l};{c}",
        r"found Datum, A, .*\{open: NAME, close: NAME\}",
    ),
    "closes of several stocks": (
        "Date,AAPL,MSFT\n",
        "{day},{o},{c}",
        "expected the columns open, high, low, close",
    ),
    "two contracts of one name": (
        "date,symbol,expiry,open,high,low,close\n",
        "{day},CL,2023-09,{o},{h},{l},{c}\n{day},CL,2023-12,{h},{h},{l},{c}",
        "'expiry'",
    ),
}


def written(template: str) -> str:
    """A line for every bar."""
    lines = []
    for day, (opened, high, low, close, volume) in zip(DAYS, BARS.tolist(), strict=True):
        date = np.datetime64(day)
        prices = {"o": opened, "h": high, "l": low, "c": close}
        fields = {name: f"{price:.2f}" for name, price in prices.items()}
        fields |= {f"{name}_": f"{price:.2f}".replace(".", ",") for name, price in prices.items()}
        fields |= {"day": day, "Y": day[:4], "m": day[5:7], "d": day[8:], "v": f"{volume:.0f}"}
        fields |= {
            "b": date.item().strftime("%b"),
            "noon": str(date.astype("datetime64[s]").astype(int) + 61200),
        }
        lines.append(template.format(**fields) + "\n")
    return "".join(lines)


def read(folder: Path) -> ingest.Panel:
    return ingest.read(price_files.find_sources(str(folder)), DataConfig())


@pytest.mark.parametrize("name", READ)
def test_an_export_is_read(name: str, tmp_path: Path) -> None:
    file, head, line, tail = READ[name]
    (tmp_path / file).write_bytes((head + written(line) + tail).encode("gbk" if name in CHINESE else "utf-8"))
    found = read(tmp_path)
    assert len(found.tickers) == 1 and found.frequency == "daily"
    assert found.sessions.astype("datetime64[D]").astype(str).tolist() == DAYS
    assert np.array_equal(found.values[:, :5], BARS.astype(np.float32)), found.values[:2]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_certain_is_one_line_that_helps(name: str, tmp_path: Path) -> None:
    head, line, said = REFUSED[name]
    (tmp_path / "a.csv").write_text(head + written(line))
    with pytest.raises(KitError, match=said) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def test_real_volumes_are_not_replaced_by_ticks(tmp_path: Path) -> None:
    """Keeps out: the count of price changes in place of a volume that is there."""
    (tmp_path / "a.csv").write_text(MT5 + written("{day}\t{o}\t{h}\t{l}\t{c}\t7\t{v}\t2"))
    assert read(tmp_path).values[0, 4] == 1000


def test_pandas_tables_are_read(tmp_path: Path) -> None:
    """An index is the dates, with a name or without."""
    import pandas as pd

    frame = pd.DataFrame(BARS, columns=["Open", "High", "Low", "Close", "Volume"])
    dates = pd.DatetimeIndex(DAYS, name="Date")
    for number, index in enumerate((dates.rename(None), dates)):
        folder = tmp_path / str(number)
        folder.mkdir()
        frame.set_index(index).to_parquet(folder / "AAPL.parquet")
        found = read(folder)
        assert found.sessions.astype("datetime64[D]").astype(str).tolist() == DAYS and found.tickers == [
            "AAPL"
        ]


def test_other_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "AAPL.xlsx").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(KitError, match=r"found AAPL.xlsx; save them as CSV"):
        read(tmp_path)
    with pytest.raises(KitError, match="Excel file; unpack it, or save the sheet as CSV"):
        ingest.read([tmp_path / "AAPL.xlsx"])
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "a.csv").write_text(
        "Date,Open,High,Low,Close,Volume\n" + written("{day},{o},{h},{l},{c},{v}")
    )
    assert read(tmp_path).tickers == ["a"], "text files do not count beside others"
