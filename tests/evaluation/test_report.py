"""The data report and the survey that it draws: right figures, one safe self-contained page."""

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from kronos.config import Config, DataConfig, ExperimentConfig, MarketConfig
from kronos.data.data_checks import CHECKS
from kronos.data.data_report import write_report
from kronos.data.market_files import write_market
from kronos.data.prepare import prepare
from kronos.data.store import BarStore
from kronos.data.store_writer import store_from_dict
from kronos.data.survey import survey

HOSTILE = "<script>alert('x')</script>&\"'"


def config_of(folder: Path) -> Config:
    data = DataConfig(
        data_path=str(folder / "train.csv"),
        test_path=str(folder / "test.csv"),
        sample_submission_path=str(folder / "sample_submission.csv"),
        store=str(folder / "store"),
        lookback_window=64,
    )
    return Config(data=data, experiment=ExperimentConfig(name="a market"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A small market with a hostile name, a few zero opens and some days without volume."""
    result = config_of(tmp_path_factory.mktemp("report"))
    write_market(MarketConfig(tickers=20, days=300), result.data)
    frame = pl.read_csv(result.data.data_path)
    row = pl.int_range(pl.len())
    frame.with_columns(
        Ticker=pl.col("Ticker").replace("ticker_3", HOSTILE),
        Open=pl.when(row % 500 == 0).then(0.0).otherwise("Open"),
        Volume=pl.when((pl.col("Ticker") == "ticker_5") & (row < 600)).then(0.0).otherwise("Volume"),
    ).write_csv(result.data.data_path)
    return result


@pytest.fixture(scope="module")
def store(config: Config) -> BarStore:
    return prepare(config)


@pytest.fixture(scope="module")
def page(config: Config, store: BarStore) -> str:
    return write_report(store, config, Path(config.data.store).parent / "report.html").read_text(
        encoding="utf-8"
    )


class Elements(HTMLParser):
    """Every opened element with its attributes, the text between, and whether elements nest."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_page_is_self_contained_and_well_formed(page: str) -> None:
    """Keeps out: a page that needs a network or a folder of pictures beside it, or that a browser has to
    guess.
    """
    elements = Elements(page)
    assert not elements.open
    tags = [tag for tag, _ in elements.found]
    assert "script" not in tags and "link" not in tags and "img" not in tags
    for _, attributes in elements.found:
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), value
    assert "@import" not in page and not re.search(r"url\((?!#)", page)
    assert tags.count("svg") == 4


def test_page_says_what_was_found(page: str, store: BarStore) -> None:
    """Keeps out: a report without a check, a count, or the worst offenders."""
    text = " ".join(Elements(page).text)
    for name in CHECKS:
        assert name in text
    for heading in (
        "Rows per year",
        "Share of rises per date",
        "History lengths",
        "What cleaning did",
        "Worst offenders",
    ):
        assert heading in text
    assert f"{len(store):,}" in text and "price &lt;= 0" in page
    found = re.search(r"price &lt;= 0</td>(.*?)</tr>", page)
    assert found and ">12<" in found[1], "12 of 6,000 opens are 0"
    assert store.digest[:16] in text


def test_names_from_the_file_are_text(page: str) -> None:
    """Keeps out: a ticker's name that runs as a script when the report is opened."""
    assert "<script" not in page
    assert "&lt;script&gt;" in page, "the hostile ticker is among the shortest or the worst, as text"


def test_same_data_same_page(config: Config, store: BarStore, page: str, tmp_path: Path) -> None:
    """Keeps out: random element names and dates that make two reports of one store differ."""
    assert write_report(store, config, tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_report_of_files_that_are_gone_still_shows_the_store(
    config: Config, store: BarStore, tmp_path: Path
) -> None:
    """Keeps out: a traceback when the price files were moved after preparation."""
    moved = replace(config, data=replace(config.data, data_path=str(tmp_path / "gone.csv")))
    text = write_report(store, moved, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Look first: columns" in text and "expected a file or folder (data.data_path), found none" in text


def test_prepare_data_writes_the_report(root: Path, config: Config, store: BarStore, tmp_path: Path) -> None:
    """Keeps out: a flag that is documented and does nothing."""
    settings = tmp_path / "config.yaml"
    names = ("data_path", "test_path", "sample_submission_path", "store", "lookback_window")
    lines = [f"  {name}: {getattr(config.data, name)}" for name in names]
    settings.write_text("data:\n" + "\n".join(lines) + "\nexperiment:\n  pre_trained: false\n")
    command = [sys.executable, str(root / "kaggle" / "prepare_data.py"), "--config", str(settings)]
    done = subprocess.run(
        [*command, "--report", str(tmp_path / "r.html")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "r.html").read_text(encoding="utf-8").startswith("<!doctype html>")


# -- survey --------------------------------------------------------------------------------------------------
def test_survey_equals_the_slow_clear_version(store: BarStore) -> None:
    """Keeps out: changes counted across two tickers, a tie counted as a rise, off-by-one years."""
    found = survey(store)
    year_of = store.sessions.astype("datetime64[Y]").astype(int) + 1970
    rows, rises, changes = {}, {}, {}
    per_date = np.zeros((2, len(store.sessions)), int)
    for k in range(len(store.tickers)):
        part = slice(store.offsets[k], store.offsets[k + 1])
        close, session = store.bars[part, 3], store.session[part]
        for i, s in enumerate(session):
            year = int(year_of[s])
            rows[year] = rows.get(year, 0) + 1
            if i:
                changes[year] = changes.get(year, 0) + 1
                rises[year] = rises.get(year, 0) + int(close[i] > close[i - 1])
                per_date[:, s] += 1, int(close[i] > close[i - 1])
    assert dict(zip(found.years.tolist(), found.rows_per_year.tolist(), strict=True)) == rows
    assert dict(zip(found.years.tolist(), found.changes_per_year.tolist(), strict=True)) == changes
    assert dict(zip(found.years.tolist(), found.rises_per_year.tolist(), strict=True)) == rises
    assert np.array_equal(found.changes_per_date, per_date[0]) and np.array_equal(
        found.rises_per_date, per_date[1]
    )
    assert found.lengths.tolist() == [300] * 20
    assert found.zero_volume[store.tickers.index("ticker_5")] == pytest.approx(30 / 300, abs=0.01)


def test_survey_names_the_worst(tmp_path: Path) -> None:
    """Keeps out: a worst move between two tickers, or a gap that is counted in rows."""
    dates = np.arange("2024-01-01", "2024-02-20", dtype="datetime64[D]").astype("datetime64[s]")
    bars = np.full((50, 6), 100.0, np.float32)
    jump, cheap = bars.copy(), bars / 50
    jump[20:] *= 3
    pause = np.r_[0:10, 25:50]
    series = {"a": (dates, cheap), "b": (dates, jump), "c": (dates[pause], bars[pause])}
    found = survey(store_from_dict(tmp_path / "store", series, frequency="daily"))
    worst = found.worst_moves[0]
    assert (worst["ticker"], worst["date"], worst["change"]) == ("b", "2024-01-21", pytest.approx(2.0))
    assert found.worst_moves[1]["change"] == 0
    assert found.worst_gaps == [{"ticker": "c", "after": "2024-01-10", "trading_days": 15}]
    assert found.unchanged == 49 + 48 + 34 and found.rises == 1
