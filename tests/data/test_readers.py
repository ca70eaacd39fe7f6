"""What a user's path and a file's odd corners mean: the file that was named, whole rows, and nothing that is
not in it.
"""

import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from kronos.config import Config, DataConfig
from kronos.configfile import derived_paths
from kronos.data import blocks, data_checks, ingest, text_pieces
from kronos.data.prepare import open_store, prepare
from kronos.errors import KitError

DATES = np.arange("2020-01-01", "2020-06-01", dtype="datetime64[D]")
DATES = DATES[np.is_busday(DATES)].astype(str)


def bars(ticker: str = "A", n: int = 60, seed: int = 0, **more: object) -> pl.DataFrame:
    """n days of one ticker in the competition's layout."""
    close = 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.01, n)))
    prices = {"Open": close, "High": close * 1.01, "Low": close * 0.99, "Close": close, "Volume": 1000.0}
    return pl.DataFrame({"Ticker": [ticker] * n, "Date": DATES[:n], **prices}).with_columns(**more)  # type: ignore[arg-type]


def config(folder: Path, data: Path | str) -> Config:
    return Config(data=DataConfig(data_path=str(data), store=str(folder / "store"), lookback_window=20))


# -- names ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name", ["prices[1].parquet", "prices?.parquet", "p*.parquet", "{a,b}.parquet", "50% off #1.parquet"]
)
def test_a_name_is_no_pattern(name: str, tmp_path: Path) -> None:
    """Keeps out: `prices[1].parquet` named and `prices1.parquet` read, or every file that fits the pattern,
    without a word.
    """
    bars("RIGHT", seed=1).write_parquet(tmp_path / "right.parquet")
    (tmp_path / "right.parquet").rename(tmp_path / name)
    for other in ("prices1.parquet", "prices2.parquet", "pa.parquet", "a.parquet", "b.parquet"):
        bars("WRONG", seed=2).write_parquet(tmp_path / other)
    store = prepare(config(tmp_path, tmp_path / name))
    assert store.tickers == ["RIGHT"] and len(store) == 60


@pytest.mark.parametrize("folder", ["Ticker=ZZZ", "year=1", "d [2]", "*"])
def test_a_folders_name_is_no_column(folder: str, tmp_path: Path) -> None:
    """Keeps out: a column made of the folder's name, over the file's own tickers or in their place."""
    (tmp_path / folder).mkdir()
    bars("A").write_parquet(tmp_path / "p.parquet")
    (tmp_path / "p.parquet").rename(tmp_path / folder / "p.parquet")
    source = blocks.open_source(tmp_path / folder / "p.parquet")
    assert source.names == ("Ticker", "Date", "Open", "High", "Low", "Close", "Volume")
    assert prepare(config(tmp_path, tmp_path / folder)).tickers == ["A"]


def test_a_stores_name_is_no_pattern(tmp_path: Path) -> None:
    """Keeps out: what another store's writer is writing deleted, and one's own leftovers kept, for brackets
    in a name.
    """
    bars().write_csv(tmp_path / "train.csv")
    others, own = tmp_path / ".s1.new-abc", tmp_path / ".s[1].new-abc"
    others.mkdir()
    own.mkdir()
    prepare(
        Config(
            data=DataConfig(
                data_path=str(tmp_path / "train.csv"), store=str(tmp_path / "s[1]"), lookback_window=20
            )
        )
    )
    assert others.is_dir() and not own.exists()


def test_the_home_folder_means_the_same_to_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps out: a stale store taken as it is because ~/train.csv, which has changed, was looked for in a
    folder named ~.
    """
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    bars().write_csv(tmp_path / "train.csv")
    given = derived_paths(config(tmp_path, "~/train.csv"))
    assert len(open_store(given)) == 60, "found where there is no store yet"
    bars(n=90, seed=5).write_csv(tmp_path / "train.csv")
    assert len(open_store(given)) == 90, "and looked at when it changed"


# -- quotes --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
@pytest.mark.parametrize("size", [700, 1000, 5003])
def test_quoted_line_breaks_across_pieces(
    size: int, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keeps out: a sound file refused because a piece ended inside a quoted field, when small ones of its
    kind are read.
    """
    monkeypatch.setattr(text_pieces, "PIECE_BYTES", size)
    frame = pl.concat([bars(t, seed=ord(t), Name=pl.lit('Foo\nBar "and"\r\n\nSons, Inc')) for t in "ABCD"])
    text = frame.write_csv().encode()
    path = tmp_path / f"train{suffix}"
    path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    store = prepare(config(tmp_path, path))
    assert store.manifest["rows"] == {"read": 240, "kept": 240, "dropped": 0}
    np.testing.assert_array_equal(store.bars[:, 3], frame["Close"].cast(pl.Float32).to_numpy())
    assert store.manifest["sources"][0]["crc32"] == text_pieces.crc32_of(path), "every byte is in the sum"


