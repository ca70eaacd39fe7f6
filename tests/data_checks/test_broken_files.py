"""Files broken on purpose: each check finds its own fault, says so in one line, and stays quiet about the
others'.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from kronos.config import Config, DataConfig
from kronos.data import check_result, data_checks

Break = Callable[[pl.DataFrame], pl.DataFrame]
ONE = (pl.col("Ticker") == "ticker_7") & pl.int_range(pl.len()).is_between(3000, 6000)
DAY_100 = pl.col("Date") == pl.col("Date").unique().sort().gather(100).first()


def every(n: int, column: str, value: pl.Expr) -> Break:
    """Replace a column's value in each n-th row."""
    chosen = pl.int_range(pl.len()) % n == 0
    return lambda frame: frame.with_columns(
        pl.when(chosen).then(value).otherwise(pl.col(column)).alias(column)
    )


def where(rows: pl.Expr, **values: pl.Expr) -> Break:
    return lambda frame: frame.with_columns(
        pl.when(rows).then(value).otherwise(pl.col(name)).alias(name) for name, value in values.items()
    )


def scale_after(day: int, factor: float, split: float = 0.0) -> Break:
    """All prices of ticker_7 divided by a factor from one day on: a split."""
    first = pl.col("Date").unique().sort().gather(day).first()
    later = (pl.col("Ticker") == "ticker_7") & (pl.col("Date") >= first)
    prices = {name: pl.col(name) / factor for name in ("Open", "High", "Low", "Close")}
    entry = {"Stock Splits": pl.when(pl.col("Date") == first).then(split).otherwise(0.0)}
    return where(later, **prices, **entry)


def without_days(first: int, last: int) -> Break:
    """ticker_7 pauses."""
    dates = pl.col("Date").unique().sort()
    return lambda frame: frame.filter(
        ~(
            (pl.col("Ticker") == "ticker_7")
            & (pl.col("Date") > dates.gather(first).first())
            & (pl.col("Date") < dates.gather(last).first())
        )
    )


def stale(frame: pl.DataFrame) -> pl.DataFrame:
    """All of 2021 is filled with each ticker's first prices."""
    filled = [
        pl.when(pl.col("Date") < "2022").then(pl.col(c).first().over("Ticker")).otherwise(pl.col(c)).alias(c)
        for c in frame.columns[2:6]
    ]
    return frame.with_columns(filled)


