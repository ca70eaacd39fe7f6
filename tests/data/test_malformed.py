"""Malformed inputs end in one line that names the file, a non-zero exit, and stores as they were before.

Every case runs `kaggle/prepare_data.py` itself: in this process through its `main`, a handful as real
processes.
"""

import gzip
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest

from kronos import cli
from kronos.data.store import BarStore

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "kaggle" / "prepare_data.py"
HEADER = "Ticker,Date,Open,High,Low,Close,Volume,Dividends,Stock Splits\n"


def row(
    day: int, ticker: str = "A", close: str = "10.5", date: str = "2020-01-{:02d}", volume: str = "100.0"
) -> str:
    return f"{ticker},{date.format(day)},10.0,11.0,9.0,{close},{volume},0.0,0.0\n"


GOOD = HEADER + "".join(row(d) for d in range(1, 29))
LONG = "x" * 1_000_000


def text(content: str | bytes, name: str = "train.csv") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def two_files(first: str, second: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "many").mkdir()
        (folder / "many" / "a.csv").write_text(first)
        (folder / "many" / "b.csv").write_text(second)
        return folder / "many"

    return write


def parquet(frame: pl.DataFrame) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        frame.write_parquet(folder / "train.parquet")
        return folder / "train.parquet"

    return write


def folder_as_file(folder: Path) -> Path:
    (folder / "train.csv").mkdir()
    return folder / "train.csv"


def dangling(folder: Path) -> Path:
    (folder / "train.csv").symlink_to(folder / "nothing.csv")
    return folder / "train.csv"


def loop(folder: Path) -> Path:
    (folder / "train.csv").symlink_to(folder / "train.csv")
    return folder / "train.csv"


def listed_folder(folder: Path) -> Path:
    (folder / "many" / "inner.csv").mkdir(parents=True)
    return folder / "many"


def without(column: str) -> str:
    keep = [i for i, name in enumerate(HEADER.strip().split(",")) if name != column]
    return "".join(",".join(line.split(",")[i] for i in keep) + "\n" for line in GOOD.splitlines())


def guide(body: str) -> str:
    return "timestamps,open,high,low,close,volume\n" + body


FRAME = pl.DataFrame(
    {
        "Ticker": ["A"] * 9,
        "Date": [f"2020-01-0{d}" for d in range(1, 10)],
        **dict.fromkeys(["Open", "High", "Low", "Close"], 1.0),
    }
)

