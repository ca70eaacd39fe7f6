"""One panel written in thirty layouts: read back bit for bit, or refused in one line, and never otherwise."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronos.config import DataConfig
from kronos.data import ingest, price_files
from kronos.data.calendar import open_days
from kronos.errors import KitError

Layout = Callable[[pl.DataFrame, Path], None]
NAMES = ["Ticker", "Date", "Open", "High", "Low", "Close", "Volume"]


def plain(frame: pl.DataFrame, folder: Path, **options: object) -> None:
    frame.write_csv(folder / "a.csv", **options)  # type: ignore[call-overload]


def renamed(*names: str) -> Layout:
    return lambda frame, folder: plain(frame.rename(dict(zip(NAMES, names, strict=True))), folder)


def dated(form: str) -> Layout:
    text = pl.col("Date").str.to_date().dt.strftime(form)
    return lambda frame, folder: plain(frame.with_columns(text.alias("Date")), folder)


def encoded(encoding: str, *names: str) -> Layout:
    def write(frame: pl.DataFrame, folder: Path) -> None:
        table = frame.rename(dict(zip(NAMES, names or NAMES, strict=True)))
        (folder / "a.csv").write_bytes(table.write_csv().encode(encoding))

    return write


def numbers(change: Callable[[str], str], separator: str = ",") -> Layout:
    def write(frame: pl.DataFrame, folder: Path) -> None:
        text = {name: [change(f"{value:.4f}") for value in frame[name]] for name in NAMES[2:]}
        plain(
            frame.with_columns(pl.Series(name, values) for name, values in text.items()),
            folder,
            separator=separator,
        )

    return write


def in_utc(frame: pl.DataFrame, folder: Path) -> None:
    local = pl.col("Date").str.to_datetime("%Y-%m-%d", time_zone="America/New_York").dt.offset_by("9h30m")
    plain(
        frame.with_columns(local.dt.convert_time_zone("UTC").dt.strftime("%Y-%m-%dT%H:%M:%SZ").alias("Date")),
        folder,
    )


def epoch(factor: int) -> Layout:
    local = (
        pl.col("Date")
        .str.to_datetime("%Y-%m-%d", time_unit="us", time_zone="America/New_York")
        .dt.offset_by("16h")
    )
    return lambda frame, folder: plain(frame.with_columns(Date=local.dt.epoch("s") * factor), folder)


def two_columns(frame: pl.DataFrame, folder: Path) -> None:
    plain(frame.with_columns(Time=pl.lit("16:00:00")), folder)


def a_file_each(frame: pl.DataFrame, folder: Path) -> None:
    for (name,), part in frame.group_by("Ticker"):
        part.drop("Ticker").write_csv(folder / f"{name}.csv")


def halves(frame: pl.DataFrame, folder: Path) -> None:
    frame.head(len(frame) // 2).write_csv(folder / "a.csv")
    frame.tail(len(frame) - len(frame) // 2).write_csv(folder / "b.csv")


def with_title(frame: pl.DataFrame, folder: Path) -> None:
    (folder / "a.csv").write_text("Prices of a service\n" + frame.write_csv())


def with_footer(frame: pl.DataFrame, folder: Path) -> None:
    (folder / "a.csv").write_text(frame.write_csv() + "Downloaded from a service\n")


def side_by_side(frame: pl.DataFrame, folder: Path) -> None:
    parts = [
        part.drop("Ticker").rename({n: f"{k}|{n}" for n in NAMES[2:]})
        for (k,), part in frame.group_by("Ticker")
    ]
    wide = parts[0]
    for part in parts[1:]:
        wide = wide.join(part, on="Date", how="full", coalesce=True)
    columns = wide.columns[1:]
    head = [
        "Ticker," + ",".join(c.split("|")[0] for c in columns),
        "Price," + ",".join(c.split("|")[1] for c in columns),
    ]
    (folder / "a.csv").write_text(
        "\n".join([*head, "Date" + "," * len(columns), wide.write_csv(include_header=False)])
    )


def parquet(frame: pl.DataFrame, folder: Path) -> None:
    frame.with_columns(pl.col("Date").str.to_date()).write_parquet(folder / "a.parquet")


LAYOUTS: dict[str, Layout] = {
    "plain": plain,
    "lower case": renamed(*map(str.lower, NAMES)),
    "guide": renamed("symbol", "timestamps", "open", "high", "low", "close", "vol"),
    "tushare": renamed("ts_code", "trade_date", "open", "high", "low", "close", "vol"),
    "qlib": renamed("instrument", "datetime", "open", "high", "low", "close", "volume"),
    "Chinese": renamed("股票代码", "日期", "开盘", "最高", "最低", "收盘", "成交量"),
    "Stooq": renamed("<TICKER>", "<DATE>", "<OPEN>", "<HIGH>", "<LOW>", "<CLOSE>", "<VOL>"),
    "Name": renamed("Name", "date", "open", "high", "low", "close", "volume"),
    "JPX": renamed("SecuritiesCode", "Date", "Open", "High", "Low", "Close", "Volume"),
    "investing": renamed("Asset", "Date", "Open", "High", "Low", "Price", "Vol."),
    "other order": lambda frame, folder: plain(frame.select(NAMES[::-1]), folder),
    "newest first": lambda frame, folder: plain(frame.reverse(), folder),
    "semicolons": lambda frame, folder: plain(frame, folder, separator=";"),
    "tabs": lambda frame, folder: plain(frame, folder, separator="\t"),
    "decimal commas": numbers(lambda text: text.replace(".", ",")),
    "decimal commas, semicolons": numbers(lambda text: text.replace(".", ","), ";"),
    "thousands": numbers(lambda text: f"{float(text):,.4f}"),
    "slashes": dated("%Y/%m/%d"),
    "compact": dated("%Y%m%d"),
    "month first": dated("%m/%d/%Y"),
    "German": dated("%d.%m.%Y"),
    "words": dated("%d-%b-%Y"),
    "UTF-16": encoded("utf-16"),
    "GBK": encoded("gbk", "股票代码", "日期", "开盘", "最高", "最低", "收盘", "成交量"),
    "UTC": in_utc,
    "seconds": epoch(1),
    "milliseconds": epoch(1000),
    "nanoseconds": epoch(10**9),
    "two time columns": two_columns,
    "a file each": a_file_each,
    "two files": halves,
    "title": with_title,
    "footer": with_footer,
    "side by side": side_by_side,
    "Parquet": parquet,
    "unknown names": renamed("Papier", "Tag", "Erster", "Oberster", "Unterster", "Letzter", "Menge"),
}
MAPPED = {
    "unknown names": {
        "ticker": "Papier", "date": "Tag", "open": "Erster", "high": "Oberster", "low": "Unterster", "close": "Letzter",
        "volume": "Menge",
    }
}  # fmt: skip


def panel(seed: int, tickers: int, days: int) -> pl.DataFrame:
    """Daily bars on New York's days, four decimals, tickers that begin on different days."""
    rng = np.random.default_rng(seed)
    dates = open_days("NYSE", "2021-03-01", "2021-12-31")[:days].astype(str)
    parts = []
    for k in range(tickers):
        first = int(rng.integers(0, days // 3))
        prices = (
            np.round(np.sort(rng.lognormal(rng.uniform(0, 8), 0.05, (days - first, 4)), axis=1), 4) + 0.0001
        )
        columns = {"Open": prices[:, 1], "High": prices[:, 3], "Low": prices[:, 0], "Close": prices[:, 2]}
        volume = rng.integers(1, 10**7, days - first) + 0.25
        parts.append(pl.DataFrame({"Ticker": f"T{k}", "Date": dates[first:], **columns, "Volume": volume}))
    return pl.concat(parts).sort("Date", "Ticker")


def is_read_back(frame: pl.DataFrame, folder: Path, columns: dict[str, str]) -> bool:
    """Whether what comes out is the panel in every bit; False where it is refused. Anything else fails."""
    try:
        found = ingest.read(price_files.find_sources(str(folder)), DataConfig(columns=columns))  # type: ignore[arg-type]
    except KitError as error:
        assert "\n" not in str(error)
        return False
    expected = frame.sort("Ticker", "Date")
    names = np.repeat(found.tickers, np.diff(found.offsets)).tolist()
    assert names == expected["Ticker"].to_list()
    assert (
        found.sessions[found.session].astype("datetime64[D]").astype(str).tolist()
        == expected["Date"].to_list()
    )
    np.testing.assert_array_equal(
        found.values[:, :5], expected.select(pl.col(NAMES[2:]).cast(pl.Float32)).to_numpy()
    )
    return True


def one_case(folder: Path, name: str, seed: int, tickers: int, days: int) -> None:
    frame = panel(seed, tickers, days)
    LAYOUTS[name](frame, folder)
    is_read_back(frame, folder, {})


CASES = {
    "name": st.sampled_from(sorted(LAYOUTS)),
    "seed": st.integers(0, 10**6),
    "tickers": st.integers(1, 4),
}


@settings(max_examples=100, deadline=None)
@given(**CASES, days=st.integers(3, 60))
def test_read_back_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, seed: int, tickers: int, days: int
) -> None:
    one_case(tmp_path_factory.mktemp("layout"), name, seed, tickers, days)


@pytest.mark.long
@settings(max_examples=2000, deadline=None)
@given(**CASES, days=st.integers(3, 200))
def test_read_back_or_refused_two_thousand_times(
    tmp_path_factory: pytest.TempPathFactory, name: str, seed: int, tickers: int, days: int
) -> None:
    one_case(tmp_path_factory.mktemp("layout"), name, seed, tickers, days)


def test_nearly_all_layouts_are_read_unaided_and_all_with_a_mapping(tmp_path: Path) -> None:
    """Keeps out: a reader that passes the other tests by refusing."""
    frame, refused = panel(1, 3, 60), []
    for number, (name, write) in enumerate(LAYOUTS.items()):
        (folder := tmp_path / str(number)).mkdir()
        write(frame, folder)
        if not is_read_back(frame, folder, {}):
            refused.append(name)
            assert is_read_back(frame, folder, MAPPED.get(name, {})), name
    assert refused == ["unknown names"] and len(LAYOUTS) >= 30