PRICES: dict[str, tuple[str, str, Break, str]] = {
    "no Close column": ("columns", "fail", lambda f: f.drop("Close"), "expected the column close"),
    "no Volume column": ("columns", "warn", lambda f: f.drop("Volume"), "no volume column"),
    "text among numbers": (
        "types",
        "fail",
        lambda f: f.with_columns(
            pl.when(ONE).then(pl.lit("n.a.?")).otherwise(pl.col("High").cast(str)).alias("High")
        ),
        "column High: expected a number",
    ),
    "a few missing closes": (
        "types",
        "warn",
        every(1000, "Close", pl.lit(None)),
        "9 of 9,000 rows (0.10%) lack",
    ),
    "many infinite opens": (
        "types",
        "fail",
        every(10, "Open", pl.lit(float("inf"))),
        "900 of 9,000 rows (10.00%) lack",
    ),
    "missing tickers": ("types", "warn", every(3000, "Ticker", pl.lit(None)), "3 of 9,000 rows"),
    "two date forms": ("dates", "fail", every(4000, "Date", pl.lit("03/04/2021")), "day or month first"),
    "no dates": ("dates", "fail", every(1, "Date", pl.lit("soon")), "no parseable dates"),
    "year 3021": (
        "dates",
        "fail",
        lambda f: f.with_columns(pl.col("Date").str.replace("^2022", "3022")),
        "3022-",
    ),
    "a Saturday": ("dates", "warn", where(DAY_100, Date=pl.lit("2021-05-29")), "on a weekend"),
    "reversed rows": ("dates", "warn", lambda f: f.reverse(), "8,970 rows out of order"),
    "identical copies": (
        "duplicates",
        "warn",
        lambda f: pl.concat([f, f.tail(3)]),
        "3 rows repeat a ticker and a date",
    ),
    "contradicting copies": (
        "duplicates",
        "fail",
        lambda f: pl.concat([f, f.tail(3).with_columns(pl.col("Close") * 1.01)]),
        "3 with other numbers",
    ),
    "High below Low once": (
        "OHLC order",
        "warn",
        where(ONE & DAY_100, High=pl.col("Low") * 0.9),
        "1 of 9,000 rows",
    ),
    "Close above High often": (
        "OHLC order",
        "fail",
        every(10, "Close", pl.col("High") * 1.1),
        "900 of 9,000 rows",
    ),
    "Open 0 at times": ("zero prices", "warn", every(100, "Open", pl.lit(0.0)), "90 of 9,000 rows (1.00%)"),
    "Open 0 often": ("zero prices", "fail", every(5, "Open", pl.lit(0.0)), "1,800 of 9,000 rows (20.00%)"),
    "negative close": ("zero prices", "warn", every(5000, "Close", pl.lit(-1.0)), "2 the Close"),
    "one long pause": (
        "gaps",
        "warn",
        without_days(100, 120),
        "1 gaps of more than 10 trading days in 1 of 30 tickers",
    ),
    "every ticker pauses": (
        "gaps",
        "fail",
        lambda f: f.filter((pl.col("Ticker") == "ticker_1") | ~pl.col("Date").str.contains("2021-06")),
        "in 29 of 30 tickers",
    ),
    "a tenfold close": (
        "jumps",
        "warn",
        where(ONE & DAY_100, Close=pl.col("Close") * 11.3),
        "2 of 8,970 moves",
    ),
    "wild closes": (
        "jumps",
        "fail",
        every(7, "Close", pl.col("Close") * 3.5),
        "moves (24.80%) are larger than 30%",
    ),
    "an unrecorded split": ("splits", "warn", scale_after(104, 20), "1 jumps near a simple ratio"),
    "a recorded split, unadjusted": (
        "splits",
        "fail",
        scale_after(104, 20, split=20),
        "at 1 of 1 recorded splits",
    ),
    "stale prices for a year": ("class balance by year", "fail", stale, "0.0% in 2021"),
}


def write(frame: pl.DataFrame, data: DataConfig, folder: Path) -> DataConfig:
    path = folder / "train.csv"
    frame.write_csv(path)
    return replace(data, data_path=str(path))


def result(name: str, data: DataConfig) -> check_result.CheckResult:
    return data_checks.check(name, data_checks.gather(Config(data=data)))


@pytest.mark.parametrize("fault", PRICES)
def test_broken_prices_are_found(fault: str, generated: DataConfig, tmp_path: Path) -> None:
    """Keeps out: a check that cannot fail, or that reports another fault than the one there is."""
    name, status, breaking, words = PRICES[fault]
    data = write(breaking(pl.read_csv(generated.data_path)), generated, tmp_path)
    found = result(name, data)
    assert found.status == status, found.line
    assert words in found.line
    assert "\n" not in found.line


def test_few_histories_are_warned_about_and_none_fail(generated: DataConfig) -> None:
    """Keeps out: a lookback longer than the data, noticed only when the test rows fall back to the base
    rate.
    """
    config = Config(data=replace(generated, lookback_window=400, max_context=512))
    assert data_checks.check("enough history", data_checks.gather(config)).status == "fail"
    frame = pl.read_csv(generated.data_path)
    assert frame.height == 9000