WHOLE = (GOOD + row(30, close='"1,234"')).replace(".0,", ",").replace(".0\n", "\n").replace("10.5", "10")
# name: (how to make it, what the line must say besides the file's name)
CASES: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "empty file": (text(""), ["empty file"]),
    "only blank lines": (text("\n\n\n"), ["empty first line"]),
    "header only": (text(HEADER), ["rows"]),
    "header without newline": (text(HEADER.strip()), ["rows"]),
    "header and blank lines": (text(HEADER + "\n\n"), ["rows"]),
    "no header": (text(GOOD.removeprefix(HEADER).replace(",9.0,", ",99.0,")), ["column names", "data.columns"]),
    "truncated row": (text(GOOD + "A,2020-01-30,10.0,11."), ["line 30", "9 fields", "found 4"]),
    "truncated in the middle": (text(GOOD + "A,2020-01-29,1\n" + row(30)), ["line 30", "9 fields", "found 3"]),
    "truncated after quotes": (text(GOOD + '"A",2020-01-29,1\n'), ["line 30", "9 fields"]),
    "truncated gzip": (text(gzip.compress(GOOD.encode() * 50)[:-300], "train.csv.gz"), ["gzip", "truncated"]),
    "gzip that is none": (text(GOOD, "train.csv.gz"), ["gzip"]),
    "damaged gzip": (text(gzip.compress(GOOD.encode())[:60] + b"\0" * 40, "train.csv.gz"), ["gzip"]),
    "CSV that is gzip": (text(gzip.compress(GOOD.encode())), ["line 1", "UTF-8"]),
    "spaces": (text(GOOD.replace(",", " ")), ["column"]),
    "more fields than columns": (text(GOOD + row(30).strip() + ",7\n"), ["line 30", "9 fields", "found 10"]),
    "decimal commas": (text(GOOD + row(30).replace("10.5", "10,5")), ["line 30", "found 10"]),
    "thousands or decimals": (text(WHOLE), ["'1,234'", "thousand", "decimal point"]),
    "two ways to write numbers": (text(GOOD + row(30, close='"1,5"')), ["'1,5'", "decimal point"]),
    "word for a price": (text(GOOD + row(30, close="cheap")), ["line 30", "column Close", "'cheap'"]),
    "currency sign behind": (text(GOOD + row(30, close="10.5$")), ["line 30", "column Close", "'10.5$'"]),
    "hexadecimal": (text(GOOD + row(30, close="0x10")), ["line 30", "column Close"]),
    "word for a volume": (text(GOOD + row(30, volume="1.2Q")), ["line 30", "column Volume", "'1.2Q'"]),
    "price of 1e308": (text(GOOD + row(30, close="1e308")), ["line 30", "column Close", "1e308"]),
    "price of 1e20": (text(GOOD + row(30, close="1e20")), ["line 30", "column Close", "1e20"]),
    "volume of -1e300": (text(GOOD + row(30, volume="-1e300")), ["line 30", "column Volume"]),
    "million characters for a price": (text(GOOD + row(30, close=LONG)), ["line 30", "column Close"]),
    "million characters for a ticker": (text(GOOD + row(30, ticker=LONG)), ["line 30", "column Ticker"]),
    "million characters for a date": (text(GOOD + row(30, date=LONG)), ["line 30", "column Date"]),
    "million characters in the header": (text(HEADER.strip() + "," + LONG + "," + LONG * 5 + "\n"), ["line 1"]),
    "line without end": (text(GOOD + "y" * 30_000_000), ["bytes"]),
    "control character in a ticker": (text(GOOD + row(30, ticker="A\x07B")), ["line 30", "column Ticker"]),
    "newline in a ticker": (text(GOOD + row(30, ticker='"A\nB"')), ["column Ticker"]),
    "NUL in a row": (text(GOOD.encode() + b"A\0," + row(30)[2:].encode()), ["line 30", "column Ticker", r"'A\x00'"]),
    "NUL in the header": (text(b"Ticker\0," + GOOD[7:].encode()), ["line 1"]),
    "binary": (text(bytes(range(256)) * 40), ["line 1"]),
    "picture": (text(b"\x89PNG\r\n\x1a\n" + bytes(200)), ["line 1", "UTF-8"]),
    "half a character of UTF-16": (text(GOOD.encode("utf-16")[:-1]), ["utf-16", "save the file as UTF-8"]),
    "Latin-1": (text(GOOD.encode() + row(30, ticker="\xe9").encode("latin-1")), ["line 30", "UTF-8", "0xe9"]),
    "unclosed quote": (text(GOOD + '"A,2020-01-30,1,1,1,1,1,0,0\n' + row(31)), []),
    "duplicate header name": (text(GOOD.replace("Dividends", "Close")), ["'Close'", "2 times"]),
    "duplicate name in other case": (text(GOOD.replace("Dividends", "close")), ["once", "Close"]),
    "two date columns": (text(GOOD.replace("Dividends", "timestamps")), ["date", "'timestamps'"]),
    "no Close": (text(without("Close")), ["column close"]),
    "no Date": (text(without("Date")), ["column date"]),
    "no Open, no High": (text(without("Open").replace("High", "Top")), ["columns open, high", "data.columns"]),
    "JSON": (text('{"Ticker": ["A"], "Date": ["2020-01-01"]}\n'), ["columns"]),
    "HTML": (text("<!DOCTYPE html>\n<html><body>Sign in</body></html>\n"), ["columns"]),
    "mixed date formats": (text(GOOD + row(1, date="01/30/2020")), ["line 30", "column Date", "'01/30/2020'"]),
    "dates with and without time": (text(GOOD + row(1, date="2020-01-30 00:00:00")), ["line 30", "column Date"]),
    "dates with and without zone": (
        text(HEADER + row(1, date="2020-01-01 00:00:00-05:00") + row(2, date="2020-01-02 00:00:00")),
        ["line 3", "column Date"],
    ),
    "impossible date": (text(GOOD + row(1, date="2020-02-31")), ["line 30", "column Date", "'2020-02-31'"]),
    "no parseable dates": (text(HEADER + "".join(row(d, date="day {}") for d in range(1, 9))), ["parseable", "'day 1'"]),
    "no dates at all": (text(HEADER + "".join(row(d, date="") for d in range(1, 9))), ["date"]),
    "day or month first": (text(HEADER + "".join(row(d, date="01/{:02d}/2020") for d in range(1, 9))), ["day or month"]),
    "two-digit years": (text(HEADER + "".join(row(d, date="20-01-{:02d}") for d in range(1, 9))), ["parseable"]),
    "dates as epoch numbers in Parquet": (parquet(FRAME.with_columns(Date=pl.Series(range(9)))), ["parseable", "'0'"]),
    "Parquet that is none": (text(GOOD, "train.parquet"), ["Parquet"]),
    "truncated Parquet": (text(b"PAR1" + b"\0" * 100 + b"PAR1", "train.parquet"), ["Parquet"]),
    "Parquet without rows": (parquet(FRAME.clear()), ["rows"]),
    "Parquet with lists for prices": (parquet(FRAME.with_columns(Close=pl.Series([[1.0]] * 9))), ["column Close"]),
    "Parquet with words for prices": (parquet(FRAME.with_columns(Close=pl.Series(["x"] * 9))), ["column Close", "'x'"]),
    "Parquet with 1e308": (parquet(FRAME.with_columns(Close=pl.lit(1e308))), ["column Close"]),
    "files that contradict each other": (two_files(GOOD, GOOD.replace("10.5", "10.6")), ["b.csv", "a.csv", "A on 2020-01-01"]),
    "files with different columns": (two_files(GOOD, without("Volume")), ["b.csv", "volume"]),
    "files with different dates": (two_files(GOOD, HEADER + row(9, "B", date="02.{:02d}.2020")), ["b.csv", "line 2"]),
    "one bad file of two": (two_files(GOOD, "nonsense\n"), ["b.csv"]),
    "folder in place of a file": (folder_as_file, ["folder"]),
    "folder that holds a folder": (listed_folder, ["many", "found none"]),
    "missing file": (lambda folder: folder / "train.csv", ["found none"]),
    "dangling link": (dangling, ["found none"]),
    "link to itself": (loop, []),
    "only closes of zero": (text(HEADER + "".join(row(d, close="0.0") for d in range(1, 29))), []),
    "no ticker long enough": (text(HEADER + "".join(row(d) for d in range(1, 4))), ["8 bars", "has 3"]),
    "bars of no known length": (text(guide("".join(f"20{y}-01-01,1,2,1,2,5\n" for y in range(10, 40)))), ["seconds apart"]),
}  # fmt: skip