def test_a_stray_quote_joins_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps out: a quote that is never closed, for which the rest of a large file is read into one piece."""
    monkeypatch.setattr(text_pieces, "PIECE_BYTES", 1000)
    monkeypatch.setattr(text_pieces, "LONGEST_LINE", 2000)
    text = bars(n=100).write_csv()
    (tmp_path / "train.csv").write_text(text.replace("A,2020-01-02", '"A,2020-01-02', 1))
    pieces = [piece.text for piece in blocks.CsvSource.open(tmp_path / "train.csv")._pieces()]
    assert b"".join(pieces).decode() == (tmp_path / "train.csv").read_text().partition("\n")[2]
    assert len(pieces) > 2 and max(map(len, pieces)) < 3300 and all(piece.endswith(b"\n") for piece in pieces)
    with pytest.raises(KitError, match=r"not readable as CSV|expected 7 fields"):
        ingest.read([tmp_path / "train.csv"])


def test_lines_are_counted_across_quoted_line_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps out: a line number that is off by every line break inside the quotes of the pieces before."""
    monkeypatch.setattr(text_pieces, "PIECE_BYTES", 1000)
    text = (
        bars(Name=pl.lit("x")).write_csv().replace(",x\n", ',"Foo\nBar"\n', 20)
        + "A,2020-05-29,1,1,1,oops,1,x\n"
    )
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(KitError, match=rf"line {text.count(chr(10))}, column Close: .*'oops'"):
        ingest.read([tmp_path / "train.csv"])


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("a" * 200_000, "a very long one"),
        ('Ticker,Date,"Op\nen",High,Low,Close', "all column names on one line"),
    ],
)
def test_headers_that_cannot_be_read(header: str, words: str, tmp_path: Path) -> None:
    """Keeps out: the csv module's traceback, and rows read as if the header's second line were one of
    them.
    """
    (tmp_path / "train.csv").write_text(f"{header}\n{bars().write_csv()}")
    with pytest.raises(KitError, match=rf"train\.csv: line 1: expected .*{words}") as error:
        blocks.open_source(tmp_path / "train.csv")
    assert len(str(error.value)) < 300


def test_a_quote_in_the_middle_of_a_column_name(tmp_path: Path) -> None:
    """Keeps out: an inch sign taken for an open quote."""
    (tmp_path / "train.csv").write_text('Ticker,Size 12",Date\nA,1,2020-01-01\n')
    assert blocks.open_source(tmp_path / "train.csv").names == ("Ticker", 'Size 12"', "Date")


# -- nothing -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("word", ["nan", "NaN", "", "0.0"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_no_number_is_no_split(word: str, suffix: str, tmp_path: Path) -> None:
    """Keeps out: `nan` taken for a recorded split, which lets training windows cross one that nobody
    adjusted.
    """
    frame = bars(n=90).with_columns(
        pl.when(pl.int_range(pl.len()) < 45).then(pl.col("^[OHLC].*$")).otherwise(pl.col("^[OHLC].*$") / 2)
    )
    path = tmp_path / f"train{suffix}"
    if suffix == ".csv":
        frame.with_columns(pl.lit(word).alias("Stock Splits")).write_csv(path, quote_style="never")
    else:
        frame.with_columns(pl.lit(float(word or "nan")).alias("Stock Splits")).write_parquet(path)
    store = prepare(config(tmp_path, path))
    assert store.manifest["cleaning"]["unadjusted_split"]["found"] == 1
    assert store.segments.tolist() == [[0, 45], [45, 90]]


def test_a_missing_number_is_no_ticker(tmp_path: Path) -> None:
    """Keeps out: a ticker called NaN, of rows whose numeric ticker is missing (pandas writes such columns as
    floats).
    """
    frame = pl.concat([bars("1"), bars("2", seed=1)]).with_columns(pl.col("Ticker").cast(pl.Float64))
    frame = pl.concat([frame, frame[:3].with_columns(Ticker=pl.lit(float("nan")))])
    frame.write_parquet(tmp_path / "train.parquet")
    store = prepare(config(tmp_path, tmp_path / "train.parquet"))
    assert store.tickers == ["1.0", "2.0"] and store.manifest["cleaning"]["missing_key"]["dropped"] == 3


@pytest.mark.parametrize("kind", ["parquet", "parquet of text", "csv", "csv with quotes"])
def test_a_row_without_a_date_adds_no_date(kind: str, tmp_path: Path) -> None:
    """Keeps out: "1970-01-01 to ...", one date too many, in the checks of a file with a missing date."""
    frame = pl.concat([bars(), bars(n=1).with_columns(Date=pl.lit(None, pl.String))])
    frame = pl.concat(
        [frame, bars("", n=1).with_columns(Date=pl.lit("1999-01-01"))]
    )  # nor does one without a ticker
    path = tmp_path / f"train.{kind.split()[0]}"
    if kind == "parquet":
        frame.with_columns(pl.col("Date").str.to_date()).write_parquet(path)
    elif kind == "parquet of text":
        frame.with_columns(pl.col("Date").fill_null(" ")).write_parquet(path)
    else:
        frame.write_csv(path, quote_style="always" if "quotes" in kind else "necessary")
    evidence = data_checks.gather(config(tmp_path, path))
    found = data_checks.check("dates", evidence).line
    assert found.startswith(f"dates: {DATES[0]} to {DATES[59]}, 60 dates"), found
    assert data_checks.check("types", evidence).found.startswith("2 of 62 rows")


def test_no_row_has_both_ticker_and_date(tmp_path: Path) -> None:
    """Keeps out: a traceback of the checks, or a complaint about closes, when it is the tickers that are
    missing.
    """
    bars("").write_csv(tmp_path / "train.csv")
    found = {r.name: r for r in data_checks.run_checks(config(tmp_path, tmp_path / "train.csv"))}
    assert found["types"].status == "fail" and "rows with a ticker and a date" in found["types"].found
    with pytest.raises(
        KitError, match=r"train\.csv: expected rows with a ticker and a date, found none in 60 rows"
    ):
        prepare(config(tmp_path, tmp_path / "train.csv"))
