"""Exports of programs and brokers, written as they write them: read to the same bars, or one line that helps."""

from pathlib import Path

import numpy as np
import pytest
from exports import CHINESE, MT5, READ, REFUSED, WESTERN

from kronos.config import DataConfig
from kronos.data import ingest, price_files
from kronos.data.calendar import open_days
from kronos.errors import KitError

DAYS = [str(day) for day in open_days("NYSE", "2023-01-03", "2023-05-31")]
BARS = np.array([(100 + i / 2, 103 + i / 2, 99 + i / 2, 101 + i / 2, 1000 + i) for i in range(len(DAYS))])


def written(template: str) -> str:
    """A line for every bar."""
    lines = []
    for day, (opened, high, low, close, volume) in zip(DAYS, BARS.tolist(), strict=True):
        date = np.datetime64(day)
        prices = {"o": opened, "h": high, "l": low, "c": close}
        fields = {name: f"{price:.2f}" for name, price in prices.items()}
        fields |= {f"{name}_": f"{price:.2f}".replace(".", ",") for name, price in prices.items()}
        fields |= {"y": day[2:4], "roc": str(int(day[:4]) - 1911), "be": str(int(day[:4]) + 543)}
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
    encoding = "utf-8"
    if name in CHINESE:
        encoding = "gbk"
    elif name in WESTERN:
        encoding = "cp1252"
    (tmp_path / file).write_bytes((head + written(line) + tail).encode(encoding))
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


def test_another_encoding_without_a_name_that_tells_is_said(tmp_path: Path) -> None:
    """Keeps out: MOEX's file, refused for the columns that it has."""
    head = "history\n\nTRADEDATE;SHORTNAME;OPEN;HIGH;LOW;CLOSE\n"
    text = head + written("{day};Сбербанк;{o};{h};{l};{c}")
    (tmp_path / "a.csv").write_bytes(text.encode("cp1251"))
    with pytest.raises(KitError, match=r"another encoding.*save the file as UTF-8"):
        read(tmp_path)


def test_a_split_of_one_is_none_and_a_code_has_no_apostrophe(tmp_path: Path) -> None:
    """Keeps out: every row a split (zipline's files), and codes as Excel's text that no test file knows."""
    text = "date,code,open,high,low,close,volume,split\n" + written("{day},'600519,{o},{h},{l},{c},{v},1.0")
    (tmp_path / "a.csv").write_text(text)
    found = read(tmp_path)
    assert found.tickers == ["600519"] and not found.split.any()
    (tmp_path / "a.csv").write_text(text.replace(",1.0\n", ",2.0\n", 1))
    assert np.flatnonzero(read(tmp_path).split).tolist() == [0]
