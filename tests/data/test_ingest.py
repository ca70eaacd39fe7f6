"""Reading price files: every export of the same shape gives the same store, and preparing twice gives the
same bytes.
"""

import contextlib
import gzip
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronos.config import CleaningConfig, Config, DataConfig
from kronos.data import competition, ingest, text_pieces
from kronos.data.prepare import prepare
from kronos.data.publish import locked
from kronos.data.store import BarStore
from kronos.errors import KitError

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ["Ticker", "Date", "Open", "High", "Low", "Close", "Volume", "Dividends", "Stock Splits"]


def market(tickers: int = 4, days: int = 30, seed: int = 0) -> pl.DataFrame:
    """The competition's layout: by date, unordered within a date; one ticker starts late."""
    rng = np.random.default_rng(seed)
    rows = []
    for day in range(days):
        for k in rng.permutation(tickers):
            if k or day >= 9:
                low, a, b, high = np.sort(rng.lognormal(2, 0.1, 4))
                date = str(np.datetime64("2020-02-20") + day)
                rows.append(
                    [f"ticker_{k + 1}", date, a, high, low, b, float(rng.integers(0, 10**9)), 0.0, 0.0]
                )
    return pl.DataFrame(rows, schema=COLUMNS, orient="row")


FRAME = market()


def configuration(
    folder: Path, data: Path | list[Path], name: str = "store", **data_settings: object
) -> Config:
    path = [str(p) for p in data] if isinstance(data, list) else str(data)
    return Config(
        data=DataConfig(data_path=path, store=str(folder / name), lookback_window=7, **data_settings)
    )  # type: ignore[arg-type]


def csv_of(frame: pl.DataFrame = FRAME, **options: object) -> bytes:
    return frame.write_csv(**options).encode()  # type: ignore[call-overload]


def saved(name: str, content: Callable[[], bytes]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content())
        return folder / name

    return write


def dated(text: str) -> pl.DataFrame:
    return FRAME.with_columns(Date=pl.col("Date").str.to_date().dt.strftime(text))