def test_some_short_histories(generated: DataConfig, tmp_path: Path) -> None:
    """Keeps out: tickers that are too short for a forecast and nobody is told."""
    frame = pl.read_csv(generated.data_path)
    late = pl.col("Date") >= pl.col("Date").unique().sort().gather(200).first()
    for short, status in ((2, "warn"), (20, "fail")):
        names = [f"ticker_{k}" for k in range(1, short + 1)]
        data = write(frame.filter(late | ~pl.col("Ticker").is_in(names)), generated, tmp_path)
        found = result("enough history", data)
        assert found.status == status, found.line
        assert f"{short} of 30 test tickers" in found.line


@pytest.mark.parametrize(
    ("ids", "status", "words"),
    [
        (lambda ids: ids, "ok", "all 30 test IDs"),
        (
            lambda ids: [*ids[:-2], "ticker_x", "ticker_y"],
            "warn",
            "2 of 30 test IDs (6.67%) have no prices, e.g. ticker_x",
        ),
        (lambda ids: [f"x{i}" for i in ids], "fail", "30 of 30 test IDs"),
        (lambda ids: [*ids, ids[0]], "fail", "expected each ID once"),
    ],
)
def test_unknown_test_ids(
    ids: Callable, status: str, words: str, generated: DataConfig, tmp_path: Path
) -> None:
    """Keeps out: IDs without history that silently became falls."""
    test = pl.read_csv(generated.test_path)
    names = ids(test["ID"].to_list())
    path = tmp_path / "test.csv"
    pl.DataFrame({"ID": names, "Date": [test["Date"][0]] * len(names)}).write_csv(path)
    found = result("test IDs known", replace(generated, test_path=str(path)))
    assert (found.status, words in found.line) == (status, True), found.line


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (lambda sample: sample.reverse(), "warn", "in another order"),
        (lambda sample: sample.head(28), "fail", "2 IDs only in the test file, 0 only in the sample"),
        (lambda sample: sample.rename({"Pred": "Prediction"}), "fail", "expected one column Pred"),
    ],
)
def test_sample_of_another_test_file(
    change: Break, status: str, words: str, generated: DataConfig, tmp_path: Path
) -> None:
    """Keeps out: a submission that Kaggle refuses because it answers other rows."""
    path = tmp_path / "sample.csv"
    change(pl.read_csv(generated.sample_submission_path)).write_csv(path)
    found = result("sample matches test", replace(generated, sample_submission_path=str(path)))
    assert (found.status, words in found.line) == (status, True), found.line


def test_prices_of_the_test_date_are_a_leak(generated: DataConfig, tmp_path: Path) -> None:
    """Keeps out: a price file that holds the answer."""
    frame = pl.read_csv(generated.data_path)
    day = pl.read_csv(generated.test_path)["Date"][0]
    leaked = frame.filter(pl.col("Date") == pl.col("Date").max()).with_columns(Date=pl.lit(day))
    found = result("one as-of day", write(pl.concat([frame, leaked]), generated, tmp_path))
    assert found.status == "fail" and "30 bars are dated on or after" in found.line


def test_tickers_that_end_early(generated: DataConfig, tmp_path: Path) -> None:
    """Keeps out: rows whose horizon is years because their ticker was delisted."""
    frame = pl.read_csv(generated.data_path)
    early = pl.col("Date") < pl.col("Date").unique().sort().gather(150).first()
    for count, status in ((2, "warn"), (20, "fail")):
        names = [f"ticker_{k}" for k in range(1, count + 1)]
        found = result(
            "one as-of day", write(frame.filter(early | ~pl.col("Ticker").is_in(names)), generated, tmp_path)
        )
        assert found.status == status and f"{count} of 30 test tickers" in found.line, found.line


def test_several_test_dates(generated: DataConfig, tmp_path: Path) -> None:
    """Keeps out: one horizon for rows that ask about different days."""
    test = pl.read_csv(generated.test_path).with_row_index()
    path = tmp_path / "test.csv"
    test.with_columns(Date=pl.when(pl.col("index") < 5).then(pl.lit("2023-01-03")).otherwise("Date")).drop(
        "index"
    ).write_csv(path)
    found = result("one as-of day", replace(generated, test_path=str(path)))
    assert found.status == "warn" and "2 test dates" in found.line, found.line