@pytest.fixture(scope="session")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_data_script", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(folder: Path, data: Path, *extra: str) -> list[str]:
    config = folder / "config.json"
    config.write_text(
        json.dumps(
            {
                "data": {"lookback_window": 7, "store": str(folder / "stores" / "store")},
                "experiment": {"pre_trained": False},
            }
        )
    )
    return ["--config", str(config), "--set", f"data.data_path={json.dumps(str(data))}", *extra]


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    with pytest.raises(SystemExit) as left:
        cli.run(script.main)
    return int(left.value.code or 0)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_one_line(stderr: str, path: Path, words: list[str]) -> None:
    assert stderr.count("\n") == 1 and stderr.startswith("error: "), stderr
    assert len(stderr) < 500, stderr
    assert path.name in stderr, f"names {path.name}: {stderr}"
    assert not [word for word in words if word not in stderr], stderr


@pytest.mark.parametrize("name", CASES)
def test_malformed_input_is_one_clear_line(
    name: str,
    tmp_path: Path,
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Keeps out: a traceback, a wrong store written from half a file, and the loss of the store that was
    there.
    """
    make, words = CASES[name]
    good = text(GOOD, "good.csv")(tmp_path)
    assert run(script, monkeypatch, *arguments(tmp_path, good)) == 0
    before = content(tmp_path / "stores")
    path = make(tmp_path)
    capfd.readouterr()
    assert run(script, monkeypatch, *arguments(tmp_path, path)) == cli.EXIT_USER_ERROR
    assert_one_line(capfd.readouterr().err, path, words)
    assert content(tmp_path / "stores") == before
    assert [p.name for p in (tmp_path / "stores").iterdir()] == ["store"]
    BarStore.open(tmp_path / "stores" / "store", verify=True)


@pytest.mark.parametrize(
    "name", ["truncated row", "truncated gzip", "binary", "folder in place of a file", "line without end"]
)
def test_malformed_input_in_a_process_of_its_own(name: str, tmp_path: Path) -> None:
    """Keeps out: a clear line in the library, but a traceback, noise or exit code 0 at the command itself."""
    make, words = CASES[name]
    path = make(tmp_path)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments(tmp_path, path)],
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    assert done.returncode == cli.EXIT_USER_ERROR
    assert_one_line(done.stderr, path, words)
    assert not list(tmp_path.glob("stores/*"))


def test_no_permission(
    tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Keeps out: a traceback when the price file may not be read."""
    path = text(GOOD)(tmp_path)
    words = arguments(tmp_path, path)
    assert (
        run(script, monkeypatch, *words, "--set", f"data.store={tmp_path}/other") == 0
    )  # whatever is imported late is there now
    path.chmod(0)
    (tmp_path / "stores").mkdir(mode=0o777)
    (tmp_path / "stores").chmod(0o777)
    capfd.readouterr()
    user = os.geteuid()
    if user == 0:  # root reads everything: be somebody else for a moment
        for folder in (tmp_path, *tmp_path.parents[:-1]):
            if folder.stat().st_uid == 0:
                folder.chmod(folder.stat().st_mode | 0o011)
        os.seteuid(65534)
    try:
        code = run(script, monkeypatch, *words)
    finally:
        os.seteuid(user)
    assert code == cli.EXIT_USER_ERROR
    assert_one_line(capfd.readouterr().err, path, ["permission"])


@pytest.mark.parametrize("store", ["a file", "another folder", "below a file"])
def test_a_store_never_replaces_something_else(
    store: str,
    tmp_path: Path,
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Keeps out: data.store set to a folder of the user's own files, which are then gone."""
    target = tmp_path / "stores" / "store"
    mine = {"a file": target, "another folder": target / "thesis.txt", "below a file": target.parent}[store]
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    assert run(script, monkeypatch, *arguments(tmp_path, text(GOOD)(tmp_path))) == cli.EXIT_USER_ERROR
    assert_one_line(capfd.readouterr().err, target, [])
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("ID,Date\nZ,2020-03-01\nY,2020-03-01\n", ["none of its 2 IDs"]),
        ("ID,When\nA,2020-03-01\n", ["Date"]),
        ("ID,Date\nA,soon\n", ["'soon'"]),
        ("ID,Date\nA,2020-03-01\nB,2020-02-30\n", ["line 3", "column Date"]),
        ("ID,Date\nA,2020-03-01\nA,2020-03-01\n", ["line 3", "'A'"]),
        ("ID,Date\n,2020-03-01\n", ["line 2", "column ID"]),
        ("ID,Date\nA\n", ["line 2", "found 1"]),
        ("ID,Date\n", ["rows"]),
        ("", ["empty file"]),
    ],
)
def test_malformed_test_file(
    body: str,
    words: list[str],
    tmp_path: Path,
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Keeps out: a test file that asks about nothing known, noticed only after days of training."""
    test = text(body, "test.csv")(tmp_path)
    words_given = arguments(tmp_path, text(GOOD)(tmp_path), "--set", f"data.test_path={test}")
    assert run(script, monkeypatch, *words_given) == cli.EXIT_USER_ERROR
    assert_one_line(capfd.readouterr().err, test, words)


def test_stop_names_the_row(
    tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Keeps out: an action 'stop' that leaves the user searching for the row."""
    path = text(GOOD + row(30, close="-1.0"))(tmp_path)
    assert (
        run(script, monkeypatch, *arguments(tmp_path, path, "--set", "data.cleaning.non_positive_price=stop"))
        == 2
    )
    line = capfd.readouterr().err
    assert line.count("\n") == 1 and "A on 2020-01-30" in line and "non_positive_price" in line