def parquet(frame: Callable[[], pl.DataFrame]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        frame().write_parquet(folder / "train.parquet", row_group_size=17)
        return folder / "train.parquet"

    return write


def one_file_per_ticker(folder: Path, suffix: str = ".csv", header: Callable[[str], str] = str.lower) -> Path:
    (folder / "many").mkdir()
    for (name,), part in FRAME.group_by("Ticker"):
        plain = part.drop("Ticker").rename(header)
        content = csv_of(plain)
        if suffix == ".parquet":
            plain.write_parquet(folder / "many" / f"{name}.parquet")
        else:
            (folder / "many" / f"{name}{suffix}").write_bytes(
                gzip.compress(content) if suffix.endswith("gz") else content
            )
    (folder / "many" / "notes.txt").write_text("not prices")
    return folder / "many"


def split_in_two(folder: Path) -> list[Path]:
    paths = [folder / "a.csv", folder / "b.csv"]
    paths[0].write_bytes(csv_of(FRAME[40:]))
    paths[1].write_bytes(csv_of(FRAME[:40]))
    return paths


def shuffled(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.sample(fraction=1.0, shuffle=True, seed=1)


NEW_YORK = pl.col("Date").str.to_datetime("%Y-%m-%d", time_unit="ns", time_zone="America/New_York")
WITH_OFFSET = NEW_YORK.dt.strftime("%Y-%m-%d %H:%M:%S%:z")
EXPORTS: dict[str, Callable[[Path], Path | list[Path]]] = {
    "BOM": saved("train.csv", lambda: b"\xef\xbb\xbf" + csv_of()),
    "CRLF": saved("train.csv", lambda: csv_of(line_terminator="\r\n")),
    "quoted": saved("train.csv", lambda: csv_of(quote_style="always")),
    "quoted CRLF with BOM": saved("train.csv", lambda: b"\xef\xbb\xbf" + csv_of(quote_style="always", line_terminator="\r\n")),
    "no newline at the end": saved("train.csv", lambda: csv_of().rstrip()),
    "blank lines": saved("train.csv", lambda: csv_of().replace(b"\nticker_2,2020-03", b"\n\nticker_2,2020-03") + b"\n\n"),
    "blank line after the header": saved("train.csv", lambda: csv_of().replace(b"\n", b"\n\n", 1)),
    "blanks around values": saved("train.csv", lambda: csv_of().replace(b",", b" , ")),
    "other order": saved("train.csv", lambda: csv_of(FRAME.select(sorted(COLUMNS)))),
    "other case": saved("train.csv", lambda: csv_of(FRAME.rename(str.upper))),
    "more columns": saved("train.csv", lambda: csv_of(FRAME.with_columns(Name=pl.lit('Inc., "A"'), Adj=pl.lit(None)))),
    "an index column without a name": saved("train.csv", lambda: csv_of(FRAME.with_row_index("")),),
    "no dividends": saved("train.csv", lambda: csv_of(FRAME.drop("Dividends"))),
    "shuffled": saved("train.csv", lambda: csv_of(shuffled(FRAME))),
    "by ticker": saved("train.csv", lambda: csv_of(FRAME.sort("Ticker", "Date"))),
    "newest first": saved("train.csv", lambda: csv_of(FRAME.reverse())),
    "gzip": saved("train.csv.gz", lambda: gzip.compress(csv_of())),
    "gzip of two members": saved("train.csv.gz", lambda: gzip.compress(csv_of()[:999]) + gzip.compress(csv_of()[999:])),
    "midnight": saved("train.csv", lambda: csv_of(dated("%Y-%m-%d 00:00:00"))),
    "time zone": saved("train.csv", lambda: csv_of(dated("%Y-%m-%d 00:00:00-05:00"))),
    "time zone over daylight saving": saved("train.csv", lambda: csv_of(FRAME.with_columns(Date=WITH_OFFSET))),
    "ISO with T and Z": saved("train.csv", lambda: csv_of(dated("%Y-%m-%dT00:00:00Z"))),
    "fractions of a second": saved("train.csv", lambda: csv_of(dated("%Y-%m-%d 00:00:00.000"))),
    "slashes": saved("train.csv", lambda: csv_of(dated("%Y/%m/%d"))),
    "month first": saved("train.csv", lambda: csv_of(dated("%m/%d/%Y"))),
    "day first": saved("train.csv", lambda: csv_of(dated("%d/%m/%Y"))),
    "German": saved("train.csv", lambda: csv_of(dated("%d.%m.%Y"))),
    "compact": saved("train.csv", lambda: csv_of(dated("%Y%m%d"))),
    "Parquet with strings": parquet(lambda: FRAME),
    "Parquet with dates": parquet(lambda: FRAME.with_columns(pl.col("Date").str.to_date())),
    "Parquet with zones": parquet(lambda: FRAME.with_columns(Date=NEW_YORK)),
    "Parquet with categories": parquet(lambda: FRAME.with_columns(pl.col("Ticker").cast(pl.Categorical))),
    "Parquet with more columns": parquet(lambda: FRAME.with_columns(x=pl.lit([1, 2]))),
    "one file per ticker": one_file_per_ticker,
    "one gzip per ticker": lambda folder: one_file_per_ticker(folder, ".csv.gz"),
    "one Parquet per ticker": lambda folder: one_file_per_ticker(folder, ".parquet"),
    "two files, the later one first": split_in_two,
}  # fmt: skip


@pytest.mark.parametrize("name", EXPORTS)
def test_all_exports_of_the_same_prices_give_the_same_store(name: str, tmp_path: Path) -> None:
    """Keeps out: dates shifted by a zone, columns taken by position, rows that end at another ticker."""
    (tmp_path / "plain.csv").write_bytes(csv_of())
    expected = prepare(configuration(tmp_path, tmp_path / "plain.csv", "plain"))
    store = prepare(configuration(tmp_path, EXPORTS[name](tmp_path)))
    assert store.manifest["rows"] == {"read": len(FRAME), "kept": len(FRAME), "dropped": 0}
    assert store.digest == expected.digest
    assert store.tickers == ["ticker_1", "ticker_2", "ticker_3", "ticker_4"] and store.sessions[
        0
    ] == np.datetime64("2020-02-20")


def test_the_store_equals_a_plain_sort(tmp_path: Path) -> None:
    """Keeps out: the counting sort putting one row in another's place. The slow clear version is three lines
    of polars.
    """
    (tmp_path / "train.csv").write_bytes(csv_of())
    store = prepare(configuration(tmp_path, tmp_path / "train.csv"))
    plain = FRAME.sort("Ticker", "Date")
    expected = plain.select(
        pl.col(name).cast(pl.Float32) for name in ("Open", "High", "Low", "Close", "Volume")
    ).to_numpy()
    np.testing.assert_array_equal(store.bars[:, :5], expected)
    np.testing.assert_allclose(store.bars[:, 5], expected[:, 4] * expected[:, :4].mean(axis=1), rtol=1e-6)
    names = np.repeat(store.tickers, np.diff(store.offsets)).tolist()
    assert names == plain["Ticker"].to_list()
    assert (
        store.dates(np.arange(len(store))).astype("datetime64[D]").astype(str).tolist()
        == plain["Date"].to_list()
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(40, 3000), st.booleans(), st.integers(0, 5))
def test_the_size_of_pieces_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, size: int, mixed: bool, seed: int
) -> None:
    """Keeps out: a row lost, doubled or cut where one piece of the file ends and the next begins."""
    folder = tmp_path_factory.mktemp("pieces")
    frame = shuffled(market(seed=seed)) if mixed else market(seed=seed)
    (folder / "train.csv").write_bytes(csv_of(frame))
    saved_size, text_pieces.PIECE_BYTES = text_pieces.PIECE_BYTES, size
    try:
        panel = ingest.read([folder / "train.csv"])
    finally:
        text_pieces.PIECE_BYTES = saved_size
    plain = frame.sort("Ticker", "Date")
    np.testing.assert_array_equal(panel.values[:, 3], plain["Close"].cast(pl.Float32).to_numpy())
    assert (
        panel.read == len(frame)
        and panel.sessions[panel.session].astype("datetime64[D]").astype(str).tolist()
        == plain["Date"].to_list()
    )
    falling = frame.with_columns(f=pl.col("Date").shift(1).over("Ticker") > pl.col("Date"))["f"].sum()
    assert panel.unsorted == falling


def test_line_numbers_count_all_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps out: an error that names a line of the piece instead of the file."""
    monkeypatch.setattr(text_pieces, "PIECE_BYTES", 500)
    lines = csv_of().splitlines()
    for number in (2, 60, len(lines)):
        fields = lines[number - 1].split(b",")
        broken = [*lines[: number - 1], b",".join([*fields[:5], b"oops", *fields[6:]]), *lines[number:]]
        (tmp_path / "train.csv").write_bytes(b"\n".join(broken))
        with pytest.raises(KitError, match=rf"line {number}, column Close: expected a number, found 'oops'"):
            ingest.read([tmp_path / "train.csv"])


def test_missing_words_and_infinities_are_values_for_the_policy(tmp_path: Path) -> None:
    """Keeps out: 'NA' that stops the reading, and 'inf' or a missing price that reaches a window."""
    frame = FRAME.with_columns(pl.col("Close", "Volume").cast(pl.String))
    words = ["NA", "nan", "NULL", "", "None", "-", "inf", "-Infinity"]
    frame = frame.with_columns(Close=pl.Series([*words, *frame["Close"][len(words) :]]))
    (tmp_path / "train.csv").write_bytes(csv_of(frame))
    store = prepare(configuration(tmp_path, tmp_path / "train.csv"))
    assert store.manifest["cleaning"]["missing_price"]["dropped"] == len(words)
    assert store.manifest["rows"] == {
        "read": len(FRAME),
        "kept": len(FRAME) - len(words),
        "dropped": len(words),
    }


def test_rows_without_ticker_or_date_are_counted(tmp_path: Path) -> None:
    """Keeps out: a row that belongs nowhere given to some ticker, or lost without a count."""
    body = (
        csv_of().decode()
        + ',2020-03-01,1,2,1,2,5,0,0\nticker_1,,1,2,1,2,5,0,0\n  ,2020-03-01,1,2,1,2,5,0,0\n"",2020-03-01,1,2,1,2,5,0,0\n'
    )
    (tmp_path / "train.csv").write_text(body)
    store = prepare(configuration(tmp_path, tmp_path / "train.csv"))
    assert store.manifest["rows"] == {"read": len(FRAME) + 4, "kept": len(FRAME), "dropped": 4}
    assert store.manifest["cleaning"]["missing_key"]["dropped"] == 4 and len(store.tickers) == 4


def test_names_of_tickers_are_text(tmp_path: Path) -> None:
    """Keeps out: 000001 read as 1, the ticker NA read as missing, names beyond ASCII refused or mixed up."""
    names = ["000001", "1", "NA", "nan", "株式", "ü", "A B", "brk.b", "BRK.B"]
    frame = pl.concat(
        [
            FRAME.filter(Ticker="ticker_2").with_columns(Ticker=pl.lit(n), Close=pl.lit(8.0 + k))
            for k, n in enumerate(names)
        ]
    )
    (tmp_path / "train.csv").write_bytes(csv_of(frame))
    store = prepare(configuration(tmp_path, tmp_path / "train.csv"))
    assert store.tickers == sorted(names)
    assert store.bars[store.offsets[store.index_of(names)], 3].tolist() == [
        8.0 + k for k in range(len(names))
    ]


def test_the_guides_layout_and_intraday_bars(tmp_path: Path) -> None:
    """Keeps out: a file without a ticker column refused; times cut to days; an amount recomputed although it
    is there.
    """
    stamps = np.datetime64("2020-03-02T09:30") + np.arange(78) * np.timedelta64(5, "m")
    frame = pl.DataFrame(
        {
            "timestamps": [str(s).replace("T", " ") for s in stamps],
            "open": 1.0,
            "high": 2.0,
            "low": 1.0,
            "close": 2.0,
            "volume": 5,
            "amount": 7.5,
        }
    )
    (tmp_path / "XSHG_600977.csv").write_bytes(csv_of(frame))
    store = prepare(configuration(tmp_path, tmp_path / "XSHG_600977.csv"))
    assert store.tickers == ["XSHG_600977"] and store.frequency == "5min"
    np.testing.assert_array_equal(store.sessions, stamps.astype("datetime64[s]"))
    assert (store.bars[:, 5] == 7.5).all() and store.manifest["limits"]["max_jump"] == 0.15
    bare = prepare(
        configuration(
            tmp_path, saved("x.csv", lambda: csv_of(frame.drop("volume", "amount")))(tmp_path), "bare"
        )
    )
    assert not bare.bars[:, 4:].any()


def test_the_same_bars_in_two_files_are_duplicates(tmp_path: Path) -> None:
    """Keeps out: overlapping exports refused although they agree, or their rows doubled in a window."""
    (tmp_path / "a.csv").write_bytes(csv_of(FRAME[:60]))
    (tmp_path / "b.csv").write_bytes(csv_of(FRAME[30:]))
    store = prepare(configuration(tmp_path, [tmp_path / "a.csv", tmp_path / "b.csv"]))
    assert store.manifest["rows"] == {"read": len(FRAME) + 30, "kept": len(FRAME), "dropped": 30}
    assert [s["rows"] for s in store.manifest["sources"]] == [60, len(FRAME) - 30]


def test_many_tickers(tmp_path: Path) -> None:
    """Keeps out: codes of 16 bits that overflow beyond 32,767 tickers."""
    names = [f"t{k:05d}" for k in range(40_000)]
    days = [f"2020-01-{d:02d}" for d in range(1, 4)]
    frame = pl.DataFrame(
        {"Ticker": names * 3, "Date": np.repeat(days, len(names)), "Close": np.arange(3 * len(names)) + 1.0}
    )
    frame = shuffled(frame.with_columns(Open=pl.col("Close"), High=pl.col("Close"), Low=pl.col("Close")))
    (tmp_path / "train.csv").write_bytes(csv_of(frame))
    config = configuration(tmp_path, tmp_path / "train.csv")
    store = prepare(replace(config, data=replace(config.data, lookback_window=2)))
    assert store.tickers == names
    np.testing.assert_array_equal(
        store.bars[:, 3].reshape(-1, 3), np.arange(3 * len(names)).reshape(3, -1).T + 1
    )


# -- reuse ---------------------------------------------------------------------------------------------------
def stamp(store: BarStore) -> int:
    return (store.path / "manifest.json").stat().st_mtime_ns


def test_a_store_is_reused_until_something_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Keeps out: stale data after the file changed, minutes lost where nothing did, and a rebuild for another
    lookback.
    """
    caplog.set_level(logging.INFO)
    source = saved("train.csv", csv_of)(tmp_path)
    config = configuration(tmp_path, source)
    first = stamp(prepare(config))
    assert "0 dropped" in caplog.text and "4 tickers" in caplog.text and "daily" in caplog.text
    os.utime(source, (1, 1))
    assert stamp(prepare(config)) == first, "touched, not changed"
    assert stamp(prepare(replace(config, data=replace(config.data, lookback_window=5)))) == first
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.move(source, moved)
    assert stamp(prepare(configuration(tmp_path, moved / "train.csv"))) == first, "moved, not changed"

    source.write_bytes(csv_of().replace(b"ticker_2,2020-03-01", b"ticker_9,2020-03-01"))  # same size
    changed = prepare(config)
    second = stamp(changed)
    assert second != first and "ticker_9" in changed.tickers
    again = prepare(replace(config, data=replace(config.data, cleaning=CleaningConfig(max_gap=3))))
    assert stamp(again) != second and again.manifest["limits"]["max_gap"] == 3


@pytest.mark.parametrize("damage", ["bars.npy", "manifest.json"])
def test_a_damaged_store_is_prepared_again(tmp_path: Path, damage: str) -> None:
    """Keeps out: a store that no command mends."""
    config = configuration(tmp_path, saved("train.csv", csv_of)(tmp_path))
    digest = prepare(config).digest
    (tmp_path / "store" / damage).write_bytes(b"{}")
    assert prepare(config).digest == digest


def test_a_read_only_store_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps out: a store attached read-only (as Kaggle's inputs are) that fails because no lock can be
    written beside it.
    """
    config = configuration(tmp_path, saved("train.csv", csv_of)(tmp_path))
    digest = prepare(config).digest

    def refuse(path: Path) -> None:
        raise AssertionError(f"locked {path}")

    monkeypatch.setattr("kronos.data.prepare.locked", refuse)
    assert prepare(config).digest == digest


SCRIPT = [sys.executable, str(ROOT / "kaggle" / "prepare_data.py"), "--config"]


def config_file(folder: Path, source: Path) -> Path:
    path = folder / "config.json"
    data = {"data_path": str(source), "store": str(folder / "stores" / "store"), "lookback_window": 7}
    path.write_text(json.dumps({"data": data, "experiment": {"pre_trained": False}}))
    return path


def test_two_preparations_at_once(tmp_path: Path) -> None:
    """Keeps out: two processes writing one store; the second doing the work again."""
    config = config_file(tmp_path, saved("train.csv", csv_of)(tmp_path))
    command = [*SCRIPT, str(config)]
    with locked(tmp_path / "stores" / "store"):
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        first_lines = [p.stdout.readline() for p in both if p.stdout]
    texts = [line + p.communicate(timeout=60)[0] for line, p in zip(first_lines, both, strict=True)]
    assert [p.returncode for p in both] == [0, 0]
    assert all("waiting" in text for text in texts)
    assert sorted("up to date" in text for text in texts) == [False, True]
    assert [p.name for p in (tmp_path / "stores").iterdir()] == ["store"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)]
)
def test_a_stopped_preparation_leaves_nothing(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Keeps out: half a store, a traceback, or a lock after Ctrl-C, SIGTERM or a kill in the middle of
    reading.
    """
    source = tmp_path / "train.csv"
    os.mkfifo(source)  # a file whose end does not come: the preparation is in the middle of reading it
    config = config_file(tmp_path, source)
    process = subprocess.Popen(
        [*SCRIPT, str(config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with source.open("wb") as pipe:
        pipe.write(csv_of()[:400])
        pipe.flush()
        while not list(tmp_path.glob("stores/.store.new-*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
    while (
        process.poll() is None
    ):  # whoever opens the pipe only now waits for a writer: a plain file would not
        with contextlib.suppress(OSError):
            os.close(os.open(source, os.O_WRONLY | os.O_NONBLOCK))
        time.sleep(0.01)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert error.count("\n") == (code > 0), error
    assert not (tmp_path / "stores" / "store").exists()
    source.unlink()
    source.write_bytes(csv_of())
    assert subprocess.run([*SCRIPT, str(config)], capture_output=True, check=False).returncode == 0
    assert [p.name for p in (tmp_path / "stores").iterdir()] == ["store"]


# -- the competition's other files ---------------------------------------------------------------------------
def test_test_and_sample_files(tmp_path: Path) -> None:
    """Keeps out: IDs read as numbers, another order than the file's, a date that moves with its zone."""
    (tmp_path / "test.csv").write_text(
        "\ufeffid,Date,More\n007,2024-11-04 00:00:00-05:00,x\nA,2024-11-04 00:00:00-05:00,y\n"
    )
    frame = competition.read_test(tmp_path / "test.csv")
    assert frame["ID"].to_list() == ["007", "A"] and frame.columns == ["ID", "Date"]
    assert (frame["Date"].to_numpy() == np.datetime64("2024-11-04")).all()
    (tmp_path / "sample.csv").write_text("ID,Pred\nB,0\nA,1\n")
    assert competition.read_sample(tmp_path / "sample.csv").rows() == [("B", "0"), ("A", "1")]


# -- real prices ---------------------------------------------------------------------------------------------
def test_real_dirty_prices_are_accounted_for(shared_data: Path, tmp_path: Path) -> None:
    """Keeps out: rows of the ugliest real file lost without a count."""
    config = configuration(
        tmp_path, shared_data / "dirty" / "train.csv", test_path=str(shared_data / "dirty" / "test.csv")
    )
    store = prepare(config)
    raw = pl.read_csv(shared_data / "dirty" / "train.csv", infer_schema_length=None)
    rows, counts = store.manifest["rows"], store.manifest["cleaning"]
    assert rows["read"] == len(raw) == rows["kept"] + rows["dropped"] and rows["kept"] == len(store)
    assert rows["dropped"] == sum(row["dropped"] for row in counts.values())
    prices = pl.col("Open", "High", "Low", "Close")
    assert counts["non_positive_price"]["found"] == raw.select(pl.any_horizontal(prices <= 0).sum()).item()
    assert rows["dropped"] < 0.001 * len(raw), "the default policy guts nothing"
    assert np.isfinite(store.bars).all() and (store.bars[:, :4] > 0).all()


def test_real_prices_from_csv_and_parquet(shared_data: Path, tmp_path: Path) -> None:
    """Keeps out: Parquet read otherwise than CSV. The 120 tickers of the CSV are among the Parquet's 505."""
    some = prepare(configuration(tmp_path, shared_data / "sp500" / "train.csv", "csv"))
    every = prepare(configuration(tmp_path, shared_data / "sp500" / "train_all505.parquet", "parquet"))
    assert every.manifest["rows"]["read"] == 523_402 and some.manifest["rows"]["read"] == 125_096
    at = every.index_of(some.tickers)
    assert (at >= 0).all()
    for k in range(0, len(some.tickers), 10):
        a, b = slice(*some.offsets[k : k + 2]), slice(*every.offsets[at[k] : at[k] + 2])
        np.testing.assert_array_equal(some.bars[a], every.bars[b])
        np.testing.assert_array_equal(some.sessions[some.session[a]], every.sessions[every.session[b]])