def test_files_that_are_not_given_are_skipped(generated: DataConfig) -> None:
    """Keeps out: a check that counts as passed though it never ran."""
    found = {
        r.name: r.status
        for r in data_checks.run_checks(Config(data=DataConfig(data_path=generated.data_path)))
    }
    assert {name for name, status in found.items() if status == "skip"} == {
        "test IDs known",
        "sample matches test",
        "one as-of day",
    }


def test_one_unreadable_file_is_one_failure(tmp_path: Path) -> None:
    """Keeps out: one error repeated under fourteen names, or a traceback."""
    data = DataConfig(data_path=str(tmp_path / "nowhere.csv"))
    found = data_checks.run_checks(Config(data=data))
    assert [r.name for r in found if r.status == "fail"] == ["columns"]
    assert all(r.status == "skip" for r in found if r.name != "columns")


def test_real_prices(shared_data: Path) -> None:
    """Keeps out: thresholds that call a real, tidy panel broken, or a dirty one tidy."""

    def statuses(folder: str, sample: str) -> dict[str, str]:
        base = shared_data / folder
        data = DataConfig(
            data_path=str(base / "train.csv"), test_path=str(base / "test.csv"), sample_submission_path=sample
        )
        return {r.name: r.status for r in data_checks.run_checks(Config(data=data))}

    tidy = statuses("sp500", str(shared_data / "sp500" / "sample_submission.csv"))
    assert set(tidy.values()) <= {"ok", "warn"}
    dirty = statuses("dirty", "")
    assert {"zero prices", "enough history", "one as-of day"} <= {
        name for name, status in dirty.items() if status == "fail"
    }


def run_pytest(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, without the plugins that it does not need: they load for seconds."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "pytest_timeout"]
    alone = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        [*command, "tests/data_checks", *arguments],
        cwd=root, env=alone, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_documented_command_on_clean_files(generated: DataConfig) -> None:
    """Keeps out: a documented command line that pytest does not accept, or that runs the kit's own tests on a
    user's files.
    """
    done = run_pytest(
        "--data",
        generated.data_path,
        "--test",
        generated.test_path,
        "--sample",
        generated.sample_submission_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "14 passed" in done.stdout
    assert all(
        any(line.startswith(f"ok   {name}:") for line in done.stdout.splitlines())
        for name in data_checks.CHECKS
    )


def test_the_documented_command_on_broken_files(generated: DataConfig, tmp_path: Path) -> None:
    """Keeps out: a failure that shows a traceback in place of the one line that says what to do."""
    data = write(every(5, "Open", pl.lit(0.0))(pl.read_csv(generated.data_path)), generated, tmp_path)
    done = run_pytest("--data", str(data.data_path))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "fail zero prices: 1,800 of 9,000 rows (20.00%)" in done.stdout
    assert "1 failed" in done.stdout and "Traceback" not in done.stdout and "assert" not in done.stdout


def test_a_configuration_says_lookback_calendar_and_paths(generated: DataConfig, tmp_path: Path) -> None:
    """Keeps out: sound files that fail "no ticker has 257 bars" for a user whose lookback is 20."""
    days = pl.col("Date").unique().sort().gather(40).first()
    pl.read_csv(generated.data_path).filter(pl.col("Date") < days).write_csv(tmp_path / "train.csv")
    (tmp_path / "c.yaml").write_text(
        f"data: {{data_path: {tmp_path}/train.csv, lookback_window: 20}}\nexperiment: {{pre_trained: false}}\n"
    )
    done = run_pytest("-q", "-k", "history", "--config", str(tmp_path / "c.yaml"))
    assert done.returncode == 0 and "enough history" in done.stdout, done.stdout
    without = run_pytest("-q", "-k", "history", "--data", str(tmp_path / "train.csv"))
    assert without.returncode == 1 and "no ticker has 257 bars" in without.stdout, without.stdout
